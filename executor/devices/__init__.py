"""Devices: from the name in a query to a torch device, what memory may be used there, and in which number formats.

Code asks `device_of` a torch device for what it must know, and never which kind it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from obeql.errors import DeviceError, nearest
from obeql.executor.devices.base import Device
from obeql.executor.devices.cpu import Cpu
from obeql.executor.devices.cuda import Cuda
from obeql.executor.devices.modes import products_in, without_modes
from obeql.executor.devices.mps import Mps
from obeql.executor.devices.xpu import Xpu
from obeql.planner.binding.settings import ALL_GPUS

__all__ = [
    "DTYPES",
    "KINDS",
    "Device",
    "arithmetic",
    "available_devices",
    "device_of",
    "devices_of",
    "require_precision",
    "resolve_device",
]

#: precision option -> dtype of weights and activations
DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}

#: every kind of device
KINDS: tuple[type[Device], ...] = (Cpu, Cuda, Xpu, Mps)
_BY_KIND = {kind.kind: kind for kind in KINDS}


def available_devices() -> list[str]:
    """List the devices this process can compute on, by name; the CPU is always the first."""
    return [name for kind in KINDS for name in kind.names()]


def device_of(device: torch.device) -> Device:
    """Return what is known of a torch device; a kind without a row of `KINDS`, as `meta`, counts as a GPU."""
    return _BY_KIND.get(device.type, _Other)(device)


def resolve_device(name: str) -> torch.device:
    """Return the device called `name`: auto (an NVIDIA GPU if there is one), or a kind, with a number or without.

    `cuda:*` is the first of its GPUs. Raises DeviceError, naming the devices there are, when it is not available.
    """
    wanted = name.lower()
    known = available_devices()
    if wanted == "auto":
        chosen = [name for kind in KINDS if kind.is_automatic for name in kind.names()]
        return torch.device(chosen[0] if chosen else "cpu")
    if wanted == ALL_GPUS:
        wanted = "cuda:0"
    for candidate in (wanted, f"{wanted}:0"):
        if candidate in known:
            return torch.device(candidate)
    hint = nearest(wanted, known) or f" Available: {', '.join(known)}."
    raise DeviceError(f"There is no device '{name}' on this machine.{hint}")


def devices_of(name: str) -> tuple[str, ...]:
    """List the devices that `name` stands for: every GPU for `cuda:*`, one otherwise. Raises DeviceError as above."""
    if name.lower() != ALL_GPUS:
        return (name,)
    resolve_device(name)
    return tuple(Cuda.names())


def require_precision(precision: str, device: torch.device) -> None:
    """Raise DeviceError for a number format that the device does not have."""
    if precision == "tf32" and not device_of(device).has_tf32:
        raise DeviceError(f"precision=tf32 is a number format of NVIDIA GPUs; on {device} use float32 or bfloat16.")
    if precision == "float64" and device_of(device).wide_dtype != torch.float64:
        raise DeviceError(f"{device} has no float64; use float32, or ON cpu.")


@contextmanager
def arithmetic(precision: str, device: torch.device) -> Iterator[None]:
    """Run in inference mode with the arithmetic that `precision` names, whatever the calling program has set.

    PyTorch's convolutions round float32 to tf32 on recent NVIDIA cards unless told otherwise: float32 here means
    float32. Raises DeviceError for a number format that the device does not have.
    """
    require_precision(precision, device)
    with products_in(precision == "tf32", device.type == "cuda"), without_modes(inference=True):
        yield


class _Other(Device):
    """A device that no statement can name; `meta` runs shapes without numbers."""

    kind = "other"

    @classmethod
    def names(cls) -> list[str]:
        return []

    @property
    def hardware(self) -> str:
        return str(self.torch_device)

    def _free_bytes(self) -> float:
        return 4e9

    def synchronize(self) -> None:
        pass  # shapes are known at once

    def empty_cache(self) -> None:
        pass  # there is none
