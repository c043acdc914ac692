"""Write the generated parts of docs/ and CONTRIBUTING.md: packages, options, schema, operators, rules, layers, figures.

A part stands between `<!-- generated: name -->` and `<!-- end -->`. A test compares what is there with the code.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import tomllib
from collections.abc import Callable, Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table of Markdown, whose cells read the same on every site: a `<` or a `|` is none of the page's own."""
    lines = [head, tuple("---" for _ in head), *(tuple(map(_cell, row)) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(text: str) -> str:
    """A cell. In code, sites disagree about escaped bars; in HTML they do not."""
    if "|" not in text and "<" not in text:
        return text
    parts = text.split("`")  # code is every second part
    for place, part in enumerate(parts):
        shown = part.replace("<", "&lt;").replace(">", "&gt;").replace("|", "&#124;")
        in_code = place % 2 == 1
        parts[place] = f"<code>{shown}</code>" if in_code and "|" in part else f"`{part}`" if in_code else shown
    return "".join(parts)


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


def result(name: str) -> dict[str, Any]:
    """What a benchmark wrote."""
    text = (ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def measured(name: str) -> list[dict[str, Any]]:
    """The rows that a benchmark wrote."""
    rows: list[dict[str, Any]] = result(name)["rows"]
    return rows


#: Results of benchmarks.engine that the page on performance shows.
ENGINE_RESULTS = ("cpu2-vgg16-whole-grid", "cpu2-vgg16-448", "cpu2-vgg16-896", "cpu2-stratified", "cpu2-lite0")


def engine_speed() -> str:
    return _engine_rows([row for name in ENGINE_RESULTS for row in measured(name)])


def few_windows_speed() -> str:
    return _engine_rows(measured("cpu2-16-windows"))


def _engine_rows(rows: list[dict[str, Any]]) -> str:
    head = ("network, pixels", "windows", "naive ms (batch)", "OBEQL ms", "ratio", "bound", "estimated ms")
    return table(
        head,
        [
            (
                f"{row['network']} {row['size']}",
                str(row["windows"]),
                f"{row['naive_ms']:.2f} ({row['naive_batch']})",
                *(f"{row[key]:.2f}" for key in ("ours_ms", "ratio", "bound", "estimated_ms")),
            )
            for row in rows
        ],
    )


def peers_speed() -> str:
    """Times that OBEQL is faster than Captum and MONAI, at two strides."""
    head = (
        "network",
        "Captum, default (1)",
        "best of three",
        "MONAI, default (16)",
        "best of two",
        "at stride 4, the same",
    )
    rows = []
    for row in measured("cpu2-peers"):
        told = [_peers(each["times_faster"]) for each in (row, row["at_fine_stride"])]
        rows.append((row["network"], *(f"{value:.1f}" for value in told[0]), " / ".join(f"{v:.1f}" for v in told[1])))
    return table(head, rows)


def _peers(times: dict[str, float]) -> list[float]:
    captum = [value for key, value in times.items() if key.startswith("captum")]
    monai = [value for key, value in times.items() if key.startswith("monai")]
    return [times["captum default (1)"], min(captum), times["monai default (16)"], min(monai)]


def drop_in_speed() -> str:
    """What changing the import does to a call of Captum's and of MONAI's class."""
    found = result("cpu2-drop-in")
    rows = []
    for row in found["rows"]:
        for call in ("first", "later"):
            one = row[call]
            what = (
                f"{row['network']}, {row['library'].replace('captum', 'Captum').replace('monai', 'MONAI')}, {call} call"
            )
            seconds = (f"{one['theirs_s']:.2f}", f"{one['ours_s']:.2f}")
            rows.append((what, str(one["windows"]), *seconds, f"{one['times_faster']:.2f}", f"{one['difference']:.0e}"))
    head = ("network, library", "windows", "theirs, seconds", "OBEQL, seconds", "ratio", "largest difference")
    return table(head, rows) + (f"\n\n{found['note']}" if found["note"] else "")


def store_speed() -> str:
    return table(
        ("10,000 maps of 53 x 53 cells", "CPU seconds", "seconds"),
        [(row["what"], f"{row['cpu_s']:.3f}", f"{row['wall_s']:.3f}") for row in measured("cpu2-store")],
    )


def multi_query_speed() -> str:
    head = ("statements", "windows alone", "together", "seconds alone", "together", "ratio")
    return table(
        head,
        [
            (
                row["case"],
                *(str(row[key]) for key in ("alone_windows", "together_windows")),
                *(f"{row[key]:.2f}" for key in ("alone_s", "together_s", "ratio")),
            )
            for row in measured("cpu2-multi-query")
        ],
    )


def images_speed() -> str:
    head = ("network, pixels", "windows", "naive ms (batch)", "alone ms", "together ms (images)", "gain", "ratio")
    return table(
        head,
        [
            (
                f"{row['network']} {row['size']}",
                str(row["windows"]),
                f"{row['naive_ms']:.1f} ({row['naive_batch']})",
                f"{row['alone_ms']:.1f}",
                f"{row['together_ms']:.1f} ({row['images_together']})",
                f"{row['gain']:.2f}",
                f"{row['ratio']:.2f}",
            )
            for row in measured("cpu2-images")
        ],
    )


def small_sets_speed() -> str:
    return table(
        ("network, pixels", "windows", "naive ms (batch)", "OBEQL ms", "ratio", "ratio of CPU time"),
        [
            (
                f"{row['network']} layers, {row['size']}",
                str(row["windows"]),
                f"{row['naive_ms']:.1f} ({row['naive_batch']})",
                f"{row['ours_ms']:.1f}",
                f"{row['ratio']:.2f}",
                f"{row['cpu_ratio']:.2f}",
            )
            for row in measured("cpu2-small-sets")
        ],
    )


def workers_speed() -> str:
    head = ("workers", "seconds", "images per second, once at work", "this process's share of a core")
    rows = []
    for row in measured("cpu2-scale"):
        apart = row["engine"] == "apart"
        who = f"{row['workers']} programs that know nothing of each other" if apart else str(row["workers"])
        busy = "" if apart else f"{row['busy']:.1%}"
        rows.append((who, f"{row['seconds']:.1f}", f"{row['rate']:.1f}", busy))
    return table(head, rows)


def ray_speed() -> str:
    rows = []
    for found in map(result, ("cpu2-ray", "cpu2-ray-slow")):
        what = f"{found['images']} of {found['size']}x{found['size']}, {found['options']}"
        rows += [(what, row["engine"], f"{row['seconds']:.1f}", f"{row['rate']:.1f}") for row in found["rows"]]
    return table(("images", "engine", "seconds, start included", "images per second, once at work"), rows)


def ingest_speed() -> str:
    head = ("kept as", "images", "maps per second", "MB before", "between commits", "at most", "after listing")
    numbers = ("images", "maps_s", "before_mb", "most_mb", "peak_mb", "after_listing_mb", "bytes_a_map")
    rows = [(row["kept_as"], *(f"{row[name]:,.0f}" for name in numbers)) for row in measured("cpu2-ingest")]
    return table((*head, "bytes per map"), rows)


def page_speed() -> str:
    found = result("cpu2-page")
    rows = [("from the command to the page being served", found["start"])]
    for each in found["networks"]:
        name = each["network"]
        rows.append((f"{name}, the first cells of a coarse map, 49 windows", each["first_cells"]))
        rows.append((f"{name}, the whole coarse map", each["coarse"]))
        rows += [(f"{name}, a patch of {patch} px under the hand", times) for patch, times in each["hand"].items()]
    rows += [("50 of 10,000 runs", found["runs"]), ("200 maps of a figure grid by an expression", found["sheet"])]
    if found["scroll"] is not None:
        rows.append(("between frames of a figure grid of 200 maps that is scrolled", found["scroll"]))
    return table(
        ("milliseconds", "median", "90 %", "least"),
        [(what, *(f"{times[name]:.0f}" for name in ("median_ms", "p90_ms", "least_ms"))) for what, times in rows],
    )


def launches() -> str:
    head = (
        "network",
        "groups of rows and columns",
        "batches of the grid",
        "calls per batch",
        "calls, ms",
        "estimated, ms",
    )
    rows = [
        (
            row["network"],
            " x ".join(map(str, row["groups"])),
            str(row["batches_of_grid"]),
            str(row["calls_of_one_batch"]),
            f"{1e3 * row['launches_s']:.0f}",
            f"{1e3 * row['estimated_s']:.0f}",
        )
        for row in measured("cpu2-launches")
    ]
    return table(head, rows)


PARTS: dict[str, Callable[[], str]] = {
    part.__name__: part
    for part in (
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
        engine_speed,
        few_windows_speed,
        peers_speed,
        drop_in_speed,
        store_speed,
        multi_query_speed,
        images_speed,
        small_sets_speed,
        workers_speed,
        ray_speed,
        ingest_speed,
        launches,
        page_speed,
    )
}


def _first(documented: object) -> str:
    return re.split(r"(?<=\.)\s|\n\n", (documented.__doc__ or "").strip())[0].replace("\n", " ").rstrip(".")


def written(text: str) -> str:
    """The text of a page with its generated parts as the code has them now."""

    def part(match: re.Match[str]) -> str:
        return f"{match[1]}\n\n{PARTS[match[2]]()}\n\n<!-- end -->"

    return re.sub(r"(<!-- generated: (\w+) -->).*?<!-- end -->", part, text, flags=re.DOTALL)


#: The tutorial as a notebook, and the page that it is made from.
NOTEBOOK, TUTORIAL = ROOT / "examples" / "tutorial.ipynb", DOCS / "tutorial.md"

_BEGIN = """import os
from pathlib import Path

# The folder of the clone, wherever the notebook was started.
os.chdir(next(folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / "demo" / "heat.duckdb").exists()))

%load_ext obeql
%obeql demo/heat.duckdb"""


def notebook() -> str:
    """The tutorial as a notebook without outputs: SQL in `%%obeql` cells, Python as it is, shown outputs left out."""
    cells = [_cell_of("markdown", "*This notebook is made from docs/tutorial.md. Run `make demo` first.*")]
    cells.append(_cell_of("code", _BEGIN))
    text = re.sub(r"\]\((?!#)([\w./#-]+)\)", r"](../docs/\1)", TUTORIAL.read_text(encoding="utf-8"))
    for prose, kind, code in re.findall(r"(.*?)(?:^```(\w*)\n(.*?)^```$|\Z)", text, re.MULTILINE | re.DOTALL):
        if prose.strip():
            cells.append(_cell_of("markdown", prose.strip()))
        if kind in ("sql", "python"):
            cells.append(_cell_of("code", f"%%obeql\n{code.strip()}" if kind == "sql" else code.strip()))
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    whole = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def _cell_of(kind: str, text: str) -> dict[str, Any]:
    cell: dict[str, Any] = {"cell_type": kind, "metadata": {}, "source": text.splitlines(keepends=True)}
    return cell | {"execution_count": None, "outputs": []} if kind == "code" else cell


def main() -> None:
    """Write every page, and the notebook."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    if not NOTEBOOK.exists() or NOTEBOOK.read_text(encoding="utf-8") != notebook():
        NOTEBOOK.write_text(notebook(), encoding="utf-8")
        print(f"{NOTEBOOK.relative_to(ROOT)} written")
    for page in [ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        if written(text) != text:
            page.write_text(written(text), encoding="utf-8")
            print(f"{page.relative_to(ROOT)} written")


if __name__ == "__main__":
    main()
