"""One node of an ONNX graph as plain data, and how an operator is declared.

Read by the operator tables (`layers`, `elementwise`, `shapes`, `host`) and by `module`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from obeql.errors import ModelError

__all__ = ["Array", "Function", "Node", "Operator", "Value", "host_ints"]

Array = npt.NDArray[Any]

#: A value on its way through the graph: a tensor (depends on pixels) or a host array (depends on shapes alone).
Value = torch.Tensor | Array

#: An operator's function: the node, then its inputs (None for one left out).
Function = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Node:
    """`inputs` and `outputs` are value names, '' for one left out; `opset` is that of the ai.onnx domain."""

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    opset: int

    def get(self, key: str, default: Any = None) -> Any:
        return self.attributes.get(key, default)

    @property
    def shown(self) -> str:
        return f"the {self.op} node {self.name or self.outputs[0]!r}"

    def refuse(self, why: str) -> ModelError:
        return ModelError(f"The ONNX graph cannot be run: {self.shown} {why}.")


@dataclass(frozen=True, slots=True)
class Operator:
    """`run` computes with torch. Inputs at the positions `host` (shapes, axes, bounds) arrive as host arrays, the
    others as tensors. Inputs at `host_if_known` arrive as host arrays where they are known without pixels. With
    `scalars`, single host numbers arrive as Python numbers."""

    run: Function
    host: tuple[int, ...] = ()
    host_if_known: tuple[int, ...] = ()
    scalars: bool = False


def host_ints(value: Array | None) -> list[int] | None:
    """Return a host array of any shape as a flat list of ints; None stays None."""
    return None if value is None else [int(item) for item in np.asarray(value).reshape(-1)]
