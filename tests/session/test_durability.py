"""What is reported as done is committed: kills, a full disk, a file that may not be written, Ctrl-C twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from obeql.errors import QueryTypeError, StoreError
from obeql.executor.execution import checkpoints
from obeql.planner import plan_explain
from obeql.planner.boxes import region_layers
from obeql.planner.physical.plan import Cost, DenseForward, IncrementalForward
from obeql.session import explain, explain_runner, run_recorder

STATEMENT = "EXPLAIN OCCLUDE scans USING net FOR CLASSES (1, 0) WITH patch=16 stride=8 batch=2 INTO mine"

# Run in a process of its own, which limits what it may write, or who it is; says what happened as JSON.
PROLOGUE = """
import json, os, pathlib, resource, sys
import torch, obeql, obeql.executor.execution.executor, numpy as np
from obeql.store import Store
torch.set_num_threads(1); torch.manual_seed(0)
parts = torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(3600, 3)
net = torch.nn.Sequential(*parts).eval()
images = [np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8) for i in range(30)]
file = sys.argv[1]
"""


@pytest.fixture
def scans(net_db: Any, folder: Path) -> Any:
    """A session with a set of images, which are computed one after the other."""
    net_db.create_images("scans", folder)
    net_db.execute("SET obeql.disabled_rules = 'batch_images'")
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
    monkeypatch.setattr(run_recorder, "_HOLD_MAPS", held)
    monkeypatch.setattr(run_recorder, "_HOLD_SECONDS", 1e9)  # however slow the machine
    seen: list[int] = []

    def tell(progress: Any) -> None:
        seen.append(progress.images_done)
        assert n_stored(scans) == progress.images_done

    scans.execute(STATEMENT, on_progress=tell)
    assert seen == sorted(seen) and seen[0] == 0 and seen[-1] == 3
    assert (1 in seen) is (held == 1)


def test_maps_of_many_bytes_are_stored_at_once(scans: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_recorder, "_HOLD_SECONDS", 1e9)
    seen: dict[int, list[int]] = {}
    unnamed = STATEMENT.removesuffix(" INTO mine")
    for n_bytes in (1, 1 << 40):
        monkeypatch.setattr(run_recorder, "_HOLD_BYTES", n_bytes)
        told = seen[n_bytes] = []
        scans.execute(f"{unnamed} NO REUSE", on_progress=lambda progress: told.append(progress.images_done))  # noqa: B023
    assert 1 in seen[1] and set(seen[1 << 40]) == {0, 3}


def test_a_fast_image_does_not_wait_for_a_slow_one(scans: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [time.monotonic()]
    monkeypatch.setattr(run_recorder.time, "monotonic", lambda: clock[0])
    seen: list[int] = []

    def tell(progress: Any) -> None:
        if progress.image == 1:  # its batches take a minute each
            clock[0] += 60
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


@pytest.mark.usefixtures("ctrl_c")
def test_a_second_ctrl_c_loses_nothing(scans: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = explain.RunRecorder.flush

    def interrupted(self: Any) -> None:
        if self._held and self.n_taken < self.n_todo:  # only when the run is brought to its end
            signal.raise_signal(signal.SIGINT)
        real(self)

    monkeypatch.setattr(explain.RunRecorder, "flush", interrupted)

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
    seen: list[Any] = []
    assert len(scans.execute(STATEMENT, on_progress=seen.append)) == 6
    assert {(each.n_images, each.reused * 3) for each in seen} == {(3, seen[0].total)} and scans.execute(
        "SELECT status FROM runs"
    ).fetchall() == [("done",)]


# A set that does not fit: `fill()` takes the space away, `free()` gives it back.
FULL = """
db = obeql.connect(file)
db.execute("SET obeql.disabled_rules = 'batch_images'")
db.create_model("net", net, size=(32, 32)); db.create_images("scans", images)
statement = "EXPLAIN OCCLUDE scans USING net FOR ALL WITH patch=8 stride=1"
db.execute("PLAN " + statement)
fill()
reported, failed = [0], ""
try:
    db.execute(statement, on_progress=lambda progress: reported.append(progress.images_done))
except obeql.ObeqlError as error:
    failed = f"{type(error).__name__}: {error}"
free()
status, n = db.execute("SELECT max(status), coalesce(max(n_images), 0) FROM runs").fetchall()[0]
todo = []
maps = len(db.execute(statement, on_progress=lambda progress: todo.append(progress.n_images - progress.images_done)))
db.close()
with obeql.connect(file) as db:
    after = db.execute("SELECT status, n_images, n_maps FROM runs").fetchall()
print(json.dumps([failed, status, n, max(reported), todo[0], maps, after]))
"""


def goes_on_when_there_is_space(fill_and_free: str, file: Path) -> Any:
    """What a process says whose disk is full for a while; returns the error, the status and the images it had then."""
    said = in_process(textwrap.dedent(fill_and_free) + FULL, str(file))
    failed, status, n_images, n_reported, n_todo, n_maps, after = said
    assert failed.startswith("StoreError: ") and n_reported <= n_images < 30 and n_todo == 30 - n_images
    assert n_maps == 90 and after == [["done", 30, 90]]
    return failed, status, n_reported


def test_a_full_disk_is_said_and_the_statement_goes_on_when_there_is_space(tmp_path: Path) -> None:
    failed, status, _ = goes_on_when_there_is_space(
        """
        log = lambda: os.path.getsize(file + ".wal") if os.path.exists(file + ".wal") else 0
        fill = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (log() + 200_000, -1))
        free = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
        """,
        tmp_path / "heat.duckdb",
    )
    assert failed.startswith("StoreError: cannot write the database") and "free some space" in failed
    assert status == "interrupted"


@pytest.mark.slow
def test_a_file_system_that_is_full_in_the_middle_of_a_set(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(small)]
    if mount is None or subprocess.run(command, check=False).returncode:
        pytest.skip("a file system of 64 MB could not be mounted; that takes root on Linux")
    try:
        failed, _, n_reported = goes_on_when_there_is_space(
            """
            from obeql.session import run_recorder
            run_recorder._HOLD_MAPS = 1
            ballast = os.path.join(os.path.dirname(file), "ballast")
            def fill():
                space = os.statvfs(os.path.dirname(file))
                with open(ballast, "wb") as written:
                    written.write(bytes(max(0, space.f_bavail * space.f_frsize - 600_000)))
            free = lambda: os.remove(ballast)
            """,
            small / "heat.duckdb",
        )
    finally:
        subprocess.run(["umount", small], check=True)
    assert "space" in failed and n_reported > 0


def test_a_file_that_may_not_be_written(tmp_path: Path) -> None:
    file = tmp_path / "heat.duckdb"
    said = in_process(
        """
        with obeql.connect(file) as db:
            db.create_model("net", net, size=(32, 32)); db.explain(images[0], "net", patch=16)
        os.chmod(file, 0o444); os.chmod(os.path.dirname(file), 0o555)
        for folder in list(pathlib.Path(file).parents)[1:]:
            if folder.stat().st_uid == os.getuid() and folder.name.startswith(("pytest-", "popen-")):
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
    assert failed.startswith("StoreError: the database") and "may not be written" in failed and "read_only" in failed
    assert n_maps == 1 and "read-only" in refused and same


@pytest.mark.slow
def test_killed_processes_lose_nothing() -> None:
    script = Path(__file__).parents[2] / "scripts" / "crash_test.py"
    command = [sys.executable, str(script), "--kills", "10", "--images", "40"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    report = json.loads(done.stdout)
    assert report["kills"] == 10 and report["images_lost"] == 0 and report["maps_checked"] > 0


# ---- maps that take long ---------------------------------------------------------------------------------------


@pytest.fixture
def slow_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every map takes so long that it is kept after every batch."""
    monkeypatch.setattr(checkpoints, "_FIRST_SECONDS", 0.0)
    monkeypatch.setattr(checkpoints, "_LAST_SECONDS", 0.0)
    monkeypatch.setattr(checkpoints, "_SHARE", 0.0)


def n_pieces(db: Any) -> int:
    (count,) = db.execute("SELECT count(*) FROM obeql_store.piece_rows").fetchall()[0]
    loose = "SELECT count(*) FROM obeql_store.maps WHERE map_id NOT IN (SELECT map_id FROM obeql_store.run_maps)"
    assert db.execute(loose).fetchall() == [(0,)]
    return int(count)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ZeroDivisionError])
@pytest.mark.parametrize("level", ["", "WITHIN 600 SECONDS"])
def test_a_long_map_goes_on_where_it_was_stopped(
    scans: Any, folder: Path, slow_maps: None, stop: type[BaseException], level: str
) -> None:
    # Cells of a reduced precision are estimates, which are not kept.
    scans.execute("SET obeql.disabled_rules = 'choose_reduced_precision, batch_images'")
    statement = f"EXPLAIN OCCLUDE scan1 USING net FOR CLASSES (1, 0) {level} WITH patch=8 stride=1 batch=16"
    expected = scans.execute(f"{statement} NO REUSE")
    assert n_pieces(scans) == 0
    scans.execute("DROP RUN 1")
    calls: list[Any] = []

    def halfway(progress: Any) -> None:
        calls.append(progress)
        if 0.4 * progress.total < progress.done < progress.total:
            raise stop

    if level:
        halfway = StopAfterLevel(stop)  # type: ignore[assignment]
    with pytest.raises(stop, match="are kept" if stop is KeyboardInterrupt else "^$"):
        scans.execute(statement, on_progress=halfway)
    assert n_pieces(scans) == 2
    ((run_id, n_maps, share),) = scans.execute("SELECT run_id, n_maps, share FROM runs").fetchall()
    ((n_cells, n_known),) = scans.execute("SELECT count(*), count(score) FROM cells").fetchall()
    assert n_maps == 0 and n_cells == 2 * 625 and 0 < n_known < n_cells
    assert share == pytest.approx(n_known / n_cells) and len(scans.run(run_id)) == 2
    found = scans.execute(statement)
    assert found.run_id == run_id and scans.execute("SELECT share, n_maps FROM runs").fetchall() == [(1.0, 2)]
    run = scans.execute(
        "SELECT measured FROM obeql_store.run_events WHERE status = 'done' ORDER BY entry_id DESC LIMIT 1"
    )
    measured = json.loads(run.fetchall()[0][0])
    assert measured["cells_stored"] > 50 and n_pieces(scans) == 0
    if not level:
        assert measured["cells_stored"] + measured["cells_computed"] == 625
        for ours, theirs in zip(expected, found, strict=True):
            np.testing.assert_allclose(theirs.scores, ours.scores, atol=1e-4)


def test_what_is_stored_of_a_map_that_was_stopped_is_planned_and_told(scans: Any, slow_maps: None) -> None:
    scans.execute("SET obeql.disabled_rules = 'batch_images'")
    statement = "EXPLAIN OCCLUDE scan1 USING net FOR CLASS 1 WITH patch=8 stride=1 batch=16"

    def stop(progress: Any) -> None:
        if progress.done >= 96:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="are kept"):
        scans.execute(f"{statement} INTO long", on_progress=stop)
    ((n_known,),) = scans.execute("SELECT count(score) FROM cells").fetchall()
    plan = scans.execute(f"PLAN {statement}")
    assert 0 < n_known < 625 and f"ReuseCells  {n_known:,} of 625 cells are stored" in str(plan)
    assert f"long: {n_known}" in str(plan) and plan.physical.measured_rates
    fresh = scans.execute(f"PLAN {statement} NO REUSE").physical
    # By the same rates; the operator may differ where both are about as fast, since fewer windows are left.
    assert plan.physical.measured_rates and fresh.measured_rates
    assert plan.physical.seconds <= 1.1 * fresh.seconds
    (share,) = [row[3] for row in scans.execute("SHOW RUNS").fetchall()]
    assert share == pytest.approx(n_known / 625)
    assert int(np.isfinite(scans.run("long")[0].scores).sum()) == n_known
    seen: list[Any] = []
    result = scans.execute(f"{statement} INTO long", on_progress=seen.append)
    counted = [(each.done, each.reused) for each in seen if not each.phase]
    assert (n_known, n_known) in counted[:2] and counted[-1] == (625, n_known)
    assert result.run_id == scans.run("long").run_id and n_pieces(scans) == 0


def test_a_run_that_has_only_begun_gives_its_name_away_and_keeps_its_cells(scans: Any, slow_maps: None) -> None:
    scans.execute("SET obeql.disabled_rules = 'batch_images'")
    statement = "EXPLAIN OCCLUDE scan1 USING net FOR CLASS 1 WITH patch=8 stride={} batch=16 INTO mine"

    def stop(progress: Any) -> None:
        if progress.done >= 96:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scans.execute(statement.format(1), on_progress=stop)
    result = scans.execute(statement.format(2))
    assert scans.execute("SELECT run_id, run_name, status FROM runs").fetchall() == [(result.run_id, "mine", "done")]
    measured = scans.execute("SELECT measured FROM obeql_store.run_events WHERE status = 'done'").fetchall()
    assert json.loads(measured[0][0])["cells_stored"] > 0
    with pytest.raises(QueryTypeError, match="exists already"):
        scans.execute(statement.format(4))


@pytest.mark.parametrize("order", ["dense first", "boxes first"])
def test_the_rest_of_a_stopped_map_may_run_on_another_operator(
    scans: Any, slow_maps: None, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    def boxes(network: Any, *_: Any) -> Any:
        return IncrementalForward(region_layers(network, len(network.layers)), (2, 2), 16, 16, Cost(0, 0, 0)), ()

    def dense(*_: Any) -> Any:
        return DenseForward(16, Cost(0, 0, 0)), ()

    def plan_with(choose: Any) -> None:
        monkeypatch.setattr(explain_runner, "plan_explain", partial(plan_explain, choose=choose))

    first, then = (dense, boxes) if order == "dense first" else (boxes, dense)
    scans.execute("SET obeql.disabled_rules = 'batch_images'")
    statement = "EXPLAIN OCCLUDE scan1 USING net FOR CLASSES (1, 0) WITH patch=8 stride=1 batch=16"
    plan_with(dense)
    expected = scans.execute(f"{statement} NO REUSE")
    scans.execute(f"DROP RUN {expected.run_id}")

    def stop(progress: Any) -> None:
        if progress.done >= 250:
            raise ZeroDivisionError

    plan_with(first)
    with pytest.raises(ZeroDivisionError):
        scans.execute(statement, on_progress=stop)
    ((n_known,),) = scans.execute("SELECT count(score) FROM cells WHERE class_id = 1").fetchall()
    plan_with(then)
    found = scans.execute(statement)
    assert type(found.plan.engines[0]) is type(then(found.plan.model.network)[0]) and n_pieces(scans) == 0
    measured = scans.execute("SELECT measured FROM obeql_store.run_events WHERE status = 'done'").fetchall()
    assert json.loads(measured[-1][0])["cells_stored"] == n_known >= 250
    for ours, theirs in zip(expected, found, strict=True):
        np.testing.assert_allclose(theirs.scores, ours.scores, atol=1e-4)


def test_another_statement_leaves_cells_of_a_stopped_one_alone(scans: Any, slow_maps: None) -> None:
    scans.execute("SET obeql.disabled_rules = 'batch_images'")
    statement = "EXPLAIN OCCLUDE scan1 USING net FOR CLASS 1 WITH patch=8 stride=1 batch=16"

    def stop(progress: Any) -> None:
        if progress.done >= 96:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scans.execute(statement, on_progress=stop)
    before = scans.execute("SELECT count(score) FROM cells WHERE run_id = 1").fetchall()
    scans.execute("EXPLAIN OCCLUDE scan2 USING net WITH patch=16")
    assert scans.execute("SELECT count(score) FROM cells WHERE run_id = 1").fetchall() == before
    scans.execute("DROP RUN 1")
    assert n_pieces(scans) == 0


def test_cells_of_a_level_that_is_stopped_are_kept(scans: Any, slow_maps: None) -> None:
    scans.execute("SET obeql.disabled_rules = 'choose_reduced_precision, batch_images'")
    statement = "EXPLAIN OCCLUDE scan1 USING net FOR CLASS 1 WITHIN 600 SECONDS WITH patch=8 stride=1 batch=16"
    computed: list[int] = []

    def between(progress: Any) -> None:
        if progress.done > 0 and progress.level == 0:
            computed.append(progress.done)
            if len(computed) == 2:  # of the first level, which has more batches
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        scans.execute(statement, on_progress=between)
    assert n_pieces(scans) == 1
    scans.execute(statement)
    measured = scans.execute("SELECT measured FROM obeql_store.run_events WHERE status = 'done'").fetchall()
    assert json.loads(measured[0][0])["cells_stored"] == computed[-1] >= 16


@pytest.mark.parametrize("level", ["", "WITHIN 600 SECONDS"])
def test_a_stop_in_a_later_size_keeps_the_map_of_the_first(scans: Any, slow_maps: None, level: str) -> None:
    scans.execute("SET obeql.disabled_rules = 'choose_reduced_precision, batch_images'")
    tail = f"USING net FOR CLASS 1 {level} WITH patch=[8, 12] stride=1 batch=16"

    def stop(progress: Any) -> None:
        if progress.done > 625:  # the windows of the first size
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        scans.execute(f"EXPLAIN OCCLUDE scan1 {tail}", on_progress=stop)
    assert n_pieces(scans) >= 1
    scans.execute(f"EXPLAIN OCCLUDE scan1 {tail}")
    measured = scans.execute("SELECT measured FROM obeql_store.run_events WHERE status = 'done'").fetchall()
    assert json.loads(measured[0][0])["cells_stored"] >= (50 if level else 625)


class StopAfterLevel:
    """Raises in the report of a level."""

    def __init__(self, stop: type[BaseException]) -> None:
        self.stop = stop

    def __call__(self, progress: Any) -> None:
        if progress.level >= 1:
            raise self.stop


def test_maps_of_an_image_that_is_not_done_are_kept(scans: Any, slow_maps: None) -> None:
    statement = "EXPLAIN OCCLUDE scan1 USING net FOR CLASS 1 WITH patch=[8, 16] stride=4 batch=16"

    def stop(progress: Any) -> None:
        if progress.done > 60:  # 49 windows of the first size, 25 of the second
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        scans.execute(statement, on_progress=stop)
    assert n_pieces(scans) == 2
    result = scans.execute(statement)
    assert result.run_id == 1 and n_pieces(scans) == 0
    measured = scans.execute("SELECT measured FROM obeql_store.run_events WHERE status = 'done'").fetchall()
    assert json.loads(measured[0][0])["cells_stored"] >= 49


def test_a_long_map_of_a_killed_process_goes_on(tmp_path: Path) -> None:
    file = str(tmp_path / "heat.duckdb")
    statement = "EXPLAIN OCCLUDE scans USING net FOR ALL WITH patch=8 stride=1 batch=16"
    killed = PROLOGUE + textwrap.dedent(
        f"""
        import signal
        from obeql.executor.execution import checkpoints
        checkpoints._FIRST_SECONDS = checkpoints._SHARE = 0.0
        db = obeql.connect(file)
        db.create_model("net", net, size=(32, 32)); db.create_images("scans", images[:1])
        def die(progress):
            if 2 * progress.done > progress.total:
                os.kill(os.getpid(), signal.SIGKILL)
        db.execute("{statement}", on_progress=die)
        """
    )
    done = subprocess.run([sys.executable, "-c", killed, file], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    stored, computed, left, error = in_process(
        f"""
        db = obeql.connect(file)
        db.create_model("net", net, size=(32, 32)); db.create_images("scans", images[:1])
        found = db.execute("{statement}")
        expected = db.execute("{statement} NO REUSE")
        sql = "SELECT measured FROM obeql_store.run_events WHERE status = 'done'"
        measured = json.loads(db.execute(sql).fetchall()[0][0])
        left = "SELECT count(*) FROM obeql_store.maps WHERE map_id NOT IN (SELECT map_id FROM obeql_store.run_maps)"
        error = max(float(np.abs(a.scores - b.scores).max()) for a, b in zip(found, expected))
        counts = measured["cells_stored"], measured["cells_computed"], db.execute(left).fetchall()[0][0]
        print(json.dumps([*counts, error]))
        """,
        file,
    )
    assert stored + computed == 625 and stored > 250 and left == 0 and error < 1e-5


def test_pieces_are_kept_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, kept = [0.0], []
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: clock[0])

    class Sink:
        def keep(self, explained: Any, place: int) -> None:
            kept.append(clock[0])

    piece = checkpoints.Checkpoints(Sink(), 0, lambda: "planes", lambda planes: planes)  # type: ignore[arg-type, return-value]
    while clock[0] < 3600:
        clock[0] += 1
        piece.after_batch()
    assert kept[0] == 10 and len(kept) < 100
    assert all(later - earlier <= max(11, 0.06 * later) for earlier, later in pairwise(kept))
