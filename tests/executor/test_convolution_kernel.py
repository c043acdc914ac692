"""The prepared convolution against PyTorch's in float64: one kernel object, many sizes of input, each number format."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from obeql.executor.kernels.convolution import PACKED_DTYPES, Convolution
from obeql.executor.network.layers.activation import Elementwise

pytestmark = pytest.mark.usefixtures("one_thread")

ACTIVATIONS = (
    None,
    Elementwise("relu"),
    Elementwise("hardtanh", (0.0, 6.0)),
    Elementwise("hardtanh"),
    Elementwise("clamp", (None, 0.2)),
    Elementwise("clamp", (-0.1,)),
    Elementwise("silu"),
    Elementwise("hardswish"),
    Elementwise("leaky_relu", (0.2,)),
    Elementwise("gelu"),
    Elementwise("gelu", (), (("approximate", "tanh"),)),
    Elementwise("elu"),
)

Pair = tuple[int, int]

#: Largest error over the largest sum: bfloat16 rounds the sum, and again what an activation makes of it.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2**-7}


def check(
    channels: Pair,
    kernel: Pair,
    stride: Pair,
    dilation: Pair,
    groups: int,
    padding: Pair,
    activation: Elementwise | None,
    sizes: list[tuple[int, int, int]],
    dtype: torch.dtype = torch.float32,
) -> None:
    """One kernel run with and without padding on inputs of several sizes (n, h, w), in turn."""
    generator = torch.Generator().manual_seed(0)
    n_in, n_out = channels
    weight = (torch.rand((n_out, n_in // groups, *kernel), generator=generator) - 0.5).to(dtype)
    bias = torch.rand(n_out, generator=generator).to(dtype)
    prepared = Convolution(weight, bias, stride, dilation, groups, activation)
    with torch.inference_mode():
        for i, (n, rows, cols) in enumerate(sizes):
            height, width = rows + dilation[0] * (kernel[0] - 1), cols + dilation[1] * (kernel[1] - 1)
            x = torch.rand((n, n_in, height, width), generator=generator).to(dtype)
            # Channels last as reads of regions make them: with one channel, `contiguous` would change nothing.
            x = (
                x.permute(0, 2, 3, 1)
                .contiguous()
                .as_strided((n, height, width, n_in), (height * width * n_in, width * n_in, n_in, 1))
                .permute(0, 3, 1, 2)
            )
            pads = padding if i % 2 else (0, 0)
            expected = F.conv2d(x.double(), weight.double(), bias.double(), stride, pads, dilation, groups)
            # Rounding is relative to the sums, which an activation may cut to a small range.
            scale = max(1.0, float(expected.abs().max()))
            if activation is not None:
                expected = activation(expected)
            got = prepared(x, pads)
            assert got.shape == expected.shape
            assert got.dtype == dtype
            assert float((got - expected).abs().max()) <= TOLERANCE[dtype] * scale, (n, height, width, pads)


@settings(deadline=None, max_examples=80)
@given(st.data())
def test_one_kernel_serves_inputs_of_any_size(data: st.DataObject) -> None:
    def pair(*choices: int) -> Pair:
        return data.draw(st.sampled_from(choices)), data.draw(st.sampled_from(choices))

    groups = data.draw(st.sampled_from((1, 1, 2, 4)))
    channels = (
        groups * data.draw(st.sampled_from((1, 2, 3, 8, 16))),
        groups * data.draw(st.sampled_from((1, 3, 4, 16))),
    )
    sizes = data.draw(
        st.lists(st.tuples(st.sampled_from((1, 2, 5)), st.integers(1, 12), st.integers(1, 12)), min_size=2, max_size=5)
    )
    activation = data.draw(st.sampled_from(ACTIVATIONS))
    kernel, stride, dilation, padding = pair(3, 1, 2, 5), pair(1, 2, 3), pair(1, 2), pair(0, 1, 2)
    dtype = data.draw(st.sampled_from(PACKED_DTYPES or (torch.float32,)))
    check(channels, kernel, stride, dilation, groups, padding, activation, sizes, dtype)


@pytest.mark.parametrize("kernel", [(3, 3), (1, 3), (7, 7), (3, 5)])
@pytest.mark.parametrize("stride", [(1, 2), (1, 3), (2, 1), (2, 2), (1, 1)])
@pytest.mark.parametrize("channels", [(1, 8), (1, 1), (3, 1), (1, 64)])
def test_one_channel_and_narrow_outputs(channels: Pair, kernel: Pair, stride: Pair) -> None:
    """Where oneDNN's kernels for channels-last memory give wrong numbers."""
    sizes = [(n, height, width) for n in (1, 2, 5) for height in (1, 3, 9) for width in range(1, 8)]
    check(channels, kernel, stride, (1, 1), 1, (0, 0), None, sizes)


@pytest.mark.parametrize("dtype", PACKED_DTYPES)
@pytest.mark.parametrize("kernel", [(1, 1), (2, 2), (3, 3), (5, 7)])
@pytest.mark.parametrize("stride", [(1, 2), (1, 3), (2, 1), (2, 2), (1, 1)])
@pytest.mark.parametrize(("channels", "groups"), [((2, 6), 2), ((16, 32), 16), ((4, 4), 4)])
def test_one_channel_of_each_group(channels: Pair, groups: int, kernel: Pair, stride: Pair, dtype: torch.dtype) -> None:
    """Where oneDNN's kernels for channels-last memory give wrong numbers in bfloat16."""
    sizes = [(n, height, width) for n in (1, 2, 5) for height in (1, 4, 9) for width in range(1, 5)]
    check(channels, kernel, stride, (1, 1), groups, (0, 1), None, sizes, dtype)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (3, 1)])
@pytest.mark.parametrize("channels", [(1, 8), (3, 2), (64, 96), (96, 64), (8, 1)])
def test_one_by_one_kernels_run_as_products(channels: Pair, stride: Pair, activation: Elementwise | None) -> None:
    sizes = [(n, height, width) for n in (1, 5) for height in (1, 8, 9) for width in (1, 2, 7, 10)]
    check(channels, (1, 1), stride, (1, 1), 1, (0, 0), activation, sizes)


@pytest.mark.parametrize("kernel", [(1, 1), (3, 1), (5, 1)])
def test_padding_wider_than_the_kernel(kernel: Pair) -> None:
    """Where some outputs read nothing but padding, and oneDNN's kernels may crash."""
    sizes = [(2, 16, 1), (7, 17, 7), (4, 13, 13), (2, 20, 1), (1, 6, 16), (2, 10, 4)]
    for channels in ((3, 3), (4, 32), (6, 4)):
        check(channels, kernel, (2, 2), (1, 2), 1, (1, 1), None, sizes)
        check(channels, kernel, (1, 2), (2, 2), 1, (0, 1), None, sizes)


@pytest.mark.skipif(torch.float32 not in PACKED_DTYPES, reason="weights are not packed here")
def test_weights_are_packed_for_a_few_sizes_of_the_input() -> None:
    weight = torch.randn(16, 8, 3, 3)
    prepared = Convolution(weight, None, (1, 1), (1, 1), 1, None)
    with torch.inference_mode():
        for size in [*range(4, 14), *range(4, 14)]:
            x = torch.randn(2, 8, size, size + 1).contiguous(memory_format=torch.channels_last)
            assert torch.allclose(prepared(x, (0, 0)), F.conv2d(x, weight), atol=1e-5)
    assert len(prepared._packed) == 4
