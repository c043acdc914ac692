"""A model's identity: the digest of what its network computes, whatever its classes, layers and tensors are called.

Taken of the lowered layers before `fold` rearranges them, so that it changes only with the computation. The store keys
cells by it: two networks with one identity give the same cells, and a network whose code was edited gets another.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from obeql.executor.network.layers import Layer
from obeql.executor.network.layers.reduce import BatchSize, LayerRef
from obeql.executor.network.tensor_digests import TensorDigests
from obeql.planner.catalog import Activation

__all__ = ["graph_digest", "head_words"]

_PLAIN = (bool, int, float, complex, str, bytes, type(None))

#: values of PyTorch that their text tells apart
_NAMED = (torch.dtype, torch.device, torch.layout, torch.memory_format, torch._ops.OpOverload)


def graph_digest(layers: Sequence[Layer], head: Sequence[Layer], activation: Activation, digests: TensorDigests) -> str:
    """Return the hex SHA-256 of what lowered layers, and those of the head behind the last of them, compute.

    Each layer is its function, its arguments and tensors, and the digests of the layers that it reads: names, order
    and layers that nothing reads do not count. `activation` is how logits become probabilities. Empty where an operator
    was called with something that cannot be told apart.
    """
    needed = _needed(layers)
    digests.prepare(tensor for layer in needed.values() for tensor in _tensors(layer.arguments()))
    known: dict[int, str] = {}
    for number, layer in needed.items():
        try:
            said = _words(layer.arguments(), digests)
        except TypeError:
            return ""
        read = ",".join(known[source] for source in layer.inputs)
        known[number] = hashlib.sha256(f"{layer.kind}({said}) of {read}".encode()).hexdigest()
    return hashlib.sha256(f"{known[len(layers) - 1]} {head_words(head, digests)} {activation}".encode()).hexdigest()


def head_words(head: Sequence[Layer], digests: TensorDigests) -> str:
    """Return what the layers behind a network do, each with the one before, as text."""
    return ", ".join(f"{layer.kind}({_words(layer.arguments(), digests)})" for layer in head)


def _needed(layers: Sequence[Layer]) -> dict[int, Layer]:
    """Return the layers that the last one depends on, in order."""
    wanted = {len(layers) - 1}
    for number in range(len(layers) - 1, -1, -1):
        if number in wanted:
            wanted.update(layers[number].inputs)
    return {number: layers[number] for number in sorted(wanted)}


def _words(value: Any, digests: TensorDigests) -> str:
    """Return a value as text that another value does not have.

    Raises TypeError for one that is not known to have any.
    """
    if isinstance(value, LayerRef):
        return f"input {int(value)}"
    if isinstance(value, BatchSize):
        return "batch"
    if type(value) in _PLAIN:
        return f"{type(value).__name__} {value!r}"
    if isinstance(value, _NAMED):
        return f"{type(value).__name__} {value}"
    if isinstance(value, Tensor):
        return f"tensor {digests.digest(value)}"
    if isinstance(value, (list, tuple)):  # of which ATen makes no difference
        return f"[{', '.join(_words(item, digests) for item in value)}]"
    if isinstance(value, Mapping):
        items = sorted((str(key), _words(item, digests)) for key, item in value.items())
        return "{" + ", ".join(f"{key!r}: {item}" for key, item in items) + "}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return f"{type(value).__name__} {_words(fields, digests)}"
    raise TypeError(f"{type(value).__name__} has no text of its own")


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in _tensors(item)]
    return []
