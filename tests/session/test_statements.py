"""Every other statement: models, images, runs, PLAN, PREDICT, RENDER, settings, plain SQL, scripts, parameters."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import obeql
from obeql import Message, Plan
from obeql.errors import ModelError, QueryError, QueryTypeError, StoreError, UnknownNameError

SIZE = 32


def first_column(relation: Any) -> list[Any]:
    return [row[0] for row in relation.fetchall()]


# ---- models ----------------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package of a user's own, with a factory of a network."""
    home = tmp_path / "code" / "session_zoo"
    home.mkdir(parents=True)
    (home / "__init__.py").write_text("")
    (home / "small.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        "    head = nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), *head)\n"
    )
    monkeypatch.syspath_prepend(str(home.parent))
    importlib.invalidate_caches()
    yield "python:session_zoo.small:build"
    for name in [name for name in sys.modules if name.startswith("session_zoo")]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_onnx(tmp_path_factory.mktemp("onnx") / "net.onnx")


def write_onnx(path: Path, seed: int = 0) -> Path:
    """A convolution, ReLU, mean and softmax for 32x32 images."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(seed)
    weights = {
        "w": rng.normal(size=(4, 3, 3, 3)).astype(np.float32),
        "b": rng.normal(size=4).astype(np.float32),
        "v": rng.normal(size=(4, 3)).astype(np.float32),
        "c": rng.normal(size=3).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["y"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "v", "c"], ["z"]),
        helper.make_node("Softmax", ["z"], ["out"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, path)
    return path


def test_create_model_from_onnx(db: Any, onnx_file: Path, pixels: Callable[..., Any]) -> None:
    message = db.execute(f"CREATE MODEL net FROM '{onnx_file}' WITH classes=['ant', 'bee', 'cat']")
    assert isinstance(message, Message) and "model net created: 3 classes, input 32x32" in str(message)
    rows = db.execute("PREDICT ? USING net", [pixels()]).fetchall()
    assert sum(row[5] for row in rows) == pytest.approx(1, abs=1e-6)
    (heat,) = db.execute("EXPLAIN OCCLUDE ? USING net WITH patch=16 score=log_odds", [pixels()])
    assert heat.class_name == rows[0][4] and heat.clean_probability == pytest.approx(rows[0][5], abs=1e-6)


def test_create_model_from_a_factory(db: Any, package: str, pixels: Callable[..., Any]) -> None:
    db.execute(f"CREATE MODEL net FROM '{package}' WITH size={SIZE}")
    (heat,) = db.execute("EXPLAIN OCCLUDE ? USING net WITH patch=16", [pixels()])
    assert heat.class_name in {"0", "1", "2"}


def test_create_model_from_torchvision(db: Any, pixels: Callable[..., Any]) -> None:
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    db.execute("CREATE MODEL net FROM 'torchvision:squeezenet1_1' WITH size=64")
    assert first_column(db.execute("SELECT n_classes FROM models")) == [1000]
    (heat,) = db.execute(
        "EXPLAIN OCCLUDE ? USING net FOR TOP 1 WITH patch=32 stride=32 score=log_odds", [pixels(1, 90)]
    )
    assert heat.shape == (2, 2) and np.isfinite(heat.scores).all()


def test_create_model_from_python(db: Any, tiny_net: Any, onnx_file: Path) -> None:
    record = db.create_model("net", tiny_net(), size=(SIZE, SIZE), classes=["a", "b", "c"], resize="squash")
    assert (record.uri, record.classes, record.n_classes) == (None, ("a", "b", "c"), 3)
    assert db.create_model("file", onnx_file).uri == str(onnx_file)
    assert first_column(db.execute("SHOW MODELS")) == ["file", "net"]


def test_creating_the_same_model_again_changes_nothing(db: Any, onnx_file: Path, dump: Any) -> None:
    statement = f"CREATE MODEL net FROM '{onnx_file}'"
    db.execute(statement)
    before = dump(db)
    assert "is there already" in str(db.execute(statement))
    assert "is there already" in str(db.execute(statement.replace("net", "NET", 1)))
    assert "is there already" in str(db.execute(statement.replace("CREATE", "CREATE OR REPLACE")))
    assert dump(db) == before


def test_another_model_needs_or_replace(net_db: Any, tiny_net: Any, onnx_file: Path, dump: Any) -> None:
    before = dump(net_db)
    for create in (
        lambda: net_db.execute(f"CREATE MODEL net FROM '{onnx_file}'"),
        lambda: net_db.create_model("Net", tiny_net(1), size=(SIZE, SIZE)),
        lambda: net_db.create_model("net", tiny_net(), size=(SIZE, SIZE), mean=(0.5, 0.5, 0.5)),
    ):
        with pytest.raises(StoreError, match=r"'net' exists with another .*OR REPLACE.*replace=True"):
            create()
    assert dump(net_db) == before
    assert "replaced" in str(net_db.execute(f"CREATE OR REPLACE MODEL net FROM '{onnx_file}'"))
    net_db.create_model("net", tiny_net(1), size=(SIZE, SIZE), replace=True)
    assert first_column(net_db.execute("SELECT uri FROM models")) == [None]


def test_the_module_is_copied(db: Any, tiny_net: Any, pixels: Callable[..., Any]) -> None:
    net = tiny_net().train()
    db.create_model("net", net, size=(SIZE, SIZE))
    before = db.execute("EXPLAIN OCCLUDE ? USING net WITH patch=16", [pixels()])[0].scores
    with torch.no_grad():
        net[0].weight.add_(1)
    assert net.training
    np.testing.assert_array_equal(db.execute("EXPLAIN OCCLUDE ? USING net WITH patch=16", [pixels()])[0].scores, before)


# ---- images ----------------------------------------------------------------------------------------------


def test_create_images(db: Any, folder: Path, dump: Any) -> None:
    statement = f"CREATE IMAGES scans FROM '{folder}/*.png'"
    assert str(db.execute(statement)) == "images scans: 3 images"
    before = dump(db)
    assert str(db.execute(statement)) == "images scans: 3 images"
    assert dump(db) == before
    with pytest.raises(StoreError, match="'scans' exists with other images"):
        db.execute(f"CREATE IMAGES Scans FROM '{folder}/scan1.png'")
    assert dump(db) == before
    db.execute(f"CREATE OR REPLACE IMAGES scans FROM '{folder}/scan1.png'")
    assert first_column(db.execute("SELECT path FROM image_sets")) == [str(folder / "scan1.png")]


def test_create_images_from_a_select_with_parameters(db: Any, folder: Path) -> None:
    db.execute(
        "CREATE IMAGES some FROM (SELECT file, 'bee' AS label FROM glob($1) WHERE file <> $1 ORDER BY 1 LIMIT $2)",
        [f"{folder}/*.png", 2],
    )
    assert db.execute("DESCRIBE IMAGES some").fetchall() == [
        (0, 1, str(folder / "scan1.png"), "bee"),
        (1, 2, str(folder / "scan2.png"), "bee"),
    ]
    db.execute("CREATE IMAGES by_id FROM (SELECT image_id FROM images WHERE label = $label)", {"label": "bee"})
    assert first_column(db.execute("SHOW IMAGES")) == ["by_id", "some"]


def test_create_images_from_python(net_db: Any, folder: Path, pixels: Callable[..., Any]) -> None:
    mixed = [
        pixels(1),
        Image.fromarray(pixels(2)),
        torch.from_numpy(pixels(3)).permute(2, 0, 1).float() / 255,
        folder / "scan1.png",
        str(folder / "scan2.png"),
    ]
    made = net_db.create_images("mixed", mixed)
    assert [image.shown for image in made.images][:3] == ["mixed_0", "mixed_1", "mixed_2"]
    assert len(net_db.execute("EXPLAIN OCCLUDE mixed USING net WITH patch=16")) == 5
    (alone,) = net_db.execute("EXPLAIN OCCLUDE mixed_2 USING net WITH patch=16")
    assert alone.source().size == (SIZE, SIZE)
    assert len(net_db.create_images("one", folder / "scan1.png").images) == 1
    assert len(net_db.create_images("all", str(folder)).images) == 3
    assert len(net_db.create_images("array", pixels(9)).images) == 1
    net_db.execute("CREATE IMAGES bound FROM ?", [mixed[:2]])
    assert first_column(net_db.execute("SELECT count(*) FROM image_sets WHERE name = 'bound'")) == [2]


def test_pixels_are_told_apart_by_content(net_db: Any, pixels: Callable[..., Any]) -> None:
    net_db.create_images("scans", [pixels(1)])
    net_db.create_images("scans", [pixels(1)])
    with pytest.raises(StoreError, match="'scans' exists"):
        net_db.create_images("scans", [pixels(2)])
    net_db.create_images("scans", [pixels(2)], replace=True)
    runs = [net_db.explain(pixels(seed), "net", patch=16)[0] for seed in (1, 2, 2)]
    ids = [heat.image_id for heat in runs]
    assert ids[0] != ids[1] == ids[2]
    named = net_db.explain("scans", "net", patch=16)[0]
    np.testing.assert_array_equal(named.scores, runs[1].scores)


def test_duplicates_are_explained_once(net_db: Any, folder: Path) -> None:
    path = str(folder / "scan1.png")
    other = str(folder / "scan2.png")
    result = net_db.execute("EXPLAIN OCCLUDE ? USING net WITH patch=16", [[path, other, path]])
    assert [heat.path for heat in result] == [path, other]
    assert first_column(net_db.execute("SELECT count(*) FROM heatmaps")) == [2]
    select = f"(SELECT p AS path FROM (VALUES ('{path}'), ('{path}')) t(p))"
    assert len(net_db.execute(f"EXPLAIN OCCLUDE {select} USING net WITH patch=16")) == 1


# ---- drop, show, describe ----------------------------------------------------------------------------------


def test_drop(net_db: Any, folder: Path) -> None:
    net_db.execute(f"CREATE IMAGES scans FROM '{folder}/*.png'")
    net_db.execute("EXPLAIN OCCLUDE scans USING net WITH patch=16 INTO mine")
    second = net_db.execute("EXPLAIN OCCLUDE scans USING net WITH patch=8 stride=8")
    assert str(net_db.execute("DROP RUN mine")) == "run mine dropped"
    net_db.execute("DROP RUN ?", [np.int64(second.run_id)])
    net_db.execute("DROP IMAGES SCANS")
    net_db.execute("DROP MODEL Net")
    for view in ("runs", "heatmaps", "models", "image_sets"):
        assert first_column(net_db.execute(f"SELECT count(*) FROM {view}")) == [0], view
    for statement in (
        "DROP RUN mine",
        "DROP IMAGES scans",
        "DROP MODEL net",
        "DESCRIBE MODEL net",
        "RENDER mine TO 'x.png'",
    ):
        with pytest.raises(UnknownNameError) as caught:
            net_db.execute(statement)
        assert caught.value.line == 1, statement


def test_show_and_describe(net_db: Any, folder: Path) -> None:
    assert net_db.execute("SHOW RUNS").fetchall() == []
    net_db.execute(f"CREATE IMAGES scans FROM '{folder}/*.png'")
    net_db.execute("EXPLAIN OCCLUDE scans USING net FOR ALL WITH patch=16 INTO mine")
    assert net_db.execute("SHOW RUNS").columns[:5] == ["run_id", "run_name", "status", "share", "model"]
    assert net_db.execute("SHOW IMAGES").fetchall() == [("scans", 3, f"{folder}/*.png")]
    assert "cpu" in first_column(net_db.execute("SHOW DEVICES"))
    assert first_column(net_db.execute("SHOW OPERATORS"))[:2] == ["DenseForward", "IncrementalForward"]
    assert first_column(net_db.execute("DESCRIBE MODEL net"))[0] == 0
    assert len(net_db.execute("DESCRIBE RUN mine").fetchall()) == 9
    for reference in ("1", "'mine'", "'1'"):
        assert len(net_db.execute(f"DESCRIBE RUN {reference}").fetchall()) == 9
    assert len(net_db.execute("DESCRIBE RUN $which", {"which": "MINE"}).fetchall()) == 9
    # DuckDB keeps what is its own
    net_db.execute("CREATE TABLE models_of_mine (a INTEGER); CREATE SCHEMA other; USE other")
    assert first_column(net_db.execute("DESCRIBE memory.main.models_of_mine")) == ["a"]
    assert first_column(net_db.execute("SHOW MODELS")) == ["net"]
    assert len(net_db.execute("DESCRIBE RUN mine").fetchall()) == 9


# ---- plan, predict, render ---------------------------------------------------------------------------------


def test_plan_runs_nothing(net_db: Any, folder: Path, dump: Any) -> None:
    statement = f"PLAN EXPLAIN OCCLUDE '{folder}/*.png' USING net WITH patch=[8, 16] INTO mine"
    net_db.execute(statement)
    before = dump(net_db)
    plan = net_db.execute(statement)
    assert isinstance(plan, Plan) and plan.result is None and plan.physical.run_name == "mine"
    for part in (
        "Logical plan",
        "Rules",
        "Physical plan",
        "Rejected alternatives",
        "Options",
        "seconds",
        "[8x8,16x16]",
    ):
        assert part in str(plan), part
    assert dump(net_db) == before


def test_plan_analyze_measures_and_keeps(net_db: Any, folder: Path) -> None:
    plan = net_db.execute(f"PLAN ANALYZE EXPLAIN OCCLUDE '{folder}/*.png' USING net WITH patch=16 INTO mine")
    lines = str(plan).splitlines()
    measured = next(line for line in lines if line.strip().startswith("measured"))
    assert "75" in measured and any("seconds" in line for line in lines[lines.index("Measured") :])
    assert len(plan.result) == 3 and net_db.run("mine").run_id == plan.result.run_id


def test_predict(net_db: Any, tiny_net: Any, folder: Path, pixels: Callable[..., Any]) -> None:
    relation = net_db.execute(f"PREDICT '{folder}/*.png' USING net FOR TOP 2")
    assert relation.columns == ["image", "label", "rank", "class_id", "class_name", "probability", "logit"]
    rows = relation.fetchall()
    assert [row[2] for row in rows] == [1, 2] * 3
    x = torch.from_numpy(pixels(1)).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        z = tiny_net()(x)[0].double()
    order = z.argsort(descending=True)[:2]
    assert [row[3] for row in rows[:2]] == order.tolist()
    np.testing.assert_allclose([row[6] for row in rows[:2]], z[order], atol=1e-5)
    np.testing.assert_allclose([row[5] for row in rows[:2]], z.softmax(0)[order], atol=1e-6)
    stored = net_db.execute("SELECT class_id, probability FROM predictions WHERE image_id = 1 ORDER BY rank").fetchall()
    assert stored == [(row[3], row[5]) for row in rows[:2]]
    net_db.execute(f"PREDICT '{folder}/*.png' USING net FOR TOP 2")
    assert first_column(net_db.execute("SELECT count(*) FROM predictions")) == [6]


def test_predict_names_the_bad_image(net_db: Any, folder: Path) -> None:
    (folder / "scan2.png").write_bytes(b"no picture")
    rows = net_db.execute(f"PREDICT '{folder}/*.png' USING net FOR TOP 1").fetchall()
    assert [row[-1] is None for row in rows] == [True, False, True]
    assert "is not an image" in rows[1][-1]


def test_render(net_db: Any, folder: Path, tmp_path: Path) -> None:
    net_db.execute(f"EXPLAIN OCCLUDE '{folder}/scan1.png' USING net FOR ALL WITH patch=16 INTO mine")
    assert str(net_db.execute(f"RENDER mine TO '{tmp_path}/sheet.png'")) == f"3 heat maps drawn to {tmp_path}/sheet.png"
    net_db.execute("RENDER ? TO ?", [1, tmp_path / "again.png"])
    with Image.open(tmp_path / "again.png") as drawn:
        assert drawn.width > 100


# ---- settings ----------------------------------------------------------------------------------------------


def test_set_and_reset(net_db: Any, pixels: Callable[..., Any]) -> None:
    assert str(net_db.execute("SET obeql.device = 'cpu'")) == "obeql.device = cpu"
    assert "device=cpu" in str(net_db.execute("PLAN EXPLAIN OCCLUDE ? USING net", [pixels()]))
    assert str(net_db.execute("RESET obeql.device")) == "obeql.device = auto"
    net_db.execute("SET obeql.max_cells = ?", [100])
    with pytest.raises(QueryTypeError, match=r"169 cells, more than the 100 of obeql\.max_cells"):
        net_db.execute("EXPLAIN OCCLUDE ? USING net WITH patch=8", [pixels()])
    net_db.execute("SET obeql.max_cells = auto; SET obeql.disabled_rules = 'choose_engine'")
    plan = str(net_db.execute("PLAN EXPLAIN OCCLUDE ? USING net WITH patch=8", [pixels()]))
    assert "choose_engine" in plan[plan.index("off") :]
    with pytest.raises(UnknownNameError, match="Did you mean 'device'") as caught:
        net_db.execute("SET obeql.devise = cpu")
    assert caught.value.column == 11
    net_db.execute("SET threads = 2")  # DuckDB's own
    assert first_column(net_db.execute("SELECT current_setting('threads')")) == [2]


def test_threads_hold_for_the_statement(net_db: Any, pixels: Callable[..., Any]) -> None:
    before = torch.get_num_threads()
    net_db.execute(f"SET obeql.threads = {before + 1}")
    seen = []
    net_db.execute(
        "EXPLAIN OCCLUDE ? USING net WITH patch=16",
        [pixels()],
        on_progress=lambda _: seen.append(torch.get_num_threads()),
    )
    assert set(seen) == {before + 1} and torch.get_num_threads() == before
    with pytest.raises(QueryError):
        net_db.execute("EXPLAIN OCCLUDE nothing USING net")
    assert torch.get_num_threads() == before


# ---- plain SQL ---------------------------------------------------------------------------------------------


def test_sql_goes_to_duckdb(net_db: Any, tmp_path: Path, pixels: Callable[..., Any]) -> None:
    net_db.execute("EXPLAIN OCCLUDE ? USING net FOR ALL WITH patch=16", [pixels()])
    net_db.execute("CREATE TABLE notes (run_id BIGINT, text VARCHAR)")
    net_db.execute("INSERT INTO notes VALUES (1, 'good')")
    net_db.execute("CREATE VIEW best AS SELECT run_id, class_name, max(importance) AS top FROM cells GROUP BY ALL")
    found = net_db.execute("SELECT class_name, text FROM best JOIN notes USING (run_id) ORDER BY 1").fetchall()
    assert found == [("ant", "good"), ("bee", "good"), ("cat", "good")]
    net_db.execute(f"COPY (FROM cells) TO '{tmp_path}/cells.parquet' (FORMAT parquet)")
    counted = net_db.execute(f"SELECT count(*) FROM '{tmp_path}/cells.parquet'").fetchall()
    assert counted == net_db.execute("SELECT count(*) FROM cells").fetchall() == [(75,)]
    assert net_db.execute("EXPLAIN SELECT 42").fetchall()
    assert net_db.execute("SELECT ? + $2", [1, 2]).fetchall() == [(3,)]
    assert net_db.execute("SELECT $a || $b", {"a": "x", "b": "y"}).fetchall() == [("xy",)]
    assert net_db.execute("-- nothing") is None
    assert net_db.execute("SELECT 1 AS a").to_arrow_table().to_pydict() == {"a": [1]}


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("SELEC 1", "syntax error"),
        ("SELECT * FROM nowhere", "nowhere"),
        ("SELECT * FROM statement", "There is no table 'statement'"),
        ("SELECT missing FROM runs", "missing"),
        ("INSERT INTO runs VALUES (1)", "runs"),
    ],
)
def test_sql_errors_are_ours(shared_db: Any, sql: str, said: str) -> None:
    with pytest.raises(QueryError, match=said):
        shared_db.execute(sql)
    assert shared_db.execute("SELECT 1").fetchall() == [(1,)]


def test_a_transaction_of_the_user_is_not_mixed_with_runs(net_db: Any, pixels: Callable[..., Any], dump: Any) -> None:
    before = dump(net_db)
    net_db.execute("BEGIN; CREATE TABLE t (a INTEGER)")
    for statement in ("EXPLAIN OCCLUDE ? USING net", "PREDICT ? USING net", "CREATE IMAGES s FROM ?"):
        with pytest.raises(StoreError, match="COMMIT or ROLLBACK the open transaction"):
            net_db.execute(statement, [pixels()])
    with pytest.raises(StoreError, match="COMMIT or ROLLBACK"):
        net_db.execute("DROP MODEL net")
    assert first_column(net_db.execute("SHOW MODELS")) == ["net"]
    net_db.execute("ROLLBACK")
    assert dump(net_db) == before
    assert len(net_db.execute("EXPLAIN OCCLUDE ? USING net WITH patch=16", [pixels()])) == 1


# ---- scripts and parameters --------------------------------------------------------------------------------


def test_a_script_returns_its_last_result(net_db: Any, folder: Path) -> None:
    script = f"""
        CREATE IMAGES scans FROM '{folder}/*.png';  -- three; of them
        EXPLAIN OCCLUDE scans USING net WITH patch=16 INTO mine;
        EXPLAIN OCCLUDE scans USING net WITH patch=8 stride=8 INTO finer;
        SELECT run_name, count(*) AS n FROM runs JOIN heatmaps USING (run_id, run_name) GROUP BY ALL ORDER BY 1;
    """
    assert net_db.execute(script).fetchall() == [("finer", 3), ("mine", 3)]
    kinds = [type(outcome).__name__ for outcome in net_db.run_script("SHOW MODELS; SET obeql.reuse = true; SELECT 1")]
    assert kinds == ["DuckDBPyRelation", "Message", "DuckDBPyRelation"]
    assert net_db.execute("  ; ;") is None


def test_a_script_that_does_not_parse_runs_nothing(net_db: Any, dump: Any) -> None:
    before = dump(net_db)
    with pytest.raises(QueryError) as caught:
        net_db.execute("DROP MODEL net;\nEXPLAIN OCCLUDE x USIN net")
    assert caught.value.line == 2
    assert dump(net_db) == before


def test_a_script_stops_at_the_first_error(net_db: Any) -> None:
    with pytest.raises(UnknownNameError) as caught:
        net_db.execute("CREATE TABLE t (a INTEGER);\n\nPREDICT nobody USING net;\nDROP TABLE t")
    assert (caught.value.line, caught.value.column) == (3, 9)
    assert net_db.execute("SELECT count(*) FROM t").fetchall() == [(0,)]


def test_parameters_of_every_kind(net_db: Any, folder: Path, pixels: Callable[..., Any]) -> None:
    tensor = torch.from_numpy(pixels(3)).permute(2, 0, 1).float() / 255
    images = [pixels(1), Image.fromarray(pixels(2)), tensor, str(folder / "scan1.png"), folder / "scan2.png"]
    statement = "EXPLAIN OCCLUDE ? USING ? FOR CLASSES (?, ?) WITH patch=? stride=? fill=? score=log_odds"
    result = net_db.execute(statement, [images, "net", "bee", np.int64(0), 16, (8, 4), "gray"])
    assert len(result) == 10 and result[0].stride == (8, 4)
    # a file and the same pixels as PIL image or array give the same map where nothing is resized
    by_path = net_db.execute("EXPLAIN OCCLUDE $image USING net WITH patch=16", {"image": f"{folder}/scan1.png"})
    np.testing.assert_array_equal(by_path[0].scores, net_db.explain(pixels(1), "net", patch=16)[0].scores)
    glob = net_db.execute("EXPLAIN OCCLUDE $image USING net WITH patch=$p", {"image": f"{folder}/*.png", "p": [8, 16]})
    assert len(glob) == 6


def test_parameters_of_a_script_go_where_they_are_named(net_db: Any, pixels: Callable[..., Any]) -> None:
    script = "EXPLAIN OCCLUDE $x USING net WITH patch=16 INTO a; SELECT 1; SELECT $n + 1"
    assert net_db.execute(script, {"x": pixels(), "n": 4}).fetchall() == [(5,)]
    assert net_db.execute("SELECT 1; SELECT ?; SELECT 2", [7]).fetchall() == [(2,)]


@pytest.mark.parametrize(
    ("statement", "parameters", "said"),
    [
        ("PREDICT ? USING net", None, "No value was given for parameter number 1"),
        ("PREDICT $x USING net", {"y": 1}, r"No value was given for parameter \$x"),
        ("PREDICT $x USING net", [1], r"No value was given for parameter \$x"),
        ("PREDICT ? USING net", ["a", "b"], "2 values were given; the statement takes 1 parameter"),
        ("PREDICT ? USING net", "a.png", "Parameters are a list"),
        ("PREDICT ? USING net", np.zeros((3, 32, 32)), "Parameters are a list"),
        ("PREDICT ? USING net", [3.5], "takes images, paths or a list of them, not float"),
        ("PREDICT ? USING net", [[None]], "is a NoneType"),
        ("PREDICT ? USING net", [[]], "The list of images is empty"),
        ("EXPLAIN OCCLUDE ? USING ?", ["a.png", 7], "USING takes the name of a model, not int"),
        ("DROP RUN ?", [2.5], "by its name or its id, not by a float"),
        ("RENDER ? TO ?", [1, 2], "A text is needed as the path"),
        ("CREATE MODEL m FROM ?", [5], "A text is needed as the URI"),
    ],
)
def test_parameters_that_do_not_fit(shared_db: Any, dump: Any, statement: str, parameters: Any, said: str) -> None:
    before = dump(shared_db)
    with pytest.raises(QueryTypeError, match=said):
        shared_db.execute(statement, parameters)
    assert dump(shared_db) == before


# ---- the keyword form --------------------------------------------------------------------------------------


def test_explain_takes_the_clauses_as_keywords(net_db: Any, folder: Path, pixels: Callable[..., Any]) -> None:
    net_db.execute(f"CREATE IMAGES \"my scans\" FROM '{folder}/*.png'")
    result = net_db.explain("my scans", "net", classes=["bee", 0], patch=(16, 8), stride=8, fill=(0, 0.5, 1), into="x")
    assert len(result) == 6 and result[0].patch == (16, 8) and result.run_name == "x"
    assert net_db.explain(folder / "scan1.png", "net", patch=[8, 16], top=2)[3].patch == (16, 16)
    assert net_db.explain([pixels(1), str(folder / "scan1.png")], "net", patch=np.int64(16), region=(0, 0, 16, 16))[
        0
    ].shape == (1, 1)
    replaced = net_db.explain(pixels(), "net", patch=16, into="x", replace=True, device="cpu", exact=True, reuse=False)
    assert net_db.run("x").run_id == replaced.run_id
    approx = net_db.explain(pixels(), "net", patch=16, approx=0.9, metric="pearson", confidence=0.9, stride=None)
    assert (approx[0].metric, approx[0].bound, approx[0].confidence) == ("pearson", 1.0, 0.9)
    assert len(net_db.explain("scan1", "net", patch=16)) == 1


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"classes": "bee", "top": 1}, "classes and top"),
        ({"classes": []}, "classes takes"),
        ({"classes": 1.5}, "classes takes"),
        ({"approx": 0.9, "exact": True}, "exclude each other"),
        ({"metric": "ssim"}, "belong to approx"),
        ({"approx": "much"}, "approx takes a number"),
        ({"region": (1, 2)}, "REGION takes"),
        ({"region": (0, 0, 1.5, 3)}, "region takes a whole number"),
        ({"replace": True}, "give into"),
        ({"patch": object()}, "patch does not take a value of type object"),
        ({"patch": 0}, "at least 1 pixel"),
    ],
)
def test_keywords_that_do_not_fit(shared_db: Any, pixels: Callable[..., Any], keywords: Any, said: str) -> None:
    with pytest.raises(QueryTypeError, match=said):
        shared_db.explain(pixels(), "net", **keywords)


def test_keywords_that_do_not_exist(shared_db: Any, tiny_net: Any, pixels: Callable[..., Any]) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'patch'"):
        shared_db.explain(pixels(), "net", pach=8)
    with pytest.raises(UnknownNameError, match="no image or image set 'scanz'"):
        shared_db.explain("scanz", "net")
    with pytest.raises(ModelError, match="Module"):
        shared_db.create_model("x", 7)
    with pytest.raises(QueryTypeError, match="Model names are"):
        shared_db.create_model("", tiny_net(), size=(SIZE, SIZE))
    with pytest.raises(QueryTypeError, match="Image set names are"):
        shared_db.create_images(3, [pixels()])
    with pytest.raises(QueryTypeError, match="not NoneType"):
        shared_db.create_images("x", None)


def test_frames_of_a_camera_that_stands_still(tmp_path: Path) -> None:
    """Images are computed from one another where that pays, say what whole passes say, and PLAN counts them."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 5, padding=2), nn.ReLU(), *(nn.Conv2d(32, 32, 3, padding=1) for _ in range(2))]
    module = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4)).eval()
    frame = np.random.default_rng(0).integers(0, 255, (120, 120, 3), dtype=np.uint8)
    for number in range(5):
        frame[40:48, 10 * number : 10 * number + 8] = 10 * number
        Image.fromarray(frame).save(tmp_path / f"{number}.png")
    statement = f"PREDICT '{tmp_path}/*.png' USING net FOR TOP 4"
    with obeql.connect(tmp_path / "x.duckdb") as db:
        db.create_model("net", module, size=(120, 120))
        assert "FrameUpdate" in str(db.execute(f"PLAN {statement}"))
        measured = str(db.execute(f"PLAN ANALYZE {statement}"))
        assert "3 images updated, 2 by whole passes; an update computed" in measured
        together = db.execute(f"{statement}").fetchall()
        for row in together:
            (alone,) = [each for each in db.predict(row[0], "net", top=4).fetchall() if each[3] == row[3]]
            assert alone[-1] == pytest.approx(row[-1], rel=1e-4, abs=1e-6)
        with pytest.raises(QueryTypeError, match="no plan"):
            db.execute(f"PLAN PREDICT '{tmp_path}/*.png' USING net CHECK")
