"""What loading a model yields: a network ready to capture, with everything needed to feed and read it.

Comes after the URI families of this package (`obeql.executor.models.load`); `obeql.executor.network` captures
`LoadedModel.module` next.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from obeql.executor.models.identity.content_hash import content_hash
from obeql.executor.network.tensor_digests import TensorDigests
from obeql.planner.catalog import Activation, Preprocessing, RawOutputs
from obeql.planner.geometry import NetworkOutput

__all__ = ["LoadedModel", "RawOutputs"]


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A classifier in evaluation mode.

    `module` takes (N, C, H, W) images preprocessed by `preprocessing` (C = 3, or 1 for gray) and returns (N, K).
    `raw_outputs` says what those outputs are, `activation` what turns logits into probabilities; None means that
    nobody said, and capture decides by what it sees. `outputs` are all tensors that the network returns.
    `classes` holds K names, of one output one or two, or is empty when none are known. `found` is the module as its
    source gave it, which `module` may wrap, `meaning` what was said of its outputs, and `from_code` says that Python
    code decides what it computes. `notes` are sentences for the user.
    """

    module: nn.Module
    classes: tuple[str, ...]
    activation: Activation | None
    raw_outputs: RawOutputs | None
    preprocessing: Preprocessing
    found: nn.Module
    n_classes: int = 0
    notes: tuple[str, ...] = ()
    outputs: tuple[NetworkOutput, ...] = ()
    meaning: bytes = b""
    from_code: bool = False

    def content_hash(self, digests: TensorDigests | None = None) -> str:
        """Return the hex SHA-256 of weights, structure and settings, with the said activation and outputs mixed in.

        It says whether a file holds what it held; the identity of the model is what it computes. Raises ModelError for
        weights that are not in memory.
        """
        return content_hash(self.found, self.meaning, digests)
