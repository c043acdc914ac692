"""The catalog that binding asks: models and image sets from the store, images from their registry, settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from obeql.errors import ImageError
from obeql.planner import ImageRecord, ImageSet, ModelRecord, setting_default
from obeql.planner.binding.image_paths import Parts
from obeql.planner.catalog import StoredMaps, WindowTable
from obeql.session.image_registry import ImageRegistry
from obeql.session.window_sources import label_picture, segments_of, windows_selected

if TYPE_CHECKING:
    import numpy.typing as npt

    from obeql.planner.catalog import Preprocessing
    from obeql.store import Store

__all__ = ["SessionCatalog"]


class SessionCatalog:
    """Implements `obeql.planner.Catalog` for one session."""

    def __init__(self, store: Store, image_registry: ImageRegistry, settings: Mapping[str, Any]) -> None:
        self._store = store
        self._image_registry = image_registry
        self._settings = settings

    def model(self, name: str) -> ModelRecord | None:
        return self._store.model(name)

    def model_names(self) -> Sequence[str]:
        return self._store.model_names()

    def image_set(self, name: str) -> ImageSet | None:
        return self._store.image_set(name)

    def image_named(self, name: str) -> Sequence[ImageRecord]:
        return self._store.image_named(name)

    def image_names(self) -> Sequence[str]:
        return sorted({*self._store.image_set_names(), *self._store.image_names()})

    def images_at(self, pattern: str, n_axes: int | None = None) -> Sequence[ImageRecord]:
        return self._image_registry.at(pattern, n_axes)

    def images_selected(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Sequence[ImageRecord]:
        return self._image_registry.selected(sql, parameters)

    def windows_selected(self, sql: str, parameters: Mapping[str, Any]) -> WindowTable:
        return windows_selected(self._store, self._image_registry, sql, parameters)

    def label_picture(self, path: str) -> npt.NDArray[Any]:
        return label_picture(path)

    def segments(self, image: ImageRecord, call: str, how: Preprocessing) -> npt.NDArray[Any]:
        return segments_of(self._image_registry.load(image, len(how.size)), call, how)

    def in_parts(self, images: Sequence[ImageRecord], parts: Parts) -> Sequence[ImageRecord]:
        return self._image_registry.in_parts(images, parts)

    def run_exists(self, name: str) -> bool:
        run = self._store.run(name)
        # The same statement continues an interrupted run; whether it is the same is found out when it starts.
        return run is not None and (run.name or "").lower() == name.lower() and run.status != "interrupted"

    def stored_grids(
        self, images: Sequence[ImageRecord], model: ModelRecord, fill: str, precision: str
    ) -> Sequence[StoredMaps]:
        hashes = self._hashes(images, len(model.preprocessing.size))
        if not any(hashes):
            return []
        how = model.preprocessing.digest()
        return self._store.stored_grids(hashes, model.model_hash, how, fill, precision)

    def _hashes(self, images: Sequence[ImageRecord], n_axes: int) -> list[str | None]:
        """Return contents of the images: of a single one as it is now, of several as they were when last decoded."""
        if len(images) == 1:
            try:
                return [self._image_registry.load(images[0], n_axes).digest]
            except ImageError:
                return [None]  # which is told when the image is needed
        known = self._store.image_hashes([image.path for image in images if image.path is not None])
        return [
            self._image_registry.digest(image, n_axes) if image.path is None else known.get(image.path)
            for image in images
        ]

    def setting(self, name: str) -> Any:
        return self._settings.get(name, setting_default(name))
