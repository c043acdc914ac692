"""Find a named file, or say which names are nearest."""

from __future__ import annotations

from pathlib import Path

from obeql.errors import ModelError, nearest

__all__ = ["existing_file"]


def existing_file(text: str, what: str) -> Path:
    """Return the path of an existing file; `~` is expanded. `what` names its role, as in "model file".

    Raises: ModelError when there is no such file, with the nearest names of its folder, and for a file that only stands
    for the one that is meant.
    """
    try:
        path = Path(text).expanduser()
        if path.is_file():
            _require_content(path, what)
            return path
        if path.is_dir():
            raise ModelError(f"The {what} {text!r} is a folder, not a file.")
        siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else None
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelError(f"The {what} {text!r} cannot be opened: {error}.") from None
    if siblings is None:
        raise ModelError(f"There is no {what} {text!r}: its folder does not exist.")
    raise ModelError(f"There is no {what} {text!r}.{nearest(path.name, siblings)}")


def _require_content(path: Path, what: str) -> None:
    """Raise ModelError for a pointer of Git LFS or git-annex, and for a page that was downloaded in a file's place."""
    with path.open("rb") as file:
        start = file.read(200).lstrip().lower()
    if start.startswith(b"version https://git-lfs.github.com/spec/"):
        raise ModelError(
            f"The {what} {str(path)!r} is a pointer of Git LFS, not the file itself: fetch that with git lfs pull."
        )
    if start.startswith(b"/annex/objects/") or start.startswith(b"../.git/annex/objects/"):
        raise ModelError(f"The {what} {str(path)!r} is a pointer of git-annex, not the file itself: git annex get it.")
    if start.startswith((b"<!doctype html", b"<html")):
        raise ModelError(f"The {what} {str(path)!r} is a web page, not the file itself: download that.")
    if not start:
        raise ModelError(f"The {what} {str(path)!r} is empty.")
