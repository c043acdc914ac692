"""Paths, folders and globs name the files a person means, in the order a person counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from obeql.errors import ImageError
from obeql.executor.images import expand


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        "a10.png",
        "a2.png",
        "A1.JPG",
        "b[1].png",
        "notes.txt",
        ".hidden.png",
        "sub/a3.png",
        "sub/deep/a4.tif",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def names(folder: Path, pattern: str) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in expand(folder / pattern)]


def test_natural_order_and_known_suffixes(folder: Path) -> None:
    assert names(folder, "") == ["A1.JPG", "a2.png", "a10.png", "b[1].png"]
    assert names(folder, "*") == ["A1.JPG", "a2.png", "a10.png", "b[1].png"]
    assert names(folder, "a*.png") == ["a2.png", "a10.png"]
    assert names(folder, "*.txt") == ["notes.txt"]
    assert names(folder, "**/a*") == ["a2.png", "a10.png", "sub/a3.png", "sub/deep/a4.tif"]
    assert names(folder, "a[12]*.png") == ["a2.png", "a10.png"]


def test_an_existing_file_is_itself(folder: Path) -> None:
    assert names(folder, "b[1].png") == ["b[1].png"]
    assert names(folder, "notes.txt") == ["notes.txt"]


def test_relative_paths_stay_relative(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert expand("sub/*.png") == [Path("sub/a3.png")]
    monkeypatch.setenv("HOME", str(folder))
    assert expand("~/sub/*.png") == [folder / "sub" / "a3.png"]


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("*.jpeg", "matches no file$"),
        ("none/*.png", "matches no file: there is no folder"),
        ("notes.*", "matches 1 file but no image; known suffixes are .bmp"),
        ("a3.png", r"does not exist\. Did you mean 'a2.png'"),
        ("subb/a3.png", r"no folder '.*subb'\. Did you mean 'sub'"),
    ],
)
def test_nothing_found(folder: Path, pattern: str, says: str) -> None:
    with pytest.raises(ImageError, match=says):
        expand(folder / pattern)


def test_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="holds no image"):
        expand(tmp_path)


def test_pages_are_kept_behind_each_file(tmp_path: Path) -> None:
    for name in ("a10.tif", "a2.tif"):
        (tmp_path / name).write_bytes(b"x")
    assert [path.name for path in expand(f"{tmp_path}/*.tif#page=2")] == ["a2.tif#page=2", "a10.tif#page=2"]
    assert expand(f"{tmp_path}/a2.tif#page=12") == [tmp_path / "a2.tif#page=12"]
    with pytest.raises(ImageError, match=r"does not exist\. Did you mean 'a2.tif'"):
        expand(tmp_path / "a3.tif#page=2")
