"""Models of timm: timm:resnet50 with random weights, its pretrained ones, or those of a file.

One of the URI families of `obeql.executor.models.load`.
"""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from obeql.errors import ModelError, nearest
from obeql.executor.models.classes import imagenet_classes, resolve_classes
from obeql.executor.models.forward import reason
from obeql.executor.models.found import Found
from obeql.executor.models.import_torchvision import torchvision
from obeql.executor.models.options import Interpolation, ModelOptions
from obeql.executor.models.paths import existing_file
from obeql.executor.models.preprocessing import IMAGENET, Declared
from obeql.executor.models.seeded import seeded
from obeql.executor.models.torchvision_zoo import N_IMAGENET, RANDOM_NOTE
from obeql.executor.models.weights_file import fit_weights, head_size, read_tensors

__all__ = ["load_timm"]

_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")


def load_timm(target: str, options: ModelOptions) -> Found:
    """Return a classifier of timm by name; a dot and a tag choose among its weights, as in resnet50.a1_in1k.

    Weights and preprocessing as for torchvision (`load_torchvision`), from timm's own configuration.

    Raises: ModelError when timm is missing, the name is unknown, or weights cannot be had or do not fit.
    """
    timm = _package(target)
    base = target.partition(".")[0]
    if not timm.is_model(base):
        raise ModelError(f"timm has no model {target!r}.{nearest(base, timm.list_models())}")
    weights = options.weights
    if weights is None or weights.lower() == "random":
        n_classes = len(resolve_classes(options.classes)) or N_IMAGENET
        module = _build(timm, target, n_classes)
        return Found(module, _declared(module), notes=(RANDOM_NOTE,))
    if weights.upper() == "DEFAULT" and not Path(weights).is_file():
        module = _download(timm, target)
        n_classes = getattr(module, "num_classes", 0)
        return Found(module, _declared(module), _imagenet_names() if n_classes == N_IMAGENET else ())
    path = existing_file(weights, "weights file")
    state = read_tensors(path, options.trust)
    with torch.device("meta"):
        expected = {key: value.shape for key, value in _build(timm, target, N_IMAGENET).state_dict().items()}
    module = _build(timm, target, head_size(state, expected, N_IMAGENET))
    fit_weights(module, state, path)
    return Found(module, _declared(module))


def _package(target: str) -> Any:
    try:
        torchvision(f"timm:{target}")  # timm imports it; where it needs the remedy, timm does too
        return importlib.import_module("timm")
    except ImportError:
        raise ModelError(f"timm:{target} needs timm; install it with pip install 'obeql[timm]'.") from None


def _build(timm: Any, target: str, n_classes: int) -> nn.Module:
    try:
        return cast(nn.Module, seeded(lambda: timm.create_model(target, pretrained=False, num_classes=n_classes)))
    except Exception as error:
        raise ModelError(f"timm cannot build {target!r}: {reason(error)}.") from error


def _download(timm: Any, target: str) -> nn.Module:
    try:
        return cast(nn.Module, seeded(lambda: timm.create_model(target, pretrained=True)))
    except Exception as error:  # the hub's client has its own errors, by version
        raise ModelError(
            f"timm's weights for {target!r} could not be downloaded: {reason(error)}. "
            f"Download the file elsewhere and say weights='file.safetensors'."
        ) from error


def _imagenet_names() -> tuple[str, ...]:
    try:
        return imagenet_classes()
    except ModelError:
        return ()


def _declared(module: nn.Module) -> Declared:
    config = getattr(module, "pretrained_cfg", None)
    if not isinstance(config, dict) or "input_size" not in config:
        return IMAGENET
    channels, height, width = config["input_size"]
    interpolation = config.get("interpolation", "bicubic")
    squash = config.get("crop_mode") == "squash"
    return Declared(
        size=(height, width),
        resize="squash" if squash else "shortest",
        edge=None if squash else math.floor(max(height, width) / config.get("crop_pct", 0.875)),
        interpolation=cast(Interpolation, interpolation if interpolation in _INTERPOLATIONS else "bicubic"),
        channels="gray" if channels == 1 else "rgb",
        mean=tuple(config.get("mean", IMAGENET.mean)),
        std=tuple(config.get("std", IMAGENET.std)),
    )
