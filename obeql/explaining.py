"""Run a plan and keep what it finds: the executor on one side, the store on the other.

Comes after planning. A run enters the store with its first finished image, so that a statement that finds nothing
leaves the database as it was.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from obeql.errors import ImageError
from obeql.gallery import Gallery
from obeql.heatmap import Heatmap
from obeql.planner import ExplainPlan, ImageRecord, ModelRecord, class_names, show
from obeql.planner.cells import FailedImage, MapCells
from obeql.planner.scores import score_kind
from obeql.result import Result
from obeql.store import ImageMaps, RunRecord, Store, StoredMap

if TYPE_CHECKING:
    from obeql.executor.images import ModelInput, SourceImage
    from obeql.executor.images.placement import Placement
    from obeql.executor.network.graph import LayerGraph
    from obeql.executor.run import OnProgress, RunReport

__all__ = ["explain", "heatmap_of", "stored_result", "versions"]


def versions() -> dict[str, str]:
    """Versions of everything a run's numbers depend on."""
    found = {"python": platform.python_version()}
    for package in ("obeql", "torch", "torchvision", "numpy", "pillow", "duckdb"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@dataclass
class _Writer:
    """The sink of a run: begins it with the first image, then stores image by image."""

    store: Store
    plan: ExplainPlan
    gallery: Gallery
    run_id: int | None = None
    ids: dict[ImageRecord, int] = field(default_factory=dict)
    sources: dict[str, tuple[SourceImage, Placement]] = field(default_factory=dict)
    heats: dict[str, list[Heatmap]] = field(default_factory=dict)
    failed: list[FailedImage] = field(default_factory=list)

    def record(self) -> RunRecord:
        plan = self.plan
        return RunRecord(
            query=plan.statement,
            model=plan.model.name,
            model_hash=plan.model.model_hash,
            preprocessing_hash=plan.model.preprocessing.digest(),
            score=plan.score,
            name=plan.run_name,
            options=dict(plan.options),
            plan=show(plan),
            versions=versions(),
        )

    def begin(self) -> int:
        if self.run_id is None:
            self.run_id = self.store.begin_run(self.record(), replace=self.plan.replace_run)
        return self.run_id

    def registered(self, image: ImageRecord) -> ImageRecord:
        if image.image_id is not None and not image.columns and image.label is None:
            return image
        return self.store.register_images([image])[0]

    def decoded(self, image: ImageRecord, source: SourceImage, model_input: ModelInput) -> None:
        self.sources = {_key(image): (source, model_input.placement)}

    def write(self, image: ImageRecord, maps: Sequence[MapCells]) -> None:
        source, placement = self.sources[_key(image)]
        run_id = self.begin()
        known = self.registered(image)
        assert known.image_id is not None
        self.store.note_image(known.image_id, source.digest, *source.size)
        per_grid = len(maps) // len(self.plan.grids)
        strides = [grid.stride for grid in self.plan.grids for _ in range(per_grid)]
        (oy, ox), (sy, sx) = placement.offset, placement.scale
        height, width = placement.model_size
        names = class_names(self.plan.model)
        self.store.write_batch(
            run_id,
            [
                ImageMaps(
                    known.image_id,
                    maps,
                    {cells.class_id: names[cells.class_id] for cells in maps},
                    placement.model_size,
                    (oy, ox, sy * height, sx * width),
                    strides,
                )
            ],
        )
        self.heats[_key(image)] = [
            heatmap_of(
                cells,
                self.plan.score,
                self.plan.model,
                stride,
                placement,
                replace(known, columns=image.columns or known.columns),
                run_id,
                _picture(self.gallery, known),
            )
            for cells, stride in zip(maps, strides, strict=True)
        ]

    def fail(self, image: ImageRecord, error: str) -> None:
        self.failed.append(FailedImage(image.image_id or 0, image.shown, error))
        if len(self.plan.images) == 1:
            return  # a statement over one image fails with it; nothing is stored
        run_id = self.begin()
        known = self.registered(image)
        self.failed[-1] = FailedImage(known.image_id or 0, image.shown, error)
        self.store.fail_image(run_id, self.failed[-1])


def _key(image: ImageRecord) -> str:
    return image.path if image.path is not None else f"\0{image.key}"


def _picture(gallery: Gallery, image: ImageRecord) -> Callable[[], SourceImage]:
    return lambda: gallery.load(image)


def explain(
    plan: ExplainPlan,
    graph: LayerGraph,
    store: Store,
    gallery: Gallery,
    on_progress: OnProgress | None,
    cancelled: Callable[[], bool],
) -> tuple[Result, RunReport]:
    """Execute `plan`, store its maps image by image and return them with the report of the run.

    An interrupted run of the same statement is continued: images it holds are read back, not computed. Raises
    ImageError when no image could be explained, ExecutionError subclasses when the device or the store fails;
    KeyboardInterrupt after a cancel, with what was stored kept.
    """
    from obeql.executor.run import CancelledError, RunReport, execute  # noqa: PLC0415

    started = time.perf_counter()
    writer = _Writer(store, plan, gallery)
    todo, kept = _continued(writer)
    report = RunReport()
    try:
        if todo:
            partial = replace(plan, images=tuple(todo))
            report = execute(partial, graph, gallery.load, writer, writer.decoded, on_progress, cancelled)
    except BaseException as error:
        if writer.run_id is not None:
            store.finish_run(writer.run_id, "interrupted", {"error": str(error)})
        if isinstance(error, CancelledError):
            raise KeyboardInterrupt(_how_to_resume(writer)) from None
        raise
    heats = {**kept, **writer.heats}
    if not heats:
        if writer.run_id is not None:
            store.finish_run(writer.run_id, "failed", {})
            store.drop_run(writer.run_id)
        first = writer.failed[0]
        more = f" (and {len(writer.failed) - 1} more images failed)" if len(writer.failed) > 1 else ""
        raise ImageError(first.error + more)
    seconds = time.perf_counter() - started
    if writer.run_id is not None:
        store.finish_run(writer.run_id, "done", {"seconds": seconds, **asdict(report)["seconds"]})
    maps = [heat for image in plan.images for heat in heats.get(_key(image), [])]
    result = Result(tuple(maps), tuple(writer.failed), writer.run_id, plan.run_name, plan, seconds)
    return result, report


def _continued(writer: _Writer) -> tuple[list[ImageRecord], dict[str, list[Heatmap]]]:
    """The images still to do, and the maps of those an interrupted run of the same statement has done."""
    images = list(writer.plan.images)
    earlier = writer.store.unfinished_run(writer.record()) if len(images) > 1 else None
    if earlier is None:
        return images, {}
    writer.store.resume_run(earlier)
    writer.run_id = earlier
    held = writer.store.explained_images(earlier)
    known = {_key(image): found for image, found in zip(images, writer.store.register_images(images), strict=True)}
    done = {_key(image) for image in images if known[_key(image)].image_id in held}
    kept: dict[str, list[Heatmap]] = {}
    for image in images:
        if _key(image) in done:
            record = known[_key(image)]
            stored = writer.store.load_maps(earlier, record.image_id)
            kept[_key(image)] = [
                _heatmap_of_stored(m, writer.plan.score, writer.plan.model, record, writer.gallery) for m in stored
            ]
    return [image for image in images if _key(image) not in done], kept


def _how_to_resume(writer: _Writer) -> str:
    done = len(writer.heats)
    if writer.run_id is None or done == 0:
        return "cancelled; nothing was finished"
    return f"cancelled after {done} of {len(writer.plan.images)} images; the same statement continues with the rest"


def heatmap_of(
    cells: MapCells,
    score: str,
    model: ModelRecord,
    stride: tuple[int, int],
    placement: Placement,
    image: ImageRecord,
    run_id: int,
    picture: Callable[[], SourceImage] | None,
) -> Heatmap:
    """Return the heat map a user gets for the cells of one image and class."""
    names = class_names(model)
    return Heatmap(
        cells=cells,
        score_kind=score_kind(score),
        image=image.shown,
        class_name=names[cells.class_id],
        model=model.name,
        stride=stride,
        placement=placement,
        path=image.path,
        label=image.label,
        image_id=image.image_id,
        run_id=run_id,
        classes=tuple(names),
        columns=dict(image.columns),
        picture=picture,
    )


def _heatmap_of_stored(
    stored: StoredMap, score: str, model: ModelRecord, image: ImageRecord, gallery: Gallery
) -> Heatmap:
    from obeql.executor.images.placement import Placement, place  # noqa: PLC0415

    try:
        source = gallery.load(image)
        placement = place(source.size, model.preprocessing, ready=source.ready)
    except ImageError:
        size = stored.input_size or model.preprocessing.size
        placement = Placement(size, size, (0, 0), size)
    stride = (stored.stride[0] or 1, stored.stride[1] or 1)
    picture = _picture(gallery, image)
    return heatmap_of(stored.cells, score, model, stride, placement, image, stored.run_id, picture)


def stored_result(store: Store, gallery: Gallery, run: RunRecord, model: ModelRecord) -> Result:
    """The maps of a stored run as a Result; pictures are read again where the files are still there."""
    assert run.run_id is not None
    maps = []
    images: Mapping[int, ImageRecord | None] = {}
    for stored in store.load_maps(run.run_id):
        if stored.image_id not in images:
            images = {**images, stored.image_id: store.image(stored.image_id)}
        image = images[stored.image_id] or ImageRecord(None, stored.image_id)
        maps.append(_heatmap_of_stored(stored, run.score, model, image, gallery))
    return Result(tuple(maps), tuple(store.failures(run.run_id)), run.run_id, run.name)


def measured(report: RunReport, result: Result) -> dict[str, Any]:
    """The figures PLAN ANALYZE prints beside the estimates."""
    parts = {f"{name} seconds": round(value, 3) for name, value in report.seconds.items() if name != "total"}
    return {"windows": report.n_windows, "seconds": report.seconds.get("windows", 0.0), **parts}
