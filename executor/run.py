"""Carry out an `ExplainPlan`: image after image, grid after grid, cells into the sink.

Comes after planning; before it the session has loaded the model's layer graph. Knows nothing of the store: maps go
to a `CellSink`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from obeql.errors import ImageError, QueryError
from obeql.executor.devices import DTYPES, arithmetic, resolve_device
from obeql.executor.grid_run import GridRun, Planes
from obeql.executor.images import ModelInput, SourceImage, fill_values, preprocess
from obeql.executor.layer_clock import LayerClock
from obeql.executor.logits import chosen_classes, logit_and_others, top_class
from obeql.executor.materialise import CleanPass, materialise
from obeql.executor.network.graph import LayerGraph
from obeql.executor.preview import Preview
from obeql.planner.catalog import ImageRecord
from obeql.planner.cells import CellKey, CellSink, MapCells
from obeql.planner.classes import find_class
from obeql.planner.grid import WindowGrid
from obeql.planner.physical import ExplainPlan
from obeql.planner.scores import score_kind

__all__ = ["CancelledError", "ImageLoader", "OnImage", "OnProgress", "Preview", "Progress", "RunReport", "execute"]


class CancelledError(Exception):
    """The user asked to stop; maps that the sink has taken are kept."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is. Windows count over all images and grids of the run; images that failed count as done."""

    done: int
    total: int
    image: int
    n_images: int
    shown: str
    seconds: float
    estimated_seconds: float
    #: the map at work, of the first class asked for; None between images
    preview: Preview | None = field(default=None, compare=False, repr=False)

    @property
    def rate(self) -> float:
        """Windows a second so far."""
        return self.done / self.seconds if self.seconds > 0 else 0.0

    @property
    def eta_seconds(self) -> float:
        """Seconds left: by the rate so far once there is one, by the plan's estimate before."""
        if self.done == 0:
            return self.estimated_seconds
        return (self.total - self.done) / self.rate


OnProgress = Callable[[Progress], None]
OnImage = Callable[[ImageRecord, SourceImage, ModelInput], None]


class ImageLoader(Protocol):
    """Decodes an image of the plan; raises ImageError."""

    def __call__(self, image: ImageRecord) -> SourceImage: ...


@dataclass(slots=True)
class RunReport:
    """What a run did: measured seconds by part, windows computed, images that failed."""

    n_windows: int = 0
    n_maps: int = 0
    failures: list[tuple[ImageRecord, str]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    #: with `analyze`, measured seconds by layer for each grid, over all images
    layers: list[dict[int, float]] = field(default_factory=list)

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.add(part, time.perf_counter() - started)

    def add(self, part: str, seconds: float) -> None:
        self.seconds[part] = self.seconds.get(part, 0.0) + seconds


def execute(
    plan: ExplainPlan,
    graph: LayerGraph,
    load: ImageLoader,
    sink: CellSink,
    on_image: OnImage | None = None,
    on_progress: OnProgress | None = None,
    cancelled: Callable[[], bool] = lambda: False,
    analyze: bool = False,
) -> RunReport:
    """Compute every map of the plan and hand it to the sink, image by image.

    `graph` is the model as captured (on the CPU). `on_image` is told of each image that was decoded. An image that
    cannot be read, or whose outputs are not numbers, goes to `sink.fail` and the rest completes. `analyze` times
    every layer. Raises CancelledError between batches once `cancelled()` is true, DeviceError when the device is
    missing or too small.
    """
    device = resolve_device(plan.device)
    with arithmetic(plan.precision, device), torch.inference_mode():
        return _Execution(plan, graph, load, sink, on_image, on_progress, cancelled, analyze, device).run()


class _Execution:
    """One run of a plan: the operators, prepared, and what has been done so far."""

    def __init__(
        self,
        plan: ExplainPlan,
        graph: LayerGraph,
        load: ImageLoader,
        sink: CellSink,
        on_image: OnImage | None,
        on_progress: OnProgress | None,
        cancelled: Callable[[], bool],
        analyze: bool,
        device: torch.device,
    ) -> None:
        self.plan = plan
        self.load = load
        self.sink = sink
        self.on_image = on_image
        self.on_progress = on_progress
        self.cancelled = cancelled
        self.device = device
        self.dtype = DTYPES[plan.precision]
        self.started = time.perf_counter()
        self.report = RunReport()
        self.graph = graph.to(device, self.dtype)
        clocks = [LayerClock(device) if analyze else None for _ in plan.grids]
        self.report.layers = [clock.seconds for clock in clocks if clock is not None]
        self.runs = [
            GridRun(self.graph, grid, engine, clock, len(plan.images))
            for grid, engine, clock in zip(plan.grids, plan.engines, clocks, strict=True)
        ]
        self.per_image = sum(grid.n_windows for grid in plan.grids)
        self.estimated = sum(engine.cost.seconds for engine in plan.engines) * len(plan.images)
        self.report.add("prepare", time.perf_counter() - self.started)

    def run(self) -> RunReport:
        for number, image in enumerate(self.plan.images):
            self._tell(number, image, 0)
            try:
                self._explain(number, image)
            except ImageError as error:
                self.report.failures.append((image, str(error)))
                self.sink.fail(image, str(error))
            self._tell(number, image, self.per_image)
        self.report.add("total", time.perf_counter() - self.started)
        return self.report

    def _tell(self, number: int, image: ImageRecord, done: int, preview: Preview | None = None) -> None:
        if self.cancelled():
            raise CancelledError
        if self.on_progress is None:
            return
        n_images = len(self.plan.images)
        done, total = number * self.per_image + done, self.per_image * n_images
        elapsed = time.perf_counter() - self.started
        self.on_progress(Progress(done, total, number, n_images, image.shown, elapsed, self.estimated, preview))

    def _explain(self, number: int, image: ImageRecord) -> None:
        plan, report = self.plan, self.report
        with report.timed("decode"):
            source = self.load(image)
            model_input = preprocess(source, plan.model.preprocessing)
            if self.on_image is not None:
                self.on_image(image, source, model_input)
            if not np.isfinite(model_input.values).all():
                # Fused kernels may turn NaN into 0, so the network's output need not show it.
                raise ImageError(f"{image.shown}: the model's input holds values that are NaN or infinite")
            pixels = torch.from_numpy(model_input.values)[None].to(self.device, self.dtype)
            hidden = torch.from_numpy(fill_values(plan.fill, model_input, plan.model.preprocessing))
            hidden = hidden.to(self.device, self.dtype)
            fill = hidden[:, None, None] if hidden.dim() == 1 else hidden
        maps: list[MapCells] = []
        shared = [key for run in self.runs for key in run.needed] if plan.shared_pass else None
        clean: CleanPass | None = None
        done = 0
        for run in self.runs:
            if clean is None or shared is None:
                with report.timed("clean pass"):
                    clean = materialise(self.graph, pixels, run.needed if shared is None else shared)
            classes = self._classes(image, clean.logits)

            preview = _preview(plan, run, classes, clean.logits)

            def tell(n: int, before: int = done, preview: Preview = preview) -> None:
                self._tell(number, image, before + n, preview)

            with report.timed("windows"):
                planes = run.compute(clean, fill, classes, plan.model.activation, tell)
            report.n_windows += run.grid.n_windows
            done += run.grid.n_windows
            maps += _maps(plan, source, run.grid, classes, clean.logits, planes)
        with report.timed("store"):
            self.sink.write(image, maps)
        report.n_maps += len(maps)

    def _classes(self, image: ImageRecord, clean: Tensor) -> list[int]:
        """The classes asked of an image, once its clean logits (1, K) are known to be numbers."""
        if not bool(clean.isfinite().all()):
            index = int((~clean[0].isfinite()).nonzero()[0])
            raise ImageError(
                f"{image.shown}: the model's output for the image itself is not finite (output {index} is "
                f"{float(clean[0, index])}); check the image and the model's weights{_overflow_hint(self.plan)}"
            )
        label_id = None
        if self.plan.classes[0] == "label":
            if image.label is None:
                raise ImageError(f"{image.shown} has no label; FOR LABEL needs one")
            try:
                label_id = find_class(self.plan.model, image.label)
            except QueryError as error:
                raise ImageError(f"{image.shown}: {error.message}") from None
        return chosen_classes(self.plan.classes, clean, label_id)


def _preview(plan: ExplainPlan, run: GridRun, classes: Sequence[int], clean: Tensor) -> Preview:
    z, rest = logit_and_others(clean, classes[:1], plan.model.activation)
    name = plan.model.class_name(classes[0])
    return Preview(run.grid, name, score_kind(plan.score), (z[0, 0], rest[0, 0]), lambda: run.partial)


def _overflow_hint(plan: ExplainPlan) -> str:
    return "; float16 ends at 65504: try precision=bfloat16 or float32" if plan.precision == "float16" else ""


def _maps(
    plan: ExplainPlan,
    source: SourceImage,
    grid: WindowGrid,
    classes: Sequence[int],
    clean: Tensor,
    planes: Planes,
) -> list[MapCells]:
    """One map a class, checked for values that are not numbers."""
    bad = ~(planes.logit.isfinite() & planes.others.isfinite()).all(dim=1)
    if bool(bad.any()):
        row, col = divmod(int(bad.nonzero()[0]), len(grid.cols))
        raise ImageError(
            f"{source.shown}: the model's output is not finite for {int(bad.sum())} of {grid.n_windows} windows, "
            f"first at row {row}, column {col} of the map{_overflow_hint(plan)}"
        )
    key = CellKey(
        source.digest,
        plan.model.model_hash,
        plan.model.preprocessing.digest(),
        grid.patch,
        plan.fill,
        plan.precision,
    )
    clean_z, clean_others = logit_and_others(clean, classes, plan.model.activation)
    clean_top = int(top_class(clean)[0])
    quality = {"approx": False, "n_exact": grid.n_windows, "n_audit": 0, "seed": plan.seed, "bound": 1.0}
    quality |= plan.approx
    axes = [np.asarray(a, np.int32) for a in (grid.rows.starts, grid.cols.starts)]
    sizes = [np.asarray(a, np.int32) for a in (grid.rows.lengths, grid.cols.lengths)]
    top = planes.top.numpy().reshape(grid.shape)
    return [
        MapCells(
            key,
            class_id,
            axes[0],
            axes[1],
            sizes[0],
            sizes[1],
            planes.logit[:, k].numpy().reshape(grid.shape),
            planes.others[:, k].numpy().reshape(grid.shape),
            top,
            # rounded as the cells are: a window without effect has importance 0, not a rounding error
            float(clean_z[0, k].float()),
            float(clean_others[0, k].float()),
            clean_top,
            None,
            dict(quality),
        )
        for k, class_id in enumerate(classes)
    ]
