"""What a layer costs: seconds from measured rates, on whole maps and on boxes.

The executor measures `Rates` once for each device and model; without a measurement, typical figures of a CPU core
serve. `schedule` adds these costs up.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from obeql.planner.geometry import LayerSpec, Network

__all__ = ["Rates", "box_seconds", "clean_pass_seconds", "layer_seconds", "paste_bytes", "positions", "read_size"]

#: one size or an array of them
Sizes = TypeVar("Sizes", float, "npt.NDArray[np.float64]")


@dataclass(frozen=True, slots=True)
class Rates:
    """How fast a device is.

    `macs_per_s` for convolutions and linear layers, `bytes_per_s` for moving activations, `call_s` for one layer on
    a batch, however small. `layer_s[i]` are measured seconds of one whole map through layer i; empty when the model
    has not been measured on the device.
    """

    macs_per_s: float = 4e10
    bytes_per_s: float = 6e9
    call_s: float = 6e-5
    layer_s: tuple[float, ...] = ()
    #: measured seconds of one position of layer i on boxes, gathers and pastes included; empty when not measured
    box_s: tuple[float, ...] = ()
    #: measured seconds of layer i for a batch on boxes however small; empty when not measured
    box_batch_s: tuple[float, ...] = ()
    #: measured seconds of a batch on boxes beyond its layers: working out where its boxes lie
    batch_s: float = 0.0
    #: measured seconds of one clean pass: the network on a single image, views made of it; 0 when not measured
    pass_s: float = 0.0
    #: measured seconds, image by image, of what layers that sum need of the views: sums over the clean maps
    sums_s: float = 0.0
    #: memory that may be used beyond the weights, in bytes
    free_bytes: float = 2e9
    #: what was measured, for PLAN: device name, threads, versions; and when, how often corrected
    device: str = "cpu"
    origin: str = ""

    on_cpu: bool = True
    #: lanes that the cores can be divided into: batches that run side by side
    n_lanes: int = 1
    #: measured seconds of boxes batch after batch with all cores, over those of batches side by side in lanes
    boxes_in_turn: float = 0.0
    #: measured seconds of whole maps side by side in lanes, over those of batches after each other with all cores
    maps_in_lanes: float = 0.0
    #: measured seconds of whole maps in plain (N, C, H, W) memory over channels-last; the three are 0 where unmeasured
    plain_memory: float = 0.0

    @property
    def measured(self) -> bool:
        return bool(self.layer_s)

    def bounded(self, network: Network, macs_per_s: float) -> Rates:
        """Return rates with no layer faster than so many multiply-accumulates a second.

        What is faster was mismeasured.
        """
        if not self.measured or len(self.layer_s) != len(network.layers):
            return self
        least = [layer.macs / macs_per_s for layer in network.layers]
        layer_s = tuple(map(max, self.layer_s, least))
        # A layer that is not run on boxes has no seconds there.
        a_position = [s / positions(layer) for s, layer in zip(least, network.layers, strict=True)]
        box_s = tuple(max(s, bound) if s else s for s, bound in zip(self.box_s, a_position, strict=False))
        return replace(self, layer_s=layer_s, box_s=box_s, pass_s=max(self.pass_s, sum(least)) if self.pass_s else 0.0)

    def corrected(self, boxes: float, maps: float) -> Rates:
        """Return the rates where work on boxes, and on whole maps, takes so many times as long as measured."""
        return replace(
            self,
            layer_s=tuple(seconds * maps for seconds in self.layer_s),
            call_s=self.call_s * maps,
            pass_s=self.pass_s * maps,
            box_s=tuple(seconds * boxes for seconds in self.box_s),
            box_batch_s=tuple(seconds * boxes for seconds in self.box_batch_s),
            batch_s=self.batch_s * boxes,
            sums_s=self.sums_s * boxes,
        )

    def in_parts(self, share: float) -> Rates:
        """Return rates where only `share` of the windows is computed at once.

        What a batch or an image costs weighs so.
        """
        return replace(
            self,
            call_s=self.call_s / share,
            batch_s=self.batch_s / share,
            sums_s=self.sums_s / share,
            box_batch_s=tuple(seconds / share for seconds in self.box_batch_s),
        )

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Rates:
        data = json.loads(text)
        data["layer_s"] = tuple(data["layer_s"])
        data["box_s"], data["box_batch_s"] = tuple(data["box_s"]), tuple(data["box_batch_s"])
        return cls(**data)


def positions(layer: LayerSpec) -> int:
    """Return the positions of a layer's map; 1 for a vector."""
    return math.prod(layer.shape[1:]) if layer.is_map else 1


def layer_seconds(network: Network, index: int, rates: Rates) -> float:
    """Return the seconds of one whole map through a layer, one of a large batch."""
    if rates.layer_s:
        return rates.layer_s[index]
    layer = network.layers[index]
    return layer.macs / rates.macs_per_s + layer.work_bytes / rates.bytes_per_s


def clean_pass_seconds(network: Network, rates: Rates, together: int = 1) -> float:
    """Return the seconds of an image's clean pass, where so many images go through the network together."""
    layers = range(1, len(network.layers))
    shared = sum(layer_seconds(network, i, rates) for i in layers) + rates.call_s * len(layers) / together
    alone = rates.pass_s or shared
    return alone if together == 1 else min(alone, shared)


def box_seconds(network: Network, index: int, rates: Rates, sizes: Sequence[float]) -> float:
    """Return the seconds of a box of `sizes` through a layer, one of many, without the calls of its batch."""
    if rates.box_s:
        return rates.box_s[index] * math.prod(sizes)
    computed = layer_seconds(network, index, rates) * math.prod(sizes) / positions(network.layers[index])
    return computed + paste_bytes(network, index, sizes) / rates.bytes_per_s


def paste_bytes(network: Network, index: int, sizes: Sequence[Sizes]) -> Sizes:
    """Return the bytes moved to bring the inputs of a layer to the box of `sizes` it computes: gather, then paste.

    Sizes, one an axis, may be arrays; the result is the sum over inputs of a product of them.
    """
    layer = network.layers[index]
    moved: Any = 3 * 4 * sum(network.layers[j].shape[0] for j in layer.inputs)
    if layer.reach == "sum" or (layer.window is None and len(layer.inputs) == 1):
        moved = 0.0  # the input's box is all that is read
    for axis, size in enumerate(sizes):
        moved = moved * read_size(layer, axis, size)
    return cast("Sizes", moved)


def read_size(layer: LayerSpec, axis: int, size: Sizes) -> Sizes:
    """Return the positions along one axis that a layer reads to compute `size` of them."""
    if layer.window is None:
        return size
    window = layer.window[axis]
    return (size - 1) * window.stride + window.extent
