"""Carry out an `ExplainPlan`: image after image, or several together, grid after grid, cells into the sink.

Comes after planning; before it the session has loaded the model's layer graph. Knows nothing of the store: maps go
to a `CellSink`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from obeql.errors import ImageError
from obeql.executor.devices import arithmetic, resolve_device
from obeql.executor.devices.allocator import memory_given_back
from obeql.executor.execution.checkpoints import Checkpoints, kept_at_end
from obeql.executor.execution.class_selection import asked_classes, shared_classes, stored_classes
from obeql.executor.execution.context import CellSink, ExplainedImage, RunContext
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
from obeql.executor.execution.image_task import ImageTask, Prepared
from obeql.executor.execution.map_assembly import cell_key, clean_numbers, overflow_hint, preview_of
from obeql.executor.execution.operator_set import GraphSource, OperatorSet
from obeql.executor.execution.output_checks import fault_of, suspects
from obeql.executor.execution.prefetch import DecodedImage, ImageFeed, ImagePrefetcher, Listed, decode
from obeql.executor.execution.preview import Preview
from obeql.executor.execution.report import RunReport
from obeql.executor.operators.cached_cells import CellLookup, known_cells
from obeql.executor.operators.clean_pass import CleanPass, materialise
from obeql.executor.operators.grid_scan import Planes
from obeql.executor.operators.hidden_channels import in_channels
from obeql.executor.operators.progressive_refine import RefineRun
from obeql.executor.operators.window_fill import FILLS_BY_WINDOW, Fill
from obeql.planner.catalog import ImageRecord
from obeql.planner.physical.plan import ExplainPlan, ProgressiveRefine, Refinement

__all__ = ["execute"]

#: A clean pass of no more multiply-accumulates than this, about 10 ms of a core, is not shared among the cores.
_FEW_MACS = 3e8


def execute(
    plan: ExplainPlan,
    graph: GraphSource,
    context: RunContext[CellSink],
    feed: ImageFeed | None = None,
    report: RunReport | None = None,
) -> RunReport:
    """Compute every map of the plan and hand it to the sink of the context, image by image.

    `graph` is the model as captured (on the CPU). An image that cannot be read, or whose outputs are not numbers, goes
    to `sink.fail` and the rest completes. Where the plan reuses cells, those that are stored are taken from there, and
    the network is loaded only if any is missing. `feed` hands out the images group by group in place of `plan.images`,
    which is empty then; `report` is filled in as the run goes on. Raises CancelledError between batches once the run is
    cancelled, DeviceError when the device is missing or too small.
    """
    device = resolve_device(plan.device)
    lookup = CellLookup(context.source, plan) if context.source is not None and plan.reuse else None
    with arithmetic(plan.precision, device), memory_given_back(plan):
        report = RunReport() if report is None else report
        execution = _Execution(
            plan,
            context,
            lookup,
            OperatorSet(plan, graph, device, context.analyze, context.ask_columns),
            device,
            report,
        )
        return execution.run(Listed(plan.images, plan.together) if feed is None else feed)


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """One grid over the images of a clean pass: `wanted` (images, windows); `before` windows of the run are done.

    `channels` are those that its windows hide, None all of them.
    """

    place: int
    images: Sequence[ImageTask]
    clean: CleanPass
    wanted: npt.NDArray[np.bool_]
    before: int

    channels: tuple[int, ...] | None

    @property
    def fill(self) -> Fill:
        """Return what hides windows: one an image, (N, C, 1, ..) or (N, C, *size), or what works it out from each."""
        prepared = [work.prepared for work in self.images if work.prepared is not None]
        fills = [in_channels(each.fill, each.pixels, self.channels) for each in prepared]
        values = [fill for fill in fills if isinstance(fill, Tensor)]
        return torch.cat(values) if values else fills[0]


def _within(refinement: Refinement | None) -> float | None:
    """Return the seconds of WITHIN, where there is one."""
    return refinement.within_s if isinstance(refinement, ProgressiveRefine) else None


class _Execution:
    """One run of a plan: its operators, and what has been done so far."""

    def __init__(
        self,
        plan: ExplainPlan,
        context: RunContext[CellSink],
        source: CellLookup | None,
        operators: OperatorSet,
        device: torch.device,
        report: RunReport,
    ) -> None:
        self.plan = plan
        self.context = context
        self.sink = context.sink
        self.source = source
        self.operators = operators
        self.device = device
        self.started = time.perf_counter()
        self.within_s = next((s for s in map(_within, plan.refinements) if s is not None), None)
        self.report = report
        self.report.layers = self.operators.layers
        if source is None:
            _ = self.operators.runs
        self.preprocessing_hash = plan.model.preprocessing.digest()
        self.per_image = sum(grid.n_windows for grid in plan.grids)
        #: images that are durable
        self.n_stored = 0
        #: windows so far that were stored, and not computed
        self.n_reused = 0
        self.report.add("prepare", time.perf_counter() - self.started)

    def run(self, feed: ImageFeed) -> RunReport:
        plan, context = self.plan, self.context
        how = plan.model.preprocessing
        n_images, deadline = len(plan.images), context.began + (self.within_s or 0.0)
        n_windows, estimated_s = self._windows_before(n_images), n_images * plan.seconds
        self._emit(RunStarted(n_images, n_windows, estimated_s, self.started, self.within_s, deadline))
        with ImagePrefetcher(feed, lambda image: decode(context.load, image, how, plan.fill)) as decoded:
            n_before = 0
            for images in decoded:
                group = [ImageTask(plan, number, image) for number, image in enumerate(images, n_before)]
                for work in group:
                    self._tell(ImageStarted(n_before, group[0].image.shown, self._windows_before(n_before)))
                    with self.report.timed("decode"), work.noting_failure():
                        work.prepared = self._prepared(work.image, decoded.take())
                self._explain(group)
                n_before += len(group)
        self.report.add("total", time.perf_counter() - self.started)
        self._emit(RunEnded(self.report))
        return self.report

    def _windows_before(self, number: int) -> int:
        """Return the windows of all images before this one."""
        if all(grid.of_image("") is None for grid in self.plan.grids):
            return number * self.per_image
        return self.plan.windows_over(self.plan.images[:number])

    def _tell(self, event: Event) -> None:
        """Settle, stop if that is asked for, and tell what has happened."""
        n_stored = self.sink.settle()
        if n_stored != self.n_stored:
            self.n_stored = n_stored
            self._emit(ImagesStored(n_stored))
        if self.context.cancelled():
            raise CancelledError
        self._emit(event)

    def _emit(self, event: Event) -> None:
        if self.context.on_event is not None:
            self.context.on_event(event)

    def _computed(self, work: ImageTask, done: int, preview: Preview | None = None) -> CellsComputed:
        """Return the event that `done` windows of all images are done, `work` the first of those at work."""
        return CellsComputed(work.number, work.image.shown, done, min(done, self.n_reused), preview=preview)

    def _prepared(self, image: ImageRecord, decoded: DecodedImage) -> Prepared:
        """Return what the network is given of an image; its source, which may be large, is not kept."""
        source, model_input = decoded.source, decoded.model_input
        if not np.isfinite(model_input.values).all():
            # Fused kernels may turn NaN into 0, so the network's output need not show it.
            raise ImageError(f"{image.shown}: the model's input holds values that are NaN or infinite")
        pixels = torch.from_numpy(model_input.values)[None].to(self.device, self.operators.dtype)
        keys = tuple(cell_key(self.plan, source.digest, self.preprocessing_hash, grid) for grid in self.plan.grids)
        return Prepared(source.facts, model_input.placement, pixels, self._fill(decoded, pixels), keys)

    def _fill(self, decoded: DecodedImage, pixels: Tensor) -> Fill:
        """Return what hides windows of an image `pixels` (1, C, *size)."""
        if decoded.fill is None:
            return FILLS_BY_WINDOW[self.plan.fill]
        hidden = torch.from_numpy(decoded.fill)[None].to(pixels.device, pixels.dtype)
        return hidden.view(*hidden.shape, *(1,) * (pixels.dim() - 2)) if hidden.dim() == 2 else hidden

    # ---- a group of images, which go through the network together ----------------------------------------------

    def _explain(self, group: Sequence[ImageTask]) -> None:
        """Compute the maps of some images and hand them to the sink, in their order."""
        with self.report.timed("reuse"):
            for work in group:
                with work.noting_failure():
                    self._look_up(work)
        passing = [work for work in group if work.needs_network]
        clean: CleanPass | None = None
        passed: int | None = None
        for place in range(len(self.plan.grids)):
            wanted = None if self.plan.shared_pass else place
            if any(work.needs(place) for work in passing) and (clean is None or passed != wanted):
                first, clean = clean is None, None  # let go of one pass before the next is made
                clean, passed = self._clean_pass(passing, wanted), wanted
                if first:
                    self._look_at(passing, clean)
            self._explain_grid(place, group, passing, clean)
        with self.report.timed("store"):
            for work in group:
                self._hand_over(work)
        self.report.n_skipped = self.operators.n_skipped
        self.report.pace = self.operators.pace
        self._tell(self._computed(group[-1], self._windows_before(group[-1].number + 1)))

    def _look_up(self, work: ImageTask) -> None:
        """Look up what is stored of an image, as far as its classes are known by now."""
        if work.prepared is None:
            return
        keys = work.prepared.keys
        if work.classes is None:
            work.classes = stored_classes(self.plan, work.image, keys[0], self.source)
        if work.classes is not None:
            for key, grid in zip(keys, self.plan.grids, strict=True):
                maps = () if self.source is None else self.source.stored(key, work.classes)
                work.known.append(known_cells(grid, work.classes, maps) if maps else None)

    def _clean_pass(self, images: Sequence[ImageTask], place: int | None) -> CleanPass:
        """Run the network on the images themselves, keeping what one grid reads, or what all of them do."""
        with self.report.timed("clean pass"):
            runs = self.operators.runs if place is None else [self.operators.runs[place]]
            pixels = torch.cat([work.prepared.pixels for work in images if work.prepared is not None])
            needed = [key for run in runs for key in run.needed]
            return materialise(self.operators.graph, pixels, needed, self._lanes_of_pass(len(pixels)))

    def _lanes_of_pass(self, n_images: int) -> int:
        """Return 1 where a clean pass of so many images is worth all cores, else the lanes that it gets one of."""
        network = self.plan.model.network
        if network.whole or n_images * network.macs > _FEW_MACS:
            return 1
        return max(engine.n_lanes for engine in self.plan.engines)

    def _look_at(self, passing: Sequence[ImageTask], clean: CleanPass) -> None:
        """Look at the logits of the images themselves: whether they are numbers, and which classes are asked for."""
        suspect = suspects(self.operators.graph, clean.logits)
        for slot, work in enumerate(passing):
            logits = clean.logits[slot : slot + 1]
            with work.noting_failure():
                if suspect[slot]:
                    self._require_numbers(work.image, clean.image[slot : slot + 1], logits)
                work.logits = logits
                if work.classes is None:
                    work.classes = asked_classes(self.plan, work.image, logits)
                    with self.report.timed("reuse"):
                        self._look_up(work)
                work.coming = shared_classes(self.plan, work.image, work.classes, logits)
        classes = [[] if work.classes is None else [*work.classes, *work.coming] for work in passing]
        for work, numbers in zip(
            passing, clean_numbers(clean.logits, classes, self.plan.model.activation), strict=True
        ):
            work.clean = numbers

    def _require_numbers(self, image: ImageRecord, pixels: Tensor, logits: Tensor) -> None:
        fault = fault_of(self.operators.graph, pixels, logits, overflow_hint(self.plan))
        if fault is not None:
            raise ImageError(f"{image.shown}: {fault}")

    def _explain_grid(
        self, place: int, group: Sequence[ImageTask], passing: Sequence[ImageTask], clean: CleanPass | None
    ) -> None:
        """Make the maps of one grid: `passing` are the images of the clean pass, of the others all is stored."""
        computed: dict[int, Planes] = {}
        wanted = [work.left(place) for work in passing]
        n_left = sum(int(left.sum()) for left in wanted)
        self.n_reused += sum(work.n_windows(place) for work in group) - n_left
        if any(left.any() for left in wanted):
            assert clean is not None
            before = self._windows_before(group[0].number)
            before += sum(work.n_windows(earlier) for work in group for earlier in range(place))
            before += sum(work.n_windows(place) for work in group)
            # Of the images that pass all windows count as done that are not wanted, those of other images too.
            before -= len(passing) * self.plan.grids[place].n_windows
            step = _Step(place, passing, clean, np.stack(wanted), before, self.plan.grids[place].channels)
            refined = self.operators.refined[place]
            if refined is None:
                computed = {work.number: planes for work, planes in zip(passing, self._whole(step), strict=True)}
            else:  # an image at a time
                (work,) = passing
                with work.noting_failure():
                    computed[work.number] = self._refine(step, work, refined)
        for work in group:
            if work.failure is not None:
                continue
            n_left = int(work.left(place).sum())
            n_stored = work.n_windows(place) - n_left
            with work.noting_failure():
                planes = work.take(place, computed[work.number] if n_left else None)
                self.report.n_windows += n_left if planes.exact is None else int(planes.exact.sum()) - n_stored
                self.report.n_stored += n_stored

    def _whole(self, step: _Step) -> list[Planes]:
        """Compute the windows of a grid that are left, keeping them piece by piece where that takes long."""
        run = self.operators.runs[step.place]
        pieces = [] if self.source is None else list(self._pieces(step))  # without reuse nobody would take them
        first = int(step.wanted.any(axis=1).argmax())
        shown = step.images[first]
        assert shown.classes is not None and shown.logits is not None
        known = shown.known[step.place]
        preview = preview_of(self.plan, run, first, shown.classes, shown.logits, step.clean.image[first], known=known)

        def tell(n_done: int) -> None:
            for each in pieces:
                each.after_batch()
            self._tell(self._computed(step.images[0], step.before + n_done, preview))

        if not step.wanted.all():
            n_known = int((~step.wanted).sum())
            self._tell(self._computed(step.images[0], step.before + n_known, preview))
        asked = [work.asked(step.place) for work in step.images]
        with kept_at_end(pieces, self._is_last(step)), self.report.timed("windows"):
            return run.compute(step.clean, step.fill, asked, self.plan.model.activation, tell, step.wanted)

    def _is_last(self, step: _Step) -> bool:
        return step.place == len(self.plan.grids) - 1

    def _pieces(self, step: _Step) -> Iterator[Checkpoints]:
        """Return what keeps the unfinished maps of a grid, one an image of which anything is left to compute."""
        for slot, work in enumerate(step.images):
            if step.wanted[slot].any():
                known = work.known[step.place]
                computed = partial(self.operators.runs[step.place].computed, slot, known)
                yield Checkpoints(self.sink, step.place, computed, partial(_unfinished, work, step.place))

    def _refine(self, step: _Step, work: ImageTask, refined: RefineRun) -> Planes:
        """Compute the windows of a grid that its refinement chooses, and estimate the others."""
        place, run = step.place, self.operators.runs[step.place]
        assert work.classes is not None and work.logits is not None
        classes, logits, known = work.classes, work.logits, work.known[place]
        unfinished = partial(_unfinished, work, place)
        pieces = [] if self.source is None else [Checkpoints(self.sink, place, refined.computed, unfinished)]
        preview = preview_of(self.plan, run, 0, classes, logits, step.clean.image[0])

        def tell(n_done: int) -> None:
            for each in pieces:
                each.after_batch()
            seen = None if refined.is_trying else preview
            self._tell(self._computed(work, step.before + n_done, seen))

        def on_level(level: int, bound: float | None, planes: Planes) -> None:
            stated = planes.quality[0]
            n_known = int(stated["n_exact"]) + int(stated.get("n_reduced", 0))
            maps = () if self.context.on_event is None else tuple(work.maps_of(place, planes))
            seen = preview_of(self.plan, run, 0, classes, logits, step.clean.image[0], planes)
            computed = self._computed(work, step.before + n_known, seen)
            self._tell(replace(computed, level=level, bound=bound, maps=maps))

        deadline, within_s = self._deadline(work, place, refined), _within(refined.refinement)
        limit = None if within_s is None else self.context.began + within_s
        activation = self.plan.model.activation
        with kept_at_end(pieces, self._is_last(step)), self.report.timed("windows"):
            return refined.compute(step.clean, step.fill, classes, activation, tell, known, on_level, deadline, limit)

    def _deadline(self, work: ImageTask, place: int, refined: RefineRun) -> float | None:
        """Return when a grid has to be done, so that each of those to come gets as much of the time left as this one.

        The first one is always begun, whatever loading the network and measuring the device took.
        """
        within_s = _within(refined.refinement)
        if within_s is None:
            return None
        now, n_grids = time.perf_counter(), len(self.plan.grids)
        left = self.context.began + within_s - now
        if left <= 0 and (work.number or place):
            shown = work.image.shown
            raise ImageError(f"{shown}: the time limit of {within_s:g} s had passed before any window was computed")
        return now + max(0.0, left) / ((len(self.plan.images) - work.number) * n_grids - place)

    def _hand_over(self, work: ImageTask) -> None:
        """Give the sink what was found of an image, or why nothing was."""
        if work.failure is not None:
            self.report.failures.append((work.image, work.failure))
            self.sink.fail(work.image, work.failure)
            self._emit(ImageFailed(work.image.shown, work.failure))
            return
        explained = work.explained()
        self.sink.write(explained)
        if self.source is not None:
            self.source.note(explained.facts.digest)
        self.report.n_maps += len(work.maps)


def _unfinished(work: ImageTask, place: int, planes: Planes) -> ExplainedImage:
    """Return what there is of the maps of a grid. Raises ImageError where a computed value is not a number."""
    return replace(work.explained(), maps=work.maps_of(place, planes), extra_maps=())
