"""Keep what PyTorch prints about failed tracing from the user: its reason is in the exception, and is told once."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

__all__ = ["quiet"]

_SILENT = logging.CRITICAL + 1


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop warnings, PyTorch's log, and what it prints on stderr: graphs of pages, and whole tracebacks."""
    names = [name for name in logging.root.manager.loggerDict if name.partition(".")[0] == "torch"]
    levels = {name: logging.getLogger(name).level for name in names}
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            for name in names:
                logging.getLogger(name).setLevel(_SILENT)
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
