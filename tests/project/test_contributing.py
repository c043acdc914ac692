"""CONTRIBUTING names places that are there, and common changes take three files at most."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
#: A path from the root: with a folder, and with a suffix or a slash at its end.
PLACE = re.compile(r"`((?:[\w.-]+/)+(?:[\w-]+\.\w+)?)`")


def rows(title: str) -> dict[str, str]:
    """Return the rows of the table of a section: what is added, and the rest of the row."""
    section = TEXT.split(f"## {title}\n")[1].split("\n## ")[0]
    found = (line.strip("| \n").split(" | ", 1) for line in section.splitlines() if line.startswith("| "))
    return {what: places for what, places in found if what != "to add"}


COMMON = rows("Common changes")


@pytest.mark.parametrize("what", COMMON)
def test_a_common_change_takes_three_files_at_most(what: str) -> None:
    first_way, *other_ways = COMMON[what].split("; ")
    for way in (first_way, *other_ways):
        places = PLACE.findall(way)
        assert 1 <= len(places) <= 3
        assert all((ROOT / place).is_file() for place in places), places


def test_packages_list_modules_that_are_there() -> None:
    for folder in ("obeql", "executor", "planner", "grammar"):
        for package in (ROOT / folder).rglob("__init__.py"):
            text = ast.get_docstring(ast.parse(package.read_text(encoding="utf-8"))) or ""
            listed = {
                name
                for names in re.findall(r"(?m)^ {2,}([a-z_]+(?:, [a-z_]+)*) {2,}\S", text)
                for name in names.split(", ")
            }
            assert listed <= {path.stem for path in package.parent.iterdir()}, package


def test_every_place_is_there() -> None:
    places = {place for row in rows("To add something, touch these places").values() for place in PLACE.findall(row)}
    assert not [place for place in places if not (ROOT / place).exists()]


@pytest.mark.parametrize(
    "what",
    [
        "score",
        "fill",
        "border",
        "statement",
        "layer",
        "device",
        "format",
        "picture",
        "a proxy",
        "axis",
        "view of the page",
        "window",
    ],
)
def test_common_changes_are_told(what: str) -> None:
    assert sum(what in each for each in COMMON) == 1
