"""The max pool of shifted maxima against PyTorch's, bit by bit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from obeql.executor.kernels.box_sum import position_sums
from obeql.executor.kernels.max_pool import max_pool

pytestmark = pytest.mark.usefixtures("one_thread")


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_max_pool_is_pytorchs(data: st.DataObject) -> None:
    kernel, stride, dilation = (
        (data.draw(st.integers(1, most)), data.draw(st.integers(1, most))) for most in (4, 2, 2)
    )
    height, width = (d * (k - 1) + data.draw(st.integers(1, 9)) for k, d in zip(kernel, dilation, strict=True))
    n, channels = data.draw(st.integers(0, 5)), data.draw(st.sampled_from([1, 3, 40]))
    x = torch.randn(
        (n, channels, height, width), generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    )
    if data.draw(st.booleans()) and n:
        x[0, 0, 0, 0] = float("nan")
    x = x.contiguous(memory_format=torch.channels_last)
    expected = F.max_pool2d(x, kernel, stride, 0, dilation)
    torch.testing.assert_close(max_pool(x, kernel, stride, dilation), expected, rtol=0, atol=0, equal_nan=True)


def test_max_pool_works_through_chunks() -> None:
    x = torch.randn(7, 512, 20, 20).contiguous(memory_format=torch.channels_last)
    assert torch.equal(max_pool(x, (3, 3), (1, 1), (1, 1)), F.max_pool2d(x, 3, 1))


def test_position_sums() -> None:
    x = torch.randn(5, 6, 4, 3).contiguous(memory_format=torch.channels_last)
    expected = x.double().sum((2, 3))
    torch.testing.assert_close(position_sums(x), expected, rtol=1e-14, atol=1e-14)
    assert torch.equal(position_sums(x)[2:3], position_sums(x[2:3]))
