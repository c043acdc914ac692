"""EVALUATE: deletion and insertion curves of the maps of a run, computed with the run's model and stored beside it.

Comes after a run is stored. The images have to be there still, as they were when they were explained.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from obeql.errors import ImageError, ObeqlError, QueryTypeError
from obeql.planner import ModelRecord
from obeql.planner.fills import SIGNAL_FILLS
from obeql.results.heatmap import Heatmap
from obeql.results.result import Result
from obeql.session.explain import failed_in_network
from obeql.store import EvaluationRow, Store

if TYPE_CHECKING:
    from obeql.executor.execution.progress import OnProgress
    from obeql.executor.metrics.deletion_insertion import Curves
    from obeql.executor.network.graph import LayerGraph

__all__ = ["evaluate"]

_COLUMNS = pa.schema(
    [
        ("image", pa.string()),
        ("class_name", pa.string()),
        ("patch", pa.string()),
        ("clean_probability", pa.float64()),
        ("deletion_auc", pa.float64()),
        ("insertion_auc", pa.float64()),
        ("error", pa.string()),
    ]
)

#: Curves are stored after so many seconds.
_HOLD_SECONDS = 1.0


def evaluate(
    result: Result,
    model: ModelRecord,
    graph: LayerGraph,
    options: Mapping[str, Any],
    device: str,
    store: Store,
    cancelled: Callable[[], bool],
    on_progress: OnProgress | None = None,
) -> pa.Table:
    """Return one row a map with the areas under its curves, and store the curves.

    A map whose image is gone or has changed has its error in a column that is missing when there is none. Raises
    ImageError when no map can be evaluated, KeyboardInterrupt after a cancel, with the curves so far stored.
    """
    rows: list[tuple[Any, ...]] = []
    errors: list[str] = []
    map_ids = store.map_ids(int(result.run_id))
    with _stored_by_and_by(store) as keep:
        for heat, map_id in zip(_told(result, cancelled, on_progress), map_ids, strict=True):
            clean = heat.clean_score if model.has_values else heat.clean_probability
            head = (heat.image, heat.class_name, heat.patch_text, clean)
            try:
                found = _curves(heat, model, graph, options, device)
            except ImageError as error:
                errors.append(str(error))
                rows.append((*head, None, None, str(error)))
                continue
            rows.append((*head, found.deletion_auc, found.insertion_auc, None))
            fill = _fill_of(heat, options)
            for measure, area, curve in (
                ("deletion", found.deletion_auc, found.deletion),
                ("insertion", found.insertion_auc, found.insertion),
            ):
                shares = found.shares.tolist()
                place = int(result.run_id), map_id, heat.image_id or 0
                keep(EvaluationRow(*place, measure, area, options["steps"], fill, shares, curve.tolist()))
    if rows and len(errors) == len(rows):
        raise ImageError(errors[0] + (f" ({len(errors) - 1} more maps failed)" if len(errors) > 1 else ""))
    columns = zip(*rows, strict=True) if rows else ((),) * len(_COLUMNS)
    table = pa.table([pa.array(c, t) for c, t in zip(columns, _COLUMNS.types, strict=True)], schema=_COLUMNS)
    if model.has_values:
        table = table.rename_columns({"clean_probability": "clean_value"})
    return table if errors else table.drop_columns(["error"])


def _curves(heat: Heatmap, model: ModelRecord, graph: LayerGraph, options: Mapping[str, Any], device: str) -> Curves:
    import torch  # noqa: PLC0415

    from obeql.executor.devices import arithmetic, resolve_device  # noqa: PLC0415
    from obeql.executor.images import preprocess  # noqa: PLC0415
    from obeql.executor.metrics.deletion_insertion import curves, pixel_order  # noqa: PLC0415

    how = model.preprocessing
    place = resolve_device(device)
    model_input = preprocess(heat.source(), how)
    order = pixel_order(heat.to_pixels())
    fill = _fill_of(heat, options)
    try:
        with arithmetic("float32", place):
            network = graph.to(place, torch.float32)
            chosen = heat.class_id, model.activation, options["steps"], options["batch"]
            return curves(network, model_input, how, fill, order, *chosen, place, heat.cells.key.channels)
    except ObeqlError:
        raise
    except Exception as error:
        raise failed_in_network(error, graph.reason) from error


def _fill_of(heat: Heatmap, options: Mapping[str, Any]) -> str:
    """Return what hides pixels. Raises QueryTypeError for a fill that is worked out from each window."""
    fill: str = options["fill"] or heat.cells.key.fill
    if fill in SIGNAL_FILLS:
        raise QueryTypeError(
            f"EVALUATE hides samples one by one, and fill={fill} is a line between the ends of a window: give another "
            "fill, as in WITH fill=mean."
        )
    return fill


def _told(result: Result, cancelled: Callable[[], bool], on_progress: OnProgress | None) -> Iterator[Heatmap]:
    """Yield the maps in order, with progress told before each and after the last."""
    from obeql.executor.execution.progress import Progress  # noqa: PLC0415

    started = time.perf_counter()
    n_maps = len(result)

    def tell(done: int, image: str) -> None:
        if on_progress is not None:
            seconds = time.perf_counter() - started
            on_progress(Progress(done, n_maps, min(done, n_maps - 1), n_maps, image, seconds, 0.0, unit="maps"))

    for done, heat in enumerate(result):
        if cancelled():
            raise KeyboardInterrupt(f"cancelled after {done} of {n_maps} maps, whose curves are stored")
        tell(done, heat.image)
        yield heat
        if done == n_maps - 1:
            tell(n_maps, heat.image)


@contextmanager
def _stored_by_and_by(store: Store) -> Iterator[Callable[[EvaluationRow], None]]:
    """Take curves, and store them together every second and at the end, whatever ends it."""
    waiting: list[EvaluationRow] = []
    stored_at = time.monotonic()

    def keep(row: EvaluationRow) -> None:
        nonlocal stored_at
        waiting.append(row)
        if time.monotonic() - stored_at > _HOLD_SECONDS:
            store.put_evaluations(waiting)
            waiting.clear()
            stored_at = time.monotonic()

    try:
        yield keep
    finally:
        store.put_evaluations(waiting)
