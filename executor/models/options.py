"""The options of CREATE MODEL, checked for name, kind and range before any file is opened.

Comes first in loading; `obeql.executor.models.preprocessing` and the URI families read the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from os import PathLike, fspath
from typing import Any, Literal, cast

from obeql.errors import QueryTypeError, UnknownNameError, nearest
from obeql.planner.binding.input_values import InputValue, input_values
from obeql.planner.binding.values import BadValue
from obeql.planner.catalog import Activation, RawOutputs
from obeql.planner.input_kinds import KINDS, kind_of

__all__ = [
    "OPTION_NAMES",
    "Channels",
    "Interpolation",
    "ModelOptions",
    "Resize",
    "numbered",
    "parse_options",
    "storable_options",
]

Resize = Literal["squash", "shortest", "none", "crop_pad"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"]
Channels = Literal["rgb", "bgr", "gray"] | tuple[str, ...]

#: Sides beyond this are mistakes: one float32 RGB image of this size already takes 3 GB.
MAX_SIDE = 16384
#: Samples of a signal, and its channels, beyond which a number is a mistake.
MAX_LENGTH, MAX_CHANNELS = 2**24, 4096


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """The options of one CREATE MODEL statement; None means not said.

    `size` is (height, width) in pixels, (length,) of signals, (depth, height, width) of volumes, or one number for
    every axis. `classes` is a tuple of names, or text: 'imagenet' or the path of a file. `mean` and `std` have one
    value (all channels) or one per channel, in the model's channel order. `inputs` are values of the network's other
    inputs, by name. `range` are the values of a signal or volume that become 0 and 1.
    """

    size: int | tuple[int, ...] | None = None
    resize: Resize | None = None
    edge: int | None = None
    interpolation: Interpolation | None = None
    channels: Channels | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    classes: tuple[str, ...] | str | None = None
    weights: str | None = None
    outputs: RawOutputs | None = None
    activation: Activation | None = None
    trust: bool = False
    output: str | int | None = None
    inputs: Mapping[str, InputValue] | None = None
    range: tuple[float, float] | None = None

    def size_of(self, n_axes: int) -> tuple[int, ...] | None:
        """Return the size that was said, for an input of so many spatial axes; None where none was.

        Raises: QueryTypeError for a size of other axes.
        """
        if not isinstance(self.size, tuple):
            return None if self.size is None else (self.size,) * n_axes
        if len(self.size) != n_axes:
            kind = kind_of(n_axes)
            wanted = f"({', '.join(kind.axes)})" if n_axes > 1 else "one number, its length"
            said = f"the model takes {kind.plural}, {kind.batch_text}"
            raise QueryTypeError(f"The option size is {self.size}, but {said}: size is {wanted}.")
        return self.size


def parse_options(options: Mapping[str, Any]) -> ModelOptions:
    """Return the checked options. Names match case-insensitively; a value of None counts as not said.

    Raises: UnknownNameError for a name that is not an option, QueryTypeError for a value of the wrong kind or range.
    """
    parsed = ModelOptions()
    for name, value in options.items():
        key = str(name).lower()
        if key not in _PARSERS:
            raise UnknownNameError(
                f"A model has no option {name!r}.{nearest(key, OPTION_NAMES)} Options are {', '.join(OPTION_NAMES)}."
            )
        if value is not None:
            parsed = replace(parsed, **{key: _PARSERS[key](key, value)})
    if parsed.edge is not None and parsed.resize not in (None, "shortest"):
        raise QueryTypeError(f"The option edge needs resize=shortest, not resize={parsed.resize}.")
    return parsed


def storable_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return checked options as a database keeps them: arrays and tensors of `inputs` as lists."""
    return {
        name: _inputs(name, value) if str(name).lower() == "inputs" and value is not None else value
        for name, value in options.items()
    }


def _refuse(name: str, value: object, allowed: str) -> QueryTypeError:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return QueryTypeError(f"The option {name} is {shown}, but it must be {allowed}.")


def _side(name: str, value: object, allowed: str, most: int = MAX_SIDE) -> int:
    whole = not isinstance(value, bool) and isinstance(value, int | float) and float(value).is_integer()
    if not whole or not 1 <= cast(float, value) <= most:
        raise _refuse(name, value, allowed)
    return int(cast(float, value))


def _size(name: str, value: object) -> int | tuple[int, ...]:
    allowed = (
        f"a side or (height, width) in pixels, each 1 to {MAX_SIDE}, (length,) of signals or (depth, height, width) of "
        "volumes"
    )
    if isinstance(value, str):
        value = value.lower().replace("x", " ").replace(",", " ").split()
        value = [int(part) if part.isdecimal() else part for part in value]
        value = value[0] if len(value) == 1 else value
    if isinstance(value, int | float):
        return _side(name, value, allowed, MAX_LENGTH)
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) not in KINDS:
        raise _refuse(name, value, allowed)
    most = MAX_LENGTH if len(value) == 1 else MAX_SIDE
    return tuple(_side(name, side, allowed, most) for side in value)


def _edge(name: str, value: object) -> int:
    return _side(name, value, f"the shorter side after resizing, in pixels, 1 to {MAX_SIDE}")


def _one_of(*allowed: str) -> Callable[[str, object], str]:
    def parse(name: str, value: object) -> str:
        text = str(value).lower()
        if not isinstance(value, str) or text not in allowed:
            hint = nearest(text, allowed)
            raise QueryTypeError(f"The option {name} is {value!r}, but it must be {' or '.join(allowed)}.{hint}")
        return text

    return parse


def _numbers(name: str, value: object) -> tuple[float, ...]:
    allowed = "one number or one for each channel"
    items = (value,) if isinstance(value, int | float) else value
    if isinstance(items, str) or not hasattr(items, "__iter__"):
        raise _refuse(name, value, allowed)
    try:
        numbers = tuple(float(item) for item in items)
    except (TypeError, ValueError):
        raise _refuse(name, value, allowed) from None
    if not numbers or not all(map(math.isfinite, numbers)):
        raise _refuse(name, value, allowed)
    return numbers


def _std(name: str, value: object) -> tuple[float, ...]:
    numbers = _numbers(name, value)
    if min(numbers) <= 0:
        raise _refuse(name, value, "above 0 for every channel")
    return numbers


def _channels(name: str, value: object) -> Channels:
    """Return the colors of images, or the names of channels of what is none, which a number makes 0, 1, 2, ..."""
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_CHANNELS:
        return numbered(value)
    if isinstance(value, str):
        return cast(Channels, _one_of("rgb", "bgr", "gray")(name, value))
    names = tuple(value) if isinstance(value, Sequence) else ()
    if not names or not all(isinstance(each, str) and each.strip() for each in names) or len(set(names)) < len(names):
        raise _refuse(
            name, value, "rgb, bgr or gray, or of signals and volumes a number of channels or a list of different names"
        )
    return names


def numbered(n_channels: int) -> tuple[str, ...]:
    """Return the names of channels that have none: their numbers, from 0."""
    return tuple(map(str, range(n_channels)))


def _range(name: str, value: object) -> tuple[float, float]:
    allowed = "two numbers, (low, high), the values that become 0 and 1"
    numbers = _numbers(name, value)
    if len(numbers) != 2 or numbers[0] >= numbers[1]:
        raise _refuse(name, value, allowed)
    return numbers[0], numbers[1]


def _classes(name: str, value: object) -> tuple[str, ...] | str:
    if isinstance(value, str | PathLike):
        text = str(fspath(value)).strip()
        if not text:
            raise _refuse(name, value, "names, a file of names, or 'imagenet'")
        return text
    if not isinstance(value, Sequence) or not value:
        raise _refuse(name, value, "a list of names, a file of names, or 'imagenet'")
    for item in value:
        if not isinstance(item, str) or not item.strip():
            raise _refuse(name, item, "a list of non-empty names")
    return tuple(item.strip() for item in value)


def _weights(name: str, value: object) -> str:
    if isinstance(value, Enum) and hasattr(value, "url"):  # a member of torchvision's, such as ResNet18_Weights.DEFAULT
        return f"{type(value).__name__}.{value.name}"
    if not isinstance(value, str | PathLike) or not str(value).strip():
        raise _refuse(
            name,
            value,
            "DEFAULT, random, the name of torchvision's weights, or a .safetensors or tensors-only .pt file",
        )
    return str(fspath(value)).strip()


def _output(name: str, value: object) -> str | int:
    if isinstance(value, str) and value.strip():
        return value.strip()
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise _refuse(name, value, "the name of an output, or its number, from 0")


def _inputs(name: str, value: object) -> dict[str, InputValue]:
    try:
        return input_values(f"The option {name}", value)
    except BadValue as wrong:
        raise QueryTypeError(str(wrong)) from None


def _flag(name: str, value: object) -> bool:
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    raise _refuse(name, value, "true or false")


#: Every option and how its value is checked.
_PARSERS: Mapping[str, Callable[[str, object], Any]] = {
    "size": _size,
    "resize": _one_of("squash", "shortest", "none", "crop_pad"),
    "edge": _edge,
    "interpolation": _one_of("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"),
    "channels": _channels,
    "range": _range,
    "mean": _numbers,
    "std": _std,
    "classes": _classes,
    "weights": _weights,
    "outputs": _one_of("logits", "probabilities", "value"),
    "output": _output,
    "activation": _one_of("softmax", "sigmoid"),
    "inputs": _inputs,
    "trust": _flag,
}

#: Names of all options of CREATE MODEL, in the order they are documented.
OPTION_NAMES: tuple[str, ...] = tuple(_PARSERS)
