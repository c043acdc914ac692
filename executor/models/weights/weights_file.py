"""Weights from .safetensors and tensors-only .pt files, fitted to a network with exact keys and shapes.

Used by the torchvision, timm and Python families. Reading such a file never runs code from it.
"""

from __future__ import annotations

import importlib
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from obeql.errors import ModelError, install, nearest
from obeql.executor.models.forward import reason
from obeql.executor.models.weights.archive_size import require_no_swelling

__all__ = ["State", "fit_weights", "head_size", "is_torchscript", "read_tensors", "read_torch_file"]

State = Mapping[str, torch.Tensor]

#: Keys under which training scripts keep the weights among other things.
_NESTED = ("state_dict", "model_state_dict", "model_state", "model", "net", "weights", "state_dict_ema")
#: Prefixes that wrappers put before every key.
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
_SHOWN = 3


def read_tensors(path: Path, trust: bool) -> State:
    """Return the named tensors of a weights file, on the CPU.

    Raises: ModelError for a file that cannot be read, that holds more than tensors (unless `trust`), or no tensors.
    """
    if path.suffix.lower() == ".safetensors":
        return _read_safetensors(path)
    content = read_torch_file(path, trust)
    if isinstance(content, nn.Module):
        return content.state_dict()
    for key in _NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if isinstance(content, Mapping):
        tensors = {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}
        if tensors:
            return tensors
    raise ModelError(f"The weights file {str(path)!r} holds no named tensors; save model.state_dict() to it.")


def read_torch_file(path: Path, trust: bool) -> Any:
    """Return what torch.save wrote: tensors and plain containers; with `trust`, any pickled object.

    Raises: ModelError, saying how to go on, for pickled objects or TorchScript without `trust`, for damaged files, and
    for archives that swell when they are unpacked.
    """
    _require_sound_archive(path)
    if is_torchscript(path):
        if not trust:
            raise ModelError(_refusal(path, "holds a TorchScript program"))
        return _load(path, lambda: torch.jit.load(str(path), map_location="cpu"))  # type: ignore[no-untyped-call]
    if trust:
        return _load(path, lambda: torch.load(path, map_location="cpu", weights_only=False))
    try:
        return _load(path, lambda: torch.load(path, map_location="cpu", weights_only=True))
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error) or "Weights only" in str(error) or "Unsupported" in str(error):
            raise ModelError(_refusal(path, "holds pickled Python objects, not only tensors")) from None
        raise ModelError(f"{str(path)!r} is not a file torch.save wrote, or it is damaged.") from None


def _require_sound_archive(path: Path) -> None:
    """Refuse what begins as a zip archive and is none, or one that swells; other files are pickles of old versions."""
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return
    try:
        with zipfile.ZipFile(path) as archive:
            require_no_swelling(path, archive)
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
        raise ModelError(f"{str(path)!r} is not a file torch.save wrote, or it is damaged: {reason(error)}.") from None


def is_torchscript(path: Path) -> bool:
    """Return whether the file is a TorchScript archive."""
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return False
    return any(name.endswith("constants.pkl") for name in names) and any("/code/" in name for name in names)


def head_size(state: State, expected: Mapping[str, torch.Size], default: int) -> int:
    """Return the number of classes that a weights file was trained for.

    `expected` are the shapes of the same network with `default` classes: tensors that differ only in a first axis of
    that size are the head.
    """
    state = _unwrapped(state, expected.keys())
    found = {
        tensor.shape[0]
        for key, tensor in state.items()
        if key in expected
        and tensor.shape != expected[key]
        and tensor.ndim > 0
        and expected[key][:1] == (default,)
        and tensor.shape[1:] == expected[key][1:]
    }
    return found.pop() if len(found) == 1 else default


def fit_weights(module: nn.Module, state: State, path: Path) -> None:
    """Load the tensors into the module; every key and shape must fit. Prefixes of wrappers are taken off.

    Raises: ModelError naming the first keys that are missing, unexpected, or of another shape.
    """
    expected = {key: value.shape for key, value in module.state_dict().items() if isinstance(value, torch.Tensor)}
    state = _unwrapped(state, expected.keys())
    # Batch norm counts its training steps; files from before 2018 do not hold the counts, and inference ignores them.
    missing = [key for key in expected if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in expected]
    shapes = [key for key in expected if key in state and state[key].shape != expected[key]]
    problems = []
    if missing:
        problems.append(f"it lacks {_listed(missing)}")
    if unexpected:
        problems.append(f"it has {_listed(unexpected)}, which the network does not")
    if shapes:
        key = shapes[0]
        problems.append(
            f"{key!r} is {tuple(state[key].shape)} in the file and {tuple(expected[key])} in the network"
            + (f" ({len(shapes)} such)" if len(shapes) > 1 else "")
        )
    if problems:
        hint = nearest(missing[0], unexpected) if missing else ""
        raise ModelError(f"The weights file {str(path)!r} does not fit the network: {'; '.join(problems)}.{hint}")
    try:
        module.load_state_dict({key: state[key] for key in expected if key in state}, strict=False)
    except RuntimeError as error:
        raise ModelError(f"The weights file {str(path)!r} does not fit the network: {reason(error)}.") from error


def _read_safetensors(path: Path) -> State:
    try:
        safetensors = importlib.import_module("safetensors.torch")
    except ImportError:
        raise ModelError(f"Reading {str(path)!r} needs the safetensors package; {install('safetensors')}.") from None
    try:
        state: State = safetensors.load_file(str(path), device="cpu")
    except Exception as error:  # SafetensorError is not exported by every version
        raise ModelError(f"{str(path)!r} is not a safetensors file, or it is damaged: {reason(error)}.") from None
    return state


def _load(path: Path, read: Any) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read()
    except pickle.UnpicklingError:
        raise
    except (ImportError, AttributeError) as error:
        raise ModelError(
            f"{str(path)!r} needs Python code that is not importable here ({reason(error)}); "
            f"save model.state_dict() and name the network with python:package.module:factory."
        ) from error
    except Exception as error:
        raise ModelError(f"{str(path)!r} cannot be read as a torch file: {reason(error)}.") from error


def _refusal(path: Path, what: str) -> str:
    return (
        f"{str(path)!r} {what}: loading it can run any code inside. Save model.state_dict() or export the model "
        f"(torch.export, ONNX) instead; or, if you trust who made the file, say trust=true."
    )


def _unwrapped(state: State, expected: Any) -> State:
    while state and not any(key in expected for key in state):
        prefix = next((prefix for prefix in _PREFIXES if all(key.startswith(prefix) for key in state)), None)
        if prefix is None:
            break
        state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    return state


def _listed(keys: list[str]) -> str:
    shown = ", ".join(map(repr, keys[:_SHOWN]))
    return shown if len(keys) <= _SHOWN else f"{shown} and {len(keys) - _SHOWN} more"
