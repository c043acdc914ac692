"""What `.help EXPLAIN` and `\\h EXPLAIN` say: how a statement is written, its clauses and options, and an example.

Beside the dot-commands, which print it. Options and settings are read from their tables; tests parse every example and
look for every statement and clause of the grammar.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from obeql.cli.wrapping import table, wrapped

if TYPE_CHECKING:
    from obeql.planner.binding.options import OptionInfo
    from obeql.planner.binding.settings import SettingInfo

__all__ = ["STATEMENTS", "StatementHelp", "find_statements", "option_help", "statement_help"]


@dataclass(frozen=True, slots=True)
class StatementHelp:
    """One statement: its first words, what it does, its form, its clauses and an example.

    `options` names the table of what may stand in WITH, or behind SET.
    """

    name: str
    does: str
    form: str
    clauses: tuple[tuple[str, str], ...]
    example: str
    options: Literal["", "explain", "images", "model", "predict", "evaluate", "render", "settings"] = ""


_SOURCE = ("source", "a name, 'path', 'glob', (SELECT ..) or parameter")

STATEMENTS: tuple[StatementHelp, ...] = (
    StatementHelp(
        "EXPLAIN OCCLUDE",
        "computes heat maps and stores them as a run",
        "EXPLAIN OCCLUDE source USING model [clauses in any order];",
        (
            _SOURCE,
            ("FOR PREDICTED", "the class that the model ranks first; also without FOR"),
            ("FOR LABEL", "the class that the image's label names"),
            ("FOR CLASS c", "this class, a number or 'name'; FOR CLASSES (a, b)"),
            ("FOR TOP k", "the k classes ranked highest; FOR ALL every class"),
            ("REGION (t, l, h, w)", "windows inside this box of the model's input, pixels"),
            ("EXACT", "every cell is computed; also without it"),
            ("APPROX q", "a bound of q on the quality; METRIC m, CONFIDENCE c"),
            ("WITHIN n SECONDS", "the best map in that time"),
            ("TOP k CELLS", "the k most important cells"),
            ("ON device", "auto, cpu, cuda, cuda:1, cuda:* or ray"),
            ("NO REUSE", "computes what is stored anew"),
            ("INTO [OR REPLACE] run", "names the run"),
            ("FROM (EXPLAIN ..)", "inside SQL, in parentheses: its windows as a table"),
        ),
        "EXPLAIN OCCLUDE 'scan.png' USING tumour FOR TOP 2 WITH patch=16 INTO first;",
        "explain",
    ),
    StatementHelp(
        "PLAN",
        "shows how an EXPLAIN OCCLUDE would be carried out, and how long it takes",
        "PLAN [ANALYZE] EXPLAIN OCCLUDE ..;",
        (("ANALYZE", "runs it, and shows measured values beside the estimates"),),
        "PLAN EXPLAIN OCCLUDE scans USING tumour WITH patch=16;",
    ),
    StatementHelp(
        "PLAN SELECT",
        "shows how the statements inside SQL would be carried out",
        "PLAN any SQL with (EXPLAIN OCCLUDE ..) or (PREDICT ..) inside;",
        (),
        "PLAN SELECT max(importance) FROM (EXPLAIN OCCLUDE scans USING tumour) WHERE label = 'glioma';",
    ),
    StatementHelp(
        "PREDICT",
        "shows the classes that a model ranks highest",
        "PREDICT source USING model [FOR TOP k] [WITH page=..] [CHECK];",
        (
            _SOURCE,
            ("FOR TOP k", "so many classes of each image"),
            ("CHECK", "tries the usual preprocessings: which makes the network right, or surest"),
            ("FROM (PREDICT ..)", "inside SQL, in parentheses: its rows as a table"),
        ),
        "PREDICT scans USING tumour FOR TOP 1;",
        "predict",
    ),
    StatementHelp(
        "CREATE MODEL",
        "gives a network a name",
        "CREATE [OR REPLACE] MODEL name FROM 'uri' [WITH option=value ..];",
        (
            ("'file.onnx', 'file.pt2'", "an ONNX graph, an archive of torch.export"),
            ("'torchvision:name'", "an architecture of torchvision; 'timm:name' of timm"),
            ("'hf:folder or owner/name'", "an image classifier of transformers"),
            ("'python:module:function'", "what a function returns; needs --allow-python"),
            ("OR REPLACE", "lets the name stand for another network"),
        ),
        "CREATE MODEL tumour FROM 'vgg16.onnx' WITH classes=['glioma', 'notumor'];",
        "model",
    ),
    StatementHelp(
        "CREATE IMAGES",
        "gives a list of images a name",
        "CREATE [OR REPLACE] IMAGES name FROM 'path or glob' | (SELECT ..) | parameter [WITH option=value ..];",
        (("(SELECT ..)", "names images by a column path or image_id; label becomes the label"),),
        "CREATE IMAGES scans FROM 'scans/*.jpg';",
        "images",
    ),
    StatementHelp(
        "DROP",
        "forgets a model, a list of images, or a run with its maps",
        "DROP MODEL | IMAGES | RUN name;",
        (),
        "DROP RUN first;",
    ),
    StatementHelp(
        "SHOW",
        "lists what there is",
        "SHOW MODELS | IMAGES | RUNS | DEVICES | OPERATORS;",
        (),
        "SHOW RUNS;",
    ),
    StatementHelp(
        "DESCRIBE",
        "shows the layers of a model, the files of images, the maps of a run",
        "DESCRIBE MODEL | IMAGES | RUN name;",
        (),
        "DESCRIBE MODEL tumour;",
    ),
    StatementHelp(
        "EVALUATE",
        "deletion and insertion curves of the maps of a run",
        "EVALUATE run [WITH option=value ..];",
        (),
        "EVALUATE first WITH steps=20;",
        "evaluate",
    ),
    StatementHelp(
        "RENDER",
        "draws the maps of a run over their images",
        "RENDER run TO 'file' [WITH option=value ..];",
        (("'file'", "the suffix says what: .png .jpg .pdf .svg .html .gif .npz"),),
        "RENDER first TO 'first.png';",
        "render",
    ),
    StatementHelp(
        "EXPORT RUN",
        "writes all maps of a run into a folder",
        "EXPORT RUN run TO 'folder' [FORMAT PARQUET | NPZ | PNG];",
        (("FORMAT", "one table, or a file a map with its numbers or its picture"),),
        "EXPORT RUN first TO 'maps' FORMAT NPZ;",
    ),
    StatementHelp(
        "SET",
        "changes a setting for this session",
        "SET obeql.setting = value;",
        (),
        "SET obeql.device = 'cpu';",
        "settings",
    ),
    StatementHelp(
        "RESET",
        "gives a setting its default again",
        "RESET obeql.setting;",
        (),
        "RESET obeql.device;",
        "settings",
    ),
)


def find_statements(words: str) -> list[StatementHelp]:
    """Return the statements that begin with these words, or, if there are none, that have a clause which does."""
    wanted = " ".join(words.upper().split())
    found = [each for each in STATEMENTS if f"{each.name} ".startswith(f"{wanted} ")]
    # The statement itself may be typed on: EXPLAIN OCCLUDE scans USING ..
    found = found or [each for each in STATEMENTS if f"{wanted} ".startswith(f"{each.name} ")]
    found = found or [each for each in STATEMENTS if each.name.startswith(wanted)]
    return found or [each for each in STATEMENTS if any(f"{name} ".startswith(wanted) for name, _ in each.clauses)]


def statement_help(statement: StatementHelp, columns: int | None) -> str:
    """Return the help of one statement, wrapped to a terminal."""
    rows = [*statement.clauses]
    names = [row.name for row in _rows(statement.options)]
    if statement.options == "settings":
        rows.append(("setting", f"{', '.join(names)} (.help {names[0]})"))
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
        for row in _rows(statement.options):
            if name.lower().removeprefix("obeql.") == row.name:
                text = f"{row.doc} Values: {row.takes}"
                found.append((f"{statement.name} {_written(statement, row.name)}", text))
    return table(found, columns, "") if found else ""


def _written(statement: StatementHelp, name: str) -> str:
    return f"obeql.{name}" if statement.options == "settings" else f"{name}="


def _rows(options: str) -> Sequence[OptionInfo | SettingInfo]:
    from obeql.planner.binding.options import (  # noqa: PLC0415
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
