"""Histograms of maps: they bound every count, follow every change of the maps, and rankings by them are exact."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from obeql.planner.catalog import ImageRecord
from obeql.planner.cells import CellKey, MapCells
from obeql.store import ImageMaps, RunRecord, Store
from obeql.store.histogram_rows import HistogramRows
from obeql.store.histograms import EDGES
from tests.store.test_file import file_of_version

KINDS = ("log_odds", "probability", "log_probability", "logit", "value")
N_IMAGES = 12
LOWS = (*map(float, EDGES[1:-2]), 0.03, 0.7, -0.004, 1e-12, 7.3, -40.0)


@pytest.fixture
def store() -> Iterator[Store]:
    with Store() as opened:
        opened.register_images([ImageRecord(f"scan{number}.jpg") for number in range(N_IMAGES)])
        yield opened


def drawn(seed: int, shape: tuple[int, int] | None = None, image: int = 0) -> MapCells:
    """A peak over noise, values at edges among them; some cells are missing, some infinite, some networks are sure."""
    rng = np.random.default_rng(seed)
    rows, cols = shape or (int(rng.integers(1, 21)), int(rng.integers(1, 21)))
    y, x = np.indices((rows, cols))
    peak = rng.uniform(0, 6) * np.exp(-((y - rng.integers(rows)) ** 2 + (x - rng.integers(cols)) ** 2) / 20)
    clean = float(np.float32(rng.normal() * rng.choice([1, 3, 20])))
    importance = peak + rng.normal(size=(rows, cols)) * rng.choice([1e-3, 0.1, 1])
    at_edge = rng.random((rows, cols)) < 0.2
    importance = np.where(at_edge, rng.choice(EDGES[1:-2], (rows, cols)), importance)
    logit = (clean - importance).astype(np.float32)
    logit[rng.random((rows, cols)) < 0.02] = -np.inf
    logit[rng.random((rows, cols)) < rng.choice([0, 0.2])] = np.nan
    size = np.full(max(rows, cols), 4, np.int32)
    starts = np.arange(max(rows, cols), dtype=np.int32) * 2
    return MapCells(
        CellKey(f"image{image}-{seed}", "model", "preprocessing", (4, 4), "mean", "float32"),
        class_id=3,
        starts=(starts[:rows], starts[:cols]),
        lengths=(size[:rows], size[:cols]),
        logit=logit,
        others=np.where(np.isnan(logit), np.nan, 0.0),
        top_class=np.where(np.isnan(logit), -1, 3).astype(np.int32),
        clean_logit=clean,
        clean_others=0.0,
        clean_top_class=3,
    )


def write(store: Store, kind: str, maps: dict[int, MapCells], name: str) -> int:
    run_id = store.begin_run(RunRecord("q", "net", "model", "preprocessing", kind, name, {"border": "cover"}))
    store.write_batch(run_id, [ImageMaps(image, [cells], {3: "cat"}) for image, cells in maps.items()])
    store.finish_run(run_id, "done")
    return run_id


@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from(KINDS),
    st.sampled_from(LOWS),
    st.sampled_from((0.0, 0.5, 3.0, float("inf"))),
    st.tuples(st.integers(-3, 20), st.integers(-3, 20), st.integers(0, 22), st.integers(0, 22)),
)
def test_bounds_hold(seed: int, kind: str, low: float, width: float, box: tuple[int, int, int, int]) -> None:
    shape = (int(seed % 19) + 1, int(seed % 17) + 1)
    with Store() as store:
        store.register_images([ImageRecord(f"scan{number}.jpg") for number in range(3)])
        for name, first in (("a", 0), ("b", 100)):
            write(store, kind, {image: drawn(seed + first + image, shape) for image in range(1, 4)}, name)
        run = store.connection.execute
        rows = run(
            "SELECT count_between(f.map, $low, $high), count_bounds(c.map, $low, $high), "
            "count_between(f.map, $top, $left, $rows, $cols, $low, $high), "
            "count_bounds(c.map, $top, $left, $rows, $cols, $low, $high) "
            "FROM flat_maps AS f JOIN coarse_maps AS c USING (run_id, map_id)",
            {"low": low, "high": low + width, **dict(zip(("top", "left", "rows", "cols"), box, strict=True))},
        ).fetchall()
        assert len(rows) == 6
        for count, bounds, inside, inside_bounds in rows:
            assert bounds["least"] <= count <= bounds["most"]
            assert inside_bounds["least"] <= inside <= inside_bounds["most"]
        pairs = run(
            "SELECT iou_at_least(f.map, g.map, $low), iou_bounds(c.map, d.map, $low) "
            "FROM flat_maps AS f JOIN coarse_maps AS c USING (run_id, map_id), "
            "flat_maps AS g JOIN coarse_maps AS d USING (run_id, map_id) WHERE f.run_name = 'a' AND g.run_name = 'b'",
            {"low": low},
        ).fetchall()
        for iou, bounds in pairs:
            if iou is None:
                assert not bounds["is_sure"]
            else:
                assert bounds["least"] - 1e-12 <= iou <= bounds["most"] + 1e-12


def test_a_count_at_an_edge_is_known_without_its_plane(store: Store) -> None:
    write(store, "log_odds", {1: drawn(3, (20, 17))}, "a")
    for low in map(float, EDGES[1:-2]):
        ((bounds, count),) = store.connection.execute(
            "SELECT count_bounds(c.map, $1, 'inf'), count_between(f.map, $1, 'inf') "
            "FROM coarse_maps AS c, flat_maps AS f",
            [low],
        ).fetchall()
        assert bounds == {"least": count, "most": count}


@pytest.mark.parametrize(
    ("kind", "indexed"), [*((kind, True) for kind in KINDS), ("log_odds", False), ("probability", False)]
)
def test_rankings_are_those_of_every_map(store: Store, kind: str, indexed: bool) -> None:
    for name, first in (("a", 0), ("b", 500)):
        write(store, kind, {n: drawn(first + n, (15, 18) if n % 5 else (9, 9), n) for n in range(1, N_IMAGES)}, name)
    run = store.connection.execute
    if not indexed:  # as the maps that stay in files of an earlier version: every one is read
        run("DELETE FROM obeql_store.histogram_rows WHERE map_id % 3 > 0")
    run('CREATE TABLE boxes AS SELECT image_id, 2 AS top, image_id % 7 AS "left", 9 AS height, 8 AS width FROM images')
    wanted: dict[str, Any] = {
        "iou": "SELECT image_id, iou_at_least(a.map, b.map, $1) AS v FROM flat_maps AS a JOIN flat_maps AS b "
        "USING (image_id) WHERE a.run_name = 'a' AND b.run_name = 'b' AND v IS NOT NULL",
        "share": 'SELECT image_id, count_between(map, top, "left", height, width, $1, 9) '
        "/ nullif(count_between(map, $1, 9), 0) AS v FROM flat_maps JOIN boxes USING (image_id) "
        "WHERE run_name = 'a' AND v IS NOT NULL",
    }
    for low in (0.05, 0.7, 99.0):
        for what, asked in {"iou": "'a', 'b', $1, 4", "share": "'A', 'boxes', $1, 9, 4"}.items():
            for first, order in (("lowest", ""), ("highest", "DESC")):
                every = run(f"{wanted[what]} ORDER BY v {order}, image_id LIMIT 4", [low]).fetchall()
                assert run(f"SELECT image_id, {what} FROM {first}_{what}({asked})", [low]).fetchall() == every
    assert len(run("FROM lowest_share(NULL, 'boxes', 0, 9, 99)").fetchall()) > N_IMAGES
    with pytest.raises(duckdb.Error, match=r"There is no run 'c'\."):
        run("FROM lowest_iou('a', 'c', 1, 4)").fetchall()


def is_current(store: Store) -> bool:
    ask = "SELECT map_id FROM obeql_store.{} ORDER BY map_id"
    maps, known = (store.connection.execute(ask.format(name)).fetchall() for name in ("maps", "histogram_rows"))
    return maps == known


@settings(max_examples=6, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(("run", "replace", "pieces", "drop")), st.integers(0, 3)), max_size=6))
def test_they_follow_every_change(steps: list[tuple[str, int]]) -> None:
    with Store() as store:
        store.register_images([ImageRecord(f"scan{number}.jpg") for number in range(3)])
        for at, (what, name) in enumerate(steps):
            if what == "drop":
                for record in store.runs()[:1]:
                    store.drop_run(record.run_id or 0)
                continue
            record = RunRecord("q", "net", "model", "preprocessing", "log_odds", f"run{name}-{at}")
            run_id = store.begin_run(record)
            maps = [drawn(at + image, (5, 5), image) for image in range(1, 4)]
            if what == "pieces":
                partial = replace(maps[0], exact=np.zeros((5, 5), bool))
                store.write_pieces(run_id, 0, ImageMaps(1, [partial], {3: "cat"}))
                assert is_current(store)
            store.write_batch(run_id, [ImageMaps(image, [cells], {3: "cat"}) for image, cells in enumerate(maps, 1)])
            store.finish_run(run_id, "done")
            assert is_current(store)
        assert is_current(store)


def test_files_of_before_get_them_when_they_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(file_of_version(4, tmp_path / "old.duckdb")) as store:
        assert is_current(store) and store.connection.execute("FROM obeql_store.histogram_rows").fetchall()
    file = tmp_path / "new.duckdb"
    with Store(file) as store:
        store.register_images([ImageRecord("scan0.jpg")])
        write(store, "log_odds", {1: drawn(1)}, "written")
        kept = store.connection.execute("FROM obeql_store.histogram_rows").fetchall()
        # A process was killed between the maps of shards and their histograms.
        monkeypatch.setattr(HistogramRows, "_write_histograms", lambda *_: None)
        write(store, "log_odds", {1: drawn(2)}, "left")
        store.connection.execute("DELETE FROM obeql_store.histogram_rows")
        monkeypatch.undo()
    with Store(file) as store:
        assert is_current(store)
        assert kept[0] in store.connection.execute("FROM obeql_store.histogram_rows").fetchall()
