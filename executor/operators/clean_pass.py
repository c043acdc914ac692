"""The clean pass: images' materialised views, against which every window of them is computed.

One pass serves all windows, classes and patch sizes of an image; several images may go through it together.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from obeql.executor.devices.lanes import run_in_a_lane
from obeql.executor.kernels.paste import View
from obeql.executor.network.graph import LayerGraph

__all__ = ["CleanPass", "materialise"]


@dataclass(frozen=True, slots=True, eq=False)
class CleanPass:
    """`image` (N, C, ...); `logits` (N, K); `views` by (layer, value that lies outside the map)."""

    image: Tensor
    logits: Tensor
    views: dict[tuple[int, float], View]


def materialise(graph: LayerGraph, image: Tensor, needed: Iterable[tuple[int, float]], n_lanes: int = 1) -> CleanPass:
    """Run the network once on image (N, C, ...), keeping the views that are needed.

    With `n_lanes` it runs in one lane of so many, which suits a pass of little work.
    """
    keys = sorted(set(needed))

    def run() -> CleanPass:
        kept, logits = graph.materialise(image, {layer for layer, _ in keys})
        return CleanPass(image, logits, {(layer, outside): View.of(kept[layer], outside) for layer, outside in keys})

    return run_in_a_lane(run, n_lanes) if n_lanes > 1 else run()
