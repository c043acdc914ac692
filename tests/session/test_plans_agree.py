"""Random networks, random queries, random options: every plan of a statement gives the maps that plain inference gives.

`OBEQL_FUZZ_EXAMPLES=2000 pytest tests/session/test_plans_agree.py` runs a nightly's worth.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn

import obeql
from obeql.planner import plan_explain
from obeql.planner.boxes import region_layers
from obeql.planner.logical.rules import CHOICES, RULE_NAMES
from obeql.planner.physical.plan import Cost, DenseForward, IncrementalForward
from obeql.session import explain_runner

N_EXAMPLES = int(os.environ.get("OBEQL_FUZZ_EXAMPLES", "5"))
FUZZ = settings(
    max_examples=N_EXAMPLES, deadline=None, derandomize=N_EXAMPLES < 100, suppress_health_check=list(HealthCheck)
)
NOTHING = Cost(0.0, 0.0, 0.0)
#: Relative to the largest score of a map; float32 sums are taken in another order.
TOLERANCE = 2e-4

ACTIVATIONS: list[Callable[[], nn.Module]] = [nn.ReLU, nn.SiLU, nn.Tanh, nn.Identity, nn.ReLU6, nn.GELU]


class Sum(nn.Module):
    """A branch added to, or put beside, what it read."""

    def __init__(self, branch: nn.Module, beside: bool) -> None:
        super().__init__()
        self.branch, self.beside = branch, beside

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.branch(x)
        return torch.cat([x, y], 1) if self.beside else x + y


class Gate(nn.Module):
    """A squeeze-excite gate: every output depends on the whole map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.inner(x.mean((2, 3), keepdim=True)).sigmoid()


@st.composite
def networks(draw: Any) -> tuple[nn.Module, tuple[int, int]]:
    """A small classifier of three classes in evaluation mode, and the size of its input."""
    size = draw(st.integers(12, 26)), draw(st.integers(12, 26))
    torch.manual_seed(draw(st.integers(0, 2**31)))
    channels, parts = 3, []
    for _ in range(draw(st.integers(1, 5))):
        kind = draw(
            st.sampled_from(["conv", "conv", "conv", "pool", "mean", "sum", "cat", "gate", "norm", "depthwise"])
        )
        kernel = draw(st.sampled_from([1, 2, 3, 5]))
        act = draw(st.sampled_from(ACTIVATIONS))()
        match kind:
            case "conv":
                dilation, padding = draw(st.integers(1, 2)), draw(st.integers(0, 2))
                out = draw(st.sampled_from([4, 6, 8]))
                stride = draw(st.integers(1, 2))
                parts += [nn.Conv2d(channels, out, kernel, stride, padding, dilation), act]
                channels = out
            case "depthwise":
                parts += [nn.Conv2d(channels, channels, 3, padding=1, groups=channels), act]
            case "pool":
                parts += [nn.MaxPool2d(kernel, draw(st.integers(1, 2)), kernel // 2, ceil_mode=draw(st.booleans()))]
            case "mean":
                parts += [nn.AvgPool2d(2, ceil_mode=draw(st.booleans()), count_include_pad=draw(st.booleans()))]
            case "norm":
                norm = nn.BatchNorm2d(channels)
                norm.running_mean.uniform_(-0.5, 0.5)  # type: ignore[union-attr]
                norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
                parts += [norm, act]
            case "gate":
                parts += [Gate(channels)]
            case _:
                beside = kind == "cat"
                parts += [Sum(nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), act), beside)]
                channels *= 1 + beside
    pooled = draw(st.booleans())
    body = nn.Sequential(*parts).eval()
    try:
        shape = body(torch.zeros(1, 3, *size)).shape
    except RuntimeError:
        shape = (0,)
    assume(len(shape) == 4 and min(shape) > 0)
    n_features = channels if pooled else int(np.prod(shape[1:]))
    head = [nn.AdaptiveAvgPool2d(1)] if pooled else []
    return nn.Sequential(body, *head, nn.Flatten(), nn.Linear(n_features, 3)).eval(), size


@st.composite
def queries(draw: Any, size: tuple[int, int]) -> str:
    """A statement without its options of execution."""
    least = min(size)
    patch = draw(st.integers(2, least - 2))
    second = draw(st.integers(2, least - 2))
    stride = draw(st.integers(max(1, patch // 4), patch))
    several = draw(st.booleans())
    border = draw(st.sampled_from(["cover", "valid", "clip"]))
    fill = draw(st.sampled_from(["mean", "black", "white", "zero", "blur", "(0.1, 0.9, 0.4)"]))
    classes = draw(st.sampled_from(["", "FOR ALL", "FOR TOP 2", "FOR CLASS 1", "FOR CLASSES (2, 0)"]))
    stride = min(stride, patch, second) if several else stride
    shown = f"[{patch}, {second}]" if several and patch != second else str(patch)
    return (
        f"EXPLAIN OCCLUDE pictures USING net {classes} "
        f"WITH patch={shown} stride={stride} border={border} fill={fill} score=log_odds"
    )


def forced(boxes: bool, stop: int, groups: tuple[int, int], batches: tuple[int, int]) -> Callable[..., Any]:
    """A chooser of operators that does not ask what is faster."""

    def choose(network: Any, *_: Any) -> Any:
        regions = region_layers(network, max(2, min(stop, len(network.layers))))
        if not boxes or network.whole or sum(regions) <= 1:
            return DenseForward(batches[0], NOTHING), ()
        return IncrementalForward(regions, groups, *batches, NOTHING), ()

    return choose


@pytest.fixture(scope="module", autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def same(expected: Any, found: Any) -> None:
    assert len(expected) == len(found) > 0
    for ours, theirs in zip(expected, found, strict=True):
        assert (ours.class_id, ours.patch, ours.shape) == (theirs.class_id, theirs.patch, theirs.shape)
        scale = max(1.0, float(np.abs(ours.scores).max()))
        np.testing.assert_allclose(theirs.scores, ours.scores, rtol=0, atol=TOLERANCE * scale)
        assert abs(ours.clean_score - theirs.clean_score) <= TOLERANCE * scale


@FUZZ
@given(st.data())
def test_every_plan_gives_the_maps_of_plain_inference(data: Any) -> None:
    network, size = data.draw(networks())
    query = data.draw(queries(size))
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(3)]
    small = st.integers(1, 9)
    with pytest.MonkeyPatch.context() as patch, obeql.connect() as db:
        db.create_model("net", network, size=size)
        db.create_images("pictures", pictures)

        def run(choose: Callable[..., Any], more: str = " NO REUSE") -> Any:
            patch.setattr(explain_runner, "plan_explain", partial(plan_explain, choose=choose))
            return db.execute(query + more)

        expected = run(forced(False, 0, (1, 1), (64, 64)))
        assert [each.class_id for each in run(forced(False, 0, (1, 1), (1, 1)))] == [m.class_id for m in expected]
        for _ in range(2):
            stop, groups = data.draw(st.integers(2, 30)), (data.draw(small), data.draw(small))
            batches = data.draw(small), data.draw(small)
            db.execute(f"SET obeql.threads = {data.draw(st.integers(1, 3))}")
            choose = forced(True, stop, groups, batches)
            together = data.draw(st.integers(1, 3))
            patch.setattr(sys.modules["obeql.planner.physical.lower"], "images_per_batch", lambda *_, n=together: n)
            found = run(choose)
            same(expected, found)
            for first, again in zip(found, run(choose), strict=True):  # the same plan, the same bits
                np.testing.assert_array_equal(first.scores, again.scores)
        off = data.draw(st.lists(st.sampled_from([*RULE_NAMES, *(c.name for c in CHOICES)]), unique=True))
        db.execute("SET obeql.disabled_rules = ?", [off])
        patch.undo()
        same(expected, db.execute(query + " NO REUSE"))  # what the planner chooses without some of its rules
        db.execute("RESET obeql.disabled_rules")
        same(expected, db.execute(query))  # out of the store
        with obeql.connect() as fresh:
            fresh.create_model("net", network, size=size)
            fresh.create_images("pictures", pictures)
            fresh.execute(query.replace(" border=cover", " border=valid").replace(" border=clip", " border=valid"))
            same(expected, fresh.execute(query))  # cells of another border rule, and the rest computed
