"""A network as plain integers: what the planner must know to cost and place occlusions.

Captured by `obeql.executor.network`, stored with the model, read by the rules and by the executor alike, so
that the boxes a plan was costed with are the boxes that are executed. No torch here.

Axis letters: C channels, D depth, H height, W width, K classes. Axes are always given slowest first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["AxisWindow", "LayerSpec", "Network", "NetworkOutput", "Reach", "changed_span", "read_span"]

#: How far a change of one input position reaches. `pointwise`: the same position; `local`: the positions whose
#: sliding window covers it; `global`: every output position; `source`: the layer has no input (the image).
#: `sum`: one output position that is a sum over all input positions, so that a box's change is all it needs.
Reach = Literal["source", "pointwise", "local", "sum", "global"]


@dataclass(frozen=True, slots=True)
class AxisWindow:
    """One axis of a sliding window, in input positions; `pad` is the padding before the first position."""

    kernel: int
    stride: int
    dilation: int
    pad: int

    @property
    def extent(self) -> int:
        """Input positions from the first to the last tap, both counted."""
        return self.dilation * (self.kernel - 1) + 1


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One layer of a captured network.

    `inputs` are indices of earlier layers. `shape` is the output without the batch axis: (C, H, W) or
    (C, D, H, W) for maps, (K,) for vectors. `macs` are the multiply-accumulates of one whole clean pass through the
    layer, `work_bytes` what such a pass reads and writes of activations, `weight_bytes` the size of its parameters.
    `window` has an entry a spatial axis for local layers.
    """

    name: str
    kind: str
    reach: Reach
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    macs: int = 0
    work_bytes: int = 0
    weight_bytes: int = 0
    window: tuple[AxisWindow, ...] | None = None

    @property
    def is_map(self) -> bool:
        return len(self.shape) > 2


@dataclass(frozen=True, slots=True)
class NetworkOutput:
    """A tensor that the module returns, by name, its shape for one image; `chosen`: its classes are read from it."""

    name: str
    shape: tuple[int, ...]
    chosen: bool


@dataclass(frozen=True, slots=True)
class Network:
    """A captured network in topological order; layer 0 is the image, the last layer the (K,) output.

    `whole` says that the network could not be captured and the module is one opaque layer; `reason` is why. `outputs`
    are all tensors that the module returns, empty where that is not known.
    """

    layers: tuple[LayerSpec, ...]
    reason: str = ""
    outputs: tuple[NetworkOutput, ...] = ()

    @property
    def whole(self) -> bool:
        return bool(self.reason)

    @property
    def size(self) -> tuple[int, ...]:
        """Size of the model's input in pixels: (height, width), or (depth, height, width)."""
        return self.layers[0].shape[1:]

    @property
    def n_classes(self) -> int:
        return self.layers[-1].shape[0]

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers)

    def to_json(self) -> str:
        known: dict[str, Any] = {"layers": [asdict(layer) for layer in self.layers], "reason": self.reason}
        if self.outputs:
            known["outputs"] = [asdict(output) for output in self.outputs]
        return json.dumps(known, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Network:
        data = json.loads(text)
        outputs = (
            NetworkOutput(each["name"], tuple(each["shape"]), each["chosen"]) for each in data.get("outputs", ())
        )
        return cls(tuple(_layer_from(item) for item in data["layers"]), data["reason"], tuple(outputs))

    def digest(self) -> str:
        """Return the hex SHA-256 of the geometry; two captures of one network agree."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def _layer_from(item: Mapping[str, Any]) -> LayerSpec:
    window = item["window"]
    return LayerSpec(
        name=item["name"],
        kind=item["kind"],
        reach=item["reach"],
        inputs=tuple(item["inputs"]),
        shape=tuple(item["shape"]),
        macs=item["macs"],
        work_bytes=item["work_bytes"],
        weight_bytes=item["weight_bytes"],
        window=None if window is None else tuple(AxisWindow(**axis) for axis in window),
    )


def changed_span(start: int, stop: int, window: AxisWindow, out_size: int) -> tuple[int, int]:
    """Return the output positions [first, end) that read any of the input positions [start, stop).

    Exact for one axis of a sliding window (Krypton, Eqs 13-16, tightened to the true alignment and border); with
    dilation, a change that falls between the taps of a window counts as read.
    An empty span (end == first) means that no output position reads the change.
    """
    first = max(0, -((window.extent - 1 - start - window.pad) // window.stride))
    end = min(out_size, (stop - 1 + window.pad) // window.stride + 1)
    return (first, end) if end > first else (min(first, out_size), min(first, out_size))


def read_span(first: int, end: int, window: AxisWindow) -> tuple[int, int]:
    """Return the input positions [start, stop) that output positions [first, end) read.

    May reach outside the map: those positions are padding. Krypton, Eqs 17-20.
    """
    start = first * window.stride - window.pad
    return start, start + (end - first - 1) * window.stride + window.extent
