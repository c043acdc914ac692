"""`SET obeql.store = 'parquet'`: the same answers as from the database, whoever is killed in the middle."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from PIL import Image

import obeql
from obeql.errors import ImageError, QueryError, QueryTypeError, StoreError
from obeql.store import Store

pytestmark = pytest.mark.usefixtures("quick_workers")

SIZE = 32
TAIL = "USING net FOR TOP 2 WITH patch=[8, 16] stride=8"
VIEWS = (
    "SELECT * EXCLUDE (map_id, run_id, run_name) FROM heatmaps WHERE run_id = ? "
    "ORDER BY image_id, class_id, patch_height",
    'SELECT * EXCLUDE (run_id) FROM cells WHERE run_id = ? ORDER BY image_id, class_id, height_px, "row", col',
    "SELECT n_images, n_maps, n_failed FROM runs WHERE run_id = ?",
    "SELECT * EXCLUDE (run_id) FROM top_cells(?, 'scan1', 3)",
)


@pytest.fixture
def scans(tmp_path: Path, tiny_net: Any, pixels: Any) -> Iterator[Any]:
    """A session on a file with the image set `scans` of eight files."""
    folder = tmp_path / "eight"
    folder.mkdir()
    for seed in range(8):
        Image.fromarray(pixels(seed, 40)).save(folder / f"scan{seed}.png")
    with opened(tmp_path / "heat.duckdb", tiny_net, folder) as session:
        yield session
    assert not multiprocessing.active_children()


def opened(path: Path, tiny_net: Any, folder: Path) -> Any:
    session = obeql.connect(path, allow_python=True)
    session.create_model("net", tiny_net(), size=(SIZE, SIZE))
    session.create_images("scans", folder)
    # as workers compute: one image at a time
    session.execute("SET obeql.threads = 1; SET obeql.disabled_rules = 'batch_images'")
    return session


def views(session: Any, run_id: int) -> list[str]:
    return [repr(session.connection.execute(query, [run_id]).fetchall()) for query in VIEWS]


def cells(result: Any) -> dict[Any, Any]:
    return {(heat.image, heat.patch, heat.class_id): (heat.scores.tobytes(), heat.clean_score) for heat in result}


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def measured(session: Any, what: str) -> int:
    row = session.connection.execute("SELECT measured->>? FROM runs ORDER BY run_id DESC LIMIT 1", [what]).fetchall()
    return int(row[0][0])


def n_planes(session: Any) -> int:
    return int(session.connection.execute("SELECT count(logit) FROM obeql_store.maps").fetchall()[0][0])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("how", ["exact", "approximate"])
def test_maps_in_files_answer_as_maps_in_the_database(scans: Any, tmp_path: Path, workers: int, how: str) -> None:
    tail = f"{TAIL} workers={workers}"
    if how == "approximate":
        tail = f"USING net WITH patch=8 stride=1 score=log_odds seed=3 workers={workers} TOP 5 CELLS"
    inside = scans.execute(f"EXPLAIN OCCLUDE scans {tail} NO REUSE")
    want, told = cells(inside), views(scans, 1)
    quality = [heat.cells.quality for heat in inside]
    scans.execute("DROP RUN 1")
    scans.execute("SET obeql.store = 'parquet'")
    beside = scans.execute(f"EXPLAIN OCCLUDE scans {tail} NO REUSE INTO mine")
    assert n_planes(scans) == 0 and 1 <= len(files(tmp_path / "heat.maps")) <= 2
    assert cells(beside) == want and views(scans, 2) == told
    assert [heat.cells.quality for heat in beside] == quality
    scans.close()
    with obeql.connect(tmp_path / "heat.duckdb", read_only=True) as again:
        assert views(again, 2) == told
        assert again.execute("SELECT count(*) FROM heatmaps").fetchall() == [(len(want),)]
    with obeql.connect(tmp_path / "heat.duckdb") as again:
        assert cells(again.run("mine")) == want
        again.execute("DROP RUN mine")
        assert not files(tmp_path / "heat.maps")


def test_evaluate_export_and_reuse_read_the_files(scans: Any, tmp_path: Path) -> None:
    scans.execute("SET obeql.store = 'parquet'")
    scans.execute(f"EXPLAIN OCCLUDE scans {TAIL} workers=2 INTO mine")
    assert len(scans.execute("EVALUATE mine WITH steps=4").fetchall()) == 32
    scans.execute(f"EXPORT RUN mine TO '{tmp_path / 'out'}' FORMAT parquet")
    assert (tmp_path / "out" / "heatmaps.parquet").exists()
    coarse = scans.execute(f"EXPLAIN OCCLUDE scans {TAIL.replace('stride=8', 'stride=16')}")
    assert len(coarse) == 32 and measured(scans, "cells_computed") == 0
    # and into the database again
    scans.execute("SET obeql.store = 'duckdb'")
    fine = scans.execute(f"EXPLAIN OCCLUDE scans {TAIL.replace('stride=8', 'stride=4')}")
    assert len(fine) == 32 and measured(scans, "cells_stored") > 0 and n_planes(scans) == 32


def test_a_new_database_takes_what_is_in_the_folder(scans: Any, tmp_path: Path, tiny_net: Any) -> None:
    scans.execute("SET obeql.store = 'parquet'")
    want = cells(scans.execute(f"EXPLAIN OCCLUDE scans {TAIL} workers=2"))
    scans.close()
    (tmp_path / "heat.duckdb").unlink()
    before = files(tmp_path / "heat.maps")
    with opened(tmp_path / "other.duckdb", tiny_net, tmp_path / "eight") as other:
        other.execute("SET obeql.store = 'parquet'")
        other.execute("SET obeql.store_folder = ?", [str(tmp_path / "heat.maps")])
        assert cells(other.execute(f"EXPLAIN OCCLUDE scans {TAIL} workers=2")) == want
        assert measured(other, "cells_computed") == 0 and measured(other, "cells_stored") > 0
        assert files(tmp_path / "heat.maps") == before  # nothing is kept twice


def test_shards_may_pass_into_the_database(scans: Any, tmp_path: Path) -> None:
    alone = cells(scans.execute(f"EXPLAIN OCCLUDE scans {TAIL} NO REUSE"))
    told = views(scans, 1)
    scans.execute("DROP RUN 1")
    scans.execute("SET obeql.store_folder = ?", [str(tmp_path / "passing")])
    assert cells(scans.execute(f"EXPLAIN OCCLUDE scans {TAIL} workers=2 NO REUSE")) == alone
    assert views(scans, 2) == told
    assert n_planes(scans) == 32 and not list((tmp_path / "passing").iterdir())


def test_pixels_handed_over_and_bad_images(scans: Any, tmp_path: Path, pixels: Any) -> None:
    images = [pixels(seed) for seed in range(3)]
    alone = cells(scans.execute("EXPLAIN OCCLUDE ? USING net NO REUSE", [images]))
    scans.execute("DROP RUN 1; SET obeql.store = 'parquet'")
    for workers in (0, 2):
        shared = scans.execute(f"EXPLAIN OCCLUDE ? USING net WITH workers={workers} NO REUSE", [images])
        assert cells(shared) == alone
    for name in ("scan5.png", "scan2.png"):
        (tmp_path / "eight" / name).write_bytes(b"no image")
    for workers in (0, 2):
        shared = scans.execute(f"EXPLAIN OCCLUDE scans {TAIL} workers={workers} NO REUSE")
        assert [Path(failure.shown).name for failure in shared.failures] == ["scan2.png", "scan5.png"]
        assert len(shared) == 24
    n_before = len(files(tmp_path / "heat.maps"))
    for path in (tmp_path / "eight").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(ImageError, match="7 more images failed"):
        scans.execute(f"EXPLAIN OCCLUDE scans {TAIL} workers=2")
    assert len(files(tmp_path / "heat.maps")) == n_before


def test_an_object_store(scans: Any) -> None:
    want = cells(scans.execute(f"EXPLAIN OCCLUDE scans {TAIL} NO REUSE"))
    told = views(scans, 1)
    scans.execute("DROP RUN 1; SET obeql.store = 'parquet'; SET obeql.store_folder = 'memory://bucket/maps'")
    try:
        assert cells(scans.execute(f"EXPLAIN OCCLUDE scans {TAIL} NO REUSE")) == want
        assert views(scans, 2) == told and n_planes(scans) == 0
    finally:
        fsspec.filesystem("memory").store.clear()


def test_a_database_in_memory_needs_a_folder(net_db: Any, folder: Path, tmp_path: Path) -> None:
    net_db.execute("SET obeql.store = 'parquet'")
    statement = f"EXPLAIN OCCLUDE '{folder}/*.png' USING net"
    with pytest.raises(QueryTypeError, match=r"SET obeql\.store_folder = 'maps'"):
        net_db.execute(statement)
    net_db.execute("SET obeql.store_folder = ?", [str(tmp_path / "maps")])
    assert len(net_db.execute(statement)) == 3 and len(files(tmp_path / "maps")) == 1
    with pytest.raises(QueryTypeError, match=r"duckdb.*parquet"):
        net_db.execute("SET obeql.store = 'postgres'")


def test_files_that_are_damaged_or_gone_are_named(scans: Any, tmp_path: Path) -> None:
    scans.execute("SET obeql.store = 'parquet'")
    scans.execute(f"EXPLAIN OCCLUDE scans {TAIL} INTO mine")
    (path,) = files(tmp_path / "heat.maps")
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    for ask in (lambda: scans.run("mine")[0], lambda: scans.execute("SELECT max(score) FROM cells").fetchall()):
        with pytest.raises(Exception, match=path.name):
            ask()
    asked = ("DESCRIBE RUN mine", "SELECT count(*) FROM windows", f"EXPLAIN OCCLUDE scans {TAIL}")
    for content, reason in ((whole[:-9], "damaged"), (b"", "damaged"), (b"PAR1" * 99, "damaged"), (None, "gone")):
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
        for statement in asked:
            with pytest.raises(
                StoreError, match=rf"the Parquet file '.*{path.name}' is {reason}.* drop the runs whose .* NO REUSE"
            ):
                scans.execute(statement)
        with pytest.raises(QueryError, match=r"nowhere does not exist|no table .nowhere"):
            scans.execute("FROM nowhere")
        assert len(scans.execute("SHOW RUNS").fetchall()) == 1
    with pytest.raises(StoreError, match=rf"{path.name}' is gone; put it back, or drop the runs"):
        _ = scans.run("mine")[0]
    anew = scans.execute(f"EXPLAIN OCCLUDE scans {TAIL} NO REUSE INTO anew")  # as the error says
    assert len(anew) == 32 and all(np.isfinite(heat.scores).all() for heat in anew)
    scans.execute("DROP RUN anew")
    path.write_bytes(whole)
    assert len(list(scans.run("mine"))) == 32
    (path.parent / "other.parquet").write_bytes(b"PAR1")
    with pytest.raises(StoreError, match=r"other.parquet' is damaged .*move it away"):
        scans.execute(f"EXPLAIN OCCLUDE scans {TAIL}")
    for file in files(tmp_path / "heat.maps"):
        file.unlink()
    scans.execute("DROP RUN mine")
    assert len(scans.execute(f"EXPLAIN OCCLUDE scans {TAIL}")) == 32  # as the error says


def test_a_file_that_the_database_could_not_take_is_taken_at_the_end(scans: Any, monkeypatch: Any) -> None:
    take, asked = Store.take_shards, []

    def full(store: Store, *arguments: Any, **named: Any) -> Any:
        asked.append(arguments[2])
        if len(asked) == 1:
            raise StoreError("no space")
        return take(store, *arguments, **named)

    monkeypatch.setattr(Store, "take_shards", full)
    scans.execute("SET obeql.store = 'parquet'")
    with pytest.raises(StoreError, match="no space"):
        scans.execute(f"EXPLAIN OCCLUDE scans {TAIL}")
    assert len(asked) == 2 and asked[0] == asked[1]  # one file
    assert scans.execute("SELECT status, n_images, n_maps FROM runs").fetchall() == [("interrupted", 8, 32)]


def test_cancel_keeps_what_is_written_and_the_run_continues(scans: Any, tmp_path: Path) -> None:
    scans.execute("SET obeql.store = 'parquet'")
    statement = f"EXPLAIN OCCLUDE scans {TAIL} workers=2 INTO mine"

    def stop(progress: Any) -> None:
        if progress.done > progress.total // 4:
            scans.cancel()

    with pytest.raises(KeyboardInterrupt, match="cancelled after"):
        scans.execute(statement, on_progress=stop)
    assert not multiprocessing.active_children()
    n_before = scans.execute("SELECT n_images FROM runs").fetchall()[0][0]
    assert 1 <= n_before < 8
    assert len(scans.execute(statement)) == 32
    assert scans.execute("SELECT status, n_images, n_maps FROM runs").fetchall() == [("done", 8, 32)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["parquet", "passing"])
def test_killed_workers_lose_nothing_and_repeat_nothing(scans: Any, tmp_path: Path, kind: str) -> None:
    alone = cells(scans.execute(f"EXPLAIN OCCLUDE scans {TAIL} NO REUSE"))
    told = views(scans, 1)
    scans.execute("DROP RUN 1")
    scans.execute(f"SET obeql.store = '{'parquet' if kind == 'parquet' else 'duckdb'}'")
    scans.execute("SET obeql.store_folder = ?", [str(tmp_path / "maps")])
    killed: list[int] = []

    def kill(progress: Any) -> None:
        workers = multiprocessing.active_children()
        if len(killed) < 3 and workers and progress.done * 4 > progress.total * len(killed):
            victim = workers[len(killed) % len(workers)].pid
            assert victim is not None
            os.kill(victim, signal.SIGKILL)
            killed.append(victim)

    shared = scans.execute(f"EXPLAIN OCCLUDE scans {TAIL} workers=2 NO REUSE", on_progress=kill)
    assert killed and not shared.failures and cells(shared) == alone
    assert views(scans, 2) == told


SCRIPT = """
import sys, obeql
from torch import nn
import torch

torch.manual_seed(0)
db = obeql.connect("heat.duckdb")
db.create_model("net", nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3600, 3)), size=(32, 32))
db.execute("SET obeql.threads = 1; SET obeql.store = 'parquet'")
def tell(progress):
    print(progress.images_done, flush=True)
found = db.execute("EXPLAIN OCCLUDE '*.png' USING net WITH workers=2 patch=4 stride=1", on_progress=tell)
print(len(found), "maps", flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="kills a group of processes")
@pytest.mark.parametrize("all_of_them", [False, True])
def test_a_killed_coordinator_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, all_of_them: bool) -> None:
    """Killed alone, its workers still write what they have; killed with them, what was reported is there."""
    n_images = 80
    for seed in range(n_images):
        picture = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(picture).save(tmp_path / f"scan{seed:03}.png")
    (tmp_path / "script.py").write_text(SCRIPT)
    # Small shards, so that there are many moments to be killed at.
    text = "import obeql.store.shards.writer as w; w._MOST_MAPS = 4"
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nif 'torch' not in sys.modules:\n    {text}\n")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    process = subprocess.Popen(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert process.stdout is not None
    acknowledged = 0
    for line in process.stdout:
        acknowledged = int(line.split()[0])
        if acknowledged >= 20:
            break
    if all_of_them:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait(60)
    process.stdout.close()
    until = time.monotonic() + 60
    while time.monotonic() < until and _alive(process.pid):
        time.sleep(0.1)
    with obeql.connect(tmp_path / "heat.duckdb") as db:
        ((n_held,),) = db.execute("SELECT n_images FROM runs").fetchall()
        assert acknowledged <= n_held < n_images
    monkeypatch.chdir(tmp_path)
    said: list[tuple[Any, ...]] = []
    script = SCRIPT + "db.close()\n"
    exec(compile(script, "script.py", "exec"), {"print": lambda *words, **_: said.append(words)})
    assert said[-1] == (n_images, "maps")
    with obeql.connect(tmp_path / "heat.duckdb") as db:
        asked = (
            "SELECT n_images, n_maps, (SELECT count(*) FROM heatmaps), (SELECT count(DISTINCT map_id) FROM heatmaps)"
        )
        assert db.execute(f"{asked} FROM runs").fetchall() == [(n_images,) * 4]
        assert db.execute("SELECT count(DISTINCT digest) = count(*) FROM obeql_store.maps").fetchall() == [(True,)]


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except OSError:
        return False
    return True


def test_folders_of_a_killed_coordinator_are_removed(scans: Any, tmp_path: Path) -> None:
    place = tmp_path / "passing"
    scans.execute("SET obeql.threads = 1; SET obeql.store_folder = ?", [str(place)])
    scans.execute(f"EXPLAIN OCCLUDE scans {TAIL} workers=2")
    origin = scans._store.origin()
    ours, other = place / f"passing-{origin}-1-dead", place / "passing-of-another-database"
    for folder in (ours, other):
        folder.mkdir()
        (folder / "left.parquet").write_bytes(b"left")
    scans.execute(f"EXPLAIN OCCLUDE scans {TAIL} workers=2 NO REUSE")
    assert list(place.iterdir()) == [other]


def test_an_image_that_would_overfill_a_file_begins_another(scans: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = scans.execute(f"EXPLAIN OCCLUDE scans {TAIL} NO REUSE")
    for module in ("obeql.store.shards.writer", "obeql.store.shards.format"):
        monkeypatch.setattr(f"{module}.MOST_ROWS", 8)  # the maps of two images
    scans.execute("SET obeql.store = 'parquet'")
    filed = scans.execute(f"EXPLAIN OCCLUDE scans {TAIL} NO REUSE")
    assert [heat.scores.tobytes() for heat in filed] == [heat.scores.tobytes() for heat in plain]
