"""Settings, and the options of CREATE MODEL: tables, values, errors."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from obeql.errors import QueryError, QueryTypeError, UnknownNameError
from obeql.grammar import parse_statement
from obeql.planner import (
    EXPLAIN_OPTIONS,
    MODEL_OPTIONS,
    RENDER_OPTIONS,
    SETTINGS,
    bind_setting,
    check_setting,
    model_options,
    setting_default,
)
from obeql.planner.binding.error_location import placed_in


def _set(text: str) -> tuple[str, Any]:
    with placed_in(text):
        return bind_setting(parse_statement(text))  # type: ignore[arg-type]


@pytest.mark.parametrize("table", [EXPLAIN_OPTIONS, MODEL_OPTIONS, RENDER_OPTIONS, SETTINGS])
def test_tables_are_complete(table: Any) -> None:
    names = [row.name for row in table]
    assert len(set(names)) == len(names)
    assert all(row.doc.endswith(".") and row.takes for row in table)


@pytest.mark.parametrize("row", SETTINGS, ids=lambda row: row.name)
def test_reset_gives_the_default(row: Any) -> None:
    assert _set(f"RESET obeql.{row.name}") == (row.name, setting_default(row.name))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SET obeql.memory = '2GB'", ("memory", 2_000_000_000)),
        ("SET obeql.memory = 1GiB", ("memory", 2**30)),
        ("SET obeql.memory = auto", ("memory", None)),
        ("SET obeql.threads = 4", ("threads", 4)),
        ("SET obeql.device = 'CUDA:1'", ("device", "cuda:1")),
        ("SET obeql.progress = off", ("progress", False)),
        ("SET obeql.reuse = true", ("reuse", True)),
        ("SET obeql.max_cells = 10", ("max_cells", 10)),
        (
            "SET obeql.disabled_rules = 'choose_engine, Drop_Duplicate_Patches'",
            ("disabled_rules", ("choose_engine", "drop_duplicate_patches")),
        ),
        ("SET obeql.disabled_rules = ''", ("disabled_rules", ())),
    ],
)
def test_set(text: str, expected: tuple[str, Any]) -> None:
    assert _set(text) == expected


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("SET obeql.memroy = 1", "memroy", "Did you mean 'memory'?"),
        ("RESET obeql.memroy", "memroy", "Did you mean 'memory'?"),
        ("SET obeql.memory = 'lots'", "'lots'", "a size such as"),
        ("SET obeql.threads = 0", "0", "at least 1"),
        ("SET obeql.device = gpu", "gpu", "auto, cpu, cuda"),
        ("SET obeql.progress = 7", "7", "true or false"),
        ("SET obeql.max_cells = 1.5", "1.5", "whole number"),
        ("SET obeql.disabled_rules = 'choose_engin'", "'choose_engin'", "Did you mean 'choose_engine'"),
        ("SET obeql.disabled_rules = 3", "3", "separated by commas"),
    ],
)
def test_wrong_setting_says_what_and_where(text: str, place: str, message: str) -> None:
    with pytest.raises(QueryError) as caught:
        _set(text)
    assert message in caught.value.message
    assert caught.value.column is not None
    assert text[caught.value.column - 1 :].startswith(place)


def test_check_setting_takes_python_values() -> None:
    assert check_setting("disabled_rules", ["choose_batch"]) == ("choose_batch",)
    with pytest.raises(QueryTypeError, match=r"obeql\.threads"):
        check_setting("threads", True)
    with pytest.raises(UnknownNameError):
        setting_default("speed")


# ---- CREATE MODEL ----------------------------------------------------------------------------------------


def _model(options: str) -> dict[str, Any]:
    text = f"CREATE MODEL m FROM 'm.onnx' WITH {options}"
    with placed_in(text):
        return model_options(parse_statement(text).options, {})  # type: ignore[union-attr]


def test_model_options_become_python_values() -> None:
    assert _model("size=240x320 mean=(0.5, 0.25, 0) std=1 channels=BGR classes=['a', 'b'] trust=true edge=256") == {
        "size": (240, 320),
        "mean": (0.5, 0.25, 0.0),
        "std": (1.0,),
        "channels": "bgr",
        "classes": ("a", "b"),
        "trust": True,
        "edge": 256,
    }
    assert _model("size=224 weights=DEFAULT classes='names.txt' outputs=logits activation=sigmoid") == {
        "size": 224,
        "weights": "DEFAULT",
        "classes": "names.txt",
        "outputs": "logits",
        "activation": "sigmoid",
    }
    assert _model("size=(240, 320) resize=shortest interpolation=bilinear")["size"] == (240, 320)


@pytest.mark.parametrize(
    ("options", "place", "message"),
    [
        ("sise=224", "sise", "Did you mean 'size'"),
        ("size=wide", "wide", "pixels"),
        ("resize=squish", "squish", "Did you mean 'squash'?"),
        ("mean=(0, a, 0)", "(0, a", "takes a number"),
        ("classes=3", "3", "file of names"),
        ("weights=3", "3", "takes a string"),
        ("trust=maybe", "maybe", "true or false"),
        ("size=1 size=2", "size=2", "given twice"),
    ],
)
def test_wrong_model_option(options: str, place: str, message: str) -> None:
    with pytest.raises(QueryError) as caught:
        _model(options)
    assert message in caught.value.message
    assert caught.value.column is not None
    assert f"CREATE MODEL m FROM 'm.onnx' WITH {options}"[caught.value.column - 1 :].startswith(place)


def test_planner_imports_neither_torch_nor_lark() -> None:
    code = "import sys, obeql.planner; print(sorted({'torch', 'lark', 'duckdb', 'obeql.executor'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
