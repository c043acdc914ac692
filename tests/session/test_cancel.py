"""Stopping and carrying on: cancel, callbacks that raise, interrupted runs, and a session that stays usable."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import obeql
import obeql.executor.execution.prefetch as decoding
from obeql.errors import QueryError, QueryTypeError, StoreError

SIZE = 32
STATEMENT = "EXPLAIN OCCLUDE scans USING net FOR CLASSES (1, 0) WITH patch=[16, 8] stride=8 batch=2 INTO mine"


@pytest.fixture
def clean_passes(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """One entry a clean pass, of which every explained image needs one a network and device."""
    import obeql.executor.operators.clean_pass as materialising

    found: list[Any] = []
    real = materialising.materialise

    def counted(*args: Any, **keywords: Any) -> Any:
        found.append(args)
        return real(*args, **keywords)

    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("obeql.") and getattr(module, "materialise", None) is real:
            monkeypatch.setattr(module, "materialise", counted)
    return found


@pytest.fixture
def scans(net_db: Any, folder: Path) -> Any:
    net_db.create_images("scans", folder)
    # Images that go together are finished together.
    net_db.execute("SET obeql.disabled_rules = 'batch_images'")
    return net_db


class StopAt:
    """Calls `action` as soon as image number `image` begins."""

    def __init__(self, image: int, action: Callable[[], object]) -> None:
        self.image, self.action = image, action

    def __call__(self, progress: Any) -> None:
        if progress.image == self.image:
            self.action()


def counts(db: Any) -> Any:
    return db.execute("SELECT status, n_images, n_maps, n_failed FROM runs").fetchall()


def test_a_cancelled_run_is_continued(scans: Any, clean_passes: list[Any]) -> None:
    scans.execute("PLAN " + STATEMENT)  # measuring the model's rates makes clean passes too
    clean_passes.clear()
    whole = scans.execute(STATEMENT.replace("INTO mine", ""))
    n_whole = len(clean_passes)
    scans.execute("DROP RUN 1")
    with pytest.raises(KeyboardInterrupt, match="cancelled after 1 of 3 images; the same statement continues"):
        scans.execute(STATEMENT, on_progress=StopAt(1, scans.cancel))
    assert counts(scans) == [("interrupted", 1, 4, 0)]
    clean_passes.clear()
    seen: list[Any] = []
    result = scans.execute(STATEMENT, on_progress=seen.append)
    assert len(clean_passes) == n_whole * 2 // 3 and seen[-1].done == seen[-1].total
    assert counts(scans) == [("done", 3, 12, 0)]
    assert [heat.image for heat in result] == [heat.image for heat in whole]
    for ours, other in zip(result, whole, strict=True):
        np.testing.assert_array_equal(ours.scores, other.scores)
        assert (ours.patch, ours.class_id, ours.run_id) == (other.patch, other.class_id, result.run_id)
        assert ours.placement == other.placement
    assert scans.run("mine").run_id == result.run_id
    # one more time it is a run of its own, or refused under the same name
    with pytest.raises(QueryTypeError, match="exists already"):
        scans.execute(STATEMENT)


def test_a_run_cancelled_before_its_first_image_leaves_nothing(scans: Any, dump: Any) -> None:
    scans.execute("PLAN " + STATEMENT)
    before = dump(scans)
    with pytest.raises(KeyboardInterrupt, match="nothing was finished"):
        scans.execute(STATEMENT, on_progress=StopAt(0, scans.cancel))
    assert dump(scans) == before
    assert len(scans.execute(STATEMENT)) == 12


def test_cancel_from_another_thread(scans: Any) -> None:
    reached, may_go_on = threading.Event(), threading.Event()

    def wait(progress: Any) -> None:
        if progress.image == 1:
            reached.set()
            may_go_on.wait(30)

    def stop() -> None:
        reached.wait(30)
        scans.cancel()
        may_go_on.set()

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(KeyboardInterrupt, match="1 of 3"):
        scans.execute(STATEMENT, on_progress=wait)
    thread.join()
    assert len(scans.execute(STATEMENT)) == 12


def test_cancel_in_the_last_report_is_too_late(scans: Any) -> None:
    def at_the_end(progress: Any) -> None:
        if progress.done == progress.total:
            scans.cancel()

    assert len(scans.execute(STATEMENT, on_progress=at_the_end)) == 12
    assert counts(scans) == [("done", 3, 12, 0)]
    assert len(scans.execute("EXPLAIN OCCLUDE scan1 USING net WITH patch=16")) == 1


def test_a_callback_that_raises(scans: Any) -> None:
    def fail() -> None:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        scans.execute(STATEMENT, on_progress=StopAt(1, fail))
    assert counts(scans) == [("interrupted", 1, 4, 0)]
    with pytest.raises(ZeroDivisionError):  # of the two images that are left
        scans.execute(STATEMENT, on_progress=StopAt(2, fail))
    assert counts(scans) == [("interrupted", 2, 8, 0)]
    assert scans.execute("SELECT count(*) FROM heatmaps").fetchall() == [(8,)]
    assert len(scans.execute(STATEMENT)) == 12
    assert counts(scans) == [("done", 3, 12, 0)]


def test_ctrl_c_says_how_to_go_on(scans: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = decoding.preprocess
    calls = []

    def interrupted(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(decoding, "preprocess", interrupted)
    with pytest.raises(KeyboardInterrupt, match="cancelled after 2 of 3 images; the same statement continues"):
        scans.execute(STATEMENT)
    assert len(scans.execute(STATEMENT)) == 12


def test_a_callback_may_use_the_session(scans: Any) -> None:
    seen = []

    def look(progress: Any) -> None:
        seen.append(scans.execute("SELECT count(*) FROM obeql_store.run_maps").fetchall()[0][0])

    scans.execute(STATEMENT, on_progress=look)
    assert seen[0] == 0 and seen[-1] == 12

    def look_and_stop(progress: Any) -> None:
        if progress.image == 1:
            scans.cancel()
        scans.execute("SELECT 1")  # does not take the cancel back

    with pytest.raises(KeyboardInterrupt):
        scans.execute(STATEMENT.replace("mine", "other"), on_progress=look_and_stop)


@pytest.mark.parametrize(
    ("change", "continued"),
    [
        ("nothing", True),
        ("class", False),
        ("images", False),
        ("content", False),
        ("weights", False),
        ("options", False),
    ],
)
def test_only_the_same_statement_continues(
    scans: Any, folder: Path, tiny_net: Any, pixels: Callable[..., Any], change: str, continued: bool
) -> None:
    statement = "EXPLAIN OCCLUDE ? USING net FOR CLASS ? WITH patch=?"
    paths = [str(folder / f"scan{i}.png") for i in (1, 2, 3)]
    values: list[Any] = [paths, 1, 16]
    with pytest.raises(KeyboardInterrupt):
        scans.execute(statement, values, on_progress=StopAt(2, scans.cancel))
    match change:
        case "class":
            values[1] = 2
        case "images":
            values[0] = [paths[0], paths[2]]
        case "content":
            Image.fromarray(pixels(11)).save(paths[0])
        case "weights":
            scans.create_model("net", tiny_net(1), size=(SIZE, SIZE), replace=True)
        case "options":
            values[2] = 8
    result = scans.execute(statement, values)
    assert (result.run_id == 1) is continued
    assert len(result) == len(values[0])
    assert scans.execute(f"SELECT n_maps, status FROM runs WHERE run_id = {result.run_id}").fetchall() == [
        (len(values[0]), "done")
    ]
    assert {heat.class_id for heat in result} == {values[1]} and {heat.patch for heat in result} == {(values[2],) * 2}
    fresh = scans.explain(values[0][0], "net", classes=values[1], patch=values[2])[0]
    np.testing.assert_array_equal(result[0].scores, fresh.scores)


def test_an_interrupted_run_with_failures(scans: Any, folder: Path, pixels: Callable[..., Any]) -> None:
    whole = (folder / "scan1.png").read_bytes()
    (folder / "scan1.png").write_bytes(b"")
    with pytest.raises(KeyboardInterrupt, match="1 of 3"):
        scans.execute(STATEMENT, on_progress=StopAt(2, scans.cancel))
    assert counts(scans) == [("interrupted", 1, 4, 1)]
    (folder / "scan1.png").write_bytes(whole)  # the file is mended meanwhile
    result = scans.execute(STATEMENT)
    assert len(result) == 12 and result.failures == ()
    assert counts(scans) == [("done", 3, 12, 0)]


def test_an_interrupted_run_outlives_the_session(tmp_path: Path, folder: Path, tiny_net: Any) -> None:
    with obeql.connect(tmp_path / "heat.duckdb") as db:
        db.create_model("net", tiny_net(), size=(SIZE, SIZE))
        db.create_images("scans", folder)
        db.execute("SET obeql.disabled_rules = 'batch_images'")
        with pytest.raises(KeyboardInterrupt):
            db.execute(STATEMENT, on_progress=StopAt(2, db.cancel))
    with obeql.connect(tmp_path / "heat.duckdb") as db:
        db.create_model("net", tiny_net(), size=(SIZE, SIZE))
        assert len(db.run("mine")) == 8
        seen: list[Any] = []
        assert len(db.execute(STATEMENT, on_progress=seen.append)) == 12
        assert (seen[-1].n_images, seen[-1].image) == (3, 2) and seen[-1].reused * 3 == seen[-1].total * 2
        assert counts(db) == [("done", 3, 12, 0)]


def test_close_in_a_callback_is_told_what_to_do_instead(scans: Any) -> None:
    with pytest.raises(QueryError, match=r"close\(\) was called in a callback.*call cancel\(\) there"):
        scans.execute(STATEMENT, on_progress=StopAt(1, scans.close))
    assert counts(scans) == [("interrupted", 1, 4, 0)]
    assert len(scans.execute(STATEMENT)) == 12


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="signals as on Unix")
@pytest.mark.parametrize(("handler", "status"), [("SIG_DFL", -signal.SIGINT), ("SIG_IGN", 0)])
def test_ctrl_c_while_storing_does_what_the_system_does_with_it(handler: str, status: int) -> None:
    code = f"""
import os, signal
from obeql.signals import defer_sigint
signal.signal(signal.SIGINT, signal.{handler})
with defer_sigint():
    os.kill(os.getpid(), signal.SIGINT)
    print("stored", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (status, "stored\n")


@pytest.mark.parametrize("how", ["", " APPROX 0.9", " TOP 3 CELLS"])
def test_random_numbers_are_the_users(scans: Any, how: str) -> None:
    import random

    import torch

    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    for verb in ("PLAN ", ""):
        scans.execute(f"{verb}EXPLAIN OCCLUDE scan1 USING net WITH patch=6 stride=2{how}")
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]


# ---- the session itself ------------------------------------------------------------------------------------


def test_a_closed_session_says_so(tiny_net: Any, folder: Path) -> None:
    db = obeql.connect()
    assert repr(db) == "<obeql session on :memory:>" and db.path == ":memory:"
    db.close()
    db.close()
    for use in (
        lambda: db.execute("SELECT 1"),
        lambda: db.execute("SET obeql.threads = 1"),
        lambda: db.execute("SHOW OPERATORS"),
        lambda: db.explain("scans", "net"),
        lambda: db.create_model("net", tiny_net(), size=(SIZE, SIZE)),
        lambda: db.create_images("scans", folder),
        lambda: db.run("mine"),
        lambda: db.connection,
    ):
        with pytest.raises(StoreError, match="closed"):
            use()


def test_nothing_is_left_open(tmp_path: Path, folder: Path, tiny_net: Any) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        db = obeql.connect(tmp_path / "heat.duckdb")
        db.create_model("net", tiny_net(), size=(SIZE, SIZE))
        result = db.explain(folder / "scan1.png", "net", patch=16)
        db.close()
        assert result[0].source().size == (SIZE, SIZE)  # a result outlives its session
        del db, result
        gc.collect()
    assert [str(warning.message) for warning in caught] == []
    assert not (tmp_path / "heat.duckdb.wal").exists()


def test_torch_is_imported_when_it_is_needed(tmp_path: Path) -> None:
    code = f"""
import sys
import obeql
assert not {{"torch", "duckdb", "lark", "numpy"}} & set(sys.modules)
with obeql.connect({str(tmp_path / "heat.duckdb")!r}) as db:
    db.execute("CREATE TABLE t AS SELECT 42 AS a; SHOW MODELS; SHOW RUNS; SET obeql.reuse = true")
    db.execute("SELECT a FROM t").fetchall()
    try:
        db.execute("EXPLAIN OCCLUDE x USING y WITH patch=8")
    except obeql.ObeqlError as error:
        print(error)
print("torch" in sys.modules, "matplotlib" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "There is no model 'y'" in done.stdout and done.stdout.endswith("False False\n")


@pytest.mark.parametrize("stop", ["cancel", "close"])
def test_a_network_that_takes_long_to_capture(db: Any, tiny_net: Any, stop: str) -> None:
    """`cancel` and `close` of another thread are heard between the passes that capture a network."""
    import torch

    begun = threading.Event()

    class Slow(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = tiny_net()
            self.passes = 0

        def forward(self, x: torch.Tensor) -> Any:
            begun.set()
            self.passes += 1
            time.sleep(0.05)
            return self.net(x)

    def act() -> None:
        assert begun.wait(30)
        getattr(db, stop)()

    thread = threading.Thread(target=act)
    thread.start()
    with pytest.raises(KeyboardInterrupt, match="cancelled before anything was computed"):
        db.create_model("slow", Slow(), size=(32, 32))
    thread.join()
    if stop == "cancel":
        assert db.execute("SELECT count(*) FROM models").fetchall() == [(0,)]
        db.create_model("quick", tiny_net(), size=(32, 32))  # what was cancelled is over
