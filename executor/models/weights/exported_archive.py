"""Look into a torch.export archive before it is loaded: nothing in it may run code of its author's.

`torch.export.load` unpickles some members, evaluates size expressions, and resolves operators by their dotted names.
This check lets through what an ordinary exported classifier contains and refuses the rest, so that a .pt2 file needs
no trust. It comes before `exported_program`.
"""

from __future__ import annotations

import io
import json
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from obeql.errors import ModelError
from obeql.executor.models.forward import reason
from obeql.executor.models.weights.archive_size import require_no_swelling

__all__ = ["check_archive"]

#: Functions a graph may call.
_TARGET = re.compile(
    r"torch\.ops\.aten\.[A-Za-z]\w*(\.[A-Za-z]\w*)?"
    r"|torch\.ops\.higher_order\.(cond|wrap_with_autocast|wrap_with_set_grad_enabled)"
    r"|torch\.sym_[a-z]+|math\.(ceil|floor|trunc|sqrt)"
    r"|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge|and_|or_|not_)"
)
#: Names a size expression may hold, besides numbers: symbols and torch's own functions.
_SYMBOL = re.compile(
    r"[su]\d+|z?u?f\d+|Symbol|Integer|Rational|Add|Mul|Pow|positive|nonnegative|nonzero|integer|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv|Max|Min|Eq|Ne|Lt|Le|Gt|Ge|And|Or|Not|int_oo|oo"
    r"|True|False|floor|ceiling|TruncToInt|ToFloat|IntTrueDiv|FloatTrueDiv"
)
_EXPRESSION = re.compile(r"[\w\s+\-*/%(),<>=&|~]*")
_QUOTED = re.compile(r"'[A-Za-z]\w*'")
#: Words with which a serialized container makes the loader import a module.
_IMPORTING = ("default_factory_module", "__enum__")
_MAX_JSON_BYTES = 256 * 2**20


def check_archive(path: Path) -> None:
    """Return when loading the archive is safe.

    Raises: ModelError for a file that is no such archive, and for one that could run code, saying what it holds.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            require_no_swelling(path, archive)
            if len(names) != len(set(names)):
                raise _refusal(path, "members of one name")
            for name in names:
                _check_member(path, archive, name)
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError, ValueError, zlib.error) as error:
        raise ModelError(f"{str(path)!r} is not a torch.export archive, or it is damaged: {reason(error)}.") from None


def _check_member(path: Path, archive: zipfile.ZipFile, name: str) -> None:
    last = name.rpartition("/")[2]
    if "aotinductor" in name:
        raise _refusal(path, "compiled machine code")
    if last.startswith(("custom_obj_", "opaque_obj_")):
        raise _refusal(path, "pickled Python objects")
    if last.endswith(".pt"):
        data = archive.read(name)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if data:
                    torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except Exception:  # whatever is not plain tensors would be unpickled without restrictions
            raise _refusal(path, f"pickled Python objects ({name})") from None
    elif last.endswith(".json"):
        if archive.getinfo(name).file_size > _MAX_JSON_BYTES:
            raise _refusal(path, f"an oversized description ({name})")
        text = archive.read(name)
        try:
            data = json.loads(text)
        except (ValueError, RecursionError):
            raise _refusal(path, f"a description that is not JSON ({name})") from None
        _check_json(path, text.decode("utf-8", "replace"), data)


def _check_json(path: Path, text: str, data: Any) -> None:
    # JSON may spell a letter as an escape; the words below are searched in what the parser will see as well.
    plain = text if "\\u" not in text else json.dumps(data, ensure_ascii=False)
    if any(word in plain for word in _IMPORTING):
        raise _refusal(path, "containers that import Python modules")
    for key, value in _items(data):
        if key == "use_pickle" and value:
            raise _refusal(path, "pickled weights")
        if key == "path_name" and isinstance(value, str) and value.startswith(("custom_obj", "opaque_obj")):
            raise _refusal(path, "pickled Python objects")
        if key in ("target", "as_operator") and isinstance(value, str) and "." in value and not _is_function(value):
            raise _refusal(path, f"a call of {value[:60]!r}")
        if key == "expr_str" and not _is_expression(value):
            raise _refusal(path, f"the size expression {str(value)[:60]!r}")


def _items(data: Any) -> Iterator[tuple[str, Any]]:
    waiting = [data]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            yield from item.items()
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)


def _is_function(target: str) -> bool:
    return _TARGET.fullmatch(target) is not None


def _is_expression(text: object) -> bool:
    if not isinstance(text, str):
        return False
    text = _QUOTED.sub(lambda name: name[0][1:-1], text)  # Symbol('s0'): the name is checked like any other
    if not _EXPRESSION.fullmatch(text):
        return False
    return all(_SYMBOL.fullmatch(word) for word in re.findall(r"[A-Za-z_]\w*", text))


def _refusal(path: Path, what: str) -> ModelError:
    return ModelError(
        f"{str(path)!r} holds {what}, which loading could run as code. If you trust who made the file, say trust=true."
    )
