"""How Python values become columns and back: JSON texts and UTC times.

Used by every module of `obeql.store` that reads or writes rows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np

__all__ = ["dump", "load", "load_frozen", "naive_utc", "utc_now"]


def utc_now() -> datetime:
    """Return the time now in UTC, without a zone, as the tables hold it."""
    return datetime.now(UTC).replace(tzinfo=None)


def naive_utc(moment: datetime) -> datetime:
    """Return `moment` in UTC without a zone; a moment that has none is taken as UTC."""
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


def dump(value: Any) -> str:
    """Return JSON with sorted keys; what JSON lacks becomes text, and a number that is not finite becomes null."""
    if isinstance(value, dict) and not value:  # what most images say of themselves
        return "{}"
    return _ENCODER.encode(_plain(value))


_ENCODER = json.JSONEncoder(separators=(",", ":"), sort_keys=True, ensure_ascii=False)


def _plain(value: Any) -> Any:
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:  # nearly all of them
        return value
    if kind is tuple or kind is list:
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (int, str)):
        return value
    return str(value)


def load(text: str | None) -> dict[str, Any]:
    """Return the mapping behind a JSON text; empty for NULL."""
    value: dict[str, Any] = json.loads(text) if text else {}
    return value


def load_frozen(text: str | None) -> dict[str, Any]:
    """Return what `load` does, with tuples for lists, as options are written in a statement."""
    return {key: _frozen(value) for key, value in load(text).items()}


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
