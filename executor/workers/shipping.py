"""The network on its way to the workers: written once to a private file, which every worker maps into its memory.

The file holds layers that this process has captured, in a folder that only this user can read; it is gone when the
run is over. Workers never load a model's own file, so that nothing is trusted twice.
"""

from __future__ import annotations

import copyreg
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from obeql.errors import ModelError
from obeql.executor.network.graph import LayerGraph

__all__ = ["receive_graph", "send_graph"]


def send_graph(graph: LayerGraph, path: Path) -> None:
    """Write the layers to a file. Raises ModelError where they hold something that another process cannot have."""

    def same(tensor: Tensor) -> Tensor:
        return tensor

    # Copies, without what the layers have worked out for this process.
    fresh = LayerGraph(tuple(layer.map_parameters(same) for layer in graph.layers), graph.activation, graph.reason)
    try:
        torch.save(fresh, path)
    except OSError:
        raise
    except Exception as error:  # pickle raises whatever the objects raise
        raise ModelError(f"The model cannot be given to worker processes ({_first(error)}); use workers=0.") from error


def receive_graph(path: str) -> LayerGraph:
    """The layers of a file that `send_graph` wrote. Raises ModelError where its classes are not found here."""
    try:
        graph: LayerGraph = torch.load(path, map_location="cpu", mmap=True, weights_only=False)
    except (AttributeError, ImportError) as error:
        raise ModelError(
            f"The model's own code is not found in a worker process ({_first(error)}); "
            "put its class into a module that can be imported, or use workers=0."
        ) from error
    return graph


def _first(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _operator(name: str, overload: str) -> Any:
    """An operator of PyTorch by its name, such as aten::relu, and overload."""
    namespace, _, rest = name.partition("::")
    return getattr(getattr(getattr(torch.ops, namespace), rest), overload)


def _by_name(operator: Any) -> tuple[Any, tuple[str, str]]:
    return _operator, (operator._schema.name, operator._overloadname)


# Operators are objects of the process; another one finds its own by their names.
copyreg.pickle(torch._ops.OpOverload, _by_name)
