"""Models in Hugging Face's layout, against transformers' own pipeline; folders that lack what they need."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import obeql
from obeql.errors import ModelError
from obeql.executor.images.decode import decode_object
from obeql.executor.images.preprocess import preprocess
from obeql.executor.models import load
from obeql.executor.models.zoo.import_torchvision import torchvision

torchvision("the tests of hf:")  # where it was built for another torch, transformers needs it mended first
transformers = pytest.importorskip("transformers")


def labels(n: int) -> dict[str, Any]:
    """Names in the order of their numbers as text, which is another order: 0, 1, 10, 11, 2, .."""
    return {"id2label": {key: f"class {key}" for key in sorted(map(str, range(n)))}, "label2id": {}}


def vit(**more: Any) -> Any:
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8,
        **labels(5) | more,
    )  # fmt: skip
    return transformers.ViTForImageClassification(config)


def resnet(**more: Any) -> Any:
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", **labels(12) | more
    )
    return transformers.ResNetForImageClassification(config)


def convnext(**more: Any) -> Any:
    config = transformers.ConvNextConfig(
        hidden_sizes=[8, 8, 8, 16], depths=[1, 1, 1, 1], image_size=32, **labels(3) | more
    )
    return transformers.ConvNextForImageClassification(config)


PROCESSORS: dict[str, dict[str, Any]] = {
    "vit": {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}},
    "oblong": {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 40}},
    "old": {"feature_extractor_type": "ViTFeatureExtractor", "size": 32, "resample": 0},
    "cropped": {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 32}, "crop_pct": 0.8},
    "squashed": {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}},
    "clip": {
        "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 37}, "resample": 1,
        "crop_size": {"height": 32, "width": 24}, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25],
    },
    "levit": {"image_processor_type": "LevitImageProcessor", "size": {"shortest_edge": 32}, "crop_size": 32},
    "efficientnet": {
        "image_processor_type": "EfficientNetImageProcessor", "size": {"height": 32, "width": 32},
        "rescale_factor": 1 / 127.5, "rescale_offset": True,
    },
    "bgr": {
        "image_processor_type": "MobileViTImageProcessor", "size": {"shortest_edge": 36},
        "crop_size": {"height": 32, "width": 32}, "do_flip_channel_order": True,
    },
    "raw": {"image_processor_type": "ViTImageProcessor", "size": 32, "do_rescale": False, "do_normalize": False},
}  # fmt: skip


CLIP = {"image_processor_type": "CLIPImageProcessor"}
DEIT = {"image_processor_type": "DeiTImageProcessor", "do_center_crop": True}


def save(network: Any, folder: Path, processor: str | None = "vit", **options: Any) -> str:
    torch.manual_seed(1)
    for tensor in network.parameters():
        torch.nn.init.normal_(tensor, std=0.3)
    network.eval().save_pretrained(folder, **options)
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSORS[processor]))
    return f"hf:{folder}"


def edit(folder: Path, **changes: Any) -> None:
    """Change keys of config.json; None takes one out."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def picture(height: int = 61, width: int = 95) -> Image.Image:
    coarse = np.random.default_rng(3).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def fails(call: Any, *words: str) -> None:
    with pytest.raises(ModelError) as caught:
        call()
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


@pytest.mark.parametrize("processor", PROCESSORS)
@pytest.mark.parametrize("shape", [(61, 95), (200, 33), (47, 47)])
def test_preprocessing_is_that_of_the_folder(processor: str, shape: tuple[int, int], tmp_path: Path) -> None:
    uri = save(resnet(), tmp_path, processor)
    model = load(uri)
    theirs = transformers.AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    image = picture(*shape)
    expected = theirs(images=image, return_tensors="np")["pixel_values"][0]
    got = preprocess(decode_object(image, "x"), model.preprocessing).values
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("build", "processor"), [(vit, "old"), (resnet, "clip"), (convnext, "cropped")], ids=["vit", "resnet", "convnext"]
)
def test_predictions_and_maps_are_those_of_the_pipeline(build: Any, processor: str, tmp_path: Path) -> None:
    uri = save(build(), tmp_path, processor)
    image = picture()
    pipeline = transformers.pipeline(
        "image-classification", model=str(tmp_path), image_processor=transformers.AutoImageProcessor.from_pretrained(
            tmp_path, backend="pil"
        ), top_k=100,
    )  # fmt: skip
    expected = {row["label"]: row["score"] for row in pipeline(image)}
    with obeql.connect() as db:
        db.create_model("m", uri)
        db.execute(f"PREDICT ? USING m FOR TOP {len(expected)}", [image])
        rows = db.execute("SELECT class_name, probability FROM predictions").fetchall()
        assert dict(rows) == pytest.approx(expected, abs=1e-5)
        heat = db.execute("EXPLAIN OCCLUDE ? USING m WITH patch=8 stride=8 fill=black score=logit", [image])[0]
    model = load(uri)
    assert model.classes == tuple(f"class {n}" for n in range(len(expected)))
    network = transformers.AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    made = preprocess(decode_object(image, "x"), model.preprocessing)
    mean, std = (torch.tensor(v).reshape(-1, 1, 1) for v in (model.preprocessing.mean, model.preprocessing.std))
    clean = torch.from_numpy(made.values)
    chosen = int(network(pixel_values=clean[None]).logits.argmax())
    for row, top in enumerate(range(0, made.values.shape[1] - 7, 8)):
        for col, left in enumerate(range(0, made.values.shape[2] - 7, 8)):
            hidden = clean.clone()
            hidden[:, top : top + 8, left : left + 8] = (torch.zeros(()) - mean) / std
            with torch.no_grad():
                logit = float(network(pixel_values=hidden[None]).logits[0, chosen])
            assert heat.scores[row, col] == pytest.approx(logit, abs=1e-3)


def test_shards_are_read_by_their_index_and_strays_do_not_matter(tmp_path: Path) -> None:
    network = resnet()
    uri = save(network, tmp_path, max_shard_size="5KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 2
    shutil.copy(shards[0], tmp_path / "old-checkpoint.safetensors")
    (tmp_path / "model-00099-of-00099.safetensors").write_bytes(b"not a file of tensors")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(load(uri).module(images), network(pixel_values=images).logits, atol=1e-5)
    shards[1].unlink()
    fails(lambda: load(uri), "lacks", shards[1].name, f"of the {len(shards)} shards")
    shards[1].write_text("version https://git-lfs.github.com/spec/v1\n")
    fails(lambda: load(uri), shards[1].name, "git lfs pull")
    shards[1].write_bytes(b"damaged")
    fails(lambda: load(uri), "transformers cannot load")


@pytest.mark.parametrize("name", ["../away.safetensors", "sub/model.safetensors", "..\\away.safetensors"])
def test_an_index_names_files_of_its_own_folder(name: str, tmp_path: Path) -> None:
    uri = save(resnet(), tmp_path, max_shard_size="5KB")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    fails(lambda: load(uri), "not a file of its folder")
    index.write_text("{}")
    fails(lambda: load(uri), "names no shards")


def test_two_sets_of_weights_are_refused(tmp_path: Path) -> None:
    uri = save(resnet(), tmp_path, max_shard_size="5KB")
    shutil.copy(next(tmp_path.glob("model-*")), tmp_path / "model.safetensors")
    fails(lambda: load(uri), "both model.safetensors and model.safetensors.index.json")


def test_weights_that_do_not_cover_the_network_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    uri = save(resnet(), tmp_path)
    path = tmp_path / "model.safetensors"
    whole = load_file(path)
    save_file({key: value for key, value in whole.items() if not key.startswith("classifier")}, path)
    fails(lambda: load(uri), "lack 'classifier.1.bias' and 1 more")
    save_file(whole, path)
    edit(tmp_path, embedding_size=4)
    fails(lambda: load(uri), "do not fit config.json", "(8, 3, 7, 7) in the file")
    path.unlink()
    fails(lambda: load(uri), "has no weights")
    assert "random" in load(uri, {"weights": "random", "size": 32}).notes[0]


def test_weights_of_a_file_take_the_place_of_the_folders(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    uri = save(vit(), first)
    other = vit(hidden_act="relu")
    save(other, second)
    images = torch.randn(2, 3, 32, 32)
    other.vit.layers[0].mlp.activation_fn = torch.nn.GELU()
    model = load(uri, {"weights": str(second / "model.safetensors")})
    with torch.no_grad():
        assert torch.allclose(model.module(images), other(pixel_values=images).logits, atol=1e-5)
    (second / "model.safetensors").write_bytes(b"")
    fails(lambda: load(uri, {"weights": str(second / "model.safetensors")}), "is empty")


def test_architectures_that_cannot_be_built(tmp_path: Path) -> None:
    uri = save(vit(), tmp_path)
    edit(tmp_path, model_type="vitt")
    fails(lambda: load(uri), "'vitt'", "none that transformers", "Did you mean 'vit'", "ONNX")
    edit(tmp_path, model_type="mine", auto_map={"AutoModelForImageClassification": "code.Mine"})
    (tmp_path / "code.py").write_text("raise SystemExit('it ran')")
    fails(lambda: load(uri), "code of its own, which is not run")
    edit(tmp_path, model_type=None)
    fails(lambda: load(uri), "does not say its architecture: it has no model_type", "save_pretrained")
    edit(tmp_path, model_type=7)
    fails(lambda: load(uri), "it has no model_type")
    edit(tmp_path, model_type=None, architecture="resnet18", pretrained_cfg={"tag": "a1_in1k"})
    fails(lambda: load(uri), "Say 'timm:resnet18' with weights=", "model.safetensors")
    edit(tmp_path, model_type="bert", auto_map=None)
    fails(lambda: load(uri), "no image classifier of the architecture 'bert'")
    (tmp_path / "config.json").write_text("{")
    fails(lambda: load(uri), "not valid JSON")
    (tmp_path / "config.json").write_text("[]")
    fails(lambda: load(uri), "JSON object, not a list")
    (tmp_path / "config.json").unlink()
    fails(lambda: load(uri), "has no config.json")


def test_code_for_an_architecture_that_is_known_is_not_run(tmp_path: Path) -> None:
    uri = save(vit(), tmp_path)
    edit(tmp_path, auto_map={"AutoModelForImageClassification": "code.Mine", "AutoConfig": "code.Mine"})
    (tmp_path / "code.py").write_text("raise SystemExit('it ran')")
    assert load(uri).n_classes == 5


def test_classes_without_names(tmp_path: Path) -> None:
    uri = save(vit(), tmp_path)
    edit(tmp_path, id2label=None, label2id=None)
    model = load(uri)
    assert (model.n_classes, model.classes) == (5, ())
    assert any("have numbers" in note for note in model.notes)
    named = load(uri, {"classes": list("abcde")})
    assert named.classes == tuple("abcde") and not named.notes
    fails(lambda: load(uri, {"classes": ["a", "b", "c"]}), "5 outputs, but 3 class names")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"0": "a", "2": "b"}, "none for class 1"),
        ({"a": "0", "b": "1"}, "key 'a', which is no number"),
        ({"-1": "a", "0": "b"}, "key '-1'"),
        (["a", "b"], "not from numbers to names"),
        ({"0": 1, "1": 2}, "not from numbers to names"),
    ],
)
def test_names_that_are_none(given: Any, words: str, tmp_path: Path) -> None:
    uri = save(vit(), tmp_path)
    edit(tmp_path, id2label=given)
    fails(lambda: load(uri), "id2label", words)


def test_what_the_outputs_are_is_what_the_problem_type_says(tmp_path: Path) -> None:
    uri = save(vit(problem_type="multi_label_classification"), tmp_path)
    assert load(uri).activation == "sigmoid"
    edit(tmp_path, problem_type="regression")
    assert load(uri).raw_outputs == "value"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"do_resize": False}, "does not resize"),
        (DEIT | {"size": 40, "crop_size": 32}, "squashes"),
        (CLIP | {"size": {"shortest_edge": 32}, "do_center_crop": False}, "longer"),
        (CLIP | {"size": {"shortest_edge": 30}, "crop_size": 32}, "crops to more"),
        ({"image_processor_type": "PoolFormerImageProcessor"}, "cannot be followed"),
        ({"image_processor_type": "MyImageProcessor"}, "is no image processor that transformers"),
        ({"image_std": [0.0, 1.0, 1.0]}, "standard deviation"),
        ({"image_mean": [0.0, 1.0]}, "preprocessor_config.json"),
        ({"size": "large"}, "preprocessor_config.json"),
        ({"size": 10**6}, "resizes to 1000000 pixels; sides of 1 to 4096"),
        ({"size": -3}, "resizes to -3 pixels"),
        (CLIP | {"size": {"shortest_edge": 10**6}, "crop_size": 32}, "resizes to 1000000 pixels"),
        ({"resample": 17}, "resample"),
    ],
)  # fmt: skip
def test_preprocessing_that_cannot_be_followed(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    uri = save(resnet(), tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSORS["vit"] | changes))
    fails(lambda: load(uri), words)
    own = load(uri, {"size": 32, "resize": "squash", "mean": 0.5, "std": 0.5})
    assert own.preprocessing.size == (32, 32)


def test_a_folder_without_preprocessing_says_so(tmp_path: Path) -> None:
    model = load(save(vit(), tmp_path, None))
    assert model.preprocessing.size == (32, 32) and any("CHECK" in note for note in model.notes)
    fails(lambda: load(save(resnet(), tmp_path / "two", None)), "size")
    (tmp_path / "preprocessor_config.json").write_text("nothing")
    fails(lambda: load(f"hf:{tmp_path}"), "not valid JSON")


def test_what_is_no_folder_and_cannot_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    fails(lambda: load("hf:owner/no-such-model"), "no folder 'owner/no-such-model'", "hf download")
    (tmp_path / "networks").mkdir()
    fails(lambda: load(f"hf:{tmp_path}/network"), "There is no folder", "'networks'")
    fails(lambda: load("hf:"), "nothing after the colon")


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    fails(lambda: load("hf:any"), "needs transformers", 'pip install -e ".[hf]"')


def test_a_database_finds_its_folder_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    save(convnext(), tmp_path / "work" / "net", "cropped")
    monkeypatch.chdir(tmp_path / "work")
    with obeql.connect(tmp_path / "heat.duckdb") as db:
        db.create_model("m", "hf:net")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with obeql.connect(tmp_path / "heat.duckdb") as db:
        heat = db.execute("EXPLAIN OCCLUDE ? USING m WITH patch=16 stride=16", [picture()])[0]
        assert heat.shape == (2, 2)
