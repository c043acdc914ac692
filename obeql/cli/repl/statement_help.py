"""What `.help EXPLAIN` and `\\h EXPLAIN` say: how a statement is written, its clauses and options, and an example.

Beside the dot-commands, which print it. Statements are read from `obeql.grammar.statements`, options and settings from
their tables; tests parse every example and look for every statement and clause of the grammar.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from obeql.cli.wrapping import table, wrapped
from obeql.grammar import statements
from obeql.grammar.statements import About

if TYPE_CHECKING:
    from obeql.export.folders import FolderFormat
    from obeql.planner.binding.option_tables import OptionInfo
    from obeql.planner.binding.settings import SettingInfo

__all__ = ["STATEMENTS", "find_statements", "option_help", "option_rows", "statement_help"]


#: What each statement says of itself.
STATEMENTS: tuple[About, ...] = tuple(statement.about for statement in statements.STATEMENTS)


def find_statements(words: str) -> list[About]:
    """Return the statements that begin with these words, or, if there are none, that have a clause which does."""
    wanted = " ".join(words.upper().split())
    found = [each for each in STATEMENTS if f"{each.name} ".startswith(f"{wanted} ")]
    # The statement itself may be typed on: EXPLAIN OCCLUDE scans USING ..
    found = found or [each for each in STATEMENTS if f"{wanted} ".startswith(f"{each.name} ")]
    found = found or [each for each in STATEMENTS if each.name.startswith(wanted)]
    return found or [each for each in STATEMENTS if any(f"{name} ".startswith(wanted) for name, _ in each.clauses)]


def statement_help(statement: About, columns: int | None) -> str:
    """Return the help of one statement, wrapped to a terminal."""
    rows = [*statement.clauses]
    names = [row.name for row in option_rows(statement.options)]
    if statement.options == "settings":
        rows.append(("setting", f"{', '.join(names)} (.help {names[0]})"))
    elif statement.options == "formats":
        rows += [(f"FORMAT {each.name.upper()}", each.is_a) for each in _folder_formats()]
    elif names:
        rows.append(("WITH option=value ..", f"{', '.join(names)} (.help {names[0]})"))
    parts = [f"{statement.name}: {statement.does}", "", wrapped(f"  {statement.form}", columns)]
    if rows:
        parts += ["", table(rows, columns)]
    return "\n".join([*parts, "", wrapped(f"  {statement.example}", columns)])


def option_help(name: str, columns: int | None) -> str:
    """Return what an option or a setting of this name is, in each statement that has one; empty where none has."""
    found = []
    for statement in STATEMENTS:
        if statement.name == "RESET":
            continue
        for row in option_rows(statement.options):
            if name.lower().removeprefix("obeql.") == row.name:
                text = f"{row.doc} Values: {row.takes}"
                found.append((f"{statement.name} {_written(statement, row.name)}", text))
    return table(found, columns, "") if found else ""


def _written(statement: About, name: str) -> str:
    return f"obeql.{name}" if statement.options == "settings" else f"{name}="


def _folder_formats() -> Sequence[FolderFormat]:
    from obeql.export.folders import FOLDER_FORMATS  # noqa: PLC0415 - imports pyarrow

    return FOLDER_FORMATS


def option_rows(options: str) -> Sequence[OptionInfo | SettingInfo]:
    """Return the table of options, or of settings, that a statement names; of none, nothing."""
    from obeql.planner.binding.option_tables import (  # noqa: PLC0415
        EVALUATE_OPTIONS,
        EXPLAIN_OPTIONS,
        IMAGES_OPTIONS,
        MODEL_OPTIONS,
        PREDICT_OPTIONS,
        RENDER_OPTIONS,
    )
    from obeql.planner.binding.settings import SETTINGS  # noqa: PLC0415

    tables: dict[str, Sequence[OptionInfo | SettingInfo]] = {
        "explain": EXPLAIN_OPTIONS,
        "images": IMAGES_OPTIONS,
        "model": MODEL_OPTIONS,
        "predict": PREDICT_OPTIONS,
        "evaluate": EVALUATE_OPTIONS,
        "render": RENDER_OPTIONS,
        "settings": SETTINGS,
    }
    return tables.get(options, ())
