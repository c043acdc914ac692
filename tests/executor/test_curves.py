"""Deletion and insertion curves against a plain loop over pixels, and on a network whose curves are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from obeql.errors import ImageError
from obeql.executor.images import decode_object, preprocess
from obeql.executor.metrics.deletion_insertion import curves, pixel_order
from obeql.executor.network.capture.capture import capture
from obeql.planner.catalog import Preprocessing

pytestmark = pytest.mark.usefixtures("one_thread")

HOW = Preprocessing((6, 5))
CPU = torch.device("cpu")


class Share(nn.Module):
    """The logit of class 1 is the sum of all pixels, that of class 0 is zero."""

    def forward(self, x: Tensor) -> Tensor:
        total = x.mean(1, keepdim=True).flatten(1).sum(1, keepdim=True)
        return torch.cat([torch.zeros_like(total), total], 1)


def prepared(values: Any) -> Any:
    return preprocess(decode_object(np.asarray(values, np.float32), "picture"), HOW)


def test_the_order_of_pixels() -> None:
    importance = np.array([[1, np.nan, 3], [3, -2, 0]], np.float32)
    assert pixel_order(importance).tolist() == [2, 3, 0, 5, 4, 1]


@pytest.mark.parametrize("fill", ["black", "mean", "blur"])
@pytest.mark.parametrize(("steps", "batch"), [(1, 32), (7, 3), (30, 4)])
def test_curves_equal_a_plain_loop(fill: str, steps: int, batch: int) -> None:
    from obeql.executor.images import fill_values

    rng = np.random.default_rng(steps)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(120, 3)).eval()
    model_input = prepared(rng.random((6, 5, 3)))
    order = pixel_order(rng.normal(size=(6, 5)).astype(np.float32))
    found = curves(capture(net, (3, 6, 5)), model_input, HOW, fill, order, 2, "softmax", steps, batch, CPU)
    hidden = np.broadcast_to(
        fill_values(fill, model_input, HOW).reshape(3, *((1, 1) if fill != "blur" else (6, 5))), (3, 6, 5)
    )
    for place, count in enumerate(np.rint(np.linspace(0, 30, steps + 1)).astype(int)):
        deleted, inserted = model_input.values.copy(), hidden.copy()
        for pixel in order[:count]:
            row, col = divmod(int(pixel), 5)
            deleted[:, row, col] = hidden[:, row, col]
            inserted[:, row, col] = model_input.values[:, row, col]
        for picture, curve in ((deleted, found.deletion), (inserted, found.insertion)):
            with torch.inference_mode():
                expected = net(torch.from_numpy(picture)[None]).double().softmax(1)[0, 2]
            assert curve[place] == pytest.approx(float(expected), abs=1e-5)
    assert found.shares[0] == 0 and found.shares[-1] == 1
    assert found.deletion[0] == pytest.approx(found.insertion[-1], abs=1e-6)
    assert found.deletion[-1] == pytest.approx(found.insertion[0], abs=1e-6)


def test_a_better_order_has_the_smaller_deletion_and_the_larger_insertion_area() -> None:
    values = np.random.default_rng(0).random((6, 5))
    model_input = prepared(values)
    graph = capture(Share().eval(), (3, 6, 5))
    best = pixel_order(values.astype(np.float32))
    good, bad = (
        curves(graph, model_input, HOW, "black", order, 1, "softmax", 30, 32, CPU)
        for order in (best, best[::-1].copy())
    )
    assert good.deletion_auc < bad.deletion_auc
    assert good.insertion_auc > bad.insertion_auc
    # The logits are linear in the pixels here, so that the area has a closed form.
    logits = values.sum() - np.concatenate([[0], np.cumsum(values.ravel()[best])])
    expected = np.trapezoid(1 / (1 + np.exp(-logits)), np.linspace(0, 1, 31))
    assert good.deletion_auc == pytest.approx(expected, abs=1e-5)


def test_an_output_that_is_no_number_is_an_error() -> None:
    class Log(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :2].log()

    model_input = prepared(np.full((6, 5, 3), 0.5))
    order = np.arange(30)
    with pytest.raises(ImageError, match="not finite"):
        curves(capture(Log().eval(), (3, 6, 5)), model_input, HOW, "black", order, 0, "softmax", 3, 8, CPU)
