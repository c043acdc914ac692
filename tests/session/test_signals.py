"""Signals from end to end: models of one axis, sources, language, results, SQL, pictures."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import obeql
from obeql.errors import ImageError, ObeqlError, QueryTypeError

pytestmark = pytest.mark.usefixtures("one_thread")

LENGTH = 96


class Net(nn.Module):
    """A small network of two channels that looks at a bump."""

    def __init__(self, channels: int = 2) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, 6, 7, padding=3)
        self.norm = nn.BatchNorm1d(6)
        self.last = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.norm(self.conv(x))).mean(2))


def network(channels: int = 2) -> nn.Module:
    torch.manual_seed(3)
    return Net(channels).eval()


def signal(channels: int = 2, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(0, 2, (channels, LENGTH)).astype(np.float32)


@pytest.fixture
def db() -> Iterator[obeql.Session]:
    with obeql.connect() as session:
        session.create_model("net", network(), size=(LENGTH,), classes=["a", "b", "c"])
        yield session


def scores_by_a_loop(module: nn.Module, samples: Any, class_id: int, patch: int, stride: int, fill: Any) -> list[float]:
    """The probability of a class with one window after the other hidden, as a plain loop gives it."""
    found = []
    for start in range(0, LENGTH - patch + 1, stride):
        hidden = torch.tensor(samples).double()
        values = torch.as_tensor(fill, dtype=torch.float64)
        values = values.reshape(-1, 1) if values.dim() == 1 else values
        hidden[:, start : start + patch] = values.expand_as(hidden)[:, start : start + patch]
        with torch.inference_mode():
            found.append(float(torch.softmax(module.double()(hidden[None]), 1)[0, class_id]))
    return found


FILLS = {
    "zero": lambda x: 0.0,
    "mean": lambda x: x.mean(axis=1),
    "0.5": lambda x: 0.5,
    "(0.5, -2)": lambda x: [0.5, -2.0],
}


@pytest.mark.parametrize("fill", FILLS)
def test_a_map_equals_a_plain_loop(db: obeql.Session, fill: str) -> None:
    x = signal()
    heat = db.execute(f"EXPLAIN OCCLUDE ? USING net FOR CLASS 'b' WITH patch=16 stride=8 fill={fill}", [x])[0]
    expected = scores_by_a_loop(network(), x, 1, 16, 8, FILLS[fill](x))
    assert heat.scores.shape == heat.shape == (len(expected),)
    np.testing.assert_allclose(heat.scores, expected, atol=1e-6)
    assert heat.to_pixels().shape == (LENGTH,)
    assert heat.patch == (16,)
    assert heat.top(1)[0].width == 16
    assert heat.cell(3).left == 24


def test_the_ends_of_the_range_hide_and_the_range_comes_before_mean_and_std() -> None:
    module = network()
    with obeql.connect() as db:
        db.create_model("net", module, size=(LENGTH,), range=(-8, 8), mean=0.5, std=(0.5, 0.25))
        x = signal()
        heat = db.explain(x, "net", classes=0, patch=16, stride=16, fill="black")[0]
    seen = ((x + 8) / 16 - 0.5) / np.array([[0.5], [0.25]])
    expected = scores_by_a_loop(module, seen, 0, 16, 16, [-1.0, -2.0])
    np.testing.assert_allclose(heat.scores, expected, atol=1e-6)


def test_the_blur_runs_along_the_signal(db: obeql.Session) -> None:
    x = signal()
    flat = np.repeat(x[:, :1], LENGTH, axis=1)
    heat = db.explain([x, flat], "net", classes=0, patch=16, fill="blur")
    assert np.abs(heat[0].importance).max() > 1e-4
    assert np.abs(heat[1].importance).max() < 1e-6  # a blurred constant is that constant


def drawn_through(x: Any, patch: int, stride: int, channels: tuple[int, ...]) -> list[Any]:
    """Copies of a signal with a line from end to end of one window after the other, in some channels."""
    found = []
    for start in range(0, LENGTH - patch + 1, stride):
        hidden = x.astype(np.float64)
        for channel in channels:
            ends = x[channel, start], x[channel, start + patch - 1]
            hidden[channel, start : start + patch] = np.linspace(*ends, patch)
        found.append(hidden)
    return found


@pytest.mark.parametrize("rules", ["", "choose_engine"], ids=["planned", "dense"])
@pytest.mark.parametrize(("written", "channels"), [("", (0, 1)), (" channel=1", (1,))], ids=["all", "one"])
def test_a_line_through_each_window_equals_a_plain_loop(
    db: obeql.Session, rules: str, written: str, channels: tuple[int, ...]
) -> None:
    signals = [signal(), signal(seed=1)]
    db.execute(f"SET obeql.disabled_rules = '{rules}'")
    text = f"EXPLAIN OCCLUDE ? USING net FOR CLASS 'b' WITH patch=16 stride=8 fill=linear{written}"
    result = db.execute(text, [signals])
    module = network().double()
    for heat, x in zip(result, signals, strict=True):
        hidden = torch.from_numpy(np.stack(drawn_through(x, 16, 8, channels)))
        with torch.inference_mode():
            expected = torch.softmax(module(hidden), 1)[:, 1]
        np.testing.assert_allclose(heat.scores, expected, atol=1e-6)
    coarse = db.execute(text.replace("stride=8", "stride=16"), [signals[:1]])[0]
    np.testing.assert_array_equal(coarse.scores, result[0].scores[::2])  # of stored windows
    assert "from the database" in str(db.execute(f"PLAN ANALYZE {text}", [signals]))
    dense = text.replace("stride=8", "stride=1")
    near = db.execute(f"{dense} APPROX 0.8 WITHIN 100 SECONDS NO REUSE", [signals[:1]])[0]
    known = slice(None) if near.cells.exact is None else near.cells.exact.reshape(-1)[::8]
    np.testing.assert_allclose(near.scores[::8][known], result[0].scores[known], atol=1e-4)
    if not written:
        probe = db.probe(signals[0], "net", fill="linear")
        told = [{each.class_name: each.probability for each in probe.hide(0, at, 1, 16)}["b"] for at in (0, 40, 80)]
        np.testing.assert_allclose(told, result[0].scores[[0, 5, 10]], atol=1e-5)


def test_a_line_is_for_windows_of_signals_with_something_between_their_ends(db: obeql.Session) -> None:
    x = signal()
    with pytest.raises(QueryTypeError, match=r"patch=2 has none between them: take patch=3 or more"):
        db.execute("EXPLAIN OCCLUDE ? USING net WITH patch=[8, 2] fill=linear", [x])
    db.execute("EXPLAIN OCCLUDE ? USING net FOR CLASS 0 INTO lines WITH patch=16 stride=8 fill=linear", [x])
    with pytest.raises(QueryTypeError, match="fill=linear is a line between the ends of a window: give another fill"):
        db.execute("EVALUATE lines WITH steps=2")
    torch.manual_seed(0)
    for size in ((8, 8), (8, 8, 8)):
        convolution = {2: nn.Conv2d, 3: nn.Conv3d}[len(size)]
        module = nn.Sequential(convolution(3, 2, 3), nn.Flatten(), nn.Linear(2 * 6 ** len(size), 2)).eval()
        db.create_model("other", module, size=size, replace=True)
        given = torch.rand(3, *size)
        takes = {2: "images", 3: "volumes"}[len(size)]
        with pytest.raises(QueryTypeError, match=f"of a signal, and the model takes {takes}: allowed are mean"):
            db.execute("EXPLAIN OCCLUDE ? USING other WITH patch=4 fill=linear", [given])
        with pytest.raises(QueryTypeError, match="fill=linear is a line"):
            db.probe(given, "other", fill="linear")


def test_approx_top_cells_region_and_reuse_work_as_on_images(db: obeql.Session) -> None:
    x = signal()
    exact = db.explain(x, "net", classes=0, patch=8, stride=1)[0]
    near = db.explain(x, "net", classes=0, patch=8, stride=1, approx=0.9, reuse=False)[0]
    assert near.shape == exact.shape == (LENGTH - 8 + 1,)
    best = db.explain(x, "net", classes=0, patch=8, stride=1, top_cells=3, reuse=False)[0].top(3)
    assert {cell.left for cell in best} == {cell.left for cell in exact.top(3)}
    part = db.execute("EXPLAIN OCCLUDE ? USING net FOR CLASS 0 REGION (16, 40) WITH patch=8 stride=4", [x])[0]
    assert part.shape == (9,)
    assert part.lefts.tolist() == list(range(16, 49, 4))
    assert "from the database" in str(
        db.execute("PLAN ANALYZE EXPLAIN OCCLUDE ? USING net FOR CLASS 0 WITH patch=8 stride=1", [x])
    )


def test_length_is_what_plans_and_listings_say(db: obeql.Session) -> None:
    plan = str(db.execute("PLAN EXPLAIN OCCLUDE ? USING net REGION (0, 64) WITH patch=16 stride=8", [signal()]))
    assert "grid=16 every 8 in (0,64) (7 windows cover)" in plan
    assert f"length {LENGTH} none 2 channels" in plan
    assert "patch=16  stride=8" in plan
    assert not re.search(r"\b1x\d", plan)
    shapes = [row[4] for row in db.execute("DESCRIBE MODEL net").fetchall()]
    assert shapes[:2] == ["2x96", "6x96"]
    heat = db.explain(signal(), "net", patch=16)[0]
    assert "21 cells" in repr(heat)
    assert heat.windows_text == "window 16 samples, stride 4"


def test_sql_sees_a_signal_as_one_row(db: obeql.Session) -> None:
    db.explain(signal(), "net", classes=0, patch=16, stride=8, into="run")
    row = db.execute(
        "SELECT patch, top_px, height_px, left_px, width_px FROM windows WHERE run = 'run' AND col = 2"
    ).fetchall()[0]
    assert row == ("16", 0, 1, 16, 16)
    assert db.execute('SELECT patch_height, patch_width, "rows", cols FROM heatmaps').fetchall()[0] == (1, 16, 1, 11)
    inside = db.execute(
        "SELECT count(*) FROM (EXPLAIN OCCLUDE ? USING net FOR CLASS 0 WITH patch=16 stride=8) WHERE left_px >= 40",
        [signal()],
    ).fetchall()[0]
    assert inside == (6,)


# ---- sources -----------------------------------------------------------------------------------------------


def test_list_columns_of_a_select_are_signals(db: obeql.Session) -> None:
    db.execute("CREATE TABLE beats (name VARCHAR, label VARCHAR, patient INTEGER, signal FLOAT[][])")
    arrays = [signal(seed=seed) for seed in range(3)]
    for number, x in enumerate(arrays):
        db.execute("INSERT INTO beats VALUES (?, 'b', ?, ?)", [f"beat {number}", number, x.tolist()])
    found = db.execute("EXPLAIN OCCLUDE (SELECT * FROM beats ORDER BY name) USING net FOR LABEL WITH patch=16 stride=8")
    assert [(heat.image, heat.label, heat.class_name) for heat in found] == [(f"beat {i}", "b", "b") for i in range(3)]
    assert found[1].columns == {"patient": 1}
    for heat, x in zip(found, arrays, strict=True):
        alone = db.explain(x, "net", classes="b", patch=16, stride=8)[0]
        np.testing.assert_array_equal(heat.scores, alone.scores)


def test_a_list_column_of_one_channel_is_a_signal() -> None:
    with obeql.connect() as db:
        db.create_model("net", network(1), size=LENGTH)
        query = f"SELECT [sin(i / 5.0) FOR i IN range({LENGTH})]::FLOAT[] AS signal"
        assert db.execute(f"EXPLAIN OCCLUDE ({query}) USING net WITH patch=16")[0].shape == (21,)
        x = np.sin(np.arange(LENGTH) / 5.0)
        assert db.explain(x, "net", patch=16)[0].shape == (21,)
        assert len(db.execute("PREDICT ? USING net", [torch.tensor(x)]).fetchall()) == 3


def test_files_of_numbers_and_sound(db: obeql.Session, tmp_path: Path) -> None:
    x = signal() / 16
    np.save(tmp_path / "a.npy", x)
    np.savez(tmp_path / "b.npz", signal=x, other=np.zeros(3))
    expected = db.explain(x, "net", classes=0, patch=16)[0]
    for name in ("a.npy", "b.npz"):
        heat = db.explain(str(tmp_path / name), "net", classes=0, patch=16)[0]
        np.testing.assert_array_equal(heat.scores, expected.scores)
    assert len(db.explain(str(tmp_path), "net", classes=0, patch=16)) == 2
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(tmp_path / "c.wav", x.T, 360, subtype="FLOAT")
    heat = db.explain(str(tmp_path / "c.wav"), "net", classes=0, patch=16)[0]
    np.testing.assert_array_equal(heat.scores, expected.scores)
    soundfile.write(tmp_path / "long.wav", np.zeros((720, 2)), 360)
    with pytest.raises(ImageError, match=r"has 720 samples \(2 s at 360 Hz\), but the model takes 96; .*crop_pad"):
        db.explain(str(tmp_path / "long.wav"), "net", patch=16)
    (tmp_path / "bad.wav").write_bytes(b"no sound at all")
    with pytest.raises(ImageError, match=r"bad\.wav' cannot be read as sound"):
        db.explain(str(tmp_path / "bad.wav"), "net", patch=16)


def test_sound_without_the_library_says_what_to_install(
    db: obeql.Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    with pytest.raises(ImageError, match=r"soundfile.*audio"):
        db.explain(str(tmp_path / "a.wav"), "net", patch=16)


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (np.zeros((2, 0)), "is empty: it has no samples"),
        (np.full((2, LENGTH), np.nan), f"has {2 * LENGTH} of {2 * LENGTH} values that are NaN or infinite"),
        (signal()[:, :50], "has 50 samples, but the model takes 96"),
        (signal(3), "has 3 channels of 96 samples, but the model takes 2 channels"),
        (signal().T, "signals are (channels, length), transpose it"),
        (Image.new("RGB", (32, 32)), "is an image of 32x32 pixels, but the model takes signals"),
    ],
)
def test_bad_signals_are_one_sentence(db: obeql.Session, x: Any, said: str) -> None:
    with pytest.raises(ImageError, match=re.escape(said)) as caught:
        db.explain(x, "net", patch=16)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("[[1.0, 2.0], [3.0]]", r"'row 1' has channels of different lengths \(1, 2\)"),
        ("[1.0, NULL]", "'row 1' has 1 values that are NULL"),
        ("NULL", "Row 1 of the SELECT has no signal: its signal is NULL"),
        ("'a.npy'", r"its signal is a str; it must be a list of numbers \(FLOAT\[\]\)"),
        ("['a', 'b']", "'row 1' holds something else than numbers"),
        ("[]", "'row 1' is empty"),
    ],
)
def test_bad_lists_are_one_sentence(db: obeql.Session, column: str, said: str) -> None:
    with pytest.raises(ObeqlError, match=said):
        db.execute(f"EXPLAIN OCCLUDE (SELECT {column} AS signal) USING net WITH patch=16")


def test_bad_arrays_in_files_are_one_sentence(db: obeql.Session, tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY")
    np.savez(tmp_path / "b.npz", one=signal(), two=signal())
    with pytest.raises(ImageError, match=r"a.npy' cannot be read as an array"):
        db.explain(str(tmp_path / "a.npy"), "net", patch=16)
    with pytest.raises(ImageError, match=r"holds 2 arrays \(one, two\); call one of them 'signal'"):
        db.explain(str(tmp_path / "b.npz"), "net", patch=16)


def test_the_middle_of_long_signals_and_zeros_around_short_ones() -> None:
    module = network()
    with obeql.connect() as db:
        db.create_model("net", module, size=(LENGTH,), resize="crop_pad")
        long = np.concatenate([np.ones((2, 10)), signal(), np.ones((2, 10))], axis=1)
        short = signal()[:, 20:70]
        found = db.explain([long, short], "net", classes=0, patch=16, stride=8, fill=0)
    np.testing.assert_allclose(found[0].scores, scores_by_a_loop(module, signal(), 0, 16, 8, 0.0), atol=1e-6)
    padded = np.pad(short, ((0, 0), (23, 23)))
    np.testing.assert_allclose(found[1].scores, scores_by_a_loop(module, padded, 0, 16, 8, 0.0), atol=1e-6)
    assert found[0].to_pixels("source").shape == (LENGTH + 20,)


# ---- models and language -----------------------------------------------------------------------------------


def test_onnx_and_exported_files_say_their_length(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    module, x = network(), signal()
    program = torch.export.export(module, (torch.zeros(2, 2, LENGTH),), dynamic_shapes=({0: torch.export.Dim("n")},))
    torch.export.save(program, tmp_path / "net.pt2")
    write_onnx(module, tmp_path / "net.onnx")
    expected = scores_by_a_loop(network(), x, 0, 16, 8, 0.0)
    with obeql.connect() as db:
        for number, name in enumerate(("net.pt2", "net.onnx")):
            said = str(db.execute(f"CREATE MODEL m{number} FROM '{tmp_path / name}'"))
            assert f"input length {LENGTH}" in said
            heat = db.explain(x, f"m{number}", classes=0, patch=16, stride=8, fill=0)[0]
            np.testing.assert_allclose(heat.scores, expected, atol=1e-6)


def write_onnx(module: Any, path: Path) -> None:
    """The network as ONNX, node by node, with asymmetric padding."""
    from onnx import TensorProto, helper, numpy_helper, save

    conv, norm, last = module.conv, module.norm, module.last
    arrays = {
        "w": conv.weight, "b": conv.bias, "s": norm.weight, "t": norm.bias, "m": norm.running_mean,
        "v": norm.running_var, "u": last.weight, "c": last.bias,
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["1"], kernel_shape=[7], pads=[3, 3]),
        helper.make_node("BatchNormalization", ["1", "s", "t", "m", "v"], ["2"], epsilon=norm.eps),
        helper.make_node("Relu", ["2"], ["3"]),
        helper.make_node("GlobalAveragePool", ["3"], ["4"]),
        helper.make_node("Flatten", ["4"], ["5"]),
        helper.make_node("Gemm", ["5", "u", "c"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, LENGTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(value.detach().numpy(), name) for name, value in arrays.items()],
    )  # fmt: skip
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)


@pytest.mark.parametrize(
    ("clauses", "said"),
    [
        ("WITH patch=16x24", "patch 16x24 has 2 numbers, but model 'net' takes signals, which have one axis: patch=24"),
        ("WITH patch=16 stride=4x4", "stride 4x4 has 2 numbers"),
        ("WITH patch=97", "patch 97 is larger than the length 96 input of model 'net'"),
        ("WITH fill=white", "fill=white is a place in the range of a model, and this one has none"),
        ("WITH fill=(1, 2, 3)", "fill takes one number or one for each of 2 channels, not 3"),
        ("REGION (90, 10)", "REGION (90, 10) reaches outside the length 96 input"),
        ("REGION (0, 8) WITH patch=16", "REGION of 8 samples holds no window of patch 16 and stride 4"),
    ],
)
def test_numbers_that_do_not_fit_a_signal(db: obeql.Session, clauses: str, said: str) -> None:
    with pytest.raises(QueryTypeError, match=re.escape(said)):
        db.execute(f"EXPLAIN OCCLUDE ? USING net {clauses}", [signal()])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"size": (LENGTH,), "channels": "rgb"}, "a model of signals takes a number of channels or a list"),
        ({"size": (LENGTH,), "mean": (1, 2, 3)}, "mean has 3 values, but the model has 2 channels"),
        ({"size": (LENGTH,), "resize": "squash"}, "a model of signals takes none or crop_pad"),
        ({"size": (LENGTH,), "range": (1, 0)}, "range is .* two numbers"),
        ({"size": (LENGTH,), "channels": 3}, r"fails on a batch of shape \(2, 3, 96\).*size=\(length,\)"),
    ],
)
def test_options_that_do_not_fit_a_model_of_signals(options: dict[str, Any], said: str) -> None:
    with obeql.connect() as db, pytest.raises(ObeqlError, match=said):
        db.create_model("net", network(), **options)


def test_a_region_of_a_signal_is_no_region_of_an_image() -> None:
    with obeql.connect() as db:
        flat = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        db.create_model("flat", flat, size=(16, 16))
        with pytest.raises(QueryTypeError, match=r"REGION takes \(top, left, height, width\)"):
            db.execute("EXPLAIN OCCLUDE ? USING flat REGION (0, 8) WITH patch=4", [np.zeros((16, 16, 3), np.uint8)])
        with pytest.raises(ImageError, match="has shape 96; allowed are"):
            db.explain(np.zeros(LENGTH), "flat", patch=4)


# ---- results -----------------------------------------------------------------------------------------------


def test_pictures_reports_and_files_of_signals(tmp_path: Path) -> None:
    with obeql.connect() as db:
        db.create_model("net", network(), size=(LENGTH,), channels=["I", "aVF"], classes=["a", "b", "c"])
        found = db.explain(signal(), "net", top=2, patch=16)
        heat = found[0]
        axes = heat.plot()
        names = [each.get_ylabel() for each in axes.child_axes]
        assert names[:3] == ["I", "aVF", "importance"]
        for name in ("map.png", "report.html", "map.npy", "map.npz"):
            heat.save(tmp_path / name)
        assert np.load(tmp_path / "map.npy").shape == heat.shape
        found.save(tmp_path / "sheet.png")
        assert "start, length" in found.table()
        (file,) = found.export(tmp_path / "maps")[:1]
        assert file.exists()
        assert heat.compare(found[1]) is not None
        with pytest.raises(QueryTypeError, match="animations show windows of images"):
            heat.animate(tmp_path / "film.gif")


def test_a_terminal_shows_channels_as_lines() -> None:
    from rich.console import Console

    from obeql.drawing.terminal import Canvas, draw_heatmap

    with obeql.connect() as db:
        db.create_model("net", network(), size=(LENGTH,), channels=["I", "aVF"])
        heat = db.explain(signal(), "net", patch=16)[0]
        console = Console(width=100, color_system=None)
        with console.capture() as capture:
            console.print(draw_heatmap(heat, Canvas(100, False, True)))
    lines = capture.get().splitlines()
    assert lines[1].startswith("I    ") and set(lines[1][5:].strip()) <= set("▁▂▃▄▅▆▇█")
    assert lines[2].startswith("aVF  ")


def test_signals_and_their_maps_are_there_again(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", signal())
    torch.export.save(torch.export.export(network(), (torch.zeros(2, 2, LENGTH),)), tmp_path / "net.pt2")
    with obeql.connect(tmp_path / "heat.duckdb") as db:
        db.execute(f"CREATE MODEL net FROM '{tmp_path / 'net.pt2'}' WITH channels=['I', 'II']")
        before = db.explain(str(tmp_path / "a.npy"), "net", patch=16, into="run")[0]
    with obeql.connect(tmp_path / "heat.duckdb") as db:
        after = db.run("run")[0]
        np.testing.assert_array_equal(after.scores, before.scores)
        assert (after.shape, after.channels) == ((21,), ("I", "II"))
        after.plot()
