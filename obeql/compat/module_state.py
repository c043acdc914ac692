"""What a live module is at this moment, as one text: any change to weights, buffers, settings or code shows in it.

`live_network` asks before every use of what it keeps of a module. Weights are summed at the speed of memory instead of
being hashed: version counters alone do not see what is written through `.data` or a NumPy view.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from obeql.executor.models.identity.code_digest import code_digest
from obeql.executor.network.tensor_digests import TensorDigests

__all__ = ["module_state"]

#: Numbers in a row of the sums. A prime, so that the rows and columns of weights do not fall together with them.
_ROW = 4093


def module_state(module: nn.Module) -> str | None:
    """Return a digest of a module's weights, settings and Python code; None where it holds what has none.

    As `code_digest`, except that tensors count by checksum.
    """
    return code_digest(module, _Checksums())


class _Checksums(TensorDigests):
    """Checksums of tensors: dtype, shape, device, and sums of the bits, taken by place."""

    def digest(self, tensor: Tensor) -> str:
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            return super().digest(tensor)
        data = tensor.detach()
        where = f"{data.dtype} {tuple(data.shape)} {data.stride()} {data.device}"
        # In the order of memory, where that has no gaps: nothing is copied.
        data = data.permute(sorted(range(data.dim()), key=data.stride, reverse=True))
        octets = data.resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)
        n_rows = len(octets) // (8 * _ROW)
        rest = octets[n_rows * 8 * _ROW :]
        total = hashlib.sha256(where.encode())
        if n_rows:
            total.update(_sums(octets[: n_rows * 8 * _ROW], n_rows).tobytes())
        total.update(rest.cpu().numpy().tobytes())
        return total.hexdigest()


def _sums(octets: Tensor, n_rows: int) -> npt.NDArray[np.int64]:
    """Return the sum of each column of so many rows of 64-bit numbers, modulo 2^64."""
    if octets.device.type == "cpu":
        rows: npt.NDArray[np.int64] = octets.numpy().view(np.int64).reshape(n_rows, _ROW)
    else:
        rows = octets.clone().view(torch.int64).view(n_rows, _ROW).sum(dim=0, keepdim=True).cpu().numpy()
    return np.asarray(rows.sum(axis=0), np.int64)
