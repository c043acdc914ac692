"""Captum's `Occlusion`: its constructor, its arguments, its numbers; faster where a module can be run incrementally.

`from obeql.compat.captum import Occlusion` in place of `from captum.attr import Occlusion`. Arguments are checked in
`captum_arguments`; windows go through `live_network`, or through `captum_loop` where that does not apply.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from obeql.compat.attribution import Attribution, as_tensor
from obeql.compat.captum_arguments import Baseline, Windows, as_tuple, baselines_of, require_count, windows_of
from obeql.compat.captum_loop import as_forward, run_loop
from obeql.compat.live_network import live_network, share_of
from obeql.compat.targets import expand_target, select_targets
from obeql.planner.grid import AxisGrid, WindowGrid

__all__ = ["Occlusion"]


class Occlusion:
    """Hide one window of the input after the other and attribute the difference of the output to what was hidden.

    The interface of `captum.attr.Occlusion` 0.9. `forward_func` is a module, or any function of the inputs.
    """

    def __init__(self, forward_func: Callable[..., Any]) -> None:
        self.forward_func = forward_func
        self.use_weights = True

    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        sliding_window_shapes: tuple[int, ...] | tuple[tuple[int, ...], ...],
        strides: int | tuple[int, ...] | tuple[int | tuple[int, ...], ...] | None = None,
        baselines: Baseline | tuple[Baseline, ...] | None = None,
        target: Any = None,
        additional_forward_args: Any = None,
        perturbations_per_eval: int = 1,
        show_progress: bool = False,
    ) -> Any:
        """Return for each element of the inputs what hiding it costs on average: output - output with it hidden.

        `inputs` (N, ...) or a tuple of these; a window and a stride have one entry for each axis but the first. The
        result has the shape of the inputs, or as many rows as outputs were chosen, in float32, a tuple for a tuple.
        `target` is as `select_targets` takes it. Where the module runs incrementally, batches are chosen by memory and
        measured speed, and `perturbations_per_eval` does not count.

        Raises AssertionError for arguments that do not fit each other, IndexError or RuntimeError for a target that is
        out of range, and what the forward function raises.
        """
        tensors = as_tuple(inputs)
        windows = windows_of(tensors, sliding_window_shapes, strides)
        filled = baselines_of(tensors, baselines)
        require_count(perturbations_per_eval)
        extra = additional_forward_args
        if extra is not None and not isinstance(extra, tuple):
            extra = (extra,)
        n_batches = -(-sum(each.n_windows for each in windows) // perturbations_per_eval)
        with (
            torch.no_grad(),
            tqdm(
                desc=f"{self.get_name()} attribution", total=n_batches + 1, mininterval=0.5, disable=not show_progress
            ) as bar,
        ):
            forward = as_forward(self.forward_func)
            returned = forward(tensors, extra)
            attribution = Attribution(as_tensor(select_targets(returned, target)), tensors, windows)
            bar.update()

            def tell(share: float) -> None:
                bar.update(int(share * n_batches) + 1 - bar.n)

            if not self._incremental(tensors, windows, filled, target, extra, returned, attribution, tell):
                run_loop(
                    forward,
                    tensors,
                    windows,
                    filled,
                    target,
                    extra,
                    perturbations_per_eval,
                    attribution,
                    bar.update,
                )
            found = attribution.mean()
        return found if isinstance(inputs, tuple) else found[0]

    def attribute_future(self) -> None:
        """Raise NotImplementedError, as Captum does."""
        raise NotImplementedError("attribute_future is not implemented for Occlusion; call attribute().")

    def has_convergence_delta(self) -> bool:
        """Return False: differences of outputs have no delta."""
        return False

    @classmethod
    def get_name(cls) -> str:
        """Return the name of the method."""
        return cls.__name__

    def _incremental(
        self,
        tensors: tuple[Tensor, ...],
        windows: tuple[Windows, ...],
        baselines: tuple[Baseline, ...],
        target: Any,
        extra: tuple[Any, ...] | None,
        returned: Any,
        attribution: Attribution,
        tell: Callable[[float], None],
    ) -> bool:
        """Add what the incremental engine finds; False where it does not apply, and nothing was added.

        `returned` are the outputs for the inputs themselves.
        """
        (x, *others), (each, *_), (baseline, *_) = tensors, windows, baselines
        if others or extra or x.dim() not in (4, 5) or not isinstance(returned, Tensor):
            return False
        fill = _as_fill(baseline, x)
        if fill is None:
            return False
        module = self.forward_func
        network = live_network(module, x, returned, each.n_windows)
        if network is None or not isinstance(module, torch.nn.Module):
            return False
        channels, *axes = each.axes
        grid = _grid(each.shape[1:], axes)
        found = []
        for number, (first, n_channels) in enumerate(channels):
            hidden = fill
            if n_channels < x.shape[1]:  # the other channels stay what they are
                hidden = x.clone()
                hidden[:, first : first + n_channels] = fill.expand_as(x)[:, first : first + n_channels]
            outputs = network.outputs(module, x, hidden, grid, returned, share_of(tell, number, len(channels)))
            if outputs is None:
                return False
            found.append(outputs)
        for (first, n_channels), outputs in zip(channels, found, strict=True):
            hidden_channels = slice(first, first + n_channels)
            where = [
                (hidden_channels, *(slice(start, start + length) for start, length in box)) for box in product(*axes)
            ]
            n_windows, n_images, n_classes = outputs.shape
            flat = outputs.reshape(n_windows * n_images, n_classes)
            attribution.add(0, where, select_targets(flat, expand_target(target, n_windows)).reshape(n_windows, -1))
        return True


def _as_fill(baseline: Baseline, x: Tensor) -> Tensor | None:
    """Return what hides windows of x (N, C, ...), (1, C, 1, ...) or of x's shape; None for a form of its own."""
    if not isinstance(baseline, Tensor):
        return torch.full((1, x.shape[1], *(1,) * (x.dim() - 2)), baseline, dtype=x.dtype, device=x.device)
    if (baseline.dtype, baseline.device) != (x.dtype, x.device) or baseline.dim() > x.dim():
        return None
    try:
        return baseline.expand_as(x)
    except RuntimeError:
        return None


def _grid(shape: Sequence[int], axes: Sequence[tuple[tuple[int, int], ...]]) -> WindowGrid:
    """Return the windows of spatial axes, (start, length) each, over an input of `shape` as the operators know them."""
    grids = (
        AxisGrid(size, tuple(start for start, _ in axis), tuple(length for _, length in axis))
        for size, axis in zip(shape, axes, strict=True)
    )
    strides = (axis[1][0] - axis[0][0] if len(axis) > 1 else axis[0][1] for axis in axes)
    return WindowGrid(tuple(grids), tuple(axis[0][1] for axis in axes), tuple(strides), "clip")
