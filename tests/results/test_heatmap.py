"""A heat map's views agree with each other and with brute force; files and texts say what it holds."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from obeql.errors import ImageError, QueryTypeError
from obeql.executor.images import decode_object, place
from obeql.planner.borders import Border
from obeql.planner.catalog import Preprocessing
from obeql.planner.cells import CellKey, FailedImage, MapCells
from obeql.planner.grid import WindowGrid
from obeql.results.heatmap import Heatmap
from obeql.results.result import Result

RNG = np.random.default_rng(0)


def heatmap(
    logit: np.ndarray | None = None,
    size: tuple[int, int] = (30, 41),
    patch: tuple[int, int] = (8, 6),
    stride: tuple[int, int] = (3, 4),
    border: Border = "cover",
    how: Preprocessing | None = None,
    source_size: tuple[int, int] | None = None,
    **more: Any,
) -> Heatmap:
    grid = WindowGrid.over(size, patch, stride, border)
    axes = [np.array(a, np.int32) for a in (grid.rows.starts, grid.cols.starts, grid.rows.lengths, grid.cols.lengths)]
    values = RNG.normal(size=grid.shape) if logit is None else np.broadcast_to(logit, grid.shape)
    cells = MapCells(
        key=CellKey(more.pop("image_hash", "hash"), "m", "p", patch, "mean", "float32"),
        class_id=1,
        starts=(axes[0], axes[1]),
        lengths=(axes[2], axes[3]),
        logit=values.astype(np.float32),
        others=np.full(grid.shape, 0.25, np.float32),
        top_class=np.zeros(grid.shape, np.int32),
        clean_logit=float(more.pop("clean_logit", 2.0)),
        clean_others=0.25,
        clean_top_class=1,
        exact=more.pop("exact", None),
        quality=more.pop("quality", {}),
    )
    placement = place(source_size or size, how or Preprocessing(size))
    return Heatmap(cells, "log_odds", "scans/a.png", "dog", "net", stride, placement, classes=("cat", "dog"), **more)


def brute_force(heat: Heatmap) -> np.ndarray:
    total, count = np.zeros((2, *heat.placement.model_size))
    for r, (top, height) in enumerate(zip(heat.tops, heat.heights, strict=True)):
        for c, (left, width) in enumerate(zip(heat.lefts, heat.widths, strict=True)):
            if np.isfinite(heat.importance[r, c]):
                total[top : top + height, left : left + width] += heat.importance[r, c]
                count[top : top + height, left : left + width] += 1
    return np.where(count > 0, total, np.nan) / np.maximum(count, 1)


def test_importing_results_imports_neither_torch_nor_matplotlib() -> None:
    code = "import sys, obeql.results.result; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_scores_and_importance() -> None:
    heat = heatmap()
    assert heat.scores.dtype == heat.importance.dtype == np.float32
    np.testing.assert_allclose(heat.scores, heat.cells.logit - 0.25, rtol=1e-6)
    np.testing.assert_allclose(heat.importance, heat.clean_score - heat.scores, rtol=1e-5, atol=1e-6)
    assert heat.clean_score == 1.75 and heat.class_id == 1 and heat.patch == (8, 6)
    as_probability = heat.as_score("probability")
    np.testing.assert_allclose(as_probability.scores, 1 / (1 + np.exp(-heat.scores)), rtol=1e-6)
    assert as_probability.as_score("log_odds").importance.tolist() == heat.importance.tolist()
    with pytest.raises(QueryTypeError, match="Did you mean 'logit'"):
        heat.as_score("logits")
    with pytest.raises(ValueError, match="read-only"):
        heat.importance[0, 0] = 1


@pytest.mark.parametrize("border", ["cover", "valid", "clip"])
def test_pixels_are_the_mean_of_covering_windows(border: Border) -> None:
    for patch, stride in (((8, 6), (3, 4)), ((5, 7), (5, 7)), ((30, 41), (1, 1))):
        heat = heatmap(patch=patch, stride=stride, border=border)
        np.testing.assert_allclose(heat.to_pixels(), brute_force(heat), rtol=1e-5, atol=1e-6)
    assert heat.to_pixels().dtype == np.float32


def test_pixels_without_a_computed_window_are_nan() -> None:
    gaps = heatmap(patch=(2, 2), stride=(5, 5), border="valid")
    assert np.isnan(gaps.to_pixels()[2:5]).all()
    logit = RNG.normal(size=heatmap().shape)
    logit[2:6, 3:8] = np.nan
    logit[0, 0] = np.inf
    heat = heatmap(logit)
    np.testing.assert_allclose(heat.to_pixels(), brute_force(heat), rtol=1e-5, atol=1e-6)
    assert np.isnan(heatmap(np.array(np.nan)).to_pixels()).all()


def test_source_pixels_follow_the_placement() -> None:
    twice = heatmap(source_size=(60, 82))
    np.testing.assert_array_equal(twice.to_pixels("source"), np.kron(twice.to_pixels(), np.ones((2, 2))))
    crop = heatmap(size=(20, 20), how=Preprocessing((20, 20), "shortest", 30), source_size=(60, 90))
    pixels = crop.to_pixels("source")
    assert pixels.shape == (60, 90)
    assert np.isnan(pixels[:10]).all() and np.isnan(pixels[:, :24]).all() and np.isnan(pixels[50:]).all()
    np.testing.assert_array_equal(pixels[10:50:2, crop.placement.crop[1] * 2 :: 2][:, :20], crop.to_pixels())
    with pytest.raises(QueryTypeError, match="allowed are 'model' and 'source'"):
        crop.to_pixels("screen")  # type: ignore[arg-type]


def test_top_cells_are_the_largest_with_ties_in_row_major_order() -> None:
    logit = np.zeros(heatmap().shape)
    logit[4, 2] = logit[1, 7] = -3
    logit[0, 1], logit[5, 5] = np.nan, 9
    heat = heatmap(logit)
    assert [(cell.row, cell.col) for cell in heat.top(4)] == [(1, 7), (4, 2), (0, 0), (0, 2)]
    best = heat.top(1)[0]
    assert (best.top, best.left, best.height, best.width) == (3, 28, 8, 6)
    assert best.importance == 5 and best.score == -3.25 and best.exact and best.top_class == 0
    assert len(heat.top(10_000)) == logit.size - 1
    with pytest.raises(QueryTypeError, match="at least one"):
        heat.top(0)


def test_quality_fields() -> None:
    exact = heatmap()
    assert not exact.approx and exact.bound is None and exact.share_exact == 1
    mask = np.zeros(exact.shape, bool)
    mask[0] = True
    quality = {"approx": True, "metric": "ssim", "target": 0.9, "confidence": 0.95, "bound": 0.93, "n_audit": 60}
    heat = heatmap(exact=mask, quality={**quality, "seed": 7})
    assert {name: getattr(heat, name) for name in quality} == quality and heat.seed == 7
    assert heat.share_exact == pytest.approx(1 / heat.shape[0])
    assert not heat.top(1)[0].exact or heat.top(1)[0].row == 0
    assert "ssim >= 0.93" in repr(heat)


def test_cells_of_a_reduced_precision_are_told() -> None:
    exact = heatmap()
    assert (exact.share_reduced, exact.reduced_precision, exact.quality) == (0.0, None, "exact")
    size = exact.scores.size
    mask = np.zeros(exact.shape, bool)
    mask[0] = True
    quality = {"approx": True, "metric": "ssim", "bound": 0.931, "n_exact": exact.shape[1]}
    heat = heatmap(exact=mask, quality={**quality, "reduced_precision": "bfloat16", "n_reduced": size // 2})
    assert heat.share_reduced == pytest.approx(size // 2 / size) and heat.reduced_precision == "bfloat16"
    words = f"ssim >= 0.931, {1 / exact.shape[0]:.0%} of cells computed, {heat.share_reduced:.0%} in bfloat16"
    assert heat.quality == words and words in repr(heat)
    assert words in str(Result((heat,))) and words.replace(">", "&gt;") in Result((heat,))._repr_html_()


def test_saturated_maps_say_so() -> None:
    heat = heatmap(RNG.normal(size=heatmap().shape) + 25, clean_logit=25.0)
    assert heat.warning == ""
    assert "use score=log_odds" in heat.as_score("probability").warning
    assert "saturated" in heat.as_score("probability").warning
    constant = heatmap(np.array(2.0))
    assert constant.warning == "no window changes the log-odds: the map is constant up to rounding"
    assert "log_odds" not in constant.as_score("probability").warning
    alike = heatmap(np.array(3.0)).warning
    assert alike == "every window changes the log-odds by the same +1: the map says nothing about places"
    assert heatmap(np.array(np.nan)).warning == "no cell was computed"


def test_pictures_are_opened_late_and_checked(tmp_path: Path) -> None:
    assert heatmap(picture=lambda: 1 / 0).shape, "nothing is opened by making a map"
    source = decode_object(Image.new("RGB", (41, 30), (9, 9, 9)), "x")
    path = tmp_path / "a.png"
    Image.new("RGB", (41, 30), (9, 9, 9)).save(path)
    for picture in (source, path, str(path), lambda: source):
        assert heatmap(picture=picture, image_hash=source.digest).source().digest == source.digest
    assert heatmap(path=str(path), image_hash=source.digest).source().size == (30, 41)
    with pytest.raises(ImageError, match="no longer the image that was explained"):
        heatmap(path=str(path)).source()
    with pytest.raises(ImageError, match="handed over from Python"):
        heatmap().source()


def test_numbers_are_saved(tmp_path: Path) -> None:
    heat = heatmap()
    heat.save(tmp_path / "a.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), heat.importance)
    heat.save(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as saved:
        np.testing.assert_array_equal(saved["scores"], heat.scores)
        np.testing.assert_array_equal(saved["tops"], heat.tops)
        assert str(saved["class_name"]) == "dog" and float(saved["clean_score"]) == 1.75
    with pytest.raises(QueryTypeError, match=r"needs a suffix of \.png"):
        heat.save(tmp_path / "a.bmp")
    with pytest.raises(QueryTypeError, match="takes no options, not alpha"):
        heat.save(tmp_path / "a.npy", alpha=0.5)
    with pytest.raises(ImageError, match="there is no folder"):
        heat.save(tmp_path / "no" / "a.npy")


def test_result_is_a_sequence() -> None:
    maps = tuple(heatmap() for _ in range(3))
    failure = FailedImage(4, "b.png", "image 'b.png' is truncated")
    result = Result(maps, (failure,), run_id=12, run_name="first", seconds=1.5)
    assert len(result) == 3 and result[0] is maps[0] and result[-1] is maps[2] and list(result) == list(maps)
    assert isinstance(result[1:], Result) and len(result[1:]) == 2 and result[1:].run_id == 12
    assert {heat.score_kind for heat in result.as_score("logit")} == {"logit"}
    with pytest.raises(IndexError, match="the result has 3 heat maps"):
        result[3]


def test_result_prints_as_a_short_table() -> None:
    logit = np.zeros(heatmap().shape)
    logit[2, 3] = -1.25
    heat = heatmap(logit)
    text = str(Result((heat,), (FailedImage(4, "b.png", "is truncated"),), run_name="first", seconds=1.5))
    assert text.splitlines()[0] == "1 heat map, 1 image failed, run first, 1.5 s"
    assert text.splitlines()[2].split() == ["0", "a.png", "dog", "8x6", "9x10", "log_odds", "1.75", "+3.25", "exact"]
    assert text.splitlines()[3] == "failed: b.png: is truncated"
    assert "... 20 more" in str(Result((heat,) * 30)) and str(Result(())) == "0 heat maps"
    assert repr(Result((heat,) * 30, run_name="first")) == "<Result 30 heat maps, run first>"
    assert repr(heat) == "<Heatmap a.png, dog: 9 x 10 cells, clean log_odds 1.75, importance +2 .. +3.25>"


def test_table_lists_the_most_important_cells() -> None:
    logit = np.zeros(heatmap().shape)
    logit[2, 3] = -1.25
    heat = heatmap(logit)
    lines = Result((heat,)).table(2).splitlines()
    assert lines[0] == "scans/a.png · dog · clean log_odds 1.75"
    assert lines[2].split() == ["1", "(2,", "3)", "(6,", "12,", "8,", "6)", "+3.25", "-1.5", "cat"]
    assert len(lines) == 4
    empty = replace(heat, cells=replace(heat.cells, logit=np.full(heat.shape, np.nan, np.float32)))
    assert Result((empty,)).table().endswith("(no cell computed)") and "no cell computed" in repr(empty)
    assert "-" in str(Result((empty,)))


def test_maps_as_arrays() -> None:
    heat = heatmap()
    assert np.array_equal(np.asarray(heat), heat.importance, equal_nan=True)
    assert np.asarray(heat, np.float64).dtype == np.float64
    result = Result((heat, heat))
    assert result.importances.shape == (2, *heat.shape) and result.importances.dtype == np.float32
    assert Result(()).importances.shape == (0, 0, 0)
