"""What a statement says of itself is what the grammar, the scanner, the printer and the prompt go by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import pytest

from obeql.cli.repl import statement_help
from obeql.cli.repl.completion import suggest
from obeql.cli.repl.names import Names
from obeql.grammar import parse_statement, parser, print_statement, scanner, statements, syntax
from obeql.grammar.scanner import is_obeql_statement
from obeql.grammar.statement_node import Words
from obeql.session.session import connect


@dataclass(frozen=True, slots=True)
class RankRun(statements.StatementNode):
    """RANK RUN run [WITH options]."""

    run: syntax.Reference
    options: tuple[syntax.Option, ...] = ()

    about: ClassVar[statements.About] = statements.About(
        "RANK", "ranks", "RANK run [WITH ..];", (), "RANK first;", "evaluate"
    )

    def words(self) -> Words:
        """Return what the statement is written as."""
        return "RANK", self.run, *(("WITH", *self.options) if self.options else ())


@pytest.fixture
def rank(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> Iterator[None]:
    """A statement that is new: its rule, its class, nothing else."""
    from obeql.grammar import builder

    text = (parser.files("obeql.grammar") / "obeql.lark").read_text(encoding="utf-8")
    text = (
        text.replace("| evaluate |", "| evaluate | rank_run |")
        .replace(
            "evaluate: _EVALUATE _run [options]", "evaluate: _EVALUATE _run [options]\nrank_run: _RANK _run [options]"
        )
        .replace("_REGION.2:", "_RANK.2: /rank\\b/i\n_REGION.2:")
    )

    class Folder:
        def __truediv__(self, name: str) -> Folder:
            return self

        def read_text(self, encoding: str) -> str:
            return text

    monkeypatch.setattr(parser, "files", lambda package: Folder())
    monkeypatch.setattr(statements, "STATEMENTS", (*statements.STATEMENTS, RankRun))
    monkeypatch.setattr(scanner, "STATEMENTS", statements.STATEMENTS)
    monkeypatch.setattr(scanner, "_BEGINNINGS", scanner._beginnings())
    monkeypatch.setattr(scanner, "_OWN", scanner._OWN | {"rank"})
    monkeypatch.setattr(statement_help, "STATEMENTS", (*statement_help.STATEMENTS, RankRun.about))
    monkeypatch.setattr("obeql.cli.repl.completion.STATEMENTS", statement_help.STATEMENTS)
    monkeypatch.setitem(builder._NODES, "rank_run", RankRun)
    parser._lark.cache_clear()
    yield
    parser._lark.cache_clear()


@pytest.mark.usefixtures("rank")
def test_a_statement_is_declared_once() -> None:
    for text in ("RANK first", "RANK first WITH steps=5", "RANK ?"):
        tree = parse_statement(text)
        assert isinstance(tree, RankRun) and print_statement(tree) == text  # type: ignore[arg-type]
    names = Names(runs=("mine",))
    assert "mine" in [each.text for each in suggest("RANK ", names)]
    assert "steps=" in [each.text for each in suggest("RANK mine WITH ", names)]
    assert "RANK" in [each.text for each in suggest("", names)]
    assert [each.name for each in statement_help.find_statements("rank")] == ["RANK"]


def test_every_statement_begins_with_its_words_and_has_a_handler() -> None:
    with connect() as db:
        handlers = db._statements._handlers
    for statement in statements.STATEMENTS:
        tree = parse_statement(statement.about.example)
        assert type(tree) is statement and statement in handlers
        assert is_obeql_statement(statement.about.example)
        assert parse_statement(print_statement(tree)) == tree
