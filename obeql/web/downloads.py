"""Maps as files to take along: a picture, numbers for numpy, a report.

Beside `reader`; written by the package's own exporters into a folder that is gone again when the bytes have been read.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from obeql.errors import QueryTypeError
from obeql.export.report.report import MAX_REPORT

if TYPE_CHECKING:
    from obeql.web.reader import MapKey, Reader

__all__ = ["Downloads"]

_MEDIA = {"png": "image/png", "npz": "application/octet-stream", "html": "text/html", "svg": "image/svg+xml"}


class Downloads:
    """Writes maps; one at a time, because matplotlib draws on one thread."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._lock = threading.Lock()

    def of_map(self, run_id: int, key: MapKey | None, form: str, options: Mapping[str, str]) -> tuple[bytes, str]:
        """Return a map as a file, and its media type. Raises QueryTypeError for a form that is none of these."""
        if form not in _MEDIA:
            raise QueryTypeError(f"a map is downloaded as {', '.join(_MEDIA)}, not as {form!r}")
        heat = self._reader.heat(run_id, key)
        taken = {} if form == "npz" else _colors(options)
        return self._written(lambda path: heat.save(path, **taken), form), _MEDIA[form]

    def report(self, run_id: int) -> bytes:
        """Return the report of a run, of its first maps where it has more than a report holds."""
        result, _ = self._reader.maps_of(run_id)
        return self._written(result[:MAX_REPORT].report, "html")

    def _written(self, write: Any, form: str) -> bytes:
        with self._lock, tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"map.{form}"
            write(path)
            return path.read_bytes()


def _colors(options: Mapping[str, str]) -> dict[str, Any]:
    """Return the options of drawing that a request gives: limit, alpha, sign."""
    found: dict[str, Any] = {}
    for name in ("limit", "alpha"):
        if name in options:
            try:
                found[name] = float(options[name])
            except ValueError:
                raise QueryTypeError(f"{name} is a number, not {options[name]!r}") from None
    if "sign" in options:
        found["sign"] = options["sign"]
    return found
