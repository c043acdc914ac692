"""What may hide a window: the words of `fill`, for the language, the executor and pictures."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["BLUR_SIGMA", "CONSTANTS", "FILLS", "FILL_VALUES"]

#: Words, and what each of them writes; `executor/images/fill.py` has the values.
FILLS: Mapping[str, str] = {
    "mean": "per-channel mean of the model's input",
    "black": "RGB (0, 0, 0)",
    "white": "RGB (1, 1, 1)",
    "gray": "RGB (0.5, 0.5, 0.5)",
    "zero": "0 after normalization",
    "blur": "the image itself, blurred",
}

#: Of words that are a color, its red, green and blue in 0..1.
CONSTANTS: Mapping[str, float] = {"black": 0.0, "white": 1.0, "gray": 0.5}

#: Standard deviation of the blur as a share of the shorter side of the model's input (11.2 pixels at 224).
BLUR_SIGMA = 1 / 20

#: What may be written, for the help on options.
FILL_VALUES = f"{', '.join(FILLS)}, (r, g, b)"
