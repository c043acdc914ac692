"""What is handed over from Python: batches, live modules, and errors in the words of whoever called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import obeql
from obeql.errors import ImageError, ObeqlError, QueryError, QueryTypeError, UnknownNameError

SIZE = 32


@pytest.fixture(scope="module")
def batch() -> Any:
    """Three pictures, (N, C, H, W) float32 in 0..1."""
    return np.random.default_rng(0).random((3, 3, SIZE, SIZE), np.float32)


# ---- batches -------------------------------------------------------------------------------------------------


def test_a_batch_is_a_list_of_images(shared_db: Any, batch: Any) -> None:
    alone = [shared_db.explain(picture, "net", patch=8, classes=[0])[0].scores for picture in batch]
    forms = (batch, torch.from_numpy(batch), batch.transpose(0, 2, 3, 1), [batch[:2], batch[2]])
    for given in forms:
        result = shared_db.explain(given, "net", patch=8, classes=[0])
        assert [heat.scores.tobytes() for heat in result] == [scores.tobytes() for scores in alone]
    (heat,) = shared_db.explain(batch[:1], "net", patch=8, classes=[0])
    assert heat.scores.tobytes() == alone[0].tobytes()
    assert len(shared_db.execute("EXPLAIN OCCLUDE ? USING net WITH patch=8", [torch.from_numpy(batch)])) == 3
    assert len(shared_db.execute("PREDICT ? USING net FOR TOP 1", [batch]).fetchall()) == 3


def test_a_batch_becomes_a_set(net_db: Any, batch: Any) -> None:
    created = net_db.create_images("three", torch.from_numpy(batch))
    assert [image.shown for image in created.images] == ["three_0", "three_1", "three_2"]
    net_db.execute("CREATE IMAGES four FROM ?", [np.concatenate([batch, batch[:1] / 2])])
    assert net_db.execute("SELECT count(*) FROM image_sets WHERE name = 'four'").fetchall() == [(4,)]
    with pytest.raises(QueryTypeError, match="list of images is empty"):
        net_db.create_images("none", batch[:0])


def test_what_is_no_batch_is_named(shared_db: Any, batch: Any) -> None:
    with pytest.raises(ImageError, match="'source' has shape 1x3x3x32x32"):
        shared_db.explain(batch[None], "net")
    wrong = batch * 4 - 2
    wrong[0] = 0
    with pytest.raises(ImageError, match=r"'source, item 1' .* lie in 0..1.* mean=.. and std=.. to create_model"):
        shared_db.explain(torch.from_numpy(wrong), "net")
    with pytest.raises(ImageError, match="divide them by 255"):
        shared_db.explain(batch * 255, "net")


# ---- live modules --------------------------------------------------------------------------------------------


def test_a_live_module_is_a_model_on_the_way(db: Any, tiny_net: Callable[..., nn.Module], batch: Any) -> None:
    first, other = tiny_net(0), tiny_net(1)
    result = db.explain(torch.from_numpy(batch), first, patch=8, classes=[1], score="log_odds")
    assert len(result) == 3
    db.create_model("named", first, size=(SIZE, SIZE))
    same = db.explain(batch, "named", patch=8, classes=[1], score="log_odds")
    assert all(np.array_equal(a.scores, b.scores) for a, b in zip(result, same, strict=True))
    db.explain(batch[0], first, patch=8)
    assert {model for (model,) in db.execute("SELECT name FROM models").fetchall()} == {"named", "Sequential"}
    moved = db.explain(batch[0], other, patch=8, classes=[1], score="log_odds")[0]
    assert not np.allclose(moved.scores, result[0].scores)
    normalized = db.explain(batch[0], first, patch=8, classes=[1], score="log_odds", mean=(0.5,) * 3, std=(0.5,) * 3)[0]
    assert not np.allclose(normalized.scores, result[0].scores)
    names = [model for (model,) in db.execute("SELECT name FROM models ORDER BY name").fetchall()]
    assert len(names) == 4 and sum(name.startswith("Sequential_") for name in names) == 2


def test_the_input_of_a_live_module_is_that_of_the_arrays(db: Any) -> None:
    gray = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8, 2)).eval()
    for given in (torch.rand(2, 1, 20, 24), np.zeros((20, 24), np.uint8), [np.zeros((20, 24, 1), np.uint8)]):
        heat = db.explain(given, gray, patch=8)[0]
        assert heat.placement.model_size == (20, 24)
    with pytest.raises(QueryTypeError, match=r"give size=\(height, width\)"):
        db.explain("scan.png", gray, patch=8)
    with pytest.raises(QueryTypeError, match=r"model is a name or a torch.nn.Module, not int"):
        db.explain(np.zeros((20, 24), np.uint8), 5)


# ---- the words of errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"region": (-1, 0, 8, 8)}, r"region \(top, left, height, width\) .* at least 0, not as in \(-1, 0, 8, 8\)"),
        ({"region": (0, 0, 0, 8)}, "region .* at least 1 pixel"),
        ({"region": (0, 0, 64, 8)}, "region .* reaches outside the 32x32 input"),
        ({"region": (0, 0, 4, 4)}, "region of 4x4 pixels holds no window"),
        ({"patch": []}, "patch takes at least one size, not an empty list"),
        ({"patch": (8, -1)}, "patch is at least 1 pixel, not 8x-1"),
        ({"stride": 0}, "stride is at least 1 pixel, not 0"),
        ({"approx": 0}, "approx takes a quality above 0 and at most 1, not 0"),
        ({"approx": float("nan")}, "approx takes a quality"),
        ({"approx": 0.9, "metric": "sim"}, "metric takes ssim, top10pct, pearson or maxerr, not 'sim'"),
        ({"approx": 0.9, "confidence": 1}, "confidence takes a number above 0 and below 1, not 1"),
        ({"within": 0}, "within takes more than 0 seconds"),
        ({"within": float("nan")}, "within takes more than 0 seconds"),
        ({"within": float("inf")}, "within takes more than 0 seconds"),
        ({"top_cells": 0}, "top_cells takes at least 1 cell, not 0"),
        ({"top_cells": 3, "approx": 0.9}, "top_cells goes with exact or alone, not with approx or within"),
        ({"exact": True, "within": 3}, "exact asks for every cell and within"),
        ({"top": 0}, "top takes at least 1 class, not 0"),
        ({"top": 9}, "top=9 asks for 9 classes; model 'net' has 3"),
        ({"classes": "label"}, "classes='label' needs images with labels; the image has none"),
        ({"device": "gpu"}, "device takes auto, cpu, cuda"),
        ({"workers": 2, "within": 3}, "within with workers=2"),
        ({"seed": 10**40}, "seed is at most 9223372036854775807"),
        ({"into": ""}, "into takes a name, not ''"),
        ({"pach": 8}, r"explain has no keyword 'pach'; it has classes, .*\. Did you mean 'patch'"),
        ({"mean": 0.5}, "explain has no keyword 'mean'; .* mean is an option of create_model"),
        ({"fill": object()}, "fill does not take a value of type object"),
    ],
)
def test_python_reads_of_keywords(shared_db: Any, batch: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ObeqlError, match=said) as caught:
        shared_db.explain(batch[0], "net", **({"patch": 8} | options))
    message = str(caught.value)
    assert "^" not in message and "line 1" not in message  # there is no text to point into
    for word in ("REGION", "TOP ", "WITHIN", "APPROX", "METRIC", "INTO", "FOR ", "EXACT", "USING"):
        assert word not in message


def test_python_reads_of_functions_where_there_is_nothing_yet(db: Any, net_db: Any, batch: Any) -> None:
    with (
        obeql.connect() as empty,
        pytest.raises(UnknownNameError, match=r"none yet: create_model\(name, module or uri"),
    ):
        empty.explain(batch[0], "net")
    with pytest.raises(UnknownNameError, match=r"none yet: create_images\(name, images\)"):
        net_db.explain("scans", "net")
    net_db.explain(batch[0], "net", patch=8, into="twice")
    with pytest.raises(QueryError, match="'twice' exists already; give replace=True to replace it"):
        net_db.explain(batch[0], "net", patch=8, into="twice")
    net_db.explain(batch[0], "net", patch=8, into="twice", replace=True)


def test_a_statement_reads_of_clauses(shared_db: Any, batch: Any) -> None:
    for clause, said in (
        ("REGION (-1, 0, 8, 8)", r"REGION \(top, left, height, width\) .* not as in \(-1, 0, 8, 8\)"),
        ("REGION (0, -5, 8, 8)", r"at least 0, not as in \(0, -5, 8, 8\)"),
        ("TOP 0 CELLS", "TOP .. CELLS takes at least 1 cell, not 0"),
        ("WITHIN 1e300 SECONDS", "WITHIN takes more than 0 seconds, up to a year"),
        ("FOR LABEL", "FOR LABEL needs images with labels; the image has none"),
        ("WITH seed=99999999999999999999", "seed is at most"),
        ("ON tpu", "ON takes auto"),
    ):
        with pytest.raises(QueryError, match=said) as caught:
            shared_db.execute(f"EXPLAIN OCCLUDE ? USING net {clause}", [batch[0]])
        assert caught.value.line == 1 and "^" in str(caught.value)


def test_what_create_model_returns_says_what_was_recognised(db: Any, tiny_net: Any) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = tiny_net()

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"features": torch.cat([self.net(x)] * 2, 1), "out": self.net(x)}

    def shown(name: str, module: nn.Module, **options: Any) -> str:
        return repr(db.create_model(name, module.eval(), size=(32, 32), **options))

    flat = nn.Sequential(nn.Flatten(), nn.Linear(3072, 1))
    assert shown("net", tiny_net()) == "<model net: 3 classes (logits), input 32x32>"
    assert shown("named", tiny_net(), classes=["ant", "bee", "cat"]) == (
        "<model named: 3 classes (logits): ant, bee, cat, input 32x32>"
    )
    # of a softmax at the end, what it is given is read
    assert shown("soft", nn.Sequential(tiny_net(), nn.Softmax(1))) == "<model soft: 3 classes (logits), input 32x32>"
    assert shown("shares", nn.Sequential(tiny_net(), nn.Softmax(1), nn.Hardtanh(1e-7, 1.0))) == (
        "<model shares: 3 classes (probabilities that sum to 1), input 32x32>"
    )
    assert shown("one", flat).startswith("<model one: 2 classes, 0 = no and 1 = yes (one output: a logit")
    assert shown("value", flat, outputs="value") == "<model value: 1 value (as the network returns it), input 32x32>"
    assert shown("two", Two(), output="out") == (
        "<model two: 3 classes (logits), input 32x32, read from 'out' (3) of the outputs 'features' (6), 'out' (3)>"
    )
