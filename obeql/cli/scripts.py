"""Scripts as files: read for `obeql -f` and for `.read`."""

from __future__ import annotations

from pathlib import Path

from obeql.errors import QueryError

__all__ = ["read_script"]


def read_script(path: str) -> str:
    """Return the text of a script. Raises QueryError when it cannot be read or is no UTF-8 text."""
    try:
        return Path(path).expanduser().read_text(encoding="utf-8-sig")
    except OSError as error:
        raise QueryError(f"cannot read script {path!r}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise QueryError(f"script {path!r} is not UTF-8 text (byte {error.start})") from None
