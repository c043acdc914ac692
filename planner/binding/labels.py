"""Labels of images, and the classes that they name, as FOR LABEL asks for them.

Part of binding. A source may name an image in several rows, each with a label of its own: the image is explained once,
with a map for each class that its labels name.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from obeql.planner.binding.classes import find_class
from obeql.planner.catalog import ImageRecord, ModelRecord

__all__ = ["each_once", "labelled_classes", "labels_of"]


def each_once(images: Iterable[ImageRecord]) -> tuple[ImageRecord, ...]:
    """Return each image once, at its first place, with the labels of all rows that name it."""
    found: dict[tuple[str | None, str | None, int | None], ImageRecord] = {}
    labels: dict[tuple[str | None, str | None, int | None], dict[str, None]] = {}
    for image in images:
        named = image.path is not None or image.key is not None
        handle = image.path, None if image.path is not None else image.key, None if named else image.image_id
        found.setdefault(handle, image)
        labels.setdefault(handle, {}).update(dict.fromkeys(labels_of(image)))
    return tuple(_labelled(image, tuple(labels[handle])) for handle, image in found.items())


def _labelled(image: ImageRecord, labels: tuple[str, ...]) -> ImageRecord:
    if labels == labels_of(image):
        return image
    return replace(image, label=labels[0], further_labels=labels[1:])


def labels_of(image: ImageRecord) -> tuple[str, ...]:
    """Return the labels of an image, in the order of the rows that name it."""
    return () if image.label is None else (image.label, *image.further_labels)


def labelled_classes(model: ModelRecord, labels: Iterable[str]) -> dict[int, str]:
    """Return the classes that labels name, each with its label.

    Raises UnknownNameError for a label that names no class and QueryTypeError for one that names several, without a
    place.
    """
    found: dict[int, str] = {}
    for label in labels:
        found.setdefault(find_class(model, label), label)
    return found
