"""Heat maps: round trips, the views against numpy, the macros against brute force, the file alone."""

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pytest

from obeql.errors import InternalError, StoreError
from obeql.planner.catalog import ImageRecord
from obeql.planner.cells import CellKey, FailedImage, MapCells, others_of
from obeql.store import ImageMaps, RunRecord, Store

KEY = CellKey("image", "model", "preprocessing", (16, 24), "mean", "float32")
KINDS = ("log_odds", "probability", "log_probability", "logit")
Plane = npt.NDArray[np.float64]


@pytest.fixture
def store() -> Iterator[Store]:
    with Store() as opened:
        opened.register_images([ImageRecord(f"scan{number}.jpg", label="yes") for number in range(4)])
        yield opened


def sample(seed: int = 0, shape: tuple[int, int] = (5, 7), **changes: Any) -> MapCells:
    rng = np.random.default_rng(seed)
    rows, cols = shape
    logit = rng.normal(size=shape).astype(np.float32) * 5
    cells = MapCells(
        key=KEY,
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


def begin(store: Store, score: str = "log_odds", name: str | None = None) -> int:
    return store.begin_run(RunRecord("q", "Tumour", "model", "preprocessing", score, name, {"border": "cover"}))


def written(store: Store, cells: MapCells, score: str = "log_odds", name: str | None = None) -> int:
    run_id = begin(store, score, name)
    store.write_maps(run_id, 1, [cells], class_names={3: "cat"})
    store.finish_run(run_id, "done")
    return run_id


def assert_same(got: MapCells, want: MapCells) -> None:
    assert (got.key, got.class_id, got.clean_top_class) == (want.key, want.class_id, want.clean_top_class)
    assert (got.clean_logit, got.clean_others) == (want.clean_logit, want.clean_others)
    for name in ("tops", "lefts", "heights", "widths", "logit", "others", "top_class"):
        a, b = getattr(got, name), getattr(want, name)
        assert a.dtype == b.dtype, name
        np.testing.assert_array_equal(a, b, err_msg=name)
    if want.exact is None:
        assert got.exact is None
    else:
        assert got.exact is not None
        np.testing.assert_array_equal(got.exact, want.exact)


def score(kind: str, logit: Any, log_odds: Any) -> Any:
    """The four scores in float64, by textbook formulas that numpy keeps stable."""
    z = np.asarray(log_odds, np.float64)
    with np.errstate(invalid="ignore"):  # NaN stays NaN
        log_probability = -np.logaddexp(0, -z)
    scores = {"logit": logit, "log_odds": z, "log_probability": log_probability, "probability": np.exp(log_probability)}
    return np.asarray(scores[kind], np.float64)


def test_maps_come_back_bit_for_bit(store: Store) -> None:
    partial = sample(1, (3, 3))
    partial.logit[0, 1] = partial.others[0, 1] = np.nan
    partial.top_class[0, 1] = -1
    quality = {"approx": True, "metric": "ssim", "target": 0.9, "bound": 0.93, "seed": 7, "levels": [4, 2]}
    approximate = sample(2, exact=np.random.default_rng(0).random((5, 7)) < 0.5, quality=quality)
    one = sample(3, (1, 1), class_id=4)
    run_id = begin(store)
    ids = store.write_maps(
        run_id,
        1,
        [partial, approximate, one],
        class_names={3: "cat"},
        input_size=(64, 80),
        source_box=(10.5, 0, 100, 200),
        strides=[(4, 8), (4, 8), (5, 6)],
    )
    assert len(set(ids)) == 3
    loaded = store.load_maps(run_id)
    for got, want in zip(loaded, (partial, approximate, one), strict=True):
        assert_same(got.cells, want)
        assert got.cells.quality == want.quality
        assert (got.image_id, got.input_size, got.source_box) == (1, (64, 80), (10.5, 0, 100, 200))
    assert [got.class_name for got in loaded] == ["cat", "cat", "4"]
    assert [got.stride for got in loaded] == [(4, 8), (4, 8), (5, 6)]
    assert [got.map_id for got in loaded] == ids


def test_the_same_map_is_stored_once_and_belongs_to_two_runs(store: Store) -> None:
    first, second = written(store, sample()), written(store, sample(quality={"bound": 0.5}))
    (a,), (b,) = store.load_maps(first), store.load_maps(second)
    assert a.map_id == b.map_id and b.cells.quality == {"bound": 0.5}
    third = begin(store)
    (other,) = store.write_maps(third, 1, [sample(clean_logit=2.75)], class_names={})
    assert other != a.map_id
    twice = begin(store)
    ids = store.write_batch(twice, [ImageMaps(image, [sample(9)], {3: "cat"}) for image in (1, 2)])
    assert ids[0] == ids[1] and len(store.load_maps(twice)) == 2
    assert [found.image_id for found in store.load_maps(twice, image_id=2)] == [2]
    assert store.connection.execute("SELECT count(*) FROM obeql_store.maps").fetchall() == [(3,)]


def test_a_map_may_be_referenced_by_id(store: Store) -> None:
    (source,) = store.load_maps(written(store, sample()))
    run_id = begin(store)
    store.reference_map(run_id, 2, source.map_id, class_name="cat", quality={"bound": 0.5}, stride=(4, 8))
    (found,) = store.load_maps(run_id)
    assert found.map_id == source.map_id and found.image_id == 2 and found.cells.quality == {"bound": 0.5}
    assert_same(found.cells, source.cells)
    with pytest.raises(InternalError, match="map 99"):
        store.reference_map(run_id, 2, 99, class_name="cat")


def test_stored_cells_are_found_by_content_and_only_exact_ones(store: Store) -> None:
    exact = np.zeros((5, 7), bool)
    exact[::2] = True
    written(store, sample())
    written(store, sample(1, (3, 3), class_id=5))
    written(store, sample(2, exact=exact))
    dense, partial = store.stored(KEY, [3])
    assert_same(dense, sample())
    assert partial.exact is None and np.array_equal(~np.isnan(partial.logit), exact)
    np.testing.assert_array_equal(partial.logit[exact], sample(2).logit[exact])
    assert len(store.stored(KEY, [3, 5, 8])) == 3 and store.stored(KEY, []) == []
    for change in ({"image_hash": "x"}, {"patch": (16, 16)}, {"fill": "black"}, {"precision": "float64"}):
        assert store.stored(replace(KEY, **change), [3]) == []  # type: ignore[arg-type]


def test_maps_of_a_finished_or_unknown_run_are_refused(store: Store) -> None:
    run_id = written(store, sample())
    with pytest.raises(StoreError, match=f"run {run_id} is done"):
        store.write_maps(run_id, 1, [sample(1)], class_names={})
    assert store.connection.execute("SELECT count(*) FROM obeql_store.maps").fetchall() == [(1,)]
    with pytest.raises(InternalError, match=r"plane 'others' of a map has shape \(2, 2\), its grid has \(5, 7\)"):
        store.write_maps(begin(store), 1, [sample(others=np.zeros((2, 2), np.float32))], class_names={})


def test_a_later_success_takes_back_a_failure(store: Store) -> None:
    run_id = begin(store)
    store.fail_image(run_id, FailedImage(1, "scan0.jpg", "out of memory"))
    store.fail_image(run_id, FailedImage(2, "scan1.jpg", "truncated"))
    store.write_maps(run_id, 1, [sample()], class_names={})
    assert [failure.image_id for failure in store.failures(run_id)] == [2]
    assert store.explained_images(run_id) == {1}
    found = store.run(run_id)
    assert found is not None and (found.n_images, found.n_maps, found.n_failed) == (1, 1, 1)


def test_a_dropped_run_takes_the_maps_along_that_no_other_run_has(store: Store) -> None:
    kept, dropped = written(store, sample()), written(store, sample(1))
    again = written(store, sample())
    store.drop_run(again)
    assert len(store.stored(KEY, [3])) == 2 and len(store.load_maps(kept)) == 1
    store.drop_run(dropped)
    assert len(store.stored(KEY, [3])) == 1 and len(store.load_maps(kept)) == 1
    first = written(store, sample(2), name="mine")
    second = store.begin_run(RunRecord("q", "Tumour", "model", "preprocessing", "logit", "mine"), replace=True)
    store.write_maps(second, 1, [sample(3)], class_names={3: "cat"})
    store.finish_run(second, "done")
    assert store.run(first) is None and len(store.stored(KEY, [3])) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_views_agree_with_numpy(store: Store, kind: str) -> None:
    cells = sample()
    cells.logit[0, :6] = [1000, -1000, 40, -40, 16, 0]
    cells.others[0, :6] = 0
    cells.logit[4, 6] = cells.others[4, 6] = np.nan
    run_id = written(store, cells, kind, "r")
    log_odds = (cells.logit - cells.others).astype(np.float32)
    wanted = {name: score(name, cells.logit, log_odds) for name in KINDS}
    clean = float(score(kind, cells.clean_logit, np.float32(cells.clean_logit) - np.float32(cells.clean_others)))
    rows = store.connection.execute(
        'SELECT "row", col, top_px, left_px, height_px, width_px, score, importance, probability, log_probability, '
        "log_odds, logit, top_class, exact FROM cells WHERE run_id = ? ORDER BY 1, 2",
        [run_id],
    ).fetchall()
    assert len(rows) == 35
    for row, col, *values in rows:
        assert values[:4] == [row * 4, col * 8, 16, 24]
        if (row, col) == (4, 6):
            assert values[4:] == [None] * 8
            continue
        at = {name: plane[row, col] for name, plane in wanted.items()}
        expected = [at[kind], clean - at[kind], *(at[name] for name in ("probability", "log_probability"))]
        np.testing.assert_allclose(values[4:8], expected, rtol=1e-12, atol=1e-300)
        assert values[8:] == [log_odds[row, col], cells.logit[row, col], cells.top_class[row, col], True]
    ((scores, importance, clean_score, rows_, cols),) = store.connection.execute(
        'SELECT scores, importance, clean_score, "rows", cols FROM heatmaps'
    ).fetchall()
    assert (rows_, cols) == (5, 7) and clean_score == pytest.approx(clean, rel=1e-12)
    np.testing.assert_allclose(np.array(scores, np.float64), wanted[kind], rtol=1e-7, atol=1e-44)
    np.testing.assert_allclose(np.array(importance, np.float64), clean - wanted[kind], rtol=1e-6, atol=1e-12)


def test_a_window_without_effect_has_importance_zero(store: Store) -> None:
    logit, others = np.float32(0.1), 0.3
    shape = (2, 2)
    cells = sample(
        0,
        shape,
        logit=np.full(shape, logit),
        others=np.full(shape, others),
        clean_logit=float(logit),
        clean_others=float(others),
    )
    for kind in KINDS:
        run_id = written(store, cells, kind)
        assert store.connection.execute(
            "SELECT max(abs(importance)) FROM cells WHERE run_id = ?", [run_id]
        ).fetchall() == [(0.0,)]
        assert store.connection.execute("SELECT importance FROM heatmaps WHERE run_id = ?", [run_id]).fetchall() == [
            ([[0.0, 0.0], [0.0, 0.0]],)
        ]


def test_heatmaps_describe_themselves(store: Store) -> None:
    run_id = begin(store, "probability", "r")
    shared = ("r", 2, "scan1.jpg", "yes", 3, "cat", "Tumour", "probability", 16, 24)
    quality = {
        "approx": 1,
        "metric": "ssim",
        "target": 0.9,
        "confidence": 0.95,
        "bound": 0.92,
        "n_audit": 60,
        "seed": 1,
    }
    store.write_maps(
        run_id,
        2,
        [sample(exact=np.eye(5, 7, dtype=bool), quality=quality), sample(1, (1, 2))],
        class_names={3: "cat"},
        input_size=(64, 80),
        source_box=(0, 0, 128, 160),
    )
    assert store.connection.execute(
        "SELECT run_name, image_id, path, label, class_id, class_name, model, score, patch_height, patch_width, "
        "stride_height, stride_width, fill, border, approx, metric, target, confidence, bound, n_exact, n_audit, seed, "
        "input_width, source_height FROM heatmaps WHERE run_id = ? ORDER BY map_id",
        [run_id],
    ).fetchall() == [
        (*shared, 4, 8, "mean", "cover", True, "ssim", 0.9, 0.95, 0.92, 5, 60, 1, 80, 128.0),
        (*shared, None, 8, "mean", "cover", False, None, None, None, None, 2, None, None, 80, 128.0),
    ]


def boxes(rng: np.random.Generator, count: int) -> list[tuple[int, int, int, int]]:
    return [(*map(int, rng.integers(-3, 9, 2)), *map(int, rng.integers(0, 9, 2))) for _ in range(count)]  # type: ignore[misc]


def cut(plane: Plane, box: tuple[int, int, int, int]) -> Plane:
    top, left, rows, cols = box
    return plane[max(top, 0) : max(top + rows, 0), max(left, 0) : max(left + cols, 0)]


def test_box_macros_agree_with_brute_force(store: Store) -> None:
    cells = sample()
    cells.logit[1, 1] = cells.others[1, 1] = np.nan
    written(store, cells)
    plane = cells.logit.astype(np.float64)
    for box in boxes(np.random.default_rng(5), 120):
        part = cut(plane, box)
        part = part[~np.isnan(part)]
        ((mean, count),) = store.connection.execute(
            "SELECT box_mean(logit, $a, $b, $c, $d), cells_between(logit, $a, $b, $c, $d, -1, 2.5) FROM heatmaps",
            dict(zip("abcd", box, strict=True)),
        ).fetchall()
        assert mean == (pytest.approx(part.mean(), rel=1e-9) if part.size else None), box
        assert count == np.count_nonzero((part >= -1) & (part < 2.5)), box


def test_box_macros_may_be_given_columns_of_any_name(store: Store) -> None:
    written(store, sample())
    rows = store.connection.execute(
        'SELECT box_mean(logit, 0, 0, "rows", cols), cells_between(logit, 0, 0, "rows", cols, -100, clean_score) '
        "FROM heatmaps"
    ).fetchall()
    logit = sample().logit
    assert rows == [(pytest.approx(logit.mean(dtype=np.float64)), np.count_nonzero(logit < 3.0))]


def test_map_iou_and_difference_agree_with_brute_force(store: Store) -> None:
    a, b = sample(1), sample(2)
    first, second = written(store, a), written(store, b)
    third = written(store, sample(3, (2, 2)))
    sql = (
        "SELECT map_iou(a.logit, b.logit, ?), map_difference(a.logit, b.logit) FROM heatmaps AS a, heatmaps AS b "
        "WHERE a.run_id = ? AND b.run_id = ?"
    )
    for threshold in (-3.0, 0.0, 2.0):
        ((iou, difference),) = store.connection.execute(sql, [threshold, first, second]).fetchall()
        above_a, above_b = a.logit >= threshold, b.logit >= threshold
        assert iou == pytest.approx((above_a & above_b).sum() / (above_a | above_b).sum())
        np.testing.assert_array_equal(np.array(difference, np.float32), a.logit - b.logit)
    assert store.connection.execute(sql, [1e9, first, second]).fetchall()[0][0] is None
    assert store.connection.execute(sql, [0.0, first, third]).fetchall() == [(None, None)]


@pytest.mark.parametrize("kind", KINDS)
def test_top_cells_are_the_largest_importance_ties_row_major(store: Store, kind: str) -> None:
    cells = sample()
    cells.logit[:] = np.round(cells.logit)
    cells.others[:] = 0
    cells.logit[0, 0] = cells.others[0, 0] = np.nan
    run_id = written(store, cells, kind, "r")
    written(store, sample(8))
    importance = -score(kind, cells.logit, cells.logit)
    order = sorted((-importance[r, c], r, c) for r in range(5) for c in range(7) if (r, c) != (0, 0))
    for run, image in (("R", "scan0"), (run_id, 1), (str(run_id), "scan0.jpg")):
        rows = store.connection.execute("FROM top_cells(?, ?, 6)", [run, image]).fetchall()
        assert [row[4:6] for row in rows] == [(r, c) for _, r, c in order[:6]]
    with pytest.raises(duckdb.InvalidInputException, match="There is no run 'nope'"):
        store.connection.execute("FROM top_cells('nope', 1, 6)").fetchall()


def test_the_file_alone_answers_in_plain_duckdb(tmp_path: Path) -> None:
    file = tmp_path / "obeql.duckdb"
    with Store(file) as store:
        store.register_images([ImageRecord("scan0.jpg")])
        written(store, sample(), "probability", "r")
    script = """
        import sys, duckdb
        connection = duckdb.connect(sys.argv[1], read_only=True)
        print(connection.execute(
            "SELECT (SELECT count(*) FROM runs), (SELECT count(*) FROM cells), (SELECT count(*) FROM heatmaps), "
            "(SELECT count(*) FROM top_cells('r', 'scan0', 3)), "
            "(SELECT box_mean(importance, 0, 0, 5, 7) = list_avg(flatten(importance)) FROM heatmaps), "
            "(SELECT map_iou(scores, scores, 0) FROM heatmaps), "
            "(SELECT cells_between(scores, 0, 0, 5, 7, 0, 2) FROM heatmaps), "
            "(SELECT sum(x) FROM (SELECT unnest(flatten(map_difference(scores, scores))) AS x FROM heatmaps))"
        ).fetchall())
        connection.close()
        connection = duckdb.connect()
        connection.execute(f"ATTACH '{sys.argv[1]}' AS another (READ_ONLY)")
        print(connection.execute("SELECT count(*), another.box_mean([[1]], 0, 0, 1, 1) FROM another.cells").fetchall())
        assert "obeql" not in sys.modules and "numpy" not in [m for m in sys.modules if m.startswith("obeql")]
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(file)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["[(1, 35, 1, 3, True, 1.0, 35, 0.0)]", "[(35, 1.0)]"]


def test_a_piece_that_became_the_map_of_a_run_is_not_deleted(store: Store) -> None:
    run_id = begin(store)
    for cells in (sample(1), sample()):
        store.write_pieces(run_id, 0, ImageMaps(1, [cells], {3: "cat"}))
    assert store.explained_images(run_id) == set() and store.begun_images(run_id) == {1}
    (piece,) = store.map_ids(run_id)
    (map_id,) = store.write_maps(run_id, 1, [sample()], class_names={3: "cat"})
    assert_same(store.load_maps(run_id)[0].cells, sample())
    assert map_id == piece and store.begun_images(run_id) == set() and store.explained_images(run_id) == {1}
    assert store.connection.execute("SELECT map_id FROM obeql_store.maps").fetchall() == [(map_id,)]
