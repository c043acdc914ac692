"""Refuse archives that swell when they are unpacked, before anything of them is.

Used by what reads torch files and torch.export archives: both are zip files, which their writers do not compress.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

from obeql.errors import ModelError

__all__ = ["require_no_swelling"]

#: An archive that was packed anew may be smaller than its content, but not a bomb.
_MAX_TIMES = 20
#: What small archives may swell to, however small they are, bytes.
_FREE_BYTES = 256 * 2**20


def require_no_swelling(path: Path, archive: zipfile.ZipFile) -> None:
    """Return where the members of an archive, the file at `path`, are about as large as it.

    Raises: ModelError, saying how large they are.
    """
    size = sum(member.file_size for member in archive.infolist())
    if size > _MAX_TIMES * path.stat().st_size + _FREE_BYTES:
        raise ModelError(
            f"{str(path)!r} holds members that swell to {size:,} bytes, more than {_MAX_TIMES} times its own size; "
            "write it again without compression."
        )
