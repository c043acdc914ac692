"""Cells become the heat maps a user gets: fresh from the executor, or read back from the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from obeql.planner import ImageRecord, ModelRecord, class_names
from obeql.planner.cells import MapCells
from obeql.planner.scores import score_kind
from obeql.results.heatmap import Heatmap, Picture
from obeql.results.lazy_maps import LazyMap, MapCache
from obeql.results.result import Result
from obeql.session.image_registry import ImageRegistry
from obeql.store import RunRecord, Store, StoredMap

if TYPE_CHECKING:
    from obeql.executor.images.placement import Placement

__all__ = ["cached_maps", "heatmap_of", "load_heatmap", "stored_result"]


def heatmap_of(
    cells: MapCells,
    score: str,
    model: ModelRecord,
    names: tuple[str, ...],
    stride: tuple[int, ...],
    placement: Placement,
    image: ImageRecord,
    run_id: int,
    picture: Picture,
    class_name: str | None = None,
    label: str | None = None,
) -> Heatmap:
    """Return the heat map of one image and class; `class_name` is the model's unless another is given.

    `label` is the one of the image's labels that asked for the map, where it has several.

    `names` are those of all classes, one tuple for all maps of a run.
    """
    return Heatmap(
        cells=cells,
        score_kind=score_kind(score),
        image=image.shown,
        class_name=names[cells.class_id] if class_name is None else class_name,
        model=model.name,
        stride=stride,
        placement=placement,
        path=image.path,
        label=image.label if label is None else label,
        image_id=image.image_id,
        run_id=run_id,
        classes=names,
        columns=dict(image.columns),
        picture=picture,
        n_axes=len(model.preprocessing.size),
        channels=model.preprocessing.channels if isinstance(model.preprocessing.channels, tuple) else (),
        hidden=tuple(model.preprocessing.channel_names[number] for number in cells.key.channels or ()),
    )


def load_heatmap(
    stored: StoredMap,
    score: str,
    model: ModelRecord,
    names: tuple[str, ...],
    image: ImageRecord,
    source_size: tuple[int, ...] | None,
    image_registry: ImageRegistry,
) -> Heatmap:
    """Return a stored map as a heat map; its picture is opened when it is drawn, and may be gone by then.

    `source_size` is the size of the picture as it was when it was explained, an axis after the other, if it is known.
    """
    return heatmap_of(
        stored.cells,
        score,
        model,
        names,
        tuple(step or 1 for step in stored.stride),
        _placement(stored, model, source_size),
        image,
        stored.run_id,
        lambda: image_registry.load(image, len(model.preprocessing.size), stored.cells.key.image_hash),
        stored.class_name,
        stored.label,
    )


def stored_result(store: Store, image_registry: ImageRegistry, run: RunRecord, model: ModelRecord) -> Result:
    """Return the maps of a stored run as a Result, named as they were when it ran."""
    assert run.run_id is not None
    images = {image.image_id: image for image in store.run_images(run.run_id)}
    entries = cached_maps(store, image_registry, run.run_id, run.score, replace(model, name=run.model), images)
    maps = MapCache(store).listed([entry for _, entry in entries])
    return Result(
        maps, tuple(store.failures(run.run_id)), run.run_id, run.name, seconds=_seconds(run.measured), query=run.query
    )


def cached_maps(
    store: Store,
    image_registry: ImageRegistry,
    run_id: int,
    score: str,
    model: ModelRecord,
    images: Mapping[int | None, ImageRecord],
) -> list[tuple[int, LazyMap]]:
    """Return all maps of a run in the order written, without their planes, with the id of the image of each."""
    names = tuple(class_names(model))
    members = store.load_maps(run_id, planes=False)
    sizes = store.content_sizes({stored.cells.key.image_hash for stored in members})
    entries = []
    for stored in members:
        image = images.get(stored.image_id) or ImageRecord(None, stored.image_id)
        heat = load_heatmap(stored, score, model, names, image, sizes.get(stored.cells.key.image_hash), image_registry)
        entries.append((stored.image_id, LazyMap.of(heat, stored.map_id)))
    return entries


def _placement(stored: StoredMap, model: ModelRecord, source: tuple[int, ...] | None) -> Placement:
    """Return where the model's input lay in the source image, from what was stored beside the map."""
    from obeql.executor.images.placement import Placement  # noqa: PLC0415

    size = stored.input_size or model.preprocessing.map_size
    if stored.source_box is None or source is None:
        return Placement(size, size, (0,) * len(size), size)
    starts, extents = stored.source_box[: len(size)], stored.source_box[len(size) :]
    scales = [extent / n for extent, n in zip(extents, size, strict=True)]
    resized = tuple(round(n / scale) for n, scale in zip(source, scales, strict=True))
    return Placement(source, resized, tuple(round(at / scale) for at, scale in zip(starts, scales, strict=True)), size)


def _seconds(measured: Mapping[str, Any]) -> float | None:
    seconds = measured.get("seconds")
    return float(seconds) if isinstance(seconds, (int, float)) else None
