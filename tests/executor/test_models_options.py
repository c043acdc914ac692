"""Options, preprocessing defaults and class names of models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from obeql.errors import ModelError, QueryTypeError, UnknownNameError
from obeql.executor.models.classes import resolve_classes
from obeql.executor.models.options import OPTION_NAMES, ModelOptions, parse_options
from obeql.executor.models.preprocessing import IMAGENET, Declared, resolve_preprocessing
from obeql.planner.catalog import Preprocessing


def test_values_of_every_kind() -> None:
    parsed = parse_options(
        {
            "SIZE": (240, 320),
            "resize": "Shortest",
            "edge": 400,
            "interpolation": "BILINEAR",
            "channels": "bgr",
            "mean": [0.1, 0.2, 0.3],
            "std": 0.5,
            "classes": ["a", "b"],
            "weights": Path("w.pt"),
            "outputs": "probabilities",
            "activation": "sigmoid",
            "trust": "true",
        }
    )
    assert parsed == ModelOptions(
        (240, 320), "shortest", 400, "bilinear", "bgr", (0.1, 0.2, 0.3), (0.5,), ("a", "b"), "w.pt", "probabilities",
        "sigmoid", True,
    )  # fmt: skip
    assert parse_options({"size": 224}).size_of(2) == (224, 224)
    assert parse_options({"size": 1024}).size_of(1) == (1024,)
    assert parse_options({"size": (1024,)}).size_of(1) == (1024,)
    assert parse_options({"size": "240x320"}).size == (240, 320)
    assert parse_options({"size": None, "trust": False}) == ModelOptions()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("size", 0), ("size", -1), ("size", 1.5), ("size", True), ("size", (1, 2, 3, 4)), ("size", "big"),
        ("size", 10**9), ("size", "1x2x3x4"), ("resize", "crop"), ("resize", 3), ("edge", 0), ("edge", "x"),
        ("interpolation", "cubic"), ("channels", "rgba"), ("mean", "x"), ("mean", ()), ("mean", float("nan")),
        ("mean", ("a",)), ("std", 0), ("std", (1, 1, -1)), ("std", float("inf")), ("classes", []), ("classes", [1]),
        ("classes", ""), ("classes", ["a", " "]), ("classes", 5), ("weights", 3), ("weights", " "),
        ("outputs", "logit"), ("activation", "relu"), ("trust", 1), ("trust", "maybe"),
    ],
)  # fmt: skip
def test_bad_values_are_refused(name: str, value: Any) -> None:
    with pytest.raises(QueryTypeError, match=f"option {name} is .* must be"):
        parse_options({name: value})


def test_unknown_option_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"'sise'.*Did you mean 'size'"):
        parse_options({"sise": 3})
    with pytest.raises(UnknownNameError, match=", ".join(OPTION_NAMES)):
        parse_options({"zzz": 3})


def test_edge_contradicts_squash() -> None:
    with pytest.raises(QueryTypeError, match="resize=shortest"):
        parse_options({"resize": "squash", "edge": 256})


def test_live_defaults() -> None:
    assert resolve_preprocessing(ModelOptions(size=(8, 9)), Declared()) == Preprocessing(size=(8, 9))
    with pytest.raises(ModelError, match="size="):
        resolve_preprocessing(ModelOptions(), Declared())


def test_what_is_said_wins_over_what_is_declared() -> None:
    plain = resolve_preprocessing(ModelOptions(), IMAGENET)
    assert (plain.size, plain.resize, plain.edge, plain.interpolation) == ((224, 224), "shortest", 256, "bilinear")
    assert plain.mean == (0.485, 0.456, 0.406)
    larger = resolve_preprocessing(ModelOptions(size=(448, 448)), IMAGENET)
    assert larger.edge == 512
    assert resolve_preprocessing(ModelOptions(resize="squash"), IMAGENET).edge is None
    assert resolve_preprocessing(ModelOptions(size=(8, 8), edge=10), Declared()).resize == "shortest"
    swapped = resolve_preprocessing(ModelOptions(channels="bgr"), IMAGENET)
    assert swapped.mean == (0.406, 0.456, 0.485)
    said = resolve_preprocessing(ModelOptions(channels="bgr", mean=(0.1, 0.2, 0.3)), IMAGENET)
    assert said.mean == (0.1, 0.2, 0.3)
    gray = resolve_preprocessing(ModelOptions(channels="gray", size=(8, 8)), Declared())
    assert (gray.mean, gray.std) == ((0.0,), (1.0,))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (ModelOptions(edge=100), "at least 224"),
        (ModelOptions(channels="gray"), "mean must be said"),
        (ModelOptions(channels="gray", mean=(0.1, 0.2, 0.3)), "mean has 3 values"),
    ],
)
def test_contradictions(options: ModelOptions, words: str) -> None:
    with pytest.raises(QueryTypeError, match=words):
        resolve_preprocessing(options, IMAGENET)


def test_class_names(tmp_path: Path) -> None:
    def write(name: str, text: str) -> str:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    assert resolve_classes(None, ("a",)) == ("a",)
    assert resolve_classes(("x", "y")) == ("x", "y")
    assert resolve_classes("cat, dog") == ("cat", "dog")
    assert resolve_classes(write("a.txt", "cat\ndog \n\n")) == ("cat", "dog")
    assert resolve_classes(write("b.txt", "\ufeffcat\r\ndog")) == ("cat", "dog")
    assert resolve_classes(write("a.json", '["cat", "dog"]')) == ("cat", "dog")
    assert resolve_classes(write("b.json", '{"1": "dog", "0": "cat"}')) == ("cat", "dog")
    keras = {str(index): [f"n{index}", name] for index, name in enumerate(("cat", "dog"))}
    assert resolve_classes(write("c.json", json.dumps(keras))) == ("cat", "dog")
    for name, text in {
        "gap.txt": "cat\n\ndog", "none.txt": "\n", "bad.json": "[", "number.json": "[1, 2]", "gap.json": '{"1": "a"}',
        "text.json": '"a"',
    }.items():  # fmt: skip
        with pytest.raises(ModelError, match="file of class names"):
            resolve_classes(write(name, text))
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ModelError, match="UTF-8"):
        resolve_classes(str(tmp_path / "latin.txt"))
    with pytest.raises(ModelError, match=r"Did you mean 'a\.txt'"):
        resolve_classes(str(tmp_path / "aa.txt"))


def test_imagenet_classes() -> None:
    pytest.importorskip("PIL")
    names = resolve_classes("imagenet")
    assert (len(names), names[0], names[-1]) == (1000, "tench", "toilet tissue")
