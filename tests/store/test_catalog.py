"""Models, images, image sets, predictions and runs in the store."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from obeql.errors import InternalError, StoreError, UnknownNameError
from obeql.planner.catalog import ImageRecord, ImageSet, ModelRecord, Preprocessing
from obeql.planner.cells import FailedImage
from obeql.planner.geometry import AxisWindow, LayerSpec, Network
from obeql.store import ImageContent, PredictionRow, RunRecord, Store

WINDOW = AxisWindow(3, 1, 1, 1)
NETWORK = Network(
    (
        LayerSpec("image", "image", "source", (), (3, 8, 8)),
        LayerSpec("conv", "conv", "local", (0,), (4, 8, 8), 100, 200, 300, (WINDOW, WINDOW)),
        LayerSpec("out", "linear", "global", (1,), (2,), 10, 20, 30),
    )
)
MODEL = ModelRecord(
    name="Tumour",
    model_hash="abc",
    uri="model.onnx",
    options={"size": (8, 8), "trust": True},
    classes=("no", "yes"),
    activation="softmax",
    preprocessing=Preprocessing((8, 8), mean=(0.1, 0.2, 0.3)),
    network=NETWORK,
)


@pytest.fixture
def store() -> Iterator[Store]:
    with Store() as opened:
        yield opened


def run_record(name: str | None = None, query: str = "q") -> RunRecord:
    return RunRecord(
        query, "Tumour", "abc", "ph", "log_odds", name, {"border": "cover", "patch": 16}, "plan", {"t": "1"}
    )


def test_model_survives_reopening(tmp_path: Path) -> None:
    with Store(tmp_path / "heat.duckdb") as store:
        store.put_model(MODEL)
    with Store(tmp_path / "heat.duckdb") as store:
        assert store.model("tUMOUR") == MODEL
        assert store.models() == [MODEL] and store.model_names() == ["Tumour"]
        assert store.model("other") is None


def test_same_model_again_is_a_no_op_and_another_is_an_error(store: Store) -> None:
    store.put_model(MODEL)
    store.put_model(replace(MODEL, name="TUMOUR"))
    assert store.connection.execute("SELECT count(*) FROM obeql_store.model_rows").fetchall() == [(1,)]
    changed = replace(MODEL, model_hash="def")
    with pytest.raises(StoreError, match=r"'Tumour' exists with another network; write CREATE OR REPLACE"):
        store.put_model(changed)
    assert store.model("tumour") == MODEL
    store.put_model(changed, replace=True)
    assert store.model("tumour") == changed
    with pytest.raises(StoreError, match="another preprocessing"):
        store.put_model(replace(changed, preprocessing=Preprocessing((9, 9))))


def test_a_new_way_to_load_the_same_model_is_remembered(store: Store) -> None:
    store.put_model(MODEL)
    store.put_model(replace(MODEL, uri=None, options={}))
    found = store.model("tumour")
    assert found is not None and found.uri is None and found.model_hash == "abc"


def test_drop_model(store: Store) -> None:
    store.put_model(MODEL)
    with pytest.raises(UnknownNameError, match=r"no model 'tumor' to drop. Did you mean 'Tumour'\?"):
        store.drop_model("tumor")
    store.drop_model("TUMOUR")
    assert store.model("Tumour") is None and store.models() == []
    assert store.connection.execute("FROM models").fetchall() == []
    store.put_model(replace(MODEL, model_hash="def"))
    assert store.model("Tumour") is not None


def test_models_view(store: Store) -> None:
    store.put_model(MODEL)
    assert store.connection.execute(
        "SELECT name, uri, n_classes, input_height, classes[2], activation FROM models"
    ).fetchall() == [("Tumour", "model.onnx", 2, 8, "yes", "softmax")]


def test_images_keep_their_ids_by_path_and_key(store: Store) -> None:
    a, b, c = store.register_images([ImageRecord("x/a.jpg"), ImageRecord(None, key="array"), ImageRecord("x/a.jpg")])
    assert (a.image_id, b.image_id, c.image_id) == (1, 2, 1)
    again = store.register_images([ImageRecord(None, key="array"), ImageRecord("x/b.jpg"), ImageRecord(None)])
    assert [image.image_id for image in again] == [2, 3, 4]
    (by_id,) = store.register_images([ImageRecord(None, image_id=1)])
    assert by_id == ImageRecord("x/a.jpg", 1)
    assert store.register_images([]) == []


def test_labels_and_columns_are_kept_and_updated(store: Store) -> None:
    store.register_images([ImageRecord("a.jpg", label="cat", columns={"age": 7})])
    (found,) = store.register_images([ImageRecord("a.jpg")])
    assert found.label == "cat"
    store.register_images([ImageRecord("a.jpg", label="dog", columns={"sex": "f"})])
    image = store.image(1)
    assert image is not None and image.label == "dog" and image.columns == {"age": 7, "sex": "f"}
    assert store.connection.execute("SELECT image_id, path, label FROM images").fetchall() == [(1, "a.jpg", "dog")]


def test_images_are_found_by_stem(store: Store) -> None:
    store.register_images([ImageRecord("x/Scan.jpg"), ImageRecord("y/scan.png"), ImageRecord(None, key="array")])
    assert [image.path for image in store.image_named("scan")] == ["x/Scan.jpg", "y/scan.png"]
    assert [image.key for image in store.image_named("ARRAY")] == ["array"]
    assert store.image_named("sca") == []
    assert store.image_names() == ["Scan", "array", "scan"]


def test_a_changed_file_keeps_both_hashes(store: Store) -> None:
    store.register_images([ImageRecord("a.jpg")])
    for content in ("h1", "h1", "h2"):
        store.note_image(1, ImageContent(content, 30, 40))
    assert store.connection.execute("SELECT image_hash, height, width FROM images").fetchall() == [("h2", 30, 40)]
    rows = store.connection.execute("SELECT image_hash FROM obeql_store.image_contents ORDER BY entry_id").fetchall()
    assert rows == [("h1",), ("h2",)]


def test_image_sets(store: Store) -> None:
    images = ImageSet("Scans", "x/*.jpg", (ImageRecord("x/b.jpg", label="1"), ImageRecord("x/a.jpg")))
    stored = store.put_image_set(images)
    assert [image.image_id for image in stored.images] == [1, 2]
    assert store.image_set("sCANS") == stored and store.image_sets() == [stored]
    assert store.put_image_set(replace(images, source="./x/*.jpg")) == stored
    fewer = replace(images, images=images.images[:1])
    with pytest.raises(StoreError, match=r"'Scans' exists with other images or labels \(2 images there, 1 here\)"):
        store.put_image_set(fewer)
    assert store.put_image_set(fewer, replace=True).images == stored.images[:1]
    assert store.connection.execute("SELECT name, path FROM image_sets").fetchall() == [("Scans", "x/b.jpg")]
    with pytest.raises(UnknownNameError, match=r"no image set 'scan' to drop. Did you mean 'Scans'\?"):
        store.drop_image_set("scan")
    store.drop_image_set("scans")
    assert store.image_set("Scans") is None and store.image_set_names() == []
    assert len(store.image_named("a")) == 1


def test_a_refused_image_set_registers_nothing(store: Store) -> None:
    store.put_image_set(ImageSet("s", "", (ImageRecord("a.jpg"),)))
    with pytest.raises(StoreError):
        store.put_image_set(ImageSet("s", "", (ImageRecord("new.jpg"),)))
    assert store.image_names() == ["a"]


def test_predictions_show_the_latest(store: Store) -> None:
    row = PredictionRow(1, "ih", "mh", 0, "cat", 0.75, 1.5, 1, "m")
    store.put_predictions([row, replace(row, class_id=1, class_name="dog", probability=0.25, rank=2)])
    store.put_predictions([replace(row, probability=0.8)])
    store.put_predictions([])
    rows = store.connection.execute("SELECT class_name, probability FROM predictions ORDER BY rank").fetchall()
    assert rows == [("cat", 0.8), ("dog", 0.25)]


def test_runs_go_from_running_to_done(store: Store) -> None:
    run_id = store.begin_run(run_record("first"))
    found = store.run(run_id)
    assert found is not None and found.status == "running" and found.ended_at is None
    store.fail_image(run_id, FailedImage(3, "x.jpg", "truncated"))
    store.finish_run(run_id, "done", {"seconds": 1.5, "rate": float("nan")})
    found = store.run("FIRST")
    assert found is not None and found == store.run(str(run_id))
    assert (found.status, found.measured, found.n_failed) == ("done", {"seconds": 1.5, "rate": None}, 1)
    assert found.options == {"border": "cover", "patch": 16} and found.versions == {"t": "1"}
    assert found.ended_at is not None and found.ended_at >= found.started_at
    assert store.failures(run_id) == [FailedImage(3, "x.jpg", "truncated")]
    assert store.run_exists("First") and store.run_names() == ["first"]
    assert store.begin_run(run_record()) > run_id


def test_only_a_running_run_is_written_to(store: Store) -> None:
    run_id = store.begin_run(run_record())
    store.finish_run(run_id, "failed")
    with pytest.raises(StoreError, match=f"run {run_id} is failed"):
        store.finish_run(run_id, "done")
    with pytest.raises(StoreError, match="run 77 is unknown to the database"):
        store.fail_image(77, FailedImage(1, "a", "b"))
    with pytest.raises(InternalError, match="cannot finish as 'running'"):
        store.finish_run(run_id, "running")


def test_names_are_unique_unless_replaced(store: Store) -> None:
    first = store.begin_run(run_record("r"))
    store.finish_run(first, "done")
    with pytest.raises(StoreError, match="is already named 'R'; write INTO OR REPLACE"):
        store.begin_run(run_record("R"))
    second = store.begin_run(run_record("R"), replace=True)
    found = store.run("r")
    assert found is not None and found.run_id == first, "the old run holds the name until the new one is done"
    store.finish_run(second, "failed")
    found = store.run("r")
    assert found is not None and found.run_id == first
    third = store.begin_run(run_record("r"), replace=True)
    store.finish_run(third, "done")
    found = store.run("r")
    assert found is not None and found.run_id == third and store.run(first) is None


def test_a_failed_run_gives_its_name_back(store: Store) -> None:
    store.finish_run(store.begin_run(run_record("r")), "failed")
    store.begin_run(run_record("r"))


def test_interrupted_runs_are_found_and_continued(store: Store) -> None:
    run_id = store.begin_run(run_record("r"))
    assert store.unfinished_run(run_record("r")) is None
    store.finish_run(run_id, "interrupted")
    assert store.unfinished_run(run_record("r")) == run_id
    assert store.unfinished_run(run_record("r", query="other")) is None
    assert not store.resume_run(run_id, {7})  # it holds no image
    assert store.resume_run(run_id, set())
    assert not store.resume_run(run_id, set())
    store.finish_run(run_id, "done")
    assert store.unfinished_run(run_record("r")) is None


def test_drop_run(store: Store) -> None:
    run_id = store.begin_run(run_record("mine"))
    with pytest.raises(StoreError, match="still running"):
        store.drop_run("mine")
    store.finish_run(run_id, "done")
    with pytest.raises(UnknownNameError, match=r"no run 'mime'. Did you mean 'mine'\?"):
        store.drop_run("mime")
    store.drop_run("MINE")
    assert store.run(run_id) is None and store.runs() == []
    with pytest.raises(UnknownNameError):
        store.drop_run(run_id)


def test_values_are_bound_never_formatted(store: Store) -> None:
    name = "x'; DROP VIEW runs; --"
    store.finish_run(store.begin_run(run_record(name)), "done")
    store.put_model(replace(MODEL, name=name))
    store.register_images([ImageRecord(name)])
    assert store.run(name) is not None and store.model(name) is not None and store.runs()
