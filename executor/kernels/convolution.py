"""A convolution prepared once and run on many small regions.

PyTorch's CPU convolution reorders its weights into oneDNN's blocked format on every call. For whole images that is
noise; for the small batches of small regions that incremental inference runs, it is most of the time (a 512-channel
3x3 layer on four 6x6 regions: 71 against 196 GFLOP/s). So weights are reordered once, and bias and activation run
in the kernel's epilogue; so it is in bfloat16, where the processor multiplies in it. Other devices and dtypes take
the plain form.

oneDNN chooses the layout of packed weights by the input's height and width, and for boxes of slightly different size
it chooses differently; weights packed for the wrong one are reordered at every call, element by element (512 channels
and a 3x3 kernel: 250 ms before 20 ms of work). So they are packed for each size, for a few sizes; for others they are
handed over as they are, which oneDNN reorders quickly (5 ms). A 1x1 convolution is a matrix product over positions,
whose packed weights suit any number of them, so it runs as one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from obeql.executor.kernels.by_axes import BY_AXES
from obeql.executor.kernels.memory_format import as_positions, channels_last, from_positions

if TYPE_CHECKING:  # the layers import this module
    from obeql.executor.network.layers.activation import Elementwise

__all__ = ["PACKED_DTYPES", "Convolution", "Linear"]


def _find_prepacking() -> bool:
    try:
        needed = (
            torch.ops.mkldnn._convolution_pointwise.default,
            torch.ops.mkldnn._linear_pointwise.default,
            torch.ops.mkldnn._reorder_linear_weight.default,
            *(getattr(torch._C._nn, each.reorder_weight) for each in BY_AXES.values()),
        )
        return None not in needed and bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    except (AttributeError, RuntimeError):
        return False


def _packed_dtypes() -> tuple[torch.dtype, ...]:
    if not _find_prepacking():
        return ()
    has_bfloat16 = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return (torch.float32, torch.bfloat16) if has_bfloat16 is not None and has_bfloat16() else (torch.float32,)


#: the number formats in which this build of PyTorch, on this processor, has oneDNN's prepacked, fused convolution
PACKED_DTYPES = _packed_dtypes()

#: the number of positions a product's weights are packed for; the layout serves any number about as well
_PRODUCT_ROWS = 1024

#: sizes of the input that a convolution's weights are packed for, each with a copy of them
_MOST_PACKED = 4

#: oneDNN's epilogues that turn NaN into a number: their maximum with a constant is the constant then
_HIDES_NAN = ("relu", "hardtanh")


class Convolution:
    """y = activation(conv(x, weight) + bias) for x (N, C, ...), zero padding given at each call.

    With `keeps_nan` no epilogue runs that would turn NaN into a number. With `plain_memory` weights, and maps, lie as
    (N, C, ...) instead of channels-last, and nothing is packed.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, ...],
        dilation: tuple[int, ...],
        groups: int,
        activation: Elementwise | None,
        keeps_nan: bool = False,
        plain_memory: bool = False,
    ) -> None:
        self.weight = channels_last(weight)
        self.bias = bias
        self.stride = list(stride)
        self.dilation = list(dilation)
        self.groups = groups
        self.activation = activation
        self._epilogue: tuple[str, list[Any], str] | None = ("none", [], "")
        if activation is not None:
            self._epilogue = activation.fused()
        if keeps_nan and self._epilogue and self._epilogue[0] in _HIDES_NAN:
            self._epilogue = None
        self._packs = weight.device.type == "cpu" and weight.dtype in PACKED_DTYPES
        # oneDNN gives wrong numbers (PyTorch 2.13, AVX-512) for one input channel in channels-last memory with
        # strides 1 and more than 1, in bfloat16 also for one input channel of each of several groups; and with packed
        # weights for one output channel on a map of one position.
        has_wrong_groups = weight.shape[0] > groups and weight.dtype == torch.bfloat16
        self._plain_memory = weight.shape[1] == 1 and len(set(stride)) > 1 and (groups == 1 or has_wrong_groups)
        if self._plain_memory:
            self.weight = _in_plain_memory(weight)
        if plain_memory and not self._plain_memory:
            self.weight = weight.contiguous()
        if plain_memory or self._plain_memory or weight.shape[0] == 1:
            self._packs = False
        #: by padding and size of the input
        self._packed: dict[tuple[int, ...], Tensor] = {}
        #: whether an output is a product of the weights with one input position
        self._is_product = self._packs and max(weight.shape[2:]) == 1 and groups == 1
        self._product_weight: Tensor | None = None

    def _weights_for(self, x: Tensor, padding: tuple[int, ...]) -> Tensor:
        """Return the weights packed for maps of x's size; as they are, once they are packed for many sizes."""
        key = (*padding, *x.shape[2:])
        packed: Tensor | None = self._packed.get(key)
        if packed is None:
            if len(self._packed) >= _MOST_PACKED:
                return self.weight
            # The stub of this function lacks its last argument.
            reorder: Any = getattr(torch._C._nn, BY_AXES[len(padding)].reorder_weight)
            packed = reorder(
                self.weight.to_mkldnn(), list(padding), self.stride, self.dilation, self.groups, list(x.shape)
            )
            self._packed[key] = packed
        assert packed is not None
        return packed

    def _sees_only_padding(self, padding: tuple[int, ...]) -> bool:
        """Return whether some output reads nothing but padding."""
        return any(p > d * (k - 1) for p, d, k in zip(padding, self.dilation, self.weight.shape[2:], strict=True))

    def __call__(self, x: Tensor, padding: tuple[int, ...]) -> Tensor:
        if self._sees_only_padding(padding):
            # oneDNN's kernels, PyTorch's plain convolution among them, can read out of bounds there and crash.
            x = F.pad(x, [amount for amount in reversed(padding) for _ in range(2)])
            padding = (0,) * len(padding)
        if self._plain_memory:
            x = _in_plain_memory(x)
        if self._packs and x.shape[0] and not x.requires_grad:  # oneDNN's fused operators have no derivative
            attribute, scalars, algorithm = self._epilogue or ("none", [], "")
            y: Tensor
            if self._is_product and not any(padding):
                y = self._product(x, attribute, scalars, algorithm)
            else:
                y = torch.ops.mkldnn._convolution_pointwise(
                    x,
                    self._weights_for(x, padding),
                    self.bias,
                    list(padding),
                    self.stride,
                    self.dilation,
                    self.groups,
                    attribute,
                    scalars,
                    algorithm,
                )
            return y if self._epilogue or self.activation is None else self.activation.in_place(y)
        plain = BY_AXES[len(padding)].convolution
        y = plain(x, self.weight, self.bias, self.stride, list(padding), self.dilation, self.groups)
        return y if self.activation is None else self.activation.in_place(y)

    def _product(self, x: Tensor, attribute: str, scalars: list[Any], algorithm: str) -> Tensor:
        """Return a 1x1 convolution as a matrix product: rows are positions, columns channels."""
        if max(self.stride) > 1:
            x = x[:, :, *(slice(None, None, step) for step in self.stride)]
        n, channels, *shape = x.shape
        rows = as_positions(x).reshape(-1, channels)
        if self._product_weight is None:
            matrix = self.weight.reshape(len(self.weight), channels)
            self._product_weight = torch.ops.mkldnn._reorder_linear_weight(matrix, _PRODUCT_ROWS)
        y: Tensor = torch.ops.mkldnn._linear_pointwise(
            rows, self._product_weight, self.bias, attribute, scalars, algorithm
        )
        return from_positions(y.view(n, *shape, -1))


def _in_plain_memory(x: Tensor) -> Tensor:
    """Return a tensor with the strides of (N, C, ...).

    Of one channel, PyTorch takes any stride of that axis for them.
    """
    return x.contiguous() if x.shape[1] > 1 else x.squeeze(1).contiguous().unsqueeze(1)


class Linear:
    """y = activation(x @ weight.T + bias) for x (N, C)."""

    def __init__(self, weight: Tensor, bias: Tensor | None, activation: Elementwise | None) -> None:
        self.weight = weight.contiguous()
        self.bias = bias
        self.activation = activation

    def __call__(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight, self.bias)
        return y if self.activation is None else self.activation.in_place(y)
