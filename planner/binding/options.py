"""The options of WITH: one declarative table each for EXPLAIN OCCLUDE and for CREATE MODEL.

Binding, completion and the documentation read these tables; a new option is a new row. Rows hold what a value may be
by itself. What depends on the model (does the patch fit its input?) is checked by `bind`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from obeql.errors import QueryTypeError, UnknownNameError, nearest
from obeql.grammar import syntax
from obeql.planner.binding.error_location import locate
from obeql.planner.binding.input_values import input_values
from obeql.planner.binding.values import (
    BadValue,
    Parameters,
    Parser,
    axis_sizes,
    choice,
    flag,
    number,
    plain,
    show_pair,
    shown,
    size_bytes,
    text_value,
    whole,
)
from obeql.planner.catalog import Preprocessing
from obeql.planner.fills import CONSTANTS, FILL_VALUES, FILLS, fill_numbers, fill_text
from obeql.planner.scores import SCORE_KINDS

__all__ = [
    "EVALUATE_OPTIONS",
    "EXPLAIN_OPTIONS",
    "IMAGES_OPTIONS",
    "MODEL_OPTIONS",
    "PREDICT_OPTIONS",
    "RENDER_OPTIONS",
    "OptionInfo",
    "check_fill",
    "default_stride",
    "evaluate_options",
    "explain_options",
    "images_options",
    "images_pages",
    "model_options",
    "render_options",
]


@dataclass(frozen=True, slots=True)
class OptionInfo:
    """A row of the table. `default` None means that planning or the loader decides; `takes` is for people."""

    name: str
    parse: Parser
    default: Any
    takes: str
    doc: str


#: Patch sizes of one statement; each is a map of its own to plan.
_MOST_PATCHES = 100
_MOST_WORKERS = 512


def _patches(name: str, value: Any) -> tuple[tuple[int, ...], ...]:
    """Parse one patch or a list of patches into ((height, width), ..), or ((size,), ..) for all axes."""
    if not isinstance(value, list):
        return (axis_sizes(name, value),)
    if not value:
        raise BadValue(f"{name} takes at least one size, not an empty list.")
    if len(value) > _MOST_PATCHES:
        raise BadValue(f"{name} takes at most {_MOST_PATCHES} sizes in a list, not {len(value)}.")
    parsed = []
    for position, item in enumerate(value):
        try:
            parsed.append(axis_sizes(name, item))
        except BadValue as wrong:
            raise BadValue(str(wrong), position) from None
    return tuple(parsed)


def _fill(name: str, value: Any) -> str:
    """Parse a word of FILLS, a number, or numbers for each channel; returns the text `fill_numbers` reads.

    What a model takes of these, `check_fill` says.
    """
    if isinstance(value, str):
        return str(choice(*FILLS)(name, {"grey": "gray"}.get(value.lower(), value)))
    parts = value if isinstance(value, tuple) else (value,)
    if not isinstance(value, (tuple, int, float)) or isinstance(value, bool):
        raise BadValue(f"{name} takes {', '.join(FILLS)}, a color (r, g, b) or numbers, not {shown(value)}.")
    return fill_text([number(name, part) for part in parts])


def check_fill(fill: str, how: Preprocessing) -> None:
    """Raise BadValue for a fill that is none for the input of a model: of images a color, of signals its channels."""
    numbers = fill_numbers(fill)
    if numbers is None:
        if how.is_signal and how.range is None and fill in CONSTANTS:
            raise BadValue(
                f"fill={fill} is a place in the range of a model, and this one has none: give it range=(low, high), or "
                "a number as fill."
            )
        return
    if how.is_signal:
        if len(numbers) not in (1, how.n_channels):
            raise BadValue(f"fill takes one number or one for each of {how.n_channels} channels, not {len(numbers)}.")
        return
    if len(numbers) == 1:
        raise BadValue(f"fill takes {', '.join(FILLS)} or a color (r, g, b), not {numbers[0]:g}.")
    if len(numbers) != 3:
        raise BadValue(f"fill takes three numbers (r, g, b), not {len(numbers)}.")
    for position, part in enumerate(numbers):
        if not 0 <= part <= 1:
            raise BadValue(f"fill takes colors in 0..1 (a byte divided by 255), not {part:g}.", position)


def _workers(name: str, value: Any) -> int:
    """Parse a number of processes; more than a machine can have is a typing error."""
    found: int = whole(0)(name, value)
    if found > _MOST_WORKERS:
        raise BadValue(f"{name} is at most {_MOST_WORKERS}, not {found}.")
    return found


def _seed(name: str, value: Any) -> int:
    """Parse a seed: what generators and the columns of a table take."""
    found: int = whole(0)(name, value)
    if found >= 2**63:
        raise BadValue(f"{name} is at most {2**63 - 1}, not {shown(found)}.")
    return found


def default_stride(patch: tuple[int, int]) -> tuple[int, int]:
    """Return a quarter of the patch along each axis, at least one pixel."""
    return max(1, patch[0] // 4), max(1, patch[1] // 4)


#: What `segments` may call, as scikit-image does, and the most segments of an image.
_SEGMENTERS = ("slic",)
_MOST_SEGMENTS = 10_000
_CALL = re.compile(r"\s*(\w+)\s*\(\s*(\d+)\s*\)\s*")


def _segments(name: str, value: Any) -> str:
    """Parse `slic(100)`, also as a text; returns it as it is written."""
    given: list[Any]
    if isinstance(value, str) and (match := _CALL.fullmatch(value)):
        method, given = match[1].lower(), [int(match[2])]
    elif isinstance(value, syntax.CallValue):
        method = value.name
        given = [item.value if isinstance(item, syntax.Number) else None for item in value.items]
    else:
        raise BadValue(f"{name} takes a method and about how many segments, as slic(100), not {shown(value)}.")
    choice(*_SEGMENTERS)(name, method)
    if len(given) != 1:
        raise BadValue(f"{name} takes one number, about how many segments, as {method}(100), not {len(given)}.")
    count = whole(1)(name, given[0])
    if count > _MOST_SEGMENTS:
        raise BadValue(f"{name} takes at most {_MOST_SEGMENTS:,} segments, not {count:,}.")
    return f"{method}({count})"


def _pages(name: str, value: Any) -> str | tuple[int, ...]:
    """Parse pages, counted from 1: one, a list of them, or the word all."""
    if isinstance(value, str):
        return str(choice("all")(name, value))
    items = list(value) if isinstance(value, (list, tuple)) else [value]
    if not items:
        raise BadValue(f"{name} takes at least one page, not an empty list.")
    return tuple(whole(1)(name, item) for item in items)


#: Which pages of the files of a source are images.
_PAGE = OptionInfo("page", _pages, None, "3, [1, 2], all", "Pages of files of several, counted from 1; the first.")

EXPLAIN_OPTIONS: tuple[OptionInfo, ...] = (
    OptionInfo(
        "patch",
        _patches,
        ((16,),),
        "16, 16x24, [8, 16, 32]",
        "Pixels hidden at once, height x width, of signals samples; a list gives one map for each size.",
    ),
    OptionInfo("stride", axis_sizes, None, "4, 4x8", "Pixels from one window to the next; a quarter of the patch."),
    OptionInfo(
        "fill",
        _fill,
        "mean",
        FILL_VALUES,
        "What hides the pixels: the image's mean, a color in 0..1, 0 after normalization, or the blurred image.",
    ),
    OptionInfo(
        "score",
        choice(*SCORE_KINDS),
        "probability",
        ", ".join(SCORE_KINDS),
        "What a cell shows; all of a classifier are stored. value: the output itself, of models with outputs=value.",
    ),
    OptionInfo(
        "border",
        choice("cover", "valid", "clip"),
        "cover",
        "cover, valid, clip",
        "Last window of an axis: shifted inward, left out where it does not fit, or cut (needs stride <= patch).",
    ),
    OptionInfo(
        "workers",
        _workers,
        0,
        "0, 4",
        "Workers that share the images; 0: none, or one a GPU of cuda:*, or all that Ray has room for.",
    ),
    OptionInfo(
        "precision",
        choice("float32", "tf32", "bfloat16", "float16", "float64"),
        "float32",
        "float32, tf32, bfloat16, float16, float64",
        "Number format of the network's arithmetic.",
    ),
    OptionInfo("batch", whole(1), None, "64", "Windows computed at once; planned from the memory at hand."),
    OptionInfo(
        "memory",
        size_bytes,
        None,
        "'2GB', '512MiB'",
        "Most memory for activations, beyond an unoccluded pass; kB, MB, GB, TB count by 1000, KiB and so on by 1024.",
    ),
    OptionInfo("seed", _seed, 0, "0", "Seed of random choices; exact maps make none."),
    _PAGE,
    OptionInfo("mask", text_value, None, "'organs.png'", "A picture of labels: a window for each but 0, and no grid."),
    OptionInfo(
        "segments", _segments, None, "slic(100)", "Segments of each image, about so many: a window each, and no grid."
    ),
)

PREDICT_OPTIONS: tuple[OptionInfo, ...] = (_PAGE,)

IMAGES_OPTIONS: tuple[OptionInfo, ...] = (_PAGE,)


def _input_size(name: str, value: Any) -> int | tuple[int, ...]:
    """Parse one number for every axis, or one an axis: a list or tuple of one is the length of signals."""
    sizes = axis_sizes(name, tuple(value) if isinstance(value, list) else value)
    return sizes if isinstance(value, (list, tuple)) else sizes[0]


def _input_channels(name: str, value: Any) -> str | int | tuple[str, ...]:
    """Parse the colors of images, or how many channels signals have, or their names."""
    if isinstance(value, (list, tuple)) and value and all(isinstance(part, str) for part in value):
        return tuple(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return int(whole(1)(name, value))
    if isinstance(value, str):
        return str(choice("rgb", "bgr", "gray")(name, value))
    raise BadValue(f"{name} takes rgb, bgr or gray, of signals a number or a list of names, not {shown(value)}.")


def _numbers(name: str, value: Any) -> tuple[float, ...]:
    """Parse one number or several, one for each channel."""
    parts = value if isinstance(value, (list, tuple)) else (value,)
    return tuple(number(name, part) for part in parts)


def _class_names(name: str, value: Any) -> str | tuple[str, ...]:
    """Parse a file of class names, or the names themselves."""
    if isinstance(value, (list, tuple)) and value and all(isinstance(part, str) for part in value):
        return tuple(value)
    if isinstance(value, str) and value:
        return value
    raise BadValue(f"{name} takes a file of names, one a line, or a list of names, not {shown(value)}.")


def _output(name: str, value: Any) -> str | int:
    """Parse the name of an output or its number."""
    if (isinstance(value, str) and value.strip()) or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise BadValue(f"{name} takes the name of an output or its number, from 0, not {shown(value)}.")


MODEL_OPTIONS: tuple[OptionInfo, ...] = (
    OptionInfo(
        "size",
        _input_size,
        None,
        "224, 240x320, (1024)",
        "Model input in pixels, height x width; of signals their length, in brackets.",
    ),
    OptionInfo(
        "resize",
        choice("squash", "shortest", "none", "crop_pad"),
        None,
        "squash, shortest; none, crop_pad",
        "Both sides, or shorter side and crop; of signals as long as they are, or their middle with zeros around it.",
    ),
    OptionInfo("edge", whole(1), None, "256", "Shorter side in pixels before the centre crop of resize=shortest."),
    OptionInfo(
        "interpolation",
        choice("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"),
        None,
        "nearest, bilinear, bicubic, box, hamming, lanczos",
        "How resizing interpolates; bicubic unless the weights declare another.",
    ),
    OptionInfo(
        "mean", _numbers, None, "(0.485, 0.456, 0.406)", "Subtracted from pixels in 0..1, in model channel order."
    ),
    OptionInfo("std", _numbers, None, "(0.229, 0.224, 0.225)", "Divides after the mean, in the model's channel order."),
    OptionInfo(
        "channels",
        _input_channels,
        None,
        "rgb, bgr, gray; 12, ['I', 'II']",
        "Channel order of the model's input; of signals how many channels they have, or their names.",
    ),
    OptionInfo("range", _numbers, None, "(-1, 1)", "Of signals: the values that become 0 and 1, before mean and std."),
    OptionInfo("classes", _class_names, None, "'names.txt', ['cat', 'dog']", "Names of the classes, in order."),
    OptionInfo(
        "weights", text_value, None, "DEFAULT, 'file.safetensors', 'file.pt'", "Where the parameters come from."
    ),
    OptionInfo(
        "activation",
        choice("softmax", "sigmoid"),
        None,
        "softmax, sigmoid",
        "Whether classes exclude each other or are judged one by one.",
    ),
    OptionInfo(
        "outputs",
        choice("logits", "probabilities", "value"),
        None,
        "logits, probabilities, value",
        "What the network returns; where it is not said, it is looked at. value: no classifier, but a regression.",
    ),
    OptionInfo("output", _output, None, "'logits', 1", "Which of several outputs to read, by name or number (from 0)."),
    OptionInfo(
        "inputs",
        input_values,
        None,
        "{'age': 0.5, 'site': [1, 0]}",
        "Values of the network's other inputs, the same for every image.",
    ),
    OptionInfo("trust", flag, None, "true, false", "Allow files that can run code when loaded, such as pickles."),
)


EVALUATE_OPTIONS: tuple[OptionInfo, ...] = (
    OptionInfo("steps", whole(1), 50, "50", "Steps of a curve, each of an equal number of pixels."),
    OptionInfo("fill", _fill, None, FILL_VALUES, "What hides pixels; that of the run."),
    OptionInfo("batch", whole(1), 32, "32", "Pictures that the network is given at once."),
)


def _classes_drawn(name: str, value: Any) -> tuple[str | int, ...]:
    """Parse a class by its name or number, or a list of these."""
    items = value if isinstance(value, list) else [value]
    for position, item in enumerate(items):
        if isinstance(item, bool) or not isinstance(item, (str, int)):
            raise BadValue(f"{name} takes names or numbers of classes, not {shown(item)}.", position)
    if not items:
        raise BadValue(f"{name} takes at least one class, not an empty list.")
    return tuple(items)


def _above_zero(most: float | None) -> Parser:
    """Return a parser of numbers above zero, and up to `most`."""

    def parse(name: str, value: Any) -> float:
        found = number(name, value)
        if not (found > 0 and (most is None or found <= most)):
            raise BadValue(f"{name} takes a number above 0{f' and up to {most:g}' if most else ''}, not {value:g}.")
        return found

    return parse


RENDER_OPTIONS: tuple[OptionInfo, ...] = (
    OptionInfo("map", whole(0), None, "0", "The number of one map, counted from 0; all of them without it."),
    OptionInfo("class", _classes_drawn, None, "'cat', 2, ['cat', 'dog']", "Only the maps of these classes."),
    OptionInfo("opacity", _above_zero(1), None, "0.75", "Opacity of the map at the ends of the scale."),
    OptionInfo("limit", _above_zero(None), None, "2.5", "Where the scale ends; at the largest importance without it."),
    OptionInfo("cmap", text_value, None, "coolwarm, inferno", "A colormap of matplotlib in place of blue to red."),
    OptionInfo(
        "sign",
        choice("all", "positive", "negative", "absolute"),
        None,
        "all, positive, negative, absolute",
        "Which evidence is colored.",
    ),
    OptionInfo("shared", flag, None, "true, false", "Whether maps of one score share a scale."),
    OptionInfo("columns", whole(1), None, "4", "Maps per row of a figure grid; else a matrix of images by classes."),
    OptionInfo("colorbar", flag, None, "true, false", "Whether the scale stands beside the map."),
    OptionInfo("dpi", whole(1), None, "300", "Pixels an inch of a picture."),
)


def explain_options(
    options: Sequence[syntax.Option],
    parameters: Parameters,
    defaults: Mapping[str, Any],
) -> dict[str, Any]:
    """Return every option of EXPLAIN OCCLUDE with its value, in the order of the table.

    `defaults` are plain values that stand in for the table's defaults. Raises UnknownNameError for an option that
    does not exist, QueryTypeError for a wrong value or an option given twice.
    """
    values = {row.name: row.default for row in EXPLAIN_OPTIONS}
    rows = {row.name: row for row in EXPLAIN_OPTIONS}
    for name, value in defaults.items():
        if name not in rows:
            raise UnknownNameError(_unknown("EXPLAIN OCCLUDE", name, rows))
        try:
            values[name] = None if value is None else rows[name].parse(name, value)
        except BadValue as wrong:
            raise QueryTypeError(str(wrong)) from None
    return values | _given(options, rows, "EXPLAIN OCCLUDE", parameters)


def model_options(options: Sequence[syntax.Option], parameters: Parameters) -> dict[str, Any]:
    """Return the options of CREATE MODEL that were given; what they mean for a file, its loader decides.

    Raises UnknownNameError for an option that does not exist, QueryTypeError for a wrong kind of value.
    """
    return _given(options, {row.name: row for row in MODEL_OPTIONS}, "CREATE MODEL", parameters)


def images_options(options: Sequence[syntax.Option], parameters: Parameters) -> dict[str, Any]:
    """Return every option of CREATE IMAGES with its value. Raises as `model_options` does."""
    rows = {row.name: row for row in IMAGES_OPTIONS}
    return {row.name: row.default for row in IMAGES_OPTIONS} | _given(options, rows, "CREATE IMAGES", parameters)


def predict_options(options: Sequence[syntax.Option], parameters: Parameters) -> dict[str, Any]:
    """Return every option of PREDICT with its value. Raises as `model_options` does."""
    rows = {row.name: row for row in PREDICT_OPTIONS}
    return {row.name: row.default for row in PREDICT_OPTIONS} | _given(options, rows, "PREDICT", parameters)


def images_pages(value: Any) -> str | tuple[int, ...] | None:
    """Return the pages that a keyword of Python names. Raises QueryTypeError."""
    try:
        return None if value is None else _pages("page", value)
    except BadValue as wrong:
        raise QueryTypeError(str(wrong)) from None


def evaluate_options(options: Sequence[syntax.Option], parameters: Parameters) -> dict[str, Any]:
    """Return every option of EVALUATE with its value. Raises as `model_options` does."""
    rows = {row.name: row for row in EVALUATE_OPTIONS}
    return {row.name: row.default for row in EVALUATE_OPTIONS} | _given(options, rows, "EVALUATE", parameters)


def render_options(options: Sequence[syntax.Option], parameters: Parameters) -> dict[str, Any]:
    """Return the options of RENDER that were given. Raises as `model_options` does."""
    return _given(options, {row.name: row for row in RENDER_OPTIONS}, "RENDER", parameters)


def _given(
    options: Sequence[syntax.Option],
    rows: Mapping[str, OptionInfo],
    statement: str,
    parameters: Parameters,
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for option in options:
        if option.name not in rows:
            raise locate(UnknownNameError(_unknown(statement, option.name, rows)), option)
        if option.name in values:
            raise locate(QueryTypeError(f"Option {option.name} is given twice."), option)
        try:
            given = plain(option.value, parameters)
        except QueryTypeError as missing:
            raise locate(missing, option.value) from None
        try:
            values[option.name] = rows[option.name].parse(option.name, given)
        except BadValue as wrong:
            raise locate(QueryTypeError(str(wrong)), place_of(option.value, wrong.item)) from None
    return values


def place_of(value: syntax.Value, item: int | None) -> syntax.Node:
    """Return the node to point at: one item of a list or tuple, or the whole value."""
    if item is not None and isinstance(value, (syntax.ListValue, syntax.TupleValue)):
        return value.items[item]
    return value


def _unknown(statement: str, name: str, rows: Mapping[str, OptionInfo]) -> str:
    return f"{statement} has no option {name!r}; it has {', '.join(rows)}.{nearest(name, rows)}"


def show_value(value: Any) -> Any:
    """Return an option's value as it would be written in WITH: 16x24, [8x8, 16x16], a word, a number."""
    match value:
        case None:
            return "planned"
        case (int(),) | (int(), int()):
            return show_pair(value)
        case tuple() if value and all(isinstance(item, tuple) for item in value):
            parts = [show_pair(item) for item in value]
            return parts[0] if len(parts) == 1 else f"[{', '.join(parts)}]"
        case _:
            return value
