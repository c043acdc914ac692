"""The option `channel`: windows that hide some channels of the input, against a plain loop, all the way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
import torch
from torch import nn

import obeql
from obeql.errors import QueryTypeError

pytestmark = pytest.mark.usefixtures("one_thread")

LENGTH = 60
LEADS = ["I", "II", "V1"]


def leads_network() -> nn.Module:
    torch.manual_seed(5)
    layers = (nn.Conv1d(3, 8, 5, padding=2), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(8, 8, 3), nn.ReLU())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 3)).eval()


def color_network() -> nn.Module:
    torch.manual_seed(6)
    layers = (nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 6, 3), nn.ReLU())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)).eval()


def signal(seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(0, 2, (3, LENGTH)).astype(np.float32)


def by_a_loop(
    module: nn.Module, x: Any, fill: Any, channels: list[int], patch: int, stride: int, class_id: int = 1
) -> Any:
    """The probability of a class with one window after the other hidden in some channels, (windows..)."""
    size = x.shape[1:]
    starts = [[*range(0, n - patch + 1, stride)] for n in size]
    starts = [s if s[-1] + patch == n else [*s, n - patch] for s, n in zip(starts, size, strict=True)]
    found = np.zeros([len(s) for s in starts])
    for place in np.ndindex(*found.shape):
        hidden = torch.tensor(x).double()
        box = tuple(slice(s[i], s[i] + patch) for s, i in zip(starts, place, strict=True))
        for channel in channels:
            hidden[(channel, *box)] = float(fill[channel])
        with torch.inference_mode():
            found[place] = float(torch.softmax(module.double()(hidden[None]), 1)[0, class_id])
    return found


@pytest.fixture
def db() -> Iterator[obeql.Session]:
    with obeql.connect() as session:
        session.create_model("ecg", leads_network(), size=(LENGTH,), channels=LEADS, classes=["a", "b", "c"])
        session.create_model("color", color_network(), size=(20, 24), classes=["a", "b", "c"])
        yield session


@pytest.mark.parametrize(
    ("written", "channels"),
    [("1", [1]), ("'V1'", [2]), ("v1", [2]), ("['I', 2]", [0, 2]), ("[2, 'I', 0]", [0, 2]), ("[0, 1, 2]", [0, 1, 2])],
)
def test_a_map_of_some_channels_equals_a_plain_loop(db: obeql.Session, written: str, channels: list[int]) -> None:
    x = signal()
    heat = db.execute(f"EXPLAIN OCCLUDE ? USING ecg FOR CLASS 'b' WITH patch=10 stride=5 channel={written}", [x])[0]
    np.testing.assert_allclose(heat.scores, by_a_loop(leads_network(), x, x.mean(axis=1), channels, 10, 5), atol=1e-6)
    assert heat.channel == (None if len(channels) == 3 else ", ".join(LEADS[c] for c in channels))
    assert [heat.hides(number) for number in range(3)] == [number in channels for number in range(3)]


@pytest.mark.parametrize("fill", ["mean", "black", "(0.1, 0.9, 0.4)", "zero", "blur"])
def test_colors_of_images_are_channels(db: obeql.Session, fill: str) -> None:
    pixels = np.random.default_rng(1).random((20, 24, 3)).astype(np.float32)
    query = f"EXPLAIN OCCLUDE ? USING color FOR CLASS 'b' WITH patch=6 stride=4 fill={fill} channel="
    red, both = (db.execute(f"{query}{which}", [pixels])[0] for which in ("red", "[blue, green]"))
    x = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    if fill == "blur":
        whole = db.execute(f"{query}[0, 1, 2]", [pixels])[0]
        assert whole.channel is None
        assert not np.allclose(red.scores, whole.scores)
        return
    constant = {"mean": x.mean(axis=(1, 2)), "black": [0] * 3, "zero": [0] * 3}.get(fill, [0.1, 0.9, 0.4])
    np.testing.assert_allclose(red.scores, by_a_loop(color_network(), x, constant, [0], 6, 4), atol=1e-6)
    np.testing.assert_allclose(both.scores, by_a_loop(color_network(), x, constant, [1, 2], 6, 4), atol=1e-6)
    assert both.channel == "green, blue"


def test_each_gives_a_map_of_every_channel_after_one_clean_pass(db: obeql.Session) -> None:
    x, other = signal(), signal(1)
    query = "EXPLAIN OCCLUDE ? USING ecg FOR CLASS 'b' WITH patch=[10, 20] stride=5 channel=each"
    result = db.execute(f"{query}", [[x, other]])
    assert [(heat.patch, heat.channel) for heat in result[:6]] == [((p,), lead) for p in (10, 20) for lead in LEADS]
    for place, heat in enumerate(result):
        samples, lead = (x, other)[place // 6], place % 3
        expected = by_a_loop(leads_network(), samples, samples.mean(axis=1), [lead], heat.patch[0], 5)
        np.testing.assert_allclose(heat.scores, expected, atol=1e-6)
    plan = str(db.execute(f"PLAN {query}", [x]))
    assert "10 of channel 0 every 5" in plan and "patch 20 of channel 2" in plan
    assert "grids share one unoccluded pass" in plan
    assert "channel" in plan.split("Options")[1]
    assert "channel" in str(result) and "V1" in str(result)


def test_stored_cells_answer_for_their_own_channels_alone(db: obeql.Session) -> None:
    x = signal()
    query = "EXPLAIN OCCLUDE ? USING ecg FOR CLASS 0 WITH patch=10 stride=10"
    whole = db.execute(query, [x])[0]
    first = db.execute(f"{query} channel=0", [x])[0]
    assert not np.allclose(whole.scores, first.scores)
    for written, from_database in (("", True), (" channel=0", True), (" channel=I", True), (" channel=1", False)):
        assert ("from the database" in str(db.execute(f"PLAN ANALYZE {query}{written}", [x]))) == from_database
    # Windows of all channels are windows without the option.
    assert "from the database" in str(db.execute(f"PLAN ANALYZE {query} channel=[0, 1, 2]", [x]))
    again = db.execute(f"{query} channel=each", [x])
    np.testing.assert_array_equal(again[0].scores, first.scores)
    assert "from the database" not in str(db.execute(f"PLAN {query} channel=2 NO REUSE", [x]))


def test_statements_of_a_script_share_windows_of_one_channel_alone(db: obeql.Session, tmp_path: Path) -> None:
    x = signal()
    np.save(tmp_path / "x.npy", x)
    query = f"EXPLAIN OCCLUDE '{tmp_path / 'x.npy'}' USING ecg FOR CLASS"
    db.execute(
        f"{query} 0 WITH patch=10 channel=0; {query} 1 WITH patch=10 channel=0; {query} 2 WITH patch=10 channel=1"
    )
    found = db.execute("SELECT class_id, channel FROM heatmaps ORDER BY run_id").fetchall()
    assert found == [(0, "I"), (1, "I"), (2, "II")]
    for class_id, lead in ((1, 0), (2, 1)):
        heat = db.execute(f"{query} {class_id} WITH patch=10 channel={lead}")[0]
        expected = by_a_loop(leads_network(), x, x.mean(axis=1), [lead], 10, 2, class_id)
        np.testing.assert_allclose(heat.scores, expected, atol=1e-6)


def test_approx_and_top_cells_and_region_work_on_a_channel(db: obeql.Session) -> None:
    x = signal()
    exact = db.explain(x, "ecg", classes=1, patch=8, stride=1, channel="II")[0]
    near = db.explain(x, "ecg", classes=1, patch=8, stride=1, channel="II", approx=0.9, reuse=False)[0]
    assert near.channel == "II" and near.shape == exact.shape
    computed = near.cells.exact if near.cells.exact is not None else np.ones((1, *near.shape), bool)
    np.testing.assert_allclose(near.scores[computed[0]], exact.scores[computed[0]], atol=1e-5)
    best = db.explain(x, "ecg", classes=1, patch=8, stride=1, channel="II", top_cells=3, reuse=False)[0].top(3)
    assert {cell.left for cell in best} == {cell.left for cell in exact.top(3)}
    part = db.execute("EXPLAIN OCCLUDE ? USING ecg FOR CLASS 1 REGION (16, 40) WITH patch=8 stride=4 channel=II", [x])[
        0
    ]
    np.testing.assert_allclose(part.scores, exact.scores[16:49:4], atol=1e-6)


def test_listed_windows_hide_a_channel(db: obeql.Session) -> None:
    pixels = np.random.default_rng(1).random((20, 24, 3)).astype(np.float32)
    box = "SELECT 'box' AS name, 4 AS top, 4 AS \"left\", 6 AS height, 6 AS width"
    query = f"EXPLAIN OCCLUDE ? USING color FOR CLASS 1 WINDOWS ({box})"
    heat = db.execute(f"{query} WITH channel=green", [pixels])[0]
    x = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    expected = by_a_loop(color_network(), x, x.mean(axis=(1, 2)), [1], 6, 4)[1, 1]
    np.testing.assert_allclose(heat.scores, [[expected]], atol=1e-6)
    assert "of green" in heat.windows_text


def test_sql_names_the_channel(db: obeql.Session, tmp_path: Path) -> None:
    file = tmp_path / "maps.duckdb"
    with obeql.connect(file) as session:
        session.create_model("ecg", leads_network(), size=(LENGTH,), channels=LEADS, classes=["a", "b", "c"])
        session.create_model("color", color_network(), size=(20, 24), channels="bgr")
        session.execute(
            "EXPLAIN OCCLUDE ? USING ecg FOR CLASS 'b' WITH patch=20 stride=20 channel=each INTO one", [signal()]
        )
        session.execute("EXPLAIN OCCLUDE ? USING ecg FOR CLASS 'b' WITH patch=20 stride=20 INTO two", [signal()])
        pixels = np.zeros((20, 24, 3), np.float32)
        session.execute("EXPLAIN OCCLUDE ? USING color FOR CLASS 0 WITH patch=20 channel=[red, 0] INTO three", [pixels])
        inside = session.execute(
            "SELECT channel, count(*) FROM "
            "(EXPLAIN OCCLUDE ? USING ecg FOR CLASS 'b' WITH patch=20 stride=20 channel=each) "
            "WHERE channel <> 'II' GROUP BY ALL ORDER BY 1",
            [signal()],
        ).fetchall()
        assert inside == [("I", 3), ("V1", 3)]
        assert session.run("one")[2].channel == "V1"
        assert session.execute("DESCRIBE RUN one").fetchall()[1][5:7] == (20, "II")
    with duckdb.connect(str(file), read_only=True) as plain:
        for view in ("heatmaps", "flat_maps"):
            rows = plain.execute(f"SELECT run_name, channel FROM {view} ORDER BY run_id, map_id").fetchall()
            expected = [*(("one", lead) for lead in LEADS), ("two", None), ("three", "blue, red")]
            assert rows[:5] == expected
        assert plain.execute("SELECT DISTINCT fill FROM heatmaps").fetchall() == [("mean",)]
        best = "SELECT channel, max(importance) FROM windows WHERE run = 'one' GROUP BY channel ORDER BY channel"
        assert [row[0] for row in plain.execute(best).fetchall()] == LEADS


def test_maps_in_parquet_files_keep_their_channel(tmp_path: Path) -> None:
    with obeql.connect(tmp_path / "maps.duckdb") as db:
        db.create_model("ecg", leads_network(), size=(LENGTH,), channels=LEADS)
        db.execute("SET obeql.store = 'parquet'")
        first = db.execute("EXPLAIN OCCLUDE ? USING ecg FOR CLASS 1 WITH patch=20 channel=each INTO one", [signal()])
        again = db.run("one")
        assert [heat.channel for heat in again] == LEADS
        np.testing.assert_array_equal(again[1].scores, first[1].scores)
        assert db.execute("SELECT channel FROM heatmaps ORDER BY 1").fetchall() == [(lead,) for lead in LEADS]
        assert "from the database" in str(
            db.execute("PLAN ANALYZE EXPLAIN OCCLUDE ? USING ecg FOR CLASS 1 WITH patch=20 channel=II", [signal()])
        )


@pytest.mark.usefixtures("quick_workers")
def test_workers_compute_and_reuse_channels(db: obeql.Session, tmp_path: Path) -> None:
    signals = [signal(seed) for seed in range(3)]
    query = "EXPLAIN OCCLUDE ? USING ecg FOR CLASS 1 WITH patch=20 stride=10 channel=each"
    alone = db.execute(query, [signals])
    shared = db.execute(f"{query} workers=2 NO REUSE", [signals])
    assert [heat.channel for heat in shared] == LEADS * 3
    for one, other in zip(alone, shared, strict=True):
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-6)


def test_pictures_and_curves_are_of_the_hidden_channel(db: obeql.Session, tmp_path: Path) -> None:
    heat = db.execute("EXPLAIN OCCLUDE ? USING ecg FOR CLASS 1 WITH patch=10 channel=II INTO shown", [signal()])[0]
    bands = [len(ax.images) for ax in heat.plot().child_axes]
    assert bands[:4] == [0, 1, 0, 0]
    assert "of II" in heat.windows_text
    found = db.execute("EVALUATE shown WITH steps=4").fetchall()
    db.execute("EXPLAIN OCCLUDE ? USING ecg FOR CLASS 1 WITH patch=10 INTO whole", [signal()])
    assert found != db.execute("EVALUATE whole WITH steps=4").fetchall()
    assert len(heat.compare(db.run("whole")[0]).axes) > 1
    db.execute(f"EXPORT RUN shown TO '{tmp_path / 'out'}'")


@pytest.mark.parametrize(
    ("written", "message", "at"),
    [
        ("3", "channel 3 does not exist: the input of model 'ecg' has 3, counted from 0", "3"),
        ("-1", "channel -1 does not exist", "-1"),
        ("'V2'", "channel 'V2' does not exist: the input of model 'ecg' has 3, I, II, V1", "'V2'"),
        ("[0, 1.5]", "channel takes numbers or names of channels, or each, not 1.5", "1.5"),
    ],
)
def test_a_channel_that_is_none_is_told_with_its_place(db: obeql.Session, written: str, message: str, at: str) -> None:
    query = f"EXPLAIN OCCLUDE ? USING ecg FOR CLASS 1 WITH patch=10 channel={written}"
    with pytest.raises(QueryTypeError) as caught:
        db.execute(query, [signal()])
    assert message in str(caught.value)
    assert caught.value.column == query.index(f"channel={written}") + len("channel=") + written.index(at) + 1


def test_the_only_channel_of_gray_images_is_every_channel() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    with obeql.connect() as db:
        db.create_model("gray", module, size=16, channels="gray")
        pixels = np.random.default_rng(0).random((16, 16)).astype(np.float32)
        heats = [db.explain(pixels, "gray", classes=0, patch=8, channel=each)[0] for each in (None, 0, "gray", "each")]
    assert all(heat.channel is None for heat in heats)
    assert all(np.array_equal(heats[0].scores, heat.scores) for heat in heats)
