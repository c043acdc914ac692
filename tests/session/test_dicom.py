"""DICOM and 16-bit files in statements: explained like any picture, their facts in the view `images`."""

from __future__ import annotations

import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

pytest.importorskip("pydicom")


def write_dicom(path: Path, pixels: Any, **elements: Any) -> None:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPInstanceUID = ExplicitVRLittleEndian, "1.2"
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    file = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    file.SOPClassUID, file.SOPInstanceUID = SecondaryCaptureImageStorage, "1.2"
    file.Rows, file.Columns = pixels.shape
    file.SamplesPerPixel, file.BitsAllocated, file.BitsStored, file.HighBit = 1, 16, 16, 15
    file.PixelRepresentation, file.PhotometricInterpretation = 0, "MONOCHROME2"
    file.PixelData = pixels.tobytes()
    for key, value in elements.items():
        setattr(file, key, value)
    file.save_as(path, enforce_file_format=True)


def test_the_same_values_as_dicom_png_and_tiff_give_one_map(net_db: Any, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (32, 32), dtype=np.uint16)
    values[0, 0], values[0, 1] = 0, 65535  # without a window, DICOM spreads from least to largest
    write_dicom(tmp_path / "a.dcm", values, SeriesInstanceUID="1.2.3", PixelSpacing=[0.5, 0.75])
    Image.fromarray(values).save(tmp_path / "b.png")
    Image.fromarray(values).save(tmp_path / "c.tiff")
    result = net_db.execute(f"EXPLAIN OCCLUDE '{tmp_path}' USING net FOR CLASS 0 WITH patch=8 stride=8")
    assert [Path(heat.image).name for heat in result] == ["a.dcm", "b.png", "c.tiff"]
    np.testing.assert_array_equal(result[1].scores, result[2].scores)
    np.testing.assert_allclose(result[0].scores, result[1].scores, atol=1e-6)
    facts = net_db.execute("SELECT name, series_uid, pixel_height_mm, pixel_width_mm FROM images ORDER BY name")
    assert facts.fetchall() == [("a", "1.2.3", 0.5, 0.75), ("b", None, None, None), ("c", None, None, None)]
    result[0].save(tmp_path / "heat.png")


def test_predict_and_image_sets_keep_the_facts(net_db: Any, tmp_path: Path) -> None:
    values = np.arange(1024, dtype=np.uint16).reshape(32, 32)
    for number in (1, 2):
        write_dicom(tmp_path / f"slice{number}.dcm", values + number, SeriesInstanceUID="9.8")
    net_db.execute(f"CREATE IMAGES series FROM '{tmp_path}/*.dcm'")
    assert len(net_db.execute("PREDICT series USING net FOR TOP 1").fetchall()) == 2
    rows = net_db.execute("SELECT series_uid, count(*) FROM images GROUP BY ALL").fetchall()
    assert rows == [("9.8", 2)]


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bits_are_not_cut_to_8(net_db: Any, tmp_path: Path, suffix: str) -> None:
    from obeql.executor.images import decode_file

    values = np.arange(1024, dtype=np.uint16).reshape(32, 32) * 3 + 20000  # all of it within 12 levels of 8 bits
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    pixels = decode_file(tmp_path / f"a.{suffix}").pixels
    np.testing.assert_array_equal(pixels[:, :, 0], values.astype(np.float32) / np.float32(65535))
    assert len(np.unique(pixels)) == 1024


def test_a_tiff_whose_zero_is_white_is_turned(tmp_path: Path) -> None:
    from obeql.executor.images import decode_file

    values = np.arange(1024, dtype=np.uint16).reshape(32, 32) * 60
    Image.fromarray(values).save(tmp_path / "a.tiff", tiffinfo={262: 0})
    with Image.open(tmp_path / "a.tiff") as image:
        assert image.tag_v2[262] == 0 and image.mode.startswith("I;16")
    pixels = decode_file(tmp_path / "a.tiff").pixels[:, :, 0]
    np.testing.assert_allclose(pixels, 1 - values / 65535, atol=1e-6)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_color_keeps_its_precision(tmp_path: Path, suffix: str) -> None:
    cv2 = pytest.importorskip("cv2")
    from obeql.executor.images import decode_file

    rgb = np.random.default_rng(0).integers(0, 65536, (6, 5, 3), dtype=np.uint16)
    assert cv2.imwrite(str(tmp_path / f"a.{suffix}"), rgb[:, :, ::-1])
    np.testing.assert_array_equal(decode_file(tmp_path / f"a.{suffix}").pixels, rgb / np.float32(65535))


def test_16_bit_color_with_alpha_is_laid_on_white(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    from obeql.executor.images import decode_file

    bgra = np.random.default_rng(0).integers(0, 65536, (6, 5, 4), dtype=np.uint16)
    bgra[:, :, 3] = 0
    bgra[0, :, 3] = 65535
    assert cv2.imwrite(str(tmp_path / "a.png"), bgra)
    pixels = decode_file(tmp_path / "a.png").pixels
    np.testing.assert_array_equal(pixels[0], bgra[0, :, 2::-1] / np.float32(65535))
    assert (pixels[1:] == 1).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_16_bit_color_is_turned_as_pillow_turns_it(tmp_path: Path, orientation: int) -> None:
    cv2 = pytest.importorskip("cv2")
    from obeql.executor.images.deep import read_deep_color

    levels = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    assert cv2.imwrite(str(tmp_path / "a.png"), levels[:, :, ::-1].astype(np.uint16) * 257)
    image = Image.fromarray(levels)
    image.getexif()[0x0112] = orientation
    upright = np.asarray(ImageOps.exif_transpose(image))
    pixels = read_deep_color(tmp_path / "a.png", image)
    assert pixels is not None
    np.testing.assert_array_equal(np.round(pixels * 255), upright)


def test_16_bit_color_without_opencv_is_read_with_8_bits_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from obeql.executor.images import decode_file

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    values = (np.arange(12, dtype=np.uint16) * 5000).reshape(2, 6).astype(">u2")
    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.warns(UserWarning, match=r"16-bit color is read with 8 bits .*\.\[deep\]"):
        pixels = decode_file(tmp_path / "a.png").pixels
    np.testing.assert_array_equal(pixels.reshape(2, 6), values >> 8)
