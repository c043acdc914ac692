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

__all__ = ["OPTION_NAMES", "Channels", "Interpolation", "ModelOptions", "Resize", "parse_options", "storable_options"]

Resize = Literal["squash", "shortest"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"]
Channels = Literal["rgb", "bgr", "gray"]

#: Sides beyond this are mistakes: one float32 RGB image of this size already takes 3 GB.
MAX_SIDE = 16384


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """The options of one CREATE MODEL statement; None means not said.

    `size` is (height, width) in pixels. `classes` is a tuple of names, or text: 'imagenet' or the path of a file.
    `mean` and `std` have one value (all channels) or one per channel, in the model's channel order. `inputs` are values
    of the network's other inputs, by name.
    """

    size: tuple[int, int] | None = None
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
    if parsed.edge is not None and parsed.resize == "squash":
        raise QueryTypeError("The option edge needs resize=shortest; with resize=squash both sides become size.")
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


def _side(name: str, value: object, allowed: str) -> int:
    whole = not isinstance(value, bool) and isinstance(value, int | float) and float(value).is_integer()
    if not whole or not 1 <= cast(float, value) <= MAX_SIDE:
        raise _refuse(name, value, allowed)
    return int(cast(float, value))


def _size(name: str, value: object) -> tuple[int, int]:
    allowed = f"a side or (height, width) in pixels, each 1 to {MAX_SIDE}"
    if isinstance(value, int | float):
        value = (value, value)
    if isinstance(value, str):
        value = value.lower().replace("x", " ").replace(",", " ").split()
        value = [int(part) if part.isdecimal() else part for part in value]
        value = value * 2 if len(value) == 1 else value
    if not isinstance(value, Sequence) or len(value) != 2:
        raise _refuse(name, value, allowed)
    return _side(name, value[0], allowed), _side(name, value[1], allowed)


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
    allowed = "one number or one for each channel (1 for gray, 3 otherwise)"
    items = (value,) if isinstance(value, int | float) else value
    if isinstance(items, str) or not hasattr(items, "__iter__"):
        raise _refuse(name, value, allowed)
    try:
        numbers = tuple(float(item) for item in items)
    except (TypeError, ValueError):
        raise _refuse(name, value, allowed) from None
    if len(numbers) not in (1, 3) or not all(map(math.isfinite, numbers)):
        raise _refuse(name, value, allowed)
    return numbers


def _std(name: str, value: object) -> tuple[float, ...]:
    numbers = _numbers(name, value)
    if min(numbers) <= 0:
        raise _refuse(name, value, "above 0 for every channel")
    return numbers


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
    "resize": _one_of("squash", "shortest"),
    "edge": _edge,
    "interpolation": _one_of("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"),
    "channels": _one_of("rgb", "bgr", "gray"),
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
