"""What loading a model yields: a network ready to capture, with everything needed to feed and read it.

Comes after the URI families of this package (`obeql.executor.models.load`); `obeql.executor.network` captures
`LoadedModel.module` next.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from obeql.planner.catalog import Activation, Preprocessing

__all__ = ["LoadedModel", "RawOutputs"]

#: What the module's outputs are before any activation of ours.
RawOutputs = Literal["logits", "probabilities"]


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A classifier in evaluation mode.

    `module` takes (N, C, H, W) images preprocessed by `preprocessing` (C = 3, or 1 for gray) and returns (N, K).
    `raw_outputs` says what those outputs are; None means that nobody said, and capture decides by looking for a
    final softmax or sigmoid. `activation` turns logits into probabilities; it is `sigmoid` for one output.
    `classes` holds K names, or is empty when none are known. `model_hash` is the hex SHA-256 of
    `content_hash(module)`, with the said activation and outputs mixed in. `notes` are sentences for the user.
    """

    module: nn.Module
    model_hash: str
    classes: tuple[str, ...]
    activation: Activation
    raw_outputs: RawOutputs | None
    preprocessing: Preprocessing
    n_classes: int = 0
    notes: tuple[str, ...] = ()
