"""Build a network with random weights that are the same every time.

The model's identity is its content: a network that is built anew on reopening a database must hash alike.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeVar

import torch

__all__ = ["SEED", "seeded"]

SEED = 0
_Built = TypeVar("_Built")


def seeded(build: Callable[[], _Built]) -> _Built:
    """Return what `build` returns, with torch's CPU generator seeded during the call and restored after it."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.default_generator.manual_seed(SEED)
        return build()
