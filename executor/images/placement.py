"""Where a pixel of the model's input lies in the source image: plain geometry, one scale and offset an axis.

Used by preprocessing to resize and crop, and by drawing to map a window back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from obeql.planner.catalog import Preprocessing

__all__ = ["Placement", "place"]


@dataclass(frozen=True, slots=True)
class Placement:
    """The resize and the crop (or padding) that turn a source into the model's input.

    All tuples have one number an axis, the slowest first: (vertical, horizontal) of images. `source_size` and
    `model_size` are in pixels, a signal has one row; the source is resized to `resized_size`, of which the model's
    input is the part that starts at `crop` (negative where the input is padded). Pixel edges map by
    `source = offset + scale * model`: edge 0 is the first border of an axis, of images the upper or left one.
    """

    source_size: tuple[int, ...]
    resized_size: tuple[int, ...]
    crop: tuple[int, ...]
    model_size: tuple[int, ...]

    @property
    def scale(self) -> tuple[float, ...]:
        """Source pixels per pixel of the model's input."""
        return tuple(there / here for there, here in zip(self.source_size, self.resized_size, strict=True))

    @property
    def offset(self) -> tuple[float, ...]:
        """Source position, in pixels, of the first corner of the model's input."""
        return tuple(start * scale for start, scale in zip(self.crop, self.scale, strict=True))

    def source_box(self, *box: float) -> tuple[float, ...]:
        """Map a box of the model's input, its starts and then its extents, to source pixels.

        Of images a box is (top, left, height, width).
        """
        n_axes = len(self.model_size)
        starts = zip(self.offset, self.scale, box[:n_axes], strict=True)
        extents = zip(self.scale, box[n_axes:], strict=True)
        return (*(offset + scale * at for offset, scale, at in starts), *(scale * size for scale, size in extents))


def place(source_size: tuple[int, ...], how: Preprocessing, *, ready: bool = False) -> Placement:
    """Return how a source of this size becomes the input of a model.

    `squash` resizes every side to `how.size`. `shortest` resizes the shorter side to `how.edge` (the longer side of
    `how.size` when unset), the other to int(edge * long / short), and takes the centre, padding with black where the
    resized image is smaller: sizes and rounding are those of torchvision's Resize and CenterCrop. `ready` sources
    (arrays) that already have the model's size are used as they are. `none` and `crop_pad` resize nothing.
    """
    size = how.map_size
    if how.resize in ("none", "crop_pad"):
        crop = tuple(_crop_start(there, here, "down") for there, here in zip(source_size, size, strict=True))
        return Placement(source_size, source_size, crop, size)
    if (ready and source_size == size) or how.resize == "squash":
        return Placement(source_size, size, (0,) * len(size), size)
    height, width = source_size
    edge = how.edge if how.edge is not None else max(size)
    resized = (int(edge * height / width), edge) if width <= height else (edge, int(edge * width / height))
    crop = (_crop_start(resized[0], size[0], how.crop), _crop_start(resized[1], size[1], how.crop))
    return Placement(source_size, resized, crop, size)


def _crop_start(size: int, wanted: int, rounding: Literal["even", "down"]) -> int:
    # torchvision rounds the start of a crop half to even, transformers down; both pad the smaller half first.
    if size >= wanted:
        return round((size - wanted) / 2.0) if rounding == "even" else (size - wanted) // 2
    return -((wanted - size) // 2)
