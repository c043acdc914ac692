"""Several worker processes: the same maps as from one, whatever dies, and no process left."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import obeql
from obeql.errors import DeviceError, ExecutionError, ImageError, ModelError, UnsupportedError

SIZE = 32
TAIL = "USING net FOR TOP 2 WITH patch=[8, 16] stride=8"
#: Every run here with one thread, so that the cells of one process and of many are to be the same bits.
#: One image at a time: with eight images the plan's groups depend on the number of workers.
ONE_THREAD = "SET obeql.threads = 1; SET obeql.disabled_rules = 'batch_images'"


@pytest.fixture(autouse=True)
def no_process_left(quick_workers: None) -> Any:
    yield
    assert not multiprocessing.active_children()


@pytest.fixture
def scans(net_db: Any, tmp_path: Path, pixels: Any) -> Any:
    """A session with the image set `scans` of eight files."""
    folder = tmp_path / "eight"
    folder.mkdir()
    for seed in range(8):
        Image.fromarray(pixels(seed, 40)).save(folder / f"scan{seed}.png")
    net_db.create_images("scans", folder)
    net_db.execute(ONE_THREAD)
    return net_db


def cells(result: Any) -> dict[Any, Any]:
    return {(heat.image, heat.patch, heat.class_id): (heat.scores.tobytes(), heat.clean_score) for heat in result}


class KillWorkers:
    """Kills one worker each of the first `times` calls after an image was begun."""

    def __init__(self, times: int) -> None:
        self.left = times
        self.killed: list[int] = []

    def __call__(self, progress: Any) -> None:
        workers = multiprocessing.active_children()
        if self.left and progress.done and workers:
            victim = workers[self.left % len(workers)]
            assert victim.pid is not None
            os.kill(victim.pid, signal.SIGKILL)
            self.killed.append(victim.pid)
            self.left -= 1


def test_workers_give_the_cells_of_one_process_bit_for_bit(scans: Any) -> None:
    alone = scans.execute(f"EXPLAIN OCCLUDE scans {TAIL} NO REUSE")
    seen: list[Any] = []
    shared = scans.execute(f"EXPLAIN OCCLUDE scans {TAIL} workers=2 NO REUSE", on_progress=seen.append)
    assert shared.plan.workers == 2 and shared.plan.engines == alone.plan.engines
    assert [heat.image for heat in shared] == [heat.image for heat in alone]
    assert cells(shared) == cells(alone) and len(shared) == 32
    stored = scans.execute(
        "SELECT a.image_id FROM heatmaps a JOIN heatmaps b USING (image_id, class_id, patch_height) "
        "WHERE a.run_id = 1 AND b.run_id = 2"
    ).fetchall()
    assert len(stored) == 32
    assert seen[-1].images_done == 8 and seen[-1].done == seen[-1].total
    assert [p.done for p in seen] == sorted(p.done for p in seen)


def test_plan_shows_the_workers(scans: Any) -> None:
    text = str(scans.execute(f"PLAN EXPLAIN OCCLUDE scans {TAIL} workers=3"))
    assert "Distribute  3 workers on auto" in text
    assert "Distribute" not in str(scans.execute(f"PLAN EXPLAIN OCCLUDE scans {TAIL}"))
    assert "Distribute  8 workers" in str(scans.execute(f"PLAN EXPLAIN OCCLUDE scans {TAIL} workers=100"))
    one = scans.execute(f"PLAN EXPLAIN OCCLUDE scan1 {TAIL} workers=2")  # nothing to share
    assert "Distribute" not in str(one)


def test_plan_analyze_sums_what_workers_measure(scans: Any) -> None:
    found = scans.execute(f"PLAN ANALYZE EXPLAIN OCCLUDE scans {TAIL} workers=2 NO REUSE")
    assert "Distribute  2 workers" in str(found)
    n_windows = 8 * sum(grid.n_windows for grid in found.physical.grids)
    (measured,) = (line for line in str(found).splitlines() if line.startswith("  measured"))
    assert measured.split()[1] == f"{n_windows:,}"


def test_stored_cells_are_taken_and_the_rest_computed(scans: Any) -> None:
    whole = scans.execute(f"EXPLAIN OCCLUDE scans {TAIL} NO REUSE")
    scans.execute("DROP RUN 1")
    scans.execute(f"EXPLAIN OCCLUDE scans {TAIL.replace('stride=8', 'stride=16')}")
    shared = scans.execute(f"EXPLAIN OCCLUDE scans {TAIL} workers=2")
    for heat, other in zip(shared, whole, strict=True):
        np.testing.assert_allclose(heat.scores, other.scores, atol=1e-5)
    n_stored = scans.execute("SELECT measured->>'cells_stored' FROM runs ORDER BY run_id DESC LIMIT 1").fetchall()[0][0]
    assert int(n_stored) > 0
    # everything is stored now: nobody is started
    again = scans.execute(f"EXPLAIN OCCLUDE scans {TAIL.replace('TOP 2', 'PREDICTED')} workers=2")
    assert len(again) == 16


def test_pixels_handed_over_go_to_the_workers(net_db: Any, pixels: Any) -> None:
    net_db.execute(ONE_THREAD)
    images = [pixels(seed) for seed in range(3)]
    shared = net_db.execute("EXPLAIN OCCLUDE ? USING net WITH workers=2 NO REUSE", [images])
    alone = net_db.execute("EXPLAIN OCCLUDE ? USING net NO REUSE", [images])
    assert cells(shared) == cells(alone)


def test_bad_images_are_failures_in_order(scans: Any, tmp_path: Path) -> None:
    for name in ("scan5.png", "scan2.png"):
        (tmp_path / "eight" / name).write_bytes(b"no image")
    shared = scans.execute(f"EXPLAIN OCCLUDE scans {TAIL} workers=2")
    assert [Path(failure.shown).name for failure in shared.failures] == ["scan2.png", "scan5.png"]
    assert len(shared) == 24
    for path in (tmp_path / "eight").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(ImageError, match="7 more images failed"):
        scans.execute(f"EXPLAIN OCCLUDE scans {TAIL} workers=2")


@pytest.mark.slow
def test_killed_workers_lose_nothing_and_repeat_nothing(scans: Any) -> None:
    alone = scans.execute(f"EXPLAIN OCCLUDE scans {TAIL} NO REUSE")
    killer = KillWorkers(4)
    shared = scans.execute(f"EXPLAIN OCCLUDE scans {TAIL} workers=2 NO REUSE", on_progress=killer)
    assert len(killer.killed) >= 1 and not shared.failures
    assert cells(shared) == cells(alone)
    assert scans.execute("SELECT n_images, n_maps FROM runs WHERE run_id = 2").fetchall() == [(8, 32)]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux")
def test_a_worker_that_cannot_write_is_replaced_without_blame(scans: Any, tmp_path: Path) -> None:
    alone = scans.execute(f"EXPLAIN OCCLUDE scans {TAIL} NO REUSE")
    scans.execute(f"SET obeql.store_folder = '{tmp_path / 'maps'}'")
    full: list[int] = []

    def fill_disk(progress: Any) -> None:
        if progress.done and not full:
            (victim, *_) = multiprocessing.active_children()
            assert victim.pid is not None
            resource.prlimit(victim.pid, resource.RLIMIT_FSIZE, (0, 0))
            full.append(victim.pid)

    shared = scans.execute(f"EXPLAIN OCCLUDE scans {TAIL} workers=2 NO REUSE", on_progress=fill_disk)
    assert full and not shared.failures
    assert cells(shared) == cells(alone)
    assert scans.execute("SELECT n_images, n_maps FROM runs WHERE run_id = 2").fetchall() == [(8, 32)]


class Poison(nn.Module):
    """Ends its process at an image whose first pixel is black, as a fault in a driver would."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if float(x[0, :, 0, 0].sum()) == 0 and multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.line(x.mean((2, 3)))


@pytest.fixture
def importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The class Poison in a module that workers can import."""
    text = Path(__file__).read_text(encoding="utf-8")
    body = text[text.index("class Poison") : text.index("@pytest.fixture\ndef importable")]
    head = "import multiprocessing, os, signal\nimport torch\nfrom torch import nn\n\n"
    (tmp_path / "poison_module.py").write_text(head + body)
    monkeypatch.syspath_prepend(tmp_path)
    return __import__("poison_module").Poison


@pytest.mark.slow
def test_an_image_that_kills_its_workers_is_given_up(db: Any, importable: Any, tmp_path: Path, pixels: Any) -> None:
    torch.manual_seed(0)
    db.create_model("net", importable().eval(), size=(SIZE, SIZE))
    images = [pixels(seed) for seed in range(4)]
    images[1][0, 0] = 0
    paths = [tmp_path / f"image{number}.png" for number in range(4)]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    found = db.execute("EXPLAIN OCCLUDE ? USING net FOR CLASS 0 WITH workers=2", [[str(path) for path in paths]])
    assert [Path(failure.shown).name for failure in found.failures] == ["image1.png"]
    assert "3 workers died of it; of the last, it was killed by SIGKILL" in found.failures[0].error
    assert len(found) == 3


def test_workers_that_cannot_start_end_the_run(scans: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("obeql.executor.workers.process_pool.work", sys.exit)
    with pytest.raises(ExecutionError, match=r"All workers are gone, [34] before they took an image"):
        scans.execute(f"EXPLAIN OCCLUDE scans {TAIL} workers=2")
    assert scans.execute("SELECT count(*) FROM runs").fetchall() == [(0,)]


def test_a_model_that_cannot_travel_is_refused(db: Any, folder: Path) -> None:
    class Local(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3)) if float(x.sum()) > -1e9 else x.amax((2, 3))

    db.create_model("net", Local().eval(), size=(SIZE, SIZE))
    with pytest.raises(ModelError, match=r"cannot be given to worker processes .*workers=0"):
        db.execute(f"EXPLAIN OCCLUDE '{folder}/*.png' USING net WITH workers=2")


def test_cancel_stops_all_and_the_run_continues(scans: Any) -> None:
    statement = f"EXPLAIN OCCLUDE scans {TAIL} workers=2 INTO mine"

    def stop(progress: Any) -> None:
        if progress.image >= 2:
            scans.cancel()

    with pytest.raises(KeyboardInterrupt, match="cancelled after"):
        scans.execute(statement, on_progress=stop)
    assert not multiprocessing.active_children()
    n_before = scans.execute("SELECT n_images FROM runs").fetchall()[0][0]
    assert 1 <= n_before < 8
    result = scans.execute(statement)
    assert len(result) == 32 and scans.execute("SELECT status, n_images FROM runs").fetchall() == [("done", 8)]


def test_a_callback_that_raises_ends_the_workers(scans: Any) -> None:
    def fail(progress: Any) -> None:
        if progress.image >= 1:
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        scans.execute(f"EXPLAIN OCCLUDE scans {TAIL} workers=2", on_progress=fail)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_all_gpus_of_a_machine_without_one(scans: Any) -> None:
    with pytest.raises(DeviceError, match=r"no device 'cuda:\*' on this machine.* cpu"):
        scans.execute(f"EXPLAIN OCCLUDE scans {TAIL} ON cuda:*")


def test_a_pool_worker_may_start_none(scans: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)  # type: ignore[attr-defined]
    with pytest.raises(UnsupportedError, match="workers=0"):
        scans.execute(f"EXPLAIN OCCLUDE scans {TAIL} workers=2")


SCRIPT = """
import sys, obeql, numpy as np
from PIL import Image
from torch import nn

print("begins", flush=True)
for seed in range({n}):
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)).save(f"scan{{seed:04}}.png")
db = obeql.connect("heat.duckdb")
db.create_model("net", nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3600, 3)), size=(32, 32))
def tell(progress):
    if progress.images_done:
        print("runs", flush=True)
try:
    found = db.execute("EXPLAIN OCCLUDE '*.png' USING net WITH workers=2 patch=4 stride=1", on_progress=tell)
    print(len(found), "maps", flush=True)
except KeyboardInterrupt as stopped:
    print(stopped, flush=True)
"""


@pytest.mark.slow
def test_a_script_without_a_guard_runs_once(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT.format(n=4))
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=400, check=True
    )
    assert done.stdout.split("\n")[0] == "begins" and done.stdout.count("begins") == 1
    assert "4 maps" in done.stdout and done.stderr == ""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "script.py").write_text(SCRIPT.format(n=4000))
    process = subprocess.Popen(
        [sys.executable, "script.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line == "runs\n":
            break
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
        assert "cancelled after" in process.stdout.read()
    else:
        process.kill()
    process.wait(60)
    process.stdout.close()
    until = time.monotonic() + 60
    while _members(process.pid) and time.monotonic() < until:
        time.sleep(0.1)
    assert not _members(process.pid)
    with obeql.connect(tmp_path / "heat.duckdb") as db:
        ((n_images,),) = db.execute("SELECT n_images FROM runs").fetchall()
    assert 0 < n_images < 4000


def _members(session: int) -> list[str]:
    """Processes of a session that are not over."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(status.parent.name)
    return found
