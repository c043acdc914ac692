"""Import a user's Python module as its files are now, also where it was imported before and has been edited since.

Python imports a module once. At a prompt or in a notebook that would make an edited factory the old one.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import sysconfig
from contextlib import suppress
from pathlib import Path
from types import ModuleType

__all__ = ["import_fresh"]

#: modified time and size of the files that modules were imported from
_Stamp = tuple[int, int]

#: of the modules that importing another brought along, the stamps, by the other's name
_brought: dict[str, dict[str, _Stamp]] = {}

_LIBRARIES = tuple({sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")})


def import_fresh(name: str) -> ModuleType:
    """Import a module by its dotted name, again if its file, or one that it imports, has changed since the last time.

    All that came with it is imported again then, save installed packages. Raises what importing raises, with the
    modules left as they were.
    """
    edited = any(_stamp(sys.modules.get(each)) != stamp for each, stamp in _brought.get(name, {}).items())
    before = {each: sys.modules.pop(each) for each in _brought.get(name, {}) if edited and each in sys.modules}
    for module in before.values():
        _forget_compiled(module)
    importlib.invalidate_caches()
    known = set(sys.modules)
    try:
        module = importlib.import_module(name)
    except BaseException:
        for each in set(sys.modules) - known:
            if _stamp(sys.modules[each]) is not None:
                del sys.modules[each]
        sys.modules.update(before)
        raise
    for each in {name, *before, *(set(sys.modules) - known)}:
        stamp = _stamp(sys.modules.get(each))
        if stamp is not None:
            _brought.setdefault(name, {})[each] = stamp
    return module


def _forget_compiled(module: ModuleType) -> None:
    """Delete compiled code, which Python takes for that of a file edited within the same second to the same length."""
    with suppress(OSError, NotImplementedError, TypeError):
        Path(importlib.util.cache_from_source(str(module.__file__))).unlink(missing_ok=True)


def _stamp(module: ModuleType | None) -> _Stamp | None:
    """Return the state of a module's file; None for one without a file, and for installed ones, which nobody edits."""
    file = getattr(module, "__file__", None)
    if file is None or not str(file).endswith(".py") or any(Path(file).is_relative_to(each) for each in _LIBRARIES):
        return None
    try:
        found = Path(file).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
