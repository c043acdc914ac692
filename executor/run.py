"""Carry out an `ExplainPlan`: image after image, grid after grid, cells into the sink.

Comes after planning; before it the session has loaded the model's layer graph. Knows nothing of the store: maps go
to a `CellSink`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from obeql.errors import DeviceError, ImageError, QueryError
from obeql.executor.devices import DTYPES, resolve_device
from obeql.executor.images import ModelInput, SourceImage, fill_values, preprocess
from obeql.executor.logits import chosen_classes, logit_and_others, top_class
from obeql.executor.materialise import CleanPass, materialise
from obeql.executor.network.graph import LayerGraph
from obeql.executor.operators.dense_forward import DenseRun
from obeql.executor.operators.incremental_forward import IncrementalRun
from obeql.planner.catalog import ImageRecord
from obeql.planner.cells import CellKey, CellSink, MapCells
from obeql.planner.classes import find_class
from obeql.planner.grid import WindowGrid
from obeql.planner.physical import ExplainPlan, IncrementalForward

__all__ = ["CancelledError", "ImageLoader", "OnProgress", "Progress", "RunReport", "execute"]

Windows = npt.NDArray[np.int64]


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

    def add(self, part: str, seconds: float) -> None:
        self.seconds[part] = self.seconds.get(part, 0.0) + seconds


@dataclass(slots=True)
class _Planes:
    """The cells of one grid while windows come in."""

    logit: Tensor  # (windows, classes) float32 on CPU
    others: Tensor
    top: Tensor  # (windows,)


def execute(
    plan: ExplainPlan,
    graph: LayerGraph,
    load: ImageLoader,
    sink: CellSink,
    on_image: Callable[[ImageRecord, SourceImage, ModelInput], None] | None = None,
    on_progress: OnProgress | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> RunReport:
    """Compute every map of the plan and hand it to the sink, image by image.

    `graph` is the model as captured (CPU, float32). `on_image` is told of each image that was decoded. An image
    that cannot be read, or whose outputs are not numbers, goes to `sink.fail` and the rest completes. Raises
    CancelledError between batches once `cancelled()` is true, DeviceError when the device is missing or full.
    """
    device = resolve_device(plan.device)
    dtype = DTYPES[plan.precision]
    report = RunReport()
    started = time.perf_counter()
    graph = graph.to(device, dtype)
    runs = [_prepared(graph, grid, engine) for grid, engine in zip(plan.grids, plan.engines, strict=True)]
    per_image = sum(grid.n_windows for grid in plan.grids)
    estimated = sum(engine.cost.seconds for engine in plan.engines) * len(plan.images)
    report.add("prepare", time.perf_counter() - started)

    for number, record in enumerate(plan.images):

        def tell(done: int, number: int = number, record: ImageRecord = record) -> None:
            if cancelled():
                raise CancelledError
            if on_progress is not None:
                elapsed = time.perf_counter() - started
                total = per_image * len(plan.images)
                shown = record.shown
                on_progress(
                    Progress(number * per_image + done, total, number, len(plan.images), shown, elapsed, estimated)
                )

        tell(0)
        try:
            _explain(plan, graph, runs, record, load, sink, on_image, tell, report, device, dtype)
        except ImageError as error:
            report.failures.append((record, str(error)))
            sink.fail(record, str(error))
        except torch.OutOfMemoryError as error:
            raise DeviceError(
                f"{device} ran out of memory with batches of {[e.batch for e in plan.engines]} windows; "
                "give a smaller batch=.. or memory=.."
            ) from error
        tell(per_image)
    report.add("total", time.perf_counter() - started)
    return report


def _prepared(graph: LayerGraph, grid: WindowGrid, engine: object) -> IncrementalRun | DenseRun:
    if isinstance(engine, IncrementalForward):
        return IncrementalRun(graph, grid, engine)
    return DenseRun(graph, grid, engine)  # type: ignore[arg-type]


def _explain(
    plan: ExplainPlan,
    graph: LayerGraph,
    runs: Sequence[IncrementalRun | DenseRun],
    record: ImageRecord,
    load: ImageLoader,
    sink: CellSink,
    on_image: Callable[[ImageRecord, SourceImage, ModelInput], None] | None,
    tell: Callable[[int], None],
    report: RunReport,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    clock = time.perf_counter()
    source = load(record)
    model_input = preprocess(source, plan.model.preprocessing)
    if on_image is not None:
        on_image(record, source, model_input)
    image = torch.from_numpy(model_input.values)[None].to(device, dtype)
    hidden = torch.from_numpy(fill_values(plan.fill, model_input, plan.model.preprocessing)).to(device, dtype)
    fill = hidden[:, None, None] if hidden.dim() == 1 else hidden
    report.add("decode", time.perf_counter() - clock)
    maps: list[MapCells] = []
    done = 0
    with torch.inference_mode():
        shared = [key for run in runs for key in run.needed] if plan.shared_pass else None
        clean: CleanPass | None = None
        for grid, run in zip(plan.grids, runs, strict=True):
            if clean is None or shared is None:
                clock = time.perf_counter()
                clean = materialise(graph, image, run.needed if shared is None else shared)
                report.add("materialise", time.perf_counter() - clock)
            classes = _classes(plan, record, clean.logits)
            clock = time.perf_counter()
            planes = _compute(plan, run, clean, fill, grid, classes, tell, done)
            report.add("windows", time.perf_counter() - clock)
            report.n_windows += grid.n_windows
            done += grid.n_windows
            maps += _maps(plan, source, grid, classes, clean.logits, planes)
    clock = time.perf_counter()
    sink.write(record, maps)
    report.n_maps += len(maps)
    report.add("store", time.perf_counter() - clock)


def _classes(plan: ExplainPlan, record: ImageRecord, clean: Tensor) -> list[int]:
    if not bool(clean.isfinite().all()):
        raise ImageError(
            f"{record.shown}: the model's output for the image itself is not finite ({_first_bad(clean[0])}); "
            "check the image and the model's weights"
        )
    label_id = None
    if plan.classes[0] == "label":
        if record.label is None:
            raise ImageError(f"{record.shown} has no label; FOR LABEL needs one")
        try:
            label_id = find_class(plan.model, record.label)
        except QueryError as error:
            raise ImageError(f"{record.shown}: {error.message}") from None
    return chosen_classes(plan.classes, clean, label_id)


def _first_bad(logits: Tensor) -> str:
    index = int((~logits.isfinite()).nonzero()[0])
    return f"output {index} is {float(logits[index])}"


def _compute(
    plan: ExplainPlan,
    run: IncrementalRun | DenseRun,
    clean: CleanPass,
    fill: Tensor,
    grid: WindowGrid,
    classes: Sequence[int],
    tell: Callable[[int], None],
    done_before: int,
) -> _Planes:
    n_windows = grid.n_windows
    planes = _Planes(
        torch.full((n_windows, len(classes)), float("nan")),
        torch.full((n_windows, len(classes)), float("nan")),
        torch.full((n_windows,), -1, dtype=torch.int32),
    )
    n_done = 0

    def take(windows: Windows, logits: Tensor) -> None:
        nonlocal n_done
        index = torch.from_numpy(windows)
        z, others = logit_and_others(logits, classes, plan.model.activation)
        planes.logit[index] = z.float().cpu()
        planes.others[index] = others.float().cpu()
        planes.top[index] = top_class(logits).cpu()
        n_done += len(windows)
        tell(done_before + n_done)

    run.run(clean, fill, None, take)
    return planes


def _maps(
    plan: ExplainPlan,
    source: SourceImage,
    grid: WindowGrid,
    classes: Sequence[int],
    clean: Tensor,
    planes: _Planes,
) -> list[MapCells]:
    """One map a class, checked for values that are not numbers."""
    bad = ~planes.logit.isfinite().all(dim=1)
    if bool(bad.any()):
        row, col = divmod(int(bad.nonzero()[0]), len(grid.cols))
        raise ImageError(
            f"{source.shown}: the model's output is not finite for {int(bad.sum())} of {grid.n_windows} windows, "
            f"first at row {row}, column {col} of the map"
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
            float(clean_z[0, k]),
            float(clean_others[0, k]),
            clean_top,
            None,
            dict(quality),
        )
        for k, class_id in enumerate(classes)
    ]
