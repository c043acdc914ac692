"""The part of PLAN that goes into layers: estimated seconds of each stage, measured ones beside them.

A stage is a run of layers of one map size that all run on boxes, or all on whole maps. Used by `show`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from obeql.planner.geometry import Network
from obeql.planner.grid import show_on
from obeql.planner.physical.plan import Engine, ExplainPlan, IncrementalForward

__all__ = ["layer_lines"]

#: measured seconds by layer, one mapping for each grid, over all images
Measured = Sequence[Mapping[int, float]]


@dataclass(frozen=True, slots=True)
class _Stage:
    layers: tuple[int, ...]
    where: str
    size: str


def layer_lines(plan: ExplainPlan, measured: Measured = ()) -> list[str]:
    """Return the table's lines, for each grid; no lines where the operators carry no estimate by layer."""
    lines: list[str] = []
    network = plan.model.network
    for position, (grid, engine) in enumerate(zip(plan.grids, plan.engines, strict=True)):
        if not engine.layer_s or network.whole:
            continue
        seen = measured[position] if position < len(measured) else None
        if len(plan.grids) > 1:
            lines.append(f"patch {show_on(grid.size, grid.patch)}")
        lines += _table(network, engine, len(plan.images), seen)
    return lines


def _table(network: Network, engine: Engine, n_images: int, seen: Mapping[int, float] | None) -> Iterator[str]:
    head = f"{'layers':<9}{'runs on':<12}{'map':<10}{'kinds':<34}{'estimated s':>12}"
    yield head + (f"{'measured s':>12}" if seen is not None else "")
    for stage in _stages(network, engine):
        estimate = sum(engine.layer_s[i] for i in stage.layers) * n_images
        first, last = stage.layers[0], stage.layers[-1]
        span = str(first) if first == last else f"{first}-{last}"
        line = f"{span:<9}{stage.where:<12}{stage.size:<10}{_kinds(network, stage):<34}{estimate:>12.3g}"
        if seen is not None:
            line += f"{sum(seen.get(i, 0.0) for i in stage.layers):>12.3g}"
        yield line


def _stages(network: Network, engine: Engine) -> list[_Stage]:
    stages: list[_Stage] = []
    for i, layer in enumerate(network.layers):
        if layer.reach == "source":
            continue
        boxed = isinstance(engine, IncrementalForward) and engine.regions[i]
        where = "boxes" if boxed else "whole maps"
        size = show_on(network.layers[0].shape[1:], layer.shape[1:]) if layer.is_map else "vector"
        if stages and (stages[-1].where, stages[-1].size) == (where, size):
            stages[-1] = _Stage((*stages[-1].layers, i), where, size)
        else:
            stages.append(_Stage((i,), where, size))
    return stages


def _kinds(network: Network, stage: _Stage) -> str:
    """Return `6 conv, 2 max_pool`, cut to fit its column."""
    counts: dict[str, int] = {}
    for i in stage.layers:
        counts[network.layers[i].kind] = counts.get(network.layers[i].kind, 0) + 1
    text = ", ".join(f"{n} {kind}" for kind, n in counts.items())
    return text if len(text) <= 32 else text[:30] + ".."
