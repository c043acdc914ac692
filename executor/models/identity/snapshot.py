"""A copy of a live module that stays what it is while the original is trained on, or put into another mode."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import torch
from torch import nn

__all__ = ["snapshot"]


def snapshot(module: nn.Module) -> nn.Module:
    """Return a copy of a module that shares no parameter, buffer or tensor attribute with it.

    What cannot be copied, such as a lock or a generator, is shared.
    """
    try:
        twin = copy.deepcopy(module)
    except Exception:  # hooks, locks and non-leaf tensors cannot be copied
        return _copied(module, {})
    return _copied(module, {}) if _shares(twin, module) else twin


def _copied(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """Return a copy made attribute by attribute, each as far as it can be copied. `memo` is that of `copy.deepcopy`."""
    if id(module) in memo:
        known: nn.Module = memo[id(module)]
        return known
    twin = type(module).__new__(type(module))
    memo[id(module)] = twin
    for key, value in vars(module).items():
        vars(twin)[key] = _value(value, memo)
    return twin


def _value(value: Any, memo: dict[int, Any]) -> Any:
    if isinstance(value, nn.Module):
        return _copied(value, memo)
    if isinstance(value, torch.Tensor) and not value.is_leaf:
        return memo.setdefault(id(value), value.detach().clone())
    if type(value) in (dict, OrderedDict):  # parameters, buffers, children and hooks are kept in dictionaries
        return type(value)((key, _value(item, memo)) for key, item in value.items())
    if type(value) in (list, tuple):
        return type(value)(_value(item, memo) for item in value)
    try:
        return copy.deepcopy(value, memo)
    except Exception:
        return value


def _shares(twin: nn.Module, original: nn.Module) -> bool:
    """Return whether a module's own rule for copying has left the copy parts or memory of the original."""
    if {id(part) for part in twin.modules()} & {id(part) for part in original.modules()}:
        return True
    ours, its = ({_memory(t) for t in (*m.parameters(), *m.buffers())} - {None} for m in (twin, original))
    return bool(ours & its)


def _memory(tensor: torch.Tensor) -> int | None:
    """Return where a tensor's numbers lie; None where that cannot be told, or nowhere."""
    try:
        return tensor.untyped_storage().data_ptr() or None
    except (RuntimeError, ValueError):  # sparse, or not initialized yet
        return None
