"""What a layer costs: seconds from measured rates, on whole maps and on boxes.

The executor measures `Rates` once for each device and model; without a measurement, typical figures of a CPU core
serve. `schedule` adds these costs up.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from obeql.planner.geometry import LayerSpec, Network

__all__ = ["Rates", "layer_seconds", "paste_bytes", "positions"]


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
    #: memory that may be used beyond the weights, in bytes
    free_bytes: float = 2e9
    #: what was measured, for PLAN: device name, threads, versions
    device: str = "cpu"

    on_cpu: bool = True

    @property
    def measured(self) -> bool:
        return bool(self.layer_s)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Rates:
        data = json.loads(text)
        data["layer_s"] = tuple(data["layer_s"])
        return cls(**data)


def positions(layer: LayerSpec) -> int:
    """Positions of a layer's map; 1 for a vector."""
    return layer.shape[1] * layer.shape[2] if layer.is_map else 1


def layer_seconds(network: Network, index: int, rates: Rates) -> float:
    """Seconds of one whole map through a layer, one of a large batch."""
    if rates.layer_s:
        return rates.layer_s[index]
    layer = network.layers[index]
    return layer.macs / rates.macs_per_s + layer.work_bytes / rates.bytes_per_s


def paste_bytes(network: Network, index: int, height: float, width: float) -> float:
    """Bytes moved to bring the inputs of a layer to the (height, width) box it computes: gather, then paste."""
    layer = network.layers[index]
    total = 0.0
    if layer.reach == "sum":
        return total
    for j in layer.inputs:
        channels = network.layers[j].shape[0]
        h, w = height, width
        if layer.window is not None:
            rows, cols = layer.window
            h = (height - 1) * rows.stride + rows.extent
            w = (width - 1) * cols.stride + cols.extent
        elif len(layer.inputs) == 1:
            continue  # the input's box is the output's box: nothing moves
        total += 3 * 4 * channels * h * w
    return total
