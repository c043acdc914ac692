"""Deletion and insertion curves of a heat map: does it rank the pixels as the network does?

After a map is stored; `obeql.session.evaluate` goes through the maps of a run. Source: Petsiuk, Das, Saenko: RISE:
Randomized Input Sampling for Explanation of Black-box Models, BMVC 2018, section 4.3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from obeql.errors import ImageError
from obeql.executor.images import ModelInput, fill_values
from obeql.executor.network.graph import LayerGraph
from obeql.executor.operators.hidden_channels import in_channels
from obeql.executor.operators.logits import logit_and_others
from obeql.planner.catalog import Activation, Preprocessing

__all__ = ["Curves", "curves", "pixel_order"]

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Curves:
    """Probabilities of the class, (steps + 1,), as pixels are hidden and as they are shown, most important first.

    Of outputs that are values these are the values.

    `shares` (steps + 1,) is the part of the pixels taken, 0 to 1. `deletion[0]` and `insertion[-1]` are those of the
    image itself.
    """

    shares: Values
    deletion: Values
    insertion: Values

    @property
    def deletion_auc(self) -> float:
        """Area under the deletion curve; the smaller, the better the map finds what the class rests on."""
        return float(np.trapezoid(self.deletion, self.shares))

    @property
    def insertion_auc(self) -> float:
        """Area under the insertion curve; the larger, the better."""
        return float(np.trapezoid(self.insertion, self.shares))


def pixel_order(importance: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Return the flat places of the pixels of (H, W), most important first, ties row-major.

    Pixels without a value come last.
    """
    flat = importance.ravel().astype(np.float64)
    return np.argsort(np.where(np.isnan(flat), np.inf, -flat), kind="stable").astype(np.int64)


def curves(
    graph: LayerGraph,
    model_input: ModelInput,
    how: Preprocessing,
    fill: str,
    order: npt.NDArray[np.int64],
    class_id: int,
    activation: Activation,
    steps: int,
    batch: int,
    device: torch.device,
    channels: tuple[int, ...] | None = None,
) -> Curves:
    """Run the network on 2 (steps + 1) pictures: with the first pixels of `order` hidden, and with all others hidden.

    `graph` is on the device, in float32; `order` holds every pixel of the model's input once. `fill` is what hides, as
    in a statement, and `channels` what is hidden, None all of them. Raises ImageError where an output is not a number.
    """
    pixels = torch.from_numpy(model_input.values)[None].to(device)  # (1, C, *size)
    hidden = torch.from_numpy(fill_values(fill, model_input, how)).to(device)
    size = model_input.values.shape[1:]
    hidden = hidden.view(-1, *(1,) * len(size)) if hidden.dim() == 1 else hidden  # (C, 1, ..) or (C, *size)
    hidden = in_channels(hidden[None], pixels, channels)[0]
    rank = np.empty(order.size, np.int64)
    rank[order] = np.arange(order.size)
    taken = torch.from_numpy(rank.reshape(size)).to(device)
    counts = np.rint(np.linspace(0, order.size, steps + 1)).astype(np.int64)
    found = []
    with torch.inference_mode():
        for start in range(0, len(counts), batch):
            limits = torch.from_numpy(counts[start : start + batch]).to(device)
            inside = (taken < limits.view(-1, *(1,) * len(size)))[:, None]  # (n, 1, *size)
            pictures = (torch.where(inside, hidden, pixels), torch.where(inside, pixels, hidden))
            found.append(torch.stack([_score(graph, each, class_id, activation) for each in pictures]))
    deletion, insertion = torch.cat(found, dim=1).cpu().numpy()
    if not (np.isfinite(deletion).all() and np.isfinite(insertion).all()):
        raise ImageError("the model's output is not finite while pixels are hidden")
    return Curves(counts / order.size, deletion, insertion)


def _score(graph: LayerGraph, pictures: Tensor, class_id: int, activation: Activation) -> Tensor:
    """Return the class's probability on each picture, or the output where that is a value, float64 (n,)."""
    z, others = logit_and_others(graph.forward(pictures), [class_id], activation)
    return (z if activation == "none" else torch.sigmoid(z - others))[:, 0]
