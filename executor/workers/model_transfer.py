"""The network on its way to the workers: written once to a private file, of which workers get the path or the bytes.

The file holds layers that this process has captured, in a folder that only this user can read; it is gone when the
run is over. Workers never load a model's own file, so that nothing is trusted twice. On other machines only a trusted
model may bring code of its own, which a network that was not captured does.
"""

from __future__ import annotations

import copyreg
import io
import pickle
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from obeql.errors import ModelError
from obeql.executor.network.graph import LayerGraph

__all__ = ["receive_graph", "send_graph"]

#: Packages whose classes a network may be made of without trust, and the plain types.
_LIBRARIES = ("obeql", "torch", "torchvision", "timm", "collections", "functools")
_TYPES = ("set", "frozenset", "slice", "range", "complex", "bytearray", "object")

_ALONE = "use workers=0 and no Ray"


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
        raise ModelError(f"The model cannot be given to worker processes ({_first(error)}); {_ALONE}.") from error


def receive_graph(network: str | bytes, trusted: bool = True) -> LayerGraph:
    """Return the layers of a file that `send_graph` wrote, given its path or its bytes.

    Raises ModelError where its classes are not found here, or where it names code that is not ours and the model is
    not trusted.
    """
    try:
        graph: LayerGraph = torch.load(
            network if isinstance(network, str) else io.BytesIO(network),
            map_location="cpu",
            mmap=isinstance(network, str) or None,
            weights_only=False,
            pickle_module=pickle if trusted else _captured_only,
        )
    except (AttributeError, ImportError) as error:
        raise ModelError(
            f"The model's own code is not found in a worker process ({_first(error)}); "
            f"put its class into a module that can be imported, or {_ALONE}."
        ) from error
    return graph


class _CapturedOnly(pickle.Unpickler):
    """Finds classes of the libraries, and nothing of the model's own.

    A module of torch.fx is the text of a function, which unpickling runs: it counts as the model's own.
    """

    def find_class(self, module: str, name: str) -> Any:
        plain = module in ("builtins", "__builtin__") and name in _TYPES
        if not plain and (module.partition(".")[0] not in _LIBRARIES or module.startswith("torch.fx")):
            raise ModelError(
                f"The model runs as its own code ({module}.{name}), which Ray would carry to other machines: "
                f"create it with trust=true if they may run it, or {_ALONE}."
            )
        return super().find_class(module, name)


#: As a module, which is what torch.load takes.
_captured_only = ModuleType("captured_only")
_captured_only.Unpickler = _CapturedOnly  # type: ignore[attr-defined]
_captured_only.load = pickle.load  # type: ignore[attr-defined]


def _first(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _operator(name: str, overload: str) -> Any:
    """Return an operator of PyTorch by its name, such as aten::relu, and overload."""
    namespace, _, rest = name.partition("::")
    return getattr(getattr(getattr(torch.ops, namespace), rest), overload)


def _by_name(operator: Any) -> tuple[Any, tuple[str, str]]:
    return _operator, (operator._schema.name, operator._overloadname)


# Operators are objects of the process; another one finds its own by their names.
copyreg.pickle(torch._ops.OpOverload, _by_name)
