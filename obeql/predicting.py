"""PREDICT: what a model says about images, to check it and its preprocessing before explaining."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from obeql.errors import ImageError
from obeql.gallery import Gallery
from obeql.planner import BoundPredict, class_names
from obeql.store import PredictionRow, Store

if TYPE_CHECKING:
    from obeql.executor.network.graph import LayerGraph

__all__ = ["COLUMNS", "predict"]

COLUMNS = ("image", "label", "rank", "class_id", "class_name", "probability", "logit", "error")


def predict(
    bound: BoundPredict, graph: LayerGraph, store: Store, gallery: Gallery, cancelled: Callable[[], bool]
) -> list[tuple[Any, ...]]:
    """Return rows of COLUMNS, the `k` highest classes of each image, and store them.

    An image that cannot be read has one row with its error; if that is the only image, raises ImageError.
    """
    import torch  # noqa: PLC0415

    from obeql.executor.devices import resolve_device  # noqa: PLC0415
    from obeql.executor.images import preprocess  # noqa: PLC0415

    device = resolve_device(bound.device)
    graph = graph.to(device, torch.float32)
    names = class_names(bound.model)
    rows: list[tuple[Any, ...]] = []
    kept: list[PredictionRow] = []
    for image in bound.images:
        if cancelled():
            raise KeyboardInterrupt
        try:
            source = gallery.load(image)
            values = preprocess(source, bound.model.preprocessing).values
            with torch.inference_mode():
                logits = graph.forward(torch.from_numpy(values)[None].to(device))[0].double().cpu()
            if not bool(logits.isfinite().all()):
                raise ImageError(f"{image.shown}: the model's output is not finite")
        except ImageError as error:
            if len(bound.images) == 1:
                raise
            rows.append((image.shown, image.label, None, None, None, None, None, str(error)))
            continue
        sigmoid = graph.activation == "sigmoid"
        probabilities = torch.sigmoid(logits) if sigmoid else torch.softmax(logits, 0)
        image_id = None if store.read_only else store.register_images([image])[0].image_id
        for rank, index in enumerate(logits.topk(bound.k).indices.tolist(), start=1):
            probability, logit = float(probabilities[index]), float(logits[index])
            rows.append((image.shown, image.label, rank, index, names[index], probability, logit, None))
            if image_id is not None:
                kept.append(
                    PredictionRow(
                        image_id,
                        source.digest,
                        bound.model.model_hash,
                        index,
                        names[index],
                        probability,
                        logit,
                        rank,
                        bound.model.name,
                        bound.model.preprocessing.digest(),
                    )
                )
    if kept:
        store.put_predictions(kept)
    return rows
