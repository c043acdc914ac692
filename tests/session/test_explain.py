"""EXPLAIN OCCLUDE end to end: every clause and option against a brute-force loop, the result and SQL alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from obeql import Result
from obeql.executor.images import decode_object, fill_values, preprocess
from obeql.planner import Preprocessing, WindowGrid

SIZE = 32
SCORES = ("probability", "log_odds", "log_probability", "logit")


def brute_force(net: nn.Module, image: Any, grid: WindowGrid, fill: Any) -> tuple[Any, Any]:
    """Logits in float64 of a model's input (C, H, W): (K,) unoccluded, and (rows, cols, K), one window at a time."""
    net = net.double()
    x = torch.from_numpy(np.asarray(image)).double()
    hidden = torch.from_numpy(np.asarray(fill)).double()
    rows = []
    for top, height in zip(grid.rows.starts, grid.rows.lengths, strict=True):
        for left, width in zip(grid.cols.starts, grid.cols.lengths, strict=True):
            box = x.clone()
            part = (slice(None), slice(top, top + height), slice(left, left + width))
            box[part] = hidden[:, None, None] if hidden.dim() == 1 else hidden[part]
            rows.append(net(box[None])[0].detach().numpy())
    return net(x[None])[0].detach().numpy(), np.array(rows).reshape(*grid.shape, -1)


def scored(logits: Any, class_id: int, kind: str) -> Any:
    """The score of a class from logits (.., K)."""
    others = np.log(np.exp(np.delete(logits, class_id, axis=-1)).sum(axis=-1))
    odds = logits[..., class_id] - others
    probability = 1 / (1 + np.exp(-odds))
    return {
        "logit": logits[..., class_id],
        "log_odds": odds,
        "probability": probability,
        "log_probability": np.log(probability),
    }[kind]


@pytest.fixture
def image(pixels: Callable[..., Any]) -> Any:
    return pixels(7)


def unit(image: Any) -> Any:
    return image.astype(np.float32).transpose(2, 0, 1) / np.float32(255)


def cells_of(db: Any, heat: Any, column: str) -> Any:
    """One column of the view `cells` for the map, as a plane."""
    found = db.execute(
        f"SELECT {column} FROM cells WHERE run_id = $run AND image_id = $image AND class_id = $class "
        "AND height_px = $height ORDER BY row, col",
        {"run": heat.run_id, "image": heat.image_id, "class": heat.class_id, "height": heat.patch[0]},
    ).fetchall()
    return np.array([value for (value,) in found]).reshape(heat.shape)


# ---- values ----------------------------------------------------------------------------------------------


def test_result_sql_and_brute_force_agree(shared_db: Any, tiny_net: Any, image: Any) -> None:
    grid = WindowGrid.over((SIZE, SIZE), (8, 8), (4, 4))
    clean, occluded = brute_force(tiny_net(), unit(image), grid, np.full(3, 0.5))
    for kind in SCORES:
        statement = f"EXPLAIN OCCLUDE ? USING net FOR CLASS 1 WITH patch=8 stride=4 score={kind} fill=gray"
        (heat,) = shared_db.execute(statement, [image])
        scores = scored(occluded, 1, kind)
        importance = scored(clean, 1, kind) - scores
        assert heat.shape == (7, 7) and heat.score_kind == kind
        np.testing.assert_allclose(heat.scores, scores, atol=1e-5)
        np.testing.assert_allclose(heat.importance, importance, atol=1e-5)
        np.testing.assert_allclose(heat.clean_score, scored(clean, 1, kind), atol=1e-5)
        np.testing.assert_allclose(cells_of(shared_db, heat, "score"), scores, atol=1e-5)
        np.testing.assert_allclose(cells_of(shared_db, heat, "importance"), importance, atol=1e-5)
        np.testing.assert_array_equal(heat.top_class, occluded.argmax(axis=-1))
    for other in SCORES:  # the other scores are views over the same run
        np.testing.assert_allclose(heat.as_score(other).scores, scored(occluded, 1, other), atol=1e-5)
        np.testing.assert_allclose(cells_of(shared_db, heat, other), scored(occluded, 1, other), atol=1e-5)


@pytest.mark.parametrize("border", ["cover", "valid", "clip"])
def test_border(shared_db: Any, tiny_net: Any, image: Any, border: str) -> None:
    statement = f"EXPLAIN OCCLUDE ? USING net FOR CLASS 'cat' WITH patch=10x7 stride=6x5 score=logit border={border}"
    (heat,) = shared_db.execute(statement, [image])
    grid = WindowGrid.over((SIZE, SIZE), (10, 7), (6, 5), border)  # type: ignore[arg-type]
    fill = unit(image).mean(axis=(1, 2), dtype=np.float64)
    _, logits = brute_force(tiny_net(), unit(image), grid, fill)
    np.testing.assert_allclose(heat.scores, logits[..., 2], atol=1e-5)
    assert tuple(heat.tops) == grid.rows.starts and tuple(heat.lefts) == grid.cols.starts
    assert tuple(heat.cells.heights) == grid.rows.lengths and tuple(heat.cells.widths) == grid.cols.lengths


@pytest.mark.parametrize("fill", ["mean", "black", "white", "gray", "zero", "blur", "(0.2, 0.4, 1)"])
def test_fill(db: Any, tiny_net: Any, image: Any, fill: str) -> None:
    mean, std = (0.5, 0.4, 0.3), (0.25, 0.2, 0.5)
    db.create_model("net", tiny_net(), size=(SIZE, SIZE), mean=mean, std=std)
    (heat,) = db.execute(
        f"EXPLAIN OCCLUDE ? USING net FOR CLASS 0 WITH patch=8 score=logit stride=8 fill={fill}", [image]
    )
    how = Preprocessing((SIZE, SIZE), mean=mean, std=std)
    values = preprocess(decode_object(image, "image"), how)
    expected = {
        "black": (np.zeros(3) - mean) / std,
        "white": (np.ones(3) - mean) / std,
        "gray": (np.full(3, 0.5) - mean) / std,
        "zero": np.zeros(3),
        "mean": values.values.mean(axis=(1, 2), dtype=np.float64),
        "blur": fill_values("blur", values, how),
        "(0.2, 0.4, 1)": (np.array([0.2, 0.4, 1]) - mean) / std,
    }[fill]
    grid = WindowGrid.over((SIZE, SIZE), (8, 8), (8, 8))
    _, logits = brute_force(tiny_net(), values.values, grid, expected)
    np.testing.assert_allclose(heat.scores, logits[..., 0], atol=2e-5)
    stored = db.execute("SELECT DISTINCT fill FROM heatmaps").fetchall()
    assert stored == [(fill.replace(" ", ""),)]


def test_float64_is_exact(shared_db: Any, tiny_net: Any, image: Any) -> None:
    (heat,) = shared_db.execute(
        "EXPLAIN OCCLUDE ? USING net FOR CLASS 0 WITH patch=8 stride=6 precision=float64 score=logit", [image]
    )
    grid = WindowGrid.over((SIZE, SIZE), (8, 8), (6, 6))
    fill = unit(image).mean(axis=(1, 2), dtype=np.float64).astype(np.float32)
    _, logits = brute_force(tiny_net(), unit(image), grid, fill)
    # stored as float32
    np.testing.assert_allclose(heat.cells.logit, logits[..., 0].astype(np.float32), rtol=2e-7)
    stored = shared_db.execute("SELECT precision FROM heatmaps WHERE run_id = ?", [heat.run_id]).fetchall()
    assert stored == [("float64",)]


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_coarser_precisions_come_close(shared_db: Any, image: Any, precision: str) -> None:
    statement = "EXPLAIN OCCLUDE ? USING net FOR CLASS 0 WITH patch=16 stride=8 score=logit"
    (fine,) = shared_db.execute(statement, [image])
    (coarse,) = shared_db.execute(f"{statement} precision={precision}", [image])
    np.testing.assert_allclose(coarse.scores, fine.scores, atol=0.1)
    assert coarse.cells.key.precision == precision


def test_the_map_of_a_planted_bump_peaks_at_the_bump(db: Any) -> None:
    net = nn.Sequential(nn.Conv2d(3, 1, 3, padding=1, bias=True), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    nn.init.constant_(net[0].weight, 1 / 27)  # type: ignore[arg-type]
    nn.init.constant_(net[0].bias, -0.5)  # type: ignore[arg-type]
    head = nn.Linear(1, 2)
    nn.init.constant_(head.bias, 0.0)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[-50.0], [50.0]]))
    db.create_model("bright", nn.Sequential(*net, head), size=(SIZE, SIZE), classes=["dark", "bright"])
    picture = np.full((SIZE, SIZE, 3), 60, np.uint8)
    picture[18:24, 6:12] = 250
    (heat,) = db.execute("EXPLAIN OCCLUDE ? USING bright WITH patch=8 stride=2 score=log_odds fill=black", [picture])
    best = heat.top(1)[0]
    assert heat.class_name == "bright" and best.importance > 0
    assert best.top <= 18 and best.top + best.height >= 24 and best.left <= 6 and best.left + best.width >= 12
    peak = np.unravel_index(np.nanargmax(heat.to_pixels()), (SIZE, SIZE))
    assert 16 <= peak[0] < 26 and 4 <= peak[1] < 14
    sql = db.execute("SELECT top_px, left_px FROM cells ORDER BY importance DESC, row, col LIMIT 1").fetchall()
    assert sql == [(best.top, best.left)]
    assert abs(heat.importance[0, -1]) < 1e-6  # far from the bump nothing changes


# ---- classes ---------------------------------------------------------------------------------------------


def names(result: Result) -> list[str]:
    return [heat.class_name for heat in result]


def test_classes_of_for(shared_db: Any, image: Any) -> None:
    ranked = [row[0] for row in shared_db.execute("PREDICT ? USING net", [image]).project("class_name").fetchall()]
    run = lambda clause: names(shared_db.execute(f"EXPLAIN OCCLUDE ? USING net {clause} WITH patch=16", [image]))  # noqa: E731
    assert run("") == run("FOR PREDICTED") == ranked[:1]
    assert run("FOR TOP 2") == ranked[:2]
    assert run("FOR ALL") == ["ant", "bee", "cat"]
    assert run("FOR CLASS 'BEE'") == run("FOR CLASS 1") == ["bee"]
    assert run("FOR CLASSES ('cat', 0)") == ["cat", "ant"]
    assert run("FOR CLASSES ('cat', 2)") == ["cat"]


def test_label_of_a_select(shared_db: Any, folder: Path) -> None:
    select = (
        "SELECT file AS path, CASE WHEN file LIKE '%1.png' THEN 'bee' WHEN file LIKE '%2.png' THEN 'Cat' END AS label, "
        f"7 AS patient FROM glob('{folder}/*.png') ORDER BY file"
    )
    result = shared_db.execute(f"EXPLAIN OCCLUDE ({select}) USING net FOR LABEL WITH patch=16")
    assert names(result) == ["bee", "cat"] and result[0].columns == {"patient": 7}
    assert [failure.shown for failure in result.failures] == [str(folder / "scan3.png")]
    assert "label" in result.failures[0].error
    stored = shared_db.execute(
        "SELECT label, class_name FROM heatmaps WHERE run_id = ? ORDER BY image_id", [result.run_id]
    ).fetchall()
    assert stored == [("bee", "bee"), ("Cat", "cat")]


def test_order_is_images_then_patches_then_classes(shared_db: Any, folder: Path) -> None:
    shared_db.execute(f"CREATE IMAGES scans FROM '{folder}/*.png'")
    result = shared_db.execute("EXPLAIN OCCLUDE scans USING net FOR CLASSES (2, 0) WITH patch=[16, 8x12] stride=8")
    seen = [(Path(heat.image).stem, heat.patch, heat.class_id) for heat in result]
    assert seen == [
        (stem, patch, class_id)
        for stem in ("scan1", "scan2", "scan3")
        for patch in ((16, 16), (8, 12))
        for class_id in (2, 0)
    ]
    again = shared_db.run(result.run_id)
    assert [(Path(heat.image).stem, heat.patch, heat.class_id) for heat in again] == seen
    for ours, stored in zip(result, again, strict=True):
        np.testing.assert_array_equal(ours.scores, stored.scores)
        assert ours.stride == stored.stride and ours.placement == stored.placement
        assert ours.class_name == stored.class_name and ours.model == stored.model == "net"


# ---- windows ---------------------------------------------------------------------------------------------


def test_region_is_the_crop_of_the_full_map(shared_db: Any, image: Any) -> None:
    options = "WITH patch=8 stride=4 score=logit"
    (full,) = shared_db.execute(f"EXPLAIN OCCLUDE ? USING net FOR CLASS 0 {options}", [image])
    (part,) = shared_db.execute(f"EXPLAIN OCCLUDE ? USING net FOR CLASS 0 REGION (4, 6, 17, 26) {options}", [image])
    rows = [r for r, top in enumerate(full.tops) if top >= 4 and top + 8 <= 21]
    cols = [c for c, left in enumerate(full.lefts) if left >= 6 and left + 8 <= 32]
    np.testing.assert_array_equal(part.scores, full.scores[np.ix_(rows, cols)])
    np.testing.assert_array_equal(part.importance, full.importance[np.ix_(rows, cols)])
    assert list(part.tops) == [full.tops[r] for r in rows]


def test_patch_lists_equal_single_patches(shared_db: Any, image: Any) -> None:
    both = shared_db.execute("EXPLAIN OCCLUDE ? USING net FOR CLASS 0 WITH patch=[8, 12x16] score=logit", [image])
    for heat in both:
        height, width = heat.patch
        (alone,) = shared_db.execute(
            f"EXPLAIN OCCLUDE ? USING net FOR CLASS 0 WITH patch={height}x{width} score=logit", [image]
        )
        np.testing.assert_allclose(heat.scores, alone.scores, atol=1e-6)
        assert heat.stride == alone.stride == (max(1, height // 4), max(1, width // 4))


def test_stride_beyond_the_patch_is_noted(shared_db: Any, image: Any) -> None:
    result = shared_db.execute("EXPLAIN OCCLUDE ? USING net WITH patch=4 stride=8x16", [image])
    assert result[0].shape == (5, 3)  # the last window of an axis is shifted inward
    assert any("never hidden" in note for note in result.plan.notes)
    assert "Physical plan" in str(result.plan)


# ---- quality, devices, runs ------------------------------------------------------------------------------


def test_approx_on_a_small_grid_is_exact_and_says_so(shared_db: Any, image: Any) -> None:
    (exact,) = shared_db.execute("EXPLAIN OCCLUDE ? USING net WITH patch=16 stride=4 EXACT", [image])
    result = shared_db.execute("EXPLAIN OCCLUDE ? USING net WITH patch=16 stride=4 APPROX 0.9", [image])
    (heat,) = result
    np.testing.assert_array_equal(heat.scores, exact.scores)
    assert (heat.bound, heat.metric, heat.target, heat.confidence) == (1.0, "ssim", 0.9, 0.95)
    assert heat.share_exact == 1.0
    text = str(shared_db.execute("PLAN EXPLAIN OCCLUDE ? USING net WITH patch=16 stride=4 APPROX 0.9", [image]))
    assert "too few for an audit" in text


def test_clauses_that_change_nothing_here(shared_db: Any, image: Any) -> None:
    (plain,) = shared_db.execute("EXPLAIN OCCLUDE ? USING net WITH patch=16", [image])
    for clause in ("ON cpu", "ON auto", "NO REUSE", "EXACT", "ON cpu NO REUSE EXACT"):
        (heat,) = shared_db.execute(f"EXPLAIN OCCLUDE ? USING net {clause} WITH patch=16", [image])
        np.testing.assert_array_equal(heat.scores, plain.scores)
    for options in ("batch=3", "memory='64MB'", "workers=0", "seed=5"):
        (heat,) = shared_db.execute(f"EXPLAIN OCCLUDE ? USING net WITH patch=16 {options}", [image])
        np.testing.assert_allclose(heat.scores, plain.scores, atol=1e-6)


def test_equal_statements_reference_stored_maps(net_db: Any, image: Any) -> None:
    counts = "SELECT (SELECT count(*) FROM obeql_store.maps), (SELECT count(*) FROM obeql_store.run_maps)"
    statement = "EXPLAIN OCCLUDE ? USING net FOR ALL WITH patch=16"
    first = net_db.execute(statement, [image])
    assert net_db.execute(counts).fetchall() == [(3, 3)]
    second = net_db.execute(statement, [image])
    assert second.run_id != first.run_id
    assert net_db.execute(counts).fetchall() == [(3, 6)]
    seen_otherwise = net_db.execute(f"{statement} score=log_odds", [image])
    assert net_db.execute(counts).fetchall() == [(3, 9)] and seen_otherwise[0].score_kind == "log_odds"
    assert net_db.execute("SELECT count(DISTINCT image_id) FROM heatmaps").fetchall() == [(1,)]


def test_into_names_a_run(net_db: Any, image: Any) -> None:
    first = net_db.execute("EXPLAIN OCCLUDE ? USING net WITH patch=16 INTO Mine", [image])
    assert net_db.run("mine").run_id == first.run_id and first.run_name == "Mine"
    second = net_db.execute("EXPLAIN OCCLUDE ? USING net WITH patch=8 INTO OR REPLACE mine", [image])
    assert net_db.run("Mine").run_id == second.run_id
    assert net_db.execute("SELECT run_id, run_name, status FROM runs").fetchall() == [(second.run_id, "mine", "done")]


def test_provenance_is_complete(net_db: Any, folder: Path) -> None:
    path = str(folder / "scan1.png")
    statement = f"EXPLAIN OCCLUDE '{path}' USING net FOR CLASS $class WITH patch=16 fill=black"
    net_db.execute(f"  {statement} ;", {"class": "bee"})
    (row,) = net_db.execute(
        "SELECT query, model, status, score, border, model_hash, preprocessing_hash, options, versions, plan FROM runs"
    ).fetchall()
    assert row[:5] == (statement, "net", "done", "probability", "cover")
    assert len(row[5]) == 64 and len(row[6]) == 64
    assert '"parameters":{"class":"bee"}' in row[7] and '"stride":"4x4"' in row[7] and '"device":"auto"' in row[7]
    assert '"torch"' in row[8] and "IncrementalForward" in row[9] + "DenseForward"
    maps = net_db.execute(
        "SELECT path, image_hash, model_hash, patch_height, stride_width, fill, precision, border, class_name, "
        "source_height, source_width, input_height, clean_score IS NOT NULL FROM heatmaps"
    ).fetchall()
    assert maps[0][:1] == (path,) and len(maps[0][1]) == 64
    assert maps[0][2:] == (row[5], 16, 4, "black", "float32", "cover", "bee", 32.0, 32.0, 32, True)


def test_source_box_of_a_cropped_image_survives(db: Any, tiny_net: Any, tmp_path: Path, pixels: Any) -> None:
    Image.fromarray(pixels(5, 100)[:, :60]).save(tmp_path / "tall.png")
    db.create_model("net", tiny_net(), size=(32, 32), resize="shortest")
    result = db.execute(f"EXPLAIN OCCLUDE '{tmp_path}/tall.png' USING net WITH patch=16")
    assert result[0].placement.source_size == (100, 60)
    assert db.run(result.run_id)[0].placement == result[0].placement


# ---- other families of networks ----------------------------------------------------------------------------


def test_independent_outputs(db: Any, image: Any) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8, 1))
    db.create_model("tumour", net, size=(SIZE, SIZE))
    (heat,) = db.execute("EXPLAIN OCCLUDE ? USING tumour WITH patch=16 score=log_odds", [image])
    np.testing.assert_array_equal(heat.scores, heat.as_score("logit").scores)
    np.testing.assert_allclose(heat.as_score("probability").scores, 1 / (1 + np.exp(-heat.scores)), atol=1e-6)
    assert set(np.unique(heat.top_class)) <= {0, 1}


def test_a_network_that_cannot_be_captured_runs_whole(db: Any, image: Any) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.head = nn.Linear(3 * SIZE * SIZE, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if float(x.sum()) > 1e9:  # depends on the pixels: nothing can trace it
                return x.flatten(1)[:, :3]
            return self.head(x.flatten(1))

    db.create_model("odd", Odd(), size=(SIZE, SIZE))
    plan = db.execute("PLAN EXPLAIN OCCLUDE ? USING odd WITH patch=16", [image])
    assert "runs as a whole" in str(plan)
    (heat,) = db.execute(
        "EXPLAIN OCCLUDE ? USING odd FOR CLASS 2 WITH patch=16 stride=8 score=logit fill=black", [image]
    )
    grid = WindowGrid.over((SIZE, SIZE), (16, 16), (8, 8))
    _, logits = brute_force(Odd(), unit(image), grid, np.zeros(3))
    np.testing.assert_allclose(heat.scores, logits[..., 2], atol=1e-5)


def test_two_input_sizes_of_the_same_weights(db: Any, pixels: Any) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    small = db.create_model("small", net, size=(24, 24))
    large = db.create_model("large", net, size=(40, 40))
    assert small.model_hash == large.model_hash
    (heat,) = db.execute("EXPLAIN OCCLUDE ? USING small WITH patch=8 stride=8", [pixels(1, 24)])
    assert heat.shape == (3, 3) and heat.placement.model_size == (24, 24)
    (heat,) = db.execute("EXPLAIN OCCLUDE ? USING large WITH patch=8 stride=8", [pixels(1, 40)])
    assert heat.shape == (5, 5)


def test_windows_that_hide_nothing_have_the_numbers_of_the_image_itself(net_db: Any, tmp_path: Path) -> None:
    pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
    pixels[12:28, 12:28] = np.random.default_rng(0).integers(1, 256, (16, 16, 3))
    Image.fromarray(pixels).save(tmp_path / "scan.png")
    query = f"EXPLAIN OCCLUDE '{tmp_path}/scan.png' USING net WITH patch=8 stride=4 fill=black NO REUSE"
    taken = net_db.execute(query)[0]
    empty = [
        (row, col)
        for row, top in enumerate(range(0, SIZE - 7, 4))
        for col, left in enumerate(range(0, SIZE - 7, 4))
        if not pixels[top : top + 8, left : left + 8].any()
    ]
    assert len(empty) > 10 and all(taken.importance[at] == 0 for at in empty)
    plan = str(net_db.execute(f"PLAN ANALYZE {query}"))
    assert "skip_unchanged" in plan and "windows that hide nothing" in plan
    net_db.execute("SET obeql.disabled_rules = 'skip_unchanged'")
    assert "windows that hide nothing" not in str(net_db.execute(f"PLAN ANALYZE {query}"))
    np.testing.assert_allclose(net_db.execute(query)[0].importance, taken.importance, rtol=0, atol=1e-6)


def test_an_image_of_several_labels_has_a_map_for_each(net_db: Any, folder: Path, tiny_net: Any) -> None:
    one, two = (str(folder / name) for name in ("scan1.png", "scan2.png"))
    given = f"('{one}', 'bee', 1), ('{two}', 'cat', 2), ('{one}', 'ant', 3), ('{one}', 'bee', 4)"
    rows = f"(VALUES {given}) AS t(path, label, n)"
    net_db.execute(f"CREATE IMAGES pets FROM (SELECT * FROM {rows})")
    assert net_db.execute("SELECT path, label FROM image_sets ORDER BY place").fetchall() == [
        (one, "bee"),
        (two, "cat"),
        (one, "ant"),
    ]
    expected = [(one, "bee"), (one, "ant"), (two, "cat")]
    for source in ("pets", f"(SELECT path, label FROM {rows})"):
        result = net_db.execute(f"EXPLAIN OCCLUDE {source} USING net FOR LABEL WITH patch=16 INTO OR REPLACE labelled")
        assert [(heat.path, heat.label) for heat in result] == expected
        assert [heat.class_name for heat in result] == [label for _, label in expected]
        for stored in (net_db.run("labelled"), net_db.run(result.run_id)):
            assert [(heat.path, heat.label) for heat in stored] == expected
        said = net_db.execute("SELECT path, label, class_name FROM heatmaps WHERE run_name = 'labelled'").fetchall()
        assert sorted(said) == sorted((path, label, label) for path, label in expected)
    alone = net_db.execute(f"EXPLAIN OCCLUDE '{one}' USING net FOR CLASS 'ant' WITH patch=16 NO REUSE")[0]
    np.testing.assert_array_equal(result[1].scores, alone.scores)
    assert len(net_db.execute("EXPLAIN OCCLUDE pets USING net WITH patch=16")) == 2, "FOR PREDICTED has one an image"
    assert len(net_db.execute("PREDICT pets USING net FOR TOP 1").fetchall()) == 3


def test_labels_that_come_with_the_maps_survive_other_labels(net_db: Any, folder: Path) -> None:
    source = "(SELECT '{path}' AS path, '{label}' AS label)"
    for label in ("bee", "cat"):
        chosen = source.format(path=folder / "scan1.png", label=label)
        net_db.execute(f"EXPLAIN OCCLUDE {chosen} USING net FOR LABEL WITH patch=16 INTO {label}")
    assert [net_db.run(name)[0].label for name in ("bee", "cat")] == ["bee", "cat"]
    assert net_db.execute("SELECT run_name, label FROM heatmaps ORDER BY ALL").fetchall() == [
        ("bee", "bee"),
        ("cat", "cat"),
    ]


@pytest.mark.usefixtures("quick_workers")
@pytest.mark.parametrize("kind", ["duckdb", "parquet"])
def test_labels_of_maps_that_workers_write(kind: str, net_db: Any, folder: Path, tmp_path: Path) -> None:
    one, two = (str(folder / name) for name in ("scan1.png", "scan2.png"))
    net_db.execute(f"SET obeql.store = '{kind}'")
    net_db.execute(f"SET obeql.store_folder = '{tmp_path / 'maps'}'")
    rows = f"(VALUES ('{one}', 'bee'), ('{two}', 'cat'), ('{one}', 'ant')) AS t(path, label)"
    result = net_db.execute(
        f"EXPLAIN OCCLUDE (SELECT * FROM {rows}) USING net FOR LABEL WITH patch=16 workers=2 INTO apart"
    )
    expected = [(one, "bee"), (one, "ant"), (two, "cat")]
    assert [(heat.path, heat.label) for heat in result] == expected
    said = net_db.execute("SELECT path, label, class_name FROM heatmaps WHERE run_name = 'apart'").fetchall()
    assert sorted(said) == sorted((path, label, label) for path, label in expected)
