"""Which axis of a traced tensor is which: permutes and reshapes followed symbolically.

Used by `lower`. Networks move axes about (NHWC blocks, channel shuffles, flatten). Instead of executing those moves,
lowering keeps every map in canonical order (N, C, H, W), of volumes (N, C, D, H, W), and remembers how the traced
tensor looks at it.

A traced axis is a group of atoms; an atom is a run of one canonical axis. (N, C, H, W) is ((N), (C), (H), (W)); after a
view to (N, g, C/g, H, W) the channel axis is two atoms; after flatten the last group is (C, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
    "Atom",
    "Axes",
    "axis_names",
    "canonical",
    "channel_order",
    "group_size",
    "joined",
    "permuted",
    "positions",
    "reshaped",
]


@dataclass(frozen=True, slots=True)
class Atom:
    """`size` positions of canonical axis `axis`, `step` apart: position i of the atom stands for i * step."""

    axis: str
    size: int
    step: int = 1


#: One group of atoms for each axis of the traced tensor; an empty group is an axis of size 1.
Axes = tuple[tuple[Atom, ...], ...]


def canonical(batch: int, shape: Sequence[int]) -> Axes:
    """Return the axes of a tensor that is already in canonical order: (N, C, ...) or (N, K)."""
    axes = zip("N" + axis_names(shape), (batch, *shape), strict=True)
    return tuple((Atom(axis, size),) if size != 1 else () for axis, size in axes)


def axis_names(shape: Sequence[int]) -> str:
    """Return the letters of a layer's output without the batch axis: "C" of a vector, "CHW" or "CDHW" of a map."""
    return "C" + "DHW"[4 - len(shape) :]


def positions(shape: Sequence[int]) -> tuple[Atom, ...]:
    """Return the group that runs through all positions of a map (C, ...), the last axis fastest."""
    axes = zip(axis_names(shape)[1:], shape[1:], strict=True)
    return tuple(Atom(axis, size) for axis, size in axes if size != 1)


def permuted(axes: Axes, order: Sequence[int]) -> Axes:
    return tuple(axes[i] for i in order)


def group_size(group: tuple[Atom, ...]) -> int:
    return math.prod(atom.size for atom in group)


def reshaped(axes: Axes, shape: Sequence[int]) -> Axes | None:
    """Return the axes after a view to `shape`, or None if that would mix axes in a way atoms cannot express."""
    pending = [atom for group in axes for atom in group]
    groups: list[tuple[Atom, ...]] = []
    for size in shape:
        group: list[Atom] = []
        filled = 1
        while filled < size:
            if not pending:
                return None
            atom = pending.pop(0)
            if filled * atom.size <= size:
                if size % (filled * atom.size):
                    return None
                group.append(atom)
                filled *= atom.size
                continue
            # Only the leading part of this atom belongs to the group: split it in two.
            lead, rest = divmod(size, filled)
            if rest or atom.size % lead:
                return None
            group.append(Atom(atom.axis, lead, atom.step * (atom.size // lead)))
            pending.insert(0, Atom(atom.axis, atom.size // lead, atom.step))
            filled = size
        groups.append(joined(group))
    return tuple(groups) if not pending else None


def joined(group: Sequence[Atom]) -> tuple[Atom, ...]:
    """Join neighbouring atoms that together are one longer run."""
    runs: list[Atom] = []
    for atom in group:
        last = runs[-1] if runs else None
        if last is not None and last.axis == atom.axis and last.step == atom.size * atom.step:
            runs[-1] = Atom(atom.axis, last.size * atom.size, atom.step)
        else:
            runs.append(atom)
    return tuple(runs)


def channel_order(group: tuple[Atom, ...], n_channels: int) -> list[int] | None:
    """Return the channels in the order a group of C atoms runs through them; None when that is 0, 1, 2, ..."""
    order = [0]
    for atom in group:
        order = [base + i * atom.step for base in order for i in range(atom.size)]
    return None if order == list(range(n_channels)) else order
