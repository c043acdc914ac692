"""What a window takes, and the largest batches that fit."""

from __future__ import annotations

import math
from typing import Any

import pytest

from obeql.errors import QueryTypeError
from obeql.grammar import parse_statement
from obeql.planner import IncrementalForward, Rates, bind, plan_explain
from obeql.planner.physical.memory import BoxMemory, whole_map_bytes
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


@pytest.mark.parametrize("memory", ["1MB", "3MB", "20MB", "200MB"])
@pytest.mark.parametrize("model", ["vgg", "resnet"])
def test_a_list_of_patches_takes_no_more_than_is_allowed(catalog: Any, model: str, memory: str) -> None:
    """Where boxes lie is kept for all grids while one of them runs."""
    patches = [6, 8, 10, 12, 14, 16, 20, 24, 28, 32]
    text = f"EXPLAIN OCCLUDE scans USING {model} FOR ALL WITH patch={patches} stride=2 memory='{memory}'"
    catalog.settings["disabled_rules"] = "batch_images"
    try:
        plan = plan_explain(bind(parse_statement(text), catalog, text), Rates())  # type: ignore[arg-type]
    except QueryTypeError as too_little:
        assert "needs" in str(too_little) and memory == "1MB"
        return
    boxed = [engine for engine in plan.engines if isinstance(engine, IncrementalForward)]
    assert len(boxed) > 1
    kept = sum(engine.kept_bytes for engine in boxed)
    assert kept > 0
    n_values = [math.prod(layer.shape) for layer in plan.model.network.layers]
    for engine in boxed:
        views = 4 * sum(n for i, n in enumerate(n_values) if engine.regions[i])
        assert engine.cost.memory - views - engine.kept_bytes + kept <= plan.memory_bytes


def test_cells_count_as_memory(catalog: Any) -> None:
    text = "EXPLAIN OCCLUDE scan0 USING vgg {} WITH patch=[8, 16] stride=1"

    def memory(tail: str) -> list[float]:
        statement = text.format(tail)
        plan = plan_explain(bind(parse_statement(statement), catalog, statement), Rates())  # type: ignore[arg-type]
        return [engine.cost.memory for engine in plan.engines]

    one, all_of_them = memory("FOR CLASS 0"), memory("FOR ALL")
    n_windows = 57 * 57, 49 * 49
    more = 3 * (4 + 8) * (sum(n_windows) + max(n_windows))  # three more classes, numbers of four and of eight bytes
    assert all_of_them == pytest.approx([each + more for each in one])
    tight = text.format("FOR ALL") + f" memory={int(more)}"
    with pytest.raises(QueryTypeError, match="needs"):
        plan_explain(bind(parse_statement(tight), catalog, tight), Rates())  # type: ignore[arg-type]
