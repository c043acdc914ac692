"""What a network says of images themselves: numbers of many at once equal those of one after the other."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from obeql.executor.devices.lanes import run_in_a_lane
from obeql.executor.execution.map_assembly import clean_numbers
from obeql.executor.execution.output_checks import fault_of, suspects
from obeql.executor.network.capture.capture import capture
from obeql.executor.operators.logits import as_stored, logit_and_others, top_class
from obeql.planner.catalog import Activation

ROWS = [
    [0.2, 0.3, 0.5],  # probabilities
    [0.2, 0.3, 0.6],
    [-0.2, 0.7, 0.5],
    [3.0, -40.0, 1.0],
    [math.nan, 0.5, 0.5],
    [math.inf, 0.0, 1.0],
    [1.0, 0.0, 0.0],
]


def _logits() -> Tensor:
    return torch.tensor(ROWS, dtype=torch.float32)


def test_a_row_is_looked_at_where_it_has_a_fault_and_nowhere_else() -> None:
    graph = capture(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).eval(), (3, 2, 2))
    assert graph.by_looks
    image, logits = torch.rand(len(ROWS), 3, 2, 2), _logits()
    alone = [fault_of(graph, image[row : row + 1], logits[row : row + 1]) is not None for row in range(len(ROWS))]
    assert suspects(graph, logits) == alone == [True, False, False, False, True, True, True]


@pytest.mark.parametrize("activation", get_args(Activation))
def test_numbers_of_images_at_once_are_those_of_each(activation: Activation) -> None:
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)) * 30
    classes = [[0, 3], [6], [], [2, 1], list(range(7))]
    found = clean_numbers(logits, classes, activation)
    for row, (ids, numbers) in enumerate(zip(classes, found, strict=True)):
        one = logits[row : row + 1]
        z, others = as_stored(*logit_and_others(one, ids, activation)) if ids else (one[:, :0], one[:, :0])
        expected = {
            class_id: (float(z[0, k]), float(others[0, k]), int(top_class(one)[0])) for k, class_id in enumerate(ids)
        }
        assert numbers == expected


def test_work_in_a_lane_has_its_cores_and_passes_on_what_it_raises() -> None:
    assert run_in_a_lane(torch.get_num_threads, torch.get_num_threads()) == 1
    assert run_in_a_lane(torch.is_inference_mode_enabled, 2)
    with pytest.raises(ZeroDivisionError):
        run_in_a_lane(lambda: 1 // 0, 2)
