"""Digests of tensors, each computed once: what `content_hash` and the digest of a captured graph are made of.

Hashing all weights is most of the time an identity takes, and both of these need it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from obeql.executor.cpus import available_cpus

__all__ = ["TensorDigests"]

#: Tensors are hashed in pieces of this many bytes, in threads: hashing releases the interpreter lock.
CHUNK_BYTES = 16 * 2**20


class TensorDigests:
    """Digests of tensors that nothing writes to meanwhile; views of the same numbers are hashed once."""

    def __init__(self) -> None:
        #: with the tensors themselves, so that their memory stays theirs
        self._known: dict[object, tuple[Tensor, tuple[bytes, ...]]] = {}

    def prepare(self, tensors: Iterable[Tensor]) -> None:
        """Hash what is not hashed yet, all of it side by side."""
        missing = {_key(tensor): tensor for tensor in tensors if _key(tensor) not in self._known}
        if not missing:
            return
        with ThreadPoolExecutor(min(8, available_cpus())) as pool:
            # Every tensor's pieces are submitted before any is awaited, so that all threads stay busy.
            waiting = [[pool.submit(_sha256, piece) for piece in _pieces(each)] for each in missing.values()]
            for (key, tensor), pieces in zip(missing.items(), waiting, strict=True):
                self._known[key] = tensor, tuple(piece.result() for piece in pieces)

    def pieces(self, tensor: Tensor) -> tuple[bytes, ...]:
        """Return the SHA-256 of each piece of the tensor's values in row-major order."""
        self.prepare((tensor,))
        return self._known[_key(tensor)][1]

    def digest(self, tensor: Tensor) -> str:
        """Return the dtype, shape and values as one hex SHA-256; not memory layout or device."""
        total = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
        for piece in self.pieces(tensor):
            total.update(piece)
        return total.hexdigest()


def _key(tensor: Tensor) -> object:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        return id(tensor)
    place = tensor.data_ptr(), str(tensor.device), tensor.dtype, tensor.is_conj(), tensor.is_neg()
    return *place, tuple(tensor.shape), tensor.stride()


def _sha256(data: memoryview) -> bytes:
    return hashlib.sha256(data).digest()


def _pieces(tensor: Tensor) -> Iterator[memoryview]:
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
