"""Models of torchvision: torchvision:resnet18 with random weights, its pretrained ones, or those of a file.

One of the URI families of `obeql.executor.models.load`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from obeql.errors import ModelError, nearest
from obeql.executor.models.classes import resolve_classes
from obeql.executor.models.forward import reason
from obeql.executor.models.found import Found
from obeql.executor.models.options import ModelOptions
from obeql.executor.models.paths import existing_file
from obeql.executor.models.preprocessing import IMAGENET, Declared
from obeql.executor.models.seeded import SEED, seeded
from obeql.executor.models.weights.weights_file import fit_weights, head_size, read_tensors
from obeql.executor.models.zoo.import_torchvision import torchvision

__all__ = ["RANDOM_NOTE", "load_torchvision"]

RANDOM_NOTE = (
    f"The weights are random (seed {SEED}): the maps mean nothing. "
    f"Say weights=DEFAULT for pretrained weights or weights='file' for your own."
)

#: Networks that may rescale their input.
RESCALING = ("googlenet", "inception_v3")
RESCALING_NOTE = (
    "The weights are taken for some that were trained on from torchvision's, with transform_input=True; where they "
    "were trained without it, name the network with python:package.module:factory."
)

#: Classes of ImageNet-1k, which torchvision's networks have unless told otherwise.
N_IMAGENET = 1000


def load_torchvision(target: str, options: ModelOptions) -> Found:
    """Return a classifier of torchvision by name.

    Without weights (or weights=random) they are random with a fixed seed, so that the same statement is the same
    model; a note says so. weights=DEFAULT, or the name of a member such as IMAGENET1K_V1, downloads torchvision's.
    A file sets the number of classes by the shape of its head; a file torchvision itself published is recognized by
    its name and brings its class names and preprocessing. GoogLeNet and Inception of a file rescale their input.
    Preprocessing is what the weights declare, else what the default weights of that network declare.

    Raises: ModelError when torchvision is missing, the name is unknown, or weights cannot be had or do not fit.
    """
    models = torchvision(f"torchvision:{target}").models
    known = models.list_models(module=models)
    if target.lower() not in known:
        name, _, member = target.lower().partition("_weights")
        hint = nearest(target, known)
        if member or target.lower().endswith("_weights"):
            member = member.lstrip(".").upper() or "DEFAULT"
            hint = f" Name the network, and its weights as an option: FROM 'torchvision:{name}' WITH weights={member}."
        raise ModelError(f"torchvision has no classifier {target!r}.{hint}")
    name = target.lower()
    if options.channels == "gray":
        raise ModelError(
            f"torchvision's {name} takes three channels. Gray images are read as such: leave channels=gray out."
        )
    members = models.get_model_weights(name)
    weights = options.weights
    if weights is None or weights.lower() == "random":
        n_classes = len(resolve_classes(options.classes)) or N_IMAGENET
        module = seeded(lambda: _lively(_build(models, name, {}, n_classes)))
        return Found(module, _declared(members.DEFAULT), notes=(RANDOM_NOTE,))
    chosen = _member(members, weights)
    if chosen is not None:
        module = _download(models, name, chosen)
        return Found(module, _declared(chosen), tuple(chosen.meta["categories"]))
    path = existing_file(weights, "weights file")
    state = read_tensors(path, options.trust)
    published = next((member for member in members if Path(member.url).name == path.name), None)
    with torch.device("meta"):
        expected = {key: value.shape for key, value in _build(models, name, state, N_IMAGENET).state_dict().items()}
    n_classes = head_size(state, expected, N_IMAGENET)
    module = seeded(lambda: _build(models, name, state, n_classes))
    fit_weights(module, state, path)
    if published is None:
        notes = (RESCALING_NOTE,) if name in RESCALING else ()
        return Found(module, _declared(members.DEFAULT), notes=notes)
    return Found(module, _declared(published), tuple(published.meta["categories"]))


def _build(models: Any, name: str, state: Mapping[str, Any], n_classes: int) -> nn.Module:
    """Return the architecture without weights.

    Auxiliary heads, which only training uses, exist where the file has them.
    """
    settings: dict[str, Any] = {"num_classes": n_classes}
    if name in RESCALING:
        settings["aux_logits"] = any("aux" in key.lower() for key in state)
        settings["init_weights"] = False
        # torchvision's own weights for these two expect inputs scaled to -1..1, and the network rescales them; so do
        # those that were trained on from them. A file does not say it.
        settings["transform_input"] = bool(state)
    module: nn.Module = models.get_model(name, weights=None, **settings)
    return module


def _lively(module: nn.Module) -> nn.Module:
    """Scale random weights that would give every image the same logits.

    Vision transformers start with a head of zeros, and torch's default for convolutions shrinks activations by the
    square root of six a layer, which deep networks without a rule of their own do not survive.
    """
    shrinks = type(module).__name__ in ("GoogLeNet", "Inception3")
    for part in module.modules():
        if isinstance(part, nn.Conv2d) and shrinks:
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
        elif isinstance(part, nn.Linear) and not part.weight.any():
            nn.init.normal_(part.weight, std=part.in_features**-0.5)
    return module


def _member(members: Any, text: str) -> Any:
    """Return the weights of torchvision that the text names, or None when it is a file's path."""
    by_name = {member.name.upper(): member for member in members} | {"DEFAULT": members.DEFAULT}
    kind = type(members.DEFAULT).__name__
    said, dot, _ = text.rpartition(".")
    if dot and said.lower().endswith("_weights") and said.lower() != kind.lower():
        raise ModelError(f"The weights {text!r} are another network's; those of this one are {kind}.")
    chosen = by_name.get(text.upper().rpartition(".")[2]) if not Path(text).expanduser().is_file() else None
    if chosen is None and text.isidentifier() and not Path(text).is_file():
        names = ", ".join(member.name for member in members)
        raise ModelError(
            f"There are no weights {text!r}; allowed are DEFAULT, random, {names} or a file.{nearest(text, by_name)}"
        )
    return chosen


def _download(models: Any, name: str, weights: Any) -> nn.Module:
    try:
        module: nn.Module = seeded(lambda: models.get_model(name, weights=weights, progress=sys.stderr.isatty()))
    except Exception as error:  # URLError, HTTPError, timeouts, a damaged cache, a full disk
        raise ModelError(
            f"torchvision's weights {weights} could not be downloaded from {weights.url}: {reason(error)}. "
            f"Download the file elsewhere and say weights='{Path(weights.url).name}'."
        ) from error
    return module


def _declared(weights: Any) -> Declared:
    preset = weights.transforms()
    if not hasattr(preset, "crop_size"):
        return IMAGENET
    crop, edge = _sides(preset.crop_size), _sides(preset.resize_size)
    return Declared(
        size=crop,
        resize="shortest",
        edge=max(edge),
        interpolation=preset.interpolation.value,
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )


def _sides(value: Any) -> tuple[int, int]:
    sides = [value] if isinstance(value, int) else list(value)
    return int(sides[0]), int(sides[-1])
