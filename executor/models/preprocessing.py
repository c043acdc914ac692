"""Fill what the options leave open with what the model declares, or with the defaults of its kind.

Comes after `options`; the result travels with the model as `obeql.planner.catalog.Preprocessing`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from obeql.errors import ModelError, QueryTypeError
from obeql.executor.models.options import MAX_LENGTH, MAX_SIDE, Channels, Interpolation, ModelOptions, Resize, numbered
from obeql.planner.catalog import Preprocessing
from obeql.planner.input_kinds import kind_of

__all__ = ["IMAGENET", "Declared", "declared_by", "resolve_preprocessing"]


@dataclass(frozen=True, slots=True)
class Declared:
    """What a model file or a set of weights says about its input. The defaults are those of a live module:
    both sides squashed to `size`, RGB in 0..1. `mean` and `std` are in the order of `channels`. `n_axes` counts the
    spatial axes of the input, where the source says them without saying its size."""

    size: tuple[int, ...] | None = None
    resize: Resize = "squash"
    edge: int | None = None
    interpolation: Interpolation = "bicubic"
    channels: Channels = "rgb"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    crop: Literal["even", "down"] = "even"
    n_axes: int | None = None

    def __post_init__(self) -> None:
        """Raise ModelError for a size that is a mistake: the first forward pass would take all memory."""
        most = MAX_LENGTH if self.size is not None and len(self.size) == 1 else MAX_SIDE
        if self.size is not None and not all(1 <= side <= most for side in self.size):
            shown = "x".join(map(str, self.size))
            raise ModelError(
                f"The model declares an input of {shown} {kind_of(len(self.size)).short_unit}; a side is 1 to {most}."
            )


#: The usual evaluation preprocessing of ImageNet classifiers (torchvision references, 2016).
IMAGENET = Declared(
    size=(224, 224),
    resize="shortest",
    edge=256,
    interpolation="bilinear",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)


_CONVOLUTIONS = {"Conv1d": 1, "Conv2d": 2, "Conv3d": 3}


def declared_by(module: nn.Module) -> Declared:
    """Return what the first convolution of a module says of an input that is no image: its axes and its channels."""
    for layer in module.modules():
        # A module of TorchScript remembers what it was made from.
        n_axes = _CONVOLUTIONS.get(getattr(layer, "original_name", type(layer).__name__))
        if n_axes is None and not isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            continue
        weight = layer.weight
        assert isinstance(weight, Tensor)
        if weight.dim() == 4:
            break
        n_channels = weight.shape[1] * int(getattr(layer, "groups", 1))
        return Declared(channels=numbered(n_channels), n_axes=weight.dim() - 2)
    return Declared()


def resolve_preprocessing(options: ModelOptions, declared: Declared) -> Preprocessing:
    """Return the preprocessing of a model; what the options say wins over what the model declares.

    A declared edge is scaled along when only `size` is given, so that the centre crop keeps its share of the image.

    Raises: ModelError when neither says the size, QueryTypeError for options that contradict each other.
    """
    size = options.size_of(_n_axes(options, declared)) or declared.size
    if size is None:
        raise ModelError(f"The model does not declare its input size; say {_example(declared.n_axes)}.")
    if len(size) != 2:
        return _of_numbers(options, declared, size)
    _refuse_of_images(options)
    channels = options.channels or ("rgb" if isinstance(declared.channels, tuple) else declared.channels)
    resize = options.resize or ("shortest" if options.edge is not None else declared.resize)
    return Preprocessing(
        size=size,
        resize=resize,
        edge=_edge(options, declared, size) if resize == "shortest" else None,
        interpolation=options.interpolation or declared.interpolation,
        channels=channels,
        mean=_per_channel("mean", options.mean, declared.mean, declared.channels, channels),
        std=_per_channel("std", options.std, declared.std, declared.channels, channels),
        crop=declared.crop,
    )


def _n_axes(options: ModelOptions, declared: Declared) -> int:
    """Return the spatial axes of the input: as the source declares them, or else as many as the size has numbers."""
    if declared.size is not None:
        return len(declared.size)
    if declared.n_axes is not None and not (isinstance(options.size, tuple) and declared.n_axes != len(options.size)):
        return declared.n_axes
    return len(options.size) if isinstance(options.size, tuple) else 2


def _example(n_axes: int | None) -> str:
    if n_axes == 1:
        return "its length, for example size=1024"
    if n_axes == 3:
        return "it in voxels, for example size=96 or size=(64, 96, 96)"
    others = "size=(1024,) of signals or size=(96, 96, 96) of volumes"
    return f"it in pixels, for example size=224 or size=(240, 320), or {others}"


#: What `resize` may be where values are no colors, by the number of axes
_RESIZES = {1: ("none", "crop_pad"), 3: ("none", "squash", "crop_pad")}


def _of_numbers(options: ModelOptions, declared: Declared, size: tuple[int, ...]) -> Preprocessing:
    """Return the preprocessing of signals and volumes, which hold values of a unit of their own."""
    kind = kind_of(len(size))
    channels = options.channels or declared.channels
    if not isinstance(channels, tuple):
        if options.channels is not None:
            raise QueryTypeError(
                f"The option channels is {channels!r}, which are colors of images; a model of {kind.plural} takes "
                "a number of channels or a list of their names."
            )
        channels = numbered(1)
    resize = options.resize or "none"
    taken = _RESIZES[len(size)]
    if resize not in taken:
        allowed = f"{', '.join(taken[:-1])} or {taken[-1]}"
        raise QueryTypeError(f"The option resize is {resize!r}; a model of {kind.plural} takes {allowed}.")
    # Between voxels a straight line, which never leaves the range of the source's values.
    resized = options.interpolation or "bilinear"
    return Preprocessing(
        size=size,
        resize=resize,
        interpolation=resized if resize == "squash" else "bicubic",
        channels=channels,
        mean=_of_each("mean", options.mean or (0.0,), channels),
        std=_of_each("std", options.std or (1.0,), channels),
        range=options.range,
    )


def _of_each(name: str, values: tuple[float, ...], channels: tuple[str, ...]) -> tuple[float, ...]:
    if len(values) not in (1, len(channels)):
        raise QueryTypeError(f"The option {name} has {len(values)} values, but the model has {len(channels)} channels.")
    return values if len(values) == len(channels) else values * len(channels)


def _refuse_of_images(options: ModelOptions) -> None:
    """Raise QueryTypeError for an option that only signals and volumes have."""
    if isinstance(options.channels, tuple):
        raise QueryTypeError("The option channels of a model of images is rgb, bgr or gray.")
    if options.range is not None:
        raise QueryTypeError("The option range is for models of signals and volumes; pixels of images lie in 0..1.")
    if options.resize in ("none", "crop_pad"):
        raise QueryTypeError(f"The option resize is {options.resize!r}; a model of images takes squash or shortest.")


def _edge(options: ModelOptions, declared: Declared, size: tuple[int, ...]) -> int:
    longest = max(size)
    if options.edge is None:
        if declared.edge is None or declared.size is None:
            return longest
        return max(longest, round(declared.edge * longest / max(declared.size)))
    if options.edge < longest:
        raise QueryTypeError(
            f"The option edge is {options.edge}, but the centre crop of "
            f"{size[0]}x{size[1]} pixels needs at least {longest}."
        )
    return options.edge


def _per_channel(
    name: str,
    said: tuple[float, ...] | None,
    declared: tuple[float, ...],
    declared_channels: Channels,
    channels: Channels,
) -> tuple[float, ...]:
    n_channels = 1 if channels == "gray" else 3
    values = declared if said is None else said
    if said is None and len(values) == 3 and channels != declared_channels and n_channels == 3:
        values = values[::-1]  # rgb <-> bgr
    if len(values) == n_channels:
        return values
    if len(set(values)) == 1:
        return (values[0],) * n_channels
    if said is None:
        raise QueryTypeError(f"With channels={channels}, the option {name} must be said: the model declares {values}.")
    raise QueryTypeError(
        f"The option {name} has {len(values)} values, but a model with channels={channels} takes {n_channels}."
    )
