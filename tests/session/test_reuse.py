"""Reuse of stored cells: what is taken, what is computed, that the numbers are those of computing everything."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import obeql
from obeql.errors import ModelError
from obeql.executor.operators.cached_cells import known_cells
from obeql.planner import WindowGrid
from obeql.planner.cells import CellKey, MapCells

CLASSES = ["ant", "bee", "cat"]
STATEMENT = "EXPLAIN OCCLUDE ? USING net FOR CLASS 1"


@pytest.fixture
def image(pixels: Callable[..., Any]) -> Any:
    return pixels(11)


def fresh(net_db: Any, image: Any, tail: str) -> Any:
    """The statement's map with every cell computed."""
    (heat,) = net_db.execute(f"{STATEMENT} {tail} NO REUSE", [image])
    return heat


def assert_close(got: Any, want: Any) -> None:
    assert got.shape == want.shape and tuple(got.tops) == tuple(want.tops) and tuple(got.lefts) == tuple(want.lefts)
    np.testing.assert_allclose(got.cells.logit, want.cells.logit, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got.cells.others, want.cells.others, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(got.top_class, want.top_class)
    np.testing.assert_allclose(got.importance, want.importance, atol=1e-5)


@pytest.mark.parametrize(
    ("stored", "asked", "n_computed"),
    [
        ("WITH patch=8 stride=4", "WITH patch=8 stride=4", 0),
        ("WITH patch=8 stride=4", "WITH patch=8 stride=8", 0),
        ("WITH patch=8 stride=4", "REGION (4, 8, 16, 12) WITH patch=8 stride=4", 0),
        ("REGION (4, 8, 16, 12) WITH patch=8 stride=4", "WITH patch=8 stride=4", 49 - 6),
        ("WITH patch=8 stride=8", "WITH patch=8 stride=4", 49 - 16),
        ("WITH patch=8 stride=6", "WITH patch=8 stride=4", 49 - 9),  # 0, 12, 24 in common
        ("WITH patch=8 stride=5 border=clip", "WITH patch=8 stride=10 border=valid", 0),
        ("WITH patch=8 stride=4", "WITH patch=8 stride=4 border=clip score=logit", 0),
        ("WITH patch=8 stride=4", "WITH patch=8x9 stride=4", 7 * 7),
        ("WITH patch=8 stride=4 fill=black", "WITH patch=8 stride=4", 49),
        ("WITH patch=8 stride=4 precision=float64", "WITH patch=8 stride=4", 49),
    ],
)
def test_what_is_stored_is_not_computed(
    net_db: Any, image: Any, computed: Any, stored: str, asked: str, n_computed: int
) -> None:
    want = fresh(net_db, image, asked)
    net_db.execute(f"DROP RUN {want.run_id}")
    net_db.execute(f"{STATEMENT} {stored}", [image])
    computed.take()
    (got,) = net_db.execute(f"{STATEMENT} {asked}", [image])
    assert computed.take() == (n_computed, 1 if n_computed else 0)
    assert_close(got, want)
    measured = net_db.execute(
        "SELECT measured->>'cells_stored', measured->>'cells_computed' FROM runs ORDER BY run_id"
    ).fetchall()
    assert measured[-1] == (str(got.cells.logit.size - n_computed), str(n_computed))


def test_a_repeated_statement_copies_nothing(net_db: Any, image: Any, computed: Any) -> None:
    def n_maps() -> int:
        return int(net_db.execute("SELECT count(*) FROM obeql_store.maps").fetchall()[0][0])

    net_db.execute(f"{STATEMENT} WITH patch=8 stride=8", [image])
    for _ in range(2):
        net_db.execute(f"{STATEMENT} WITH patch=8 stride=4", [image])
    assert n_maps() == 2
    first, second = net_db.execute("SELECT map_id FROM heatmaps ORDER BY run_id").fetchall()[1:]
    assert first == second
    computed.take()
    net_db.execute("EXPLAIN OCCLUDE ? USING net FOR ALL WITH patch=8 stride=4", [image])
    assert computed.take() == (49, 1)  # a window is computed once for all classes that lack it
    assert n_maps() == 4


def test_classes_that_are_stored_need_no_network(net_db: Any, image: Any, computed: Any) -> None:
    whole = net_db.execute("EXPLAIN OCCLUDE ? USING net FOR ALL WITH patch=8 stride=4", [image])
    computed.take()
    for tail in ("FOR CLASSES (2, 'ant')", "FOR PREDICTED", "FOR ALL", "FOR CLASS 2 WITH score=log_odds"):
        join = " WITH patch=8 stride=4" if "WITH" not in tail else " patch=8 stride=4"
        maps = net_db.execute(f"EXPLAIN OCCLUDE ? USING net {tail}{join}", [image])
        assert computed.take() == (0, 0), tail
        for heat in maps:
            want = whole[heat.class_id].as_score(heat.score_kind)
            np.testing.assert_array_equal(heat.scores, want.scores)
            assert heat.clean_score == want.clean_score
    net_db.execute("EXPLAIN OCCLUDE ? USING net FOR TOP 2 WITH patch=8 stride=4", [image])
    assert computed.take() == (0, 1)  # which classes rank highest, the network says


def test_patch_lists_compute_the_grids_that_are_missing(net_db: Any, image: Any, computed: Any) -> None:
    net_db.execute(f"{STATEMENT} WITH patch=8 stride=8", [image])
    computed.take()
    small, large = net_db.execute(f"{STATEMENT} WITH patch=[8, 16] stride=8", [image])
    assert computed.take() == (9, 1) and small.shape == (4, 4) and large.shape == (3, 3)
    assert_close(large, fresh(net_db, image, "WITH patch=16 stride=8"))
    net_db.execute("SET obeql.disabled_rules = 'share_materialisation'")
    net_db.execute(f"{STATEMENT} WITH patch=[8, 16, 12] stride=8", [image])
    assert computed.take() == (9 + 16, 2)


@pytest.mark.parametrize("switch", ["NO REUSE", "SET obeql.reuse = off", "disabled_rules = 'reuse_stored_cells'"])
def test_reuse_can_be_switched_off(net_db: Any, image: Any, computed: Any, switch: str) -> None:
    statement = f"{STATEMENT} WITH patch=8 stride=8"
    net_db.execute(statement, [image])
    computed.take()
    if switch.startswith("NO"):
        statement += " NO REUSE"
    else:
        net_db.execute(switch if switch.startswith("SET") else f"SET obeql.{switch}")
    assert "ReuseCells" not in str(net_db.execute(f"PLAN {statement}", [image]))
    net_db.execute(statement, [image])
    assert computed.take() == (16, 1)
    net_db.explain(image, "net", classes=1, patch=8, stride=8, reuse=False)
    assert computed.take() == (16, 1)


def test_plan_says_where_cells_come_from(net_db: Any, folder: Path) -> None:
    scans = f"'{folder}/*.png'"
    net_db.execute(f"EXPLAIN OCCLUDE '{folder}/scan1.png' USING net WITH patch=8 stride=4 INTO one")
    net_db.execute(f"EXPLAIN OCCLUDE '{folder}/scan2.png' USING net WITH patch=8 stride=8")
    cold = net_db.execute(f"PLAN EXPLAIN OCCLUDE {scans} USING net WITH patch=8 stride=4 NO REUSE")
    plan = net_db.execute(f"PLAN EXPLAIN OCCLUDE {scans} USING net WITH patch=8 stride=4")
    (held,) = plan.physical.held
    assert held.n_cells == 49 + 16 and held.by_run == (("one", 49), ("run 2", 16))
    assert "ReuseCells  65 of 147 cells are stored" in str(plan) and "one: 49, run 2: 16" in str(plan)
    whole, part = cold.physical.engines[0].cost.seconds, plan.physical.engines[0].cost.seconds
    # few windows fill smaller batches, so they cost somewhat more than their share
    assert whole * (147 - 65) / 147 * 0.99 <= part < whole
    analyzed = net_db.execute(f"PLAN ANALYZE EXPLAIN OCCLUDE {scans} USING net WITH patch=8 stride=4")
    assert "cells from the database" in str(analyzed)
    again = net_db.execute(f"PLAN EXPLAIN OCCLUDE {scans} USING net WITH patch=8 stride=4")
    assert again.physical.engines[0].cost.seconds == 0 and "147 of 147 cells" in str(again)


def test_a_statement_that_is_stored_runs_without_its_model(tmp_path: Path, folder: Path, tiny_net: Any) -> None:
    file, statement = tmp_path / "heat.duckdb", f"EXPLAIN OCCLUDE '{folder}/*.png' USING net WITH patch=8 stride=8"
    with obeql.connect(file) as db:
        db.create_model("net", tiny_net(), size=(32, 32))
        before = db.execute(statement)
    with obeql.connect(file) as db:
        after = db.execute(statement)
        for ours, other in zip(after, before, strict=True):
            np.testing.assert_array_equal(ours.scores, other.scores)
        with pytest.raises(ModelError, match="create_model"):
            db.execute(statement.replace("stride=8", "stride=4"))


def test_identity_is_content(net_db: Any, tiny_net: Any, folder: Path, pixels: Any, computed: Any) -> None:
    """A copy under another name answers; a changed file, and another model of the same name, do not."""
    path = folder / "scan1.png"
    statement = "EXPLAIN OCCLUDE '{}' USING net FOR CLASS 0 WITH patch=8 stride=8"
    (first,) = net_db.execute(statement.format(path))
    (folder / "copy.png").write_bytes(path.read_bytes())
    computed.take()
    (copy,) = net_db.execute(statement.format(folder / "copy.png"))
    assert computed.take() == (0, 0)
    np.testing.assert_array_equal(copy.scores, first.scores)
    Image.fromarray(pixels(99)).save(path)
    (changed,) = net_db.execute(statement.format(path))
    assert computed.take() == (16, 1) and not np.array_equal(changed.scores, first.scores)
    hashes = net_db.execute("SELECT DISTINCT image_hash FROM heatmaps WHERE path = ?", [str(path)]).fetchall()
    assert len(hashes) == 2  # both are kept
    net_db.create_model("net", tiny_net(5), size=(32, 32), classes=CLASSES, replace=True)
    (other,) = net_db.execute(statement.format(path))
    assert computed.take() == (16, 1) and not np.array_equal(other.scores, changed.scores)
    net_db.create_model("net", tiny_net(5), size=(32, 32), classes=CLASSES, mean=(0.5, 0.5, 0.5), replace=True)
    net_db.execute(statement.format(path))
    assert computed.take() == (16, 1)


def test_approximate_cells_never_pass_for_exact(net_db: Any, image: Any, computed: Any) -> None:
    from dataclasses import replace

    from obeql.store import ImageMaps

    heat = fresh(net_db, image, "WITH patch=8 stride=8")
    store = net_db._store
    exact = np.zeros((4, 4), bool)
    exact[1] = True
    wrong = np.where(exact, heat.cells.logit, np.float32(1000))
    run = store.run(heat.run_id)
    net_db.execute(f"DROP RUN {heat.run_id}")
    rough = store.begin_run(replace(run, run_id=None))
    maps = [replace(heat.cells, logit=wrong, exact=exact, quality={"approx": True, "n_exact": 4})]
    store.write_batch(rough, [ImageMaps(heat.image_id, maps, {1: "bee"}, (32, 32))])
    store.finish_run(rough, "done")
    plan = net_db.execute(f"PLAN {STATEMENT} WITH patch=8 stride=8", [image])
    assert plan.physical.held[0].n_cells == 4
    computed.take()
    (got,) = net_db.execute(f"{STATEMENT} WITH patch=8 stride=8", [image])
    assert computed.take() == (12, 1) and got.cells.exact is None
    assert_close(got, heat)


@pytest.mark.parametrize("tail", ["TOP 3 CELLS", "APPROX 0.8"])
def test_copies_of_an_image_take_what_an_approximate_map_has_of_it(net_db: Any, folder: Path, tail: str) -> None:
    (folder / "copy.png").write_bytes((folder / "scan1.png").read_bytes())
    net_db.create_images("all", str(folder / "*.png"))
    wanted = net_db.execute("EXPLAIN OCCLUDE all USING net FOR CLASS 1 WITH patch=6 stride=2 NO REUSE")
    net_db.execute(f"DROP RUN {wanted.run_id}")
    (heat,) = net_db.execute(f"EXPLAIN OCCLUDE '{folder}/scan1.png' USING net FOR CLASS 1 WITH patch=6 stride=2 {tail}")
    n_held = int(np.isfinite(heat.scores).sum() if heat.cells.exact is None else heat.cells.exact.sum())
    statement = "EXPLAIN OCCLUDE all USING net FOR CLASS 1 WITH patch=6 stride=2"
    assert f"{2 * n_held:,} of {4 * heat.scores.size:,} cells are stored" in str(net_db.execute(f"PLAN {statement}"))
    found = net_db.execute(statement)
    for got, want in zip(found, wanted, strict=True):
        assert_close(got, want)


def test_a_plan_counts_stored_cells_image_by_image(net_db: Any, folder: Path) -> None:
    """Images whose maps are alike are counted together, whatever class is asked of each."""
    for number in range(4, 8):
        Image.fromarray(np.full((32, 32, 3), 20 * number, np.uint8)).save(folder / f"scan{number}.png")
    labels = (
        "CASE WHEN file LIKE '%1.png' OR file LIKE '%5.png' THEN 'bee' WHEN file LIKE '%7.png' THEN 'x' ELSE 'ant' END"
    )
    net_db.execute(f"CREATE IMAGES all FROM (SELECT file, {labels} AS label FROM glob('{folder}/*.png'))")
    for tail in (
        "FOR CLASS 'ant' WITH patch=8 stride=8 INTO first",
        "FOR CLASS 'bee' WITH patch=8 stride=16 INTO second",
        "FOR CLASS 'ant' REGION (0, 0, 16, 16) WITH patch=16 stride=8 INTO third",
    ):
        net_db.execute(f"EXPLAIN OCCLUDE all USING net {tail}")

    def held(tail: str) -> Any:
        plan = str(net_db.execute(f"PLAN EXPLAIN OCCLUDE all USING net {tail}"))
        return re.findall(r"([\d,]+) of ([\d,]+) cells are stored", plan)

    # 8 every 8 has 16 windows, 9 of which lie where 8 every 16 has one: at 0, 16 and, at the edge, 24
    assert held("FOR CLASS 'ant' WITH patch=8 stride=8") == [("112", "112")]
    assert held("FOR CLASSES ('ant', 'bee') WITH patch=8 stride=8") == [("63", "112")]
    assert held("FOR LABEL WITH patch=8 stride=8") == [(str(4 * 16 + 2 * 9), "112")]
    assert held("FOR CLASS 'ant' WITH patch=[8, 16] stride=8") == [("112", "112"), ("7", str(7 * 9))]
    assert held("FOR CLASS 'cat' WITH patch=8 stride=8") == []


# ---- laying stored cells out, against a loop -------------------------------------------------------------


def cells_on(grid: WindowGrid, class_id: int, rng: np.random.Generator, values: Any) -> MapCells:
    """A map whose numbers say where its windows lie, with some cells missing."""
    axes = [np.asarray(a, np.int32) for a in (grid.rows.starts, grid.cols.starts, grid.rows.lengths, grid.cols.lengths)]
    tops, lefts, heights, widths = axes
    logit = np.array(
        [[values(class_id, t, le, h, w) for le, w in zip(lefts, widths, strict=True)]
         for t, h in zip(tops, heights, strict=True)],
        np.float32,
    )  # fmt: skip
    missing = rng.random(grid.shape) < rng.choice([0.0, 0.3])
    logit[missing] = np.nan
    top = np.where(missing, -1, 2).astype(np.int32)
    key = CellKey("image", "model", "how", grid.patch, "mean", "float32")
    return MapCells(key, class_id, (tops, lefts), (heights, widths), logit, logit + 1, top, 0.5, 0.25, 2)


def windows(grid: WindowGrid) -> Iterator[tuple[int, int, int, int]]:
    for top, height in zip(grid.rows.starts, grid.rows.lengths, strict=True):
        for left, width in zip(grid.cols.starts, grid.cols.lengths, strict=True):
            yield top, left, height, width


@pytest.mark.parametrize("seed", range(40))
def test_known_cells_agree_with_a_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = (int(rng.integers(12, 24)), int(rng.integers(12, 24)))

    def draw() -> WindowGrid:
        region = None if rng.random() < 0.5 else (2, 1, 9, 10)
        border = rng.choice(["cover", "valid", "clip"])
        return WindowGrid.over(size, (4, 3), tuple(map(int, rng.integers(1, 4, 2))), border, region)

    def value(class_id: int, top: int, left: int, height: int, width: int) -> float:
        return class_id + top * 37 + left * 1009 + height * 0.5 + width * 0.25

    grid, classes = draw(), [3, 0, 3] if seed % 3 else [0, 2]
    maps = [cells_on(draw(), int(rng.choice(classes)), rng, value) for _ in range(int(rng.integers(0, 5)))]
    known = known_cells(grid, classes, maps)
    held = {
        (cells.class_id, int(cells.tops[r]), int(cells.lefts[c]), int(cells.heights[r]), int(cells.widths[c]))
        for cells in maps
        for r, c in zip(*np.nonzero(~np.isnan(cells.logit)), strict=True)
    }
    for number, window in enumerate(windows(grid)):
        for k, class_id in enumerate(classes):
            want = value(class_id, *window) if (class_id, *window) in held else np.nan
            np.testing.assert_equal(known.logit[number, k], np.float32(want))
            np.testing.assert_equal(known.others[number, k], np.float32(want + 1))
        assert known.left[number] == any((class_id, *window) not in held for class_id in classes)
        assert (known.top[number] >= 0) == any((class_id, *window) in held for class_id in classes)
    assert set(known.clean) == {cells.class_id for cells in maps}


@pytest.mark.parametrize("selector", ["FOR TOP 2", "FOR TOP 3", "FOR PREDICTED", "FOR ALL"])
def test_classes_that_the_network_ranks_take_stored_windows(
    net_db: Any, image: Any, computed: Any, selector: str
) -> None:
    statement = f"EXPLAIN OCCLUDE ? USING net {selector} WITH patch=8"
    wanted = net_db.execute(statement + " NO REUSE", [image])
    net_db.execute("EXPLAIN OCCLUDE ? USING net FOR ALL WITH patch=8 stride=1", [image])
    computed.take()
    found = net_db.execute(statement, [image])
    n_windows, n_passes = computed.take()
    assert n_windows == 0
    assert n_passes == int("TOP" in selector)  # the clean pass ranks the classes
    assert [heat.class_id for heat in found] == [heat.class_id for heat in wanted]
    for got, want in zip(found, wanted, strict=True):
        assert_close(got, want)


@pytest.mark.parametrize("lost", ["run", "cells", "class"])
def test_cells_that_are_gone_when_the_run_begins_are_planned_anew(
    net_db: Any, folder: Path, computed: Any, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    net_db.execute("SET obeql.disabled_rules = 'batch_images'")
    statement = f"EXPLAIN OCCLUDE '{folder}/*.png' USING net FOR CLASSES (1, 2) WITH patch=8 stride=4"
    want = net_db.execute(statement)
    assert "typical rates" in str(net_db.execute(f"PLAN {statement}"))
    computed.take()
    store = net_db._context.store
    hashes = [each.cells.key.image_hash for each in want]
    plain, dropped = store.stored, []

    def stored(key: CellKey, class_ids: Any) -> list[MapCells]:
        if lost == "run" and not dropped:  # by another thread, once the plan has counted them
            dropped.append(net_db.execute(f"DROP RUN {want.run_id}"))
        maps = plain(key, class_ids)
        if lost == "class":
            return [each for each in maps if each.class_id != 2]
        return [] if lost == "cells" and key.image_hash == hashes[-1] else maps  # the last image's are damaged

    monkeypatch.setattr(store, "stored", stored)
    got = net_db.execute(f"{statement} INTO again")
    assert got.plan.measured_rates and got.plan.seconds > 0
    assert computed.take() == ((49, 1) if lost == "cells" else (3 * 49, 3))
    assert len(got) == 6
    for ours, theirs in zip(got, want, strict=True):
        assert_close(ours, theirs)
    assert net_db.execute("SELECT status, n_maps FROM runs WHERE run_name = 'again'").fetchall() == [("done", 6)]
