"""Standard streams as a shell hands them over: other encodings, closed ones, full disks, pipes nobody reads."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from obeql.cli.output_formats import MODES
from obeql.cli.runner import Runner
from obeql.cli.streams import as_utf8, command_text, read_input, writing
from obeql.errors import ExecutionError, QueryError

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="the system has no /dev/full")


def obeql(*arguments: str, encoding: str = "utf-8", **streams: Any) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL} | streams
    return subprocess.run([sys.executable, "-m", "obeql", *arguments], env=environment, check=False, **streams)


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_what_programs_read_is_utf8_whatever_the_locale(encoding: str) -> None:
    modes = [mode for mode in MODES if mode != "box"]
    for mode in modes if encoding == "latin-1" else modes[:1]:
        done = obeql("--mode", mode, "-c", "SELECT 'ångström 日本' AS name", encoding=encoding)
        assert done.returncode == 0 and done.stderr == b""
        assert "ångström 日本" in done.stdout.decode("utf-8"), mode


def test_half_characters_are_escaped_and_not_lost(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w", encoding="latin-1", newline="") as stream:
        as_utf8(stream)
        stream.write(json.dumps({"path": "a\udcffé"}, ensure_ascii=False))
    written = (tmp_path / "out").read_bytes().decode("utf-8")
    assert json.loads(written) == {"path": "a\udcffé"}
    as_utf8(io.StringIO())  # has no encoding


def test_texts_that_come_in_may_be_utf8_or_the_locales(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding, raw in (("latin-1", "SELECT 'é'".encode()), ("latin-1", b"SELECT '\xe9'"), ("utf-8", b"SELECT 'e'")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw), encoding=encoding))
        assert read_input() in ("SELECT 'é'", "SELECT 'e'")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff"), encoding="utf-8"))
    with pytest.raises(QueryError, match="standard input is not UTF-8"):
        read_input()
    assert command_text("SELECT 'é'") == "SELECT 'é'"
    if sys.getfilesystemencoding() == "utf-8":
        with pytest.raises(QueryError, match="-c is not UTF-8"):
            command_text("SELECT '\udce9'")


@needs_full
def test_a_full_disk_behind_the_output_is_no_bug() -> None:
    for arguments in (("--csv", "-c", "SELECT * FROM range(10000)"), ("-c", "SELECT 1"), ("--version",)):
        with FULL.open("w") as full:
            done = obeql(*arguments, stdout=full)
        said = done.stderr.decode()
        assert done.returncode == ExecutionError.exit_code
        assert said == "error: cannot write to standard output: No space left on device.\n"


@needs_full
def test_a_full_disk_behind_a_file_of_the_prompt_is_named(db: Any) -> None:
    runner = Runner(db)
    runner.output = FULL.open("w", encoding="utf-8")
    with pytest.raises(ExecutionError, match="cannot write to '/dev/full': No space left"):
        runner.run("SELECT 1")
    with pytest.raises(OSError, match="No space"):
        runner.output.close()


@needs_full
def test_errors_that_cannot_be_shown_keep_their_exit_code() -> None:
    with FULL.open("w") as full:
        assert obeql("-c", "SELEC 1", stderr=full).returncode == QueryError.exit_code


def test_a_pipe_that_nobody_reads_any_more_ends_quietly() -> None:
    reading, writing_end = os.pipe()
    os.close(reading)
    done = obeql("--csv", "-c", "SELECT * FROM range(100000)", stdout=writing_end)
    os.close(writing_end)
    assert done.returncode == 141 and done.stderr == b""


def test_closed_streams_do_not_harm_the_database(tmp_path: Path) -> None:
    line = f'"{sys.executable}" -m obeql "{tmp_path}/a.duckdb" -c "CREATE TABLE t AS SELECT 1 x" -c "FROM t" >&- 2>&-'
    assert subprocess.run(line, shell=True, check=False).returncode == 0
    done = obeql(f"{tmp_path}/a.duckdb", "--csv", "-c", "FROM t")
    assert (done.stdout, done.stderr) == (b"x\n1\n", b"")


def test_only_what_the_system_refuses_is_worded() -> None:
    with pytest.raises(BrokenPipeError), writing("here"):
        raise BrokenPipeError
    with pytest.raises(ValueError, match="other"), writing("here"):
        raise ValueError("other")
