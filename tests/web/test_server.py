"""`obeql ui` as a process, `.ui` and `db.ui()`: how the page begins, what keeps it from beginning, how it ends."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any

import pytest

import obeql
from obeql.cli.main import main
from obeql.cli.page import page_parser, serve
from obeql.errors import ExecutionError, StoreError
from tests.web.conftest import Server

LONG = "EXPLAIN OCCLUDE scans USING net WITH patch=3 stride=1 batch=4 NO REUSE INTO mine"


class Visitor:
    """Someone who has the address."""

    def __init__(self, address: str) -> None:
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        self._origin = address.partition("/?")[0]
        with self._opener.open(address, timeout=30) as answer:
            self.page = answer.read().decode()

    def ask(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        with self._opener.open(urllib.request.Request(self._origin + path, data), timeout=30) as answer:
            return json.loads(answer.read())

    def begin(self, text: str) -> int:
        """Hand a statement in and wait until it computes."""
        job_id = int(self.ask("/api/jobs", {"text": text})["job_id"])
        until = time.monotonic() + 60
        while not self.ask(f"/api/jobs/{job_id}")["progress"].get("done"):
            assert time.monotonic() < until
            time.sleep(0.02)
        return job_id

    def ended(self, job_id: int) -> str:
        """Wait for the end of a statement and return its state."""
        until = time.monotonic() + 60
        while (state := str(self.ask(f"/api/jobs/{job_id}")["state"])) in ("waiting", "running"):
            assert time.monotonic() < until
            time.sleep(0.02)
        return state


def test_ctrl_c_in_the_middle_of_a_run_leaves_a_consistent_file(
    serve: Callable[..., Server], prepared: Path, tmp_path: Path
) -> None:
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    server = serve("heat.duckdb", cwd=tmp_path)
    visitor = Visitor(server.address)
    assert "<title>OBEQL" in visitor.page
    visitor.begin(LONG)
    # The file is held: another process is told by whom, and ends with the code of its family.
    code = "import sys; from obeql.cli.main import main; sys.exit(main())"
    told = subprocess.run(
        [sys.executable, "-c", code, "ui", "heat.duckdb", "--no-browser"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert told.returncode == StoreError.exit_code and f"in use by process {server.process.pid}" in told.stderr
    assert "Traceback" not in told.stderr
    code_of_end, errors = server.interrupt()
    assert (code_of_end, errors) == (0, "")
    with obeql.connect(tmp_path / "heat.duckdb") as db:
        ((status,),) = db.execute("SELECT status FROM runs").fetchall() or [("none",)]
        assert status in ("interrupted", "none")
        assert db.execute("SELECT count(*) FROM heatmaps WHERE clean_score IS NULL").fetchall() == [(0,)]


def test_python_serves_the_page_of_a_session_beside_its_own_statements(prepared: Path, tmp_path: Path) -> None:
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    with obeql.connect(tmp_path / "heat.duckdb") as db:
        page = db.ui(open_browser=False)
        assert db.ui(open_browser=False) is page and page.is_running and "token=" in page.address
        visitor = Visitor(page.address)
        job_id = visitor.begin(LONG)
        assert db.execute("SELECT 42").fetchall() == [(42,)]  # after the page's statement, which it does not stop
        assert visitor.ended(job_id) == "done"
        # Files are out of the page's reach, and in that of the session.
        db.execute(f"COPY (SELECT 1) TO '{tmp_path}/one.csv'")
        visitor.begin(LONG.replace("mine", "other"))
        db.close()
    assert not page.is_running
    with pytest.raises(OSError):
        Visitor(page.address)
    with obeql.connect(tmp_path / "heat.duckdb") as db:
        statuses = dict(db.execute("SELECT run_name, status FROM runs").fetchall())
        assert statuses["mine"] == "done" and statuses.get("other", "interrupted") == "interrupted"


def test_a_page_that_was_closed_is_opened_again(db: Any) -> None:
    page = db.ui(open_browser=False)
    page.close()
    page.close()
    again = db.ui(open_browser=False)
    assert again is not page and "page at" in repr(again) and repr(page) == "<page, closed>"
    assert Visitor(again.address).ask("/api/state")["file"] == ":memory:"


def test_a_port_that_is_taken_or_none_is_said(db: Any) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(ExecutionError, match=r"cannot be served at 127\.0\.0\.1, port"),
    ):
        db.ui(port=taken.getsockname()[1], open_browser=False)
    for wrong in (70_000, -1):
        with pytest.raises(ExecutionError, match="ports lie in"):
            db.ui(port=wrong, open_browser=False)
    with pytest.raises(ExecutionError, match="cannot be served"):
        db.ui(host="no.such.host.invalid", open_browser=False)


def test_without_the_extra_a_sentence_names_it(db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name == "obeql.web.server" or name.split(".")[0] == "uvicorn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(obeql.ObeqlError, match=r'pip install -e "\.\[ui\]"'):
        db.ui(open_browser=False)


def test_a_host_that_others_reach_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from obeql.web.server import PageServer

    monkeypatch.setattr(PageServer, "run", lambda self: self.close())
    assert serve(["--host", "0.0.0.0", "--no-browser"]) == 0
    said = capsys.readouterr()
    assert "Other machines can reach it" in said.err and "in memory, nothing is kept" in said.out
    assert serve(["--no-browser"]) == 0
    assert capsys.readouterr().err == ""


def test_the_command_line_leads_to_the_page(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from obeql.web.server import PageServer

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(PageServer, "run", lambda self: self.close())
    opened: list[str] = []
    monkeypatch.setattr(PageServer, "open_browser", lambda self: opened.append(self.address))
    assert main(["ui", "new.duckdb", "--device", "cpu"]) == 0
    assert Path("new.duckdb").exists() and len(opened) == 1 and opened[0] in capsys.readouterr().out
    assert main(["ui", "new.duckdb", "--read-only", "--no-browser"]) == 0 and len(opened) == 1
    assert main(["ui", "script.sql"]) == 2
    assert main(["ui", "new.duckdb", "--device", "'x"]) == 2
    assert main(["ui", "no/such/folder.duckdb"]) == StoreError.exit_code
    assert "allow-files" in page_parser().format_help()
    Path("ui").mkdir()  # something that is called so is what is meant
    assert main(["ui", "-c", "SELECT 1"]) == StoreError.exit_code
    capsys.readouterr()


def test_files_are_shut_off_from_duckdb_itself(tmp_path: Path, prepared: Path) -> None:
    code = (
        "import obeql, duckdb\n"
        "from obeql.session.late import shut_off_files\n"
        "db = obeql.connect('heat.duckdb')\n"
        "shut_off_files(db)\n"
        "for sql in (\"COPY (SELECT 1) TO 'x.csv'\", \"FROM read_text('small.onnx')\", \"ATTACH 'y.db'\",\n"
        '            "SET enable_external_access = true"):\n'
        "    try:\n"
        "        db.connection.execute(sql).fetchall()\n"
        "    except duckdb.Error:\n"
        "        continue\n"
        "    raise SystemExit(sql)\n"
        "db.execute('EXPLAIN OCCLUDE scan1 USING net WITH patch=32 stride=32 INTO mine')\n"
        "db.close()\n"
        "print(len(obeql.connect('heat.duckdb', read_only=True).run('mine')))\n"
    )
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.stdout, done.returncode) == ("1\n", 0), done.stderr


def test_the_prompt_opens_the_page_of_its_session(db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from obeql.cli.repl.commands import run_command
    from obeql.cli.repl.shell import Shell
    from obeql.cli.runner import Runner
    from obeql.web.server import PageServer

    opened: list[str] = []
    monkeypatch.setattr(PageServer, "open_browser", lambda self: opened.append(self.address))
    written: list[str] = []
    shell = Shell(Runner(db), lambda: "")
    monkeypatch.setattr(shell, "write", written.append)
    run_command(shell, ".ui")
    assert len(opened) == 1 and written == [f"the page is at {opened[0]}"]
    assert Visitor(opened[0]).ask("/api/state")["models"] == []


def test_answers_do_not_wait_for_receipts() -> None:
    """asyncio turns off Nagle's algorithm for sockets that say that they are TCP; a connection inherits that."""
    from obeql.web.server import _bound

    listening = _bound("127.0.0.1", 0)
    with listening, socket.create_connection(listening.getsockname()) as _, listening.accept()[0] as accepted:
        assert accepted.proto == socket.IPPROTO_TCP
