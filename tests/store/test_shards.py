"""Shards of maps: round trips, deliveries that come twice, files that are damaged, foreign, gone or half-written."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from obeql.errors import StoreError
from obeql.planner.catalog import ImageRecord
from obeql.planner.cells import CellKey, MapCells, others_of
from obeql.store import Folder, ImageContent, ImageMaps, RunRecord, Store
from obeql.store.driver import Database
from obeql.store.shards.format import FIRST_ID, MOST_ROWS, shard_bytes, shard_name

IMAGES = [ImageRecord(f"scan{number}.jpg", label="yes") for number in range(6)] + [ImageRecord(None, key="array")]
SIZES = {"input_size": (64, 80), "source_box": (10.5, 0.0, 100.0, 200.0)}


def record(name: str | None = None) -> RunRecord:
    return RunRecord("q", "Tumour", "model", "preprocessing", "log_odds", name, {"border": "cover"})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "heat.duckdb") as opened:
        opened.register_images(IMAGES)
        yield opened


def sample(seed: int = 0, shape: tuple[int, int] = (5, 7), image: str = "image", **changes: Any) -> MapCells:
    rng = np.random.default_rng(seed)
    rows, cols = shape
    logit = rng.normal(size=shape).astype(np.float32) * 5
    cells = MapCells(
        key=CellKey(image, "model", "preprocessing", (16, 24), "mean", "float32"),
        class_id=3,
        starts=(np.arange(rows, dtype=np.int32) * 4, np.arange(cols, dtype=np.int32) * 8),
        lengths=(np.full(rows, 16, np.int32), np.full(cols, 24, np.int32)),
        logit=logit,
        others=others_of(logit, rng.normal(size=shape).astype(np.float32)),
        top_class=rng.integers(0, 9, shape, dtype=np.int32),
        clean_logit=2.5,
        clean_others=-0.5,
        clean_top_class=3,
    )
    return replace(cells, **changes)


def image_maps(maps: list[MapCells], beside: list[MapCells] | None = None, image_id: int = 0) -> ImageMaps:
    content = ImageContent(maps[0].key.image_hash, 100, 200, "1.2.3", 0.5, 0.25)
    names = {3: "cat", 4: "dog"}
    return ImageMaps(image_id, maps, names, content=content, extra_maps=beside or [], **SIZES)


class Shards:
    """A folder of shards, and what of them a store has."""

    def __init__(self, store: Store, place: str) -> None:
        self.store, self.folder = store, Folder(place)

    def put(self, images: dict[int, ImageMaps]) -> str:
        """Write a shard of the maps of images, by their place among IMAGES; return its name."""
        shard, content = shard_bytes([(IMAGES[place], maps) for place, maps in images.items()], self.store.origin())
        self.folder.write(shard_name("model", shard), content)
        return shard_name("model", shard)

    def take(self, run_id: int, names: list[str], keep: bool = True, taken: set[int] | None = None) -> Any:
        ids = {(image.path, image.key): place + 1 for place, image in enumerate(IMAGES)}
        return self.store.take_shards(run_id, self.folder, names, ids, taken or set(), keep)

    @property
    def n_maps(self) -> Any:
        return self.store.connection.execute("SELECT count(*) FROM obeql_store.maps").fetchall()[0][0]


@pytest.fixture
def shards(store: Store, tmp_path: Path) -> Shards:
    return Shards(store, str(tmp_path / "maps"))


def bits(store: Store, run_id: int) -> list[Any]:
    """All that a store says of the maps of a run, with the bits of every plane."""
    found = []
    for each in store.load_maps(run_id):
        cells = each.cells
        planes = [getattr(cells, n).tobytes() for n in ("tops", "lefts", "heights", "widths", "logit", "others")]
        exact = None if cells.exact is None else cells.exact.tolist()
        numbers = (cells.clean_logit, cells.clean_others, cells.clean_top_class, cells.class_id)
        told = (each.image_id, each.class_name, each.stride, each.input_size, each.source_box, cells.key)
        found.append((*told, *planes, cells.top_class.tolist(), exact, *numbers, cells.quality))
    return sorted(found, key=lambda row: (row[0], row[-2]))


def views(store: Store, run_id: int) -> list[Any]:
    """All that SQL says of the maps of a run."""
    heatmaps = "SELECT * EXCLUDE (map_id, run_id, run_name) FROM heatmaps WHERE run_id = ? ORDER BY image_id, class_id"
    cells = 'SELECT * EXCLUDE (run_id) FROM cells WHERE run_id = ? ORDER BY image_id, class_id, "row", col'
    images = "SELECT * FROM images ORDER BY image_id"
    con = store.connection
    return [repr(con.execute(q, [run_id]).fetchall()) for q in (heatmaps, cells)] + [con.execute(images).fetchall()]


@st.composite
def maps(draw: st.DrawFn, image: str) -> list[MapCells]:
    """One or two maps of an image: whole, with holes, approximate, with numbers that are not finite."""
    found = []
    for class_id in (3, 4)[: draw(st.integers(1, 2))]:
        shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
        cells = sample(draw(st.integers(0, 9)), shape, image, class_id=class_id)
        kind = draw(st.sampled_from(("whole", "holes", "approximate", "odd")))
        if kind == "holes":
            cells.logit[0, 0] = cells.others[0, 0] = np.nan
            cells.top_class[0, 0] = -1
        if kind == "approximate":
            exact = np.random.default_rng(draw(st.integers(0, 9))).random(shape) < 0.5
            quality = {"approx": True, "metric": "ssim", "target": 0.9, "bound": 0.93, "seed": 7, "levels": [4, 2]}
            cells = replace(cells, exact=exact, quality=quality)
        if kind == "odd":
            cells.logit[0, 0] = draw(st.sampled_from((np.inf, -np.inf, -0.0, 1e-45)))
        found.append(cells)
    return found


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_shard_says_what_a_commit_of_the_same_maps_says(tmp_path_factory: Any, data: st.DataObject) -> None:
    """The property: whatever goes into shards comes out as if it had gone into the database, each image once."""
    root = tmp_path_factory.mktemp("round")
    places = data.draw(st.lists(st.integers(0, len(IMAGES) - 1), min_size=1, max_size=4, unique=True))
    images = {place: data.draw(maps(f"image{place}")) for place in places}
    keep = data.draw(st.booleans())
    cut = data.draw(st.integers(0, len(places)))
    again = data.draw(st.sampled_from(places))
    with Store() as plain, Store(root / "heat.duckdb") as store:
        for each in (plain, store):
            each.register_images(IMAGES)
        whole = plain.begin_run(record())
        plain.write_batch(whole, [image_maps(cells, image_id=place + 1) for place, cells in images.items()])
        shards = Shards(store, str(root / "maps"))
        run_id = store.begin_run(record())
        parts = [part for part in (places[:cut], places[cut:], [again]) if part]
        names = [shards.put({place: image_maps(images[place]) for place in part}) for part in parts]
        if data.draw(st.booleans()):
            shards.take(run_id, [*names, names[0]], keep)
        else:
            taken: set[int] = set()
            for name in names:
                taken |= shards.take(run_id, [name], keep, taken).keys()
        assert bits(store, run_id) == bits(plain, whole)
        assert views(store, run_id) == views(plain, whole)
        n_files = len(shards.folder.files(".parquet"))
        assert n_files == 0 if not keep else 1 <= n_files <= 2  # the third says nothing new
        assert not keep or store.find_shards(shards.folder) == 0


def test_cells_for_later_statements_are_in_no_run(shards: Shards) -> None:
    run_id = shards.store.begin_run(record())
    beside = sample(1, class_id=4)
    shards.take(run_id, [shards.put({0: image_maps([sample()], [beside])})])
    assert [each.cells.class_id for each in shards.store.load_maps(run_id)] == [3]
    (found,) = shards.store.stored(beside.key, [4])
    assert found.logit.tobytes() == beside.logit.tobytes()
    assert shards.store.stored_top_class(beside.key) == 3


def test_plain_duckdb_reads_what_stays_in_files(shards: Shards, tmp_path: Path) -> None:
    store = shards.store
    run_id = store.begin_run(record("mine"))
    store.write_maps(run_id, 1, [sample()], class_names={3: "cat"})
    name = shards.put({place: image_maps([sample(place, image=f"i{place}")]) for place in range(1, 4)})
    shards.take(run_id, [name])
    store.finish_run(run_id, "done")
    store.close()
    with duckdb.connect(str(tmp_path / "heat.duckdb"), read_only=True) as connection:
        asked = "SELECT count(*), count(scores), min(map_id) < ?, max(map_id) >= ? FROM heatmaps"
        assert connection.execute(asked, [FIRST_ID, FIRST_ID]).fetchall() == [(4, 4, True, True)]
        assert connection.execute("SELECT count(score) FROM cells").fetchall() == [(4 * 35,)]
        for call in ("top_cells('mine', 'scan2', 3)", "cells_of(1, 'scan2')", "box_cells(0, 0, 2, 2)"):
            assert connection.execute(f"SELECT count(*) > 0 FROM {call}").fetchall() == [(True,)]
    # the files are a data set of their own
    table = parquet.read_table(tmp_path / "maps" / name)
    assert table["path"].to_pylist() == ["scan1.jpg", "scan2.jpg", "scan3.jpg"]
    np.testing.assert_array_equal(table["logit"][0].as_py(), sample(1).logit)


def test_a_dropped_run_takes_its_files_along(shards: Shards) -> None:
    store = shards.store
    first, second = store.begin_run(record("a")), store.begin_run(record("b"))
    shards.take(first, [shards.put({0: image_maps([sample(0)]), 1: image_maps([sample(1)])})])
    shards.take(second, [shards.put({1: image_maps([sample(1)]), 2: image_maps([sample(2)])})])
    for run_id in (first, second):
        store.finish_run(run_id, "done")
    store.drop_run("a")  # `b` has a map of its file
    assert len(shards.folder.files(".parquet")) == 2 and shards.n_maps == 2
    assert len(bits(store, second)) == 2
    store.drop_run("b")
    assert shards.folder.files(".parquet") == [] and shards.n_maps == 0
    assert store.connection.execute("SELECT count(*) FROM heatmaps").fetchall() == [(0,)]


def test_a_drop_that_fails_takes_no_file_along(shards: Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    store = shards.store
    first, second = store.begin_run(record("a")), store.begin_run(record("b"))
    shards.take(first, [shards.put({0: image_maps([sample(0)])})])
    store.finish_run(first, "done")
    with monkeypatch.context() as patch, pytest.raises(StoreError, match="no space"):

        def full(*_: Any) -> None:
            raise StoreError("no space")

        patch.setattr(Database, "rewrite", full)
        store.drop_run("a")
    store.finish_run(second, "done")
    assert len(bits(store, first)) == 1 and len(shards.folder.files(".parquet")) == 1


def test_files_of_another_database_are_used_and_left_alone(shards: Shards, tmp_path: Path) -> None:
    store = shards.store
    run_id = store.begin_run(record())
    shards.take(run_id, [shards.put({0: image_maps([sample()])})])
    store.finish_run(run_id, "done")
    with Store(tmp_path / "other.duckdb") as other:
        assert other.find_shards(shards.folder) == 1 and other.find_shards(shards.folder) == 0
        (found,) = other.stored(sample().key, [3])
        assert found.logit.tobytes() == sample().logit.tobytes()
        other.register_images(IMAGES)
        mine = other.begin_run(record("mine"))
        other.write_maps(mine, 1, [sample()], class_names={3: "cat"})
        assert views(other, mine)[1] == views(store, run_id)[1]
        other.finish_run(mine, "done")
        other.drop_run("mine")
    assert len(shards.folder.files(".parquet")) == 1


def test_a_folder_may_move(shards: Shards, tmp_path: Path) -> None:
    store = shards.store
    run_id = store.begin_run(record())
    shards.take(run_id, [shards.put({0: image_maps([sample()])})])
    before = bits(store, run_id), views(store, run_id)
    (tmp_path / "maps").rename(tmp_path / "mo[v]ed")
    with pytest.raises(StoreError, match="is gone; put it back"):
        bits(store, run_id)
    assert store.find_shards(Folder(str(tmp_path / "mo[v]ed"))) == 1
    assert (bits(store, run_id), views(store, run_id)) == before


def test_a_shard_that_was_copied_to_another_folder_counts_once(shards: Shards, tmp_path: Path) -> None:
    store = shards.store
    run_id = store.begin_run(record("a"))
    names = [shards.put({place: image_maps([sample(place)])}) for place in (0, 1)]
    shards.take(run_id, names)
    store.finish_run(run_id, "done")
    Folder(str(tmp_path / "copy")).write(names[0], (tmp_path / "maps" / names[0]).read_bytes())
    assert store.find_shards(Folder(str(tmp_path / "copy"))) == 1
    assert store.connection.execute("SELECT count(*) FROM heatmaps").fetchall() == [(2,)]
    assert store.connection.execute("SELECT count(*) FROM box_cells(0, 0, 2, 2)").fetchall() == [(2,)]
    for place in ("maps", "copy"):
        shutil.rmtree(tmp_path / place)
    other = Shards(store, str(tmp_path / "other"))
    run_id = store.begin_run(record("b"))
    with pytest.raises(StoreError, match=r"no Parquet file of maps in the folder .* put them back, or drop the runs"):
        other.take(run_id, [other.put({2: image_maps([sample(2)])})])
    store.drop_run("a")
    assert len(store.connection.execute("FROM heatmaps").fetchall()) == 0


def test_files_that_are_gone_are_forgotten_unless_a_run_needs_them(shards: Shards) -> None:
    store = shards.store
    run_id = store.begin_run(record())
    shards.take(run_id, [shards.put({0: image_maps([sample(0)])})])
    name = shards.put({1: image_maps([sample(1, image="other")])})
    assert store.find_shards(shards.folder) == 1 and shards.n_maps == 2
    shards.folder.remove(name)
    assert store.find_shards(shards.folder) == 0 and shards.n_maps == 1
    assert store.stored(sample(image="other").key, [3]) == []


def test_half_written_files_are_never_read(shards: Shards, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match=r"cannot write the Parquet file '.*parquet': No space left on device"):
            shards.put({0: image_maps([sample()])})
    assert not [path for path in (tmp_path / "maps").rglob("*") if path.is_file()]
    name = shards.put({0: image_maps([sample()])})
    whole = tmp_path / "maps" / name
    half = whole.with_name(f".{'0' * 12}.parquet.77.writing")
    half.write_bytes(whole.read_bytes()[:100])
    assert shards.folder.files(".parquet") == [name]
    assert shards.store.find_shards(shards.folder) == 1 and half.exists()
    day_before = time.time() - 48 * 3600
    os.utime(half, (day_before, day_before))
    assert shards.store.find_shards(shards.folder) == 0 and not half.exists()
    assert shards.store.connection.execute("SELECT count(*) FROM obeql_store.map_rows").fetchall() == [(1,)]


@pytest.mark.parametrize("how", ["cut", "empty", "text"])
def test_a_damaged_file_is_named(shards: Shards, tmp_path: Path, how: str) -> None:
    run_id = shards.store.begin_run(record())
    good, bad = (shards.put({place: image_maps([sample(place)])}) for place in (0, 1))
    path = tmp_path / "maps" / bad
    path.write_bytes({"cut": path.read_bytes()[:-50], "empty": b"", "text": b"hello" * 50}[how])
    for action in (lambda: shards.take(run_id, [good, bad]), lambda: shards.store.find_shards(shards.folder)):
        with pytest.raises(StoreError) as told:
            action()
        assert str(path) in str(told.value) and "is damaged" in str(told.value) and "\n" not in str(told.value)
    assert shards.n_maps == 0 and (tmp_path / "maps" / good).exists()  # nothing was taken of either
    path.unlink()
    assert shards.store.find_shards(shards.folder) == 1


def test_a_damaged_page_is_named(shards: Shards, tmp_path: Path) -> None:
    run_id = shards.store.begin_run(record())
    name = shards.put({0: image_maps([sample()])})
    shards.take(run_id, [name])
    path = tmp_path / "maps" / name
    content = bytearray(path.read_bytes())
    content[4:-2000] = bytes(len(content) - 2004)
    path.write_bytes(content)
    with pytest.raises(StoreError, match=f"the Parquet file '{path}' is damaged"):
        bits(shards.store, run_id)


def test_maps_that_pass_fill_row_groups_and_count_once(store: Store, tmp_path: Path) -> None:
    shards = Shards(store, str(tmp_path / "of [all] *"))
    store.connection.execute("SET threads = 2")
    number = np.float32(0)
    maps = [sample(shape=(1, 2), clean_logit=float(row), logit=np.full((1, 2), number + row)) for row in range(6000)]
    parts = (maps[:2500], maps[2400:5000], maps[:300] + maps[5000:])
    run_id = store.begin_run(record())
    stored = store.write_batch(store.begin_run(record()), [image_maps(maps[7:9], image_id=1)])
    names = [shards.put({place: image_maps(part)}) for place, part in enumerate(parts)]
    found = shards.take(run_id, names, keep=False)
    assert [len(found[image_id]) for image_id in (1, 2, 3)] == [len(part) for part in parts]
    assert found[1][7:9] == stored and found[1][2400:] == found[2][:100] and found[1][:300] == found[3][:300]
    kept = store.load_maps(run_id)
    assert [each.cells.clean_logit for each in kept] == [cells.clean_logit for part in parts for cells in part]
    assert all((each.cells.logit == each.cells.clean_logit).all() for each in kept)
    groups = store.connection.execute(
        "SELECT sum(count) FROM pragma_storage_info('obeql_store.maps') WHERE column_path = '[0]' GROUP BY row_group_id"
    ).fetchall()
    assert shards.n_maps == 6000 and sorted(groups) == [(2,), (1902,), (2048,), (2048,)]
    assert not shards.folder.files(".parquet")


@pytest.mark.parametrize("many", [False, True])
def test_a_damaged_page_of_what_passes_is_named(shards: Shards, tmp_path: Path, many: bool) -> None:
    run_id = shards.store.begin_run(record())
    maps = [sample(row, (1, 2)) for row in range(2100 if many else 2)]
    good, bad = (shards.put({place: image_maps(maps[place::2])}) for place in (0, 1))
    path = tmp_path / "maps" / bad
    content = path.read_bytes()
    path.write_bytes(content[:4] + bytes(len(content) // 2) + content[4 + len(content) // 2 :])
    with pytest.raises(StoreError, match=f"the Parquet file '{path}' is damaged"):
        shards.take(run_id, [good, bad], keep=False)
    assert not shards.store.load_maps(run_id) and shards.folder.files(".parquet")
    path.write_bytes(content)
    assert len(shards.take(run_id, [good, bad], keep=False)) == 2 and shards.n_maps == len(maps)


def test_a_foreign_file_is_named(shards: Shards, tmp_path: Path) -> None:
    folder = tmp_path / "maps" / "model_hash=model"
    folder.mkdir(parents=True)
    parquet.write_table(pa.table({"x": [1]}), folder / "mine.parquet")
    with pytest.raises(StoreError, match=r"mine.parquet' is no file that OBEQL has written.*move it away"):
        shards.store.find_shards(shards.folder)
    (folder / "mine.parquet").unlink()
    name = shards.put({0: image_maps([sample()])})
    (tmp_path / "maps" / name).rename(folder / f"{'f' * 12}.parquet")
    with pytest.raises(StoreError, match="was renamed"):
        shards.store.find_shards(shards.folder)
    (folder / f"{'f' * 12}.parquet").unlink()
    newer = parquet.write_table
    newer(pa.table({"x": [1]}, metadata={"obeql": '{"form":2,"shard":"1"}'}), folder / "000000000001.parquet")
    with pytest.raises(StoreError, match="was written by a newer OBEQL"):
        shards.store.find_shards(shards.folder)
    for said in ("{", '{"form":1,"shard":"x"}'):
        newer(pa.table({"x": [1]}, metadata={"obeql": said}), folder / "000000000001.parquet")
        with pytest.raises(StoreError, match=r"000000000001.parquet' is damaged"):
            shards.store.find_shards(shards.folder)
    (folder / "000000000001.parquet").unlink()
    parquet.write_table(pa.table({"x": [1]}), tmp_path / "maps" / "beside.parquet")  # not among the shards
    assert shards.store.find_shards(shards.folder) == 0


def test_a_folder_that_cannot_be_is_named(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="cannot write the Parquet file"):
        Shards(store, str(tmp_path / "file")).put({0: image_maps([sample()])})
    with pytest.raises(StoreError, match="'nowhere://bucket' cannot be used"):
        Shards(store, "nowhere://bucket").put({0: image_maps([sample()])})


def test_an_image_of_too_many_maps_is_refused(shards: Shards) -> None:
    one = sample(shape=(1, 1))
    with pytest.raises(StoreError, match=r"65,536 maps at most.*obeql.store = 'duckdb'"):
        shards.put({0: image_maps([one], [one] * MOST_ROWS)})


def test_an_object_store(store: Store, tmp_path: Path) -> None:
    shards = Shards(store, "memory://bucket/maps")
    try:
        run_id = store.begin_run(record())
        shards.take(run_id, [shards.put({place: image_maps([sample(place)]) for place in (0, 1)})])
        assert len(bits(store, run_id)) == 2
        assert store.connection.execute("SELECT count(scores) FROM heatmaps").fetchall() == [(2,)]
        with Store(tmp_path / "heat.duckdb") as second:  # another session of this process
            assert second.connection.execute("SELECT count(scores) FROM heatmaps").fetchall() == [(2,)]
        passing = Shards(store, "memory://bucket/passing")
        passing.take(run_id, [passing.put({2: image_maps([sample(2)])})], keep=False)
        assert passing.folder.files(".parquet") == [] and len(bits(store, run_id)) == 3
        store.finish_run(run_id, "done")
        store.drop_run(run_id)
        assert shards.folder.files(".parquet") == []
    finally:
        fsspec.filesystem("memory").store.clear()


def test_a_database_opens_without_the_package_of_its_object_store(tmp_path: Path, monkeypatch: Any) -> None:
    file = tmp_path / "heat.duckdb"
    with Store(file) as store:
        store.register_images(IMAGES)
        run_id = store.begin_run(record())
        shards = Shards(store, "memory://bucket/maps")
        shards.take(run_id, [shards.put({0: image_maps([sample()])})])
        store.finish_run(run_id, "done")
    fsspec.filesystem("memory").store.clear()

    def missing(*_: Any, **__: Any) -> None:
        raise ImportError("install s3fs")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    with Store(file) as store:
        assert store.connection.execute("SELECT n_maps FROM runs").fetchall() == [(1,)]
        with pytest.raises(StoreError, match="is gone"):
            store.load_maps(run_id)


def test_runs_whose_files_are_lost_can_be_dropped_one_by_one(store: Store, tmp_path: Path) -> None:
    for number, name in enumerate(("a", "b")):
        lost = Shards(store, str(tmp_path / name))
        run_id = store.begin_run(record(name))
        lost.take(run_id, [lost.put({number: image_maps([sample(number)])})])
        store.finish_run(run_id, "done")
    for name in ("a", "b"):
        shutil.rmtree(tmp_path / name)
    store.drop_run("a")
    with pytest.raises(duckdb.Error, match="No files found"):  # the other one's are still missed
        store.connection.execute("SELECT count(*) FROM heatmaps").fetchall()
    store.drop_run("b")
    assert store.connection.execute("SELECT count(*) FROM heatmaps").fetchall() == [(0,)]


def test_files_that_are_put_back_are_found_though_the_run_of_other_lost_ones_was_dropped(tmp_path: Path) -> None:
    with Store(tmp_path / "heat.duckdb") as store:
        store.register_images(IMAGES)
        for number, name in enumerate(("a", "b")):
            shards = Shards(store, str(tmp_path / name))
            run_id = store.begin_run(record(name))
            shards.take(run_id, [shards.put({number: image_maps([sample(number)])})])
            store.finish_run(run_id, "done")
        shutil.rmtree(tmp_path / "a")
        (tmp_path / "b").rename(tmp_path / "elsewhere")
        store.drop_run("a")
        (tmp_path / "elsewhere").rename(tmp_path / "b")
    with Store(tmp_path / "heat.duckdb") as store:
        assert store.connection.execute("SELECT run_name FROM heatmaps").fetchall() == [("b",)]
