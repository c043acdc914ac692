"""A film of the sliding window, for teaching: what the network sees on the left, the map as it grows on the right.

Comes after a map is complete; drawn with Pillow in the pixels of the model's input. A film of a volume goes through its
planes: the scan on the left, the map over it on the right.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from obeql.drawing.colors import Bytes, Palette, Sign, bar_pixels, checked_limit, hatching, limit_of, palette
from obeql.drawing.legend import NOT_COMPUTED, ends_text, scale_text, uncovered
from obeql.drawing.slices import Slice, slices_across
from obeql.errors import QueryTypeError, nearest
from obeql.planner.fills import BLUR_SIGMA, CONSTANTS, fill_numbers
from obeql.results.quality_text import estimated_note

if TYPE_CHECKING:
    from PIL.Image import Image

    from obeql.results.heatmap import Heatmap

__all__ = ["FILM_SUFFIXES", "film_bytes"]

FILM_SUFFIXES = (".gif", ".apng", ".png")

_CAPTION_PX = 40
_SCALE_PX = 44
_GAP_PX = 12
#: Height and width of the color bar, and lines of a hatch along a panel.
_BAR_PX = (10, 120)
_HATCH_LINES = 36


@dataclass(frozen=True, slots=True, eq=False)
class _Scene:
    """What all frames share: the network's view of the picture, what hides it, RGB (H, W, 3) in 0..1, and the colors.

    `hatch` (height, width, RGBA) lies over the panel of the map, where no window was computed.
    """

    heat: Heatmap
    seen: npt.NDArray[np.float64]
    hidden: npt.NDArray[np.float64]
    chosen: Palette
    limit: float
    size: tuple[int, int]
    hatch: Image


def film_bytes(
    heat: Heatmap,
    suffix: str,
    *,
    seconds: float = 8.0,
    n_frames: int = 80,
    panel_px: int = 300,
    limit: float | None = None,
    alpha: float | None = None,
    cmap: Any = None,
    sign: Sign = "all",
) -> bytes:
    """Return a GIF (`.gif`) or an APNG (`.apng`, `.png`) that lasts `seconds` and runs for ever.

    A film of `n_frames` shows evenly spread windows in reading order, and on the right all windows up to that one, in
    the colors of `Heatmap.plot`. Windows that were not computed are not shown; their pixels are hatched. fill=zero, the
    mean color of a network's training images, is drawn as mid-gray. Raises ImageError when the picture is gone,
    QueryTypeError for other suffixes and numbers that make no film.
    """
    if suffix not in FILM_SUFFIXES:
        raise QueryTypeError(
            f"'{suffix}' is no animation; allowed are {' '.join(FILM_SUFFIXES)}.{nearest(suffix, FILM_SUFFIXES)}"
        )
    if not (seconds > 0 and n_frames >= 2 and panel_px >= 64):
        raise QueryTypeError("an animation needs seconds > 0, n_frames >= 2 and panel_px >= 64")
    if heat.n_axes == 1:
        raise QueryTypeError(f"'{heat.image}' is a signal, and animations show windows of images: plot draws its map")
    chosen = palette(alpha, cmap, sign)
    if not np.isfinite(heat.importance).any():
        raise QueryTypeError(f"no window of '{heat.image}' was computed: there is nothing to animate")
    if heat.n_axes > 2:
        views = slices_across(heat, 0, n_frames)
        frames = [_plane_frame(view, chosen, checked_limit(limit) or limit_of(heat, sign), panel_px) for view in views]
        return _film_of(frames, suffix, seconds, bar_pixels(chosen, frames[0].width))
    seen = _seen_by_the_network(heat)
    zoom = panel_px / max(seen.shape[:2])
    size = (round(seen.shape[1] * zoom), round(seen.shape[0] * zoom))
    scene = _Scene(
        heat,
        seen,
        _hidden(heat, seen),
        chosen,
        checked_limit(limit) or limit_of(heat, sign),
        size,
        _hatch(heat, size),
    )
    known = np.flatnonzero(np.isfinite(heat.importance.reshape(-1)))
    shown = known[np.unique(np.linspace(0, len(known) - 1, min(n_frames, len(known))).astype(int))]
    frames = [_frame(scene, int(index)) for index in shown]
    frames += [frames[-1]] * max(1, len(frames) // 10)  # the finished map stays a moment
    return _film_of(frames, suffix, seconds, bar_pixels(chosen, size[0]))


def _film_of(frames: list[Image], suffix: str, seconds: float, bar: Bytes) -> bytes:
    """Return RGB frames of one size as a film; `bar` are the colors of its scale, uint8 (2, n, 3)."""
    buffer = BytesIO()
    duration_ms = max(20, round(1000 * seconds / len(frames)))
    if suffix == ".gif":
        frames = _in_one_palette(frames, bar)
    frames[0].save(
        buffer,
        format="GIF" if suffix == ".gif" else "PNG",
        save_all=True,
        append_images=frames[1:],
        duration=duration_ms,
        loop=0,
    )
    return buffer.getvalue()


def _in_one_palette(frames: list[Image], bar: Bytes) -> list[Image]:
    """Return RGB frames in the 256 colors that suit the first, the middle and the last of them, and the scale.

    Finding colors takes a hundred times as long as using them, and colors that change from frame to frame flicker.
    `bar` are the colors of the scale, uint8 (2, n, 3).
    """
    from PIL import Image as images  # noqa: N813, PLC0415

    width, height = frames[0].size
    typical = images.new("RGB", (width, 4 * height))
    for i, frame in enumerate((frames[0], frames[len(frames) // 2], frames[-1])):
        typical.paste(frame, (0, i * height))
    typical.paste(images.fromarray(bar).resize((width, height), images.Resampling.NEAREST), (0, 3 * height))
    colors = typical.quantize(256)
    return [frame.quantize(palette=colors, dither=images.Dither.NONE) for frame in frames]


def _seen_by_the_network(heat: Heatmap) -> npt.NDArray[np.float64]:
    """Return the part of the picture that is the model's input: RGB (H, W, 3) in 0..1, black where it was padded."""
    from PIL import Image  # noqa: PLC0415

    place = heat.placement
    pixels = np.uint8(np.rint(heat.source().unit_pixels() * 255))
    top, left, height, width = place.source_box(0, 0, *place.model_size)
    box = (round(left), round(top), round(left + width), round(top + height))
    cut = Image.fromarray(pixels).crop(box)
    resized = cut.resize((place.model_size[1], place.model_size[0]), Image.Resampling.BILINEAR)
    return np.asarray(resized, np.float64) / 255


def _hidden(heat: Heatmap, seen: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return what the whole picture would be if it were hidden: the fill, (H, W, 3)."""
    fill = heat.cells.key.fill
    if fill == "blur":
        from PIL import Image, ImageFilter  # noqa: PLC0415

        sigma = BLUR_SIGMA * min(seen.shape[:2])
        blurred = Image.fromarray(np.uint8(seen * 255)).filter(ImageFilter.GaussianBlur(sigma))
        return np.asarray(blurred, np.float64) / 255
    color: Any = fill_numbers(fill) or CONSTANTS.get(fill)
    if fill == "zero":  # after normalization, which mostly takes off what is near gray
        color = CONSTANTS["gray"]
    elif color is None:
        color = seen.mean(axis=(0, 1))
    return np.broadcast_to(np.asarray(color, np.float64), seen.shape)


def _hatch(heat: Heatmap, size: tuple[int, int]) -> Image:
    """Return what no window covers, as a picture of (width, height) `size`."""
    from PIL import Image  # noqa: PLC0415

    unknown = Image.fromarray(uncovered(heat)).resize(size, Image.Resampling.NEAREST)
    return Image.fromarray(hatching(np.asarray(unknown, bool), max(3, max(size) // _HATCH_LINES)))


def _frame(scene: _Scene, index: int) -> Image:
    from PIL import Image, ImageDraw, ImageFont  # noqa: PLC0415

    heat, seen, size = scene.heat, scene.seen, scene.size
    cell = heat.cell(*divmod(index, heat.shape[1]))
    left = seen.copy()
    window = (slice(cell.top, cell.top + cell.height), slice(cell.left, cell.left + cell.width))
    left[window] = scene.hidden[window]
    right = scene.chosen.blended(0.55 * seen + 0.15, _pixels_up_to(heat, index), scene.limit)
    zoom = size[1] / seen.shape[0]
    frame = Image.new("RGB", (2 * size[0] + 3 * _GAP_PX, size[1] + _CAPTION_PX + _SCALE_PX), "white")
    draw = ImageDraw.Draw(frame)
    box = [cell.left * zoom, cell.top * zoom, (cell.left + cell.width) * zoom, (cell.top + cell.height) * zoom]
    for number, pixels in enumerate((np.uint8(np.rint(left * 255)), right)):
        x = _GAP_PX + number * (size[0] + _GAP_PX)
        frame.paste(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR), (x, _CAPTION_PX))
        if number == 1:
            frame.paste(scene.hatch, (x, _CAPTION_PX), scene.hatch)
        place = [box[0] + x, box[1] + _CAPTION_PX, box[2] + x, box[3] + _CAPTION_PX]
        draw.rectangle(place, outline="black", width=3)
        draw.rectangle([place[0] + 1, place[1] + 1, place[2] - 1, place[3] - 1], outline="white")
    font = ImageFont.load_default(13)
    score = f"{heat.score_kind.replace('_', '-')} {heat.clean_score:.3g} -> {cell.score:.3g}"
    draw.text((_GAP_PX, 4), f"window {index + 1} of {heat.scores.size} hidden: {score}", "black", font)
    estimated = "" if cell.exact else f" ({estimated_note(heat.cells.quality)})"
    draw.text((_GAP_PX, 21), f"{heat.class_name}: importance {cell.importance_text}{estimated}", "black", font)
    _draw_scale(frame, scene)
    return frame


def _plane_frame(view: Slice, chosen: Palette, limit: float, panel_px: int) -> Image:
    """Return the frame of one plane of a volume: the scan, and the scan with the map over it."""
    from PIL import Image, ImageDraw, ImageFont  # noqa: PLC0415

    seen = _seen_by_the_network(view.heat)
    zoom = panel_px / max(seen.shape[:2])
    size = (round(seen.shape[1] * zoom), round(seen.shape[0] * zoom))
    scene = _Scene(view.heat, seen, seen, chosen, limit, size, _hatch(view.heat, size))
    frame = Image.new("RGB", (2 * size[0] + 3 * _GAP_PX, size[1] + _CAPTION_PX + _SCALE_PX), "white")
    right = chosen.blended(0.55 * seen + 0.15, view.pixels, limit)
    for number, pixels in enumerate((np.uint8(np.rint(seen * 255)), right)):
        x = _GAP_PX + number * (size[0] + _GAP_PX)
        frame.paste(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR), (x, _CAPTION_PX))
    frame.paste(scene.hatch, (x, _CAPTION_PX), scene.hatch)
    draw, font = ImageDraw.Draw(frame), ImageFont.load_default(13)
    draw.text((_GAP_PX, 4), view.title, "black", font)
    known = view.pixels[np.isfinite(view.pixels)]
    best = f"largest importance {known.max():+.3g}" if known.size else NOT_COMPUTED
    draw.text((_GAP_PX, 21), f"{view.heat.class_name}: {best}", "black", font)
    _draw_scale(frame, scene)
    return frame


def _draw_scale(frame: Image, scene: _Scene) -> None:
    """Draw the color bar and what it and the hatch mean below the panels."""
    from PIL import Image, ImageDraw, ImageFont  # noqa: PLC0415

    draw, font = ImageDraw.Draw(frame), ImageFont.load_default(12)
    top = _CAPTION_PX + scene.size[1] + 6
    low, high = (scene.limit * end for end in scene.chosen.span)
    against, for_class = ends_text(scene.chosen.sign, scene.heat.score_kind)
    x = _GAP_PX
    for text in (f"{against} {low:+.3g}" if low else "0", None, f"{high:+.3g} {for_class}" if high else "0"):
        if text is None:
            bar = Image.fromarray(bar_pixels(scene.chosen, _BAR_PX[1])).resize(
                (_BAR_PX[1], _BAR_PX[0]), Image.Resampling.NEAREST
            )
            frame.paste(bar, (x, top + 2))
            draw.rectangle([x, top + 2, x + _BAR_PX[1] - 1, top + 1 + _BAR_PX[0]], outline="gray")
            x += _BAR_PX[1] + 6
        else:
            draw.text((x, top), text, "black", font)
            x += round(draw.textlength(text, font)) + 6
    words = scale_text(scene.heat.score_kind)
    draw.text((_GAP_PX, top + 18), words, "dimgray", font)
    if uncovered(scene.heat).any():
        x = _GAP_PX + round(draw.textlength(words, font)) + 16
        swatch = Image.fromarray(hatching(np.ones((11, 18), bool), 5))
        frame.paste(swatch, (x, top + 20), swatch)
        draw.text((x + 23, top + 18), NOT_COMPUTED, "dimgray", font)


def _pixels_up_to(heat: Heatmap, index: int) -> npt.NDArray[np.float32]:
    """Return the per-pixel mean of the windows up to `index`, in reading order; NaN elsewhere."""
    known = np.arange(heat.scores.size).reshape(heat.shape) <= index
    logit = np.where(known, heat.cells.logit, np.float32(np.nan))
    return replace(heat, cells=replace(heat.cells, logit=logit)).to_pixels()
