"""Models of timm: timm:resnet50 with random weights, its pretrained ones, or those of a file.

One of the URI families of `obeql.executor.models.load`.
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from obeql.errors import ModelError, install, nearest
from obeql.executor.models.classes import imagenet_classes, resolve_classes
from obeql.executor.models.forward import reason
from obeql.executor.models.found import Found
from obeql.executor.models.options import Interpolation, ModelOptions
from obeql.executor.models.paths import existing_file
from obeql.executor.models.preprocessing import IMAGENET, Declared
from obeql.executor.models.seeded import seeded
from obeql.executor.models.weights.weights_file import fit_weights, head_size, read_tensors
from obeql.executor.models.zoo.import_torchvision import torchvision
from obeql.executor.models.zoo.torchvision_zoo import N_IMAGENET, RANDOM_NOTE

__all__ = ["load_timm"]

#: What stands before the names of timm's own models on the hub.
_HUB = re.compile(r"^(hf[-_]hub:)?timm/")

_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")


def load_timm(target: str, options: ModelOptions) -> Found:
    """Return a classifier of timm by name; a dot and a tag choose among its weights, as in resnet50.a1_in1k.

    Weights and preprocessing as for torchvision (`load_torchvision`), from timm's own configuration. With
    channels=gray, or a file of weights for one channel, the network has one input channel; timm sums up the weights of
    its own for that.

    Raises: ModelError when timm is missing, the name is unknown, or weights cannot be had or do not fit.
    """
    timm = _package(target)
    target = _HUB.sub("", target)
    base, dot, tag = target.partition(".")
    if not timm.is_model(base):
        raise ModelError(f"timm has no model {target!r}.{nearest(base, timm.list_models())}")
    tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{base}.*")]
    if dot and tag not in tags:
        there = f"its weights are {', '.join(tags)}" if tags else "timm has none of this network"
        raise ModelError(f"timm has no weights {tag!r} of {base}; {there}.{nearest(tag, tags)}")
    weights = options.weights
    n_channels = 1 if options.channels == "gray" else 3
    if weights is None or weights.lower() == "random":
        n_classes = len(resolve_classes(options.classes)) or N_IMAGENET
        module = _build(timm, target, n_classes, n_channels)
        return Found(module, _declared(module, n_channels), notes=(RANDOM_NOTE,))
    if weights.upper() == "DEFAULT" and not Path(weights).is_file():
        module = _download(timm, target, n_channels)
        n_classes = getattr(module, "num_classes", 0)
        return Found(module, _declared(module, n_channels), _imagenet_names() if n_classes == N_IMAGENET else ())
    path = existing_file(weights, "weights file")
    state = read_tensors(path, options.trust)
    with torch.device("meta"):
        expected = {key: value.shape for key, value in _build(timm, target, N_IMAGENET, 3).state_dict().items()}
    if options.channels is None and _has_one_channel(state, expected):
        n_channels = 1
    module = _build(timm, target, head_size(state, expected, N_IMAGENET), n_channels)
    fit_weights(module, state, path)
    return Found(module, _declared(module, n_channels))


def _has_one_channel(state: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Size]) -> bool:
    """Return whether weights were trained on one channel: their first convolution is otherwise that of three."""
    return any(
        key in expected and len(expected[key]) == 4 and tensor.shape == (expected[key][0], 1, *expected[key][2:])
        for key, tensor in state.items()
        if key in expected and expected[key][1:2] == (3,)
    )


def _package(target: str) -> Any:
    try:
        torchvision(f"timm:{target}")  # timm imports it; where it needs the remedy, timm does too
        return importlib.import_module("timm")
    except ImportError:
        raise ModelError(f"timm:{target} needs timm; {install('timm')}.") from None


def _build(timm: Any, target: str, n_classes: int, n_channels: int) -> nn.Module:
    settings = {"num_classes": n_classes} | ({} if n_channels == 3 else {"in_chans": n_channels})
    try:
        return cast(nn.Module, seeded(lambda: timm.create_model(target, pretrained=False, **settings)))
    except Exception as error:
        raise ModelError(f"timm cannot build {target!r}: {reason(error)}.") from error


def _download(timm: Any, target: str, n_channels: int) -> nn.Module:
    settings = {} if n_channels == 3 else {"in_chans": n_channels}
    try:
        return cast(nn.Module, seeded(lambda: timm.create_model(target, pretrained=True, **settings)))
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


def _declared(module: nn.Module, n_channels: int) -> Declared:
    """Return what timm says of a network's input; for one channel, the mean over the colors."""
    config = getattr(module, "pretrained_cfg", None)
    if not isinstance(config, dict) or "input_size" not in config:
        config = {"input_size": (3, 224, 224), "crop_pct": 224 / 256, "interpolation": "bilinear"}
    mean, std = (tuple(config.get(name, getattr(IMAGENET, name))) for name in ("mean", "std"))
    if n_channels == 1:
        mean, std = ((sum(values) / len(values),) for values in (mean, std))
    _, height, width = config["input_size"]
    interpolation = config.get("interpolation", "bicubic")
    squash = config.get("crop_mode") == "squash"
    return Declared(
        size=(height, width),
        resize="squash" if squash else "shortest",
        edge=None if squash else math.floor(max(height, width) / config.get("crop_pct", 0.875)),
        interpolation=cast(Interpolation, interpolation if interpolation in _INTERPOLATIONS else "bicubic"),
        channels="gray" if n_channels == 1 or config["input_size"][0] == 1 else "rgb",
        mean=mean,
        std=std,
    )
