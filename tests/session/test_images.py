"""Images of a session: arrays in one batch, names that are no valid text, pages, and files that lie elsewhere."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import obeql
from obeql.errors import ImageError, QueryTypeError, UnknownNameError
from obeql.store.driver import Database


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts what the store asks of DuckDB."""
    counts: Counter[str] = Counter()
    for name in ("rows", "rows_beside", "append", "run"):
        original: Callable[..., Any] = getattr(Database, name)

        def counted(self: Any, *given: Any, _name: str = name, _original: Any = original) -> Any:
            counts[_name] += 1
            return _original(self, *given)

        monkeypatch.setattr(Database, name, counted)
    return counts


# ---- arrays ------------------------------------------------------------------------------------------------------


def test_arrays_are_stored_in_one_batch(db: Any, asked: Counter[str]) -> None:
    arrays = list(np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8))
    totals = []
    for name, n_images in (("few", 3), ("many", 40)):
        asked.clear()
        assert len(db.create_images(name, arrays[:n_images]).images) == n_images
        totals.append(dict(asked))
    assert totals[0] == totals[1], "what is asked of the database does not grow with the images"
    asked.clear()
    db.execute("CREATE IMAGES again FROM (SELECT image_id FROM images WHERE name LIKE 'many_%')")
    assert sum(asked.values()) <= sum(totals[0].values())


@pytest.mark.parametrize("kind", ["array", "tensor", "pil", "mixed"])
def test_what_a_batch_holds_is_what_single_images_hold(kind: str, db: Any, net_db: Any, pixels: Any) -> None:
    makers: dict[str, Callable[[Any], Any]] = {
        "array": lambda array: array,
        "tensor": lambda array: torch.from_numpy(array).permute(2, 0, 1),
        "pil": Image.fromarray,
    }
    kinds = list(makers) if kind == "mixed" else [kind]
    images = [makers[kinds[place % len(kinds)]](pixels(place)) for place in range(4)]
    created = net_db.create_images("pets", images)
    assert [image.key for image in created.images] == [f"pets_{place}" for place in range(4)]
    whole = net_db.explain("pets", "net", patch=16)
    listed = net_db.explain(images, "net", patch=16, reuse=False)
    for place, image in enumerate(images):
        alone = net_db.explain(image, "net", patch=16, reuse=False)[0]
        assert whole[place].cells.key == listed[place].cells.key == alone.cells.key
        np.testing.assert_allclose(whole[place].scores, alone.scores, rtol=0, atol=1e-6)
        np.testing.assert_allclose(listed[place].scores, alone.scores, rtol=0, atol=1e-6)
    hashes = net_db.execute("SELECT image_hash FROM images WHERE name LIKE 'pets_%' ORDER BY name").fetchall()
    assert [image_hash for (image_hash,) in hashes] == [heat.cells.key.image_hash for heat in whole]


def test_a_key_that_holds_other_pixels_is_lengthened(tmp_path: Path, pixels: Any) -> None:
    with obeql.connect(tmp_path / "a.duckdb") as db:
        db.create_images("set", [pixels(0), pixels(1)])
    with obeql.connect(tmp_path / "a.duckdb") as db:
        created = db.create_images("set", [pixels(0), pixels(2)], replace=True)
        first, second = (image.key for image in created.images)
        assert first == "set_0" and second is not None and second.startswith("set_1_")
        again = db.create_images("set", [pixels(0), pixels(2)])
        assert [image.key for image in again.images] == [first, second]


# ---- names that are no valid text --------------------------------------------------------------------------------


@pytest.fixture
def odd_folder(folder: Path) -> Path:
    """A folder of pictures, one of them with a name that is not UTF-8."""
    try:
        os.rename(folder / "scan2.png", os.fsencode(folder) + b"/scan2\xff.png")  # noqa: PTH104  Path takes no bytes
    except OSError:
        pytest.skip("this file system takes valid names only")
    return folder


def test_a_name_that_is_not_utf8_is_an_image_like_any_other(net_db: Any, odd_folder: Path) -> None:
    shown = [str(odd_folder / name) for name in ("scan1.png", "scan2\\xff.png", "scan3.png")]
    net_db.execute(f"CREATE IMAGES scans FROM '{odd_folder}/*.png'")
    for source in ("scans", f"'{odd_folder}/*.png'", f"'{odd_folder}'"):
        result = net_db.execute(f"EXPLAIN OCCLUDE {source} USING net WITH patch=16 NO REUSE")
        assert [heat.path for heat in result] == shown and not result.failures
    assert [row[0] for row in net_db.execute("SELECT path FROM images ORDER BY path").fetchall()] == shown
    assert len(net_db.execute("PREDICT scans USING net FOR TOP 1").fetchall()) == 3
    result = net_db.execute("EXPLAIN OCCLUDE (FROM images) USING net WITH patch=16")
    assert len(result) == 3 and result[1].source().size == (32, 32)
    alone = os.fsdecode(os.fsencode(odd_folder) + b"/scan2\xff.png")
    assert net_db.explain(alone, "net", patch=16)[0].path == shown[1]
    assert net_db.execute("EXPLAIN OCCLUDE ? USING net WITH patch=16", [Path(alone)])[0].path == shown[1]
    assert net_db.execute(f"EXPLAIN OCCLUDE '{alone}' USING net WITH patch=16")[0].path == shown[1]


@pytest.mark.usefixtures("quick_workers")
def test_workers_find_a_name_that_is_not_utf8(net_db: Any, odd_folder: Path) -> None:
    result = net_db.execute(f"EXPLAIN OCCLUDE '{odd_folder}' USING net WITH patch=16 workers=2")
    assert len(result) == 3 and not result.failures


def test_a_select_that_meets_such_a_name_says_what_helps(net_db: Any, odd_folder: Path) -> None:
    with pytest.raises(QueryTypeError, match=r"Name the folder as a path"):
        net_db.execute(f"EXPLAIN OCCLUDE (SELECT file AS path FROM glob('{odd_folder}/*')) USING net")


# ---- files that lie elsewhere ------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, tiny_net: Any) -> Path:
    """A folder with a model file and pictures, explained by relative paths into `heat/maps.duckdb`, then left."""
    monkeypatch.chdir(tmp_path)
    torch.export.save(torch.export.export(tiny_net(), (torch.zeros(2, 3, 32, 32),)), "net.pt2")
    (tmp_path / "names.txt").write_text("ant\nbee\ncat\n")
    (tmp_path / "heat").mkdir()
    with obeql.connect("heat/maps.duckdb") as db:
        db.execute("CREATE MODEL net FROM 'net.pt2' WITH classes='names.txt', size=32")
        db.execute("CREATE IMAGES scans FROM 'scans/*.png'")
        db.execute("EXPLAIN OCCLUDE scans USING net WITH patch=16 INTO first")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path


@pytest.mark.filterwarnings("ignore")
def test_a_database_opened_from_elsewhere_finds_its_files(project: Path) -> None:
    with obeql.connect(project / "heat" / "maps.duckdb") as db:
        before = db.run("first")
        assert [heat.path for heat in before] == [f"scans/scan{i}.png" for i in (1, 2, 3)]
        assert all(heat.source().size == (32, 32) for heat in before)
        after = db.execute("EXPLAIN OCCLUDE scans USING net WITH patch=16 NO REUSE")
        for one, two in zip(before, after, strict=True):
            np.testing.assert_allclose(one.scores, two.scores, rtol=0, atol=1e-6)
        assert len(db.execute("EXPLAIN OCCLUDE 'scans/scan2.png' USING net WITH patch=8")) == 1
        assert str(db.execute("RENDER first TO 'sheet.png'")) == "3 heat maps drawn to sheet.png"


@pytest.mark.filterwarnings("ignore")
def test_a_project_that_was_moved_as_a_whole(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "heat" / "maps.duckdb").rename(project / "maps.duckdb")
    moved = project.with_name(f"{project.name}_moved")
    project.rename(moved)
    monkeypatch.chdir(moved.parent)
    with obeql.connect(moved / "maps.duckdb", read_only=True) as db:
        assert all(heat.source().size == (32, 32) for heat in db.run("first"))
        assert len(db.execute("PREDICT scans USING net FOR TOP 1").fetchall()) == 3


def test_the_picture_that_was_explained_goes_before_one_of_its_name(project: Path, pixels: Any) -> None:
    other = Path("scans")
    other.mkdir()
    Image.fromarray(pixels(9)).save(other / "scan1.png")
    with obeql.connect(project / "heat" / "maps.duckdb") as db:
        first = db.run("first")[0]
        assert first.source().digest == first.cells.key.image_hash


def test_drawings_say_which_pictures_are_missing(project: Path, pixels: Any) -> None:
    (project / "scans" / "scan2.png").unlink()
    Image.fromarray(pixels(9)).save(project / "scans" / "scan3.png")
    with obeql.connect(project / "heat" / "maps.duckdb") as db:
        said = str(db.execute("RENDER first TO 'sheet.png'"))
        assert said.startswith(
            "3 heat maps drawn to sheet.png, 2 of them without a picture: image 'scans/scan2.png' does"
        )
        assert "It was looked for in" in said and "'scans/scan3.png' is no longer the image that was explained" in said


# ---- pages -------------------------------------------------------------------------------------------------------


@pytest.fixture
def stack(tmp_path: Path, pixels: Any) -> Path:
    """A TIFF file of three pages."""
    pages = [Image.fromarray(pixels(seed)) for seed in (1, 2, 3)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    return tmp_path / "stack.tif"


def test_pages_are_named_behind_the_path(net_db: Any, stack: Path, pixels: Any) -> None:
    for page in (1, 2, 3):
        heat = net_db.execute(f"EXPLAIN OCCLUDE '{stack}#page={page}' USING net WITH patch=16")[0]
        alone = net_db.explain(Image.fromarray(pixels(page)), "net", patch=16)[0]
        np.testing.assert_array_equal(heat.scores, alone.scores)
        np.testing.assert_array_equal(heat.source().pixels, pixels(page))
    assert net_db.execute("EXPLAIN OCCLUDE stack_page2 USING net WITH patch=16")[0].path == f"{stack}#page=2"
    with pytest.raises(ImageError, match="it has 3 pages"):
        net_db.execute(f"EXPLAIN OCCLUDE '{stack}#page=4' USING net")


def test_explain_and_predict_take_pages(net_db: Any, stack: Path, pixels: Any) -> None:
    named = net_db.execute(f"EXPLAIN OCCLUDE '{stack}#page=2' USING net WITH patch=16")[0]
    for found in (
        net_db.execute(f"EXPLAIN OCCLUDE '{stack}' USING net WITH patch=16 page=2 NO REUSE"),
        net_db.explain(str(stack), "net", patch=16, page=2, reuse=False),
    ):
        assert [heat.path for heat in found] == [f"{stack}#page=2"] and not found.notes
        np.testing.assert_array_equal(found[0].scores, named.scores)
    for pages, wanted in (("all", [1, 2, 3]), ([3, 1], [3, 1])):
        found = net_db.explain([str(stack), pixels(9)], "net", patch=16, page=pages)
        assert [heat.path for heat in found] == [*(f"{stack}#page={page}" for page in wanted), None]
        rows = net_db.execute(f"PREDICT '{stack}' USING net FOR TOP 1 WITH page={pages}").fetchall()
        assert [row[0] for row in rows] == [f"{stack}#page={page}" for page in wanted]
    assert net_db.execute(f"PLAN EXPLAIN OCCLUDE '{stack}' USING net WITH page=all").physical.images[2:]
    for wrong in ("0", "some"):
        for statement in ("EXPLAIN OCCLUDE", "PREDICT"):
            with pytest.raises(QueryTypeError, match="page takes"):
                net_db.execute(f"{statement} '{stack}' USING net WITH page={wrong}")
    with pytest.raises(UnknownNameError, match="PREDICT has no option 'patch'; it has page"):
        net_db.execute(f"PREDICT '{stack}' USING net WITH patch=2")
    with pytest.raises(ImageError, match="it has 3 pages"):
        net_db.explain(str(stack), "net", page=4)


def test_an_image_set_takes_the_pages_it_is_told(net_db: Any, stack: Path, pixels: Any) -> None:
    Image.fromarray(pixels(4)).save(stack.with_name("single.png"))
    pattern = f"'{stack.parent}/s*.*'"

    def names(option: str) -> list[str]:
        net_db.execute(f"CREATE OR REPLACE IMAGES pages FROM {pattern} {option}")
        rows = net_db.execute("SELECT path FROM image_sets WHERE name = 'pages' ORDER BY place").fetchall()
        return [Path(path).name for (path,) in rows]

    assert names("") == ["single.png", "stack.tif"]
    assert names("WITH page=all") == ["single.png", *(f"stack.tif#page={page}" for page in (1, 2, 3))]
    assert names("WITH page=[3, 1]") == [
        f"{name}#page={page}" for name in ("single.png", "stack.tif") for page in (3, 1)
    ]
    result = net_db.execute("EXPLAIN OCCLUDE pages USING net WITH patch=16")
    assert len(result) == 3 and "it has one page" in result.failures[0].error
    created = net_db.create_images("some", str(stack), page=[2, 3])
    assert [image.path for image in created.images] == [f"{stack}#page=2", f"{stack}#page=3"]
    assert len(net_db.create_images("every", [str(stack), pixels(0)], page="all").images) == 4
    for wrong in (0, "some", []):
        with pytest.raises(QueryTypeError, match="page takes"):
            net_db.create_images("none", str(stack), page=wrong)
    with pytest.raises(QueryTypeError, match="page takes"):
        net_db.execute(f"CREATE IMAGES none FROM '{stack}' WITH page=0")


def test_results_say_where_there_are_more_pages(net_db: Any, stack: Path) -> None:
    result = net_db.execute(f"EXPLAIN OCCLUDE '{stack}' USING net WITH patch=16")
    said = f"page 1 of the 3 of '{stack}' was taken; '{stack}#page=2' or page=2 names another, page=all takes every one"
    assert result.notes == (said,)
    assert f"note: {result.notes[0]}" in str(result)
    predicted = net_db.execute(f"PREDICT '{stack}' USING net FOR TOP 1")
    assert predicted.columns[-1] == "note"
    assert predicted.fetchall()[0][-1] == f"page 1 of 3; '{stack}#page=2' or page=2 names another"
    assert "note" not in net_db.execute(f"PREDICT '{stack}' USING net WITH page=1").columns
    assert not net_db.execute(f"EXPLAIN OCCLUDE '{stack}#page=1' USING net WITH patch=16").notes


@pytest.mark.usefixtures("quick_workers")
@pytest.mark.parametrize("store", ["duckdb", "parquet"])
def test_workers_say_where_there_are_more_pages(net_db: Any, stack: Path, store: str, tmp_path: Path) -> None:
    shutil.copy(stack, tmp_path / "other.tif")
    net_db.execute(f"SET obeql.store = '{store}'; SET obeql.store_folder = '{tmp_path}/maps'")
    result = net_db.execute(f"EXPLAIN OCCLUDE '{tmp_path}/*.tif' USING net WITH patch=16 workers=2")
    assert "page 1 of the 3 of" in result.notes[0] and "and 1 more files have several" in result.notes[0]
