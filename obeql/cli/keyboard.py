"""Keep what is typed while a drawing is on the terminal from being printed into it.

The terminal itself echoes keys, wherever the cursor is. Without its echo they wait for the next prompt, which reads and
shows them. Ctrl-C works as ever.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

__all__ = ["Keyboard"]


class Keyboard:
    """The echo of the terminal that standard input is; nothing where there is none, or no way to ask for it."""

    def __init__(self) -> None:
        self._before: Any = None

    def silence(self) -> None:
        """Echo no keys until `restore`."""
        if self._before is not None:
            return
        with suppress(ImportError, OSError, ValueError):
            import termios  # noqa: PLC0415 - there is none on Windows

            descriptor = sys.stdin.fileno()
            try:
                found = termios.tcgetattr(descriptor)
                quiet = [*found]
                quiet[3] &= ~termios.ECHO
                termios.tcsetattr(descriptor, termios.TCSANOW, quiet)
            except termios.error:
                return
            self._before = found

    def restore(self) -> None:
        """Set the echo as it was found."""
        before, self._before = self._before, None
        if before is None:
            return
        with suppress(ImportError, OSError, ValueError):
            import termios  # noqa: PLC0415

            with suppress(termios.error):
                termios.tcsetattr(sys.stdin.fileno(), termios.TCSANOW, before)
