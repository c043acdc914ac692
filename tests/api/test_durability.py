"""What is reported as done is committed: kills, a full disk, a file that may not be written, Ctrl-C twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from obeql import explaining, recording
from obeql.errors import StoreError

STATEMENT = "EXPLAIN OCCLUDE scans USING net FOR CLASSES (1, 0) WITH patch=16 stride=8 batch=2 INTO mine"

# Run in a process of its own, which limits what it may write, or who it is; says what happened as JSON.
PROLOGUE = """
import json, os, resource, sys
import torch, obeql, obeql.executor.run, numpy as np
from obeql.store import Store
torch.set_num_threads(1); torch.manual_seed(0)
parts = torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(3600, 3)
net = torch.nn.Sequential(*parts).eval()
images = [np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8) for i in range(30)]
file = sys.argv[1]
"""


@pytest.fixture
def scans(net_db: Any, folder: Path) -> Any:
    net_db.create_images("scans", folder)
    return net_db


def n_stored(db: Any) -> int:
    return int(db.connection.cursor().execute("SELECT count(DISTINCT image_id) FROM heatmaps").fetchall()[0][0])


def in_process(body: str, *arguments: str) -> Any:
    code = PROLOGUE + textwrap.dedent(body)
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("held", [1, 4, 100])
def test_progress_counts_what_is_committed(scans: Any, monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    monkeypatch.setattr(recording, "_HOLD_MAPS", held)
    seen: list[int] = []

    def tell(progress: Any) -> None:
        seen.append(progress.images_done)
        assert n_stored(scans) == progress.images_done

    scans.execute(STATEMENT, on_progress=tell)
    assert seen == sorted(seen) and seen[0] == 0 and seen[-1] == 3
    assert (1 in seen) is (held == 1)


def test_a_fast_image_does_not_wait_for_a_slow_one(scans: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [time.monotonic()]
    monkeypatch.setattr(recording.time, "monotonic", lambda: clock[0])
    seen: list[int] = []

    def tell(progress: Any) -> None:
        if progress.image == 1:  # its batches take two seconds each
            clock[0] += 2
            seen.append(progress.images_done)

    scans.execute(STATEMENT, on_progress=tell)
    assert seen[0] == 0 and seen[1] == 1


def test_failures_keep_their_place(scans: Any, folder: Path) -> None:
    (folder / "scan3.png").write_bytes(b"")
    seen: list[int] = []
    result = scans.execute(STATEMENT, on_progress=lambda progress: seen.append(progress.images_done))
    assert (
        seen[-1] == 3 and len(result) == 4 and [each.shown for each in result.failures] == [str(folder / "scan3.png")]
    )
    assert scans.execute("SELECT n_failed FROM runs").fetchall() == [(1,)]


def test_a_second_ctrl_c_loses_nothing(scans: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = explaining.RunWriter.flush

    def interrupted(self: Any) -> None:
        if self._held and self.n_taken < self.n_todo:  # only when the run is brought to its end
            signal.raise_signal(signal.SIGINT)
        real(self)

    monkeypatch.setattr(explaining.RunWriter, "flush", interrupted)

    def stop(progress: Any) -> None:
        if progress.image == 2:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match="cancelled after 2 of 3 images; the same statement continues"):
        scans.execute(STATEMENT, on_progress=stop)
    assert scans.execute("SELECT status, n_images FROM runs").fetchall() == [("interrupted", 2)]
    monkeypatch.undo()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert len(scans.execute(STATEMENT)) == 6


def test_a_run_that_cannot_be_ended_is_ended_later(scans: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Any, *_: Any) -> Any:
        raise StoreError("the disk is full")

    def stop(progress: Any) -> None:
        if progress.image == 1:
            monkeypatch.setattr(type(scans._store), "_end", full)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        scans.execute(STATEMENT, on_progress=stop)
    assert scans.execute("SELECT status FROM runs").fetchall() == [("running",)]
    monkeypatch.undo()
    seen: list[int] = []
    assert len(scans.execute(STATEMENT, on_progress=lambda progress: seen.append(progress.n_images))) == 6
    assert set(seen) == {2} and scans.execute("SELECT status FROM runs").fetchall() == [("done",)]


def test_a_full_disk_is_said_and_the_statement_goes_on_when_there_is_space(tmp_path: Path) -> None:
    said = in_process(
        """
        db = obeql.connect(file)
        db.create_model("net", net, size=(32, 32)); db.create_images("scans", images)
        statement = "EXPLAIN OCCLUDE scans USING net FOR ALL WITH patch=8 stride=1"
        db.execute("PLAN " + statement)
        resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(file) + 500_000, -1))
        reported = [0]
        try:
            db.execute(statement, on_progress=lambda progress: reported.append(progress.images_done))
        except obeql.ObeqlError as error:
            failed = f"{type(error).__name__}: {error}"
        resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
        status, n = db.execute("SELECT status, n_images FROM runs").fetchall()[0]
        todo = []
        maps = len(db.execute(statement, on_progress=lambda progress: todo.append(progress.n_images)))
        db.close()
        with obeql.connect(file) as db:
            after = db.execute("SELECT status, n_images, n_maps FROM runs").fetchall()
        print(json.dumps([failed, status, n, max(reported), todo[0], maps, after]))
        """,
        str(tmp_path / "heat.duckdb"),
    )
    failed, status, n_images, n_reported, n_todo, n_maps, after = said
    assert failed.startswith("StoreError: cannot write the store") and "free some space" in failed
    assert status == "interrupted" and n_reported <= n_images < 30 and n_todo == 30 - n_images
    assert n_maps == 90 and after == [["done", 30, 90]]


def test_a_file_that_may_not_be_written(tmp_path: Path) -> None:
    file = tmp_path / "heat.duckdb"
    said = in_process(
        """
        with obeql.connect(file) as db:
            db.create_model("net", net, size=(32, 32)); db.explain(images[0], "net", patch=16)
        os.chmod(file, 0o444); os.chmod(os.path.dirname(file), 0o555)
        for folder in (os.path.dirname(os.path.dirname(file)), os.path.dirname(os.path.dirname(os.path.dirname(file)))):
            os.chmod(folder, 0o755)
        before = open(file, "rb").read()
        if os.getuid() == 0:
            os.setuid(65534)  # root may write everything
        try:
            obeql.connect(file)
            failed = ""
        except obeql.ObeqlError as error:
            failed = f"{type(error).__name__}: {error}"
        with obeql.connect(file, read_only=True) as db:
            n = len(db.run(1))
            try:
                db.explain(images[1], "net", patch=16)
            except obeql.ObeqlError as error:
                refused = str(error)
        print(json.dumps([failed, n, refused, open(file, "rb").read() == before]))
        """,
        str(file),
    )
    os.chmod(tmp_path, 0o755)  # noqa: PTH101
    failed, n_maps, refused, same = said
    assert failed.startswith("StoreError: the store") and "may not be written" in failed and "read_only" in failed
    assert n_maps == 1 and "read-only" in refused and same


@pytest.mark.slow
def test_killed_processes_lose_nothing() -> None:
    script = Path(__file__).parents[2] / "scripts" / "crash_test.py"
    done = subprocess.run([sys.executable, str(script), "--kills", "10"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    report = json.loads(done.stdout)
    assert report["kills"] == 10 and report["images_lost"] == 0 and report["maps_checked"] > 0
