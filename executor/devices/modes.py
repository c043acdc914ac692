"""PyTorch as it is by itself, whatever modes the calling program has set.

A model computes what its weights say in the precision that the statement names: not in that of an `autocast` around the
call, not in one that the program has set for all products, and not on its default device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from obeql.planner.binding.settings import DEVICES

__all__ = ["products_in", "without_modes"]


#: Kinds of devices that PyTorch may be told to change precision on.
_KINDS = tuple(kind for kind in DEVICES if kind != "auto")


@contextmanager
def without_modes(inference: bool = False) -> Iterator[None]:
    """Leave out the caller's autocast and default device, and be in inference mode or not."""
    with ExitStack() as stack:
        for kind in _KINDS:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        stack.enter_context(torch.inference_mode(inference))
        yield


@contextmanager
def products_in(tf32: bool, on_gpu: bool) -> Iterator[None]:
    """Multiply float32 numbers as such, or in tf32 on a GPU, and put PyTorch's settings back afterwards.

    PyTorch has two ways to set this, and refuses to read the older one where a program has used the newer alone. So
    the newer one is used there, and the older, which changes less, elsewhere.
    """
    backends: Any = torch.backends
    cudnn, matmul, mkldnn = backends.cudnn, backends.cuda.matmul, backends.mkldnn
    if not on_gpu:
        with _set((mkldnn.matmul, mkldnn.conv, mkldnn.rnn), "fp32_precision", "ieee", but=("none", "ieee")):
            yield
        return
    try:
        _ = cudnn.allow_tf32, matmul.allow_tf32
        setting = _set((cudnn, matmul), "allow_tf32", tf32)
    except RuntimeError:
        setting = _set((cudnn.conv, cudnn.rnn, matmul), "fp32_precision", "tf32" if tf32 else "ieee")
    with setting:
        yield


@contextmanager
def _set(places: tuple[Any, ...], name: str, value: Any, but: tuple[Any, ...] = ()) -> Iterator[None]:
    """Set an attribute of several objects for a while, but not where it has one of the values of `but`."""
    before = [(place, getattr(place, name)) for place in places]
    changed = [(place, old) for place, old in before if old != value and old not in but]
    try:
        for place, _ in changed:
            setattr(place, name, value)
        yield
    finally:
        for place, old in changed:
            setattr(place, name, old)
