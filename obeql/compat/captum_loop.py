"""Captum's own way through the windows: the forward function on each of them, `perturbations_per_eval` at a time.

Taken by `captum` for everything that the incremental engine is not for: several inputs, other arguments, functions that
are no module, networks in training mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from obeql.compat.attribution import Attribution, as_tensor
from obeql.compat.captum_arguments import Baseline, Windows
from obeql.compat.targets import expand_target, select_targets

__all__ = ["as_forward", "run_loop"]

#: inputs and other arguments, to what the forward function returns
Forward = Callable[[Sequence[Tensor], tuple[Any, ...] | None], Any]
#: an input's number, and what a window hides of it
Hidden = tuple[int, tuple[slice, ...]]


def as_forward(forward_func: Callable[..., Any]) -> Forward:
    """Return the forward function as one of inputs and of the tuple of other arguments, or None.

    One without parameters is called without any. Where a call fails for a module whose weights are on another device
    than the inputs, the error says so.
    """
    if not signature(forward_func).parameters:  # asked once: it takes as long as a small network
        return lambda inputs, extra: forward_func()

    def forward(inputs: Sequence[Tensor], extra: tuple[Any, ...] | None) -> Any:
        try:
            return forward_func(*inputs, *(extra or ()))
        except (RuntimeError, NotImplementedError) as error:
            elsewhere = _device_elsewhere(forward_func, inputs)
            if elsewhere is None:
                raise
            raise type(error)(
                f"The module is on {elsewhere} and the input on {inputs[0].device}: move one of them, as in "
                f"inputs.to('{elsewhere}')."
            ) from error

    return forward


def run_loop(
    forward: Forward,
    inputs: tuple[Tensor, ...],
    windows: tuple[Windows, ...],
    baselines: tuple[Baseline, ...],
    target: Any,
    extra: tuple[Any, ...] | None,
    per_eval: int,
    attribution: Attribution,
    tell: Callable[[], object],
) -> None:
    """Run the forward function with every window of every input hidden; `tell` is called after each batch.

    Raises AssertionError where outputs do not grow with the batch but have to.
    """
    todo = [(number, where) for number, each in enumerate(windows) for where in each]
    for start in range(0, len(todo), per_eval):
        part = todo[start : start + per_eval]
        if all(inputs[number].numel() == 0 for number, _ in part):
            continue
        n = len(part)
        batch = tuple(_hidden(x, baselines[i], i, part) for i, x in enumerate(inputs))
        output = as_tensor(select_targets(forward(batch, _expanded(extra, n)), expand_target(target, n)))
        if per_eval > 1:
            _require_growth(output, n, attribution.n_outputs)
        found = output.reshape(n, -1)
        tell()
        for number in sorted({number for number, _ in part}):
            rows = [row for row, (i, _) in enumerate(part) if i == number]
            attribution.add(number, [part[row][1] for row in rows], found[rows])


def _hidden(x: Tensor, baseline: Baseline, number: int, part: Sequence[Hidden]) -> Tensor:
    """Return copies of input (N, ...), one for each window, with those over it hidden: (windows * N, ...)."""
    n = len(part)
    copies = torch.cat([x] * n) if n > 1 else x
    if all(i != number for i, _ in part):
        return copies
    mask = torch.zeros((n, 1, *x.shape[1:]), device=x.device, dtype=torch.float32)
    for row, where in _of(number, part):
        mask[row, 0][where] = 1
    if isinstance(baseline, Tensor):
        baseline = baseline.reshape((1, *baseline.shape))
    # Multiplied as Captum does it, which keeps what is no number and takes the dtype of a baseline of another one.
    stacked = copies.reshape((n, -1, *x.shape[1:])) * (1 - mask).to(x.dtype) + baseline * mask.to(x.dtype)
    return stacked.reshape(copies.shape)


def _of(number: int, part: Sequence[Hidden]) -> Iterator[tuple[int, tuple[slice, ...]]]:
    return ((row, where) for row, (i, where) in enumerate(part) if i == number)


def _expanded(extra: tuple[Any, ...] | None, n: int) -> tuple[Any, ...] | None:
    """Return the other arguments of so many copies of the inputs; what is no tensor stays one."""
    if extra is None or n == 1:
        return extra
    return tuple(torch.cat([each] * n) if isinstance(each, Tensor) and each.dim() else each for each in extra)


def _require_growth(output: Tensor, n: int, n_outputs: int) -> None:
    assert output.dim() and output.numel() == n * n_outputs, (
        f"With perturbations_per_eval above 1 the output has one row more for each window in a batch, but {n} windows "
        f"gave the shape {tuple(output.shape)} where one gives {n_outputs} values: say perturbations_per_eval=1."
    )


def _device_elsewhere(forward_func: Any, inputs: Sequence[Tensor]) -> torch.device | None:
    """Return the device of a module's weights where all of them are on one that no input is on."""
    if not isinstance(forward_func, torch.nn.Module) or not inputs:
        return None
    devices = {tensor.device for tensor in (*forward_func.parameters(), *forward_func.buffers())}
    return next(iter(devices)) if len(devices) == 1 and inputs[0].device not in devices else None
