"""`.help EXPLAIN`: every statement and clause of the grammar, with an example that parses."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from obeql.cli.repl.commands import COMMANDS, help_text
from obeql.cli.repl.statement_help import STATEMENTS, find_statements, option_help, statement_help
from obeql.grammar import catalog_statements, map_statements, parse_statement, run_statements
from obeql.grammar.statements import StatementNode


def test_every_statement_has_an_example_of_it() -> None:
    parsed = {type(parse_statement(each.example)) for each in STATEMENTS}
    families = (map_statements, catalog_statements, run_statements)
    classes = {value for family in families for value in vars(family).values() if isinstance(value, type)}
    assert parsed == {each for each in classes if issubclass(each, StatementNode)} - {StatementNode}


def test_every_keyword_of_the_grammar_is_told() -> None:
    grammar = (files("obeql.grammar") / "obeql.lark").read_text(encoding="utf-8")
    told = " ".join(statement_help(each, None) for each in STATEMENTS).upper()
    for terminal, pattern in re.findall(r"^_?([A-Z_]+)\.2: /(.+)/i$", grammar, re.MULTILINE):
        words = {
            "DESCRIBE": ["DESCRIBE"], "SECONDS": ["SECONDS"], "OR_REPLACE": ["OR REPLACE"],
        }.get(terminal) or re.findall("[A-Z]+", pattern.upper().replace("\\B", " "))  # fmt: skip
        for word in words:
            assert re.search(rf"\b{word}\b", told), word


@pytest.mark.parametrize("statement", STATEMENTS, ids=lambda each: each.name)
def test_help_of_a_statement_fits_a_small_terminal(statement: object) -> None:
    text = statement_help(statement, 80)  # type: ignore[arg-type]
    assert len(text.splitlines()) <= 23 and max(map(len, text.splitlines())) <= 80


def test_help_fits_a_small_terminal() -> None:
    lines = help_text(80).splitlines()
    assert len(lines) <= 23 and max(map(len, lines)) <= 80
    assert all(command.usage in help_text(80) for command in COMMANDS.values())


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("explain", ["EXPLAIN OCCLUDE"]),
        ("EXPLAIN OCCLUDE scans USING net", ["EXPLAIN OCCLUDE"]),
        ("create", ["CREATE MODEL", "CREATE IMAGES"]),
        ("create images", ["CREATE IMAGES"]),
        ("set", ["SET"]),
        ("desc", ["DESCRIBE"]),
        ("region", ["EXPLAIN OCCLUDE"]),
        ("top", ["EXPLAIN OCCLUDE"]),
        ("nonsense", []),
    ],
)
def test_statements_are_found_by_their_words(words: str, names: list[str]) -> None:
    assert [each.name for each in find_statements(words)] == names


def test_options_and_settings_are_told() -> None:
    assert "EXPLAIN OCCLUDE patch=" in option_help("PATCH", 80) and "16x24" in option_help("patch", 80)
    assert "EVALUATE fill=" in option_help("fill", 80) and "SET obeql.threads" in option_help("obeql.threads", 80)
    assert option_help("nonsense", 80) == ""
