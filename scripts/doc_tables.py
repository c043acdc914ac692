"""The parts of the docs that tell what the code has: packages, options, schema, operators, rules, layers, grammar.

Used by `write_docs`.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from doc_markdown import table

ROOT = Path(__file__).resolve().parents[1]


def packages() -> str:
    """The packages in the order of the import contracts: each may import those below it."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    inner = {contract["containers"][0]: contract["layers"] for contract in contracts}
    lines: list[str] = []

    def add(package: str, depth: int) -> None:
        for name in (each.strip() for layer in inner[package] for each in layer.split("|")):
            full = f"{package}.{name}"
            if full in inner or (_folder(full) / "__init__.py").exists():
                lines.append(f"{'  ' * depth}{name:{22 - 2 * depth}}{_purpose(_folder(full) / '__init__.py')}")
            if full in inner:
                add(full, depth + 1)

    add("obeql", 0)
    return "```text\n" + "\n".join(lines) + "\n```"


def _folder(package: str) -> Path:
    parts = package.split(".")[1:]
    top = ROOT if parts[0] in ("executor", "planner", "grammar") else ROOT / "obeql"
    return top.joinpath(*parts)


def _purpose(file: Path) -> str:
    """What a package says of itself, up to the first full stop or colon that ends a line's thought."""
    first = (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").splitlines()[0]
    return re.split(r"(?<=[.])\s", first)[0].rstrip(".")


def options() -> str:
    from obeql.cli.main import parser

    rows = []
    for action in parser()._actions:
        written = ", ".join(action.option_strings) or f"{action.dest}"
        takes = f" {action.metavar or '|'.join(map(str, action.choices or ()))}".rstrip()
        rows.append((f"`{written}{takes}`", action.help or ""))
    return table(("option", "does"), rows)


def page_options() -> str:
    from obeql.cli.page import page_parser

    rows = []
    for action in page_parser()._actions:
        written = ", ".join(action.option_strings) or f"{action.dest}"
        rows.append((f"`{written}{f' {action.metavar}' if action.metavar else ''}`", action.help or ""))
    return table(("option", "does"), rows)


def commands() -> str:
    from obeql.cli.repl.commands import COMMANDS

    rows = [(f"`{each.usage}`", f"{each.does}. {each.more}" if each.more else each.does) for each in COMMANDS.values()]
    return table(("command", "does"), rows)


def render_options() -> str:
    from obeql.export.registry import FORMS
    from obeql.planner.binding.option_tables import RENDER_OPTIONS
    from obeql.session.render_export import takes

    def files(name: str) -> str:
        return ", ".join(" ".join(form.suffixes) for form in FORMS if name in takes(form))

    rows = [(f"`{row.name}`", row.takes, row.doc.rstrip("."), files(row.name)) for row in RENDER_OPTIONS]
    return table(("option of RENDER", "values", "meaning", "files"), rows)


def plot_options() -> str:
    """The named arguments of drawing functions, as the docstrings of `plot` describe them, and who takes each."""
    import inspect

    from obeql import Heatmap, Result
    from obeql.drawing.animation import film_bytes
    from obeql.drawing.compare import side_by_side

    takers = {
        "heat.plot": Heatmap.plot,
        "result.plot": Result.plot,
        "heat.compare": side_by_side,
        "heat.animate": film_bytes,
        "result.report": Result.report,
    }
    parameters = {name: inspect.signature(taker).parameters for name, taker in takers.items()}
    meanings = {**_bullets(Heatmap.animate), **_bullets(Result.plot), **_bullets(Heatmap.plot)}
    rows = []
    for option, meaning in meanings.items():
        taken = {name: found[option].default for name, found in parameters.items() if option in found}
        defaults = list(dict.fromkeys("automatic" if value is None else repr(value) for value in taken.values()))
        rows.append((f"`{option}`", ", ".join(defaults), meaning, ", ".join(f"`{name}`" for name in taken)))
    return table(("argument", "default", "meaning", "of"), sorted(rows, key=lambda row: -row[3].count(",")))


def _bullets(documented: object) -> dict[str, str]:
    """What a docstring says of its arguments, one bullet each."""
    import inspect

    found = re.findall(r"^- `(\w+)`: (.+?)(?=\n- |\n\n|\Z)", inspect.getdoc(documented) or "", re.MULTILINE | re.DOTALL)
    return {name: " ".join(meaning.split()).rstrip(".") for name, meaning in found}


def schema() -> str:
    """Every view and macro that a user reads, with its columns or parameters and the comments that the file holds."""
    import obeql

    with obeql.connect() as db:
        views = db.execute(
            "SELECT view_name, comment FROM duckdb_views() WHERE NOT internal AND schema_name = 'main' ORDER BY ALL"
        ).fetchall()
        columns = db.execute(
            "SELECT table_name, column_name, data_type, comment FROM duckdb_columns() WHERE NOT internal "
            "AND schema_name = 'main' ORDER BY table_name, column_index"
        ).fetchall()
        macros = db.execute(
            "SELECT DISTINCT function_name, parameters, comment FROM duckdb_functions() WHERE NOT internal "
            "AND schema_name = 'main' AND function_type LIKE '%macro' ORDER BY ALL"
        ).fetchall()
    parts = []
    for view, comment in views:
        rows = [(f"`{name}`", f"`{kind}`", said or "") for of, name, kind, said in columns if of == view]
        parts.append(f"### {view}\n\n{comment}.\n\n{table(('column', 'type', 'meaning'), rows)}")
    called = [(f"`{name}({', '.join(parameters)})`", said or "") for name, parameters, said in macros]
    return "\n\n".join([*parts, f"### Macros\n\n{table(('macro', 'gives'), called)}"])


def operators() -> str:
    from obeql.planner.physical.plan import OPERATORS

    rows = [(f"`{each.name}`", each.does, "yes" if each.exact else "no") for each in OPERATORS]
    return table(("operator", "does", "exact"), rows)


def scores() -> str:
    from obeql.planner.scores import SCORES

    rows = [(f"`{kind}`", score.written, score.sql_unit) for kind, score in SCORES.items()]
    return table(("score", "value", "unit"), rows)


def rules() -> str:
    from obeql.planner.logical.rules import CHOICES, RULES
    from obeql.planner.pushdown.rules import PUSHDOWN_RULES

    rows = [(f"`{rule.__name__}`", _first(rule), "the plan as it was") for rule in RULES]
    rows += [(f"`{choice.name}`", choice.does, choice.without) for choice in CHOICES]
    rows += [(f"`{rule.__name__}`", _first(rule), "all is computed, then filtered") for rule in PUSHDOWN_RULES]
    return table(("rule", "does", "without it"), rows)


def layers() -> str:
    from obeql.executor.network.layers import LAYERS

    return table(("layer", "reach", "is"), [(f"`{each.kind}`", each.reach, _first(each)) for each in LAYERS])


def aten() -> str:
    from obeql.executor.network.lowering import RULES

    return ", ".join(f"`{name}`" for name in sorted(RULES)) + "."


def grammar() -> str:
    text = (files("obeql.grammar") / "obeql.lark").read_text(encoding="utf-8")
    return f"```text\n{text.split('// ---- terminals')[0].strip()}\n```"


def _first(documented: object) -> str:
    return re.split(r"(?<=\.)\s|\n\n", (documented.__doc__ or "").strip())[0].replace("\n", " ").rstrip(".")


#: By their names, what `write_docs` writes.
PARTS: tuple[Callable[[], str], ...] = (
    packages,
    options,
    page_options,
    commands,
    render_options,
    plot_options,
    schema,
    operators,
    scores,
    rules,
    layers,
    aten,
    grammar,
)
