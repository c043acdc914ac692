"""Threads on one session, sessions on one file, a reader beside a writer, other processes; and faults in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

import obeql
from obeql.errors import InternalError, ObeqlError, StoreError
from obeql.executor.operators import dense_forward, incremental_forward
from obeql.store import Store, runs

SIZE = 32
STATEMENT = "EXPLAIN OCCLUDE ? USING net FOR ALL WITH patch=8 stride=4 batch=4 score=log_odds"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "heat.duckdb"


@pytest.fixture
def connected(file: Path, tiny_net: Any) -> Callable[..., Any]:
    def connect(**options: Any) -> Any:
        db = obeql.connect(file, **options)
        db.create_model("net", tiny_net(), size=(SIZE, SIZE))
        return db

    return connect


def assert_right(results: list[Any], pixels: Callable[..., Any], net_db: Any) -> None:
    for seed, result in enumerate(results):
        expected = net_db.execute(STATEMENT + " NO REUSE", [pixels(seed)])
        for ours, alone in zip(result, expected, strict=True):
            np.testing.assert_allclose(ours.scores, alone.scores, atol=1e-4)


def test_threads_share_a_session(net_db: Any, pixels: Callable[..., Any]) -> None:
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda seed: net_db.execute(STATEMENT, [pixels(seed)]), range(6)))
    assert_right(results, pixels, net_db)
    assert len({result.run_id for result in results}) == 6
    assert {status for (status,) in net_db.execute("SELECT status FROM runs").fetchall()} == {"done"}


def test_sessions_share_a_file(connected: Any, pixels: Callable[..., Any], net_db: Any, file: Path) -> None:
    def work(seed: int) -> Any:
        with connected() as db:
            return db.execute(STATEMENT, [pixels(seed)])

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(work, range(8)))
    assert_right(results, pixels, net_db)
    with obeql.connect(file) as db:
        assert db.execute("SELECT status, n_maps FROM runs").fetchall() == [("done", 3)] * 8


def test_a_reader_sees_whole_images_while_a_run_writes(connected: Any, folder: Path, monkeypatch: Any) -> None:
    from obeql.session import run_recorder

    monkeypatch.setattr(run_recorder, "_HOLD_MAPS", 1)
    seen = []
    with connected() as writer, connected() as reader:

        def look(progress: Any) -> None:
            rows = reader.execute("SELECT count(*) FROM heatmaps GROUP BY image_id").fetchall()
            assert set(rows) <= {(3,)} and len(rows) == progress.images_done
            seen.append(len(rows))

        writer.execute("SET obeql.disabled_rules = 'batch_images'")
        writer.execute(STATEMENT, [str(folder)], on_progress=look)
    assert sorted(set(seen)) == [0, 1, 2, 3]


@pytest.mark.parametrize("read_only", [False, True])
def test_another_process_is_told_who_holds_the_file(connected: Any, file: Path, read_only: bool) -> None:
    script = (
        f"import obeql\ntry:\n    obeql.connect({str(file)!r}, read_only={read_only})\nexcept obeql.ObeqlError as e:\n"
    )
    script += "    print(type(e).__name__, e)"
    with connected():
        said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert said.startswith("StoreError the database") and f"in use by process {os.getpid()} (" in said


def test_closing_stops_the_statement_of_another_thread(connected: Any, folder: Path, file: Path) -> None:
    db = connected()
    db.execute("SET obeql.disabled_rules = 'batch_images'")  # all three images might go together
    begun = threading.Event()
    ended: list[BaseException] = []

    def tell(progress: Any) -> None:
        if progress.image == 1:
            begun.set()
            threading.Event().wait(0.05)

    def work() -> None:
        try:
            db.execute(STATEMENT, [str(folder)], on_progress=tell)
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(60)
    db.close()
    thread.join(60)
    assert not thread.is_alive() and isinstance(ended[0], (KeyboardInterrupt, StoreError))
    with connected() as again:
        assert len(again.execute(STATEMENT, [str(folder)])) == 9
        assert again.execute("SELECT status, n_images FROM runs").fetchall() == [("done", 3)]


def test_a_run_that_another_session_continues_meanwhile(connected: Any, folder: Path, monkeypatch: Any) -> None:
    from obeql.session import run_recorder

    with connected() as first, connected() as second:
        for db in (first, second):
            db.execute("SET obeql.disabled_rules = 'batch_images'")

        def stop(progress: Any) -> None:
            if progress.images_done == 1:
                first.cancel()

        find = runs.RunRows.unfinished_run

        def find_late(store: Any, record: Any) -> int | None:
            found = find(store, record)
            monkeypatch.undo()
            assert found == 1 and second.execute(STATEMENT, [str(folder)]).run_id == 1
            return found

        monkeypatch.setattr(run_recorder, "_HOLD_MAPS", 1)
        with pytest.raises(KeyboardInterrupt):
            first.execute(STATEMENT, [str(folder)], on_progress=stop)
        monkeypatch.setattr(runs.RunRows, "unfinished_run", find_late)
        assert len(first.execute(STATEMENT, [str(folder)])) == 9
        assert first.execute("SELECT status, n_images FROM runs").fetchall() == [("done", 3)] * 2


LONG = "SELECT sum(hash(a.range * b.range) % 7) FROM range(60000) AS a, range(200000) AS b"  # minutes


@pytest.fixture
def reading(db: Any) -> Iterator[list[BaseException]]:
    """Another thread reads a result of SQL that takes minutes; the list is what that raises in the end."""
    begun = threading.Event()
    ended: list[BaseException] = []

    def slow(number: int) -> int:
        begun.set()
        time.sleep(0.0002)
        return number

    db.connection.create_function("slow", slow, ["BIGINT"], "BIGINT")

    def read() -> None:
        try:
            db.execute("SELECT sum(slow(range)) FROM range(1000000)").fetchall()
        except duckdb.Error as error:
            ended.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    assert begun.wait(60)
    yield ended
    with suppress(StoreError):
        db.connection.interrupt()
    thread.join(60)
    assert not thread.is_alive()


def test_statements_wait_while_another_thread_reads_a_result(db: Any, reading: list[BaseException]) -> None:
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(db.execute, text) for text in ("SHOW RUNS", "SELECT 1", "CREATE TABLE t (i INTEGER)")]
        assert wait(waiting, 0.3).not_done == set(waiting)
        db.connection.interrupt()
        assert [each.exception(60) for each in waiting] == [None, None, None]
    assert isinstance(reading[0], duckdb.InterruptException)


def test_closing_stops_a_thread_that_reads_a_result(db: Any, reading: list[BaseException]) -> None:
    db.close()
    with pytest.raises(StoreError, match="closed"):
        db.execute("SELECT 1")


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent otherwise")
def test_ctrl_c_in_sql_is_a_keyboard_interrupt(db: Any) -> None:
    timer = threading.Timer(0.3, signal.raise_signal, [signal.SIGINT])
    with pytest.raises(KeyboardInterrupt):
        timer.start()
        db.execute(f"CREATE TABLE t AS {LONG}")
    timer.join()
    assert db.execute("SELECT 7").fetchall() == [(7,)]


def test_ctrl_c_between_a_query_of_the_store_and_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    with Store() as store:
        own = store._database._own

        class Pressed:
            abort = staticmethod(getattr(own, "abort", lambda: None))

            def execute(self, *asked: Any) -> Any:
                own.execute(*asked)
                raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(store._database, "_own", Pressed())
            store.run_names()
        assert store._database.arrow("SELECT 7 AS seven").to_pylist() == [{"seven": 7}]


# ---- faults ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [SystemExit, ValueError, MemoryError, RecursionError])
def test_a_worker_that_dies(net_db: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, error: Any) -> None:
    def die(*_: Any) -> Any:
        raise error("mine")

    n_threads = threading.active_count()
    with monkeypatch.context() as patch:
        patch.setattr(incremental_forward.IncrementalRun, "_boxed", die)
        patch.setattr(dense_forward, "occlude", die)
        with pytest.raises(SystemExit if error is SystemExit else ObeqlError):
            net_db.execute(STATEMENT, [str(folder)])
    assert threading.active_count() <= n_threads
    assert len(net_db.execute(STATEMENT, [str(folder)])) == 9


def test_an_image_that_becomes_unreadable(net_db: Any, folder: Path) -> None:
    def remove(progress: Any) -> None:
        (folder / "scan2.png").unlink(missing_ok=True)

    result = net_db.execute(STATEMENT, [str(folder)], on_progress=remove)
    assert len(result) == 6 and [each.shown for each in result.failures] == [str(folder / "scan2.png")]
    assert "does not exist" in result.failures[0].error


def test_a_clock_that_jumps(net_db: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, days = runs.utc_now, [0]

    def jumping() -> Any:
        import datetime

        days[0] -= 400
        return real() + datetime.timedelta(days=days[0])

    monkeypatch.setattr(runs, "utc_now", jumping)
    assert len(net_db.execute(STATEMENT + " INTO a", [str(folder)])) == 9
    assert net_db.execute("SELECT run_name, status FROM runs").fetchall() == [("a", "done")]
    net_db.execute(STATEMENT + " INTO OR REPLACE a", [str(folder)])
    assert net_db.execute("SELECT run_id, run_name, status FROM runs").fetchall() == [(2, "a", "done")]


@pytest.mark.parametrize("raised", [ValueError, OSError, KeyboardInterrupt, SystemExit, RuntimeError("out of memory")])
def test_a_callback_that_raises_anything(net_db: Any, folder: Path, raised: Any) -> None:
    calls = []

    def fail(progress: Any) -> None:
        calls.append(progress)
        if len(calls) == 3:
            raise raised

    with pytest.raises(raised if isinstance(raised, type) else type(raised)):
        net_db.execute(STATEMENT, [str(folder)], on_progress=fail)
    assert len(calls) == 3
    assert len(net_db.execute(STATEMENT, [str(folder)])) == 9
    assert not isinstance(raised, InternalError)
