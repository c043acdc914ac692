"""The settings of `SET obeql.<name> = value`: one declarative table.

The session keeps the values and hands them to binding through `Catalog.setting`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from obeql.errors import QueryError, QueryTypeError, UnknownNameError, nearest
from obeql.grammar import statements
from obeql.planner.binding.error_location import locate
from obeql.planner.binding.values import (
    BadValue,
    Parameters,
    Parser,
    choice,
    flag,
    plain,
    shown,
    size_bytes,
    text_value,
    whole,
)
from obeql.planner.logical.rules import rule_names

__all__ = [
    "ALL_GPUS",
    "DEVICE_NAMES",
    "RAY",
    "SETTINGS",
    "SettingInfo",
    "bind_setting",
    "check_setting",
    "device_name",
    "setting_default",
]

#: Kinds of devices, and whether they are numbered.
_KINDS = {"cpu": False, "cuda": True, "xpu": True, "mps": False}
#: What names a device without its number.
DEVICES = ("auto", *_KINDS)
#: What completion offers.
DEVICE_NAMES = tuple(name for kind in DEVICES for name in ((kind, "cuda:0") if kind == "cuda" else (kind,)))
#: Every GPU of the machine, one worker process each.
ALL_GPUS = "cuda:*"
#: Actors of a Ray cluster share the images.
RAY = "ray"
_NUMBERED = re.compile(f"({'|'.join(kind for kind, numbered in _KINDS.items() if numbered)}):[0-9]{{1,3}}")


def device_name(name: str, value: Any) -> str:
    """Parse `auto`, a kind of device, `cuda:<i>`, `xpu:<i>` or `cuda:*`; only the run tells whether it is there."""
    if isinstance(value, str) and (value.lower() == ALL_GPUS or _NUMBERED.fullmatch(value.lower())):
        return value.lower()
    return str(choice(*DEVICES, "cuda:<number>")(name, value))


def _rules(name: str, value: Any) -> tuple[str, ...]:
    """Parse a list of rules separated by commas; returns their names in order."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, (list, tuple)) or not all(isinstance(part, str) for part in parts):
        raise BadValue(f"{name} takes names of rules separated by commas, not {shown(value)}.")
    return tuple(sorted(rule_names(parts)))


def _measured(name: str, value: Any) -> Any:
    raise BadValue(f"{name} is measured and cannot be set; RESET {name} forgets it.")


def _or_auto(parse: Parser) -> Parser:
    """Return the parser with `auto` (None) allowed beside its own values."""

    def parsed(name: str, value: Any) -> Any:
        return None if isinstance(value, str) and value.lower() == "auto" else parse(name, value)

    return parsed


@dataclass(frozen=True, slots=True)
class SettingInfo:
    """A row of the table. `default` is the checked value; None means that planning decides (`auto`)."""

    name: str
    parse: Parser
    default: Any
    takes: str
    doc: str


SETTINGS: tuple[SettingInfo, ...] = (
    SettingInfo("device", device_name, "auto", ", ".join(DEVICE_NAMES), "Device of statements without ON."),
    SettingInfo(
        "disabled_rules", _rules, (), "'rule, rule'", "Rules and choices of the planner that are left out, by name."
    ),
    SettingInfo(
        "engine",
        choice("processes", RAY),
        "processes",
        "processes, ray",
        "What shares the images among workers: processes of this machine, or Ray, as ON ray does for one statement.",
    ),
    SettingInfo(
        "max_cells",
        _or_auto(whole(1)),
        100_000_000,
        "100000000, auto",
        "Most cells one statement may ask for, a guard against typing errors; auto sets no limit.",
    ),
    SettingInfo("memory", _or_auto(size_bytes), None, "'2GB', auto", "Memory of statements without the memory option."),
    SettingInfo("progress", flag, True, "true, false", "Whether long statements show a progress bar."),
    SettingInfo(
        "ray_address",
        _or_auto(text_value),
        None,
        "'10.0.0.1:6379', 'local', auto",
        "Ray's cluster: its address, or local, one of this machine for as long as a statement; auto is the variable "
        "RAY_ADDRESS, else local.",
    ),
    SettingInfo(
        "rates",
        _measured,
        None,
        "only RESET",
        "How fast devices run models, as measured; `RESET obeql.rates` forgets it, and the next plan measures again.",
    ),
    SettingInfo("reuse", flag, True, "true, false", "Whether stored cells may answer instead of being computed."),
    SettingInfo(
        "store",
        choice("duckdb", "parquet"),
        "duckdb",
        "duckdb, parquet",
        "Where maps are kept: in the database file, or in Parquet files beside it.",
    ),
    SettingInfo(
        "store_folder",
        _or_auto(text_value),
        None,
        "'maps', 's3://bucket/maps', auto",
        "Folder of those Parquet files; auto is heat.maps beside heat.duckdb. Where the database keeps the maps, that "
        "in which workers leave them for it.",
    ),
    SettingInfo("threads", _or_auto(whole(1)), None, "4, auto", "Threads of the CPU that one operator uses."),
)

_BY_NAME: Mapping[str, SettingInfo] = {row.name: row for row in SETTINGS}


def _row(name: str) -> SettingInfo:
    row = _BY_NAME.get(name.lower())
    if row is None:
        raise UnknownNameError(
            f"There is no setting obeql.{name}; settings are {', '.join(_BY_NAME)}.{nearest(name, _BY_NAME)}"
        )
    return row


def setting_default(name: str) -> Any:
    """Return the default of a setting. Raises UnknownNameError when there is no such setting."""
    return _row(name).default


def check_setting(name: str, value: Any) -> Any:
    """Return a plain value as the setting keeps it. Raises UnknownNameError, QueryTypeError."""
    try:
        return _row(name).parse(f"obeql.{name.lower()}", value)
    except BadValue as wrong:
        raise QueryTypeError(str(wrong)) from None


def bind_setting(
    statement: statements.SetSetting | statements.ResetSetting, parameters: Parameters | None = None
) -> tuple[str, Any]:
    """Return (name, checked value) of SET, or (name, default) of RESET."""
    try:
        row = _row(statement.name)
    except UnknownNameError as unknown:
        raise locate(unknown, statement, statement.name_span.start) from None
    if isinstance(statement, statements.ResetSetting):
        return row.name, row.default
    try:
        return row.name, check_setting(row.name, plain(statement.value, parameters or {}))
    except QueryError as wrong:
        raise locate(wrong, statement.value) from None
