"""Clips: the frames of a video or of a folder of pictures in their order, as a volume whose slowest axis is time.

Called by `volume_files`; PyAV decodes videos (the extra `video`), Pillow pictures. Frames are RGB in 0..1, as images.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from obeql.errors import ImageError, install
from obeql.executor.images.volume_limits import MOST_VOXELS, require_small_volume
from obeql.planner.binding.image_paths import Frames

__all__ = ["VIDEO_SUFFIXES", "read_frames", "read_video"]

#: Suffixes of videos, in lower case.
VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".gif"})

Picture = npt.NDArray[np.float32]


def read_video(path: Path, shown: str, asked: Frames) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
    """Return the frames (3, frames, height, width) of a video, float32 in 0..1, and how many a second there are.

    Raises ImageError without PyAV, for a file that it cannot read, and for a video that ends too early.
    """
    try:
        av: Any = importlib.import_module("av")
    except ImportError:
        raise ImageError(f"videos need the av package: '{shown}'; {install('video')}") from None
    try:
        with av.open(str(path), metadata_errors="ignore") as container:
            if not container.streams.video:
                raise ImageError(f"'{shown}' holds no video")
            stream = container.streams.video[0]
            size = int(stream.codec_context.height), int(stream.codec_context.width)
            require_small_volume((3, asked.frames or 1, *size), shown)
            pictures, n_seen = [], 0
            most = MOST_VOXELS // (3 * size[0] * size[1])
            for number, frame in enumerate(container.decode(stream)):
                n_seen = number + 1
                if asked.wants(number):
                    pictures.append(frame.to_ndarray(format="rgb24"))
                if len(pictures) == asked.frames:
                    break
                if len(pictures) > most:
                    raise ImageError(
                        f"'{shown}' has more than {most} frames of {size[0]}x{size[1]}, more than are read; "
                        f"'{path.name}#frames=16' takes the first 16"
                    )
            rate = stream.average_rate
    except ImageError:
        raise
    except (av.error.FFmpegError, ValueError, OSError, MemoryError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ImageError(f"'{shown}' cannot be read as video: {reason}") from None
    _require_all(len(pictures), n_seen, asked, shown)
    clip = np.stack(pictures).astype(np.float32)
    clip /= np.float32(255)
    facts = {} if not rate else {"frames_per_second": float(rate) / asked.every}
    return np.ascontiguousarray(clip.transpose(3, 0, 1, 2)), facts


def read_frames(
    files: Sequence[Path], shown: str, asked: Frames, decode: Callable[[Path], Picture]
) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
    """Return pictures, in the order of their names, as a clip (3, frames, height, width), float32 in 0..1.

    `decode` reads one as RGB (height, width, 3) in 0..1. Raises ImageError for too few, and for pictures of several
    sizes.
    """
    stop = None if asked.frames is None else asked.start + asked.every * asked.frames
    chosen = list(islice(files, asked.start, stop, asked.every))
    _require_all(len(chosen), len(files), asked, shown)
    first = decode(chosen[0])
    require_small_volume((3, len(chosen), *first.shape[:2]), shown)
    clip = np.empty((3, len(chosen), *first.shape[:2]), np.float32)
    for number, file in enumerate(chosen):
        picture = first if number == 0 else decode(file)
        if picture.shape != first.shape:
            sizes = [f"{each.shape[0]}x{each.shape[1]}" for each in (first, picture)]
            raise ImageError(
                f"the pictures of '{shown}' differ in size: {sizes[0]} ({chosen[0].name}) and {sizes[1]} ({file.name})"
            )
        clip[:, number] = picture.transpose(2, 0, 1)
    return clip, {}


def _require_all(n_found: int, n_there: int, asked: Frames, shown: str) -> None:
    """Raise ImageError where there are fewer frames than asked for, or none."""
    if n_found == 0 or (asked.frames is not None and n_found < asked.frames):
        every = f", every {asked.every}," if asked.every > 1 else ""
        wanted = f"{asked.frames} frames{every} from frame {asked.start}" if asked.frames else f"frame {asked.start}"
        raise ImageError(f"'{shown}' ends early: it has {n_there} frames, too few for {wanted}")
