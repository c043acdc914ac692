"""From logits to the two numbers a cell stores: the class's logit and the logsumexp of all others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from obeql.executor.devices import device_of
from obeql.planner.catalog import Activation
from obeql.planner.class_selector import ClassSelector

__all__ = ["as_stored", "chosen_classes", "logit_and_others", "top_class"]


def logit_and_others(
    logits: Tensor, class_ids: Sequence[int] | Tensor, activation: Activation
) -> tuple[Tensor, Tensor]:
    """Return (logit, others), both (n, classes) in float64 where the device has it, for logits (n, K).

    `class_ids` are the same for all, or int64 (n, classes), each its own. log-odds are logit - others. The logsumexp
    runs over the *other* classes: over all of them it would swallow the difference for a confident class (log-odds
    beyond 16 are infinite in float32). Independent sigmoids, and outputs that are values, have others = 0.
    """
    wide = logits.to(device_of(logits.device).wide_dtype)
    ids = class_ids if isinstance(class_ids, Tensor) else torch.tensor([list(class_ids)], device=logits.device)
    ids = ids.expand(len(logits), -1)
    z = wide.gather(1, ids)
    if activation != "softmax":
        return z, torch.zeros_like(z)
    total = wide.logsumexp(dim=1, keepdim=True)
    winner = wide.argmax(dim=1, keepdim=True)
    # For any class but the winner, log(exp(total) - exp(z)) is stable: z - total <= -log 2.
    others = total + torch.log1p(-torch.exp((z - total).clamp(max=-1e-12)))
    without_winner = wide.scatter(1, winner, float("-inf")).logsumexp(dim=1, keepdim=True)
    return z, torch.where(ids == winner, without_winner, others)


def as_stored(z: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Return the two numbers of a cell as they are kept.

    They are a float32 logit, and others such that log-odds are float32 too.
    """
    logit = z.float()
    return logit, logit.to(z.dtype) - (z - others).float().to(z.dtype)


def top_class(logits: Tensor) -> Tensor:
    """Return the arg-max class int32 (n,) of logits (n, K)."""
    return logits.argmax(dim=1).to(torch.int32)


def chosen_classes(selector: ClassSelector, logits: Tensor, labelled: Sequence[int]) -> list[int]:
    """Return the classes a selector asks of an image with clean logits (1, K), in the order of the query.

    `labelled` are those that the image's labels name.
    """
    known = selector.known(logits.shape[1])
    if known is not None:
        return known
    if selector.kind == "label":
        return list(labelled)
    if selector.kind == "predicted":  # the arg-max class that maps store, so that equal logits choose alike
        return [int(logits[0].argmax())]
    return [int(i) for i in logits[0].topk(selector.n_maps(logits.shape[1])).indices]
