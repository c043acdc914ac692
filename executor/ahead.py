"""Decoding the next image while the present one is computed.

`run` takes image after image from here instead of decoding them itself. One thread, one image ahead: that hides
decoding wherever it is faster than computing, and costs the memory of one more image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

import numpy as np
import numpy.typing as npt

from obeql.executor.images import ModelInput, SourceImage, fill_values, preprocess
from obeql.planner.catalog import ImageRecord, Preprocessing

__all__ = ["DecodedImage", "ImagesAhead", "decode"]

#: After an image of more pixels than this the next one is decoded only when it is needed: two would weigh too much.
_MOST_PIXELS = 50_000_000


@dataclass(frozen=True, slots=True, eq=False)
class DecodedImage:
    """An image, what the model is given of it, and the values that hide a part of that, (C,) or (C, H, W)."""

    source: SourceImage
    model_input: ModelInput
    fill: npt.NDArray[np.float32]


def decode(
    load: Callable[[ImageRecord], SourceImage], image: ImageRecord, how: Preprocessing, fill: str
) -> DecodedImage:
    """Read an image and prepare it for a model. Raises ImageError."""
    source = load(image)
    model_input = preprocess(source, how)
    return DecodedImage(source, model_input, fill_values(fill, model_input, how))


class ImagesAhead:
    """Decoded images in order, the next one in the making. A context manager, which waits for the thread at its end."""

    def __init__(self, images: Sequence[ImageRecord], decode: Callable[[ImageRecord], DecodedImage]) -> None:
        self._images = images
        self._decode = decode
        self._next: tuple[int, Future[DecodedImage]] | None = None
        self._thread = ThreadPoolExecutor(1, "obeql-decode") if len(images) > 1 else None

    def take(self, number: int) -> DecodedImage:
        """The image of this place, decoded; raises what decoding it raised."""
        ahead, self._next = self._next, None
        try:
            decoded = ahead[1].result() if ahead and ahead[0] == number else self._decode(self._images[number])
        except Exception:
            self._begin(number + 1)
            raise
        if decoded.source.pixels[..., 0].size <= _MOST_PIXELS:
            self._begin(number + 1)
        return decoded

    def _begin(self, number: int) -> None:
        if self._thread is not None and number < len(self._images):
            self._next = number, self._thread.submit(self._decode, self._images[number])

    def __enter__(self) -> ImagesAhead:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._next = None
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
