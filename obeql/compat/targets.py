"""Which of a network's outputs are explained: Captum's `target`, in all of its forms.

Used by `captum` on the outputs of the inputs themselves and of those with windows hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["expand_target", "select_targets"]


def select_targets(output: Any, target: Any) -> Any:
    """Return the outputs that `target` names of output (N, ...); all of it for None.

    An integer, or a tensor of one, names an index of the second axis; a tuple one index an axis. A list, or a tensor
    (N,), has one of these for each of the N. Raises AssertionError for other forms, IndexError or RuntimeError for an
    index that is out of range.
    """
    if target is None:
        return output
    if isinstance(target, Tensor) and target.numel() == 1 and isinstance(target.item(), int):
        target = target.item()
    if isinstance(target, (int, tuple)):
        return _column(output, (target,) if isinstance(target, int) else target)
    if isinstance(target, Tensor):
        assert target.dim() == 1 and target.numel() == output.shape[0], (
            f"A tensor as target has one class for each of the {output.shape[0]} rows of the output, not the shape "
            f"{tuple(target.shape)}."
        )
        return _one_each(output, target)
    assert isinstance(target, list), f"target is an integer, a tuple, a list or a tensor, not {type(target).__name__}."
    assert len(target) == output.shape[0], (
        f"The list of targets has {len(target)} entries for {output.shape[0]} rows of the output."
    )
    if isinstance(target[0], int):
        return _one_each(output, torch.tensor(target, device=output.device))
    assert isinstance(target[0], tuple), f"A list of targets holds integers or tuples, not {type(target[0]).__name__}."
    return torch.stack([_element(output, (row, *each)) for row, each in enumerate(target)])


def expand_target(target: Any, n_times: int) -> Any:
    """Return the target of so many copies of the inputs, one after the other."""
    if isinstance(target, list):
        return target * n_times
    if isinstance(target, Tensor) and target.numel() > 1:
        return torch.cat([target] * n_times, dim=0)
    return target


def _column(output: Tensor, index: Sequence[Any]) -> Tensor:
    if output.dim() == 0:
        raise IndexError(f"The target {tuple(index)} is out of range: the output is one number; leave target out.")
    assert len(index) <= output.dim() - 1, (
        f"The target {tuple(index)} has more indices than the output {tuple(output.shape)} has axes after the first."
    )
    return _element(output, (slice(None), *index))


def _element(output: Tensor, index: tuple[Any, ...]) -> Tensor:
    try:
        return output[index]
    except IndexError as error:
        raise IndexError(_out_of_range(index[1:], output)) from error


def _one_each(output: Tensor, classes: Tensor) -> Tensor:
    assert output.dim() == 2, (
        f"One class a row needs an output (N, classes), not {tuple(output.shape)}; give a list of tuples."
    )
    try:
        return torch.gather(output, 1, classes.reshape(len(output), 1)).squeeze(-1)
    except RuntimeError as error:
        raise RuntimeError(_out_of_range(classes.tolist(), output)) from error


def _out_of_range(target: Any, output: Tensor) -> str:
    return f"The target {target} is out of range for an output of shape {tuple(output.shape)}; indices begin at 0."
