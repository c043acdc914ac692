"""The prompt: keys, texts, dot-commands, history, and a start that waits for nothing."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from pygments.token import Comment, Keyword, Name, String

from obeql.cli.output_formats import MODES
from obeql.cli.repl import start
from obeql.cli.repl.commands import COMMANDS, help_text, run_command
from obeql.cli.repl.editor import Editor, history_path, is_finished
from obeql.cli.repl.highlighting import ObeqlLexer
from obeql.cli.repl.names import Names
from obeql.cli.repl.shell import Shell
from obeql.cli.runner import Runner
from obeql.errors import ObeqlError, QueryError
from obeql.executor.execution import checkpoints


def typed(keys: str, tmp_path: Path, n: int = 1, after_s: float = 0.0) -> list[str | type[BaseException]]:
    """Press keys, `after_s` later; return the texts that `n` prompts hand over, or what they raise."""
    found: list[str | type[BaseException]] = []
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        pressing = threading.Timer(after_s, pipe.send_text, [keys])
        pressing.start()
        editor = Editor(Names, lambda _: [], history=tmp_path / "state" / "history")
        for _ in range(n):
            try:
                found.append(editor.read())
            except (KeyboardInterrupt, EOFError) as stop:
                found.append(type(stop))
        pressing.join()
    return found


# ---- keys ------------------------------------------------------------------------------------------------------------


def test_a_statement_ends_with_a_semicolon(tmp_path: Path) -> None:
    assert typed("SELECT\r';'\rAS a;\r", tmp_path) == ["SELECT\n';'\nAS a;"]


def test_a_pasted_block_is_one_text(tmp_path: Path) -> None:
    block = "SELECT 1;\nSELECT\n  2;"
    assert typed(f"\x1b[200~{block}\x1b[201~\r", tmp_path) == [block]


def test_a_dot_command_needs_no_semicolon(tmp_path: Path) -> None:
    assert typed(".tables\r\r.mode csv\r", tmp_path, 3) == [".tables", "", ".mode csv"]


def test_ctrl_c_drops_and_ctrl_d_leaves(tmp_path: Path) -> None:
    assert typed("SELECT\x03\x04", tmp_path, 2) == [KeyboardInterrupt, EOFError]


def test_history_is_kept_between_sessions_and_searched(tmp_path: Path) -> None:
    typed("SELECT\r1;\rSELECT 2;\r", tmp_path, 2)
    # The history is read beside the prompt: the keys come a moment later.
    assert typed("\x10\r", tmp_path, after_s=0.3) == ["SELECT 2;"]  # Ctrl-P
    assert typed("\x12LECT\r\r", tmp_path, after_s=0.3) == ["SELECT 2;"]  # Ctrl-R
    assert (tmp_path / "state" / "history").stat().st_mode & 0o077 == 0


def test_a_history_that_cannot_be_written_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("", encoding="utf-8")
    assert typed("SELECT 1;\r", tmp_path) == ["SELECT 1;"]


def test_history_goes_to_the_state_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert history_path() == tmp_path / "obeql" / "history"


@pytest.mark.parametrize(
    ("text", "finished"),
    [
        ("", True),
        ("-- a remark", True),
        ("SELECT 1", False),
        ("SELECT 1;", True),
        ("SELECT 1; -- done", True),
        ("SELECT 1; SELECT 2", False),
        ("SELECT ';", False),
        ("/* ;", False),
        (".help", True),
        ("exit", True),
        ("help\n", True),
        ("SELECT 0\n.5", False),
        ("\\h EXPLAIN", True),
        ("help create model", True),
    ],
)
def test_what_enter_does(text: str, finished: bool) -> None:
    assert is_finished(text) is finished


def test_words_are_colored_by_the_grammar() -> None:
    text = "EXPLAIN OCCLUDE a USING b WITH patch=16 -- x\n;SELECT 'y'"
    kinds = {shown: kind for _, kind, shown in ObeqlLexer().get_tokens_unprocessed(text)}
    assert kinds["OCCLUDE"] is kinds["USING"] is kinds["SELECT"] is Keyword
    assert kinds["patch"] is Name.Attribute and kinds["a"] is Name
    assert kinds["-- x"] is Comment and kinds["'y'"] is String
    assert "".join(shown for _, _, shown in ObeqlLexer().get_tokens_unprocessed(text)) == text


# ---- the loop and its commands ---------------------------------------------------------------------------------------


@pytest.fixture
def shell(net_db: Any, pixels: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    """A shell on a session with a model and the run `first` of one image."""
    monkeypatch.chdir(tmp_path)
    net_db.execute("EXPLAIN OCCLUDE ? USING net WITH patch=8 INTO first", [pixels(1)])
    yield Shell(Runner(net_db), lambda: "")


def loop(shell: Shell, *texts: str) -> None:
    left = iter(texts)

    def read() -> str:
        text = next(left, None)
        if text is None:
            raise EOFError
        return text

    Shell(shell.runner, read).loop()


def test_sql_runs_after_a_command_that_looks_for_the_newest_run(
    shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    loop(shell, ".export newest.csv", "SELECT 7 AS seven;")
    out, err = capsys.readouterr()
    assert "seven" in out and err == ""


def test_texts_and_commands_run_until_quit(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    loop(shell, "SELECT 7 AS seven;", "", ".models", ".quit", "SELECT 8 AS never_run;")
    out, err = capsys.readouterr()
    assert "seven" in out and "net" in out and "never_run" not in out and err == ""


@pytest.mark.parametrize("word", ["exit", "quit;", ".exit", ".q"])
def test_the_words_people_type_to_leave(word: str, shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    loop(shell, word, "SELECT 8 AS never_run;")
    assert capsys.readouterr().out == ""


def test_errors_are_reported_and_the_loop_goes_on(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    loop(shell, "EXPLAIN OCCLUDE x USING nett;", ".hlep", "SELECT 1 AS one;")
    out, err = capsys.readouterr()
    assert "one" in out
    assert "Did you mean 'net'" in err and "^" in err and "There is no command .hlep" in err and "'help'" in err


def test_help_is_the_table(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    loop(shell, ".help", ".help heat", "help")
    out = capsys.readouterr().out
    assert out.count(help_text()) == 2
    for command in COMMANDS.values():
        assert command.usage in out and command.does in out and "\n" not in command.does


def test_help_of_statements_commands_and_options(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    loop(shell, ".help EXPLAIN", "\\h explain occlude;", "help explain", ".help CREATE")
    out, err = capsys.readouterr()
    assert out.count("EXPLAIN OCCLUDE: ") == 3 and "CREATE MODEL: " in out and "CREATE IMAGES: " in out and err == ""
    loop(
        shell,
        "\\?",
        "\\h heat",
        ".help export",
        "\\h patch",
        "\\h SELECT",
        "\\dt",
        "\\h nonsens",
        "\\q",
        "SELECT 8 AS no;",
    )
    out, err = capsys.readouterr()
    assert help_text() in out and "counted from 0" in out and ".parquet" in out and "16x24" in out
    assert "SELECT is SQL" in out and "heatmaps" in out and "AS no" not in out
    assert "There is no statement, command or option 'nonsens'" in err


def test_a_file_gets_all_rows_and_columns(shell: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    many = (
        "SELECT "
        + ", ".join(f"i + {k} AS column_{k}" for k in range(40))
        + ", repeat('y', 300) AS z FROM range(500) t(i);"
    )
    loop(shell, ".output all.txt", many, ".output")
    text = (tmp_path / "all.txt").read_text(encoding="utf-8")
    assert "column_20" in text and "y" * 300 in text and "…" not in text and text.count("y" * 300) == 500
    assert capsys.readouterr().err == ""


def test_a_file_gets_all_maps_of_a_run(shell: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    for shade in range(12):
        Image.new("RGB", (32, 32), (20 * shade, 0, 0)).save(tmp_path / f"shade_{shade}.png")
    loop(shell, ".output maps.txt", "EXPLAIN OCCLUDE 'shade_*.png' USING net WITH patch=16 stride=16;", ".output")
    text = (tmp_path / "maps.txt").read_text(encoding="utf-8")
    assert "12 heat maps" in text and "more" not in text
    assert all(text.count(f"shade_{shade}.png") == 2 for shade in range(12))  # in the summary and above its cells
    assert capsys.readouterr().err == ""


def test_a_table_that_is_cut_names_the_mode_that_shows_all(monkeypatch: pytest.MonkeyPatch) -> None:
    from obeql.cli.output_formats import write_outcome

    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "80")
    import duckdb

    with duckdb.connect() as connection:
        for columns, cut in ((40, True), (2, False)):
            screen = Screen()
            write_outcome(connection.sql("SELECT " + ", ".join(f"1 AS c{k}" for k in range(columns))), "box", screen)
            assert (".mode line" in screen.getvalue()) is cut


def test_the_commands_are_those_promised() -> None:
    promised = "help models images runs heat export plan mode timer read output device tables schema ui quit"
    assert list(COMMANDS) == promised.split()


def test_modes(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    loop(shell, *(text for mode in MODES for text in (f".mode {mode}", "SELECT 1 AS a, 'x|y' AS b, NULL AS c;")))
    out = capsys.readouterr().out
    assert '[{"a": 1, "b": "x|y", "c": null}]\n' in out and '\n{"a": 1, "b": "x|y", "c": null}\n' in out
    assert "a,b,c\n1,x|y,\n" in out
    assert "| a | b | c |\n| ---: | --- | --- |\n| 1 | x\\|y | NULL |\n" in out
    assert "a = 1\nb = x|y\nc = NULL\n" in out
    loop(shell, ".mode bx")
    assert "Did you mean 'box'?" in capsys.readouterr().err


def test_a_run_is_drawn_and_exported(shell: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loop(shell, ".heat", ".heat first 0", ".heat 1", ".heat first 3", ".heat nothing")
    out, err = capsys.readouterr()
    assert out.count("importance") == 3 and "for the class" in out
    assert "1 maps" in err and "'nothing'" in err
    for name in ("a.png", "a.npz", "a.csv", "a.parquet", "a.json"):
        loop(shell, f".export first {name}")
        assert (tmp_path / name).stat().st_size > 0
    assert "drawn to a.png" in capsys.readouterr().out
    loop(shell, ".export first all npz", ".export all parquet", ".export first all doc")
    assert (tmp_path / "all" / "maps.csv").exists() and (tmp_path / "all" / "heatmaps.parquet").exists()
    assert "not as 'doc'" in capsys.readouterr().err
    loop(shell, ".export", ".export first a.doc")
    err = capsys.readouterr().err
    assert ".export [run] [map] file" in err and "suffix" in err
    loop(shell, ".export first 0 one.html", ".export first 0 one.gif WITH cmap='coolwarm' opacity=0.5")
    assert (tmp_path / "one.html").exists() and (tmp_path / "one.gif").exists()
    loop(shell, ".export first 7 one.png", ".export first one.gif with dpi=30", ".export first x y z w")
    err = capsys.readouterr().err
    assert "none of number 7" in err and "does not take dpi" in err and "takes [run]" in err


def test_a_stopped_map_is_drawn_and_written(
    shell: Shell, capsys: pytest.CaptureFixture[str], pixels: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_FIRST_SECONDS", "_LAST_SECONDS", "_SHARE"):
        monkeypatch.setattr(checkpoints, name, 0.0)

    def stop(progress: Any) -> None:
        if 2 * progress.done > progress.total:
            raise ZeroDivisionError

    session = shell.runner.session
    session.create_images("one", [pixels(2)])
    with pytest.raises(ZeroDivisionError):
        session.execute("EXPLAIN OCCLUDE one USING net WITH patch=8 stride=1 batch=16 INTO stopped", on_progress=stop)
    loop(shell, ".heat stopped", ".heat stopped 0", ".heat", ".export stopped half.npz", ".export stopped half.png")
    said = capsys.readouterr()
    # Windows that overlap may leave no pixel without a value; that cells are missing is said in any case.
    assert said.err == "" and said.out.count("not finished") >= 2
    with np.load("half.npz") as numbers:
        assert 0 < np.isnan(numbers["importance"]).sum() < numbers["importance"].size


def test_plan_is_that_of_the_last_statement(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    loop(shell, ".plan")
    assert "no EXPLAIN OCCLUDE has run yet" in capsys.readouterr().err
    loop(shell, "CREATE IMAGES one FROM 'gone/*.png';", ".plan EXPLAIN OCCLUDE 'x.png' USING net;")
    assert "x.png" in capsys.readouterr().err


def test_read_output_and_timer(shell: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.sql").write_text("SELECT 5 AS five;", encoding="utf-8")
    loop(shell, ".mode json", ".output out.json", ".read s.sql", ".output", ".timer on", "SELECT 6 AS six;")
    out, err = capsys.readouterr()
    assert json.loads((tmp_path / "out.json").read_text(encoding="utf-8")) == [{"five": 5}]
    assert "five" not in out and "six" in out and "took 0." in err
    loop(shell, ".read gone.sql", ".read", ".output nowhere/x", ".timer maybe", ".tables now")
    err = capsys.readouterr().err
    assert "gone.sql" in err and ".read file" in err and "nowhere" in err and "maybe" in err and "'now'" in err


def test_device_and_schema(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    loop(shell, ".device", ".device cpu", ".device", ".schema cells", ".schema", ".tables", ".runs", ".images")
    out, err = capsys.readouterr()
    assert err == "" and "obeql.device = auto" in out and "obeql.device = cpu" in out
    assert "importance" in out and "heatmaps" in out and "first" in out


def test_commands_raise_errors_of_the_tree(shell: Shell) -> None:
    for line in (".nothing", ".heat 'open", ".mode x", ".heat first x"):
        with pytest.raises(ObeqlError):
            run_command(shell, line)


# ---- starting --------------------------------------------------------------------------------------------------------


def test_the_first_text_waits_for_the_database(
    db: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    threads: list[str] = []

    def connect() -> Any:
        threads.append(threading.current_thread().name)
        time.sleep(0.2)
        return db

    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        pipe.send_text("SELECT 7 AS seven;\r\x04")
        assert start(connect, Runner, "banner") == 0
    assert "seven" in capsys.readouterr().out
    assert threads == ["obeql-start"]


def test_a_database_that_cannot_be_opened_ends_the_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

    def connect() -> Any:
        raise QueryError("no such database")

    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        assert start(connect, Runner, "banner") == QueryError.exit_code
    assert "error: no such database" in capsys.readouterr().err


def test_the_prompt_needs_neither_torch_nor_the_store() -> None:
    code = (
        "import sys, obeql.cli.main, obeql.cli.repl, obeql.progress_bar, obeql.cli.runner\n"
        "heavy = {'torch', 'numpy', 'duckdb', 'matplotlib', 'lark', 'pyarrow'} & set(sys.modules)\n"
        "print(sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_ctrl_c_between_a_statement_and_the_prompt_does_not_leave(net_db: Any, capsys: Any) -> None:
    texts = iter(["SELECT 1 AS one;", "SELECT 2 AS two;"])
    interrupted = iter([KeyboardInterrupt])

    def read() -> str:
        if (text := next(texts, None)) is None:
            raise EOFError
        return text

    def refresh(_: Any) -> None:
        for stop in interrupted:
            raise stop

    Shell(Runner(net_db), read, refresh).loop()
    out, err = capsys.readouterr()
    assert "two" in out and "interrupted" in err
