"""Volumes end to end: statements against a plain loop, the store and SQL, reuse, workers, pictures, NIfTI."""

from __future__ import annotations

import base64
import json
import re
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import obeql
from obeql.errors import ImageError, QueryTypeError
from obeql.executor.adaptive.map_quality import quality_of
from obeql.export.report.views import slices_of_each
from obeql.planner.grid import WindowGrid

SIZE = (10, 14, 12)


def network(seed: int = 0, channels: int = 2) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv3d(channels, 6, (3, 5, 3), stride=(1, 2, 1), padding=(1, 0, 1), dilation=(2, 1, 1)),
        nn.ReLU(),
        nn.MaxPool3d(2, ceil_mode=True),
        nn.Conv3d(6, 6, 3, padding=1, groups=2),
        nn.BatchNorm3d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    ).eval()


def volume(seed: int = 0, channels: int = 2, size: tuple[int, ...] = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(channels, *size)).astype(np.float32)


def looped(module: nn.Module, values: np.ndarray, grid: WindowGrid, fill: np.ndarray, class_id: int) -> np.ndarray:
    """The log-odds of a class with each window hidden, one after another, in float64."""
    module, x = module.double(), torch.from_numpy(values).double()[None]
    found = np.empty(grid.shape)
    with torch.no_grad():
        for place in np.ndindex(*grid.shape):
            hidden = x.clone()
            box = [slice(a.starts[i], a.starts[i] + a.lengths[i]) for a, i in zip(grid.axes, place, strict=True)]
            hidden[(slice(None), slice(None), *box)] = torch.from_numpy(fill).double().view(1, -1, 1, 1, 1)
            found[place] = log_odds(module(hidden)[0], class_id)
    module.float()
    return found


def log_odds(logits: Tensor, class_id: int) -> float:
    others = torch.cat([logits[:class_id], logits[class_id + 1 :]])
    return (logits[class_id] - torch.logsumexp(others, 0)).item()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed in range(3):
        np.save(tmp_path / f"scan{seed}.npy", volume(seed))
    return tmp_path


@pytest.fixture
def db(folder: Path) -> Any:
    with obeql.connect(folder / "volumes.duckdb") as session:
        session.create_model("net", network(), size=SIZE, classes=["a", "b", "c"])
        yield session


@pytest.fixture
def smooth_scan(tmp_path: Path) -> Any:
    """A session, and a statement over 9 x 8 x 9 windows of a scan without noise."""
    z, y, x = (np.linspace(0, 3, n) for n in (20, 18, 20))
    waves = np.sin(z)[:, None, None] * np.cos(2 * y)[:, None] + np.sin(x)
    np.save(tmp_path / "smooth.npy", np.stack([waves, waves**2]).astype(np.float32))
    with obeql.connect(tmp_path / "smooth.duckdb") as session:
        session.create_model("net", network(), size=(20, 18, 20), classes=["a", "b", "c"])
        yield (
            session,
            f"EXPLAIN OCCLUDE '{tmp_path / 'smooth.npy'}' USING net FOR CLASS 'b' "
            "WITH patch=4 stride=2 score=log_odds seed=3",
        )


STATEMENT = "EXPLAIN OCCLUDE '{}' USING net FOR CLASS 'b' WITH patch={} stride={} border={} fill={} score=log_odds"


@pytest.mark.parametrize(
    ("patch", "stride", "border", "fill"),
    [
        ("4x6x5", "2x3x4", "cover", 0.5),
        ("4", "3", "valid", (0.1, -2)),
        ("3x5x4", "3x4x3", "clip", "mean"),
        ("10x2x3", "1x4x4", "cover", "zero"),
    ],
)
def test_maps_are_those_of_the_plain_loop(
    db: Any, folder: Path, patch: str, stride: str, border: Any, fill: Any
) -> None:
    (heat,) = db.execute(STATEMENT.format(folder / "scan0.npy", patch, stride, border, fill))
    sizes = [tuple(map(int, (text if "x" in text else "x".join([text] * 3)).split("x"))) for text in (patch, stride)]
    grid = WindowGrid.over(SIZE, *sizes, border)
    values = volume(0)
    hidden = {"mean": values.mean((1, 2, 3)), "zero": np.zeros(2)}.get(str(fill))
    hidden = np.broadcast_to(fill, 2).astype(np.float32) if hidden is None else hidden
    wanted = looped(network(), values, grid, hidden, 1)
    assert heat.shape == grid.shape and heat.scores.shape == grid.shape and heat.stride == grid.stride
    np.testing.assert_allclose(heat.scores, wanted, atol=2e-6)
    with torch.no_grad():
        clean = log_odds(network().double()(torch.from_numpy(values).double()[None])[0], 1)
    pixels = np.zeros(SIZE)
    count = np.zeros(SIZE)
    for place in np.ndindex(*grid.shape):
        box = tuple(slice(a.starts[i], a.starts[i] + a.lengths[i]) for a, i in zip(grid.axes, place, strict=True))
        pixels[box] += clean - wanted[place]
        count[box] += 1
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(heat.to_pixels(), np.where(count, pixels / count, np.nan), atol=4e-6)


@pytest.mark.parametrize(
    ("clause", "settings"),
    [
        ("APPROX 0.8 WITHIN 100 SECONDS", {}),
        ("APPROX 0.8 METRIC pearson WITHIN 100 SECONDS", {"disabled_rules": "choose_engine"}),
        ("APPROX 0.8 WITHIN 100 SECONDS", {"disabled_rules": "choose_reduced_precision"}),
        ("REGION (0, 0, 0, 18, 17, 20) APPROX 0.7 WITHIN 100 SECONDS", {}),
    ],
    ids=["ssim", "dense", "float32", "region"],
)
def test_estimated_maps_keep_their_word(smooth_scan: Any, clause: str, settings: dict[str, str]) -> None:
    session, ask = smooth_scan
    for name, value in settings.items():
        session.execute(f"SET obeql.{name} = '{value}'")
    head, _, rest = clause.rpartition(") ") if clause.startswith("REGION") else ("", "", clause)
    region = f"{head})" if head else ""
    rough = session.execute(f"{ask} {region} {rest}")[0]
    exact = session.execute(f"{ask} {region} EXACT NO REUSE")[0]
    assert rough.shape == exact.shape and np.isfinite(rough.scores).all() and 0 < rough.bound <= 1
    computed = rough.cells.exact
    assert computed.shape == rough.shape and computed.sum() == rough.cells.quality["n_exact"] < computed.size
    np.testing.assert_allclose(rough.scores[computed], exact.scores[computed], rtol=1e-4, atol=1e-5)
    assert rough.bound >= rough.target
    assert quality_of(rough.metric, exact.scores[None], rough.scores)[0] >= rough.bound
    stored = session.execute("SELECT exact, n_exact FROM heatmaps WHERE run_id = 1").fetchall()[0]
    np.testing.assert_array_equal(np.asarray(stored[0], bool).reshape(rough.shape), computed)
    again = session.run(1)[0]
    np.testing.assert_array_equal(again.scores, rough.scores)
    np.testing.assert_array_equal(again.cells.exact, computed)


def test_the_most_important_windows_are_found(smooth_scan: Any) -> None:
    session, ask = smooth_scan
    found, exact = session.execute(f"{ask} TOP 5 CELLS")[0], session.execute(f"{ask} EXACT NO REUSE")[0]
    best = np.sort(exact.importance.reshape(-1))[-5:]
    known = found.importance[np.isfinite(found.importance)]
    np.testing.assert_allclose(np.sort(known)[-5:], best, rtol=1e-3, atol=1e-4)


def test_sql_and_plain_duckdb_read_what_python_holds(db: Any, folder: Path) -> None:
    text = STATEMENT.format(folder / "scan0.npy", "4x6x5", "2x3x4", "cover", 0)
    (heat,) = db.execute(f"{text} INTO scan")
    cell = heat.top(1)[0]
    assert cell.place_text == f"{cell.plane}, {cell.row}, {cell.col}"
    assert heat.cell(*cell.place) == cell
    best = db.execute("SELECT plane, \"row\", col, front_px, depth_px FROM top_cells('scan', 'scan0', 1)").fetchall()[0]
    assert best == (*cell.place, cell.front, cell.depth)
    pixels = db.execute("SELECT importance FROM pixel_map('scan', 'scan0') ORDER BY z, y, x").fetchall()
    np.testing.assert_allclose(np.array(pixels).reshape(SIZE), heat.to_pixels(), atol=1e-6)
    assert db.execute("SELECT count(*) FROM deletion_order('scan', 'scan0')").fetchall()[0] == (np.prod(SIZE),)
    windows = db.execute("SELECT patch, source_front_px, source_depth_px FROM windows LIMIT 1").fetchall()[0]
    assert windows == ("4x6x5", 0, 4)
    assert db.run("scan")[0].to_pixels("source").shape == SIZE
    np.testing.assert_array_equal(db.run("scan")[0].scores, heat.scores)
    db.close()
    with duckdb.connect(str(folder / "volumes.duckdb"), read_only=True) as plain:
        rows = plain.execute('SELECT importance FROM cells ORDER BY plane, "row", col').fetchall()
        np.testing.assert_allclose(np.array(rows).reshape(heat.shape), heat.importance, atol=1e-6)
        shown = 'shape, patch_depth, stride_depth, fronts, depths, "rows", input_depth, source_depth'
        said = plain.execute(f"SELECT {shown} FROM heatmaps").fetchone()
        assert said == ([4, 4, 3], 4, 2, [0, 2, 4, 6], [4] * 4, 4, 10, 10)
        assert plain.execute("SELECT depth, height, width FROM images").fetchone() == SIZE
        assert plain.execute("SELECT input_depth FROM models").fetchone() == (10,)


def test_images_have_one_plane_in_sql(tmp_path: Path, db: Any) -> None:
    torch.manual_seed(0)
    db.create_model("flat", nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(2 * 36, 2)).eval(), size=8)
    db.explain(torch.rand(3, 8, 8), "flat", patch=4, stride=2)
    places = db.execute("SELECT DISTINCT plane, front_px, depth_px, source_front_px, source_depth_px FROM windows")
    assert places.fetchall() == [(0, 0, 1, 0, 1)]
    assert db.execute("SELECT shape, fronts, patch_depth FROM heatmaps").fetchall()[0] == ([3, 3], None, None)


def test_stored_cells_answer_other_grids_and_regions(db: Any, folder: Path, computed: Any) -> None:
    scan = folder / "scan0.npy"
    whole = db.execute(STATEMENT.format(scan, "4x6x4", "1x2x2", "valid", 0))[0]
    before = computed.windows
    part = db.execute(STATEMENT.format(scan, "4x6x4", "2x4x4", "valid", 0))[0]
    np.testing.assert_array_equal(part.scores, whole.scores[::2, ::2, ::2])
    text = STATEMENT.format(scan, "4x6x4", "1x2x2", "valid", 0)
    region = db.execute(text.replace(" WITH", " REGION (2, 4, 0, 7, 8, 12) WITH"))[0]
    np.testing.assert_array_equal(region.scores, whole.scores[2:6, 2:4])
    assert computed.windows == before


def test_workers_hand_over_the_same_maps(db: Any, folder: Path, quick_workers: None) -> None:
    maps = []
    for workers in (0, 2):
        text = STATEMENT.format(folder / "*.npy", "4x6x5", "4", "cover", 0)
        maps.append(db.execute(f"{text} workers={workers} NO REUSE"))
    assert len(maps[0]) == len(maps[1]) == 3
    for alone, shared in zip(*maps, strict=True):
        assert shared.shape == alone.shape == (3, 3, 3)
        np.testing.assert_allclose(shared.scores, alone.scores, atol=1e-6)


def test_python_arrays_channels_and_probe(db: Any) -> None:
    values = volume(5)
    (heat,) = db.explain(values, "net", patch=(4, 6, 5), stride=4, classes=["b"], channel=1, fill=0.0)
    assert heat.shape == (3, 3, 3) and heat.channel == "1"
    hidden = values.copy()
    hidden[1, 0:4, 0:6, 0:5] = 0
    wanted = torch.softmax(network()(torch.from_numpy(hidden)[None])[0], 0)[1].detach()
    assert heat.scores[0, 0, 0] == pytest.approx(float(wanted), abs=1e-6)
    said = {each.class_name: each.probability for each in db.probe(values, "net", fill="zero").hide(0, 0, 0, 4, 6, 5)}
    hidden[0, 0:4, 0:6, 0:5] = 0
    wanted = torch.softmax(network()(torch.from_numpy(hidden)[None])[0], 0)[1].detach()
    assert said["b"] == pytest.approx(float(wanted), abs=1e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("WITH patch=4x6", "2 numbers, but model 'net' takes volumes, which have three axes: patch=6"),
        ("WITH patch=4x16x16", "patch 4x16x16 is larger than the 10x14x12 input"),
        ("REGION (0, 0, 4, 4) WITH patch=4", r"REGION takes \(front, top, left, depth, height, width\) in voxels"),
        ("REGION (8, 0, 0, 4, 4, 4) WITH patch=4", "reaches outside the 10x14x12 input"),
        ("WITH patch=4 fill=black", "give it range="),
        ("WITH patch=4 fill=(1, 2, 3)", "one for each of 2 channels, not 3"),
        ("WINDOWS (SELECT 0 AS top, 0 AS left, 4 AS height, 4 AS width)", "WINDOWS lists windows of images"),
    ],
)
def test_statements_that_do_not_fit_say_so(db: Any, folder: Path, text: str, message: str) -> None:
    with pytest.raises(QueryTypeError, match=message):
        db.execute(f"EXPLAIN OCCLUDE '{folder / 'scan0.npy'}' USING net {text}")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (volume(0, 1), "has 1 channel, but the model takes 2"),
        (volume(0, 2, (10, 14, 11)), "has 10x14x11 voxels, but the model takes 10x14x12"),
        (np.full((2, *SIZE), np.nan), "values that are NaN or infinite"),
        (np.zeros((2, 0, 14, 12)), "has no voxels"),
        (np.zeros((14, 12)), r"has shape 14x12; allowed are \(depth, height, width\)"),
        (np.zeros((2, *SIZE), complex), "values of type complex128"),
    ],
)
def test_arrays_that_do_not_fit_say_so(db: Any, tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "bad.npy", array)
    with pytest.raises(ImageError, match=message):
        db.execute(f"EXPLAIN OCCLUDE '{tmp_path / 'bad.npy'}' USING net WITH patch=4")


def test_volumes_of_other_sizes_are_cropped_and_padded(tmp_path: Path) -> None:
    module = network(1, 1)
    with obeql.connect() as session:
        session.create_model("net", module, size=SIZE, resize="crop_pad", range=(0, 10), mean=0.5, std=2)
        scan = np.random.default_rng(0).uniform(0, 10, (14, 10, 12)).astype(np.float32)
        (heat,) = session.explain(scan, "net", patch=4, stride=4, classes=[0], fill="white", score="logit")
        fitted = np.zeros(SIZE, np.float32)
        fitted[:, 2:12] = scan[2:12]
        given = torch.from_numpy((fitted / 10 - 0.5) / 2)[None, None]
        given[..., 0:4, 0:4, 0:4] = (1 - 0.5) / 2
        assert heat.scores[0, 0, 0] == pytest.approx(float(module(given)[0, 0].detach()), abs=1e-5)
        assert heat.to_pixels("source").shape == (14, 10, 12)
        assert np.isnan(heat.to_pixels("source")[:2]).all()


def test_files_of_networks_say_that_they_take_volumes(tmp_path: Path) -> None:
    module, example = network(), torch.from_numpy(volume())[None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.trace(module, example).save(tmp_path / "net.pt")
    torch.export.save(torch.export.export(module, (example,)), tmp_path / "net.pt2")
    np.save(tmp_path / "scan.npy", volume())
    with obeql.connect() as session:
        session.create_model("live", module, size=SIZE)
        session.execute(f"CREATE MODEL script FROM '{tmp_path / 'net.pt'}' WITH size={SIZE} trust=true")
        session.execute(f"CREATE MODEL exported FROM '{tmp_path / 'net.pt2'}'")
        explain = f"EXPLAIN OCCLUDE '{tmp_path / 'scan.npy'}'"
        maps = [
            session.execute(f"{explain} USING {name} FOR CLASS 1 WITH patch=6 stride=4")[0]
            for name in ("live", "script", "exported")
        ]
    for heat in maps[1:]:
        np.testing.assert_allclose(heat.scores, maps[0].scores, atol=1e-6)


def test_an_onnx_file_says_that_it_takes_volumes(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper, save

    module = network()
    first, second, norm, last = module[0], module[3], module[4], module[8]
    arrays = {
        "w": first.weight, "b": first.bias, "v": second.weight, "c": second.bias, "s": norm.weight, "t": norm.bias,
        "m": norm.running_mean, "n": norm.running_var, "u": last.weight, "d": last.bias,
    }  # fmt: skip
    nodes = [
        helper.make_node(
            "Conv", ["x", "w", "b"], ["1"], strides=[1, 2, 1], pads=[1, 0, 1, 1, 0, 1], dilations=[2, 1, 1]
        ),
        helper.make_node("Relu", ["1"], ["2"]),
        helper.make_node("MaxPool", ["2"], ["3"], kernel_shape=[2, 2, 2], strides=[2, 2, 2], ceil_mode=1),
        helper.make_node("Conv", ["3", "v", "c"], ["4"], pads=[1] * 6, group=2),
        helper.make_node("BatchNormalization", ["4", "s", "t", "m", "n"], ["5"], epsilon=norm.eps),
        helper.make_node("Relu", ["5"], ["6"]),
        helper.make_node("GlobalAveragePool", ["6"], ["7"]),
        helper.make_node("Flatten", ["7"], ["8"]),
        helper.make_node("Gemm", ["8", "u", "d"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2, *SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(value.detach().numpy(), name) for name, value in arrays.items()],
    )  # fmt: skip
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "net.onnx")
    np.save(tmp_path / "scan.npy", volume())
    with obeql.connect() as session:
        message = str(session.execute(f"CREATE MODEL file FROM '{tmp_path / 'net.onnx'}'"))
        assert "3 classes, input 10x14x12" in message
        session.create_model("live", module, size=SIZE)
        text = f"EXPLAIN OCCLUDE '{tmp_path / 'scan.npy'}' USING {{}} FOR CLASS 1 WITH patch=6 stride=4"
        found, wanted = (session.execute(text.format(name))[0] for name in ("file", "live"))
        np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-6)


def test_a_stopped_map_goes_on_where_it_was(db: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from obeql.executor.execution import checkpoints

    for name in ("_FIRST_SECONDS", "_LAST_SECONDS", "_SHARE"):  # kept after every batch
        monkeypatch.setattr(checkpoints, name, 0.0)
    text = STATEMENT.format(folder / "scan0.npy", "4x6x5", "1", "cover", 0).replace("border", "batch=8 border")
    whole = db.execute(f"{text} NO REUSE")[0]
    db.execute("DROP RUN 1")

    def stop(progress: Any) -> None:
        if 0.4 * progress.total < progress.done < progress.total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        db.execute(text, on_progress=stop)
    ((n_cells, n_known),) = db.execute("SELECT count(*), count(score) FROM cells").fetchall()
    assert n_cells == whole.scores.size and 0 < n_known < n_cells
    again = db.execute(text)[0]
    np.testing.assert_allclose(again.scores, whole.scores, atol=1e-6)
    assert db.execute("SELECT status, share FROM runs").fetchall() == [("done", 1.0)]
    measured = db.execute(
        "SELECT measured FROM obeql_store.run_events WHERE status = 'done' ORDER BY entry_id DESC LIMIT 1"
    ).fetchall()[0][0]
    told = json.loads(measured)
    assert told["cells_stored"] == n_known and told["cells_computed"] == n_cells - n_known


def test_pictures_lists_and_exports(db: Any, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nibabel = pytest.importorskip("nibabel")
    text = STATEMENT.format(folder / "scan0.npy", "4x6x5", "2x3x4", "cover", 0)
    result = db.execute(f"{text} INTO scan")
    for name in ("map.png", "map.html", "map.gif", "map.npz"):
        result[0].save(folder / name)
        assert (folder / name).stat().st_size > 1000
    result[0].save(folder / "montage.png", view="montage")
    db.execute(f"RENDER scan TO '{folder / 'rendered.png'}' WITH view=montage")
    with pytest.raises(QueryTypeError, match="view is 'ring'; allowed are slices and montage"):
        result[0].plot(view="ring")
    assert result[0].compare(result[0]) is not None and result.plot() is not None
    assert "4x4x3" in str(result) and "4x6x5" in str(result)
    db.execute(f"EXPORT RUN scan TO '{folder / 'out'}' FORMAT nifti")
    (file,) = (folder / "out").glob("*.nii.gz")
    image = nibabel.load(file)
    assert image.shape == SIZE
    np.testing.assert_array_equal(image.affine, np.eye(4))
    np.testing.assert_array_equal(np.asarray(image.dataobj, np.float32), result[0].to_pixels("source"))


def test_a_report_goes_through_slices_of_every_axis(db: Any, folder: Path) -> None:
    result = db.execute(STATEMENT.format(folder / "scan0.npy", "4x6x5", "2x3x4", "cover", 0))
    result.report(folder / "report.html")
    text = (folder / "report.html").read_text("utf-8")
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    (found,) = json.loads(data)["maps"]
    best = result[0].top(1)[0]
    np.testing.assert_allclose(found["importance"], result[0].importance, rtol=1e-4)
    assert found["best"][0] == list(best.place) and found["box_names"][0] == "front"
    for axis, view in enumerate(found["views"]):
        sizes = SIZE[:axis] + SIZE[axis + 1 :]
        assert view["axis"] == axis and tuple(view["source_size"]) == sizes
        assert [each["at"] for each in view["slices"]] == list(range(SIZE[axis]))
        begin = view["slices"][view["begin"]]
        assert begin["plane"] == best.place[axis] and begin["at"] == best.starts[axis] + best.extents[axis] // 2
        overlay = Image.open(BytesIO(base64.b64decode(begin["overlay"].split(",")[1])))
        assert overlay.size == sizes[::-1]
    assert [slices_of_each(n) for n in (1, 3, 10, 200)] == [40, 40, 12, 1]


def test_statements_say_which_frames(tmp_path: Path) -> None:
    for number in range(8):
        folder = tmp_path / "walk"
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (6, 6), (30 * number, 0, 0)).save(folder / f"frame{number}.png")
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv3d(3, 2, 2), nn.Flatten(), nn.Linear(2 * 2 * 25, 2)).eval()
    with obeql.connect() as db:
        db.create_model("net", module, size=(3, 6, 6), channels=3)
        db.create_model("flat", nn.Sequential(nn.Conv2d(3, 2, 2), nn.Flatten(), nn.Linear(50, 2)).eval(), size=6)
        tail = "USING net FOR CLASS 0 WITH patch=2 stride=2"
        wanted = db.execute(f"EXPLAIN OCCLUDE '{folder}#frames=3,every=2,start=1' {tail}")[0]
        options = "frames=3 every=2 start=1"
        db.execute(f"CREATE IMAGES walks FROM '{folder}' WITH {options}")
        db.create_images("steps", str(folder), frames=3, every=2, start=1)
        found = [
            db.execute(f"EXPLAIN OCCLUDE '{folder}' {tail} {options}")[0],
            db.execute(f"EXPLAIN OCCLUDE walks {tail}")[0],
            db.execute(f"EXPLAIN OCCLUDE steps {tail} NO REUSE")[0],
            db.explain(str(folder), "net", classes=[0], patch=2, stride=2, frames=3, every=2, start=1)[0],
            db.execute(f"EXPLAIN OCCLUDE '{folder}#frames=3,every=2,start=1' {tail} frames=1 start=5")[0],
        ]
        for heat in found:
            np.testing.assert_array_equal(heat.scores, wanted.scores)
            assert heat.cells.key.image_hash == wanted.cells.key.image_hash
        said = [
            db.execute(f"PREDICT '{folder}{part}' USING net {with_}").fetchall()[0][1:]
            for part, with_ in (("#frames=3,every=2,start=1", ""), ("", f"WITH {options}"))
        ]
        assert said[0] == said[1]
        for text, message in (
            (f"EXPLAIN OCCLUDE '{folder}' {tail} frames=3 page=2", "page names a picture of a file, and frames frames"),
            (f"EXPLAIN OCCLUDE '{folder}' USING flat WITH every=2", "every chooses frames of clips, and model 'flat'"),
            (f"EXPLAIN OCCLUDE '{folder}' {tail} frames=0", "frames takes a whole number of at least 1|frames"),
            (f"CREATE IMAGES others FROM '{folder}' WITH page=1 start=2", "give one of them"),
        ):
            with pytest.raises(QueryTypeError, match=message):
                db.execute(text)
        np.save(tmp_path / "scan.npy", np.zeros((3, 3, 6, 6), np.float32))
        with pytest.raises(ImageError, match="is no clip: frames, every, start choose frames of videos"):
            db.execute(f"EXPLAIN OCCLUDE '{tmp_path / 'scan.npy'}' {tail} frames=3")


def test_folders_of_volumes(db: Any, folder: Path) -> None:
    text = STATEMENT.format(folder / "scan0.npy", "4x6x5", "2x3x4", "cover", 0)
    result = db.execute(f"{text} INTO scan")
    db.execute(f"EXPORT RUN scan TO '{folder / 'table'}' FORMAT parquet")
    read = f"SELECT importance, shape, fronts, patch_depth FROM '{folder / 'table' / 'heatmaps.parquet'}'"
    ((lines, *said),) = duckdb.sql(read).fetchall()
    assert said == [[4, 4, 3], [0, 2, 4, 6], 4]
    np.testing.assert_array_equal(np.array(lines, np.float32).reshape(4, 4, 3), result[0].importance)
    for form in ("fiftyone", "geotiff", "dicom", "secondary_capture"):
        with pytest.raises(ImageError, match=f"is a volume: FORMAT {form.upper()} is of images"):
            db.execute(f"EXPORT RUN scan TO '{folder / form}' FORMAT {form}")


def test_nifti_is_for_volumes(tmp_path: Path) -> None:
    pytest.importorskip("nibabel")
    torch.manual_seed(0)
    with obeql.connect() as session:
        session.create_model("flat", nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(72, 2)).eval(), size=8)
        result = session.explain(torch.rand(3, 8, 8), "flat", patch=4, stride=2)
        with pytest.raises(ImageError, match="is no volume but of images: FORMAT NIFTI"):
            result.export(tmp_path / "out", "nifti")


def test_curves_take_voxels(db: Any, folder: Path) -> None:
    text = STATEMENT.format(folder / "scan0.npy", "4x6x5", "4", "cover", 0)
    db.execute(f"{text} INTO scan")
    db.execute("EVALUATE scan WITH steps=4")
    rows = db.execute("SELECT measure, len(probabilities) FROM evaluations ORDER BY measure").fetchall()
    assert rows == [("deletion", 5), ("insertion", 5)]
