"""Macros over maps of a run against brute force in numpy: boxes, pixels, centre of mass, order of deletion."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal, localcontext
from typing import Any

import duckdb
import numpy as np
import pytest

from obeql.planner.catalog import ImageRecord
from obeql.planner.cells import CellKey, MapCells
from obeql.planner.scores import importance_of, score_of
from obeql.store import ImageMaps, RunRecord, Store

KINDS = ("log_odds", "probability", "log_probability", "logit")


@pytest.fixture
def store() -> Iterator[Store]:
    with Store() as opened:
        opened.register_images([ImageRecord(f"scan{number}.jpg", label="yes") for number in range(2)])
        yield opened


def drawn(seed: int, **changes: Any) -> MapCells:
    """A map on an irregular grid, some cells missing, values coarse enough for ties."""
    rng = np.random.default_rng(seed)
    rows, cols = int(rng.integers(1, 6)), int(rng.integers(1, 7))
    logit = (rng.integers(-12, 12, (rows, cols)) / 4).astype(np.float32)
    others = (rng.integers(-4, 4, (rows, cols)) / 4).astype(np.float32)
    missing = rng.random((rows, cols)) < 0.2
    missing[0, 0] = False
    logit[missing] = others[missing] = np.nan
    values: dict[str, Any] = {
        "key": CellKey("image", "model", "preprocessing", (4, 5), "mean", "float32"),
        "class_id": 3,
        "starts": tuple(np.sort(rng.integers(0, 12, n)).astype(np.int32) for n in (rows, cols)),
        "lengths": (rng.integers(2, 5, rows).astype(np.int32), rng.integers(2, 6, cols).astype(np.int32)),
        "logit": logit,
        "others": others,
        "top_class": np.where(missing, -1, 3).astype(np.int32),
        "clean_logit": 1.5,
        "clean_others": -0.25,
        "clean_top_class": 3,
    }
    return MapCells(**{**values, **changes})


def stored(store: Store, kind: str, *maps: MapCells, name: str = "mine") -> int:
    run_id = store.begin_run(RunRecord("q", "net", "model", "preprocessing", kind, name, {"border": "cover"}))
    for image, cells in enumerate(maps, start=1):
        store.write_batch(run_id, [ImageMaps(image, [cells], {3: "cat"})])
    store.finish_run(run_id, "done")
    return run_id


def importance(kind: Any, cells: MapCells) -> Any:
    return importance_of(kind, (cells.clean_logit, cells.clean_others), cells.logit, cells.others)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(8))
def test_box_cells(store: Store, kind: Any, seed: int) -> None:
    first, second = drawn(seed), drawn(seed + 100)
    stored(store, kind, first, second)
    other_kind = "logit" if kind != "logit" else "probability"
    other = stored(store, other_kind, first, name="other")  # one map in two runs of different scores
    rng = np.random.default_rng(seed)
    for _ in range(4):
        top, left = map(int, rng.integers(-2, 6, 2))
        rows, cols = map(int, rng.integers(0, 7, 2))
        found = store.connection.execute(
            "SELECT run_id, image_id, scores, importance, clean_score FROM box_cells(?, ?, ?, ?) ORDER BY ALL",
            [top, left, rows, cols],
        ).fetchall()
        assert [row[:2] for row in found] == [(1, 1), (1, 2), (other, 1)]
        for (_, _, scores, values, clean), cells, score in zip(
            found, (first, second, first), (kind, kind, other_kind), strict=True
        ):
            part = (slice(max(top, 0), max(top + rows, 0)), slice(max(left, 0), max(left + cols, 0)))
            wanted = score_of(score, cells.logit, cells.others)[part].ravel()
            np.testing.assert_allclose(np.array(scores or [], float), wanted, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(
                np.array(values or [], float), importance(score, cells)[part].ravel(), rtol=1e-5, atol=1e-6
            )
            assert clean == pytest.approx(float(score_of(score, cells.clean_logit, cells.clean_others)))


def pixels_of(kind: str, cells: MapCells) -> dict[tuple[int, int], float]:
    """The plain mean of the windows over each pixel, one pixel at a time."""
    values = importance(kind, cells)
    covering: dict[tuple[int, int], list[float]] = {}
    for row, col in zip(*np.nonzero(np.isfinite(values)), strict=True):
        for y in range(cells.tops[row], cells.tops[row] + cells.heights[row]):
            for x in range(cells.lefts[col], cells.lefts[col] + cells.widths[col]):
                covering.setdefault((int(y), int(x)), []).append(float(values[row, col]))
    return {place: float(np.mean(found)) for place, found in covering.items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(6))
def test_pixel_map_and_deletion_order(store: Store, kind: str, seed: int) -> None:
    cells = drawn(seed)
    stored(store, kind, cells)
    wanted = pixels_of(kind, cells)
    found = store.connection.execute("SELECT y, x, importance FROM pixel_map('mine', 'scan0')").fetchall()
    assert {(y, x): value for y, x, value in found} == pytest.approx(wanted, rel=1e-6, abs=1e-7)
    ranked = store.connection.execute("SELECT rank, y, x, importance, share FROM deletion_order('mine', 1)").fetchall()
    assert [row[0] for row in ranked] == list(range(1, len(wanted) + 1))
    assert [row[4] for row in ranked] == pytest.approx([k / len(wanted) for k in range(1, len(wanted) + 1)])
    values = [row[3] for row in ranked]
    assert values == sorted(values, reverse=True)
    assert [(y, x) for _, y, x, _, _ in ranked] == sorted(
        ((y, x) for _, y, x, _, _ in ranked), key=lambda place: (-{r[1:3]: r[3] for r in ranked}[place], place)
    )


@pytest.mark.parametrize("seed", range(12))
def test_centre_of_mass(store: Store, seed: int) -> None:
    cells = drawn(seed)
    stored(store, "log_odds", cells)
    weight = np.nan_to_num(np.maximum(importance("log_odds", cells), 0))
    (row,) = store.connection.execute("SELECT centre_of_mass(importance) FROM heatmaps").fetchall()
    if weight.sum() == 0:
        assert row[0] is None
        return
    rows, cols = np.indices(weight.shape)
    wanted = {"row": (rows * weight).sum() / weight.sum(), "col": (cols * weight).sum() / weight.sum()}
    assert row[0] == pytest.approx(wanted, rel=1e-5)
    sql = "SELECT centre_of_mass(importance, tops, lefts, heights, widths) FROM heatmaps"
    (row,) = store.connection.execute(sql).fetchall()
    y, x = (np.add(at, np.divide(n, 2)) for at, n in ((cells.tops, cells.heights), (cells.lefts, cells.widths)))
    wanted = {"y": (y[rows] * weight).sum() / weight.sum(), "x": (x[cols] * weight).sum() / weight.sum()}
    assert row[0] == pytest.approx(wanted, rel=1e-5)


def partly_exact(seed: int) -> MapCells:
    """As `drawn`, with cells that have a value and were not computed."""
    cells = drawn(seed)
    exact = ~np.isnan(cells.logit) & (np.random.default_rng(seed).random(cells.logit.shape) < 0.5)
    return replace(cells, exact=exact, quality={"approx": True, "n_exact": int(exact.sum())})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(6))
def test_cells_that_were_not_computed_are_told_apart(store: Store, kind: str, seed: int) -> None:
    approximate, whole = partly_exact(seed), drawn(seed + 50)
    stored(store, kind, approximate, whole)
    run = store.connection.execute
    for image, cells in (("scan0", approximate), ("scan1", whole)):
        computed = ~np.isnan(cells.logit) if cells.exact is None else cells.exact
        wanted = {(row, col): bool(computed[row, col]) for row, col in np.argwhere(~np.isnan(cells.logit)).tolist()}
        for macro in (f"cells_of('mine', '{image}')", f"top_cells('mine', '{image}', 100)"):
            found = run(f'SELECT "row", col, exact FROM {macro}').fetchall()
            assert {(row, col): exact for row, col, exact in found} == wanted
        ((boxed,),) = run(f"SELECT exact FROM box_cells(0, 0, 9, 9) WHERE path = '{image}.jpg'").fetchall()
        assert boxed == [wanted.get((row, col)) for row, col in np.ndindex(cells.logit.shape)]
        for y, x, exact in run(f"SELECT y, x, exact FROM pixel_map('mine', '{image}')").fetchall():
            over = [
                computed[row, col]
                for row, col in wanted
                if 0 <= y - cells.tops[row] < cells.heights[row] and 0 <= x - cells.lefts[col] < cells.widths[col]
            ]
            assert exact == all(over)


def test_nothing_positive_has_no_centre() -> None:
    with Store() as store:
        for places in ("", ", [0, 4], [0, 4], [8, 8], [8, 8]"):
            planes = "[[-1.0, NULL], [0.0, -3.0]]", "[[NULL, NULL]]", "[]", "NULL"
            sql = ", ".join(f"centre_of_mass({plane}{places})" for plane in planes)
            assert store.connection.execute(f"SELECT {sql}").fetchall() == [(None,) * 4]


def test_cells_of_are_those_of_the_view(store: Store) -> None:
    for kind in KINDS:
        stored(store, kind, drawn(3), drawn(4), name=kind)
        columns = '"row", col, top_px, left_px, height_px, width_px, top_class, round(score, 6), round(importance, 6)'
        view = store.connection.execute(
            f"SELECT {columns} FROM cells JOIN runs USING (run_id) WHERE run_name = ? AND image_id = 2 "
            "AND cells.score IS NOT NULL ORDER BY ALL".replace("round(score", "round(cells.score"),
            [kind],
        ).fetchall()
        macro = store.connection.execute(f"SELECT {columns} FROM cells_of(?, 'scan1') ORDER BY ALL", [kind]).fetchall()
        assert [row[:7] for row in macro] == [row[:7] for row in view]
        np.testing.assert_allclose([row[7:] for row in macro], [row[7:] for row in view], atol=2e-6)


@pytest.mark.parametrize("macro", ["top_cells({}, {}, 3)", "cells_of({}, {})", "pixel_map({}, {})", "maps_of({}, {})"])
def test_a_run_or_image_that_is_not_there_is_an_error_and_not_an_empty_table(store: Store, macro: str) -> None:
    run_id = stored(store, "log_odds", drawn(3))

    def rows(run: str, image: str) -> list[Any]:
        # A table macro without an order of its own gives its rows in any order.
        return sorted(store.connection.execute(f"FROM {macro.format(run, image)}").fetchall())

    assert rows("'mine'", "'scan0'") == rows(str(run_id), "1") != []
    assert rows("'mine'", "'scan1'") == []  # which the run does not have
    with pytest.raises(duckdb.Error, match=r"There is no run 'other'\."):
        rows("'other'", "'scan0'")
    with pytest.raises(duckdb.Error, match=r"There is no image 'scan7'\."):
        rows("'mine'", "'scan7'")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(6))
def test_questions_to_flat_maps_are_those_to_planes(store: Store, kind: Any, seed: int) -> None:
    """CP of a map and of a box, boxes from a column, cells strong in both maps: by numpy on the planes of the view."""
    first, second = drawn(seed), drawn(seed + 100)
    stored(store, kind, first, second)
    other = "probability" if kind == "logit" else "logit"
    stored(store, other, second, first, name="other")  # a run of the other plane's score
    rng = np.random.default_rng(seed)
    ask = store.connection.execute
    boxes = [tuple(map(int, (*rng.integers(-2, 6, 2), *rng.integers(0, 7, 2)))) for _ in range(4)]
    rows = ask("SELECT run_name, image_id, importance FROM heatmaps ORDER BY ALL").fetchall()
    for box in boxes:
        top, left, height, width = box
        low = float(rng.normal() / 4)
        found = ask(
            "SELECT flat_maps.run_name, image_id, count_between(map, ?, ? + 1), "
            "count_between(map, top, l, h, w, ?, ? + 1), at_least(map, top, l, h, w, ?), at_least(map, ?) "
            "FROM flat_maps JOIN (SELECT unnest([1, 2]) AS image_id, ? AS top, ? AS l, ? AS h, ? AS w) "
            "USING (image_id) ORDER BY ALL",
            [low, low, low, low, low, low, *box],
        ).fetchall()
        for (run, image, plane), (flat_run, flat_image, anywhere, inside, strong, all_strong) in zip(
            rows, found, strict=True
        ):
            assert (run, image) == (flat_run, flat_image)
            values = np.array(plane, float)  # NULL becomes NaN, which compares as false
            cut = values[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)]
            assert anywhere == np.sum((values >= low) & (values < low + 1))
            assert inside == np.sum((cut >= low) & (cut < low + 1))
            assert strong == (cut >= low).ravel().tolist() and all_strong == (values >= low).ravel().tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_iou_of_flat_maps_is_that_of_planes(store: Store, kind: Any) -> None:
    stored(store, kind, *(drawn(seed) for seed in range(2)))
    same_shape = replace(drawn(0), logit=np.flip(drawn(0).logit), others=np.flip(drawn(0).others))
    stored(store, kind, same_shape, drawn(0), name="other")
    for low in (-0.5, 0.0, 0.1, 9.0):
        found = store.connection.execute(
            "SELECT iou_at_least(a.map, b.map, $1), map_iou(p.importance, q.importance, $1) "
            "FROM flat_maps a, flat_maps b, heatmaps p, heatmaps q "
            "WHERE (a.run_id, a.image_id) = (p.run_id, p.image_id) AND (b.run_id, b.image_id) = (q.run_id, q.image_id)",
            [low],
        ).fetchall()
        assert len(found) == 16 and all(flat == plane for flat, plane in found)
        assert low == 9 or any(flat is not None for flat, _ in found)


def saturated(seed: int, clean: float) -> MapCells:
    """A map of a network that is sure: its probabilities differ by less than a float64 near 1 tells apart."""
    rng = np.random.default_rng(seed)
    others = rng.normal(size=(5, 6)).astype(np.float32)
    logit = (others + clean + rng.normal(size=(5, 6)) * rng.choice([1e-3, 0.1, 3.0], (5, 6))).astype(np.float32)
    logit[0, 0] = others[0, 0] - clean  # a window that turns the class over
    beside = {
        "starts": tuple(np.arange(n, dtype=np.int32) for n in (5, 6)),
        "lengths": tuple(np.full(n, 3, np.int32) for n in (5, 6)),
    }
    classes = np.full((5, 6), 3, np.int32)
    return drawn(0, logit=logit, others=others, top_class=classes, clean_logit=clean, clean_others=0.0, **beside)


@pytest.mark.parametrize("clean", [45.0, 12.0, -45.0, 0.0, 200.0])
@pytest.mark.parametrize("kind", KINDS)
def test_importance_keeps_its_digits_in_sql_as_in_python(store: Store, kind: Any, clean: float) -> None:
    cells = saturated(int(abs(clean)), clean)
    stored(store, kind, cells)
    wanted = importance(kind, cells)
    if kind == "probability" and clean >= 0:
        exact = [_one_minus(clean, odds) for odds in (cells.logit - cells.others).ravel()]
        np.testing.assert_allclose(wanted.ravel(), exact, rtol=1e-7, atol=0 if clean else 1e-16)
    places = '"row", col'
    found = store.connection.execute(f"SELECT importance FROM cells ORDER BY {places}").fetchall()
    np.testing.assert_allclose(np.array(found).reshape(5, 6), wanted, rtol=1e-9, atol=0 if clean > 0 else 1e-16)
    found = store.connection.execute(f"SELECT importance FROM cells_of('mine', 1) ORDER BY {places}").fetchall()
    np.testing.assert_allclose(np.array(found).reshape(5, 6), wanted, rtol=1e-9, atol=0 if clean > 0 else 1e-16)
    for sql in ("SELECT importance FROM heatmaps", "SELECT importance FROM box_cells(0, 0, 5, 6)"):
        plane = np.array(store.connection.execute(sql).fetchone()).reshape(5, 6)
        np.testing.assert_allclose(plane, wanted.astype(np.float32), rtol=1e-6, atol=0 if clean > 0 else 1e-16)
    ranked = store.connection.execute(f"SELECT {places} FROM top_cells('mine', 'scan0', 30)").fetchall()
    assert ranked == [divmod(int(at), 6) for at in np.argsort(-wanted.ravel(), kind="stable")]
    found = store.connection.execute("SELECT y, x, importance FROM pixel_map('mine', 'scan0')").fetchall()
    assert {(y, x): value for y, x, value in found} == pytest.approx(pixels_of(kind, cells), rel=1e-9, abs=0)


def _one_minus(before: float, after: float) -> float:
    """sigmoid(before) - sigmoid(after) in 150 digits."""
    with localcontext() as context:
        context.prec = 150
        first, second = (1 / (1 + (-Decimal(float(x))).exp()) for x in (before, after))
        return float(first - second)
