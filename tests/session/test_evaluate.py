"""EVALUATE: curves of stored maps, their table and what goes wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import obeql
from obeql.errors import ImageError, QueryTypeError, UnknownNameError
from obeql.store import SCHEMA_VERSION

EXPLAIN = "EXPLAIN OCCLUDE '{}/*.png' USING net FOR TOP 2 WITH patch=8 stride=4 fill=black score=log_odds INTO first"


@pytest.fixture
def first(net_db: Any, folder: Path) -> Any:
    """A database with the run `first` of six maps."""
    net_db.execute(EXPLAIN.format(folder))
    return net_db


def test_areas_are_returned_and_curves_stored(first: Any, tiny_net: Any) -> None:
    rows = first.execute("EVALUATE first WITH steps=8").fetchall()
    assert len(rows) == 6
    stored = first.execute(
        "SELECT measure, auc, steps, fill, shares, probabilities, class_name, patch_height FROM evaluations "
        "ORDER BY image_id, map_id, measure"
    ).fetchall()
    assert [row[0] for row in stored] == ["deletion", "insertion"] * 6
    for row, deletion, insertion in zip(rows, stored[::2], stored[1::2], strict=True):
        image, class_name, patch, clean, deletion_auc, insertion_auc = row
        assert image.endswith(".png") and patch == "8x8"
        assert (deletion_auc, insertion_auc) == (deletion[1], insertion[1])
        for curve in (deletion, insertion):
            assert curve[2:4] == (8, "black") and curve[6:] == (class_name, 8)
            assert len(curve[4]) == len(curve[5]) == 9
            assert curve[1] == pytest.approx(np.trapezoid(curve[5], curve[4]))
        assert deletion[5][0] == pytest.approx(clean, abs=1e-5) == insertion[5][-1]


def test_the_curve_follows_the_order_that_the_macro_gives(first: Any, tiny_net: Any) -> None:
    """Against SQL's deletion_order and the network itself."""
    import torch

    first.execute("EVALUATE first WITH steps=4")
    heat = first.run("first")[0]
    image = np.asarray(Image.open(heat.path), np.float32) / 255
    order = first.execute(
        f"SELECT y, x FROM deletion_order('first', {heat.image_id}) WHERE class_id = {heat.class_id} ORDER BY rank"
    ).fetchall()
    curve = first.execute(
        f"SELECT probabilities FROM evaluations WHERE image_id = {heat.image_id} AND class_id = {heat.class_id} "
        "AND measure = 'deletion'"
    ).fetchall()[0][0]
    for step in range(5):
        picture = image.copy()
        for y, x in order[: step * 256]:
            picture[y, x] = 0
        with torch.inference_mode():
            logits = tiny_net()(torch.from_numpy(picture).permute(2, 0, 1)[None]).double()
        assert curve[step] == pytest.approx(float(logits.softmax(1)[0, heat.class_id]), abs=1e-4)


def test_the_latest_of_the_same_settings_counts(first: Any) -> None:
    for statement in (
        "EVALUATE first WITH steps=2",
        "EVALUATE 1 WITH steps=2",
        "EVALUATE first WITH steps=2 fill=blur",
    ):
        first.execute(statement)
    counts = first.execute("SELECT fill, count(*) FROM evaluations GROUP BY fill ORDER BY fill").fetchall()
    assert counts == [("black", 12), ("blur", 12)]
    first.execute("DROP RUN first")
    assert first.execute("SELECT count(*) FROM obeql_store.evaluation_rows").fetchall() == [(0,)]


def test_progress_and_cancel(first: Any) -> None:
    seen: list[int] = []
    first.execute("EVALUATE first WITH steps=2", on_progress=lambda progress: seen.append(progress.done))
    assert seen == [0, 1, 2, 3, 4, 5, 6]

    def stop(progress: Any) -> None:
        if progress.done == 2:
            first.cancel()

    with pytest.raises(KeyboardInterrupt, match="3 of 6 maps"):
        first.execute("EVALUATE first WITH steps=3", on_progress=stop)
    assert first.execute("SELECT count(*) FROM evaluations WHERE steps = 3").fetchall() == [(6,)]


def test_a_changed_image_is_told_and_the_others_are_evaluated(first: Any, folder: Path, pixels: Any) -> None:
    Image.fromarray(pixels(9)).save(folder / "scan2.png")
    relation = first.execute("EVALUATE first WITH steps=2")
    assert relation.columns[-1] == "error"
    errors = [row[-1] for row in relation.fetchall()]
    assert [error is not None for error in errors] == [False, False, True, True, False, False]
    assert "no longer the image" in errors[2]
    for number in (1, 3):
        (folder / f"scan{number}.png").unlink()
    with pytest.raises(ImageError, match="does not exist"):
        first.execute("EVALUATE first")


def test_mistakes(first: Any, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="no run 'fist'"):
        first.execute("EVALUATE fist")
    with pytest.raises(UnknownNameError, match="EVALUATE has no option 'step'"):
        first.execute("EVALUATE first WITH step=3")
    with pytest.raises(QueryTypeError, match="steps"):
        first.execute("EVALUATE first WITH steps=0")
    with pytest.raises(QueryTypeError, match="fill"):
        first.execute("EVALUATE first WITH fill=pink")


def test_a_file_of_version_2_gets_the_table(tmp_path: Path) -> None:
    file = tmp_path / "heat.duckdb"
    with obeql.connect(file) as db:
        db.execute("DROP VIEW evaluations; DROP TABLE obeql_store.evaluation_rows")
        db.execute("DROP MACRO TABLE lowest_iou; DROP MACRO TABLE highest_iou; DROP MACRO TABLE lowest_share")
        db.execute("DROP MACRO TABLE highest_share; DROP VIEW coarse_maps; DROP MACRO count_bounds")
        db.execute("DROP MACRO iou_bounds; DROP TABLE obeql_store.histogram_rows CASCADE")
        db.execute("DROP MACRO iou_at_least; DROP MACRO count_between; DROP MACRO at_least; DROP MACRO cells_in_box")
        db.execute(
            "DROP VIEW flat_maps; DROP MACRO run_of; DROP MACRO image_of; DROP TABLE obeql_store.shard_rows CASCADE"
        )
        db.execute("DROP VIEW windows; DROP MACRO importance_of; DROP TABLE obeql_store.view_rows")
        db.execute("DROP TABLE obeql_store.piece_rows CASCADE; DROP TABLE obeql_store.run_sizes CASCADE")
        for view in ("heatmaps", "cells", "runs", "models"):
            db.execute(f"DROP VIEW IF EXISTS {view}")
        db.execute("DROP VIEW regions; DROP TABLE obeql_store.region_rows CASCADE")
        db.execute("DROP TABLE obeql_store.mask_rows CASCADE")
        db.execute("ALTER TABLE obeql_store.run_maps DROP COLUMN label")
        db.execute("ALTER TABLE obeql_store.model_rows DROP COLUMN content_hash")
        for column in ("series_uid", "pixel_height_mm", "pixel_width_mm"):
            db.execute("DROP VIEW IF EXISTS images")
            db.execute(f"ALTER TABLE obeql_store.image_contents DROP COLUMN {column}")
        db.execute("DROP TABLE obeql_store.axis_rows CASCADE")
        for table, columns in {
            "run_maps": ("stride_depth", "input_depth", "source_front", "source_depth"),
            "model_rows": ("input_depth",),
            "image_contents": ("depth", "pixel_depth_mm"),
        }.items():
            for column in columns:
                db.execute(f"ALTER TABLE obeql_store.{table} DROP COLUMN {column}")
        db.connection.execute("UPDATE obeql_store.schema_version SET version = 2")
    with obeql.connect(file) as db:
        assert db.execute("FROM evaluations").fetchall() == []
        assert db.execute("SELECT max(version) FROM obeql_store.schema_version").fetchall() == [(SCHEMA_VERSION,)]
