"""Images decoded ahead of the one that is computed."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from obeql.errors import ImageError
from obeql.executor.execution import prefetch
from obeql.executor.execution.prefetch import DecodedImage, ImagePrefetcher, Listed, decode
from obeql.executor.images import decode_object
from obeql.planner.catalog import ImageRecord, Preprocessing

HOW = Preprocessing((8, 8))
IMAGES = [ImageRecord(f"image{number}.png") for number in range(4)]


def _decoded(image: ImageRecord) -> DecodedImage:
    pixels = np.full((8, 8, 3), int(image.shown[5]), np.uint8)
    return decode(lambda record, n_axes: decode_object(pixels, record.shown), image, HOW, "mean")


def test_images_come_in_order_one_ahead() -> None:
    begun: list[tuple[str, bool]] = []
    present = threading.Event()

    def slow(image: ImageRecord) -> DecodedImage:
        begun.append((image.shown, threading.current_thread() is threading.main_thread()))
        if image is IMAGES[1]:
            present.set()
        return _decoded(image)

    shown: list[str] = []
    with ImagePrefetcher(Listed(IMAGES), slow) as images:
        for _ in images:
            shown.append(images.take().source.shown)
            assert present.wait(30)  # the second is decoded while the first is worked on
    assert shown == [image.shown for image in IMAGES]
    assert begun == [("image0.png", True), *((image.shown, False) for image in IMAGES[1:])]


def test_a_bad_image_is_told_in_its_turn() -> None:
    def bad(image: ImageRecord) -> DecodedImage:
        if image is IMAGES[1]:
            raise ImageError("image1.png is damaged")
        return _decoded(image)

    with ImagePrefetcher(Listed(IMAGES[:3]), bad) as images:
        turns = iter(images)
        next(turns)
        images.take()
        next(turns)
        with pytest.raises(ImageError, match="damaged"):
            images.take()
        next(turns)
        assert images.take().source.shown == "image2.png"
        assert next(turns, None) is None


def test_a_feed_that_has_none_ahead_is_asked_again_in_turn() -> None:
    class OneByOne(Listed):
        def next(self, ahead: bool) -> ImageRecord | None:
            return None if ahead else super().next(ahead)

    with ImagePrefetcher(OneByOne(IMAGES), _decoded) as images:
        assert [images.take().source.shown for _ in images] == [image.shown for image in IMAGES]


def test_large_images_are_decoded_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "_MOST_PIXELS", 63)
    threads: list[Any] = []

    def watched(image: ImageRecord) -> DecodedImage:
        threads.append(threading.current_thread())
        return _decoded(image)

    with ImagePrefetcher(Listed(IMAGES), watched) as images:
        for _ in images:
            images.take()
    assert set(threads) == {threading.main_thread()}


@pytest.mark.parametrize(("n_bytes", "most"), [(32 * 960, 32), (2 * 960, 2), (1, 1)])
def test_so_many_small_images_are_decoded_ahead_as_the_memory_for_them_holds(
    n_bytes: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "_AHEAD_BYTES", n_bytes)  # an image and its input are 192 + 768 bytes
    images = [ImageRecord(f"image{number % 10}.png") for number in range(80)]
    n_ahead: list[int] = []
    with ImagePrefetcher(Listed(images, 16), _decoded) as ahead:
        for group in ahead:
            for image in group:
                assert ahead.take().source.shown == image.shown
                n_ahead.append(len(ahead._ahead))
    assert len(n_ahead) == 80
    assert max(n_ahead) == min(most, 31)  # of the group at work and the one after it
    assert n_ahead[-1] == 0


def test_a_feed_that_has_nothing_yet_is_asked_twice_a_group_at_most() -> None:
    class Busy(Listed):
        n_asked = 0

        def next(self, ahead: bool) -> Any:
            self.n_asked += ahead
            return None if ahead else super().next(ahead)

    images = [ImageRecord(f"image{number % 10}.png") for number in range(48)]
    feed = Busy(images, 16)
    with ImagePrefetcher(feed, _decoded) as decoded:
        shown = [decoded.take().source.shown for group in decoded for _ in group]
    assert shown == [image.shown for image in images]
    assert feed.n_asked == 2 * 3
