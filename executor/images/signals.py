"""Signals: arrays (length) or (channels, length), from Python, files of numbers and sound files, and as model input.

Beside `decode` and `preprocess`, which hand over what is a signal. A signal is kept as an image of one row, (1, length,
channels), with the values that its source has.
"""

from __future__ import annotations

import hashlib
import importlib
import zipfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from obeql.errors import ImageError, install
from obeql.planner.catalog import Preprocessing

if TYPE_CHECKING:
    from obeql.executor.images.placement import Placement

__all__ = [
    "ARRAY_SUFFIXES",
    "SOUND_SUFFIXES",
    "checked",
    "digest_of",
    "model_values",
    "read_array",
    "read_sound",
    "signal_picture",
]

Samples = npt.NDArray[np.float32]

#: Files of numbers, which may be images or signals, and sound files, by their suffixes in lower case.
ARRAY_SUFFIXES = frozenset({".npy", ".npz"})
SOUND_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".aiff", ".aif"})

#: Columns that the picture of a signal has at least and at most.
_PICTURE_PX = 640, 2048

#: What the array of an .npz file of several is called.
_NAME = "signal"


def checked(values: Any, shown: str) -> Samples:
    """Return a signal (channels, length), float32, of an array or nested lists (length) or (channels, length).

    Raises ImageError for other shapes, lists of different lengths, no samples, values that are no finite numbers.
    """
    array = _as_array(values, shown)
    if array.ndim not in (1, 2):
        shape = "x".join(map(str, array.shape)) or "a single number"
        raise ImageError(f"signal '{shown}' has shape {shape}; allowed are (length) and (channels, length)")
    if array.dtype.kind not in "fiub":
        raise ImageError(f"signal '{shown}' has values of type {array.dtype}; allowed are numbers")
    if array.size == 0:
        raise ImageError(f"signal '{shown}' is empty: it has no samples")
    with np.errstate(over="ignore"):
        samples = np.atleast_2d(array).astype(np.float32)
    n_bad = int(np.count_nonzero(~np.isfinite(samples)))
    if n_bad:
        raise ImageError(f"signal '{shown}' has {n_bad} of {samples.size} values that are NaN or infinite")
    return samples


def _as_array(values: Any, shown: str) -> npt.NDArray[Any]:
    if isinstance(values, np.ndarray) and values.dtype != object:
        return values
    rows = list(values)
    if rows and isinstance(rows[0], (Sequence, np.ndarray)) and not isinstance(rows[0], str):
        lengths = {len(row) if isinstance(row, (Sequence, np.ndarray)) else -1 for row in rows}
        if len(lengths) > 1:
            told = ", ".join("no list" if n < 0 else str(n) for n in sorted(lengths)[:4])
            raise ImageError(f"signal '{shown}' has channels of different lengths ({told}); all have one length")
    n_missing = sum(value is None for row in rows for value in (row if isinstance(row, Sequence) else (row,)))
    if n_missing:
        raise ImageError(f"signal '{shown}' has {n_missing} values that are NULL")
    try:
        return np.asarray(rows, np.float64) if rows else np.zeros(0)
    except (TypeError, ValueError):
        raise ImageError(f"signal '{shown}' holds something else than numbers") from None


def digest_of(samples: Samples) -> str:
    """Return the identity of a signal (channels, length): the hex SHA-256 of its shape and values."""
    digest = hashlib.sha256(f"signal {samples.shape[0]}x{samples.shape[1]}\n".encode())
    digest.update(np.ascontiguousarray(samples.astype("<f4", copy=False)).data)
    return digest.hexdigest()


def read_array(path: Path, shown: str) -> npt.NDArray[Any]:
    """Return the array of an .npy file, or of an .npz file: its only one, or the one called `signal`.

    Raises ImageError for a file that is damaged, holds Python objects, or does not say which array is meant.
    """
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        with found:
            names = list(found.files)
            if len(names) != 1 and _NAME not in names:
                listed = ", ".join(names[:6]) or "none"
                raise ImageError(f"'{shown}' holds {len(names)} arrays ({listed}); call one of them {_NAME!r}")
            return np.asarray(found[_NAME if _NAME in names else names[0]])
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ImageError(f"'{shown}' cannot be read as an array: {str(error).splitlines()[0]}") from None


def read_sound(path: Path, shown: str) -> tuple[npt.NDArray[np.float32], float]:
    """Return the samples (channels, length) of a sound file, -1 to 1, and how many a second it has.

    Raises ImageError without the library, and for a file that it cannot read.
    """
    try:
        soundfile: Any = importlib.import_module("soundfile")
    except (ImportError, OSError):
        raise ImageError(f"sound files need the soundfile package: '{shown}'; {install('audio')}") from None
    try:
        frames, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (RuntimeError, OSError, TypeError) as error:
        reason = str(error).strip().splitlines()[0].rpartition(": ")[2].rstrip(".")
        raise ImageError(f"'{shown}' cannot be read as sound: {reason}") from None
    return np.ascontiguousarray(frames.T), float(rate)


def model_values(
    samples: Samples, rate_hz: float | None, shown: str, how: Preprocessing, placement: Placement
) -> Samples:
    """Return a signal (channels, length) as its source has it, of the model's length: its middle, or with zeros around.

    Raises ImageError for other channels than the model's, and, unless `resize` is crop_pad, another length.
    """
    n_channels, length = samples.shape
    (wanted,) = how.size
    if n_channels != how.n_channels:
        turned = (length, n_channels) == (how.n_channels, wanted)
        hint = ": signals are (channels, length), transpose it" if turned else ""
        raise ImageError(
            f"signal '{shown}' has {_count(n_channels, 'channel')} of {_count(length, 'sample')}, but the model takes "
            f"{_count(how.n_channels, 'channel')}{hint}"
        )
    if length == wanted:
        return samples
    if how.resize != "crop_pad":
        lasting = "" if rate_hz is None else f" ({length / rate_hz:.3g} s at {rate_hz:g} Hz)"
        raise ImageError(
            f"signal '{shown}' has {_count(length, 'sample')}{lasting}, but the model takes {wanted}; a model created "
            "with resize=crop_pad takes the middle, or puts zeros around"
        )
    start = placement.crop[1]
    if start >= 0:
        return samples[:, start : start + wanted]
    return np.pad(samples, ((0, 0), (-start, wanted - length + start)))


def signal_picture(samples: Samples) -> Samples:
    """Return the curves of a signal (channels, length) as a picture, RGB (height, width, 3) in 0..1: black on white.

    For what shows pictures alone. The channels stand below each other.
    """
    n_channels, length = samples.shape
    width = min(max(length, _PICTURE_PX[0]), _PICTURE_PX[1])
    height = width // 3
    picture = np.ones((height, width), np.float32)
    edges = np.linspace(0, length - 1, width + 1)
    for number, values in enumerate(samples[: height // 8]):
        n_shown = min(n_channels, height // 8)
        top, bottom = (height * k // n_shown for k in (number, number + 1))
        low, high = float(values.min()), float(values.max())
        room = bottom - top - 3
        at = np.interp(edges, np.arange(length), values)
        scaled = (high - at) / (high - low) * (room - 1) if high > low else np.full(len(at), room / 2)
        rows = np.round(scaled).astype(int) + top + 1
        for column, (first, last) in enumerate(pairwise(rows.tolist())):
            picture[min(first, last) : max(first, last) + 2, column] = 0.1
    return np.repeat(picture[:, :, None], 3, axis=2)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
