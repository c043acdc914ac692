"""DICOM files, made here with pydicom: rescale, windows, inverted gray, color, facts and damage."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from obeql.errors import ImageError
from obeql.executor.images import decode_file
from tests.executor.test_images_decode import twelve_bits

pydicom = pytest.importorskip("pydicom")

VALUES = np.array([[0, 100, 200, 300], [400, 500, 600, 700], [800, 900, 1000, 4095]], np.uint16)


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Path]:
    """Write a DICOM file of the given pixels and elements."""

    def make(pixels: Any = VALUES, name: str = "scan.dcm", bits: int = 12, **elements: Any) -> Path:
        from pydicom.dataset import FileDataset, FileMetaDataset
        from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
        meta.MediaStorageSOPInstanceUID = "1.2.3"
        file = FileDataset(str(tmp_path / name), {}, file_meta=meta, preamble=bytes(128))
        pixels = np.asarray(pixels)
        n_samples = pixels.shape[2] if pixels.ndim == 3 and pixels.shape[2] == 3 else 1
        file.SOPClassUID, file.SOPInstanceUID = SecondaryCaptureImageStorage, "1.2.3"
        file.Rows, file.Columns = pixels.shape[-2:] if n_samples == 1 else pixels.shape[:2]
        file.SamplesPerPixel = n_samples
        file.BitsAllocated = 8 * pixels.itemsize
        file.BitsStored = min(bits, file.BitsAllocated)
        file.HighBit = file.BitsStored - 1
        file.PixelRepresentation = int(pixels.dtype.kind == "i")
        file.PhotometricInterpretation = "MONOCHROME2" if n_samples == 1 else "RGB"
        if n_samples == 3:
            file.PlanarConfiguration = 0
        file.PixelData = pixels.tobytes()
        for key, value in elements.items():
            setattr(file, key, value)
        file.save_as(tmp_path / name, enforce_file_format=True)
        return tmp_path / name

    return make


def gray(path: Path) -> Any:
    """The gray values of a file, after seeing that it is gray, float32 and in 0..1."""
    pixels = decode_file(path).pixels
    assert pixels.dtype == np.float32 and pixels.min() >= 0 and pixels.max() <= 1
    assert np.array_equal(pixels[:, :, 0], pixels[:, :, 1]) and np.array_equal(pixels[:, :, 0], pixels[:, :, 2])
    return pixels[:, :, 0]


def linear(values: Any, centre: float, width: float) -> Any:
    """The window of DICOM PS3.3, C.11.2.1.2.1, with an output of 0..1."""
    return np.clip((np.asarray(values, float) - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)


def test_without_a_window_the_values_are_spread_from_least_to_largest(made: Callable[..., Path]) -> None:
    np.testing.assert_allclose(gray(made()), VALUES / 4095, atol=1e-6)
    np.testing.assert_allclose(gray(made(VALUES[:2] + 50)), VALUES[:2] / 700, atol=1e-6)
    assert not gray(made(np.full((3, 4), 7, np.uint16))).any()


def test_the_window_is_applied_to_rescaled_values(made: Callable[..., Path]) -> None:
    path = made(RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=40, WindowWidth=400)
    np.testing.assert_allclose(gray(path), linear(VALUES * 2.0 - 1000, 40, 400), atol=1e-6)
    first_of_two = made(RescaleSlope=1, RescaleIntercept=0, WindowCenter=[500, 50], WindowWidth=[600, 10])
    np.testing.assert_allclose(gray(first_of_two), linear(VALUES, 500, 600), atol=1e-6)


def test_other_shapes_of_window(made: Callable[..., Path]) -> None:
    exact = made(WindowCenter=500, WindowWidth=600, VOILUTFunction="LINEAR_EXACT")
    np.testing.assert_allclose(gray(exact), np.clip((VALUES - 500.0) / 600 + 0.5, 0, 1), atol=1e-6)
    sigmoid = made(WindowCenter=500, WindowWidth=600, VOILUTFunction="SIGMOID")
    np.testing.assert_allclose(gray(sigmoid), 1 / (1 + np.exp(-4 * (VALUES - 500.0) / 600)), atol=1e-6)


def test_signed_values(made: Callable[..., Path]) -> None:
    values = VALUES[:2].astype(np.int16) - 350
    path = made(values, WindowCenter=0, WindowWidth=500, RescaleSlope=1, RescaleIntercept=0)
    np.testing.assert_allclose(gray(path), linear(values, 0, 500), atol=1e-6)


def test_a_table_for_viewing_goes_before_a_window(made: Callable[..., Path]) -> None:
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    table = Dataset()
    table.add_new("LUTDescriptor", "US", [4, 100, 16])
    table.add_new("LUTData", "US", [0, 65535, 30000, 10000])
    values = np.array([[99, 100, 101], [102, 103, 500]], np.uint16)
    path = made(values, VOILUTSequence=Sequence([table]), WindowCenter=1, WindowWidth=2)
    np.testing.assert_allclose(gray(path), np.array([[0, 0, 65535], [30000, 10000, 10000]]) / 65535, atol=1e-6)


def test_monochrome1_is_inverted(made: Callable[..., Path]) -> None:
    plain = gray(made(WindowCenter=500, WindowWidth=600))
    inverted = gray(made(WindowCenter=500, WindowWidth=600, PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_allclose(inverted, 1 - plain, atol=1e-6)


def test_the_first_of_several_frames(made: Callable[..., Path]) -> None:
    frames = np.stack([VALUES, VALUES[::-1]])
    np.testing.assert_allclose(gray(made(frames, NumberOfFrames=2)), VALUES / 4095, atol=1e-6)


def test_color(made: Callable[..., Path]) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    source = decode_file(made(rgb, bits=8))
    assert source.pixels.dtype == np.uint8
    assert np.array_equal(source.pixels, rgb)


def test_series_and_spacing_are_kept(made: Callable[..., Path]) -> None:
    source = decode_file(made(SeriesInstanceUID="1.2.840.1", PixelSpacing=[0.5, 0.25]))
    assert (source.series_uid, source.pixel_spacing_mm) == ("1.2.840.1", (0.5, 0.25))
    bare = decode_file(made())
    assert (bare.series_uid, bare.pixel_spacing_mm) == (None, None)
    assert bare.digest == source.digest  # the pixels alone are the identity


def test_what_cannot_be_read(made: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = made().read_bytes()
    (tmp_path / "cut.dcm").write_bytes(whole[:-10])
    with pytest.raises(ImageError, match=r"'.*cut.dcm' (is a damaged DICOM file|.*cannot be decoded)"):
        decode_file(tmp_path / "cut.dcm")
    path = made()
    header = pydicom.dcmread(path)
    del header.PixelData
    header.save_as(path)
    with pytest.raises(ImageError, match="a DICOM file without an image"):
        decode_file(path)
    made()
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(ImageError, match=r'needs pydicom; install it with pip install -e ".\[dicom\]"'):
        decode_file(path)


def test_scans_larger_than_the_limit_are_refused_unread(made: Callable[..., Path], monkeypatch: Any) -> None:
    path = made(Rows=60_000, Columns=60_000)
    monkeypatch.setattr(pydicom.Dataset, "pixel_array", property(lambda self: pytest.fail("pixels were decoded")))
    with pytest.raises(ImageError, match=r"more than \d+ pixels, Pillow's limit"):
        decode_file(path)


def test_packed_data_that_swells_is_refused_unread(made: Callable[..., Path], monkeypatch: Any) -> None:
    path = made()
    header = pydicom.dcmread(path)
    header.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    header.save_as(path)
    whole = decode_file(path)
    assert np.array_equal(whole.pixels, decode_file(made()).pixels)
    header.PixelData = bytes(2_000_000)
    header.save_as(path)
    assert path.stat().st_size < 10_000
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
    monkeypatch.setattr(pydicom, "dcmread", lambda *_: pytest.fail("the file was unpacked"))
    with pytest.raises(ImageError, match="swells to more than 800000 bytes"):
        decode_file(path)


def test_only_the_first_of_many_frames_is_decoded(made: Callable[..., Path]) -> None:
    first = decode_file(made(np.arange(8).reshape(1, 2, 4).astype(np.uint16), NumberOfFrames=1, Rows=2, Columns=4))
    many = decode_file(made(np.arange(800).reshape(100, 2, 4).astype(np.uint16), NumberOfFrames=100, Rows=2, Columns=4))
    assert np.array_equal(first.pixels, many.pixels)


@pytest.mark.filterwarnings("ignore:Invalid value for VR DS")
@pytest.mark.parametrize("element", [{"RescaleSlope": "nan"}, {"RescaleIntercept": "1e400"}])
def test_values_that_are_no_numbers_are_refused(made: Callable[..., Path], element: Any) -> None:
    element = {"RescaleSlope": 1, "RescaleIntercept": 0, **element}
    with pytest.raises(ImageError, match=r"damaged DICOM file: .*(NaN or infinite|float)"):
        decode_file(made(**element))


def test_a_compression_that_nothing_here_decodes(made: Callable[..., Path]) -> None:
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEGLSLossless

    path = made()
    header = pydicom.dcmread(path)
    header.file_meta.TransferSyntaxUID = JPEGLSLossless
    header.PixelData = encapsulate([b"\xff\xd8nothing!"])
    header["PixelData"].is_undefined_length = True
    header.save_as(path)
    with pytest.raises(ImageError, match=r"cannot be decoded|is a damaged DICOM file"):
        decode_file(path)


def group(**macros: dict[str, Any]) -> Any:
    """A functional group of an enhanced file: its macros with their elements."""
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    found = Dataset()
    for name, elements in macros.items():
        item = Dataset()
        for keyword, value in elements.items():
            setattr(item, keyword, value)
        setattr(found, name, Sequence([item]))
    return found


def test_functional_groups_of_a_frame_go_before_those_of_all(made: Callable[..., Path]) -> None:
    frames = np.stack([VALUES, VALUES // 2, VALUES // 3])
    of_all = group(
        PixelValueTransformationSequence={"RescaleSlope": 2, "RescaleIntercept": -100},
        FrameVOILUTSequence={"WindowCenter": 700, "WindowWidth": 900, "VOILUTFunction": "LINEAR_EXACT"},
        PixelMeasuresSequence={"PixelSpacing": [0.5, 0.25]},
    )
    of_each = [group(FrameVOILUTSequence={"WindowCenter": 300 + 100 * i, "WindowWidth": 500}) for i in range(2)]
    path = made(
        frames,
        NumberOfFrames=3,
        Rows=3,
        Columns=4,
        WindowCenter=1,
        WindowWidth=2,
        SharedFunctionalGroupsSequence=[of_all],
        PerFrameFunctionalGroupsSequence=[*of_each, group()],
    )
    for i in range(2):
        np.testing.assert_allclose(
            gray(Path(f"{path}#page={i + 1}")), linear(frames[i] * 2.0 - 100, 300 + 100 * i, 500), atol=1e-6
        )
    exact = np.clip((frames[2] * 2.0 - 100 - 700) / 900 + 0.5, 0, 1)
    np.testing.assert_allclose(gray(Path(f"{path}#page=3")), exact, atol=1e-6)
    source = decode_file(path)
    assert source.pixel_spacing_mm == (0.5, 0.25) and source.n_pages == 3
    assert np.array_equal(source.pixels, decode_file(f"{path}#page=1").pixels)
    with pytest.raises(ImageError, match=r"no image '.*scan.dcm#page=4': it has 3 pages, counted from 1"):
        decode_file(f"{path}#page=4")


def test_inverted_grey_of_an_enhanced_file(made: Callable[..., Path]) -> None:
    of_all = group(FrameVOILUTSequence={"WindowCenter": 2000, "WindowWidth": 4000})
    path = made(PhotometricInterpretation="MONOCHROME1", SharedFunctionalGroupsSequence=[of_all])
    np.testing.assert_allclose(gray(path), 1 - linear(VALUES, 2000, 4000), atol=1e-6)


def test_bits_beyond_those_stored_are_left_out(made: Callable[..., Path]) -> None:
    overlaid = made(VALUES | 0x8000, WindowCenter=1000, WindowWidth=2000)
    np.testing.assert_allclose(gray(overlaid), linear(VALUES, 1000, 2000), atol=1e-6)
    signed = VALUES[:2].astype(np.int16) - 350
    path = made((signed & 0xFFF).astype(np.uint16), PixelRepresentation=1, WindowCenter=0, WindowWidth=500)
    np.testing.assert_allclose(gray(path), linear(signed, 0, 500), atol=1e-6)


@pytest.mark.parametrize("planes", [0, 1])
def test_color_side_by_side_and_in_planes(planes: int, made: Callable[..., Path]) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    data = rgb.transpose(2, 0, 1).tobytes() if planes else rgb.tobytes()
    assert np.array_equal(decode_file(made(rgb, bits=8, PlanarConfiguration=planes, PixelData=data)).pixels, rgb)


def test_decoders_that_are_missing_are_named(made: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEGLSLossless

    lacking = (
        "Unable to decompress 'JPEG-LS Lossless Image Compression' pixel data because all plugins are missing "
        "dependencies:\n\tgdcm - requires gdcm>=3.0.10\n\tpyjpegls - requires numpy and pyjpegls>=1.2"
    )

    def refuse(self: Any) -> None:
        raise RuntimeError(lacking)

    path = made()
    header = pydicom.dcmread(path)
    header.file_meta.TransferSyntaxUID = JPEGLSLossless
    header.PixelData = encapsulate([b"\xff\xd8nothing!"])
    header["PixelData"].is_undefined_length = True
    header.save_as(path)
    monkeypatch.setattr(pydicom.Dataset, "pixel_array", property(refuse))
    with pytest.raises(ImageError) as told:
        decode_file(path)
    assert str(told.value).endswith(
        "cannot be decoded: JPEG-LS Lossless Image Compression is decoded by gdcm>=3.0.10, or by numpy and "
        "pyjpegls>=1.2, which can be installed with pip"
    )


def test_twelve_bits_in_jpeg_2000_are_those_that_were_written(made: Callable[..., Path], tmp_path: Path) -> None:
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEG2000Lossless

    values = np.random.default_rng(0).integers(0, 4096, (20, 24)).astype(np.uint16)
    values[0, :2] = 0, 4095
    plain = gray(made(values))
    file = pydicom.dcmread(made(values, "packed.dcm"))
    file.file_meta.TransferSyntaxUID = JPEG2000Lossless
    file.PixelData = encapsulate([twelve_bits(values, no_jp2=True)])
    file["PixelData"].is_undefined_length = True
    file.save_as(tmp_path / "packed.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(gray(tmp_path / "packed.dcm"), plain)
