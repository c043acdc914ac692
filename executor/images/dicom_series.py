"""A series of DICOM slices as one volume: a folder of files, or one file of several frames (the extra `dicom`).

Called by `volume_files`; pydicom does the reading. Slices are put in order by where they lie along the normal of their
plane; their values are rescaled (slope and intercept), in Hounsfield units of a CT.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from obeql.errors import ImageError, install
from obeql.executor.images.dicom import is_dicom
from obeql.executor.images.volume_limits import require_small_volume

__all__ = ["read_series"]

#: Where two steps between slices differ by more than this share, one is missing.
_SAME_STEP = 0.05
#: Cosines and millimetres closer than this are one.
_SAME = 1e-3

_TAGS = (
    *("SeriesInstanceUID", "Rows", "Columns", "NumberOfFrames", "ImagePositionPatient", "ImageOrientationPatient"),
    *("PixelSpacing", "SamplesPerPixel", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)


#: What says where a frame lies, by the functional group that holds it in files of several frames.
_PLACES = {
    "PlanePositionSequence": "ImagePositionPatient",
    "PlaneOrientationSequence": "ImageOrientationPatient",
    "PixelMeasuresSequence": "PixelSpacing",
}


@dataclass(frozen=True, slots=True, eq=False)
class _Slice:
    """One frame of a file: where its first pixel lies, in mm, and how its rows and columns run."""

    file: Path
    frame: int
    series: str
    size: tuple[int, int]
    position: npt.NDArray[np.float64]
    along: npt.NDArray[np.float64]
    spacing: tuple[float, float]

    @property
    def normal(self) -> npt.NDArray[np.float64]:
        return np.cross(self.along[:3], self.along[3:])

    @property
    def height(self) -> float:
        """Return how far along the normal the slice lies, in mm."""
        return float(self.position @ self.normal)


def read_series(path: Path, shown: str) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
    """Return the voxels (slice, row, column), float32, of the DICOM files in a folder, or of the frames of a file.

    With them `affine`, from voxels to millimetres (RAS), `spacing` and `series_uid`.

    Raises ImageError without pydicom, for a folder of several series or sizes, for slices that say no place, are twice
    there or missing, and for files that cannot be read.
    """
    try:
        pydicom: Any = importlib.import_module("pydicom")
    except ImportError:
        raise ImageError(f"a series of DICOM files needs pydicom: '{shown}'; {install('dicom')}") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values that break the standard, which many files have
        try:
            slices = _in_order(list(_slices(pydicom, path, shown)), shown)
            step = _step(slices, shown)
            return _voxels(pydicom, slices, shown), _facts(slices, step)
        except ImageError:
            raise
        except MemoryError:
            raise ImageError(f"the DICOM series '{shown}' does not fit in memory") from None
        except Exception as error:  # pydicom and its decoders have many kinds of their own
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ImageError(f"'{shown}' holds a damaged DICOM file: {reason}") from None


def _slices(pydicom: Any, path: Path, shown: str) -> Iterator[_Slice]:
    files = sorted(each for each in path.iterdir() if each.is_file()) if path.is_dir() else [path]
    files = [each for each in files if not each.name.startswith(".") and is_dicom(each)]
    for file in files:
        header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(_TAGS))
        if "Rows" not in header or "Columns" not in header:
            continue  # a directory, a report
        if int(header.get("SamplesPerPixel", 1)) != 1:
            raise ImageError(f"'{shown}' holds colors ({file.name}); slices of a volume have one value a pixel")
        yield from _frames(header, file, shown)


def _frames(header: Any, file: Path, shown: str) -> Iterator[_Slice]:
    n_frames = max(1, int(header.get("NumberOfFrames") or 1))
    groups = header.get("PerFrameFunctionalGroupsSequence") or ()
    shared = (header.get("SharedFunctionalGroupsSequence") or [None])[0]
    for frame in range(n_frames):
        own = groups[frame] if frame < len(groups) else None
        told = [_said(header, own, shared, macro, element) for macro, element in _PLACES.items()]
        missing = next((element for element, value in zip(_PLACES.values(), told, strict=True) if value is None), None)
        if missing is not None:
            raise ImageError(
                f"'{shown}' is no series of slices: {file.name} does not say where its frame lies ({missing})"
            )
        position, along, spacing = told
        yield _Slice(
            file,
            frame,
            str(header.get("SeriesInstanceUID", "")),
            (int(header.Rows), int(header.Columns)),
            np.asarray(position, float),
            np.asarray(along, float),
            (float(spacing[0]), float(spacing[1])),
        )


def _said(header: Any, own: Any, shared: Any, macro: str, element: str) -> Any:
    """Return what a file says of a frame: in the groups of the frame, of all frames, or outside of these."""
    for group in (own, shared):
        for item in (() if group is None else group.get(macro) or ())[:1]:
            if item.get(element) is not None:
                return item.get(element)
    return header.get(element)


def _in_order(slices: Sequence[_Slice], shown: str) -> list[_Slice]:
    """Return the slices as they lie along their normal. Raises ImageError where they are not of one series."""
    if not slices:
        raise ImageError(f"'{shown}' holds no DICOM file with an image")
    first = slices[0]
    series = list(dict.fromkeys(each.series for each in slices))
    if len(series) > 1:
        raise ImageError(
            f"'{shown}' holds {len(series)} series ({', '.join(series[:3])}{', ..' if len(series) > 3 else ''}); "
            "a volume is one: put each into a folder of its own"
        )
    for each in slices:
        if each.size != first.size:
            sizes = f"{_by(first.size)} ({first.file.name}) and {_by(each.size)} ({each.file.name})"
            raise ImageError(f"the slices of '{shown}' differ in size: {sizes}")
        if np.abs(each.along - first.along).max() > _SAME:
            raise ImageError(f"the slices of '{shown}' differ in direction: {first.file.name} and {each.file.name}")
        if np.abs(np.subtract(each.spacing, first.spacing)).max() > _SAME:
            raise ImageError(f"the pixels of '{shown}' differ in spacing: {first.file.name} and {each.file.name}")
    if len(slices) == 1:
        raise ImageError(f"'{shown}' has one slice; a volume has several")
    return sorted(slices, key=lambda each: each.height)


def _step(slices: Sequence[_Slice], shown: str) -> float:
    """Return the distance of slices, in mm. Raises ImageError for slices that are twice there or missing."""
    steps = np.diff([each.height for each in slices])
    usual = float(np.median(steps))
    for before, after, step in zip(slices, slices[1:], steps.tolist(), strict=False):
        where = f"{_named(before)} and {_named(after)}"
        if step < _SAME:
            raise ImageError(f"'{shown}' has two slices at one place ({before.height:.4g} mm): {where}")
        if abs(step - usual) > _SAME_STEP * usual:
            raise ImageError(
                f"'{shown}' lacks slices: {where} are {step:.4g} mm apart, the others {usual:.4g} mm"
                if step > usual
                else f"'{shown}' has slices of uneven distance: {where} are {step:.4g} mm apart, others {usual:.4g} mm"
            )
    return float(np.mean(steps))


def _named(one: _Slice) -> str:
    return one.file.name if one.frame == 0 else f"{one.file.name}#page={one.frame + 1}"


def _voxels(pydicom: Any, slices: Sequence[_Slice], shown: str) -> npt.NDArray[np.float32]:
    rescaled = importlib.import_module("pydicom.pixels.processing").apply_modality_lut
    size = slices[0].size
    require_small_volume((len(slices), *size), shown)
    voxels = np.empty((len(slices), *size), np.float32)
    header: Any = None
    for place, each in enumerate(slices):
        if header is None or slices[place - 1].file != each.file:
            header = pydicom.dcmread(each.file)
        header.pixel_array_options(index=each.frame)
        try:
            frame = header.pixel_array
        except (RuntimeError, NotImplementedError, AttributeError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ImageError(f"the pixels of '{each.file}' cannot be decoded: {reason}") from None
        voxels[place] = rescaled(frame, _rescaling(header, each.frame))
    return voxels


def _rescaling(header: Any, frame: int) -> Any:
    """Return what holds the slope and intercept of a frame."""
    groups = header.get("PerFrameFunctionalGroupsSequence") or ()
    shared = (header.get("SharedFunctionalGroupsSequence") or [None])[0]
    for group in (groups[frame] if frame < len(groups) else None, shared):
        for item in (() if group is None else group.get("PixelValueTransformationSequence") or ())[:1]:
            return item
    return header


def _facts(slices: Sequence[_Slice], step: float) -> dict[str, Any]:
    first = slices[0]
    affine = np.eye(4)
    affine[:3, 0] = (slices[-1].position - first.position) / (len(slices) - 1)
    affine[:3, 1] = first.along[3:] * first.spacing[0]  # a row further down
    affine[:3, 2] = first.along[:3] * first.spacing[1]  # a column further right
    affine[:3, 3] = first.position
    affine[:2] *= -1  # DICOM counts to the left and the back, NIfTI to the right and the front
    spacing = [step, *first.spacing]
    return {"affine": affine.tolist(), "spacing": spacing, "series_uid": first.series}


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
