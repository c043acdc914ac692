"""Devices: from the name in a query to a torch device, and what memory may be used there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from obeql.errors import DeviceError, nearest
from obeql.planner.settings import ALL_GPUS

__all__ = [
    "DTYPES",
    "arithmetic",
    "available_cpus",
    "available_devices",
    "device_name",
    "devices_of",
    "free_bytes",
    "reduced_precision",
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

#: share of the free memory that one statement takes unless told otherwise
_SAFE_SHARE = 0.5


def available_cpus() -> int:
    """CPUs that this process may run on."""
    with suppress(AttributeError):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_devices() -> list[str]:
    """Names of the devices this process can compute on; the CPU is always one."""
    names = ["cpu"]
    if torch.cuda.is_available():
        names += [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return names


def resolve_device(name: str) -> torch.device:
    """Return the device called `name`: auto (a GPU if there is one), cpu, cuda or cuda:<i>; the first of `cuda:*`.

    Raises DeviceError, naming the devices there are, when it is not available.
    """
    wanted = name.lower()
    known = available_devices()
    if wanted == "auto":
        return torch.device(known[1] if len(known) > 1 else "cpu")
    if wanted in ("cuda", ALL_GPUS):
        wanted = "cuda:0"
    if wanted in known:
        return torch.device(wanted)
    hint = nearest(wanted, known) or f" Available: {', '.join(known)}."
    raise DeviceError(f"There is no device '{name}' on this machine.{hint}")


def devices_of(name: str) -> tuple[str, ...]:
    """The devices that `name` stands for: every GPU for `cuda:*`, one otherwise. Raises DeviceError as above."""
    if name.lower() != ALL_GPUS:
        return (name,)
    resolve_device(name)
    return tuple(available_devices()[1:])


def reduced_precision(device: torch.device) -> str | None:
    """The precision in which the device multiplies several times faster than in float32, or None.

    bfloat16 on CPUs with instructions for its products and on NVIDIA cards since Ampere; its range is float32's.
    """
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device) >= (8, 0) else None
    asked = [getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")]
    return "bfloat16" if device.type == "cpu" and any(ask is not None and ask() for ask in asked) else None


@contextmanager
def arithmetic(precision: str, device: torch.device) -> Iterator[None]:
    """Run with the matrix arithmetic that `precision` names, and put PyTorch's settings back afterwards.

    PyTorch's convolutions round float32 to tf32 on recent NVIDIA cards unless told otherwise: float32 here means
    float32. Raises DeviceError for tf32 on a device that has no such format.
    """
    if precision == "tf32" and device.type != "cuda":
        raise DeviceError(f"precision=tf32 is a number format of NVIDIA GPUs; on {device} use float32 or bfloat16.")
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before


def device_name(device: torch.device) -> str:
    """The hardware's own name, for provenance."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = "CPU"
    n_threads = torch.get_num_threads()
    return f"{model}, {n_threads} thread{'s' if n_threads != 1 else ''}"


def free_bytes(device: torch.device) -> float:
    """Memory a statement may use beyond the weights by default: half of what is free now."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free * _SAFE_SHARE
    return _free_ram() * _SAFE_SHARE


def _free_ram() -> float:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return min(float(line.split()[1]) * 1024, _container_limit())
    except OSError:
        pass
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) / 2
    except (ValueError, OSError, AttributeError):
        return 2e9


def _container_limit() -> float:
    try:
        text = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        return float("inf") if text == "max" else float(text)
    except (OSError, ValueError):
        return float("inf")
