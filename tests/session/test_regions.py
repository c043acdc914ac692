"""WINDOWS (SELECT ..): boxes and masks of a table or of Python, computed, stored, found again, drawn and exported."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import obeql
from obeql import Session
from obeql.errors import ObeqlError, QueryError, QueryTypeError

SIDE = 32
BOXES = [(2, 3, 10, 12), (0, 0, 5, 32), (16, 8, 16, 24), (20, 20, 1, 1), (2, 3, 10, 12)]
LABELS = np.zeros((SIDE, SIDE), np.uint8)
LABELS[4:12, 4:20] = 1
LABELS[6:9, 8:12] = 0
LABELS[18:30, 2:9] = 2
LABELS[20:25, 20:31] = 7


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, 3)
    return nn.Sequential(*layers).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("regions")
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        Image.fromarray(rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)).save(path / f"{name}.png")
    Image.fromarray(LABELS).save(path / "organs.png")
    Image.fromarray(LABELS[:9, :9]).save(path / "small.png")
    Image.fromarray((LABELS == 2).astype(np.uint8) * 255).save(path / "two.png")
    return path


@pytest.fixture
def db(folder: Path) -> Iterator[Session]:
    with obeql.connect() as session:
        session.create_model("m", network(), size=(SIDE, SIDE))
        rows = ", ".join(f"('box {i}', {', '.join(map(str, box))})" for i, box in enumerate(BOXES))
        session.execute(f'CREATE TABLE boxes AS FROM (VALUES {rows}) t(name, top, "left", height, width)')
        yield session


def hidden_scores(path: Path, masks: list[np.ndarray], class_id: int = 1) -> np.ndarray:
    """The log-odds of a class with each mask hidden by the image's mean, by a plain loop over the module itself."""
    pixels = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).double().permute(2, 0, 1) / 255
    module, fill = network().double(), pixels.mean(dim=(1, 2), keepdim=True)
    with torch.inference_mode():
        rows = [module(torch.where(torch.from_numpy(mask), fill, pixels)[None])[0] for mask in masks]
    logits = torch.stack(rows)
    others = torch.cat([logits[:, :class_id], logits[:, class_id + 1 :]], 1).logsumexp(1)
    return (logits[:, class_id] - others).numpy()


def box_mask(top: int, left: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[top : top + height, left : left + width] = True
    return mask


HOW = "score=log_odds precision=float64"
MASKS = [label == LABELS for label in (1, 2, 7)]


def test_boxes_of_a_query_are_a_plain_loop(db: Session, folder: Path) -> None:
    (heat,) = db.execute(
        f"EXPLAIN OCCLUDE '{folder / 'a.png'}' USING m FOR CLASS 1 WINDOWS (FROM boxes) WITH {HOW} INTO run"
    )
    expected = hidden_scores(folder / "a.png", [box_mask(*box) for box in BOXES])
    np.testing.assert_allclose(heat.scores[0], expected, atol=1e-6)
    assert [(cell.name, cell.top, cell.left, cell.height, cell.width) for cell in heat.regions] == [
        (f"box {i}", *box) for i, box in enumerate(BOXES)
    ]
    assert heat.regions[0].importance == heat.regions[4].importance  # windows may overlap, and be the same
    rows = db.execute("SELECT name, importance, top_px, width_px, exact FROM regions ORDER BY place").fetchall()
    assert rows == [(cell.name, pytest.approx(cell.importance), cell.top, cell.width, True) for cell in heat.regions]
    best = db.execute("SELECT top_px, left_px, height_px, width_px FROM top_cells('run', 'a', 1)").fetchall()
    top = heat.top(1)[0]
    assert best == [(top.top, top.left, top.height, top.width)]


@pytest.mark.parametrize("how", ["labels", "named", "rows", "listed"])
def test_masks_are_a_plain_loop(db: Session, folder: Path, how: str) -> None:
    folder_mask = str(folder / "two.png")
    windows: Any = {
        "labels": LABELS,
        "named": {"1": MASKS[0], "2": folder_mask, "7": MASKS[2]},
        "rows": [{"name": "1", "mask": MASKS[0]}, {"mask": folder_mask, "name": "2"}, {"name": "7", "mask": MASKS[2]}],
        "listed": MASKS,
    }[how]
    (heat,) = db.explain(folder / "a.png", "m", windows=windows, classes=1, score="log_odds", precision="float64")
    np.testing.assert_allclose(heat.scores[0], hidden_scores(folder / "a.png", MASKS), atol=1e-6)
    assert [cell.name for cell in heat.regions] == (["1", "2", "3"] if how == "listed" else ["1", "2", "7"])
    pixels = heat.to_pixels()
    assert np.array_equal(np.isfinite(pixels), LABELS > 0)
    for cell, mask in zip(heat.regions, MASKS, strict=True):
        np.testing.assert_allclose(pixels[mask], cell.importance, rtol=1e-6)


def test_they_are_captums_feature_ablation(db: Session, folder: Path) -> None:
    attr = pytest.importorskip("captum.attr")
    pixels = torch.from_numpy(np.array(Image.open(folder / "a.png"))).double().permute(2, 0, 1)[None] / 255
    fill = pixels.mean(dim=(2, 3), keepdim=True).expand_as(pixels)
    ids = torch.from_numpy(np.searchsorted([0, 1, 2, 7], LABELS)).expand_as(pixels)
    found = attr.FeatureAblation(network().double()).attribute(pixels, fill, target=2, feature_mask=ids)
    (heat,) = db.explain(folder / "a.png", "m", windows=LABELS, classes=2, score="logit", precision="float64")
    ours = heat.to_pixels()
    np.testing.assert_allclose(ours[LABELS > 0], found[0, 0].detach().numpy()[LABELS > 0], atol=1e-6)


def test_windows_of_a_map_inside_the_query(db: Session, folder: Path) -> None:
    """The two most important windows of a coarse map, each hidden again with what lies around it."""
    image = folder / "a.png"
    (heat,) = db.execute(
        f"EXPLAIN OCCLUDE '{image}' USING m FOR CLASS 1 WINDOWS (SELECT top_px - 2 AS top, left_px AS \"left\", "
        f"height_px + 2 AS height, width_px AS width FROM (EXPLAIN OCCLUDE '{image}' USING m FOR CLASS 1 "
        f"WITH patch=8 stride=4) WHERE top_px >= 2 ORDER BY importance DESC LIMIT 2) WITH {HOW}"
    )
    boxes = [box_mask(cell.top, cell.left, cell.height, cell.width) for cell in heat.regions]
    assert [(cell.height, cell.width) for cell in heat.regions] == [(10, 8)] * 2
    np.testing.assert_allclose(heat.scores[0], hidden_scores(image, boxes), atol=1e-6)


def test_a_picture_of_labels(db: Session, folder: Path) -> None:
    (heat,) = db.execute(
        f"EXPLAIN OCCLUDE '{folder / 'a.png'}' USING m FOR CLASS 1 WITH mask='{folder / 'organs.png'}' {HOW}"
    )
    np.testing.assert_allclose(heat.scores[0], hidden_scores(folder / "a.png", MASKS), atol=1e-6)
    assert [cell.name for cell in heat.regions] == ["1", "2", "7"]


def test_pictures_of_labels_of_each_image(db: Session, folder: Path) -> None:
    np.save(folder / "labels.npy", np.where(LABELS == 7, 3, 0))
    db.execute(
        f"CREATE TABLE pictures AS FROM (VALUES ('a', '{folder}/organs.png'), ('b', '{folder}/labels.npy')) "
        "t(image, labels)"
    )
    result = db.execute(f"EXPLAIN OCCLUDE '{folder}/[ab].png' USING m FOR CLASS 1 WINDOWS (FROM pictures) WITH {HOW}")
    assert [[cell.name for cell in heat.regions] for heat in result] == [["1", "2", "7"], ["3"]]
    np.testing.assert_allclose(result[1].scores[0], hidden_scores(folder / "b.png", [MASKS[2]]), atol=1e-6)


def test_segments_of_each_image(db: Session, folder: Path) -> None:
    segmentation = pytest.importorskip("skimage.segmentation")
    result = db.execute(f"EXPLAIN OCCLUDE '{folder}/[ab].png' USING m FOR CLASS 1 WITH segments=slic(9) {HOW}")
    for heat in result:
        pixels = np.asarray(Image.open(heat.image)) / np.float32(255)
        labels = segmentation.slic(pixels, n_segments=9, start_label=1, channel_axis=-1)
        masks = [labels == label for label in np.unique(labels)]
        np.testing.assert_allclose(heat.scores[0], hidden_scores(Path(heat.image), masks), atol=1e-6)
        assert np.isfinite(heat.to_pixels()).all()
    assert result.plan.options["segments"] == "slic(9)"
    assert result.plan.n_windows == sum(heat.shape[1] for heat in result)
    (heat,) = db.explain(folder / "a.png", "m", segments="slic(9)", classes=1, precision="float64")
    assert computed(db) == (0, heat.shape[1])  # the same segments are the same windows


def test_overlapping_regions_are_averaged_by_pixel(db: Session, folder: Path) -> None:
    windows = [(0, 0, 8, 8), (4, 4, 8, 8)]
    (heat,) = db.explain(folder / "a.png", "m", windows=windows, classes=0)
    first, second = (cell.importance for cell in heat.regions)
    pixels = heat.to_pixels()
    assert pixels[0, 0] == pytest.approx(first) and pixels[11, 11] == pytest.approx(second)
    assert pixels[5, 5] == pytest.approx((first + second) / 2)
    assert np.isnan(pixels[0, 11])


def test_pixels_in_sql_are_those_that_windows_hide(db: Session, folder: Path) -> None:
    """`pixel_map` of SQL is `to_pixels` of Python, where boxes and masks overlap: a mask hides no more than it says."""
    windows = {"ring": LABELS == 1, "box": (2, 3, 10, 12), "other": LABELS == 7, "again": LABELS == 1}
    (heat,) = db.explain(folder / "a.png", "m", windows=windows, classes=1, into="masks")
    found = np.full((SIDE, SIDE), np.nan)
    for y, x, importance, exact in db.execute("SELECT y, x, importance, exact FROM pixel_map('masks', 'a')").fetchall():
        found[y, x] = importance
        assert exact
    np.testing.assert_allclose(found, heat.to_pixels(), rtol=1e-6)
    n_pixels = np.isfinite(found).sum()
    assert db.execute("SELECT count(*), max(rank) FROM deletion_order('masks', 'a')").fetchall() == [(n_pixels,) * 2]


def test_captum_gives_the_same_for_a_feature_mask(db: Session, folder: Path) -> None:
    """FeatureAblation hides one segment after the other and gives every pixel of it output - output without it."""
    attr = pytest.importorskip("captum.attr")
    (heat,) = db.explain(
        folder / "a.png", "m", windows=LABELS, classes=1, score="logit", fill="black", precision="float64"
    )
    pixels = torch.from_numpy(np.array(Image.open(folder / "a.png"))).double().permute(2, 0, 1)[None] / 255
    features = torch.from_numpy(LABELS.astype(np.int64))[None, None]
    with torch.inference_mode():
        theirs = attr.FeatureAblation(network().double()).attribute(pixels, target=1, feature_mask=features)
    for region, mask in zip(heat.regions, MASKS, strict=True):
        np.testing.assert_allclose(theirs[0, 0].numpy()[mask], region.importance, atol=1e-6)


def test_each_image_has_its_own(db: Session, folder: Path) -> None:
    db.execute(
        "CREATE TABLE found AS FROM (VALUES "
        "('a', 0, 0, 4, 4), ('b', 8, 8, 4, 4), ('b', 1, 2, 3, 4), ('zz', 0, 0, 1, 1)) "
        't(image, top, "left", height, width)'
    )
    result = db.execute(
        f"EXPLAIN OCCLUDE '{folder}/[abc].png' USING m FOR CLASS 1 WINDOWS (FROM found) WITH {HOW} INTO each"
    )
    assert [[(c.top, c.left) for c in heat.regions] for heat in result] == [[(0, 0)], [(8, 8), (1, 2)]]
    for heat, boxes in zip(result, ([(0, 0, 4, 4)], [(8, 8, 4, 4), (1, 2, 3, 4)]), strict=True):
        expected = hidden_scores(Path(heat.image), [box_mask(*box) for box in boxes])
        np.testing.assert_allclose(heat.scores[0], expected, atol=1e-6)
    assert [failure.error for failure in result.failures] == [f"{folder}/c.png: no window is listed for this image"]
    counts = db.execute("SELECT image, count(*) FROM regions GROUP BY ALL ORDER BY ALL").fetchall()
    assert counts == [("a", 1), ("b", 2)]


def test_workers_share_the_images(folder: Path, tmp_path: Path, quick_workers: None) -> None:
    """Each image's own windows, with names and masks, are those of one process; one without any fails by itself."""
    mask = MASKS[0].astype(int).tolist()
    windows = [
        {"image": "a", "name": "kidney", "top": 0, "left": 0, "height": SIDE, "width": SIDE, "mask": mask},
        {"image": "b", "name": "one", "top": 8, "left": 8, "height": 4, "width": 4, "mask": None},
        {"image": "b", "name": "two", "top": 1, "left": 2, "height": 3, "width": 4, "mask": None},
    ]
    images = [folder / f"{name}.png" for name in "abc"]
    runs, seen = [], []
    for workers in (0, 2):
        with obeql.connect(tmp_path / f"{workers}.duckdb") as db:
            db.create_model("m", network(), size=(SIDE, SIDE))
            db.execute("SET obeql.threads = 1")
            result = db.explain(images, "m", windows=windows, workers=workers, on_progress=seen.append, into="run")
            found = "SELECT image, name, importance, top_px, left_px, height_px, width_px FROM regions ORDER BY ALL"
            pixels = "SELECT y, x, importance FROM pixel_map('run', 'a') ORDER BY ALL"
            rows = db.execute(found).fetchall()
            runs.append((rows, db.execute(pixels).fetchall(), [failure.error for failure in result.failures]))
    assert runs[0] == runs[1] and len(runs[0][0]) == 3
    assert (seen[-1].done, seen[-1].total) == (3, 3)
    with obeql.connect(tmp_path / "0.duckdb") as db:
        db.execute(f"SET obeql.store_folder = '{tmp_path / 'maps'}'")
        with pytest.raises(ObeqlError, match="Workers hand maps of windows to the database, not to files"):
            db.explain(images, "m", windows=windows, workers=2)


def computed(db: Session) -> tuple[int, int]:
    """Cells that the last run computed and took from the store."""
    found = "measured->>'cells_computed', measured->>'cells_stored'"
    ((new, old),) = db.execute(f"SELECT {found} FROM runs ORDER BY run_id DESC LIMIT 1").fetchall()
    return int(new), int(old)


def test_stored_regions_answer_for_the_same_pixels_alone(db: Session, folder: Path) -> None:
    image = folder / "a.png"

    def ask(windows: Any) -> Any:
        return db.explain(image, "m", windows=windows, classes=1)[0]

    first = ask({"x": LABELS == 1, "y": (2, 3, 10, 12)})
    assert computed(db) == (2, 0)
    again = ask({"other": (2, 3, 10, 12), "z": (2, 3, 10, 11), "name": LABELS == 1})  # other names, one more, turned
    assert computed(db) == (1, 2)
    assert again.regions[0].importance == first.regions[1].importance
    assert again.regions[2].importance == first.regions[0].importance
    assert [cell.name for cell in again.regions] == ["other", "z", "name"]
    box = first.regions[0]
    whole = ask([(box.top, box.left, box.height, box.width)])  # the box of the mask, not the mask
    assert computed(db) == (1, 0) and whole.regions[0].importance != box.importance
    other = np.zeros_like(LABELS, dtype=bool)
    other[box.top : box.top + box.height, box.left : box.left + box.width] = box.mask[::-1, ::-1]
    other[box.top, box.left] = False
    ask({"x": other})
    assert computed(db)[0] == 1
    db.explain(image, "m", patch=8, classes=1)  # nor does a grid answer, nor for one
    assert computed(db)[1] == 0


def test_a_file_keeps_names_and_masks(folder: Path, tmp_path: Path) -> None:
    with obeql.connect(tmp_path / "heat.duckdb") as db:
        db.create_model("m", network(), size=(SIDE, SIDE))
        (before,) = db.explain(folder / "a.png", "m", windows={"kidney": MASKS[0], "box": (1, 1, 5, 5)}, into="organs")
    with obeql.connect(tmp_path / "heat.duckdb", read_only=True) as db:
        (after,) = db.run("organs")
        assert [cell.name for cell in after.regions] == ["kidney", "box"]
        assert np.array_equal(after.regions[0].mask, before.regions[0].mask) and after.regions[1].mask is None
        assert np.array_equal(after.to_pixels(), before.to_pixels(), equal_nan=True)
    with obeql.connect(tmp_path / "heat.duckdb") as db:
        db.execute("DROP RUN organs")
        for table in ("region_rows", "mask_rows", "maps"):
            assert db.execute(f"SELECT count(*) FROM obeql_store.{table}").fetchall() == [(0,)]


def test_they_are_drawn_and_exported(db: Session, folder: Path, tmp_path: Path) -> None:
    result = db.explain(folder / "a.png", "m", windows={"kidney": MASKS[0], "box": (1, 1, 5, 5)}, into="organs")
    for name in ("organs.png", "organs.html", "organs.npz", "organs.gif"):
        db.execute(f"RENDER organs TO '{tmp_path / name}'")
        assert (tmp_path / name).stat().st_size
    assert "kidney" in (tmp_path / "organs.html").read_text()
    db.execute(f"EXPORT RUN organs TO '{tmp_path / 'windows.csv'}'")
    assert "kidney" in (tmp_path / "windows.csv").read_text()
    db.execute(f"EXPORT RUN organs TO '{tmp_path / 'maps'}'")
    found = db.execute(f"SELECT regions FROM '{tmp_path / 'maps' / 'heatmaps.parquet'}'").fetchall()
    assert found == [(["kidney", "box"],)]
    assert "kidney" in result.table() and "listed" in str(result)


def test_the_page_shows_pixels(db: Session, folder: Path) -> None:
    from obeql.web.map_frames import about_map, map_frame

    heat = db.explain(folder / "a.png", "m", windows={"kidney": MASKS[0], "box": (1, 1, 5, 5)})[0]
    about = about_map(heat)
    assert about["shape"] == (SIDE, SIDE) and about["tops"] == list(range(SIDE)) and len(about["best"]) == 2
    assert heat.to_pixels().tobytes() in map_frame(heat)


def test_plan_says_what_is_listed(db: Session, folder: Path) -> None:
    text = str(db.execute(f"PLAN EXPLAIN OCCLUDE '{folder / 'a.png'}' USING m WINDOWS (FROM boxes)"))
    assert (
        "5 listed windows of 1x1 to 16x24" in text
        and "patch" not in text.split("Rejected alternatives", maxsplit=1)[0].split("Physical")[1]
    )


VALUES = 'SELECT 1 AS top, 2 AS "left", 3 AS height, 4 AS width'


@pytest.mark.parametrize(
    ("select", "says"),
    [
        (VALUES.replace("1 AS top", "30 AS top"), "Row 1 of WINDOWS, (30, 2, 3, 4), reaches outside the 32x32 input"),
        (VALUES.replace("1 AS top", "-1 AS top"), "reaches outside the 32x32 input of model 'm'"),
        (VALUES.replace("3 AS", "0 AS"), "hides nothing: height and width are at least 1 pixel"),
        (VALUES.replace("3 AS", "NULL AS"), "Row 1 of WINDOWS: height is NULL"),
        (VALUES.replace("3 AS", "1.5 AS"), "height is 1.5; windows lie on whole pixels"),
        (VALUES.replace("3 AS", "'x' AS"), "height is 'x', which is no number of pixels"),
        (VALUES.replace("3 AS", "true AS"), "height is True; windows lie on whole pixels"),
        (VALUES.replace(", 3 AS height", ""), "yields the columns top, left, width; it lacks height"),
        (f"{VALUES} WHERE false", "WINDOWS yields no windows"),
        (f"{VALUES}, [[1, 0]] AS mask", "its mask is 1x2; a mask is 3x4, that of its box, or 32x32"),
        (f"{VALUES}, [[1], [0, 1]] AS mask", "a mask is a picture, or numbers in rows of equal length"),
        ("SELECT 'nowhere.png' AS mask", "there is no mask 'nowhere.png'"),
        ("SELECT NULL AS mask", "has neither a box nor a mask"),
        (f"{VALUES}, 'q' AS image", "lists no window of an image of the statement"),
        (f"{VALUES}, NULL AS path", "names no image: its path is NULL"),
    ],
)
def test_rows_that_are_no_windows(db: Session, folder: Path, select: str, says: str) -> None:
    text = f"EXPLAIN OCCLUDE '{folder / 'a.png'}' USING m\n  WINDOWS ({select})"
    with pytest.raises(ObeqlError) as raised:
        db.execute(text)
    assert says in str(raised.value)
    assert "(line 2, column 11)" in str(raised.value)


def test_what_duckdb_refuses_is_placed_in_the_text(db: Session, folder: Path) -> None:
    with pytest.raises(QueryTypeError, match=r"lists the windows fails(.|\n)*heigt(.|\n)*line 2, column 32"):
        db.execute(
            f"EXPLAIN OCCLUDE '{folder / 'a.png'}' USING m\n  WINDOWS (SELECT top, \"left\", heigt, width FROM boxes)"
        )


@pytest.mark.parametrize(
    ("tail", "says"),
    [
        ("WITH patch=3", "WINDOWS lists the windows, and patch lays out a grid"),
        ("WITH fill=mean stride=3", "and stride lays out a grid"),
        ("REGION (0, 0, 3, 3)", "and REGION cuts a grid"),
        ("APPROX 0.9", "APPROX estimates windows from their neighbors on a grid"),
        ("WITHIN 3 SECONDS", "WITHIN estimates"),
        ("TOP 3 CELLS", "TOP .. CELLS estimates"),
        ("ON ray", "ON ray with WINDOWS is not implemented"),
        ("WINDOWS (FROM boxes)", "WINDOWS is given twice"),
        ("WITH segments=slic(9)", "WINDOWS and segments both list the windows; give one of them"),
        ("WITH mask='organs.png'", "WINDOWS and mask both list the windows"),
    ],
)
def test_what_does_not_go_with_a_list(db: Session, folder: Path, tail: str, says: str) -> None:
    with pytest.raises(ObeqlError) as raised:
        db.execute(f"EXPLAIN OCCLUDE '{folder / 'a.png'}' USING m WINDOWS (FROM boxes) {tail}")
    assert says in str(raised.value)
    assert isinstance(raised.value, QueryError) and raised.value.line == 1


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("segments=slick(9)", "segments takes slic, not 'slick'. Did you mean 'slic'?"),
        ("segments=slic(0)", "segments takes a whole number of at least 1, not 0"),
        ("segments=slic(1000000)", "segments takes at most 10,000 segments, not 1,000,000"),
        ("segments=slic()", "segments takes one number"),
        ("segments=9", "as slic(100), not 9"),
        (
            "patch=slic(9)",
            "or 4x16x16 for depth x height x width, not slic(..)",
        ),
        ("mask=9", "mask takes a string, not 9"),
        ("mask='nowhere.png'", "there is no mask 'nowhere.png'"),
        ("mask='{folder}/small.png'", "its labels are 9x9; the input of model 'm' is 32x32"),
        ("mask='{folder}/organs.png' patch=3", "mask lists the windows, and patch lays out a grid"),
    ],
)
def test_options_that_list_nothing(db: Session, folder: Path, option: str, says: str) -> None:
    with pytest.raises(ObeqlError) as raised:
        db.execute(f"EXPLAIN OCCLUDE '{folder / 'a.png'}' USING m WITH {option.format(folder=folder)}")
    assert says in str(raised.value)


def test_progress_counts_the_windows_of_each_image(db: Session, folder: Path) -> None:
    rows = [("a", 0, 0, 4, 4), ("b", 8, 8, 4, 4), ("b", 1, 2, 3, 4), ("c", 0, 0, 9, 9)]
    windows = [dict(zip(("image", "top", "left", "height", "width"), row, strict=True)) for row in rows]
    seen: list[Any] = []
    db.explain([folder / f"{n}.png" for n in "abc"], "m", windows=windows, on_progress=seen.append)
    counted = [(progress.done, progress.total) for progress in seen if not progress.phase]
    assert counted == sorted(counted) and counted[-1] == (4, 4)


@pytest.mark.parametrize(
    ("windows", "says"),
    [
        ([], "windows yields no windows"),
        ([(1, 2, 3)], "windows takes boxes"),
        (5, "windows takes boxes"),
        ("x", "windows takes boxes"),
        (np.zeros((SIDE, SIDE)), "not an array of shape"),
        (np.zeros((SIDE, SIDE), int), "windows yields no windows"),
        ([(1, 2, 3, 50)], "Row 1 of windows, (1, 2, 3, 50), reaches outside"),
        ({"m": np.ones((5, 5), bool)}, "its mask is 5x5; a mask is 32x32"),
        ({"m": np.zeros((SIDE, SIDE), bool)}, "its mask hides nothing"),
    ],
)
def test_what_python_cannot_give(db: Session, folder: Path, windows: Any, says: str) -> None:
    with pytest.raises(QueryTypeError) as raised:
        db.explain(folder / "a.png", "m", windows=windows)
    assert says in str(raised.value)


def test_forms_of_python_are_the_same(db: Session, folder: Path) -> None:
    rows = [dict(zip(("top", "left", "height", "width"), box, strict=True)) for box in BOXES]
    forms: list[Any] = [BOXES, np.array(BOXES), rows, db.execute("FROM boxes")]
    found = [db.explain(folder / "a.png", "m", windows=form, classes=1)[0].importance for form in forms]
    assert all(np.array_equal(found[0], other) for other in found[1:])


def test_parquet_files_are_refused(folder: Path, tmp_path: Path) -> None:
    with obeql.connect(tmp_path / "heat.duckdb") as db:
        db.create_model("m", network(), size=(SIDE, SIDE))
        db.execute("SET obeql.store = 'parquet'")
        with pytest.raises(ObeqlError, match="windows keeps its values in the database"):
            db.explain(folder / "a.png", "m", windows=BOXES)
