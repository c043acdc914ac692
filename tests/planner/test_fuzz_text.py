"""A short run of scripts/fuzz_text.py: damaged statements through parser, printer, binder and planner."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def script() -> Iterator[Any]:
    path = Path(__file__).parents[2] / "scripts" / "fuzz_text.py"
    spec = importlib.util.spec_from_file_location("fuzz_text", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz_text"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["fuzz_text"]


def test_damaged_statements_are_planned_or_refused_in_words(script: Any) -> None:
    report = script.run(0.0, seed=0, n_texts=3000)
    assert report["problems"] == []
    assert report["outcomes"]["planned"] > 5 and report["outcomes"]["syntax error"] > 500
