"""Run a plan and keep what it finds: the executor on one side, the store on the other.

Comes after planning. An interrupted run of the same statement is continued here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from obeql.errors import ExecutionError, ImageError, InternalError, ObeqlError, QueryError, QueryTypeError, StoreError
from obeql.planner import ExplainPlan, ImageRecord
from obeql.planner.binding.labels import labelled_classes, labels_of
from obeql.planner.cells import FailedImage, MapCells
from obeql.planner.grid import WindowGrid
from obeql.planner.physical.plan import ProgressiveRefine
from obeql.planner.regions import RegionGrid
from obeql.results.heatmap import Heatmap
from obeql.results.lazy_maps import LazyMap
from obeql.results.result import Result
from obeql.session.image_registry import ImageRegistry
from obeql.session.run_reader import load_heatmap
from obeql.session.run_recorder import RunRecorder, image_key
from obeql.signals import defer_sigint
from obeql.store import StoredMap

if TYPE_CHECKING:
    from obeql.executor.execution.context import RunContext
    from obeql.executor.execution.progress import OnProgress
    from obeql.executor.execution.report import RunReport
    from obeql.executor.network.graph import LayerGraph
    from obeql.executor.operators.measured_windows import AskColumns

__all__ = ["explain", "failed_in_network", "measured"]

#: Seconds beyond the time allowed that are worth a word.
_LATE_S = 0.5


def explain(
    plan: ExplainPlan,
    load_graph: Callable[[], LayerGraph],
    recorder: RunRecorder,
    on_progress: OnProgress | None,
    cancelled: Callable[[], bool],
    analyze: bool = False,
    began: float | None = None,
    ask_columns: AskColumns | None = None,
) -> tuple[Result, RunReport]:
    """Execute `plan`, store its maps image by image and return them with the report of the run.

    An image named twice is explained once. An interrupted run of the same statement is continued: images it holds
    are read back, not computed. Raises ImageError when no image could be explained, ExecutionError subclasses when
    the device or the store fails, KeyboardInterrupt after a cancel or Ctrl-C, with what was stored kept; what
    `on_progress` raises passes through. `analyze` measures every layer. `load_graph` is called where a window has to
    be computed; a statement that stored cells answer needs no network. `began` (of time.perf_counter) is when the time
    of WITHIN began, now unless given. `ask_columns` reads the SQL of aggregates that a sample tells.
    """
    from obeql.executor.execution.context import RunContext  # noqa: PLC0415
    from obeql.executor.execution.progress import ProgressReader  # noqa: PLC0415

    started = time.perf_counter()
    kept = _continued(recorder)
    todo = tuple(image for image in plan.images if image_key(image) not in kept)
    recorder.n_todo = len(todo)
    _require_free_name(recorder)

    def stopped() -> bool:
        # Once the last image is stored there is nothing left to stop.
        return recorder.n_taken < len(todo) and cancelled()

    windows_kept = plan.windows_over([image for image in plan.images if image_key(image) in kept])
    listener = None if on_progress is None else ProgressReader(on_progress, len(kept), windows_kept)
    moment = started if began is None else began
    context = RunContext(
        recorder.image_registry.load, recorder, recorder.store, listener, stopped, analyze, moment, ask_columns
    )
    try:
        report = _computed(replace(plan, images=todo), load_graph, context)
    except BaseException as error:
        _interrupt(recorder, error)
        worded = _worded(error, recorder, len(kept))
        if isinstance(worded, KeyboardInterrupt):
            raise worded from None
        if worded is None or (listener is not None and error is listener.raised):
            raise
        raise worded from error
    finally:
        recorder.let_go()
    return _result(recorder, kept, report, started, moment), report


def _computed(plan: ExplainPlan, load_graph: Callable[[], LayerGraph], context: RunContext[RunRecorder]) -> RunReport:
    """Compute the maps of the images that are left, in this process or by workers, and store them."""
    from obeql.executor.execution.executor import execute  # noqa: PLC0415
    from obeql.executor.execution.report import RunReport  # noqa: PLC0415
    from obeql.executor.workers import distribute  # noqa: PLC0415

    if not plan.images:
        return RunReport()
    run = distribute if plan.workers and len(plan.images) > 1 else execute
    report = run(plan, load_graph, context)
    context.sink.flush()
    return report


def _result(
    recorder: RunRecorder, kept: dict[str, list[Heatmap | LazyMap]], report: RunReport, started: float, began: float
) -> Result:
    """End the run in the store and return its maps, those of the run that was continued among them."""
    store, plan = recorder.store, recorder.plan
    recorder.collect()
    heats = {**kept, **recorder.heats}
    if recorder.run_id is None or not heats:
        raise _nothing(recorder)
    seconds = time.perf_counter() - started
    n_cells = {"cells_computed": report.n_windows, "cells_stored": report.n_stored}
    store.finish_run(recorder.run_id, "done", {"seconds": seconds, **n_cells, **report.seconds})
    store.drop_pieces(plan.model.model_hash)
    maps = recorder.map_cache.listed([heat for image in plan.images for heat in heats.get(image_key(image), [])])
    failed = _in_order(plan, recorder.failed)
    notes = (*recorder.notes, *_late(plan, time.perf_counter() - began))
    return Result(maps, failed, recorder.run_id, plan.run_name, plan, seconds, notes)


def _late(plan: ExplainPlan, seconds: float) -> Iterator[str]:
    """Yield what to say of a time that could not be kept, maps stored and all."""
    refined = (each for each in plan.refinements if isinstance(each, ProgressiveRefine))
    within_s = next((each.within_s for each in refined), None)
    if within_s is not None and (late_s := seconds - within_s) > _LATE_S:
        yield (
            f"WITHIN {within_s:g} SECONDS could not be kept: it took {seconds:.1f} s, {late_s:.1f} s longer. Loading "
            "the network, measuring the device and a batch that is under way are finished first."
        )


def _require_free_name(recorder: RunRecorder) -> None:
    """Raise QueryTypeError where INTO names a run that exists; that of a run that is continued is its own."""
    name = recorder.plan.run_name
    if recorder.run_id is not None or name is None or recorder.plan.replace_run:
        return
    if recorder.store.run_exists(name):
        raise QueryTypeError(f"Run {name!r} exists already; write INTO OR REPLACE to replace it.")


def _interrupt(recorder: RunRecorder, error: BaseException) -> None:
    """Store what waits, and that the run was stopped by an error."""
    if recorder.run_id is None:
        return
    with suppress(KeyboardInterrupt), defer_sigint():  # the statement ends in any case
        with suppress(StoreError):  # the first error is the one to tell
            recorder.flush()
        recorder.store.interrupt_run(recorder.run_id, {"error": str(error)})


def _worded(error: BaseException, recorder: RunRecorder, n_kept: int) -> BaseException | None:
    """Return what is raised for an error that stopped the run; None: the error itself."""
    from obeql.executor.execution.events import CancelledError  # noqa: PLC0415

    plan = recorder.plan
    if isinstance(error, (CancelledError, KeyboardInterrupt)):
        n_done = n_kept + recorder.n_stored
        return KeyboardInterrupt(_how_to_resume(n_done, len(plan.images), recorder.has_pieces))
    if isinstance(error, Exception) and not isinstance(error, ObeqlError):
        return failed_in_network(error, plan.model.network.reason)
    return None


def _nothing(recorder: RunRecorder) -> ImageError:
    """Return what is said of a statement no image of which could be explained; its run, if there is one, is dropped."""
    if recorder.run_id is not None:  # a run that was interrupted before its first image
        recorder.store.finish_run(recorder.run_id, "failed")
        recorder.store.drop_run(recorder.run_id)
    more = f" ({len(recorder.failed) - 1} more images failed)" if len(recorder.failed) > 1 else ""
    return ImageError(recorder.failed[0].error + more)


def failed_in_network(error: Exception, reason: str) -> ObeqlError:
    """Word an error that came out of computing: the user's own code, the library's, or a bug of ours.

    `reason` says why the network runs whole, as the user's own code; empty where it was captured.
    """
    text = (str(error).strip() or "no message").splitlines()[0]
    what = f"{type(error).__name__}: {text}"
    if reason:
        return ExecutionError(f"the model's own code failed: {what}")
    if isinstance(error, (RuntimeError, MemoryError)):
        return ExecutionError(f"computing the maps failed: {what}")
    return InternalError(f"{what}. This is a bug in OBEQL; please report it with the statement.")


def measured(report: RunReport) -> dict[str, Any]:
    """Return the figures PLAN ANALYZE prints beside the estimates."""
    parts = {f"{name} seconds": round(value, 3) for name, value in report.seconds.items() if name != "total"}
    total = {"windows": report.n_windows, "seconds": report.seconds.get("windows", 0.0)}
    stored = {"cells from the database": report.n_stored} if report.n_stored else {}
    skipped = {"windows that hide nothing": report.n_skipped} if report.n_skipped else {}
    return {**total, "layers": report.layers, **skipped, **stored, **parts}


def _in_order(plan: ExplainPlan, failed: list[FailedImage]) -> tuple[FailedImage, ...]:
    """Return the failures in the order of the images, which workers need not finish in it."""
    place = {image.shown: number for number, image in enumerate(plan.images)}
    return tuple(sorted(failed, key=lambda failure: place[failure.shown]))


def _how_to_resume(n_done: int, n_images: int, has_pieces: bool) -> str:
    if has_pieces and n_images == 1:
        return "cancelled; the cells computed so far are kept, and the same statement computes the rest"
    if n_done == 0:
        return "cancelled; nothing was finished"
    return f"cancelled after {n_done} of {n_images} images; the same statement continues with the rest"


# ---- continuing ------------------------------------------------------------------------------------------


def _continued(recorder: RunRecorder) -> dict[str, list[Heatmap | LazyMap]]:
    """Return the maps that an interrupted run of the same statement holds, after making that run the recorder's.

    Nothing is taken from a run over other images or contents: a parameter, a SELECT or a file may have changed.
    """
    store, plan = recorder.store, recorder.plan
    earlier = store.unfinished_run(recorder.record)
    if earlier is None:
        return {}
    held = store.explained_images(earlier)
    known = {image_key(image): recorder.registered(image) for image in plan.images}
    if not held | store.begun_images(earlier) <= {image.image_id for image in known.values()}:
        return {}
    kept: dict[str, list[Heatmap | LazyMap]] = {}
    for image in plan.images:
        record = known[image_key(image)]
        if record.image_id not in held:
            continue
        stored = store.load_maps(earlier, record.image_id)
        if not _answers(plan, record, stored, recorder.image_registry):
            return {}
        shown = replace(record, columns=image.columns or record.columns)
        size = store.content_sizes([stored[0].cells.key.image_hash]).get(stored[0].cells.key.image_hash)
        heats = [
            load_heatmap(each, plan.score, plan.model, recorder.names, shown, size, recorder.image_registry)
            for each in stored
        ]
        kept[image_key(image)] = [
            recorder.map_cache.put(heat, each.map_id) for heat, each in zip(heats, stored, strict=True)
        ]
    if not store.resume_run(earlier, held):  # another session does so now
        return {}
    recorder.run_id = earlier
    return kept


def _answers(plan: ExplainPlan, image: ImageRecord, stored: list[StoredMap], image_registry: ImageRegistry) -> bool:
    """Return whether stored maps of an image are what the plan asks of it, and of the pixels it has now."""
    n_classes, odd = divmod(len(stored), len(plan.grids))
    if odd or not n_classes:
        return False
    wanted = _classes(plan, image)
    for place, each in enumerate(stored):
        grid = plan.grids[place // n_classes]
        cells = each.cells
        if not _is_of_grid(cells, grid, image):
            return False
    for place in range(0, len(stored), n_classes):
        ids = [each.cells.class_id for each in stored[place : place + n_classes]]
        if (ids != wanted) if isinstance(wanted, list) else (len(ids) != wanted):
            return False
    try:
        n_axes = len(plan.model.preprocessing.size)
        return image_registry.load(image, n_axes).digest == stored[0].cells.key.image_hash
    except ImageError:
        return False


def _is_of_grid(cells: MapCells, grid: WindowGrid, image: ImageRecord) -> bool:
    """Return whether the windows of a stored map are those of a grid, of windows that are listed the image's own."""
    own = grid.of_image(image.shown)
    grid = grid if own is None else grid.only(own)
    if tuple(map(tuple, cells.starts)) != tuple(axis.starts for axis in grid.axes):
        return False
    if not isinstance(grid, RegionGrid):
        return cells.listed is None
    sizes = tuple(map(tuple, cells.lengths)) == tuple(axis.lengths for axis in grid.axes)
    return sizes and cells.listed == grid.listed


def _classes(plan: ExplainPlan, image: ImageRecord) -> list[int] | int | None:
    """Return the classes asked of an image, or only their number where the network decides; None for none."""
    known = plan.classes.known(plan.model.n_classes)
    if known is not None:
        return known
    if plan.classes.kind == "label":
        try:
            return list(labelled_classes(plan.model, labels_of(image))) or None
        except QueryError:
            return None
    return plan.classes.n_maps(plan.model.n_classes)
