"""What is written on a terminal fits it: messages, places, tables of help, plans."""

from __future__ import annotations

from pathlib import Path

import pytest

from obeql.cli.wrapping import pointed, table, wrapped, wrapped_plan
from obeql.errors import QueryError

PLANS = sorted((Path(__file__).parents[1] / "golden" / "plans").glob("*.txt"))


def test_messages_are_wrapped_at_words() -> None:
    text = "There is no option 'pach'; it has " + ", ".join(["patch", "stride", "fill", "score"] * 6) + "."
    for columns in (40, 80, 200):
        lines = wrapped(text, columns, lead=7).split("\n")
        assert len(lines[0]) <= columns - 7 and all(len(line) <= columns for line in lines)
        assert " ".join(lines) == text
    assert wrapped(text, None) == text
    assert wrapped("a\n\n  b", 80) == "a\n\n  b"
    path = "/" + "x" * 100
    assert wrapped(f"no file {path}", 80).split("\n")[-1] == path  # which can be copied


def test_a_line_of_two_parts_goes_on_below_its_second() -> None:
    assert wrapped("  chosen   " + "word, " * 12, 40).split("\n")[1].startswith(" " * 11 + "word")


@pytest.mark.parametrize("place", [0, 3, 60, 97, 104])
def test_a_caret_points_at_its_place_however_narrow(place: int) -> None:
    line = "".join(chr(ord("a") + i % 26) for i in range(105))
    error = QueryError("x").locate(line, place)
    for columns in (40, 80, 200):
        shown, caret = pointed(error.context, columns).split("\n")
        assert len(shown) <= columns and len(caret) <= columns
        assert shown[len(caret) - 1 :][:1] == line[place]
        assert caret.strip() == "^" and shown.startswith("  ")


def test_tabs_do_not_move_the_caret() -> None:
    error = QueryError("x").locate("SELECT\t1,\tzz" + " " * 100, 10)
    shown, caret = pointed(error.context, 60).split("\n")
    assert shown[len(caret) - 1] == "z"


def test_tables_of_help_are_aligned() -> None:
    text = table([("a", "short"), ("a long name", "word " * 30)], 60)
    lines = text.split("\n")
    assert all(len(line) <= 60 for line in lines)
    assert lines[0] == "  a             short" and all(line.startswith(" " * 16) for line in lines[2:])


@pytest.mark.parametrize("plan", PLANS, ids=lambda path: path.stem)
def test_plans_fit_eighty_columns(plan: Path) -> None:
    text = plan.read_text(encoding="utf-8")
    narrow = wrapped_plan(text, 80)
    assert max(map(len, narrow.splitlines())) <= 80
    head = next(line for line in narrow.splitlines() if line.startswith("Physical plan"))
    assert head.split()[2:] == ["windows", "seconds", "memory"]
    for line in text.splitlines():
        if line.startswith("  Total of"):
            cells = line[50:].split(maxsplit=4)
            assert f"{cells[0]:>10}{cells[3]:>10}{cells[4]:>10}" in narrow
    assert wrapped_plan(text, 100) == wrapped_plan(text, None) == text
