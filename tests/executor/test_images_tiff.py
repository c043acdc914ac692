"""TIFF files of every layout come out with exact pixels, or are refused in one sentence; pages are found."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from obeql.errors import ImageError
from obeql.executor.images import decode_file, decode_object

RNG = np.random.default_rng(3)
SIZE = (37, 50)

NONE, DEFLATE, PACKBITS = 1, 8, 32773
ASSOCIATED, OPACITY = 1, 2


def samples(dtype: str, n_bands: int) -> np.ndarray:
    """Smooth pictures with noise, over the range that the type has for white."""
    top = {"f": 1.0, "u": 2.0 ** (8 * np.dtype(dtype).itemsize) - 1, "i": 200.0}[np.dtype(dtype).kind]
    ramp = np.add.outer(np.arange(SIZE[0]) * 3, np.arange(SIZE[1]) * 2)[:, :, None] * (np.arange(n_bands) + 1)
    unit = (ramp % 200) / 220 + RNG.random((*SIZE, n_bands)) / 12
    return (unit * min(top, 65535)).astype(dtype)


def packed(data: bytes, compression: int) -> bytes:
    if compression == DEFLATE:
        return zlib.compress(data)
    if compression == PACKBITS:  # literal runs
        return b"".join(bytes([len(data[i : i + 128]) - 1]) + data[i : i + 128] for i in range(0, len(data), 128))
    return data


def predicted(part: np.ndarray, predictor: int, order: str) -> bytes:
    """The bytes of a strip or tile (h, w, bands) as differences: 2 of samples, 3 of a float's bytes."""
    stored = part.astype(part.dtype.newbyteorder(order))
    if predictor == 1:
        return stored.tobytes()
    if predictor == 2:
        whole = part.view(f"u{part.itemsize}").copy()
        whole[:, 1:] -= part.view(f"u{part.itemsize}")[:, :-1]
        return whole.astype(whole.dtype.newbyteorder(order)).tobytes()
    rows = part.astype(part.dtype.newbyteorder(">")).reshape(len(part), -1, 1).view(np.uint8)
    planes = rows.transpose(0, 2, 1).reshape(len(part), -1, part.shape[2])
    differences = planes.copy()
    differences[:, 1:] -= planes[:, :-1]
    return differences.tobytes()


def write(
    path: Path,
    *pages: np.ndarray,
    planes: bool = False,
    tile: tuple[int, int] | None = None,
    compression: int = NONE,
    predictor: int = 1,
    order: str = "<",
    big: bool = False,
    extra: tuple[int, ...] = (),
    tags: dict[int, int] | None = None,
) -> Path:
    """Write pages (H, W, bands) as the TIFF 6.0 specification says, a strip of 10 rows or a tile at a time."""
    offset = "Q" if big else "I"
    out = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}H", 43 if big else 42)
    out += struct.pack(f"{order}HHQ", 8, 0, 0) if big else struct.pack(f"{order}I", 0)
    link = len(out) - struct.calcsize(offset)
    for page in pages:
        height, width, n_bands = page.shape
        high, wide = tile or (10, width)
        parts = []
        for plane in np.split(page, n_bands, axis=2) if planes else [page]:
            for top in range(0, height, high):
                for left in range(0, width, wide):
                    part = plane[top : top + high, left : left + wide]
                    if tile:
                        missing = (0, high - part.shape[0]), (0, wide - part.shape[1]), (0, 0)
                        part = np.pad(part, missing, mode="edge")
                    parts.append(packed(predicted(np.ascontiguousarray(part), predictor, order), compression))
        starts = [len(out) + sum(map(len, parts[:i])) for i in range(len(parts))]
        out += b"".join(parts)
        kind = {"u": 1, "i": 2, "f": 3}[page.dtype.kind]
        values: dict[int, tuple[str, tuple[int, ...]]] = {
            256: ("H", (width,)),
            257: ("H", (height,)),
            258: ("H", (8 * page.itemsize,) * n_bands),
            259: ("H", (compression,)),
            262: ("H", (2 if n_bands > 2 else 1,)),
            277: ("H", (n_bands,)),
            284: ("H", (2 if planes else 1,)),
            317: ("H", (predictor,)),
            339: ("H", (kind,) * n_bands),
            (324 if tile else 273): (offset, tuple(starts)),
            (325 if tile else 279): (offset, tuple(map(len, parts))),
        }
        values |= {322: ("H", (wide,)), 323: ("H", (high,))} if tile else {278: ("H", (high,))}
        if extra:
            values[338] = ("H", extra)
        values |= {tag: ("H", (value,)) for tag, value in (tags or {}).items()}
        entries, room = b"", struct.calcsize(offset)
        for tag, (letter, numbers) in sorted(values.items()):
            held = struct.pack(f"{order}{len(numbers)}{letter}", *numbers)
            if len(held) > room:
                place = struct.pack(f"{order}{offset}", len(out))
                out += held
                held = place
            head = struct.pack(f"{order}HH{offset}", tag, {"H": 3, "I": 4, "Q": 16}[letter], len(numbers))
            entries += head + held.ljust(room, b"\0")
        here = len(out)
        out += struct.pack(f"{order}{'Q' if big else 'H'}", len(values)) + entries + bytes(room)
        out = out[:link] + struct.pack(f"{order}{offset}", here) + out[link + room :]
        link = len(out) - room
    path.write_bytes(out)
    return path


def unit(values: np.ndarray) -> np.ndarray:
    """What samples are in 0..1."""
    if values.dtype.kind == "f":
        return values.astype(np.float32)
    white = 255 if values.dtype.itemsize == 1 or (values.dtype != np.uint16 and values.max() <= 255) else 65535
    return values.astype(np.float32) / np.float32(white)


def shown(path: Path) -> np.ndarray:
    """The pixels of a file, which are the same however often they are read."""
    source = decode_file(path)
    assert source.digest == decode_file(path).digest
    return source.unit_pixels()


#: (order of bytes, BigTIFF, compression, predicted)
FILES = [
    *((order, big, DEFLATE, True) for order in "<>" for big in (False, True)),
    *((order, False, compression, False) for order in "<>" for compression in (NONE, DEFLATE, PACKBITS)),
]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float16", "float32", "float64"])
@pytest.mark.parametrize("n_bands", [1, 3, 5])
def test_every_layout_is_read_exactly(dtype: str, n_bands: int, tmp_path: Path) -> None:
    values = samples(dtype, n_bands)
    wanted = np.broadcast_to(unit(values)[:, :, :3], (*SIZE, 3))
    predictor = 3 if values.dtype.kind == "f" else 2
    for order, big, compression, predict in FILES:
        for planes, tile in ((False, None), (True, None), (False, (16, 32)), (True, (16, 32))):
            how: dict[str, Any] = {"planes": planes and n_bands > 1, "tile": tile, "order": order, "big": big}
            how |= {"compression": compression, "predictor": predictor if predict else 1}
            pixels = shown(write(tmp_path / "a.tif", values, **how))
            np.testing.assert_allclose(pixels, wanted, rtol=0, atol=1e-7, err_msg=str(how))


def test_files_of_other_writers(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    deep = samples("uint16", 3)
    for name, compression in (("none", 1), ("lzw", 5), ("deflate", 32946), ("packbits", 32773)):
        path = tmp_path / f"{name}.tif"
        assert cv2.imwrite(str(path), deep[:, :, ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, compression])
        np.testing.assert_array_equal(shown(path), unit(deep))
    for compression in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits"):
        Image.fromarray(deep[:, :, 0]).save(tmp_path / "gray.tif", compression=compression)
        np.testing.assert_array_equal(shown(tmp_path / "gray.tif")[:, :, 0], unit(deep)[:, :, 0])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("planes", [False, True])
def test_a_fourth_band_is_opacity_only_where_the_file_says_so(dtype: str, planes: bool, tmp_path: Path) -> None:
    for n_bands in (2, 4):
        values = samples(dtype, n_bands)
        bands = unit(values).astype(np.float64)
        color, alpha = np.broadcast_to(bands[:, :, : n_bands - 1], (*SIZE, 3)), bands[:, :, n_bands - 1 :]
        wanted = {
            (0,): color,
            (OPACITY,): color * alpha + 1 - alpha,
            (ASSOCIATED,): np.minimum(color + 1 - alpha, 1),
        }
        for extra, over_white in wanted.items():
            path = write(tmp_path / "a.tif", values, extra=extra, planes=planes, compression=DEFLATE)
            atol = 1.6 / 255 if dtype == "uint8" else 1e-6
            np.testing.assert_allclose(shown(path), over_white, rtol=0, atol=atol, err_msg=f"{n_bands} bands, {extra}")


def test_wide_integers_are_those_of_8_or_16_bits(tmp_path: Path) -> None:
    eight, sixteen = np.array([[[0], [127], [255]]]), np.array([[[0], [256], [65535]]])
    for dtype in ("int32", "uint32", "int16", "uint64"):
        path = write(tmp_path / "a.tif", eight.astype(dtype))
        np.testing.assert_allclose(shown(path)[0, :, 0], [0, 127 / 255, 1], atol=1e-7)
        if dtype != "int16":
            path = write(tmp_path / "a.tif", sixteen.astype(dtype))
            np.testing.assert_allclose(shown(path)[0, :, 0], [0, 256 / 65535, 1], atol=1e-7)
    object_of_pil = Image.fromarray(eight[:, :, 0].astype(np.int32))
    np.testing.assert_allclose(decode_object(object_of_pil, "x").unit_pixels()[0, :, 0], [0, 127 / 255, 1], atol=1e-7)
    with pytest.raises(ImageError, match="signed 32-bit integer pixels from -5 to 9, which have no agreed white"):
        decode_file(write(tmp_path / "a.tif", np.array([[[-5], [9]]], np.int32)))


def test_white_is_zero_and_orientation(tmp_path: Path) -> None:
    values = samples("uint16", 1)
    path = write(tmp_path / "a.tif", values, tags={262: 0, 274: 6})
    np.testing.assert_allclose(shown(path)[:, :, 0], np.rot90(1 - unit(values)[:, :, 0], -1), atol=1e-6)


def test_a_file_that_pillow_has_opened_is_read_as_a_file(tmp_path: Path) -> None:
    values = samples("uint16", 3)
    path = write(tmp_path / "a.tif", values, planes=True, compression=DEFLATE)
    with Image.open(path) as image:
        np.testing.assert_array_equal(decode_object(image, "x").pixels, unit(values))


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"tags": {259: 50002}}, "16 bits a sample and the compression number 50002"),
        ({"tags": {262: 6}}, "16 bits a sample and colors of kind 6"),
        ({"tags": {266: 2}}, "the bits of its bytes stand in the opposite order"),
        ({"tags": {339: 6}}, "numbers that are not real"),
        ({"tags": {262: 1}}, "does not say which of them are red, green and blue"),
        ({"compression": DEFLATE, "tags": {317: 3}}, "predicted in the way number 3 from 16 bits"),
    ],
)
def test_kinds_that_nobody_reads_rightly_are_refused(how: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=f"a.tif' is a TIFF file .*{says}"):
        decode_file(write(tmp_path / "a.tif", samples("uint16", 3), **how))


@pytest.mark.parametrize("compression", [NONE, DEFLATE, PACKBITS])
def test_pixels_that_are_not_there_are_never_made_up(compression: int, tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", samples("uint16", 3), compression=compression, planes=True)
    whole = bytearray(path.read_bytes())
    tags = whole[-4 - 12 * 13 :]
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match=r"a.tif'"):
        decode_file(path)
    # The lengths of strips say less than the strips hold.
    counts = struct.pack("<HHI", 279, 4, 12)
    place = struct.unpack_from("<I", tags, tags.index(counts) + 8)[0]
    struct.pack_into("<I", whole, place + 4, 5)
    path.write_bytes(whole)
    with pytest.raises(ImageError, match=r"is truncated|strips or tiles cannot be unpacked"):
        decode_file(path)


def test_pages(tmp_path: Path) -> None:
    pages = [samples("uint16", 3) for _ in range(3)]
    path = write(tmp_path / "a.tif", *pages, planes=True, compression=DEFLATE)
    assert decode_file(path).n_pages == 3
    for number, values in enumerate(pages, start=1):
        named = decode_file(f"{path}#page={number}")
        np.testing.assert_array_equal(named.pixels, unit(values))
        assert named.n_pages == 1 and named.path == named.shown == f"{path}#page={number}"
    for number in (0, 4):
        with pytest.raises(ImageError, match=rf"no image '.*a.tif#page={number}': it has 3 pages, counted from 1"):
            decode_file(f"{path}#page={number}")


def test_smaller_copies_are_no_further_pages(tmp_path: Path) -> None:
    values = samples("uint16", 1)
    path = write(tmp_path / "a.tif", values, values[::2, ::2], tags={254: 0})
    assert decode_file(path).n_pages == 2
    whole = bytearray(path.read_bytes())
    entry = struct.pack("<HHI", 254, 3, 1)
    struct.pack_into("<H", whole, whole.rindex(entry) + 8, 1)
    path.write_bytes(whole)
    assert decode_file(path).n_pages == 1


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF"])
def test_pages_of_what_pillow_reads(form: str, tmp_path: Path) -> None:
    pages = [Image.new("RGB", (8, 6), color) for color in ("red", "lime", "blue")]
    path = tmp_path / f"a.{form.lower()}"
    lossless = {"lossless": True} if form == "WEBP" else {}
    pages[0].save(path, save_all=True, append_images=pages[1:], **lossless)
    first = decode_file(path)
    assert first.n_pages == 3 and (first.pixels == (255, 0, 0)).all()
    assert (decode_file(f"{path}#page=3").pixels == (0, 0, 255)).all()
    with pytest.raises(ImageError, match="it has 3 pages"):
        decode_file(f"{path}#page=9")
    pages[0].save(tmp_path / "one.png")
    with pytest.raises(ImageError, match="it has one page"):
        decode_file(tmp_path / "one.png#page=2")
    (tmp_path / "one.png#page=2").write_bytes((tmp_path / "one.png").read_bytes())
    assert decode_file(tmp_path / "one.png#page=2").size == (6, 8), "a file of this name goes before a page"
