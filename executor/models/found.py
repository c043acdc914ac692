"""What a URI family hands back, before options are applied and the forward pass is checked."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from obeql.executor.models.preprocessing import Declared
from obeql.planner.catalog import Activation, RawOutputs
from obeql.planner.geometry import NetworkOutput

__all__ = ["Found"]


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """A module and what its source declares about it; None where the source says nothing.

    `outputs` are those of a source of which `module` gives only one. `hashed_outputs` is what earlier versions took the
    outputs of this source for, where they asked nobody: it is in the hashes that they stored.
    `binds_inputs` says that the source binds the option inputs itself, in its graph.
    `from_code` says that the user's Python code decides what is computed, not the content of a file.
    """

    module: nn.Module
    declared: Declared = field(default_factory=Declared)
    classes: tuple[str, ...] = ()
    raw_outputs: RawOutputs | None = None
    activation: Activation | None = None
    notes: tuple[str, ...] = ()
    outputs: tuple[NetworkOutput, ...] = ()
    hashed_outputs: RawOutputs | None = None
    from_code: bool = False
    binds_inputs: bool = False
