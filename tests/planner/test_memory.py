"""What a window takes, and the largest batches that fit."""

from __future__ import annotations

import pytest

from obeql.planner.memory import BoxMemory, whole_map_bytes
from tests.planner.conftest import resnet_like


@pytest.mark.parametrize("budget", [1e3, 5e3, 1e4, 1e5, 1e6])
@pytest.mark.parametrize(("boxes", "crossing", "maps"), [(700, 200, 900), (100, 0, 0), (300, 900, 20), (50, 5, 4000)])
@pytest.mark.parametrize("most", [(128, 128), (4, 64), (64, 4)])
def test_batches_fit_where_one_window_does(
    budget: float, boxes: float, crossing: float, maps: float, most: tuple[int, int]
) -> None:
    need = BoxMemory(100, 10, boxes, crossing, maps)
    batch, tail = need.batches(budget, *most)
    assert 1 <= batch <= most[0] and 1 <= tail <= most[1]
    if need.of(1, 1) <= budget:
        assert need.of(batch, tail) <= budget
    else:
        assert tail == 1 and (boxes * batch <= budget or batch == 1)


def test_whole_maps_count_what_is_read_later() -> None:
    network = resnet_like()
    largest = 4 * max(layer.shape[0] * layer.shape[1] * layer.shape[2] for layer in network.layers if layer.is_map)
    assert whole_map_bytes(network) >= 3 * largest
    last = len(network.layers) - 1
    (read,) = network.layers[last].inputs
    n_inputs, n_outputs = network.layers[read].shape[0], network.layers[last].shape[0]
    assert whole_map_bytes(network, [last]) == 4 * (n_inputs + 2 * n_outputs)
