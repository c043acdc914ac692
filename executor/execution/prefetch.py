"""Decoding the next images while the present ones are computed.

`executor` takes group after group of images from here instead of decoding them itself. One thread, one image ahead,
several where they are small: that hides decoding wherever it is faster than computing, for little memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from types import TracebackType
from typing import Protocol

import numpy as np
import numpy.typing as npt

from obeql.executor.images import ModelInput, SourceImage, fill_values, preprocess
from obeql.planner.catalog import ImageRecord, Preprocessing
from obeql.planner.fills import SIGNAL_FILLS

__all__ = ["DecodedImage", "ImageFeed", "ImagePrefetcher", "Listed", "decode"]

#: After an image of more pixels than this the next one is decoded only when it is needed: two would weigh too much.
_MOST_PIXELS = 50_000_000
#: So many images are decoded ahead at most, as far as they fit into so many bytes.
_MOST_AHEAD, _AHEAD_BYTES = 32, 32_000_000


@dataclass(frozen=True, slots=True, eq=False)
class DecodedImage:
    """An image, what the model is given of it, and the values that hide a part of that, (C,) or (C, H, W).

    `fill` is None where it is worked out from each window.
    """

    source: SourceImage
    model_input: ModelInput
    fill: npt.NDArray[np.float32] | None

    def n_ahead(self) -> int:
        """Return how many images like this one may be decoded ahead."""
        if self.source.pixels[..., 0].size > _MOST_PIXELS:
            return 0
        n_bytes = self.source.pixels.nbytes + self.model_input.values.nbytes
        return max(1, min(_MOST_AHEAD, _AHEAD_BYTES // max(1, n_bytes)))


def decode(
    load: Callable[[ImageRecord, int], SourceImage], image: ImageRecord, how: Preprocessing, fill: str
) -> DecodedImage:
    """Read an image and prepare it for a model. Raises ImageError."""
    source = load(image, len(how.size))
    model_input = preprocess(source, how)
    values = None if fill in SIGNAL_FILLS else fill_values(fill, model_input, how)
    return DecodedImage(source, model_input, values)


class ImageFeed(Protocol):
    """Where a run gets its images from, in groups that go through the network together."""

    def next(self, ahead: bool) -> Sequence[ImageRecord] | None:
        """Return the next group; None at the end, or, asked `ahead` of its turn, where it is not to be had yet."""
        ...


class Listed:
    """The feed of a plain list, so many images together."""

    def __init__(self, images: Sequence[ImageRecord], together: int = 1) -> None:
        self._left = iter([images[first : first + together] for first in range(0, len(images), together)])

    def next(self, ahead: bool) -> Sequence[ImageRecord] | None:
        return next(self._left, None)


class ImagePrefetcher:
    """Goes through the groups of a feed, the next images in the making.

    Iterating gives the groups; `take`, once for each image of a group, the next one of it decoded. A context manager,
    which waits for the thread at its end.
    """

    def __init__(self, feed: ImageFeed, decode: Callable[[ImageRecord], DecodedImage]) -> None:
        self._feed = feed
        self._decode = decode
        #: images of the present group that are not taken yet; the group after it, once it is there
        self._left: deque[ImageRecord] = deque()
        self._coming: Sequence[ImageRecord] | None = None
        #: whether the group after the present one was asked for early; asking costs a worker a message
        self._asked = False
        #: the images after those that are taken, as far as they are decoded ahead
        self._ahead: deque[Future[DecodedImage]] = deque()
        self._thread = ThreadPoolExecutor(1, "obeql-decode")  # which starts with the first image that is decoded ahead

    def __iter__(self) -> Iterator[Sequence[ImageRecord]]:
        while True:
            group, self._coming = self._coming, None
            group = self._feed.next(ahead=False) if group is None else group
            if group is None:
                return
            self._left, self._asked = deque(group), False
            yield group

    def take(self) -> DecodedImage:
        """Return the next image of the present group, decoded; raises what decoding it raised."""
        image = self._left.popleft()
        try:
            decoded = self._ahead.popleft().result() if self._ahead else self._decode(image)
        except Exception:
            self._begin(1)
            raise
        self._begin(decoded.n_ahead())
        return decoded

    def _begin(self, n_ahead: int) -> None:
        """Have so many of the images to come decoded ahead, those of the next group among them."""
        if len(self._left) < n_ahead and self._coming is None and not (self._asked and self._left):
            self._coming, self._asked = self._feed.next(ahead=True), True
        to_come = chain(self._left, self._coming or ())
        for image in islice(to_come, len(self._ahead), n_ahead):
            self._ahead.append(self._thread.submit(self._decode, image))

    def __enter__(self) -> ImagePrefetcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ahead.clear()
        self._thread.shutdown(cancel_futures=True)
