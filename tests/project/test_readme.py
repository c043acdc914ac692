"""The documentation is true: every block of it runs, and its tables agree with the code."""

from __future__ import annotations

import re
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

import obeql
from obeql import errors
from obeql.cli.main import main
from obeql.grammar import parse_script
from obeql.planner.binding.clauses import METRICS
from obeql.planner.binding.option_tables import EVALUATE_OPTIONS, EXPLAIN_OPTIONS, MODEL_OPTIONS
from obeql.planner.binding.options import show_value
from obeql.planner.binding.settings import SETTINGS
from obeql.planner.logical.rules import RULE_NAMES
from obeql.planner.physical.plan import OPERATORS

ROOT = Path(__file__).resolve().parents[2]
LANGUAGE = (ROOT / "docs" / "language.md").read_text(encoding="utf-8")
QUESTIONS = (ROOT / "docs" / "questions.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")

KINDS = ("sql", "python", "sh", "text")


def blocks(text: str, *kinds: str) -> list[tuple[str, str]]:
    """Return (kind, content) of the fenced blocks of these kinds, in order."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(kind, content) for kind, content in found if kind in kinds]


@pytest.mark.parametrize("file", ["README.md", "CONTRIBUTING.md", "docs/language.md", "docs/questions.md"])
def test_every_block_says_what_it_is(file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    fences = re.findall(r"^```(\w*)", text, re.MULTILINE)
    assert set(fences[::2]) <= set(KINDS)
    assert set(fences[1::2]) <= {""}


# ---- README --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "demo", ["demo_folder", pytest.param("real_demo", marks=pytest.mark.slow)], ids=["small", "real"]
)
def test_the_readme_runs_after_the_demo(
    demo: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    folder: Path = request.getfixturevalue(demo)
    with obeql.connect("demo/heat.duckdb") as db:
        for _, script in blocks(README, "sql"):
            for outcome in db.run_script(script):
                assert yields_something(outcome), script
        assert len(db.run("first_look")) == 4  # two scans, two classes each
    assert (folder / "demo" / "first_look.png").stat().st_size > 10_000
    for _, code in blocks(README, "python"):
        exec(compile(code, "README.md", "exec"), {})
    assert (folder / "demo" / "glioma.png").exists()
    assert "<Heatmap Te-gl_0014.jpg" in capsys.readouterr().out


def yields_something(outcome: Any) -> bool:
    """Whether a statement said something, or gave maps or rows."""
    if isinstance(outcome, obeql.Result):
        return len(outcome) > 0
    return len(outcome.fetchall()) > 0 if hasattr(outcome, "fetchall") else bool(str(outcome))


def shell_lines(text: str) -> list[str]:
    return [line for _, content in blocks(text, "sh") for line in content.splitlines() if line.strip()]


def test_the_readme_names_commands_that_exist(demo_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    targets = set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))
    for line in [*shell_lines(README), *shell_lines((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))]:
        program, *arguments = shlex.split(line)
        if program == "make":
            assert len(arguments) == 1 and arguments[0] in targets, line
        else:
            assert program == "obeql", line
            assert main(arguments) == 0, line
    assert capsys.readouterr().err == ""


def test_set_up_is_two_commands_that_need_nothing_else() -> None:
    assert [line for line in shell_lines(README) if line.startswith("make")] == ["make demo", "make test"]
    # Continuous integration runs the targets a contributor is told of.
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert re.findall(r"\bmake (\w+)", script.split("set -euo")[1]) == ["lint", "types", "demo", "dist", "test"]


@pytest.mark.parametrize("file", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_to_files(file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (ROOT / target).exists(), target


def test_contributing_names_files_that_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text.split("## To add something")[1].split("## Habits")[0]
    for name in re.findall(r"`([a-z_./]+/[a-z_./]*)`", table):
        assert (ROOT / name).exists(), name


def test_the_examples_parse() -> None:
    for file in sorted((ROOT / "examples").glob("*.sql")):
        assert parse_script(file.read_text(encoding="utf-8"))


# ---- docs/language.md ----------------------------------------------------------------------------------------


def test_the_language_runs_from_top_to_bottom(workshop: Path) -> None:
    if find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    with obeql.connect("heat.duckdb") as db:
        for _, script in blocks(LANGUAGE, "sql"):
            for statement in db.run_script(script):
                assert statement is None or str(statement)
    assert (workshop / "two_classes.png").exists()


# ---- docs/questions.md ---------------------------------------------------------------------------------------


def test_the_questions_are_answered_as_numpy_answers_them(workshop: Path) -> None:
    setup, *asked = [content for _, content in blocks(QUESTIONS, "sql")]
    with obeql.connect() as db:
        db.execute(setup)
        answers = [
            relation.fetchall()
            for script in asked
            for relation in db.run_script(script)
            if isinstance(relation, duckdb.DuckDBPyRelation)
        ]
        first, second, quarters = db.run("first"), db.run("second"), db.run("quarters")
    large = [heat for heat in first if heat.patch == (16, 16)]
    small = [heat for heat in first if heat.patch == (8, 8)]
    filtered, best, shares, _, own_box, labels, overlap, means, in_both, largest, correlation = answers[:11]
    apart, least_iou, most_iou, _, least_share, bounds, _, outside, _, areas, by_patch, worst = answers[11:23]
    halves, few, alike, decide, found, top, _, order = answers[23:]

    def strong(heat: Any, rows: slice = slice(2, 8), cols: slice = slice(2, 8), least: float = 0.05) -> int:
        return int((heat.importance[rows, cols] >= least).sum())

    assert filtered == [(h.path, h.class_name, strong(h)) for h in large if strong(h) >= 10]
    assert [n for *_, n in best] == sorted(map(strong, large), reverse=True)[:2]
    of_all = [strong(h, least=0) / (h.importance >= 0).sum() for h in large]
    assert [share for *_, share in shares] == pytest.approx(sorted(of_all, reverse=True)[:2])
    assert len(own_box) == 3 and own_box == sorted(own_box, key=lambda row: -row[1])
    for label, count, in_the_box, *_ in labels:
        in_boxes = [heat.importance[2:8, 2:8].mean(dtype=float) for heat in large if heat.label == label]
        assert count == len(in_boxes) and in_the_box == pytest.approx(np.mean(in_boxes), rel=1e-4)
    pairs = {heat.path: (heat, next(other for other in second if other.path == heat.path)) for heat in large}
    assert len(overlap) == len(largest) == len(pairs)
    for path, iou in overlap:
        strong_a, strong_b = (heat.importance >= 0.05 for heat in pairs[path])
        assert iou == pytest.approx((strong_a & strong_b).sum() / (strong_a | strong_b).sum())
    for path, difference in largest:
        a, b = pairs[path]
        assert difference == pytest.approx(np.abs(a.importance - b.importance).max(), rel=1e-5)
    over_both = [np.mean([strong(heat) for heat in pair]) for pair in pairs.values()]
    assert [mean for _, mean in means] == pytest.approx(sorted(over_both, reverse=True)[:2])
    both = {p: int((np.minimum(*(h.importance for h in pair))[2:8, 2:8] >= 0.05).sum()) for p, pair in pairs.items()}
    assert dict(in_both) == {path: n for path, n in both.items() if n}
    wanted = {
        Path(a.path).stem: np.corrcoef(a.importance.ravel(), b.importance.ravel())[0, 1]
        for a, b in zip(large, second, strict=True)
    }
    assert dict(correlation) == pytest.approx(wanted, rel=1e-4)
    assert len(apart) == 3 and apart == sorted(apart, key=lambda row: -row[1])
    for name, _, share in outside:
        (heat,) = [heat for heat in small if Path(heat.path).stem == name]
        rows, cols = ((a + 8 <= 16) | (a >= 48) for a in (heat.tops, heat.lefts))
        positive = np.maximum(heat.importance, 0)
        assert share == pytest.approx(positive[rows[:, None] | cols[None, :]].sum() / positive.sum(), rel=1e-4)
    assert len(areas) == len(first) == 6
    for patch, deletion, insertion in by_patch:
        rows = [row for row in areas if row[2] == f"{patch}x{patch}"]
        assert deletion == pytest.approx(np.mean([row[4] for row in rows]))
        assert insertion == pytest.approx(np.mean([row[5] for row in rows]))
    assert worst[0][3] == max(row[4] for row in areas) and len(worst[0][4]) == 11
    by_iou = sorted(iou for _, iou in overlap)
    assert [row[3] for row in least_iou] == by_iou[:2] and [row[3] for row in most_iou] == by_iou[:-3:-1]
    assert len(least_share) == 2
    for path, bound in bounds:
        assert any(bound["least"] <= strong(heat) <= bound["most"] for heat in first if heat.path == path)
    assert len(halves) == len(few) == 3 and len(alike) == 3 and all(row[0] != row[1] for row in decide)
    assert len(found) == len(quarters) == 3
    assert len(top) == 6 and [row[0] for row in order] == [1, 2, 3]


def tables(heading: str) -> list[dict[str, list[str]]]:
    """Return every table with this first heading, in order."""
    found = []
    for part in LANGUAGE.split(f"\n| {heading} |")[1:]:
        rows: dict[str, list[str]] = {}
        for line in part.splitlines()[2:]:
            if not line.startswith("|"):
                break
            first, *rest = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            rows |= dict.fromkeys(re.findall(r"`([^`]+)`", first), rest)
        found.append(rows)
    return found


def test_options_are_described_as_they_are() -> None:
    model, explain = tables("option")
    assert set(model) == {row.name for row in MODEL_OPTIONS}
    assert list(explain) == [row.name for row in EXPLAIN_OPTIONS]
    for row in EXPLAIN_OPTIONS:
        written = {"stride": "a quarter of the patch", "page": "the first", "mask": "none", "segments": "none"}
        written |= {"channel": "all", "frames": "all", "every": "1", "start": "0"}
        default = written.get(row.name, str(show_value(row.default)))
        assert explain[row.name][1] == default, row.name
    for row in EXPLAIN_OPTIONS:
        if row.name != "precision":  # what this version takes, not all that parses
            assert explain[row.name][0] == row.takes, row.name


def test_options_of_evaluate_are_described_as_they_are() -> None:
    (described,) = tables("of WITH")
    assert {name: cells[:2] for name, cells in described.items()} == {
        row.name: [row.takes, "the run's" if row.default is None else str(row.default)] for row in EVALUATE_OPTIONS
    }


def test_settings_are_described_as_they_are() -> None:
    (described,) = tables("setting")
    assert list(described) == [f"obeql.{row.name}" for row in SETTINGS]
    for row in SETTINGS:
        shown = {None: "auto", True: "true", (): "none"}.get(row.default, str(row.default))
        assert described[f"obeql.{row.name}"][:2] == [row.takes, shown]


def test_rules_operators_metrics_and_statements_are_all_named() -> None:
    for name in (*RULE_NAMES, *(operator.name for operator in OPERATORS), *METRICS):
        assert f"`{name}`" in LANGUAGE, name


def test_views_and_macros_are_all_described() -> None:
    with obeql.connect() as db:
        views = db.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal AND schema_name = 'main'")
        macros = db.execute(
            "SELECT DISTINCT function_name, parameters FROM duckdb_functions() WHERE NOT internal "
            "AND schema_name = 'main' AND function_type LIKE '%macro'"
        )
        view_names = {name for (name,) in views.fetchall()}
        signatures = {f"{name}({', '.join(parameters)})" for name, parameters in macros.fetchall()}
    (described_views,), (described_macros,) = tables("view"), tables("macro")
    assert set(described_views) == view_names
    assert set(described_macros) == signatures


def test_errors_and_exit_codes_are_described_as_they_are() -> None:
    (described,) = tables("error")
    bases = {"ObeqlError", "QueryError"}
    kinds = {
        name: kind
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.ObeqlError) and name not in bases
    }
    assert {name: int(cells[0]) for name, cells in described.items()} == {
        name: kind.exit_code for name, kind in kinds.items()
    }
