"""Pictures: gray stays gray, the sign has its color, odd maps draw, and nothing global is touched."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from obeql.drawing.colors import Palette, bar_pixels, symmetric_limit
from obeql.drawing.map_layers import color_map
from obeql.drawing.overlay import overlay, picture_bytes
from obeql.drawing.scale_bar import fitted
from obeql.drawing.sheet import sheet
from obeql.errors import QueryTypeError
from obeql.executor.images import SourceImage, decode_object, place
from obeql.planner.catalog import Preprocessing
from obeql.planner.cells import CellKey, MapCells
from obeql.planner.grid import WindowGrid
from obeql.results.heatmap import Heatmap
from obeql.results.result import Result

GREY = decode_object(Image.new("L", (80, 60), 128), "gray")
HOW = Preprocessing((48, 48), mean=(0.5,), std=(0.2,))


def heatmap(
    importance: np.ndarray | float, source: SourceImage = GREY, how: Preprocessing = HOW, **more: Any
) -> Heatmap:
    """A map of given importances (11 x 11 cells): patch 8, stride 4 on 48 x 48."""
    grid = WindowGrid.over(how.size, (8, 8), (4, 4))
    rows, cols = (np.array(axis.starts, np.int32) for axis in (grid.rows, grid.cols))
    lengths = np.full(11, 8, np.int32)
    logit = np.broadcast_to(-np.asarray(importance, np.float32), grid.shape)
    key = CellKey(more.pop("image_hash", source.digest), "m", "p", (8, 8), "mean", "float32")
    cells = MapCells(
        key,
        0,
        (rows, cols),
        (lengths, lengths),
        logit,
        np.zeros_like(logit),
        np.zeros(grid.shape, np.int32),
        0.0,
        0.0,
        0,
    )
    more.setdefault("picture", source)
    name = more.pop("image", "gray.png")
    return Heatmap(
        cells, "log_odds", name, more.pop("class_name", "cat"), "net", (4, 4), place(source.size, how), **more
    )


def two_sided() -> np.ndarray:
    importance = np.zeros((11, 11))
    importance[2:4, 2:4], importance[7:9, 7:9] = 3, -2
    return importance


def drawn(heat: Heatmap, **options: Any) -> np.ndarray:
    """The image part of the picture as it is drawn, one picture pixel a source pixel."""
    height, width = heat.placement.source_size
    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    ax = figure.add_axes((0, 0, 1, 1))
    overlay(heat, ax, outline=False, title="", **options)
    return np.asarray(Image.open(BytesIO(picture_bytes(figure, ".png", 100))).convert("RGB")).astype(int)


def test_grey_stays_grey_where_nothing_matters() -> None:
    pixels = drawn(heatmap(np.zeros((11, 11))))
    assert (pixels == 128).all()


def test_red_is_for_and_blue_against() -> None:
    pixels = drawn(heatmap(two_sided()))
    # Window (2, 2) starts at model pixel (8, 8) of 48 x 48, the image is 60 x 80.
    red, blue = pixels[int(16 * 60 / 48), int(16 * 80 / 48)], pixels[int(36 * 60 / 48), int(36 * 80 / 48)]
    assert red[0] > red[2] + 60 and blue[2] > blue[0] + 40
    assert (pixels[:3, -10:] == 128).all()


def test_the_picture_is_the_source_not_the_normalized_input() -> None:
    rng = np.random.default_rng(0)
    color = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    source = decode_object(Image.fromarray(color), "x")
    pixels = drawn(heatmap(0.0, source))
    np.testing.assert_allclose(pixels, color, atol=1)
    bgr = Preprocessing((48, 48), channels="bgr", mean=(0.5,), std=(0.2,))
    np.testing.assert_allclose(drawn(heatmap(0.0, source, bgr)), color, atol=1)


def test_only_the_crop_is_colored() -> None:
    how = Preprocessing((48, 48), "shortest", 48)
    pixels = drawn(heatmap(np.ones((11, 11)), how=how))
    colored = (np.ptp(pixels, axis=2) > 10).any(axis=0)
    assert colored.sum() == pytest.approx(60, abs=2) and not colored[:9].any() and not colored[-9:].any()


@pytest.mark.parametrize(
    ("importance", "limit"),
    [
        (np.full((11, 11), 2.0), 2),
        (np.full((11, 11), -2.0), 2),
        (0.0, 1),
        (np.nan, 1),
        (np.full((11, 11), 1e-20), 1e-20),
    ],
)
def test_odd_maps_have_symmetric_scales(importance: Any, limit: float) -> None:
    ax = overlay(heatmap(importance))
    mappable = ax.images[1]
    assert mappable.get_clim() == pytest.approx((-limit, limit), rel=1e-6)
    picture_bytes(ax.get_figure(root=True), ".png", 40)


def test_limits() -> None:
    assert symmetric_limit(np.array([np.nan, -3.0, 2.0, np.inf])) == 3
    assert overlay(heatmap(two_sided()), limit=10).images[-1].get_clim() == (-10, 10)
    for bad in (0, -1, float("nan")):
        with pytest.raises(QueryTypeError, match="limit must be a positive number"):
            overlay(heatmap(1.0), limit=bad)
    with pytest.raises(QueryTypeError, match="alpha"):
        overlay(heatmap(1.0), alpha=2)


def test_colors_are_clear_at_zero_and_opaque_at_the_ends() -> None:
    colors = color_map(Palette(0.6))
    assert colors(0.5)[3] == 0 and colors(0.0)[3] == pytest.approx(0.6) and colors(1.0)[3] == pytest.approx(0.6)
    assert colors(1.0)[0] > colors(1.0)[2] and colors(0.0)[2] > colors(0.0)[0]
    assert colors(np.ma.masked_invalid([np.nan]))[0, 3] == 0


def test_smoothing_keeps_values_and_gaps() -> None:
    importance = two_sided()
    importance[5, 5:] = np.nan
    heat = heatmap(importance)
    plain, smooth = (overlay(heat, smooth=choice).images[-1].get_array() for choice in (False, True))
    assert np.array_equal(plain.mask, smooth.mask)
    assert np.abs(smooth).max() <= np.abs(plain).max() + 1e-6
    assert smooth[1, 1] == plain[1, 1]


def test_titles_labels_and_notes() -> None:
    ax = overlay(heatmap(two_sided(), image="scans/$a_b$.png"))
    texts = [text.get_text() for text in ax.texts]
    assert "$a_b$.png · cat" in texts and "window" in texts
    assert ax.get_title(loc="left") == "log-odds 0 (probability 0.5) · window 8x8 px, stride 4"
    assert ax.child_axes[0].get_ylabel() == "← against    drop in log-odds when hidden (nats)    for →"
    assert len(ax.patches) == 4, "two frames, white on black"
    assert ax.get_xlabel() == ""
    assert len(overlay(heatmap(-1.0)).patches) == 2, "no window is evidence for the class"


def test_a_missing_or_changed_picture_is_said_not_raised() -> None:
    gone = overlay(heatmap(two_sided(), picture="nowhere.png"))
    assert "drawn without its image" in gone.get_xlabel()
    changed = overlay(heatmap(two_sided(), image_hash="other")).get_xlabel()
    assert "no longer the image" in changed.replace("\n", " ")
    assert len(gone.images) == 1


def test_saving_is_repeatable_and_says_nothing_of_the_machine(tmp_path: Path) -> None:
    heat = heatmap(two_sided())
    heat.save(tmp_path / "a.png", beside=True, dpi=60)
    heat.save(tmp_path / "b.png", beside=True, dpi=60)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        assert set(image.info) <= {"dpi", "obeql"}
        assert str(tmp_path) not in image.info["obeql"]
    for name in ("a.pdf", "a.svg", "a.jpg"):
        heat.save(tmp_path / name)
        content = (tmp_path / name).read_bytes()
        assert content and b"CreationDate" not in content and str(tmp_path).encode() not in content
    assert heat._repr_png_().startswith(b"\x89PNG")


def test_sheets(tmp_path: Path) -> None:
    maps = [heatmap(two_sided() * k) for k in (1, 2, 3)]
    figure = sheet(maps, shared=True)
    panels = [ax for ax in figure.axes if len(ax.images) == 2]
    assert {ax.images[-1].get_clim() for ax in panels} == {(-9.0, 9.0)}
    Result(tuple(maps)).save(tmp_path / "sheet.png", dpi=30)
    Result(tuple(maps[:1])).save(tmp_path / "one.npy")
    assert (tmp_path / "sheet.png").stat().st_size > 0
    with pytest.raises(QueryTypeError, match="no heat map to draw"):
        sheet([])
    with pytest.raises(QueryTypeError, match="at most 64 maps, not 65"):
        sheet(maps[:1] * 65)
    with pytest.raises(QueryTypeError, match="columns must be positive"):
        sheet(maps, columns=-1)
    with pytest.raises(QueryTypeError, match="is a numpy file, which takes no options, not dpi"):
        Result(tuple(maps)).save(tmp_path / "sheet.npz", dpi=30)


def test_drawing_works_in_threads() -> None:
    heat = heatmap(two_sided())
    with ThreadPoolExecutor(4) as pool:
        pictures = list(pool.map(lambda _: heat._repr_png_(), range(4)))
    assert len(set(pictures)) == 1


def test_drawing_does_without_pyplot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    assert heatmap(two_sided())._repr_png_()


def test_a_label_that_is_longer_than_its_bar_takes_two_lines() -> None:
    label = ("← against", "drop in log-odds when hidden (nats)", "for →")
    assert fitted(label, 4.0) == "    ".join(label)
    assert fitted(label, 2.0) == "drop in log-odds when hidden (nats)\n← against        for →"


def holed() -> Heatmap:
    """A map whose upper half no window covers, though nothing matters anywhere."""
    importance = np.zeros((11, 11), np.float32)
    importance[:6] = np.nan
    return heatmap(importance)


def test_what_was_not_computed_is_hatched_and_zero_is_not() -> None:
    pixels = drawn(holed())
    assert (pixels[31:] == 128).all()
    above = pixels[:28]
    assert np.ptp(above) > 10 and (np.ptp(above, axis=2) == 0).all(), "gray lines"
    assert keys(overlay(holed())) == ["not computed"]
    assert keys(overlay(heatmap(np.zeros((11, 11))))) == []


def test_what_the_model_does_not_see_is_hatched_the_other_way() -> None:
    heat = heatmap(np.zeros((11, 11)), how=Preprocessing((48, 48), "shortest", 48))
    pixels = drawn(heat)
    assert (pixels[:, 12:-12] == 128).all() and np.ptp(pixels[:, :8]) > 10
    assert keys(overlay(heat)) == ["outside of the model's input"]


def keys(ax: Any) -> list[str]:
    found = ax.get_legend()
    return [] if found is None else [text.get_text() for text in found.get_texts()]


def test_an_estimated_window_is_framed_dashed_and_the_key_says_so() -> None:
    heat = heatmap(two_sided())
    assert keys(overlay(heat)) == ["most important window"]
    guess = replace(heat, cells=replace(heat.cells, exact=np.zeros((11, 11), bool), quality={"approx": True}))
    ax = overlay(guess)
    assert keys(ax) == ["most important window, estimated"]
    assert ax.patches[1].get_linestyle() != "-"


def test_the_scale_covers_the_most_important_window() -> None:
    importance = np.zeros((11, 11))
    importance[5, 5] = 3.0  # of its pixels the mean over windows is less
    heat = heatmap(importance)
    assert heat.to_pixels().max() < 3
    assert overlay(heat).images[-1].get_clim() == (-3, 3)


@pytest.mark.parametrize(
    ("sign", "limits", "ends"),
    [
        ("all", (-3, 3), "← against    {}    for →"),
        ("positive", (0, 3), "{}    for →"),
        ("negative", (-2, 0), "← against    {}"),
        ("absolute", (0, 3), "{}    for or against →"),
    ],
)
def test_one_sign_alone(sign: Any, limits: tuple[float, float], ends: str) -> None:
    heat = heatmap(two_sided())
    ax = overlay(heat, sign=sign)
    assert ax.images[-1].get_clim() == limits
    assert ax.child_axes[0].get_ylabel() == ends.format("drop in log-odds when hidden (nats)")
    pixels = drawn(heat, sign=sign)
    red = np.ptp(pixels[int(16 * 60 / 48), int(16 * 80 / 48)])
    blue = np.ptp(pixels[int(36 * 60 / 48), int(36 * 80 / 48)])
    assert (red > 40) == (sign != "negative") and (blue > 40) == (sign != "positive")


def test_a_colormap_by_name_or_itself() -> None:
    from matplotlib import colormaps

    heat = heatmap(np.full((11, 11), 2.0))
    by_name = drawn(heat, cmap="viridis", alpha=1.0)
    assert np.array_equal(by_name, drawn(heat, cmap=colormaps["viridis"], alpha=1.0))
    yellow = np.rint(np.array(colormaps["viridis"](1.0)[:3]) * 255)
    assert abs(by_name[30, 40] - yellow).max() <= 2
    assert np.array_equal(by_name, drawn(heat, cmap="VIRIDIS", alpha=1.0))
    with pytest.raises(QueryTypeError, match=r"no colormap of matplotlib.*Did you mean 'viridis'"):
        overlay(heat, cmap="viridid")
    with pytest.raises(QueryTypeError, match="sign 'plus' is unknown; allowed are all, positive"):
        overlay(heat, sign="plus")  # type: ignore[arg-type]


def test_a_map_without_its_color_bar() -> None:
    assert overlay(heatmap(two_sided())).child_axes and not overlay(heatmap(two_sided()), colorbar=False).child_axes


def test_images_by_classes_are_a_matrix_with_the_image_first_and_one_bar() -> None:
    other = decode_object(Image.new("L", (80, 60), 90), "other")
    maps = [
        heatmap(two_sided() * k, source, image=name, class_name=class_name, label="sick")
        for source, name in ((GREY, "a.png"), (other, "b.png"))
        for k, class_name in ((1, "cat"), (2, "dog"))
    ]
    figure = Result(tuple(maps)).plot()
    panels = [ax for ax in figure.axes if ax.images]
    assert [len(ax.images) for ax in panels] == [1, 2, 2, 1, 2, 2]
    heads = [next(text.get_text() for text in ax.texts if text.get_text() != "window") for ax in panels]
    assert heads == ["a.png", "cat", "dog", "b.png", "cat", "dog"]
    assert "label sick" in panels[0].get_title(loc="left")
    bars = [ax for ax in figure.axes if ax not in panels]
    assert len(bars) == 1 and not any(ax.child_axes for ax in panels)
    in_rows = Result(tuple(maps)).plot(columns=4)
    assert len([ax for ax in in_rows.axes if ax.images]) == 4
    apart = Result(tuple(maps)).plot(shared=False)
    assert all(ax.child_axes for ax in apart.axes if ax.images)


def test_every_way_of_drawing_has_the_same_color_bar() -> None:
    heat = heatmap(two_sided())
    shown = bar_pixels(Palette(), 257)
    colors = overlay(heat).images[-1].get_cmap()(np.linspace(0, 1, 257))
    for row, ground in enumerate((0.0, 1.0)):
        mixed = colors[:, :3] * colors[:, 3:] + ground * (1 - colors[:, 3:])
        np.testing.assert_allclose(shown[row], mixed * 255, atol=1)
