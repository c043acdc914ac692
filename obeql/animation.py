"""A film of the sliding window, for teaching: what the network sees on the left, the map as it grows on the right.

Comes after a map is complete; drawn with Pillow in the pixels of the model's input.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from obeql.colours import blended, symmetric_limit
from obeql.errors import QueryTypeError, nearest
from obeql.quality import estimated_note

if TYPE_CHECKING:
    from PIL.Image import Image

    from obeql.heatmap import Heatmap

__all__ = ["FILM_SUFFIXES", "film_bytes"]

FILM_SUFFIXES = (".gif", ".apng", ".png")

_CAPTION_PX = 40
_GAP_PX = 12
#: Standard deviation of fill=blur as a share of the shorter side, as when the map was computed.
_BLUR_SIGMA = 1 / 20
_CONSTANTS = {"black": 0.0, "white": 1.0, "gray": 0.5, "zero": 0.5}


def film_bytes(heat: Heatmap, suffix: str, *, seconds: float = 8.0, n_frames: int = 80, panel_px: int = 300) -> bytes:
    """Return a GIF (`.gif`) or an APNG (`.apng`, `.png`) that lasts `seconds` and runs for ever.

    A film of `n_frames` shows evenly spread windows in reading order, and on the right all windows up to that one.
    fill=zero, the mean colour of a network's training images, is drawn as mid-grey. Raises ImageError when the picture
    is gone, QueryTypeError for other suffixes and numbers that make no film.
    """
    if suffix not in FILM_SUFFIXES:
        raise QueryTypeError(
            f"'{suffix}' is no film; allowed are {' '.join(FILM_SUFFIXES)}.{nearest(suffix, FILM_SUFFIXES)}"
        )
    if not (seconds > 0 and n_frames >= 2 and panel_px >= 64):
        raise QueryTypeError("a film needs seconds > 0, n_frames >= 2 and panel_px >= 64")
    seen = _seen_by_the_network(heat)
    hidden = _hidden(heat, seen)
    n_cells = heat.scores.size
    shown = np.unique(np.linspace(0, n_cells - 1, min(n_frames, n_cells)).astype(int))
    limit = symmetric_limit(heat.to_pixels())
    frames = [_frame(heat, seen, hidden, int(index), limit, panel_px) for index in shown]
    frames += [frames[-1]] * max(1, len(frames) // 10)  # the finished map stays a moment
    buffer = BytesIO()
    duration_ms = max(20, round(1000 * seconds / len(frames)))
    if suffix == ".gif":
        frames = [frame.quantize(128) for frame in frames]
    frames[0].save(
        buffer,
        format="GIF" if suffix == ".gif" else "PNG",
        save_all=True,
        append_images=frames[1:],
        duration=duration_ms,
        loop=0,
    )
    return buffer.getvalue()


def _seen_by_the_network(heat: Heatmap) -> npt.NDArray[np.float64]:
    """The part of the picture that is the model's input: RGB (H, W, 3) in 0..1, black where it was padded."""
    from PIL import Image  # noqa: PLC0415

    place = heat.placement
    pixels = np.uint8(np.rint(heat.source().unit_pixels() * 255))
    top, left, height, width = place.source_box(0, 0, *place.model_size)
    box = (round(left), round(top), round(left + width), round(top + height))
    cut = Image.fromarray(pixels).crop(box)
    resized = cut.resize((place.model_size[1], place.model_size[0]), Image.Resampling.BILINEAR)
    return np.asarray(resized, np.float64) / 255


def _hidden(heat: Heatmap, seen: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """What the whole picture would be if it were hidden: the fill, (H, W, 3)."""
    fill = heat.cells.key.fill
    if fill == "blur":
        from PIL import Image, ImageFilter  # noqa: PLC0415

        sigma = _BLUR_SIGMA * min(seen.shape[:2])
        blurred = Image.fromarray(np.uint8(seen * 255)).filter(ImageFilter.GaussianBlur(sigma))
        return np.asarray(blurred, np.float64) / 255
    colour: Any = seen.mean(axis=(0, 1)) if fill == "mean" else _CONSTANTS.get(fill)
    if colour is None:
        colour = [float(part) for part in re.findall(r"[\d.e+-]+", fill)]
    return np.broadcast_to(np.asarray(colour, np.float64), seen.shape)


def _frame(
    heat: Heatmap,
    seen: npt.NDArray[np.float64],
    hidden: npt.NDArray[np.float64],
    index: int,
    limit: float,
    panel_px: int,
) -> Image:
    from PIL import Image, ImageDraw, ImageFont  # noqa: PLC0415

    cell = heat.cell(*divmod(index, heat.shape[1]))
    left = seen.copy()
    window = (slice(cell.top, cell.top + cell.height), slice(cell.left, cell.left + cell.width))
    left[window] = hidden[window]
    right = blended(0.55 * seen + 0.15, _pixels_up_to(heat, index), limit, 0.85)
    scale = panel_px / max(seen.shape[:2])
    size = (round(seen.shape[1] * scale), round(seen.shape[0] * scale))
    frame = Image.new("RGB", (2 * size[0] + 3 * _GAP_PX, size[1] + _CAPTION_PX + _GAP_PX), "white")
    draw = ImageDraw.Draw(frame)
    box = [cell.left * scale, cell.top * scale, (cell.left + cell.width) * scale, (cell.top + cell.height) * scale]
    for number, pixels in enumerate((np.uint8(np.rint(left * 255)), right)):
        x = _GAP_PX + number * (size[0] + _GAP_PX)
        frame.paste(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR), (x, _CAPTION_PX))
        place = [box[0] + x, box[1] + _CAPTION_PX, box[2] + x, box[3] + _CAPTION_PX]
        draw.rectangle(place, outline="black", width=3)
        draw.rectangle([place[0] + 1, place[1] + 1, place[2] - 1, place[3] - 1], outline="white")
    font = ImageFont.load_default(13)
    score = f"{heat.score_kind.replace('_', '-')} {heat.clean_score:.3g} -> {cell.score:.3g}"
    draw.text((_GAP_PX, 4), f"window {index + 1} of {heat.scores.size} hidden: {score}", "black", font)
    said = f"importance {cell.importance_text}" if math.isfinite(cell.importance) else "not computed"
    if math.isfinite(cell.importance) and not cell.exact:
        said += f" ({estimated_note(heat.cells.quality)})"
    draw.text((_GAP_PX, 21), f"{heat.class_name}: {said}", "black", font)
    return frame


def _pixels_up_to(heat: Heatmap, index: int) -> npt.NDArray[np.float32]:
    """The per-pixel mean of the windows up to `index`, in reading order; NaN elsewhere."""
    known = np.arange(heat.scores.size).reshape(heat.shape) <= index
    logit = np.where(known, heat.cells.logit, np.float32(np.nan))
    return replace(heat, cells=replace(heat.cells, logit=logit)).to_pixels()
