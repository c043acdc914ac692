"""Fill what the options leave open with what the model declares, or with the defaults of its kind.

Comes after `options`; the result travels with the model as `obeql.planner.catalog.Preprocessing`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from obeql.errors import ModelError, QueryTypeError
from obeql.executor.models.options import Channels, Interpolation, ModelOptions, Resize
from obeql.planner.catalog import Preprocessing

__all__ = ["IMAGENET", "Declared", "resolve_preprocessing"]


@dataclass(frozen=True, slots=True)
class Declared:
    """What a model file or a set of weights says about its input. The defaults are those of a live module:
    both sides squashed to `size`, RGB in 0..1. `mean` and `std` are in the order of `channels`."""

    size: tuple[int, int] | None = None
    resize: Resize = "squash"
    edge: int | None = None
    interpolation: Interpolation = "bicubic"
    channels: Channels = "rgb"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    crop: Literal["even", "down"] = "even"


#: The usual evaluation preprocessing of ImageNet classifiers (torchvision references, 2016).
IMAGENET = Declared(
    size=(224, 224),
    resize="shortest",
    edge=256,
    interpolation="bilinear",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)


def resolve_preprocessing(options: ModelOptions, declared: Declared) -> Preprocessing:
    """Return the preprocessing of a model; what the options say wins over what the model declares.

    A declared edge is scaled along when only `size` is given, so that the centre crop keeps its share of the image.

    Raises: ModelError when neither says the size, QueryTypeError for options that contradict each other.
    """
    size = options.size or declared.size
    if size is None:
        raise ModelError(
            "The model does not declare its input size; say it in pixels, for example size=224 or size=(240, 320)."
        )
    channels = options.channels or declared.channels
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


def _edge(options: ModelOptions, declared: Declared, size: tuple[int, int]) -> int:
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
