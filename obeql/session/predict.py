"""PREDICT: what a model says about images, to check it and its preprocessing before explaining."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from obeql.errors import ImageError, ObeqlError
from obeql.planner import BoundPredict, ImageRecord, class_names
from obeql.planner.binding.image_paths import image_name, with_page
from obeql.planner.catalog import Activation
from obeql.planner.physical.frames import FrameUpdate
from obeql.session.explain import failed_in_network
from obeql.session.image_registry import ImageRegistry
from obeql.store import ImageContent, PredictionRow, Store

if TYPE_CHECKING:
    from torch import Tensor

    from obeql.executor.execution.progress import OnProgress
    from obeql.executor.images import SourceImage
    from obeql.executor.network.graph import LayerGraph
    from obeql.executor.operators.frame_update import FrameCount, FrameUpdateRun

__all__ = ["Predictions", "predict", "prediction_table"]

#: What SQL sees of predictions beside the columns that are shown.
_HANDLES = [("path", pa.string()), ("image_id", pa.int64())]

_COLUMNS = pa.schema(
    [
        ("image", pa.string()),
        ("label", pa.string()),
        ("rank", pa.int32()),
        ("class_id", pa.int32()),
        ("class_name", pa.string()),
        ("probability", pa.float64()),
        ("logit", pa.float64()),
        ("error", pa.string()),
        ("note", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class _Said:
    """What the model says of one image: the ids of its highest classes, best first, and their numbers.

    Of outputs that are values: all of them in their order, the values in place of logits.
    """

    image: ImageRecord
    source: SourceImage
    class_ids: list[int]
    probabilities: Sequence[float | None]
    logits: list[float]


#: One class of one image: rank, class_id, class_name, probability, logit, error, note.
_Row = tuple[int | None, int | None, str | None, float | None, float | None, str | None, str | None]


@dataclass(frozen=True, slots=True)
class Predictions:
    """What a model says of images, a row for each of an image's highest classes, or for an image that cannot be read.

    `has_values` says that the model's outputs are values, which have no rank and no probability.
    """

    rows: Sequence[tuple[ImageRecord, _Row]]
    has_values: bool
    #: how the images were computed
    count: FrameCount

    def shown(self) -> pa.Table:
        """Return them as PREDICT shows them: columns of errors and notes are missing where there is none."""
        rows = [(image.shown, image.label, *row) for image, row in self.rows]
        table = _named(_table(rows, _COLUMNS), self.has_values)
        return table.drop_columns([name for name in ("error", "note") if table[name].null_count == len(table)])

    def table(self) -> pa.Table:
        """Return them as SQL sees them: images by their names, path and id in columns of their own."""
        return prediction_table(self.rows, self.has_values)


def prediction_table(rows: Sequence[tuple[ImageRecord, _Row]], has_values: bool) -> pa.Table:
    """Return rows of predictions as SQL sees them; its columns are the same whatever the rows are."""
    listed = [
        (
            image.key if image.path is None else image_name(image.path),
            image.label,
            *row,
            image.path,
            image.image_id,
        )
        for image, row in rows
    ]
    return _named(_table(listed, pa.schema([*_COLUMNS, *_HANDLES])), has_values)


def _table(rows: Sequence[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else ((),) * len(schema)
    arrays = [pa.array(column, kind) for column, kind in zip(columns, schema.types, strict=True)]
    return pa.table(arrays, schema=schema)


def _named(table: pa.Table, has_values: bool) -> pa.Table:
    """Return the table with the columns that outputs which are values have."""
    if not has_values:
        return table
    table = table.drop_columns(["rank", "class_id", "probability"])
    return table.rename_columns([{"class_name": "output", "logit": "value"}.get(n, n) for n in table.column_names])


def predict(
    bound: BoundPredict,
    graph: LayerGraph,
    store: Store,
    image_registry: ImageRegistry,
    cancelled: Callable[[], bool],
    on_progress: OnProgress | None = None,
) -> Predictions:
    """Return the `k` highest classes of each image, and store them unless the store is read-only.

    An image that cannot be read has one row with its error; the first page of a file of several has a note. Raises
    ImageError when no image can be read, KeyboardInterrupt after a cancel; nothing is stored then.
    """
    names = class_names(bound.model)
    run = _frame_run(bound, graph)
    said: list[_Said] = []
    rows: list[tuple[ImageRecord, _Row]] = []
    errors: list[str] = []
    for image, found in _told(bound, _outputs(bound, run, image_registry, cancelled), on_progress):
        if isinstance(found, str):
            errors.append(found)
            rows.append((image, (None, None, None, None, None, found, None)))
            continue
        note = _note(image, found.source.n_pages)
        said.append(found)
        numbers = zip(found.class_ids, found.probabilities, found.logits, strict=True)
        for rank, (index, probability, logit) in enumerate(numbers, start=1):
            rows.append((image, (rank, index, names[index], probability, logit, None, note)))
    if not said:
        more = f" ({len(errors) - 1} more images failed)" if len(errors) > 1 else ""
        raise ImageError(errors[0] + more)
    if not store.read_only:
        known = dict(_store_predictions(bound, names, said, store))
        rows = [(known.get(image.shown, image), row) for image, row in rows]
    return Predictions(rows, bound.model.has_values, run.count)


def frame_update(bound: BoundPredict, graph: LayerGraph) -> FrameUpdate:
    """Return how the images of a PREDICT are computed from one another."""
    from obeql.executor.devices import device_of, resolve_device  # noqa: PLC0415

    device = device_of(resolve_device(bound.device))
    # What a call costs where calls are handed over is not known here.
    memory = 0.0 if device.is_asynchronous else device.free_bytes
    return FrameUpdate.of(graph.network(), memory)


def _frame_run(bound: BoundPredict, graph: LayerGraph) -> FrameUpdateRun:
    import torch  # noqa: PLC0415

    from obeql.executor.devices import resolve_device  # noqa: PLC0415
    from obeql.executor.operators.frame_update import FrameUpdateRun  # noqa: PLC0415

    return FrameUpdateRun(graph.to(resolve_device(bound.device), torch.float32), frame_update(bound, graph))


def _note(image: ImageRecord, n_pages: int) -> str | None:
    """Say where a file has more pages than the one that was looked at."""
    return None if n_pages == 1 else f"page 1 of {n_pages}; '{with_page(image.shown, 2)}' or page=2 names another"


def _told(
    bound: BoundPredict, outputs: Iterator[tuple[ImageRecord, _Said | str]], on_progress: OnProgress | None
) -> Iterator[tuple[ImageRecord, _Said | str]]:
    """Yield the outputs, with progress told after each."""
    from obeql.executor.execution.progress import Progress  # noqa: PLC0415

    started = time.perf_counter()
    n_images = len(bound.images)
    for number, (image, found) in enumerate(outputs):
        if on_progress is not None:
            seconds = time.perf_counter() - started
            on_progress(Progress(number + 1, n_images, number, n_images, image.shown, seconds, 0.0, unit="images"))
        yield image, found


def _outputs(
    bound: BoundPredict, run: FrameUpdateRun, image_registry: ImageRegistry, cancelled: Callable[[], bool]
) -> Iterator[tuple[ImageRecord, _Said | str]]:
    """Yield each image with what the model says of it, or with its error."""
    import torch  # noqa: PLC0415

    from obeql.executor.devices import arithmetic, resolve_device  # noqa: PLC0415
    from obeql.executor.execution.output_checks import fault_of  # noqa: PLC0415
    from obeql.executor.images import preprocess  # noqa: PLC0415

    device, graph = resolve_device(bound.device), run.graph
    for image in bound.images:
        if cancelled():
            raise KeyboardInterrupt("cancelled; no prediction was stored")
        try:
            source = image_registry.load(image, len(bound.model.preprocessing.size))
            values = preprocess(source, bound.model.preprocessing).values
            with arithmetic("float32", device):
                pixels = torch.from_numpy(values)[None].to(device)
                logits = run.forward(pixels)
                fault = fault_of(graph, pixels, logits)
            if fault is not None:
                raise ImageError(f"{image.shown}: {fault}")
        except ImageError as error:
            yield image, str(error)
        except ObeqlError:
            raise
        except Exception as error:
            raise failed_in_network(error, graph.reason) from error
        else:
            yield image, _highest(image, source, logits.cpu(), bound.k, graph.activation)


def _highest(image: ImageRecord, source: SourceImage, logits: Tensor, k: int, activation: Activation) -> _Said:
    """Return what logits (1, K) say: the k highest classes with the numbers of maps, or all values in their order."""
    import torch  # noqa: PLC0415

    from obeql.executor.operators.logits import logit_and_others  # noqa: PLC0415

    ids = list(range(k)) if activation == "none" else logits[0].topk(k).indices.tolist()
    z, others = (numbers[0] for numbers in logit_and_others(logits, ids, activation))
    probabilities = None if activation == "none" else torch.sigmoid(z - others).tolist()
    return _Said(image, source, ids, probabilities or [None] * k, z.tolist())


def _store_predictions(
    bound: BoundPredict, names: Sequence[str], said: list[_Said], store: Store
) -> Iterator[tuple[str, ImageRecord]]:
    """Store what was said; return how each image is shown, with its record as it is stored."""
    model = bound.model
    known = store.register_images([each.image for each in said])
    rows = []
    for image, each in zip(known, said, strict=True):
        assert image.image_id is not None
        store.note_image(image.image_id, ImageContent.of(each.source.facts))
        numbers = zip(each.class_ids, each.probabilities, each.logits, strict=True)
        rows += [
            PredictionRow(
                image_id=image.image_id,
                image_hash=each.source.digest,
                model_hash=model.model_hash,
                class_id=index,
                class_name=names[index],
                probability=probability,
                logit=logit,
                rank=rank,
                model=model.name,
                preprocessing_hash=model.preprocessing.digest(),
            )
            for rank, (index, probability, logit) in enumerate(numbers, start=1)
        ]
    store.put_predictions(rows)
    return ((each.image.shown, image) for image, each in zip(known, said, strict=True))
