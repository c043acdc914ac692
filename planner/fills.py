"""What may hide a window: the words of `fill`, for the language, the executor and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = [
    "BLUR_SIGMA",
    "CHANNELS_MARK",
    "CONSTANTS",
    "FILLS",
    "FILL_VALUES",
    "IMAGE_FILLS",
    "LEAST_LINE",
    "SIGNAL_FILLS",
    "fill_numbers",
    "fill_text",
    "fill_with_channels",
    "hidden_channels",
]

#: Words, and what each of them writes; `executor/images/fill.py` has the values.
FILLS: Mapping[str, str] = {
    "mean": "per-channel mean of the model's input",
    "black": "RGB (0, 0, 0)",
    "white": "RGB (1, 1, 1)",
    "gray": "RGB (0.5, 0.5, 0.5)",
    "zero": "0 after normalization",
    "blur": "the image itself, blurred",
    "linear": "of signals: the straight line from the window's first sample to its last",
}

#: Words of signals alone, which are worked out window by window; and the least samples of a window with something
#: between its ends.
SIGNAL_FILLS, LEAST_LINE = frozenset({"linear"}), 3

#: The words that images and volumes take.
IMAGE_FILLS = tuple(word for word in FILLS if word not in SIGNAL_FILLS)

#: Of words that are a color, its red, green and blue in 0..1.
CONSTANTS: Mapping[str, float] = {"black": 0.0, "white": 1.0, "gray": 0.5}

#: Standard deviation of the blur as a share of the shorter side of the model's input (11.2 pixels at 224).
BLUR_SIGMA = 1 / 20

#: In the store, between a fill and the channels that it hides.
CHANNELS_MARK = "@"

#: What may be written, for the help on options.
FILL_VALUES = (
    f"{', '.join(IMAGE_FILLS)}, (r, g, b), of signals and volumes a number or one a channel; of signals linear"
)


def fill_text(numbers: Sequence[float]) -> str:
    """Return the canonical text of a color or of values, `(0.5,0,1)`; it is part of a cell's identity."""
    return "(" + ",".join(repr(float(part)).removesuffix(".0") for part in numbers) + ")"


def fill_numbers(fill: str) -> tuple[float, ...] | None:
    """Return the numbers of a plan's `fill`, or None when it is one of the words of FILLS, or no fill."""
    if not (fill.startswith("(") and fill.endswith(")")):
        return None
    try:
        return tuple(float(part) for part in fill[1:-1].split(","))
    except ValueError:
        return None


def fill_with_channels(fill: str, channels: Sequence[int] | None) -> str:
    """Return a fill and the channels that it hides as the store has them: `mean@0,2`, or `mean` for all of them."""
    return fill if channels is None else f"{fill}{CHANNELS_MARK}{','.join(map(str, channels))}"


def hidden_channels(text: str) -> tuple[str, tuple[int, ...] | None]:
    """Return a fill and the channels that it hides, None all of them, from the text of `fill_with_channels`."""
    fill, mark, numbers = text.partition(CHANNELS_MARK)
    return fill, tuple(map(int, numbers.split(","))) if mark else None
