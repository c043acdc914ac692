"""A model's identity: one hash over its structure, its settings and its weights.

Used when a model is loaded; capture mixes in the digest of the captured graph. The store keys cells by the result.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import fx, nn

from obeql.errors import ModelError

__all__ = ["content_hash"]

#: Weights are hashed in pieces of this many bytes, in threads: hashing releases the interpreter lock.
CHUNK_BYTES = 16 * 2**20

_Plain = bool | int | float | complex | str | bytes | None


def content_hash(module: nn.Module, extra: bytes = b"") -> str:
    """Return the hex SHA-256 of a module's content.

    Covers the tree of sub-modules (name, class, plain settings such as stride, eps or slope), the graph of fx
    modules, and name, dtype, shape and bytes of every parameter, buffer and plain tensor attribute; not memory layout,
    device or training mode. It does not cover Python code: two classes of one name whose `forward` differ hash alike,
    so callers pass what they know of the computation (the digest of the captured graph) as `extra`.

    Raises: ModelError for weights that are not in memory (meta device).
    """
    total = hashlib.sha256()
    for line in _structure(module):
        total.update(line.encode("utf-8", "surrogatepass") + b"\n")
    names, tensors = [], []
    for name, tensor in _state(module):
        if tensor.is_meta:
            raise ModelError(f"The weights {name!r} are on the meta device: load them before creating the model.")
        names.append(name)
        tensors.append(tensor)
    workers = min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        # Every tensor's pieces are submitted before any is awaited, so that all threads stay busy.
        digests = [[pool.submit(_sha256, piece) for piece in _pieces(tensor)] for tensor in tensors]
        for name, tensor, pieces in zip(names, tensors, digests, strict=True):
            total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode("utf-8", "surrogatepass"))
            for piece in pieces:
                total.update(piece.result())
    total.update(hashlib.sha256(extra).digest())
    return total.hexdigest()


def _sha256(data: memoryview) -> bytes:
    return hashlib.sha256(data).digest()


def _pieces(tensor: torch.Tensor) -> Iterator[memoryview]:
    data = tensor.detach()
    if data.layout != torch.strided:
        data = data.to_dense()
    if data.is_quantized:
        data = data.dequantize()
    data = data.cpu().contiguous().resolve_conj().resolve_neg()
    if data.numel() == 0:
        return
    octets = data.reshape(-1).view(torch.uint8).numpy().data
    for start in range(0, len(octets), CHUNK_BYTES):
        yield octets[start : start + CHUNK_BYTES]


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
