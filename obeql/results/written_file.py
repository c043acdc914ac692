"""Write a finished file, with one sentence for what stands in the way.

Before: the content of a picture, a film or an array. After: a file.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from obeql.errors import ImageError

if TYPE_CHECKING:
    pass

__all__ = ["write_file"]


def write_file(path: Path, content: bytes) -> None:
    """Write a finished file; raises ImageError when the folder does not exist or may not be written."""
    if not path.parent.is_dir():
        raise ImageError(f"cannot write '{path}': there is no folder '{path.parent}'")
    try:
        path.write_bytes(content)
    except OSError as error:
        raise ImageError(f"cannot write '{path}': {error.strerror or error}") from None
