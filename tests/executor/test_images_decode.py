"""Files, PIL images, arrays and tensors come out as the same right pixels; every bad one as one clear sentence."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from obeql.errors import ImageError
from obeql.executor.images import SourceImage, decode_file, decode_object

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 9), dtype=np.uint8)
RGB = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)


def saved(folder: Path, image: Image.Image, name: str = "a.png", **options: object) -> SourceImage:
    image.save(folder / name, **options)
    return decode_file(folder / name)


def repeated(gray: np.ndarray) -> np.ndarray:
    return np.repeat(gray[:, :, None], 3, axis=2)


def test_importing_images_does_not_import_torch() -> None:
    code = "import sys, obeql.executor.images; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_rgb_and_grey_files_keep_their_bytes(tmp_path: Path) -> None:
    source = saved(tmp_path, Image.fromarray(RGB))
    assert source.pixels.dtype == np.uint8 and np.array_equal(source.pixels, RGB)
    assert source.size == (6, 9) and source.path == str(tmp_path / "a.png") == source.shown and not source.ready
    assert np.array_equal(saved(tmp_path, Image.fromarray(GREY)).pixels, repeated(GREY))


def test_palette_one_bit_and_cmyk(tmp_path: Path) -> None:
    palette = Image.fromarray(RGB).quantize(8)
    assert np.array_equal(saved(tmp_path, palette).pixels, np.asarray(palette.convert("RGB")))
    bits = Image.fromarray(GREY > 100)
    assert bits.mode == "1"
    assert np.array_equal(saved(tmp_path, bits).pixels, repeated(np.where(GREY > 100, 255, 0)))
    cmyk = Image.fromarray(RGB).convert("CMYK")
    assert np.array_equal(saved(tmp_path, cmyk, "a.tif").pixels, np.asarray(cmyk.convert("RGB")))


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    rgba = np.dstack([RGB, np.full((6, 9), 255, np.uint8)])
    rgba[0, 0], rgba[0, 1] = (10, 20, 30, 0), (0, 0, 0, 128)
    pixels = saved(tmp_path, Image.fromarray(rgba)).pixels
    assert tuple(pixels[0, 0]) == (255, 255, 255) and tuple(pixels[0, 1]) == (127, 127, 127)
    assert np.array_equal(pixels[1:], RGB[1:])
    assert np.array_equal(decode_object(rgba, "x").pixels, pixels)
    half = Image.new("LA", (4, 3), (9, 0))
    assert (saved(tmp_path, half).pixels == 255).all()
    palette = Image.new("P", (4, 3), 1)
    palette.putpalette([1, 2, 3, 4, 5, 6])
    assert (saved(tmp_path, palette, transparency=1).pixels == 255).all()
    assert (saved(tmp_path, Image.new("L", (4, 3), 7), transparency=7).pixels == 255).all()


def sgi(planes: np.ndarray, packed: bool = False) -> bytes:
    """A file of 16 bits a channel of planes (C, H, W)."""
    n_channels, height, width = planes.shape
    dimension = 2 if n_channels == 1 else 3
    header = struct.pack(">HBBHHHHII4x80sI404x", 474, packed, 2, dimension, width, height, n_channels, 0, 65535, b"", 0)
    return header + planes[:, ::-1].astype(">u2").tobytes()


@pytest.mark.parametrize("n_channels", [1, 3, 4])
def test_sgi_files_keep_sixteen_bits(tmp_path: Path, n_channels: int) -> None:
    planes = RNG.integers(0, 65536, (n_channels, 6, 9), dtype=np.uint16)
    planes[3:] = 65535  # opaque
    (tmp_path / "a.sgi").write_bytes(sgi(planes))
    found = decode_file(tmp_path / "a.sgi").pixels
    wanted = np.moveaxis(planes[:3], 0, 2) if n_channels > 1 else np.repeat(planes[0, :, :, None], 3, axis=2)
    np.testing.assert_array_equal(np.rint(found * 65535), wanted)


def test_packed_sgi_files_say_what_is_lost(tmp_path: Path) -> None:
    rows, width = 4, 5
    table = 512 + 8 * rows
    row = struct.pack(">H5H1H", 0x80 | width, *(value << 8 | 77 for value in range(width)), 0)
    offsets = struct.pack(f">{rows}I", *(table + len(row) * place for place in range(rows)))
    content = sgi(np.zeros((1, rows, width), np.uint16), packed=True)[:512] + offsets
    (tmp_path / "a.sgi").write_bytes(content + struct.pack(f">{rows}I", *[len(row)] * rows) + row * rows)
    with pytest.warns(UserWarning, match="of its 16 bits a channel 8 are used, because the file is packed"):
        found = decode_file(tmp_path / "a.sgi").pixels
    assert found.dtype == np.uint8 and found[0, :, 0].tolist() == list(range(width))


def twelve_bits(values: np.ndarray, **options: object) -> bytes:
    """JPEG 2000 of 12-bit gray; Pillow writes 16 bits: the depth in the header is changed, and with it zero."""
    stream = io.BytesIO()
    moved = (values + (2**15 - 2**11)).astype(np.uint16)
    Image.fromarray(moved).save(stream, "JPEG2000", irreversible=False, num_resolutions=1, **options)
    written = bytearray(stream.getvalue())
    written[written.index(b"\xff\x4f\xff\x51") + 42] = 11
    if b"ihdr" in written:
        written[written.index(b"ihdr") + 14] = 11
    return bytes(written)


@pytest.mark.parametrize("bare", [False, True])
def test_twelve_bits_of_gray_in_jpeg_2000_are_exact(tmp_path: Path, bare: bool) -> None:
    values = RNG.integers(0, 4096, (20, 24), dtype=np.uint16)
    values[0, :2] = 0, 4095
    file = tmp_path / ("a.j2k" if bare else "a.jp2")
    file.write_bytes(twelve_bits(values, no_jp2=bare))
    pixels = decode_file(file).pixels
    assert pixels.dtype == np.float32 and pixels.min() == 0 and pixels.max() == 1
    np.testing.assert_array_equal(np.rint(pixels * 4095), repeated(values))


def test_jpeg_2000_in_tiff_is_refused(tmp_path: Path) -> None:
    strip = twelve_bits(RNG.integers(0, 4096, (20, 24), dtype=np.uint16), no_jp2=True)
    tags = {256: 24, 257: 20, 258: 16, 259: 34712, 262: 1, 273: 8, 277: 1, 278: 20, 279: len(strip)}
    folder = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    start = struct.pack("<2sHI", b"II", 42, 8 + len(strip))
    (tmp_path / "a.tif").write_bytes(start + strip + struct.pack("<H", len(tags)) + folder + bytes(4))
    with pytest.raises(ImageError, match=r"not read: .* compression number 34712; save it with 8 or 16 bits, unpacked"):
        decode_file(tmp_path / "a.tif")


@pytest.mark.parametrize("n_channels", [3, 4])
def test_color_of_jpeg_2000_keeps_sixteen_bits(
    tmp_path: Path, n_channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cv2 = pytest.importorskip("cv2")
    file = tmp_path / "a.jp2"
    deep = RNG.integers(0, 65536, (64, 96, n_channels), dtype=np.uint16)
    deep[:, :, 3:] = 65535
    assert cv2.imwrite(str(file), deep[:, :, [2, 1, 0, 3][:n_channels]], [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000])
    np.testing.assert_array_equal(np.rint(decode_file(file).pixels * 65535), deep[:, :, :3])
    content = file.read_bytes()
    at = content.index(b"\xff\x4f\xff\x51") + 42
    assert [content[at + 3 * channel] for channel in range(n_channels)] == [15] * n_channels
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.warns(UserWarning, match=r"16-bit color is read with 8 bits a channel"):
        assert decode_file(file).pixels.dtype == np.uint8
    flat = np.zeros((64, 96, 3), np.uint8)
    Image.fromarray(flat).save(tmp_path / "b.jp2")  # 8 bits: no warning
    np.testing.assert_array_equal(decode_file(tmp_path / "b.jp2").pixels, flat)


def test_sixteen_bit_grey_keeps_its_precision(tmp_path: Path) -> None:
    wide = RNG.integers(0, 65536, (6, 9), dtype=np.uint16)
    for name in ("a.png", "a.tif"):
        source = saved(tmp_path, Image.fromarray(wide), name)
        assert source.pixels.dtype == np.float32
        assert np.array_equal(np.rint(source.pixels[:, :, 1] * 65535), wide)
    assert np.array_equal(decode_object(wide, "x").pixels, source.pixels)
    integers = Image.fromarray(wide.astype(np.int32))
    assert integers.mode == "I"
    assert np.array_equal(saved(tmp_path, integers, "b.tif").pixels, source.pixels)
    with pytest.raises(ImageError, match="32-bit integer pixels from 70000 to 70000"):
        saved(tmp_path, Image.fromarray(np.full((2, 2), 70000, np.int32)), "c.tif")


def test_float_files_must_lie_in_the_unit_interval(tmp_path: Path) -> None:
    floats = RNG.random((6, 9), dtype=np.float32)
    assert np.array_equal(saved(tmp_path, Image.fromarray(floats), "a.tif").pixels, repeated(floats))
    with pytest.raises(ImageError, match="values from 2 to 2"):
        saved(tmp_path, Image.fromarray(np.full((2, 2), 2, np.float32)), "b.tif")


def test_orientation_is_applied_and_the_first_frame_taken(tmp_path: Path) -> None:
    image = Image.fromarray(RGB)
    exif = image.getexif()
    exif[0x0112] = 6
    assert np.array_equal(saved(tmp_path, image, exif=exif).pixels, np.rot90(RGB, -1))
    first, second = Image.new("P", (4, 3), 0), Image.new("P", (4, 3), 1)
    for frame in (first, second):
        frame.putpalette([255, 0, 0, 0, 0, 255])
    source = saved(tmp_path, first, "a.gif", save_all=True, append_images=[second])
    assert (source.pixels == (255, 0, 0)).all()


def test_identity_is_pixels_not_names(tmp_path: Path) -> None:
    one, two = saved(tmp_path, Image.fromarray(RGB)), saved(tmp_path, Image.fromarray(RGB), "b.bmp")
    assert one.digest == two.digest == decode_object(Image.fromarray(RGB), "pil").digest
    other = RGB.copy()
    other[5, 8, 2] ^= 1
    assert decode_object(Image.fromarray(other), "x").digest != one.digest
    assert decode_object(RGB, "a").digest == decode_object(RGB.transpose(2, 0, 1), "b").digest
    # An array may skip the resizing that a file goes through.
    assert decode_object(RGB, "a").digest != one.digest
    assert decode_object(RGB.reshape(9, 6, 3), "a").digest != decode_object(RGB, "a").digest


def test_arrays_of_every_shape() -> None:
    assert np.array_equal(decode_object(RGB, "x").pixels, RGB)
    assert np.array_equal(decode_object(GREY, "x").pixels, repeated(GREY))
    assert np.array_equal(decode_object(GREY[:, :, None], "x").pixels, repeated(GREY))
    assert np.array_equal(decode_object(GREY[None], "x").pixels, repeated(GREY))
    floats = RGB.astype(np.float64) / 255
    assert np.array_equal(decode_object(floats.transpose(2, 0, 1), "x").pixels, floats.astype(np.float32))
    assert np.array_equal(decode_object(floats.astype(">f8"), "x").pixels, floats.astype(np.float32))
    assert decode_object(floats.astype(np.float16), "x").pixels.dtype == np.float32
    assert decode_object(np.full((2, 5), 1 + 1e-7), "x").pixels.max() == 1
    assert (decode_object(GREY > 300, "x").pixels == 0).all()
    square = RNG.integers(0, 256, (3, 7, 3), dtype=np.uint8)
    assert np.array_equal(decode_object(square, "x").pixels, square)
    assert decode_object(RGB, "x").ready and decode_object(RGB, "x").path is None


def test_arrays_are_copied() -> None:
    mine = RGB.copy()
    source = decode_object(mine, "x")
    mine[:] = 0
    assert np.array_equal(source.pixels, RGB)
    with pytest.raises(ValueError, match="read-only"):
        source.pixels[0, 0, 0] = 1


def test_tensors() -> None:
    torch = pytest.importorskip("torch")
    chw = torch.rand(3, 6, 9, requires_grad=True)
    assert np.array_equal(decode_object(chw, "x").pixels, chw.detach().numpy().transpose(1, 2, 0))
    assert decode_object(torch.rand(3, 7, 3), "x").size == (7, 3)
    assert decode_object(torch.rand(6, 9), "x").size == (6, 9)
    assert decode_object(torch.zeros(1, 6, 9, dtype=torch.bfloat16), "x").pixels.shape == (6, 9, 3)
    assert decode_object(torch.from_numpy(RGB).permute(2, 0, 1), "x").digest == decode_object(RGB, "y").digest
    with pytest.raises(ImageError, match=r"'x' is a batch of shape 1x3x6x9; pass the image in it"):
        decode_object(torch.rand(1, 3, 6, 9), "x")


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((2, 3, 4, 5)), r"shape 2x3x4x5; allowed are \(H, W\)"),
        (np.zeros(5), "shape 5; allowed"),
        (np.zeros((5, 6, 7)), "without an axis of 1, 3 or 4 channels"),
        (np.zeros((0, 4)), "no pixels: its shape is 0x4"),
        (np.array([[0.5, np.nan]]), "1 of 2 values that are NaN or infinite"),
        (np.array([[0.5, np.inf]]), "NaN or infinite"),
        (np.full((2, 2), 200.0), r"values from 200 to 200.*divide them by 255"),
        (np.full((2, 2), -0.5), r"values from -0.5 to -0.5.*before normalization"),
        (np.zeros((2, 2), np.int64), "pixels of type int64; allowed are uint8"),
        (np.zeros((2, 2), complex), "pixels of type complex128"),
        ([1, 2], "is a list; allowed are a path"),
        (None, "is a NoneType"),
    ],
)
def test_bad_arrays(array: object, says: str) -> None:
    with pytest.raises(ImageError, match=f"image 'x'.*{says}"):
        decode_object(array, "x")


def test_bad_files(tmp_path: Path) -> None:
    Image.fromarray(RNG.integers(0, 256, (60, 60, 3), dtype=np.uint8)).save(tmp_path / "scan1.png")
    whole = (tmp_path / "scan1.png").read_bytes()
    Image.fromarray(RGB).save(tmp_path / "photo.jpg")
    jpeg = (tmp_path / "photo.jpg").read_bytes()
    cases = {
        "cut.png": (whole[: len(whole) // 2], "is truncated"),
        "cut.jpg": (jpeg[:-40], "is truncated"),
        "broken.png": (whole[:60] + bytes(40) + whole[100:], "damaged|truncated"),
        "text.png": (b"hello there", "is not an image that Pillow or pydicom can read"),
        "empty.png": (b"", "is empty"),
        "scan.dcm": (bytes(128) + b"DICM" + bytes(9), "damaged DICOM file|without an image"),
    }
    for name, (content, says) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageError, match=f"{name}'.*({says})"):
            decode_file(tmp_path / name)
    with pytest.raises(ImageError, match=r"does not exist\. Did you mean 'scan1.png'"):
        decode_file(tmp_path / "scan2.png")
    with pytest.raises(ImageError, match="there is no folder"):
        decode_file(tmp_path / "nowhere" / "scan2.png")
    with pytest.raises(ImageError, match="is a folder"):
        decode_file(tmp_path)
    with Image.open(tmp_path / "cut.png") as lazy, pytest.raises(ImageError, match="'key' is truncated"):
        decode_object(lazy, "key")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (30, 30)).save(tmp_path / "a.png")
    for limit in (800, 100):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(ImageError, match=f"more than {limit} pixels"):
            decode_file(tmp_path / "a.png")


def test_warning_filters_that_raise_still_give_our_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (30, 30)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 800)
    with pytest.raises(ImageError, match="more than 800 pixels"):
        decode_file(tmp_path / "a.png")
