"""The command line around a session: arguments, formats, exit codes, interruption. The session is a stand-in."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

import obeql
from obeql import errors
from obeql.cli.main import INTERRUPTED, main
from obeql.executor.execution.progress import Progress
from obeql.grammar import parse_script
from obeql.results.messages import Message, Plan
from obeql.session.sql_errors import sql_error


class StandIn:
    """Runs SQL on DuckDB and anything else by a table of texts."""

    def __init__(self) -> None:
        self.opened: list[tuple[str, bool]] = []
        self.ran: list[str] = []
        self.cancelled = False
        self.answers: dict[str, Callable[..., Any]] = {}
        self.database = duckdb.connect()

    def connect(self, path: str = ":memory:", read_only: bool = False, **_: Any) -> StandIn:
        self.opened.append((path, read_only))
        return self

    def __enter__(self) -> StandIn:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def cancel(self) -> None:
        self.cancelled = True

    def setting(self, name: str) -> Any:
        return {"progress": True}[name]

    def error_of_rows(self, error: duckdb.Error, script: str, start: int) -> errors.QueryError:
        return sql_error(error, script[start:], script, start)

    def execute(self, text: str, **options: Any) -> Any:
        return list(self.run_script(text, **options))[-1]

    def run_script(self, text: str, parameters: Any = None, on_progress: Any = None) -> Iterator[Any]:
        for statement in parse_script(text):
            written = text[statement.span.start : statement.span.end]
            self.ran.append(written)
            if written in self.answers:
                yield self.answers[written](on_progress)
            else:
                yield self.database.sql(written)


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setitem(vars(obeql), "connect", stand_in.connect)
    monkeypatch.delenv("OBEQL_DEBUG", raising=False)
    return stand_in


def test_commands_and_scripts_run_in_the_order_written(session: StandIn, tmp_path: Any) -> None:
    script = tmp_path / "two.sql"
    script.write_text("SELECT 2; SELECT 3;", encoding="utf-8")
    assert main(["heat.duckdb", "-c", "SELECT 1", "-f", str(script), "-c", "SELECT 4", "--read-only"]) == 0
    assert session.ran == ["SELECT 1", "SELECT 2", "SELECT 3", "SELECT 4"]
    assert session.opened == [("heat.duckdb", True)]


def test_standard_input_is_read_when_it_is_no_terminal(session: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("SELECT 1;\nSELECT 2"))
    assert main([]) == 0
    assert session.ran == ["SELECT 1", "SELECT 2"]
    assert session.opened == [(":memory:", False)]


def test_device_becomes_a_setting(session: StandIn) -> None:
    session.answers["SET obeql.device = 'cu''da'"] = lambda _: None
    assert main(["--device", "cu'da", "-c", "SELECT 1"]) == 0
    assert session.ran[0] == "SET obeql.device = 'cu''da'"


def test_tables_messages_and_plans_are_printed(session: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    session.answers["DROP MODEL a"] = lambda _: Message("model a dropped")
    session.answers["PLAN EXPLAIN OCCLUDE a USING b"] = lambda _: Plan("the plan", None)
    session.answers["SELECT 0"] = lambda _: None
    assert main(["-c", "DROP MODEL a; PLAN EXPLAIN OCCLUDE a USING b; SELECT 7 AS seven; SELECT 0"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("model a dropped\nthe plan\n")
    assert "seven" in out and "7" in out
    assert err == ""


def test_echo_prints_statements_with_their_comments(session: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    session.answers["DROP MODEL a"] = lambda _: Message("model a dropped")
    assert main(["--echo", "-c", "-- away with it\nDROP MODEL a"]) == 0
    assert capsys.readouterr().out == "\n-- away with it\nDROP MODEL a;\nmodel a dropped\n"


def test_statements_that_only_succeed_print_nothing(session: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-c", "CREATE TABLE t (i INT); BEGIN; COMMIT; SET threads = 1; DROP TABLE t"]) == 0
    assert capsys.readouterr().out == ""


def test_json_is_one_array_a_statement_and_nothing_else(session: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    session.answers["DROP MODEL a"] = lambda _: Message("model a dropped")
    query = "SELECT 1 AS a, 'nan'::DOUBLE AS b, [1, 2] AS c, DATE '2020-01-02' AS d, {'x': 1.5::DECIMAL(3,1)} AS e"
    assert main(["--json", "-c", f"DROP MODEL a; {query}; SELECT 1 AS n WHERE false"]) == 0
    out, err = capsys.readouterr()
    first, second = out.splitlines()
    assert json.loads(first) == [{"a": 1, "b": None, "c": [1, 2], "d": "2020-01-02", "e": {"x": "1.5"}}]
    assert json.loads(second) == []
    assert err == "model a dropped\n"


def test_csv_quotes_and_nests(session: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--csv", "-c", "SELECT 'a,b' AS t, [1, 2] AS l, NULL AS n"]) == 0
    assert capsys.readouterr().out == 't,l,n\n"a,b","[1, 2]",\n'


def test_json_and_csv_exclude_each_other(session: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--json", "--csv", "-c", "SELECT 1"])
    assert left.value.code == 2
    assert "not allowed with" in capsys.readouterr().err


FAMILIES = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.ObeqlError) and kind is not errors.ObeqlError
]


@pytest.mark.parametrize("kind", FAMILIES, ids=lambda kind: kind.__name__)
def test_every_error_is_one_text_and_the_exit_code_of_its_family(
    kind: type[errors.ObeqlError], session: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: Any) -> None:
        raise kind("what is wrong")

    session.answers["DROP MODEL a"] = fail
    assert main(["-c", "SELECT 1; DROP MODEL a; SELECT 2"]) == kind.exit_code != 0
    err = capsys.readouterr().err
    assert err == "error: what is wrong\n"
    assert session.ran[-1] == "DROP MODEL a"


def test_a_syntax_error_shows_its_place(session: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-c", "SELECT 1;\nEXPLAIN OCCLUDE a USING"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and "line 2" in err
    assert err.splitlines()[-1].strip() == "^"


def test_a_bug_is_named_as_one_without_a_traceback(session: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    session.answers["DROP MODEL a"] = lambda _: {}["gone"]
    assert main(["-c", "DROP MODEL a"]) == errors.InternalError.exit_code
    err = capsys.readouterr().err
    assert err.startswith("error: KeyError: 'gone'\nThis is a bug in OBEQL.")
    assert "Traceback" not in err and "OBEQL_DEBUG=1" in err


def test_debugging_shows_the_traceback(
    session: StandIn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OBEQL_DEBUG", "1")
    session.answers["DROP MODEL a"] = lambda _: {}["gone"]
    assert main(["-c", "DROP MODEL a"]) == errors.InternalError.exit_code
    assert "Traceback" in capsys.readouterr().err


def test_an_error_met_while_rows_are_read_is_a_query_error(
    session: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-c", "SELECT CAST('x' || i AS INT) FROM range(3) AS t(i)"]) == 2
    err = capsys.readouterr().err
    assert "Could not convert" in err and "bug" not in err


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "No such file"), (b"SELECT '\xff'", "not UTF-8")],
)
def test_a_script_that_cannot_be_read_opens_no_database(
    content: bytes | None, said: str, session: StandIn, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "s.sql"
    if content is not None:
        script.write_bytes(content)
    assert main(["heat.duckdb", "-f", str(script)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and said in err
    assert session.opened == []


def test_a_script_in_the_place_of_the_database_is_noticed(session: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["query.sql"]) == 2
    assert "obeql -f query.sql" in capsys.readouterr().err
    assert session.opened == []


def test_ctrl_c_during_a_run_tells_what_is_kept(session: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    def run(on_progress: Any) -> None:
        on_progress(Progress(0, 2, 0, 2, "a.png", 0.0, 1.0))
        try:
            os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError("not reached")
        except KeyboardInterrupt:
            assert session.cancelled
            raise KeyboardInterrupt("1 of 2 images done") from None

    session.answers["EXPLAIN OCCLUDE a USING b"] = run
    before = signal.getsignal(signal.SIGINT)
    assert main(["-c", "EXPLAIN OCCLUDE a USING b; SELECT 1"]) == INTERRUPTED
    assert signal.getsignal(signal.SIGINT) is before
    assert session.ran == ["EXPLAIN OCCLUDE a USING b"]
    assert capsys.readouterr().err.splitlines() == ["interrupted: 1 of 2 images done"]


def test_ctrl_c_outside_a_run_stops_at_once(session: StandIn) -> None:
    def load(_: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("not reached")

    session.answers["CREATE MODEL m FROM 'x.onnx'"] = load
    assert main(["-c", "CREATE MODEL m FROM 'x.onnx'"]) == INTERRUPTED


def test_versions_are_shown_without_importing_torch(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith("obeql ") and "duckdb " in out and "torch " in out and "Python 3" in out


def test_the_doctor_knows_a_package_of_every_extra() -> None:
    import tomllib

    from obeql.cli.doctor import _OPTIONAL

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    told = {name for name, _ in _OPTIONAL}
    for extra in extras.keys() - {"peers", "docs", "test", "dev", "release"}:
        assert told & {re.split(r"[>\[]", package)[0] for package in extras[extra]}, extra


def test_a_misspelt_doctor_asks(
    session: StandIn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("obeql.cli.doctor.examine", lambda: 0)
    monkeypatch.setattr(sys, "stdin", io.StringIO("SELECT 1"))
    assert main(["doctro"]) == 2
    assert "Did you mean obeql doctor?" in capsys.readouterr().err and session.opened == []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or "")
    assert main(["doctro"]) == 0 and "obeql doctor" in asked[0] and session.opened == []
    assert main(["doctro", "-c", "SELECT 1"]) == main(["--db", "doctro", "-c", "SELECT 1"]) == 0
    assert session.opened == [("doctro", False)] * 2 and len(asked) == 1


def test_words_that_are_no_database(session: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help"]) == main(["version"]) == 0
    out = capsys.readouterr().out
    assert "usage: obeql" in out and "duckdb" in out and session.opened == []
