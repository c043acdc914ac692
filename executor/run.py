"""Carry out an `ExplainPlan`: image after image, grid after grid, cells into the sink.

Comes after planning; before it the session has loaded the model's layer graph. Knows nothing of the store: maps go
to a `CellSink`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from obeql.errors import ImageError, QueryError
from obeql.executor.ahead import DecodedImage, ImageFeed, ImagesAhead, Listed, decode
from obeql.executor.allocator import memory_given_back
from obeql.executor.devices import DTYPES, arithmetic, resolve_device
from obeql.executor.grid_run import GridRun, Planes
from obeql.executor.image_maps import cell_key, clean_numbers, maps_of, overflow_hint, preview_of
from obeql.executor.images import Placement, SourceFacts, SourceImage
from obeql.executor.layer_clock import LayerClock
from obeql.executor.logits import chosen_classes
from obeql.executor.materialise import CleanPass, materialise
from obeql.executor.network.graph import LayerGraph
from obeql.executor.not_finite import where_not_finite
from obeql.executor.operators.progressive_refine import RefineRun
from obeql.executor.pieces import Pieces
from obeql.executor.preview import Preview
from obeql.executor.progress import CancelledError, OnProgress, Progress, RunReport
from obeql.executor.reuse import KnownCells, known_cells
from obeql.planner.catalog import ImageRecord
from obeql.planner.cells import CellKey, CellSink, CellSource, MapCells
from obeql.planner.classes import find_class
from obeql.planner.grid import WindowGrid
from obeql.planner.physical import ExplainPlan, Refinement
from obeql.planner.scores import score_kind

__all__ = ["ImageLoader", "OnImage", "execute"]


OnImage = Callable[[ImageRecord, SourceFacts, Placement], None]
#: the model as captured, on the CPU, or what loads it where a window has to be computed
GraphSource = LayerGraph | Callable[[], LayerGraph]


class ImageLoader(Protocol):
    """Decodes an image of the plan; raises ImageError."""

    def __call__(self, image: ImageRecord) -> SourceImage: ...


def execute(
    plan: ExplainPlan,
    graph: GraphSource,
    load: ImageLoader,
    sink: CellSink,
    on_image: OnImage | None = None,
    on_progress: OnProgress | None = None,
    cancelled: Callable[[], bool] = lambda: False,
    analyze: bool = False,
    source: CellSource | None = None,
    feed: ImageFeed | None = None,
    report: RunReport | None = None,
) -> RunReport:
    """Compute every map of the plan and hand it to the sink, image by image.

    `graph` is the model as captured (on the CPU). `on_image` is told of each image that was decoded. An image that
    cannot be read, or whose outputs are not numbers, goes to `sink.fail` and the rest completes. `analyze` times
    every layer. Where the plan reuses cells, those that `source` holds are taken from it, and the network is loaded
    only if any is missing. `feed` hands out the images one by one in place of `plan.images`, which is empty then;
    `report` is filled in as the run goes on. Raises CancelledError between batches once `cancelled()` is true,
    DeviceError when the device is missing or too small.
    """
    device = resolve_device(plan.device)
    source = source if plan.reuse else None
    with arithmetic(plan.precision, device), memory_given_back(plan), torch.inference_mode():
        report = RunReport() if report is None else report
        execution = _Execution(
            plan, graph, load, sink, on_image, on_progress, cancelled, analyze, device, source, report
        )
        return execution.run(Listed(plan.images) if feed is None else feed)


class _Execution:
    """One run of a plan: the operators, prepared, and what has been done so far."""

    def __init__(
        self,
        plan: ExplainPlan,
        graph: GraphSource,
        load: ImageLoader,
        sink: CellSink,
        on_image: OnImage | None,
        on_progress: OnProgress | None,
        cancelled: Callable[[], bool],
        analyze: bool,
        device: torch.device,
        source: CellSource | None,
        report: RunReport,
    ) -> None:
        self.plan = plan
        self.load = load
        self.sink = sink
        self.on_image = on_image
        self.on_progress = on_progress
        self.cancelled = cancelled
        self.device = device
        self.source = source
        self.dtype = DTYPES[plan.precision]
        self.started = time.perf_counter()
        self.report = report
        self._captured = graph
        #: a feed, of which nobody knows how many images it will give, stands in for a plan without images
        self.several = len(plan.images) != 1
        self._clocks = [LayerClock(device) if analyze else None for _ in plan.grids]
        self.report.layers = [clock.seconds for clock in self._clocks if clock is not None]
        if source is None:
            _ = self.runs
        self.per_image = sum(grid.n_windows for grid in plan.grids)
        self.estimated = plan.seconds * len(plan.images)
        self.report.add("prepare", time.perf_counter() - self.started)

    @cached_property
    def graph(self) -> LayerGraph:
        """The network on the device; loaded and moved there when a window has to be computed."""
        graph = self._captured if isinstance(self._captured, LayerGraph) else self._captured()
        return graph.to(self.device, self.dtype)

    @cached_property
    def runs(self) -> list[GridRun]:
        """The operators, one a grid, prepared."""
        return [
            GridRun(self.graph, grid, engine, clock, self.several)
            for grid, engine, clock in zip(self.plan.grids, self.plan.engines, self._clocks, strict=True)
        ]

    @cached_property
    def refined(self) -> list[RefineRun | None]:
        """What decides which windows of each grid are computed; None where all are."""
        plan = self.plan
        return [
            None
            if refinement is None
            else RefineRun(run, refinement, score_kind(plan.score), plan.seed, self._reduced(run, refinement))
            for run, refinement in zip(self.runs, plan.refinements or (None,) * len(plan.grids), strict=True)
        ]

    def _reduced(self, run: GridRun, refinement: Refinement) -> GridRun | None:
        """The operator that computes most windows of a refinement in a reduced precision."""
        if refinement.reduced is None:
            return None
        captured = self._captured if isinstance(self._captured, LayerGraph) else self._captured()
        graph = captured.to(self.device, DTYPES[refinement.reduced.precision])
        return GridRun(graph, run.grid, refinement.reduced.engine, None, self.several)

    def run(self, feed: ImageFeed) -> RunReport:
        plan = self.plan
        how = plan.model.preprocessing
        with ImagesAhead(feed, lambda image: decode(self.load, image, how, plan.fill)) as decoded:
            for number, image in enumerate(decoded):
                self._tell(number, image, 0)
                try:
                    self._explain(number, image, decoded)
                except ImageError as error:
                    self.report.failures.append((image, str(error)))
                    self.sink.fail(image, str(error))
                self._tell(number, image, self.per_image)
        self.report.add("total", time.perf_counter() - self.started)
        return self.report

    def _tell(
        self,
        number: int,
        image: ImageRecord,
        done: int,
        level: int = 0,
        bound: float | None = None,
        partial: tuple[MapCells, ...] = (),
        preview: Preview | None = None,
    ) -> None:
        images_done = self.sink.settle()
        if self.cancelled():
            raise CancelledError
        if self.on_progress is None:
            return
        n_images = len(self.plan.images)
        done, total = number * self.per_image + done, self.per_image * n_images
        elapsed = time.perf_counter() - self.started
        report = Progress(done, total, number, n_images, image.shown, elapsed, self.estimated, level, bound, partial)
        self.on_progress(replace(report, preview=preview, images_done=images_done))

    def _explain(self, number: int, image: ImageRecord, decoded: ImagesAhead) -> None:
        plan, report = self.plan, self.report
        with report.timed("decode"):
            source, pixels, fill = self._prepared(image, decoded.take())
        keys = [cell_key(plan, source, grid) for grid in plan.grids]
        clean: CleanPass | None = None
        passed = None if plan.shared_pass else 0
        with report.timed("reuse"):
            classes = self._stored_classes(image, keys[0])
        if classes is None:
            clean = self._clean_pass(pixels, passed)
            classes = self._classes(image, clean)
        with report.timed("reuse"):
            known = [self._known(key, grid, classes) for key, grid in zip(keys, plan.grids, strict=True)]
        maps: list[MapCells] = []
        beside: list[MapCells] = []
        done = 0
        for place, (grid, cells) in enumerate(zip(plan.grids, known, strict=True)):
            n_left = grid.n_windows if cells is None else int(cells.left.sum())

            whole = cells is not None and n_left == 0  # every cell is stored
            wanted = None if plan.shared_pass else place
            if not whole and (clean is None or passed != wanted):
                clean, passed = self._clean_pass(pixels, wanted), wanted
                self._require_numbers(image, clean)
            stored = {} if cells is None else cells.clean
            numbers = clean_numbers(plan, classes, None if clean is None else clean.logits, stored)
            coming = [] if clean is None or cells is not None else self._coming(image, classes, clean.logits)
            as_maps = partial(maps_of, plan, source, keys[place], grid, numbers, grid.n_windows - n_left)
            if cells is not None and whole:
                logit, others, top = map(torch.from_numpy, (cells.logit, cells.others, cells.top))
                planes = Planes(logit, others, top)
            else:
                assert clean is not None
                preview = preview_of(plan, self.runs[place], classes, clean.logits)

                def tell(n: int, before: int = done, preview: Preview = preview) -> None:
                    self._tell(number, image, before + n, preview=preview)

                asked = [*classes, *coming]
                planes = self._computed(number, image, place, clean, fill, asked, tell, cells, as_maps)
            n_stored = grid.n_windows - n_left
            report.n_windows += n_left if planes.exact is None else int(planes.exact.sum()) - n_stored
            report.n_stored += n_stored
            done += grid.n_windows
            maps += as_maps(planes.of_classes(slice(len(classes))))
            if coming:
                assert clean is not None
                beside += self._beside(source, keys[place], grid, coming, clean.logits, planes, len(classes))
        with report.timed("store"):
            if beside:
                self.sink.keep_beside(image, beside)
            self.sink.write(image, maps)
        report.n_maps += len(maps)

    def _computed(
        self,
        number: int,
        image: ImageRecord,
        place: int,
        clean: CleanPass,
        fill: Tensor,
        classes: Sequence[int],
        tell: Callable[[int], None],
        known: KnownCells | None,
        as_maps: Callable[[Planes], list[MapCells]],
    ) -> Planes:
        """Compute one grid: all windows that are not known, or those its refinement chooses."""
        activation = self.plan.model.activation
        refined = self.refined[place]
        # Without reuse nobody would take them.
        pieces = None if self.source is None else Pieces(self.sink, image, place, self.runs[place], known, as_maps)
        if refined is None:
            return self._whole(place, clean, fill, classes, tell, known, pieces)
        done = place and sum(grid.n_windows for grid in self.plan.grids[:place])

        def on_level(level: int, bound: float, planes: Planes) -> None:
            stated = planes.quality[0]
            n_known = int(stated["n_exact"]) + int(stated.get("n_reduced", 0))
            maps = () if self.on_progress is None else tuple(as_maps(planes))
            preview = preview_of(self.plan, self.runs[place], classes, clean.logits, planes)
            if pieces is not None:
                pieces.after_level(planes)
            self._tell(number, image, done + n_known, level, bound, maps, preview)

        deadline = self._deadline(number, image, place, refined)
        with self.report.timed("windows"):
            return refined.compute(clean, fill, classes, activation, tell, known, on_level, deadline)

    def _whole(
        self,
        place: int,
        clean: CleanPass,
        fill: Tensor,
        classes: Sequence[int],
        tell: Callable[[int], None],
        known: KnownCells | None,
        pieces: Pieces | None,
    ) -> Planes:
        """Compute all windows of a grid that are not known, keeping them piece by piece where that takes long."""

        def told(n_done: int) -> None:
            if pieces is not None:
                pieces.after_batch()
            tell(n_done)

        try:
            with self.report.timed("windows"):
                planes = self.runs[place].compute(clean, fill, classes, self.plan.model.activation, told, known)
        except BaseException:
            if pieces is not None:
                pieces.at_end()
            raise
        if pieces is not None and place < len(self.plan.grids) - 1:
            pieces.at_end(planes)
        return planes

    def _deadline(self, number: int, image: ImageRecord, place: int, refined: RefineRun) -> float | None:
        """When a grid has to be done, so that each of those to come gets as much of the time left as this one."""
        within_s: float | None = getattr(refined.refinement, "within_s", None)
        if within_s is None:
            return None
        now, n_grids = time.perf_counter(), len(self.plan.grids)
        left = self.started + within_s - now
        if left <= 0:
            raise ImageError(f"{image.shown}: WITHIN {within_s:g} SECONDS had passed before any window was computed")
        return now + left / ((len(self.plan.images) - number) * n_grids - place)

    def _prepared(self, image: ImageRecord, decoded: DecodedImage) -> tuple[SourceImage, Tensor, Tensor]:
        """The image, the model's input (1, C, H, W) and what hides a window of it, (C, 1, 1) or (C, H, W)."""
        source, model_input = decoded.source, decoded.model_input
        if self.on_image is not None:
            self.on_image(image, source.facts, model_input.placement)
        if not np.isfinite(model_input.values).all():
            # Fused kernels may turn NaN into 0, so the network's output need not show it.
            raise ImageError(f"{image.shown}: the model's input holds values that are NaN or infinite")
        pixels = torch.from_numpy(model_input.values)[None].to(self.device, self.dtype)
        hidden = torch.from_numpy(decoded.fill).to(self.device, self.dtype)
        return source, pixels, hidden[:, None, None] if hidden.dim() == 1 else hidden

    def _clean_pass(self, pixels: Tensor, place: int | None) -> CleanPass:
        """Run the network on the image itself, keeping what one grid reads, or what all of them do."""
        with self.report.timed("clean pass"):
            runs = self.runs if place is None else [self.runs[place]]
            return materialise(self.graph, pixels, [key for run in runs for key in run.needed])

    def _known(self, key: CellKey, grid: WindowGrid, classes: Sequence[int]) -> KnownCells | None:
        """The stored cells of a grid, or None where there are none."""
        maps = () if self.source is None else self.source.stored(key, classes)
        return known_cells(grid, classes, maps) if maps else None

    def _stored_classes(self, image: ImageRecord, key: CellKey) -> list[int] | None:
        """The classes asked of an image as far as they are known without running the network, else None."""
        if self.source is None:
            return None
        kind, value = self.plan.classes
        match kind:
            case "ids":
                return list(value)
            case "all":
                return list(range(self.plan.model.n_classes))
            case "label":
                return [self._label(image)]
            case "predicted":
                if self.plan.model.n_classes == 1:
                    return [0]
                top = self.source.stored_top_class(key)
                return None if top is None else [top]
        return None

    def _classes(self, image: ImageRecord, clean: CleanPass) -> list[int]:
        """The classes asked of an image, once its clean logits are known to be numbers."""
        self._require_numbers(image, clean)
        label_id = self._label(image) if self.plan.classes[0] == "label" else None
        return chosen_classes(self.plan.classes, clean.logits, label_id)

    def _require_numbers(self, image: ImageRecord, clean: CleanPass) -> None:
        bad = ~clean.logits[0].isfinite()
        if bool(bad.any()):
            index = int(bad.nonzero()[0])
            raise ImageError(
                f"{image.shown}: the model's output for the image itself is not finite (output {index} is "
                f"{float(clean.logits[0, index])}){where_not_finite(self.graph, clean.image)}; "
                f"check the image and the model's weights{overflow_hint(self.plan)}"
            )

    def _coming(self, image: ImageRecord, classes: Sequence[int], clean: Tensor) -> list[int]:
        """Classes beyond `classes` that the next statements ask of the windows of this image."""
        found: dict[int, None] = {}
        for selector in self.plan.also:
            try:
                label_id = self._label(image) if selector[0] == "label" else None
            except ImageError:
                continue
            found |= dict.fromkeys(chosen_classes(selector, clean, label_id))
        return [class_id for class_id in found if class_id not in classes]

    def _beside(
        self,
        source: SourceImage,
        key: CellKey,
        grid: WindowGrid,
        coming: Sequence[int],
        clean: Tensor,
        planes: Planes,
        n_asked: int,
    ) -> list[MapCells]:
        """The maps of the classes of coming statements; none where they are not numbers, which is theirs to tell."""
        numbers = clean_numbers(self.plan, coming, clean, {})
        try:
            return maps_of(self.plan, source, key, grid, numbers, 0, planes.of_classes(slice(n_asked, None)))
        except ImageError:
            return []

    def _label(self, image: ImageRecord) -> int:
        """The class that the image's label names."""
        if image.label is None:
            raise ImageError(f"{image.shown} has no label; FOR LABEL needs one")
        try:
            return find_class(self.plan.model, image.label)
        except QueryError as error:
            raise ImageError(f"{image.shown}: {error.message}") from None
