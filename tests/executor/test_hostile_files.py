"""Files made to do harm, or damaged at random: an error in words or a picture, and memory that stays bounded."""

from __future__ import annotations

import importlib.util
import io
import struct
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from obeql.errors import ImageError, ModelError
from obeql.executor.images import decode_file
from obeql.executor.models import load


@pytest.fixture(scope="module")
def fuzz() -> Any:
    path = Path(__file__).parents[2] / "scripts" / "fuzz_files.py"
    spec = importlib.util.spec_from_file_location("fuzz_files", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz_files"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["fuzz_files"]


def test_damaged_files_are_refused_or_read(fuzz: Any, tmp_path: Path) -> None:
    report = fuzz.run(tmp_path, n_files=300, seed=1)
    assert report["problems"] == [] and report["files"] == 300
    assert 0 < report["read"] < 300


# ---- images ----------------------------------------------------------------------------------------------------


def png(width: int, height: int, *chunks: tuple[bytes, bytes], data: bytes = b"") -> bytes:
    """A PNG file that declares a size, whatever its data."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (b"IHDR", head), *chunks, (b"IDAT", zlib.compress(data)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("wide.png", png(2**31 - 1, 2**31 - 1), "pixels, Pillow's limit against decompression bombs"),
        ("big.png", png(60_000, 60_000), "pixels, Pillow's limit"),
        ("twice.png", png(10_000, 10_000), "pixels, Pillow's limit"),
        ("none.png", png(0, 4), "image"),
        ("short.png", png(64, 64, data=b"\0" * 100), "truncated|damaged"),
        ("text.png", png(4, 4, (b"zTXt", b"a\0\0" + zlib.compress(b"\0" * 2**27))), "damaged|truncated"),
        ("profile.png", png(4, 4, (b"iCCP", b"a\0\0" + zlib.compress(b"\0" * 2**27))), "damaged|truncated"),
        ("huge.tif", b"II*\0" + struct.pack("<I", 2**32 - 1), "image"),
        ("loop.tif", b"II*\0\x08\0\0\0\x01\0\x00\x01\x03\0\x01\0\0\0\x05\0\0\0\x08\0\0\0", "image"),
        ("drawing.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "is a drawing"),
        ("page.html", b"<html><img src=x></html>", "is not an image"),
        ("nul.png", b"\0" * 1000, "is not an image"),
    ],
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_images_made_to_do_harm(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError, match=said):
        decode_file(tmp_path / name)


def test_no_format_runs_another_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess

    def started(*_: Any, **__: Any) -> Any:
        raise AssertionError("a program was started")

    out = io.BytesIO()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(out, "EPS")
    (tmp_path / "a.jpg").write_bytes(out.getvalue())
    for name in ("run", "Popen", "call", "check_call", "check_output"):
        monkeypatch.setattr(subprocess, name, started)
    with pytest.raises(ImageError, match="is a drawing"):
        decode_file(tmp_path / "a.jpg")


def test_paths_no_file_can_have() -> None:
    for path in ("a" * 5000, "~no-such-user/a.png", "a\0b.png", "/dev/zero", "/dev/stdin"):
        with pytest.raises(ImageError):
            decode_file(path)


# ---- models ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pt2", ".pt", ".pth"])
def test_archives_that_swell_are_refused_unread(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / f"bomb{suffix}"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/archive_format", "pt2")
        archive.writestr("m/data/weights/x.pt", b"\0" * (2**28 + 2**25))
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("the member was unpacked"))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("the file was loaded"))
    with pytest.raises(ModelError, match=r"swell to 30\d,\d{3},\d{3} bytes"):
        load(str(file))


@pytest.mark.parametrize("suffix", [".onnx", ".pt2", ".pt", ".pth", ".safetensors", ".pkl"])
@pytest.mark.parametrize(
    "content", [b"", b"\0" * 64, b"PK\x03\x04" + b"\xff" * 60, b"\x80\x04cos\nsystem\n(S'true'\ntR."]
)
def test_files_that_are_no_models(tmp_path: Path, suffix: str, content: bytes) -> None:
    file = tmp_path / f"net{suffix}"
    file.write_bytes(content)
    with pytest.raises(ModelError):
        load(str(file), {"size": 8})
