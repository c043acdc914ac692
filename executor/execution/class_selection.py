"""Which classes a statement asks of an image: known beforehand, from what is stored, or from its clean logits.

Before the windows of an image are computed; `executor` asks here.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from obeql.errors import ImageError, QueryError
from obeql.executor.operators.cached_cells import CellLookup
from obeql.executor.operators.logits import chosen_classes
from obeql.planner.binding.labels import labelled_classes, labels_of
from obeql.planner.catalog import ImageRecord
from obeql.planner.cells import CellKey
from obeql.planner.physical.plan import ExplainPlan

__all__ = ["asked_classes", "shared_classes", "stored_classes"]


def stored_classes(plan: ExplainPlan, image: ImageRecord, key: CellKey, source: CellLookup | None) -> list[int] | None:
    """Return the classes asked of an image as far as they are known without running the network, else None."""
    if source is None:
        return None
    known = plan.classes.known(plan.model.n_classes)
    if known is not None:
        return known
    match plan.classes.kind:
        case "label":
            return _labelled(plan, image)
        case "predicted":
            if plan.model.n_classes == 1:
                return [0]
            top = source.stored_top_class(key)
            return None if top is None else [top]
    return None


def asked_classes(plan: ExplainPlan, image: ImageRecord, clean: Tensor) -> list[int]:
    """Return classes asked of an image whose clean logits are (1, K). Raises ImageError without a label that fits."""
    labelled = _labelled(plan, image) if plan.classes.kind == "label" else []
    return chosen_classes(plan.classes, clean, labelled)


def shared_classes(plan: ExplainPlan, image: ImageRecord, classes: Sequence[int], clean: Tensor) -> list[int]:
    """Return classes beyond `classes` that the next statements ask of this image's windows, clean logits (1, K)."""
    found: dict[int, None] = {}
    for selector in plan.also:
        try:
            labelled = _labelled(plan, image) if selector.kind == "label" else []
        except ImageError:
            continue
        found |= dict.fromkeys(chosen_classes(selector, clean, labelled))
    return [class_id for class_id in found if class_id not in classes]


def _labelled(plan: ExplainPlan, image: ImageRecord) -> list[int]:
    """Return the classes that the image's labels name."""
    if image.label is None:
        raise ImageError(f"{image.shown} has no label, which is to say what to explain")
    try:
        return list(labelled_classes(plan.model, labels_of(image)))
    except QueryError as error:
        raise ImageError(f"{image.shown}: {error.message}") from None
