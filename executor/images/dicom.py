"""From a DICOM file to gray or RGB pixels in 0..1, as a viewer shows it, and the facts of the series.

Called by `decode` for files that are DICOM; pydicom does the reading (the extra `dicom`).
"""

from __future__ import annotations

import re
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from obeql.errors import ImageError, install
from obeql.executor.images.locate import no_page
from obeql.planner.binding.image_paths import with_page

__all__ = ["is_dicom", "n_frames", "read_dicom"]

Pixels = npt.NDArray[np.uint8 | np.float32]

#: Beyond the range of any stored value: what a window makes of it is the end of the window's output.
_FAR = 1e12
#: The functional groups of a frame that decide how it is shown, and their elements that count here.
_MACROS = {
    "PixelValueTransformationSequence": ("RescaleIntercept", "RescaleSlope", "ModalityLUTSequence"),
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
    "PixelMeasuresSequence": ("PixelSpacing",),
}
_PIXEL_DATA = 0x7FE00010
#: Bytes before the file's meta information: preamble, mark, and the element that gives the length of the rest.
_META_START = 128 + 4 + 12


def is_dicom(path: Path) -> bool:
    """Return whether a file has the mark of a DICOM file behind its preamble."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def n_frames(path: Path) -> int:
    """Return how many frames a DICOM file says that it has; 1 where pydicom is missing or cannot read it."""
    try:
        import pydicom  # noqa: PLC0415

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["NumberOfFrames"])
        return max(1, int(header.get("NumberOfFrames") or 1))
    except Exception:  # pydicom has many kinds of errors; reading the picture words them
        return 1


def read_dicom(path: Path, page: int | None = None) -> tuple[Pixels, dict[str, Any]]:
    """Return the pixels (H, W, 1) float32 in 0..1, or (H, W, 3) uint8 or float32, and the facts of the file.

    Gray values are rescaled (slope and intercept, or the modality look-up table), then mapped to 0..1 by the first
    window or look-up table for viewing, and without one from the smallest to the largest value of the image; what an
    enhanced file says of these in the functional groups of the frame, or of all frames, goes before. MONOCHROME1,
    where large values are dark, is inverted. `page` is the frame, counted from 1; without it the first is taken.
    Facts are `n_pages`, the frames of a file of which none was named, and `series_uid` and `pixel_spacing_mm`
    (vertical, horizontal), those that the file has.

    Raises ImageError where pydicom is missing, or cannot read the file or its pixels, where these are not numbers,
    the frame is not there, or a packed data set holds more than Pillow's limit of pixels takes; DecompressionBombError
    of Pillow where the image is larger than that.
    """
    shown = str(path)
    try:
        import pydicom  # noqa: PLC0415
        from pydicom.errors import InvalidDicomError  # noqa: PLC0415
        from pydicom.filereader import read_file_meta_info  # noqa: PLC0415
    except ImportError:
        raise ImageError(f"'{shown}' is a DICOM file, which needs pydicom; {install('dicom')}") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of values that break the standard, which many files have
            _require_small(path, read_file_meta_info(path))
            header = pydicom.dcmread(path)
            if "PixelData" not in header and "FloatPixelData" not in header:
                raise ImageError(f"'{shown}' is a DICOM file without an image: it has no pixels")
            n_frames = max(1, int(header.get("NumberOfFrames") or 1))
            if page is not None and not 1 <= page <= n_frames:
                raise no_page(with_page(shown, page), n_frames)
            index = 0 if page is None else page - 1
            said = _said_of_frame(header, index)
            return _pixels(header, said, index, shown), _facts(said) | {"n_pages": n_frames if page is None else 1}
    except InvalidDicomError as error:
        raise ImageError(f"'{shown}' is a damaged DICOM file: {error}") from None
    except (ImageError, Image.DecompressionBombError):
        raise
    except RecursionError:
        raise ImageError(f"'{shown}' is a damaged DICOM file: its sequences are nested too deeply") from None
    except (RuntimeError, NotImplementedError) as error:  # a compression that no installed library decodes
        raise ImageError(f"the pixels of the DICOM file '{shown}' cannot be decoded: {_why_not(error)}") from None
    except MemoryError:
        raise ImageError(f"'{shown}' is a DICOM file that does not fit in memory") from None
    except Exception as error:  # pydicom and its decoders have many kinds of their own
        raise ImageError(f"'{shown}' is a damaged DICOM file: {_first_line(error)}") from None


def _require_small(path: Path, meta: Any) -> None:
    """Refuse a packed (deflated) data set that swells beyond what a picture within Pillow's limit takes."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is None or not getattr(meta.get("TransferSyntaxUID"), "is_deflated", False):
        return
    unpack, n_bytes = zlib.decompressobj(-zlib.MAX_WBITS), 0
    with path.open("rb") as file:
        file.seek(_META_START + int(meta.get("FileMetaInformationGroupLength", 0)))
        packed = file.read()
    while packed and not unpack.eof:
        n_bytes += len(unpack.decompress(packed, 1 << 20))
        packed = unpack.unconsumed_tail
        if n_bytes > 8 * limit:
            raise ImageError(f"'{path}' is a DICOM file that swells to more than {8 * limit} bytes when it is unpacked")


def _said_of_frame(header: Any, index: int) -> Any:
    """Return what a file says of one frame: the data set with elements of functional groups that change pixels."""
    from pydicom.dataset import Dataset  # noqa: PLC0415

    frames = header.get("PerFrameFunctionalGroupsSequence") or ()
    groups = [*(header.get("SharedFunctionalGroupsSequence") or ())[:1], *frames[index : index + 1]]
    if not groups:
        return header
    said = Dataset()
    said.update({each.tag: each for each in header if each.tag != _PIXEL_DATA and each.VR != "SQ"})
    for name in ("ModalityLUTSequence", "VOILUTSequence"):
        if name in header:
            said[name] = header[name]
    for group in groups:
        for macro, elements in _MACROS.items():
            for item in (group.get(macro) or ())[:1]:
                # A macro holds as a whole: what the frame says is not mixed with what is said of all.
                for element in elements:
                    said.pop(element, None)
                said.update({each.tag: each for each in item if each.keyword in elements})
    return said


def _pixels(header: Any, said: Any, index: int, shown: str) -> Pixels:
    from pydicom.pixels.processing import apply_color_lut  # noqa: PLC0415

    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and int(header.Rows) * int(header.Columns) > limit:
        raise Image.DecompressionBombError
    header.pixel_array_options(index=index)  # without decoding the other frames
    frame = header.pixel_array
    kind = str(header.PhotometricInterpretation)
    if kind.startswith("MONOCHROME"):
        gray = _grey(frame, said)
        if kind == "MONOCHROME1":
            gray = 1 - gray
        return np.asarray(gray[:, :, None], np.float32)
    if kind == "PALETTE COLOR":
        frame = apply_color_lut(frame, header)
    if frame.ndim != 3 or frame.shape[2] != 3:
        shape = "x".join(map(str, frame.shape))
        raise ImageError(f"'{shown}' has pixels of kind {kind} and shape {shape}, which cannot be turned into RGB")
    if frame.dtype == np.uint8:
        return np.asarray(frame)
    bits = 16 if kind == "PALETTE COLOR" else int(header.BitsStored)
    return np.asarray(np.clip(frame / (2.0**bits - 1), 0, 1), np.float32)


def _grey(frame: npt.NDArray[Any], header: Any) -> npt.NDArray[np.float64]:
    """Return the values of one frame (H, W) in 0..1, larger is brighter but for MONOCHROME1."""
    from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut, apply_windowing  # noqa: PLC0415

    values = apply_modality_lut(frame, header).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("rescaled as it says, its values are NaN or infinite")
    tables = header.get("VOILUTSequence")
    if tables:
        table = tables[0]
        levels = apply_voi_lut(values.astype(np.int64), header)
        return np.asarray(np.clip(levels / (2.0 ** int(table.LUTDescriptor[2]) - 1), 0, 1))
    low, high = float(values.min()), float(values.max())
    if header.get("WindowCenter") is not None and header.get("WindowWidth") is not None:
        ends = apply_windowing(np.array([[-_FAR, _FAR]]), header)[0]
        values, (low, high) = apply_windowing(values, header), map(float, ends)
    if high <= low:
        return np.zeros(values.shape)
    return np.asarray(np.clip((values - low) / (high - low), 0, 1))


def _facts(header: Any) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if uid := header.get("SeriesInstanceUID"):
        facts["series_uid"] = str(uid)
    spacing = header.get("PixelSpacing") or header.get("ImagerPixelSpacing")
    if spacing is not None and len(spacing) == 2:
        facts["pixel_spacing_mm"] = (float(spacing[0]), float(spacing[1]))
    return facts


def _why_not(error: BaseException) -> str:
    """Return why pydicom cannot decode the pixels, in one line: the libraries that would, or what failed."""
    first, *others = (line.strip() for line in str(error).strip().splitlines() or [type(error).__name__])
    needed = [found[1] for line in others if (found := re.search(r"requires (.+)", line))]
    if needed:
        kind = re.search(r"'(.+)'", first)
        named = kind[1] if kind else "its compression"
        return f"{named} is decoded by {', or by '.join(needed)}, which can be installed with pip"
    return re.sub(r"<_io\.BytesIO object at \w+>", "the packed data", " ".join([first, "; ".join(others)]).strip())


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
