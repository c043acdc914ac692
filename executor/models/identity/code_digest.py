"""What a module computes as Python code: a digest of its classes, functions, their constants and its state.

For networks that run whole, whose computation no graph tells. Two modules with one digest run the same code on the same
values; a digest that cannot be had is None.
"""

from __future__ import annotations

import functools
import hashlib
import pickle
import sys
import sysconfig
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from obeql.executor.network.tensor_digests import TensorDigests

__all__ = ["code_digest"]

_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...))
_NAMED = (torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size, range, slice)
_METHODS = (staticmethod, classmethod)
#: state of a module that says nothing of what it computes in evaluation mode
_IDLE = frozenset({"training", "_is_full_backward_hook", "_load_state_dict_post_hooks", "_state_dict_hooks"})
_LIBRARIES = tuple(sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib"))


class _UnknownError(Exception):
    """Something of which it cannot be told what it is."""


def code_digest(module: nn.Module, digests: TensorDigests) -> str | None:
    """Return the hex SHA-256 of a module's Python code and state, or None where it holds what has no digest.

    Covers the byte code of its classes and of every function that they reach through globals, closures and
    attributes, with their constants and defaults; tensors, arrays and plain values wherever they are kept; hooks. Of
    PyTorch and other installed packages the names count, not the code. It differs between versions of Python.
    """
    try:
        return _Reader(digests).digest(module)
    except (_UnknownError, RecursionError):
        return None


class _Reader:
    """Digests of objects, each of which is read once: what refers back to one is given its number."""

    def __init__(self, digests: TensorDigests) -> None:
        self._digests = digests
        #: objects with their numbers; the objects are kept, so that an id stays theirs
        self._seen: dict[int, tuple[Any, int]] = {}

    def digest(self, value: Any) -> str:
        return hashlib.sha256(self._said(value).encode("utf-8", "surrogatepass")).hexdigest()

    def _said(self, value: Any) -> str:
        if type(value) in _PLAIN:
            return f"{type(value).__name__} {value!r}"
        if isinstance(value, _NAMED):
            return f"{type(value).__name__} {value!r}"
        if id(value) in self._seen:
            return f"again {self._seen[id(value)][1]}"
        self._seen[id(value)] = value, len(self._seen)
        return f"{type(value).__name__} {self._content(value)}"

    def _content(self, value: Any) -> str:
        if isinstance(value, torch.Tensor):
            return self._digests.digest(value)
        if isinstance(value, np.ndarray | np.generic) and value.dtype != object:
            array = np.ascontiguousarray(value)
            return f"{array.dtype.str} {array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"
        if isinstance(value, torch.jit.ScriptModule | torch.jit.ScriptFunction):
            return self._compiled(value)
        if isinstance(value, nn.Module):
            state = {key: item for key, item in vars(value).items() if key not in _IDLE}
            return f"{self._type(type(value))} {self._mapping(state)}"
        if isinstance(value, list | tuple):
            return self._items(value)
        if isinstance(value, set | frozenset):
            return self._items(sorted(value, key=repr))
        if isinstance(value, Mapping):
            return self._mapping(value)
        if isinstance(value, type):
            return self._type(value)
        if isinstance(value, types.ModuleType):
            return value.__name__  # what code takes from it is read where it is taken
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, types.MethodType):
            return self._items((value.__func__, value.__self__))
        if isinstance(value, functools.partial):
            return self._items((value.func, value.args, value.keywords))
        if isinstance(value, _METHODS):
            return self._said(value.__func__)
        if isinstance(value, property):
            return self._items((value.fget, value.fset))
        if isinstance(value, types.CodeType):
            return self._code(value)
        return self._object(value)

    def _items(self, values: Any) -> str:
        return f"[{', '.join(self._said(item) for item in values)}]"

    def _mapping(self, values: Mapping[Any, Any]) -> str:
        return f"{{{', '.join(f'{self._said(key)}: {self._said(item)}' for key, item in values.items())}}}"

    def _type(self, kind: type) -> str:
        name = f"{kind.__module__}.{kind.__qualname__}"
        if _is_library(kind.__module__):
            return name
        own = {
            key: value
            for key, value in vars(kind).items()
            if key not in ("__doc__", "__module__", "__dict__", "__weakref__", "__firstlineno__")
            and not isinstance(value, types.GetSetDescriptorType | types.MemberDescriptorType)
        }
        # Of no account: what the class is called. Its bases come first, so that a method which it inherits counts.
        return f"{self._items(kind.__bases__)} {self._mapping(own)}"

    def _function(self, function: types.FunctionType) -> str:
        if _is_library(function.__module__):
            return f"{function.__module__}.{function.__qualname__}"
        names = _names(function.__code__)
        reached = {name: function.__globals__[name] for name in sorted(names) if name in function.__globals__}
        for module in [value for value in reached.values() if isinstance(value, types.ModuleType)]:
            if not _is_library(module.__name__):
                taken = sorted(names & vars(module).keys())
                reached.update({f"{module.__name__}.{name}": vars(module)[name] for name in taken})
        cells = [_held(cell) for cell in function.__closure__ or ()]
        defaults = (function.__defaults__, function.__kwdefaults__)
        return f"{self._code(function.__code__)} {self._items((*defaults, cells))} {self._mapping(reached)}"

    def _code(self, code: types.CodeType) -> str:
        constants = ", ".join(
            self._code(item) if isinstance(item, types.CodeType) else self._said(item) for item in code.co_consts
        )
        names = code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars, code.co_argcount
        return f"{hashlib.sha256(code.co_code).hexdigest()} ({constants}) {names} {code.co_flags}"

    def _compiled(self, value: Any) -> str:
        """Return what tells a TorchScript module apart: its code as text, and its tensors where it has any."""
        tensors = dict(value.state_dict()) if isinstance(value, torch.jit.ScriptModule) else {}
        return f"{value.graph} {self._mapping(tensors)}"

    def _object(self, value: Any) -> str:
        kind = type(value)
        if callable(value) and hasattr(value, "__qualname__") and hasattr(value, "__module__"):  # built in
            owner = getattr(value, "__self__", None)
            bound = "" if owner is None or isinstance(owner, types.ModuleType) else self._said(owner)
            return f"{value.__module__}.{value.__qualname__} {bound}"
        if isinstance(value, torch._ops.OpOverload | torch._ops.OpOverloadPacket):
            return str(value)
        if not _is_library(kind.__module__) and hasattr(value, "__dict__") and not hasattr(kind, "__slots__"):
            return f"{self._type(kind)} {self._mapping(vars(value))}"
        try:  # of a library's objects, what they would be stored as
            return hashlib.sha256(pickle.dumps(value, protocol=4)).hexdigest()
        except Exception:
            raise _UnknownError(kind.__qualname__) from None


def _names(code: types.CodeType) -> set[str]:
    """Return the globals and attributes that code, and the functions inside it, name."""
    inner = [_names(item) for item in code.co_consts if isinstance(item, types.CodeType)]
    return set(code.co_names).union(*inner)


def _held(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


@functools.cache
def _is_library(name: str | None) -> bool:
    """Return whether a Python module is installed or built in, not the user's own code."""
    root = (name or "").partition(".")[0]
    if root in ("__main__", "__mp_main__"):
        return False
    if root in sys.builtin_module_names or root in ("torch", "torchvision", "timm", "numpy", "obeql"):
        return True
    path = getattr(sys.modules.get(root), "__file__", None)
    if path is None:
        spec_path = list(getattr(sys.modules.get(root), "__path__", ()))
        path = spec_path[0] if spec_path else None
    return path is not None and any(Path(path).is_relative_to(folder) for folder in _LIBRARIES)
