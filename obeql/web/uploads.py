"""Images that are dropped on the page: checked, written beside the database under the hash of their bytes, and named.

Before the first statement about them. A file's own name is data, never a path: it becomes the name of an image set in
the database, as far as it can be one.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from obeql.errors import ImageError, StoreError
from obeql.executor.images import decode_file
from obeql.executor.images.dicom import is_dicom
from obeql.session.session import Session
from obeql.store import MEMORY

__all__ = ["MOST_BYTES", "MOST_PIXELS", "Uploads"]

#: Largest file, and largest picture in it, that the page takes.
MOST_BYTES = 64 * 2**20
MOST_PIXELS = 50_000_000

_SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "TIFF": ".tif", "WEBP": ".webp", "BMP": ".bmp", "GIF": ".gif"}


class Uploads:
    """Takes images in for a session; `names` says which names the database has for images by now."""

    def __init__(self, session: Session, names: Callable[[str], str | None]) -> None:
        self._session = session
        self._source_of = names
        self._passing: tempfile.TemporaryDirectory[str] | None = None

    def close(self) -> None:
        """Remove what a database in memory had written; a second call does nothing."""
        if self._passing is not None:
            self._passing.cleanup()
            self._passing = None

    def take(self, content: bytes, given_name: str) -> dict[str, Any]:
        """Keep an image and give it a name, both of which the statement to come uses.

        Raises ImageError for what is no image, or too large, StoreError where the database is read-only.
        """
        if self._session.read_only:
            raise StoreError("the database is open read-only: the page can take in no image")
        if len(content) > MOST_BYTES:
            raise ImageError(f"the file has more than {MOST_BYTES // 2**20} MB, which is the most that the page takes")
        if not content:
            raise ImageError("the file is empty")
        folder, shown = self._folder()
        digest = hashlib.sha256(content).hexdigest()[:20]
        with tempfile.TemporaryDirectory(dir=folder) as beside:
            draft = Path(beside) / "image"
            draft.write_bytes(content)
            suffix = _suffix(draft)
            try:
                height, width = decode_file(draft).size
            except ImageError as error:
                raise ImageError(str(error).replace(str(draft), _shown(given_name))) from None
            draft.replace(folder / f"{digest}{suffix}")
        path = f"{shown}{digest}{suffix}"
        name = self._free_name(given_name, path)
        if self._source_of(name) is None:
            self._session.create_images(name, path)
        return {"name": name, "path": path, "height": height, "width": width}

    def _folder(self) -> tuple[Path, str]:
        """Return the folder of images, and how paths in it begin: relative ones are found beside the database."""
        if self._session.path == MEMORY:
            if self._passing is None:
                self._passing = tempfile.TemporaryDirectory(prefix="obeql-page-")
            return Path(self._passing.name), f"{self._passing.name}/"
        file = Path(self._session.path)
        folder = file.with_suffix(".images")
        folder.mkdir(exist_ok=True)
        return folder.absolute(), f"{folder.name}/"

    def _free_name(self, given: str, path: str) -> str:
        """Return a name for an image set: that of the file, unless it stands for another one."""
        stem = re.sub(r"\W+", "_", Path(given.replace("\\", "/")).stem).strip("_")[:60] or "image"
        stem = f"image_{stem}" if stem[0].isdigit() else stem
        name, number = stem, 1
        while (held := self._source_of(name)) is not None and held != path:
            number += 1
            name = f"{stem}_{number}"
        return name


def _suffix(draft: Path) -> str:
    """Return the suffix of what a file holds. Raises ImageError for what is no image, and for too many pixels."""
    if is_dicom(draft):
        return ".dcm"
    try:
        with Image.open(draft) as image:
            width, height = image.size
            kind = image.format or ""
    except UnidentifiedImageError:
        raise ImageError(
            "this file is no image: its content is none of PNG, JPEG, TIFF, WebP, BMP, GIF and DICOM"
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_many() from None
    except (OSError, ValueError, SyntaxError) as error:
        raise ImageError(f"this file is damaged, or no image: {error}") from None
    if width * height > MOST_PIXELS:
        raise _too_many(width * height)
    if kind not in _SUFFIXES:
        raise ImageError(f"a file of the kind {kind} is none of {', '.join(_SUFFIXES)} and DICOM")
    return _SUFFIXES[kind]


def _too_many(n_pixels: int | None = None) -> ImageError:
    has = f"{n_pixels / 1e6:.0f} megapixels" if n_pixels else "too many pixels"
    return ImageError(f"the image has {has}; the page takes at most {MOST_PIXELS // 10**6} megapixels")


def _shown(given_name: str) -> str:
    return Path(given_name.replace("\\", "/")).name[:80] or "image"
