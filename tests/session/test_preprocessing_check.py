"""PREDICT .. CHECK: the preprocessing that a network was made for is found, and a wrong one is told of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import obeql
from obeql.errors import ImageError, QueryTypeError
from obeql.executor.images.decode import decode_object
from obeql.executor.images.preprocess import preprocess
from obeql.planner.catalog import Preprocessing

SIDE = 16
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
MADE_FOR: dict[str, dict[str, Any]] = {
    "0..1": {},
    "ImageNet": IMAGENET,
    "-1..1": {"mean": 0.5, "std": 0.5},
    "0..255": {"std": 1 / 255},
    "0..1 BGR": {"channels": "bgr"},
    "Caffe": {"channels": "bgr", "mean": [m / 255 for m in (103.939, 116.779, 123.68)], "std": 1 / 255},
}


class Nearest(nn.Module):
    """Classes of colors: the nearer the mean of the input is to that of a class, the likelier it is."""

    def __init__(self, centers: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("centers", centers)
        self.scale = float(8 / (centers[0] - centers[1]).norm() ** 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -self.scale * ((x.mean((2, 3))[:, None] - self.centers) ** 2).sum(2)


def pictures(n: int = 6) -> list[np.ndarray]:
    """Pictures of two colors, and noise, in turn."""
    rng = np.random.default_rng(0)
    colors = np.array([[200, 90, 40], [60, 110, 190]])
    return [np.clip(colors[i % 2] + rng.integers(-30, 30, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8) for i in range(n)]


def network(options: dict[str, Any]) -> nn.Module:
    """A network that is right with some preprocessing: its centers are the means of the two colors, so prepared."""

    def triple(value: Any, default: float) -> tuple[float, ...]:
        return tuple(value) if isinstance(value, (tuple, list)) else (value if value is not None else default,) * 3

    how = Preprocessing(
        (SIDE, SIDE),
        channels=options.get("channels", "rgb"),
        mean=triple(options.get("mean"), 0.0),
        std=triple(options.get("std"), 1.0),
    )
    first, second = (preprocess(decode_object(picture, "x"), how).values.mean((1, 2)) for picture in pictures(2))
    return Nearest(torch.from_numpy(np.stack([first, second])))


@pytest.fixture
def labelled(tmp_path: Path) -> str:
    for number, picture in enumerate(pictures()):
        Image.fromarray(picture).save(tmp_path / f"{'ab'[number % 2]}_{number}.png")
    return f"(SELECT file AS path, parse_filename(file)[1] AS label FROM glob('{tmp_path}/*.png'))"


@pytest.mark.parametrize("name", MADE_FOR)
def test_what_the_network_was_made_for_comes_first(name: str, labelled: str) -> None:
    with obeql.connect() as db:
        db.create_model("net", network(MADE_FOR[name]), size=SIDE, classes=["a", "b"], **MADE_FOR[name])
        rows = db.execute(f"PREDICT {labelled} USING net CHECK").fetchall()
        columns = db.execute(f"PREDICT {labelled} USING net CHECK").columns
        assert db.execute("SELECT count(*) FROM predictions").fetchall() == [(0,)]
    first = dict(zip(columns, rows[0], strict=True))
    assert "note" not in columns
    right = {row[0] for row in rows if row[2] == 1 and row[3] > 0.95}
    assert name in right and first["correct"] == 1 and first["images"] == 6
    assert sum(row[1] for row in rows) == 1 and {row[0] for row in rows if row[1]} == {name}
    assert len(rows) == 8


@pytest.mark.parametrize("labels", [True, False])
def test_a_wrong_choice_is_told_of_with_the_remedy(labels: bool, labelled: str) -> None:
    source = labelled if labels else "?"
    values = None if labels else [pictures()]
    with obeql.connect() as db:
        db.create_model("net", network(MADE_FOR["0..1 BGR"]), size=SIDE, classes=["a", "b"])
        table = db.execute(f"PREDICT {source} USING net CHECK", values)
        rows = [dict(zip(table.columns, row, strict=True)) for row in table.fetchall()]
        assert ("correct" in rows[0]) == labels
        own = next(row for row in rows if row["chosen"])
        assert own["preprocessing"] == "0..1"
        if labels:
            assert rows[0]["preprocessing"].endswith("BGR") or rows[0]["preprocessing"] == "Caffe"
            assert own["correct"] == 0 and own["note"].startswith("This looks wrong: ")
            assert "is right for 6 of 6 images, this for 0. CREATE OR REPLACE MODEL" in own["note"]
            best = rows[0]["options"]
            assert best in own["note"]
        by_name = {row["preprocessing"]: row for row in rows}
        db.create_model(
            "net", network(MADE_FOR["0..1 BGR"]), size=SIDE, replace=True, classes=["a", "b"], channels="bgr"
        )
        again = db.predict(pictures(), "net", check=True)
        assert (
            dict(zip(again.columns, next(r for r in again.fetchall() if r[1]), strict=True))["options"]
            == (by_name["0..1 BGR"]["options"])
        )


class Redder(nn.Module):
    """Classes of red and of blue, unsure of either; the larger the input, the surer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        red, _, blue = x.mean((2, 3)).unbind(1)
        return torch.stack([red - blue, blue - red], 1)


def test_inputs_a_hundred_times_too_large_are_not_the_likeliest(labelled: str) -> None:
    with obeql.connect() as db:
        db.create_model("net", Redder(), size=SIDE, classes=["a", "b"])
        for source, values in ((labelled, None), ("?", [pictures()])):
            table = db.execute(f"PREDICT {source} USING net CHECK", values)
            rows = [dict(zip(table.columns, row, strict=True)) for row in table.fetchall()]
            names = [row["preprocessing"] for row in rows]
            by_name = {row["preprocessing"]: row for row in rows}
            assert by_name["0..255"]["top_probability"] > 0.99 and 0.6 < by_name["0..1"]["top_probability"] < 0.9
            assert names.index("0..255") > names.index("0..1") and "note" not in table.columns


def test_the_options_it_writes_are_read(labelled: str, tmp_path: Path) -> None:
    with obeql.connect() as db:
        db.create_model("net", network(MADE_FOR["Caffe"]), size=SIDE, classes=["a", "b"])
        rows = db.execute(f"SELECT preprocessing, options FROM (PREDICT {labelled} USING net CHECK)").fetchall()
    from obeql.grammar import parse_statement
    from obeql.planner.binding.options import model_options

    written = dict(rows)["Caffe"]
    statement = parse_statement(f"CREATE MODEL m FROM 'x.onnx' WITH {written}")
    options = model_options(statement.options, {})  # type: ignore[union-attr]
    assert options["channels"] == "bgr" and options["std"] == pytest.approx((1 / 255,), rel=1e-4)
    assert options["mean"] == pytest.approx([m / 255 for m in (103.939, 116.779, 123.68)], rel=1e-4)


def test_one_channel_and_a_preprocessing_of_its_own() -> None:
    gray = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    with obeql.connect() as db:
        db.create_model("net", gray, size=SIDE, channels="gray", mean=0.3, std=0.7)
        rows = db.predict(pictures(2), "net", check=True).fetchall()
    assert {row[0] for row in rows} == {"the model's", "0..1", "ImageNet", "-1..1", "0..255", "-1024..1024"}
    assert next(row for row in rows if row[1])[0] == "the model's"


def test_large_sets_are_sampled_and_broken_files_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from obeql.session import preprocessing_check

    monkeypatch.setattr(preprocessing_check, "MOST_IMAGES", 5)
    for number, picture in enumerate(pictures(12)):
        Image.fromarray(picture).save(tmp_path / f"{number:02}.png")
    (tmp_path / "00.png").write_bytes(b"broken")
    with obeql.connect() as db:
        db.create_model("net", network({}), size=SIDE, classes=["a", "b"])
        relation = db.execute(f"PREDICT '{tmp_path}/*.png' USING net CHECK")
        assert {dict(zip(relation.columns, row, strict=True))["images"] for row in relation.fetchall()} == {4}
        with pytest.raises(ImageError, match=r"00\.png"):
            db.execute(f"PREDICT '{tmp_path}/00.png' USING net CHECK")


def test_what_cannot_be_checked() -> None:
    with obeql.connect() as db:
        db.create_model("net", network({}), size=SIDE, classes=["a", "b"])
        with pytest.raises(QueryTypeError, match="leave FOR TOP out") as caught:
            db.execute("PREDICT ? USING net FOR TOP 1 CHECK", [pictures(1)])
        assert caught.value.column == 21
        db.create_model("dose", network({}), size=SIDE, outputs="value")
        with pytest.raises(QueryTypeError, match="returns values"):
            db.execute("PREDICT ? USING dose CHECK", [pictures(1)])


def test_the_keyword_form_shows_classes() -> None:
    with obeql.connect() as db:
        db.create_model("net", network({}), size=SIDE, classes=["a", "b"])
        relation = db.predict(pictures(2), "net", top=1)
        names = relation.columns
        assert [dict(zip(names, row, strict=True))["class_name"] for row in relation.fetchall()] == ["a", "b"]
