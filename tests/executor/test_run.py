"""`execute`: maps, progress, cancellation and failures with a sink that only remembers; logits at their extremes."""

from __future__ import annotations

import decimal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from obeql.errors import DeviceError, ImageError
from obeql.executor.execution.context import ExplainedImage, RunContext
from obeql.executor.execution.events import (
    CancelledError,
    CellsComputed,
    Event,
    ImageFailed,
    ImagesStored,
    ImageStarted,
    RunEnded,
    RunStarted,
)
from obeql.executor.execution.executor import execute
from obeql.executor.execution.progress import Progress, ProgressReader
from obeql.executor.images import SourceImage, decode_object
from obeql.executor.network.capture.capture import capture
from obeql.executor.network.graph import LayerGraph
from obeql.executor.operators.logits import chosen_classes, logit_and_others, top_class
from obeql.planner.catalog import ImageRecord, ModelRecord, Preprocessing
from obeql.planner.cells import MapCells
from obeql.planner.class_selector import ClassSelector
from obeql.planner.grid import WindowGrid
from obeql.planner.physical.plan import ExplainPlan

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = (18, 20)
CLASSES = ("cat", "dog", "Dog", "newt")


@dataclass
class Sink:
    """Remembers what it is given."""

    written: list[tuple[str, list[MapCells]]] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)

    def write(self, explained: ExplainedImage) -> None:
        assert not explained.extra_maps  # no statement comes after this one
        self.written.append((explained.image.shown, list(explained.maps)))

    def fail(self, image: ImageRecord, error: str) -> None:
        self.failed.append((image.shown, error))

    def keep(self, explained: ExplainedImage, place: int) -> None:
        raise AssertionError("no map here takes long")

    def settle(self) -> int:
        return len(self.written) + len(self.failed)


class Picks(nn.Module):
    """The first logit is the log of the brightest value in a corner: minus infinity where that is black."""

    def forward(self, x: Tensor) -> Tensor:
        level = x[:, :1, :4, :4].amax((2, 3)).log()
        zero = torch.zeros_like(level)
        return torch.cat([level, zero, zero + 1, zero + 2], 1)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    ).eval()  # fmt: skip


def pictures(n: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {f"image{i}": rng.random((*SIZE, 3)).astype(np.float32) for i in range(n)}


@dataclass
class Setting:
    """A module, images and a plan over them."""

    module: nn.Module
    graph: LayerGraph
    images: dict[str, Any]
    plan: ExplainPlan

    def load(self, image: ImageRecord, n_axes: int) -> SourceImage:
        value = self.images[image.shown]
        if isinstance(value, Exception):
            raise value
        return value if isinstance(value, SourceImage) else decode_object(value, image.shown)

    def run(self, sink: Sink | None = None, **kwargs: Any) -> tuple[Sink, Any]:
        sink = sink or Sink()
        return sink, execute(self.plan, self.graph, RunContext(self.load, sink, **kwargs))


Setup = Callable[..., Setting]


@pytest.fixture(params=[1, 3], ids=["one by one", "together"])
def setup(drive: SimpleNamespace, request: pytest.FixtureRequest) -> Setup:
    def make(
        module: nn.Module | None = None,
        images: dict[str, Any] | None = None,
        labels: Sequence[str | None] = (),
        boxes: bool = True,
        grids: tuple[WindowGrid, ...] = (),
        **changes: Any,
    ) -> Setting:
        module = network() if module is None else module
        images = pictures(2) if images is None else images
        graph = capture(module, (3, *SIZE))
        how = Preprocessing(SIZE)
        model = ModelRecord("net", "hash", None, {}, CLASSES, graph.activation, how, graph.network())
        grids = grids or (WindowGrid.over(SIZE, (5, 6), (3, 4)), WindowGrid.over(SIZE, (8, 8), (8, 8), "clip"))
        engine = drive.incremental_engine(graph, None, (2, 2), 5, 7) if boxes else drive.dense_engine(6)
        labels = [*labels, *[None] * len(images)]
        records = tuple(ImageRecord(None, i, labels[i], key) for i, key in enumerate(images))
        plan = ExplainPlan(
            "EXPLAIN ...", model, records, grids, (engine,) * len(grids), ClassSelector("ids", (2, 0)),
            "mean", "probability", "float32", "cpu", seed=0,
        )  # fmt: skip
        return Setting(module, graph, images, replace(plan, together=request.param, **changes))

    return make


def close(found: Any, expected: Tensor) -> None:
    torch.testing.assert_close(torch.as_tensor(found).double(), expected.double(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("boxes", [True, False])
@pytest.mark.parametrize("shared_pass", [True, False])
def test_maps_come_by_image_then_grid_then_class(
    setup: Setup, drive: SimpleNamespace, boxes: bool, shared_pass: bool
) -> None:
    setting = setup(boxes=boxes, shared_pass=shared_pass)
    sink, report = setting.run()
    assert [shown for shown, _ in sink.written] == ["image0", "image1"]
    assert report.n_maps == 8 and report.n_windows == 2 * sum(g.n_windows for g in setting.plan.grids)
    assert not report.failures and not sink.failed
    assert set(report.seconds) >= {"decode", "windows", "store", "total"}
    for shown, maps in sink.written:
        pixels = torch.from_numpy(setting.images[shown]).permute(2, 0, 1)[None]
        fill = pixels.double().mean((2, 3)).float().view(3, 1, 1)
        expected_keys = [(grid, class_id) for grid in setting.plan.grids for class_id in (2, 0)]
        for (grid, class_id), cells in zip(expected_keys, maps, strict=True):
            logits = drive.brute_force(setting.module, pixels, fill, grid).double()
            others = torch.cat([logits[:, :class_id], logits[:, class_id + 1 :]], 1).logsumexp(1)
            assert cells.class_id == class_id and cells.key.patch == grid.patch
            assert cells.logit.dtype == np.float32 and cells.others.dtype == np.float64
            assert cells.logit.shape == cells.others.shape == cells.top_class.shape == grid.shape
            assert cells.tops.tolist() == list(grid.rows.starts) and cells.widths.tolist() == list(grid.cols.lengths)
            close(cells.logit.reshape(-1), logits[:, class_id])
            close(cells.others.reshape(-1), others)
            assert cells.top_class.reshape(-1).tolist() == logits.argmax(1).tolist()
            with torch.inference_mode():
                clean = setting.module(pixels)[0].double()
            close(cells.clean_logit, clean[class_id])
            close(cells.clean_others, torch.cat([clean[:class_id], clean[class_id + 1 :]]).logsumexp(0))
            assert cells.clean_top_class == int(clean.argmax())


def test_progress_counts_windows_and_ends_at_the_total(setup: Setup) -> None:
    images = {
        "good": pictures(1)["image0"],
        "broken": ImageError("'broken' is no image"),
        "also": pictures(2)["image1"],
    }
    setting = setup(images=images)
    told: list[Progress] = []
    sink, report = setting.run(on_event=ProgressReader(told.append))
    per_image = sum(grid.n_windows for grid in setting.plan.grids)
    assert {p.total for p in told} == {3 * per_image} and {p.n_images for p in told} == {3}
    done = [p.done for p in told]
    assert done == sorted(done) and done[0] == 0 and done[-1] == 3 * per_image
    assert len(set(done)) > 10, "windows are counted batch by batch"
    names, size = list(images), setting.plan.together
    assert [p.image for p in told] == sorted(p.image for p in told)
    for first in range(0, len(images), size):
        last = min(first + size, len(images)) - 1
        of_group = [p for p in told if first <= p.image <= last]
        assert (of_group[0].shown, of_group[-1].shown) == (names[first], names[last])
        assert (of_group[0].done, of_group[-1].done) == (first * per_image, (last + 1) * per_image)
    assert [shown for shown, _ in sink.written] == ["good", "also"]
    assert sink.failed == [("broken", "'broken' is no image")]
    assert [(record.shown, error) for record, error in report.failures] == sink.failed
    half = Progress(5, 20, 0, 1, "a", 2.0, 9.0)
    assert half.rate == 2.5 and half.eta_seconds == 6.0
    assert Progress(0, 20, 0, 1, "a", 2.0, 9.0).eta_seconds == 9.0
    assert Progress(0, 20, 0, 1, "a", 0.0, 9.0).rate == 0.0


def test_events_tell_a_run_from_its_start_to_its_end(setup: Setup) -> None:
    good = pictures(2)
    setting = setup(
        images={"good": good["image0"], "broken": ImageError("'broken' is no image"), "also": good["image1"]}
    )
    told: list[Event] = []
    _, report = setting.run(on_event=told.append)
    per_image = sum(grid.n_windows for grid in setting.plan.grids)
    started, *between, ended = told
    assert isinstance(started, RunStarted) and (started.n_images, started.n_windows) == (3, 3 * per_image)
    assert ended == RunEnded(report)
    assert [(each.shown, each.error) for each in told if isinstance(each, ImageFailed)] == [
        ("broken", "'broken' is no image")
    ]
    stored = [each.n_images for each in told if isinstance(each, ImagesStored)]
    assert stored == sorted(set(stored)) and stored[-1] == 3
    assert len([each for each in told if isinstance(each, ImageStarted)]) == 3
    computed = [each for each in between if isinstance(each, CellsComputed)]
    assert any(each.preview is not None for each in computed) and computed[-1].done == 3 * per_image


def test_cancelling_keeps_finished_images(setup: Setup) -> None:
    images = pictures(4)
    setting = setup(images=images)
    size = setting.plan.together
    told: list[Progress] = []
    sink = Sink()
    with pytest.raises(CancelledError):
        setting.run(sink, on_event=ProgressReader(told.append), cancelled=lambda: bool(told) and told[-1].image == size)
    assert [shown for shown, _ in sink.written] == list(images)[:size] and not sink.failed
    assert told[-1].image == size
    sink = Sink()
    with pytest.raises(CancelledError):
        setting.run(sink, cancelled=lambda: True)
    assert not sink.written


def test_an_image_that_holds_nan_fails_alone(setup: Setup) -> None:
    """Decoding refuses such arrays; whatever else makes one must not become a map of numbers."""
    images: dict[str, Any] = dict(pictures(2))
    pixels = images["image0"].copy()
    pixels[3, 4, 1] = np.nan
    images["image0"] = SourceImage(pixels, "digest", "image0", None, True)
    sink, report = setup(images=images).run()
    assert [shown for shown, _ in sink.written] == ["image1"]
    assert len(report.failures) == 1
    assert sink.failed == [("image0", "image0: the model's input holds values that are NaN or infinite")]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("layer", [0, 3, 7])
def test_weights_that_are_not_numbers_fail_every_image(setup: Setup, bad: float, layer: int) -> None:
    module = network()
    with torch.no_grad():
        module[layer].weight.view(-1)[0] = bad
        module[layer].bias[0] = bad
    sink, report = setup(module=module).run()
    assert not sink.written and len(report.failures) == 2
    for shown, error in sink.failed:
        assert error.startswith(f"{shown}: the model's output for the image itself is not finite (output ")
        assert "check the image and the model's weights" in error and "\n" not in error


@pytest.mark.parametrize("boxes", [True, False])
def test_windows_whose_output_is_not_finite_fail_the_image(setup: Setup, boxes: bool) -> None:
    images = dict(pictures(2))
    images["image1"][:2, :4] = 0
    grid = WindowGrid.over(SIZE, (4, 4), (2, 2), "cover", (2, 0, 16, 20))  # its first window hides rows 2 to 5
    given = {"boxes": boxes, "grids": (grid,), "fill": "black"}
    sink, _ = setup(Picks(), images, classes=ClassSelector("ids", (0,)), **given).run()
    assert [shown for shown, _ in sink.written] == ["image0"]
    assert sink.failed == [
        ("image1", "image1: the model's output is not finite for 1 of 63 windows, first at row 0, column 0 of the map")
    ]
    # For another class that is an ordinary number: the first class is impossible.
    sink, _ = setup(Picks(), images, classes=ClassSelector("ids", (3,)), **given).run()
    assert not sink.failed
    assert sink.written[1][1][0].others[0, 0] == pytest.approx(np.logaddexp(0, 1))


def test_for_label(setup: Setup) -> None:
    images = pictures(5)
    setting = setup(images=images, labels=("newt", None, "CAT", "newd", "doG"), classes=ClassSelector("label"))
    sink, report = setting.run()
    assert [(shown, [m.class_id for m in maps]) for shown, maps in sink.written] == [
        ("image0", [3, 3]),
        ("image2", [0, 0]),
    ]
    errors = dict(sink.failed)
    assert errors["image1"] == "image1 has no label, which is to say what to explain"
    assert errors["image3"].startswith("image3: ") and "'newd'" in errors["image3"] and "'newt'" in errors["image3"]
    assert "ambiguous" in errors["image4"] and "1 and 2" in errors["image4"]
    assert len(report.failures) == 3


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        (ClassSelector("predicted"), 1),
        (ClassSelector("top", 3), 3),
        (ClassSelector("top", 9), 4),
        (ClassSelector("all"), 4),
    ],
)
def test_classes_are_chosen_image_by_image(setup: Setup, selector: tuple[str, Any], expected: int) -> None:
    setting = setup(classes=selector, grids=(WindowGrid.over(SIZE, (6, 6), (6, 6)),))
    sink, _ = setting.run()
    for shown, maps in sink.written:
        with torch.inference_mode():
            logits = setting.module(torch.from_numpy(setting.images[shown]).permute(2, 0, 1)[None])[0]
        order = logits.argsort(descending=True).tolist()
        ids = [m.class_id for m in maps]
        assert len(ids) == expected
        assert ids == (list(range(4)) if selector[0] == "all" else order[:expected])


@pytest.mark.parametrize("fill", ["black", "zero", "blur", "(0.1, 0.9, 0.4)"])
def test_fills_by_boxes_equal_whole_maps(setup: Setup, fill: str) -> None:
    by_boxes, _ = setup(fill=fill, boxes=True).run()
    by_maps, _ = setup(fill=fill, boxes=False).run()
    for (_, left), (_, right) in zip(by_boxes.written, by_maps.written, strict=True):
        for a, b in zip(left, right, strict=True):
            close(a.logit, torch.as_tensor(b.logit))
            assert a.key == b.key and a.key.fill == fill


def test_the_same_plan_gives_the_same_bits(setup: Setup) -> None:
    setting = setup()
    first, second = setting.run()[0], setting.run()[0]
    for (_, left), (_, right) in zip(first.written, second.written, strict=True):
        for a, b in zip(left, right, strict=True):
            assert np.array_equal(a.logit, b.logit) and np.array_equal(a.others, b.others)


def test_a_device_that_is_not_there(setup: Setup) -> None:
    with pytest.raises(DeviceError, match="There is no device 'cuda:77'"):
        setup(device="cuda:77").run()


# ---- logits -------------------------------------------------------------------------------------------------


def reference(row: Sequence[float], class_id: int) -> float:
    """log of the sum of exp of all other logits, with 60 digits."""
    with decimal.localcontext() as context:
        context.prec = 60
        context.Emin, context.Emax = -decimal.MAX_EMAX, decimal.MAX_EMAX
        terms = [decimal.Decimal(z).exp() for i, z in enumerate(row) if i != class_id and z != float("-inf")]
        return float(sum(terms).ln()) if terms else float("-inf")


ROWS = {
    "plain": [0.3, -1.2, 2.5, 0.0],
    "confident": [1000.0, -1000.0, 3.0, 2.0],
    "confident by little more": [40.0, 0.0, 1.0, -2.0],
    "two confident ones": [900.0, 899.0, -5.0, 0.0],
    "ties": [7.0, 7.0, 7.0, 7.0],
    "a tie of two far above": [500.0, 500.0, -500.0, 0.0],
    "impossible classes": [1.0, float("-inf"), 2.0, float("-inf")],
    "one possible class": [1.0, float("-inf"), float("-inf"), float("-inf")],
    "far below zero": [-1e4, -1e4 - 1, -2e4, -1e4 + 1],
    "two": [-3.0, 20.0],
}


@pytest.mark.parametrize("name", ROWS)
def test_logit_and_logsumexp_of_the_others(name: str) -> None:
    row = ROWS[name]
    k = len(row)
    z, others = logit_and_others(torch.tensor([row], dtype=torch.float64), range(k), "softmax")
    assert z.dtype == others.dtype == torch.float64
    assert z[0].tolist() == row
    for i in range(k):
        assert float(others[0, i]) == pytest.approx(reference(row, i), rel=1e-14, abs=1e-14)


def test_logits_of_a_thousand_classes() -> None:
    rng = np.random.default_rng(0)
    rows = np.stack([rng.normal(0, scale, 1000) for scale in (0.1, 3, 80)])
    rows[2, 17] = 700
    logits = torch.from_numpy(rows)
    z, others = logit_and_others(logits, range(1000), "softmax")
    assert torch.equal(z, logits)
    for r in range(3):
        with decimal.localcontext() as context:
            context.prec = 60
            context.Emin, context.Emax = -decimal.MAX_EMAX, decimal.MAX_EMAX
            terms = [decimal.Decimal(float(v)).exp() for v in rows[r]]
            winner = int(np.argmax(rows[r]))
            rest = sum(term for i, term in enumerate(terms) if i != winner)
            exact = [float((rest if i == winner else rest - term + terms[winner]).ln()) for i, term in enumerate(terms)]
        np.testing.assert_allclose(others[r].numpy(), exact, rtol=1e-13, atol=1e-13)
    # Any choice of classes, in any order, repeated or not.
    ids = [17, 3, 999, 3]
    few = logit_and_others(logits, ids, "softmax")
    assert torch.equal(few[0], z[:, ids]) and torch.equal(few[1], others[:, ids])
    single = logit_and_others(logits.float(), range(1000), "softmax")[1]
    torch.testing.assert_close(single, others, rtol=1e-5, atol=1e-5)


def test_independent_outputs_have_no_others() -> None:
    logits = torch.tensor([[3.0, -800.0, 900.0]])
    z, others = logit_and_others(logits, (2, 1), "sigmoid")
    assert z.tolist() == [[900.0, -800.0]] and others.tolist() == [[0.0, 0.0]]


def test_top_class() -> None:
    assert top_class(torch.tensor([[0.1, 3.0, 2.0], [5.0, 5.0, 1.0]])).tolist() == [1, 0]
    assert top_class(torch.zeros(2, 3)).dtype == torch.int32


def test_chosen_classes() -> None:
    logits = torch.tensor([[1.0, 4.0, 2.0]])
    assert chosen_classes(ClassSelector("ids", (2, 0, 2)), logits, ()) == [2, 0, 2]
    assert chosen_classes(ClassSelector("predicted"), logits, ()) == [1]
    assert chosen_classes(ClassSelector("top", 2), logits, ()) == [1, 2]
    assert chosen_classes(ClassSelector("all"), logits, ()) == [0, 1, 2]
    assert chosen_classes(ClassSelector("label"), logits, (2, 0)) == [2, 0]


def test_windows_of_a_run_that_is_continued_count_as_done_whatever_each_image_has() -> None:
    told: list[Progress] = []
    reader = ProgressReader(told.append, n_kept=2, windows_kept=4)
    reader(RunStarted(1, 3, 1.0, 0.0))
    reader(CellsComputed(0, "c", 3, 0))
    assert [(each.done, each.total, each.n_images, each.reused) for each in told] == [(7, 7, 3, 4)]
