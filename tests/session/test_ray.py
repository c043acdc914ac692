"""Workers as actors of Ray: the same cells as in this process, whatever dies, and nothing left behind.

Real Ray on this machine: a cluster of three nodes, two of them with room for workers, and one of a statement.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

import obeql
from obeql.errors import ExecutionError, ModelError, UnsupportedError

pytest.importorskip("ray", reason="Ray is not installed: pip install 'obeql[ray]'")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc"),
    # Ray's own: pipes and log files that it leaves to the garbage collector
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray", "ignore::FutureWarning:ray"),
]

SIZE = 32
TAIL = "USING net FOR TOP 2 WITH patch=[8, 16] stride=8"
RAY_TAIL = f"{TAIL} workers=2"


class Poison(nn.Module):
    """Ends its process, if a worker, at an image whose first pixel is black, as a fault in a driver would."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if float(x[0, :, 0, 0].sum()) == 0 and "RAY_RAYLET_PID" in os.environ:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.line(x.mean((2, 3)))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Three nodes: the head without a CPU, and two with two each. Modules of `cluster.modules` are found by workers."""
    from obeql.executor.workers.ray.cluster import ray_module

    ray_module()
    from ray.cluster_utils import Cluster

    modules = tmp_path_factory.mktemp("modules")
    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(modules), before]))
    try:
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        for _ in range(2):
            made.add_node(num_cpus=2)
    finally:
        os.environ["PYTHONPATH"] = before
    made.modules = modules
    yield made
    made.shutdown()


@pytest.fixture
def scans(net_db: Any, tmp_path: Path, pixels: Any, monkeypatch: pytest.MonkeyPatch, cluster: Any) -> Any:
    """A session with the image set `scans` of eight files, whose Ray is the cluster."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "eight"
    folder.mkdir()
    for seed in range(8):
        Image.fromarray(pixels(seed, 40)).save(folder / f"scan{seed}.png")
    net_db.create_images("scans", folder)
    net_db.execute(f"SET obeql.threads = 1; SET obeql.engine = 'ray'; SET obeql.ray_address = '{cluster.address}'")
    # With eight images the plan's groups depend on the number of workers.
    net_db.execute("SET obeql.disabled_rules = 'batch_images'")
    return net_db


def cells(result: Any) -> dict[Any, Any]:
    return {(heat.image, heat.patch, heat.class_id): (heat.scores.tobytes(), heat.clean_score) for heat in result}


def actors() -> list[int]:
    """Processes of workers, as Ray names them."""
    return [pid for pid, name in processes() if name.startswith("ray::Actor")]


def processes() -> list[tuple[int, str]]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append((int(path.parent.name), path.read_bytes().replace(b"\0", b" ").decode(errors="replace")))
        except OSError:
            continue
    return found


def gone(wanted: Any, seconds: float = 60) -> bool:
    until = time.monotonic() + seconds
    while wanted() and time.monotonic() < until:
        time.sleep(0.1)
    return not wanted()


@pytest.fixture(autouse=True)
def no_worker_left() -> Iterator[None]:
    yield
    import ray

    assert not ray.is_initialized() and gone(actors)


def test_ray_gives_the_cells_of_one_process_and_of_processes(scans: Any) -> None:
    seen: list[Any] = []
    shared = scans.execute(f"EXPLAIN OCCLUDE scans {RAY_TAIL} NO REUSE", on_progress=seen.append)
    more = scans.execute(f"EXPLAIN OCCLUDE scans {TAIL} workers=3 NO REUSE")
    scans.execute("RESET obeql.engine")
    alone = scans.execute(f"EXPLAIN OCCLUDE scans {TAIL} NO REUSE")
    spawned = scans.execute(f"EXPLAIN OCCLUDE scans {TAIL} workers=2 NO REUSE")
    assert shared.plan.engines == alone.plan.engines == more.plan.engines and len(shared) == 32
    assert cells(shared) == cells(alone) == cells(spawned) == cells(more)
    assert seen[-1].images_done == 8 and seen[-1].done == seen[-1].total
    assert [p.done for p in seen] == sorted(p.done for p in seen)


def test_groups_of_images_give_the_same_bits_on_ray(scans: Any) -> None:
    scans.execute("RESET obeql.disabled_rules")
    tail = f"{TAIL} workers=2 NO REUSE"
    shared = scans.execute(f"EXPLAIN OCCLUDE scans {tail}")
    scans.execute("RESET obeql.engine")
    spawned = scans.execute(f"EXPLAIN OCCLUDE scans {tail}")
    assert shared.plan.cluster and not spawned.plan.cluster
    assert shared.plan.together == spawned.plan.together > 1 and shared.plan.engines == spawned.plan.engines
    assert cells(shared) == cells(spawned) and len(shared) == 32


def test_plan_shows_ray_and_asks_it_for_its_room(scans: Any, cluster: Any) -> None:
    text = str(scans.execute(f"PLAN EXPLAIN OCCLUDE scans {TAIL}"))
    assert f"Distribute  3 workers on auto, Ray at {cluster.address}" in text.replace("\n", "")  # one of 4 CPUs is free
    scans.execute("RESET obeql.engine")
    assert "Ray at" in str(scans.execute(f"PLAN EXPLAIN OCCLUDE scans {RAY_TAIL} ON ray"))
    assert "Ray at" not in str(scans.execute(f"PLAN EXPLAIN OCCLUDE scans {RAY_TAIL}"))


def test_images_that_no_worker_can_see_are_sent(scans: Any, pixels: Any, tmp_path: Path) -> None:
    relative = scans.execute(f"EXPLAIN OCCLUDE 'eight/*.png' {RAY_TAIL} NO REUSE")
    images = [pixels(seed, 40) for seed in range(3)]
    sent = scans.execute(f"EXPLAIN OCCLUDE ? {RAY_TAIL} NO REUSE", [images])
    both = [list(cells(found).values()) for found in (relative, sent)]
    assert both[0][:12] == both[1]
    (tmp_path / "eight" / "scan2.png").write_bytes(b"no image")
    (tmp_path / "eight" / "scan5.png").unlink()
    found = scans.execute(f"EXPLAIN OCCLUDE scans {RAY_TAIL} NO REUSE")
    assert [Path(failure.shown).name for failure in found.failures] == ["scan2.png", "scan5.png"]


def test_killed_actors_lose_nothing_and_repeat_nothing(scans: Any) -> None:
    left = [4]

    def kill(progress: Any) -> None:
        if left[0] and progress.done and (found := actors()):
            os.kill(found[left[0] % len(found)], signal.SIGKILL)
            left[0] -= 1

    shared = scans.execute(f"EXPLAIN OCCLUDE scans {RAY_TAIL} NO REUSE", on_progress=kill)
    assert left[0] < 4 and not shared.failures
    assert scans.execute("SELECT n_images, n_maps FROM runs").fetchall() == [(8, 32)]
    alone = scans.execute(f"EXPLAIN OCCLUDE scans {TAIL} NO REUSE")
    assert cells(shared) == cells(alone)


def test_a_lost_node_loses_nothing(scans: Any, cluster: Any) -> None:
    extra = cluster.add_node(num_cpus=2)
    removed = threading.Event()

    def lose(progress: Any) -> None:
        if progress.done and not removed.is_set():
            removed.set()
            cluster.remove_node(extra, allow_graceful=False)

    shared = scans.execute(f"EXPLAIN OCCLUDE scans {TAIL} workers=6 NO REUSE", on_progress=lose)
    assert removed.is_set() and not shared.failures
    assert scans.execute("SELECT n_images, n_maps FROM runs").fetchall() == [(8, 32)]
    assert cells(shared) == cells(scans.execute(f"EXPLAIN OCCLUDE scans {RAY_TAIL} NO REUSE"))


@pytest.fixture
def poison(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The class Poison in a module that workers can import."""
    text = Path(__file__).read_text(encoding="utf-8")
    body = text[text.index("class Poison") : text.index('@pytest.fixture(scope="module")')]
    head = "import os, signal\nimport torch\nfrom torch import nn\n\n"
    (cluster.modules / "ray_poison_module.py").write_text(head + body)
    monkeypatch.syspath_prepend(cluster.modules)
    torch.manual_seed(0)
    return __import__("ray_poison_module").Poison().eval()


def test_an_image_that_kills_its_workers_is_given_up(scans: Any, poison: Any, pixels: Any) -> None:
    images = [pixels(seed) for seed in range(4)]
    images[1][0, 0] = 0
    for number, image in enumerate(images):
        Image.fromarray(image).save(f"image{number}.png")
    scans.create_model("bad", poison, size=(SIZE, SIZE))
    with pytest.raises(ModelError, match=r"runs as its own code \(ray_poison_module.Poison\).* trust=true"):
        scans.execute("EXPLAIN OCCLUDE 'image*.png' USING bad FOR CLASS 0 WITH workers=2")
    scans.create_model("trusted", poison, size=(SIZE, SIZE), trust=True)
    found = scans.execute("EXPLAIN OCCLUDE 'image*.png' USING trusted FOR CLASS 0 WITH workers=2")
    assert [Path(failure.shown).name for failure in found.failures] == ["image1.png"]
    assert "3 workers died of it" in found.failures[0].error and len(found) == 3


def test_workers_write_shards_where_they_are_asked_for(scans: Any, tmp_path: Path) -> None:
    alone = scans.execute(f"EXPLAIN OCCLUDE scans {TAIL} NO REUSE")
    scans.execute(f"SET obeql.store_folder = '{tmp_path / 'maps'}'")
    shared = scans.execute(f"EXPLAIN OCCLUDE scans {RAY_TAIL} NO REUSE")
    assert cells(shared) == cells(alone)
    assert not list((tmp_path / "maps").rglob("*.parquet"))  # the database has them


def test_a_worker_that_cannot_write_is_replaced_without_blame(scans: Any, tmp_path: Path) -> None:
    scans.execute(f"SET obeql.store_folder = '{tmp_path / 'maps'}'")
    full: list[int] = []

    def fill_disk(progress: Any) -> None:
        if progress.done and not full and (found := actors()):
            resource.prlimit(found[0], resource.RLIMIT_FSIZE, (0, 0))
            full.append(found[0])

    shared = scans.execute(f"EXPLAIN OCCLUDE scans {RAY_TAIL} NO REUSE", on_progress=fill_disk)
    assert full and not shared.failures and len(shared) == 32
    assert scans.execute("SELECT n_images, n_maps FROM runs").fetchall() == [(8, 32)]


def test_a_cluster_without_room_is_told_with_what_it_has(scans: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("obeql.executor.workers.ray.pool.PLACEMENT_SECONDS", 3.0)
    scans.execute("SET obeql.threads = 3")
    with pytest.raises(ExecutionError, match=r"asked were 2 of 3 CPU each; the cluster has \d nodes with 4 CPUs"):
        scans.execute(f"EXPLAIN OCCLUDE scans {RAY_TAIL}")
    assert scans.execute("SELECT count(*) FROM runs").fetchall() == [(0,)]


def test_nobody_answers_at_an_address(scans: Any) -> None:
    scans.execute("SET obeql.ray_address = 'ray://127.0.0.1:10001'")
    with pytest.raises(UnsupportedError, match="Ray's client"):
        scans.execute(f"EXPLAIN OCCLUDE scans {RAY_TAIL}")


def test_cancel_stops_all_and_the_run_continues(scans: Any) -> None:
    statement = f"EXPLAIN OCCLUDE scans {RAY_TAIL} INTO mine"

    def stop(progress: Any) -> None:
        if progress.image >= 2:
            scans.cancel()

    with pytest.raises(KeyboardInterrupt, match="cancelled after"):
        scans.execute(statement, on_progress=stop)
    assert gone(actors)
    assert 1 <= scans.execute("SELECT n_images FROM runs").fetchall()[0][0] < 8
    assert len(scans.execute(statement)) == 32


SCRIPT = """
import obeql, numpy as np
from PIL import Image
from torch import nn

for seed in range(200):
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)).save(f"scan{seed:03}.png")
db = obeql.connect("heat.duckdb")
db.create_model("net", nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3600, 3)), size=(32, 32))
def tell(progress):
    if progress.images_done:
        print("runs", flush=True)
try:
    db.execute("SET obeql.ray_address = 'local'")
    db.execute("EXPLAIN OCCLUDE '*.png' USING net WITH workers=2 patch=4 stride=1 ON ray", on_progress=tell)
except KeyboardInterrupt as stopped:
    print(stopped, flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_process_of_a_local_ray_outlives_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    mark = f"obeql-test-{os.getpid()}-{number}"
    process = subprocess.Popen(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OBEQL_TEST_MARK": mark},
    )
    assert process.stdout is not None and process.stderr is not None
    for line in process.stdout:
        if line == "runs\n":
            break
    assert len(marked(mark)) > 5
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
        assert "cancelled after" in process.stdout.read()
        assert process.stderr.read() == ""
    else:
        process.kill()
    process.wait(60)
    process.stdout.close()
    process.stderr.close()
    assert gone(lambda: marked(mark)), marked(mark)
    with obeql.connect(tmp_path / "heat.duckdb") as db:
        ((n_images,),) = db.execute("SELECT n_images FROM runs").fetchall()
    assert 0 < n_images < 200


def marked(mark: str) -> list[str]:
    """Processes that were started, by whomever, with the mark in their environment, and are not over."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            state = (path.parent / "stat").read_text().rpartition(")")[2].split()[0]
            if state != "Z" and mark.encode() in path.read_bytes():
                found.append((path.parent / "cmdline").read_text().replace("\0", " ")[:80])
        except OSError:
            continue
    return found
