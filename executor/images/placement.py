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
    """The resize and the crop (or padding) that turn a source image into the model's input.

    All pairs are (vertical, horizontal). `source_size` and `model_size` are (height, width) in pixels; the source is
    resized to `resized_size`, of which the model's input is the part that starts at `crop` (negative where the input
    is padded). Pixel edges map by `source = offset + scale * model`: edge 0 is the upper or left border.
    """

    source_size: tuple[int, int]
    resized_size: tuple[int, int]
    crop: tuple[int, int]
    model_size: tuple[int, int]

    @property
    def scale(self) -> tuple[float, float]:
        """Source pixels per pixel of the model's input."""
        return self.source_size[0] / self.resized_size[0], self.source_size[1] / self.resized_size[1]

    @property
    def offset(self) -> tuple[float, float]:
        """Source position, in pixels, of the upper left corner of the model's input."""
        scale = self.scale
        return self.crop[0] * scale[0], self.crop[1] * scale[1]

    def source_box(self, top: float, left: float, height: float, width: float) -> tuple[float, float, float, float]:
        """Map a box (top, left, height, width) of the model's input to source pixels."""
        (sy, sx), (oy, ox) = self.scale, self.offset
        return oy + sy * top, ox + sx * left, sy * height, sx * width


def place(source_size: tuple[int, int], how: Preprocessing, *, ready: bool = False) -> Placement:
    """Return how a source of (height, width) becomes the input of a model.

    `squash` resizes both sides to `how.size`. `shortest` resizes the shorter side to `how.edge` (the longer side of
    `how.size` when unset), the other to int(edge * long / short), and takes the centre, padding with black where the
    resized image is smaller: sizes and rounding are those of torchvision's Resize and CenterCrop. `ready` sources
    (arrays) that already have the model's size are used as they are. `none` and `crop_pad` resize nothing.
    """
    size = how.map_size
    if how.resize in ("none", "crop_pad"):
        crop = (_crop_start(source_size[0], size[0], "down"), _crop_start(source_size[1], size[1], "down"))
        return Placement(source_size, source_size, crop, size)
    if (ready and source_size == size) or how.resize == "squash":
        return Placement(source_size, size, (0, 0), size)
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
