"""Find a named file, or say which names are nearest."""

from __future__ import annotations

from pathlib import Path

from obeql.errors import ModelError, nearest

__all__ = ["existing_file"]


def existing_file(text: str, what: str) -> Path:
    """Return the path of an existing file; `~` is expanded. `what` names its role, as in "model file".

    Raises: ModelError when there is no such file, with the nearest names of its folder.
    """
    try:
        path = Path(text).expanduser()
        if path.is_file():
            return path
        if path.is_dir():
            raise ModelError(f"The {what} {text!r} is a folder, not a file.")
        siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else None
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelError(f"The {what} {text!r} cannot be opened: {error}.") from None
    if siblings is None:
        raise ModelError(f"There is no {what} {text!r}: its folder does not exist.")
    raise ModelError(f"There is no {what} {text!r}.{nearest(path.name, siblings)}")
