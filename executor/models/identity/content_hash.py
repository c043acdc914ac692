"""What a model holds: one hash over its structure, its settings and its weights.

It says whether a file holds what it held. It is not the model's identity, which is what the network computes
(`obeql.executor.network.identity`): Python code is no part of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import torch
from torch import fx, nn

from obeql.errors import ModelError
from obeql.executor.network.tensor_digests import TensorDigests

__all__ = ["content_hash"]

_Plain = bool | int | float | complex | str | bytes | None


def content_hash(module: nn.Module, extra: bytes = b"", digests: TensorDigests | None = None) -> str:
    """Return the hex SHA-256 of a module's content.

    Covers the tree of sub-modules (name, class, plain settings such as stride, eps or slope), the graph of fx
    modules, and name, dtype, shape and bytes of every parameter, buffer and plain tensor attribute, and `extra`; not
    memory layout, device or training mode. It does not cover Python code: two classes of one name whose `forward`
    differ hash alike. What it is may not change: earlier versions stored it as the identity of models.

    Raises: ModelError for weights that are not in memory (meta device).
    """
    digests = digests or TensorDigests()
    total = hashlib.sha256()
    for line in _structure(module):
        total.update(line.encode("utf-8", "surrogatepass") + b"\n")
    state = list(_state(module))
    for name, tensor in state:
        if tensor.is_meta:
            raise ModelError(f"The weights {name!r} are on the meta device: load them before creating the model.")
    digests.prepare(tensor for _, tensor in state)
    for name, tensor in state:
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode("utf-8", "surrogatepass"))
        for piece in digests.pieces(tensor):
            total.update(piece)
    total.update(hashlib.sha256(extra).digest())
    return total.hexdigest()


def _state(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    # Not state_dict(): it leaves out non-persistent buffers and may be overridden.
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)
    for path, part in module.named_modules():
        for key, value in sorted(vars(part).items()):
            if isinstance(value, torch.Tensor):
                yield f"{path}.{key}", value


def _structure(module: nn.Module) -> Iterator[str]:
    for path, part in module.named_modules(remove_duplicate=False):
        settings = "" if isinstance(part, torch.jit.ScriptModule) else ", ".join(_settings(part))
        yield f"{path}: {type(part).__qualname__}({settings})"
        if isinstance(part, fx.GraphModule):
            yield part.code
        elif isinstance(part, torch.jit.ScriptModule) and path == "":
            yield str(part.inlined_graph)


def _settings(part: nn.Module) -> Iterable[str]:
    for key, value in sorted(vars(part).items()):
        if not key.startswith("_") and key != "training" and _is_plain(value):
            yield f"{key}={value!r}"


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(_is_plain(item) for item in value)
    return isinstance(value, _Plain)
