"""`obeql doctor`: the versions that are installed, the devices there are, and a small run on each of them.

Beside the pipeline: it uses the library as a program would, on a database in memory.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

import obeql
from obeql.errors import DeviceError

__all__ = ["Finding", "examine", "findings"]

#: What every installation has, and what some statements need: (package, needed for).
_NEEDED = ("torch", "duckdb", "numpy", "pyarrow", "lark", "matplotlib", "pillow", "prompt_toolkit", "rich", "tqdm")
_OPTIONAL = (
    ("torchvision", "models from 'torchvision:..'"),
    ("timm", "models from 'timm:..'"),
    ("transformers", "models from 'hf:..'"),
    ("onnx", "models from .onnx files"),
    ("safetensors", "weights from .safetensors files"),
    ("pydicom", "DICOM images"),
    ("highdicom", "DICOM files of maps"),
    ("tifffile", "GeoTIFF files of maps"),
    ("nibabel", "NIfTI volumes"),
    ("av", "videos"),
    ("soundfile", "sound files"),
    ("opencv-python-headless", "16 bits a channel of color images"),
    ("scikit-image", "segments=.."),
    ("starlette", "the page, obeql ui"),
    ("ray", "ON ray"),
    ("ipython", "%%obeql in notebooks"),
    ("anywidget", "maps under the pointer in notebooks"),
    ("argcomplete", "completion in a shell"),
)

#: Largest difference between a map and a plain loop that rounding explains, in logits.
_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; `works` is None where it only informs."""

    topic: str
    name: str
    said: str
    works: bool | None = None


def examine() -> int:
    """Print the report; returns 0 when all that is needed works, else the exit code of a missing device."""
    failed = False
    topic = ""
    for finding in findings():
        if finding.topic != topic:
            topic = finding.topic
            print(f"\n{topic}" if topic != "versions" else topic)
        mark = {True: "ok     ", False: "FAILS  ", None: ""}[finding.works]
        print(f"  {finding.name:<22} {mark}{finding.said}", flush=True)
        failed = failed or finding.works is False
    print("\nsomething that is needed fails" if failed else "\nall that is needed works")
    return DeviceError.exit_code if failed else 0


def findings() -> Iterator[Finding]:
    """Examine the installation, one finding after the other; the slow ones come last."""
    yield Finding("versions", "obeql", obeql.__version__)
    yield Finding("versions", "Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for name in _NEEDED:
        found = _version(name)
        yield Finding("versions", name, found or "is missing: install obeql again", None if found else False)
    for name, use in _OPTIONAL:
        found = _version(name)
        said = f"{found}{_mismatch()}" if found and name == "torchvision" and _version("torch") else found
        yield Finding("optional", name, said or f"not installed; needed for {use}")
    yield _store()
    yield from _devices()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _mismatch() -> str:
    """Return what to say of a torchvision that does not import by itself; empty where it does."""
    from obeql.executor.models.zoo.import_torchvision import is_mismatched  # noqa: PLC0415 - imports torch

    try:
        import_module("torchvision")
    except Exception as error:
        if is_mismatched(error):
            return (
                " for another build of torch: torchvision:.. works here, `import torchvision` in Python does not; "
                "installing both from one index mends that (pip install --force-reinstall torch torchvision)"
            )
        return f", whose import fails: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return ""


def _store() -> Finding:
    try:
        with obeql.connect() as db:
            rows = db.execute("SELECT count(*) FROM cells").fetchall()
    except Exception as error:
        return Finding("database", "DuckDB", _first_line(error), False)
    return Finding("database", "DuckDB", "makes a database and answers", rows == [(0,)])


def _devices() -> Iterator[Finding]:
    import torch  # noqa: PLC0415

    from obeql.executor.devices import available_devices, device_of  # noqa: PLC0415

    for device in available_devices():
        name = device_of(torch.device(device)).hardware
        try:
            largest = _largest_error(device)
        except Exception as error:
            yield Finding("devices", device, f"{name}: {_first_line(error)}", False)
            continue
        said = f"{name}: a map differs from a plain loop by {largest:.0e} at most"
        yield Finding("devices", device, said, largest < _TOLERANCE)


def _largest_error(device: str) -> float:
    """Explain a small picture with a small network on a device; compare with one forward pass a window on the CPU."""
    import numpy as np  # noqa: PLC0415
    import torch  # noqa: PLC0415
    from torch import nn  # noqa: PLC0415

    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(1568, 3)
    )
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1, generator=generator)
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    with obeql.connect() as db:
        db.create_model("small", network.eval(), size=(32, 32))
        heat = db.explain(picture, "small", patch=8, stride=4, score="logit", fill="black", classes=[1], device=device)[
            0
        ]
    pixels = torch.from_numpy(picture).permute(2, 0, 1).float() / 255
    largest = 0.0
    with torch.inference_mode():
        for row, top in enumerate(heat.tops.tolist()):
            for col, left in enumerate(heat.lefts.tolist()):
                hidden = pixels.clone()
                hidden[:, top : top + 8, left : left + 8] = 0
                largest = max(largest, abs(float(network(hidden[None])[0, 1]) - float(heat.scores[row, col])))
    return largest


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
