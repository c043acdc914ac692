"""Whole modules that torch.save or TorchScript wrote (.pt, .pth, .pkl): refused unless the user trusts the file.

One of the URI families of `obeql.executor.models.load`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from obeql.errors import ModelError
from obeql.executor.models.found import Found
from obeql.executor.models.options import ModelOptions
from obeql.executor.models.paths import existing_file
from obeql.executor.models.preprocessing import declared_by
from obeql.executor.models.weights.weights_file import read_torch_file

__all__ = ["load_pickled", "refuse_weights"]


def load_pickled(target: str, options: ModelOptions) -> Found:
    """Return the module that a pickle or TorchScript file holds; needs trust=true, because unpickling runs code.

    Raises: ModelError without trust, for a damaged file, and for a file of weights without a network.
    """
    path = existing_file(target, "model file")
    if options.weights is not None:
        raise ModelError(f"{target!r} carries its weights; the option weights does not apply to it.")
    content = read_torch_file(path, options.trust)
    if isinstance(content, Mapping):
        content = next((item for item in content.values() if isinstance(item, nn.Module)), content)
    if not isinstance(content, nn.Module):
        raise ModelError(_only_weights(target))
    return Found(content, declared_by(content), from_code=not isinstance(content, torch.jit.ScriptModule))


def refuse_weights(target: str, options: ModelOptions) -> Found:
    """Raise the ModelError for a file that by its kind holds weights alone."""
    existing_file(target, "model file")
    raise ModelError(_only_weights(target))


def _only_weights(target: str) -> str:
    return (
        f"{target!r} holds weights without a network; name the network and give the file as an option, for example "
        f"FROM 'torchvision:resnet18' WITH weights='{target}'."
    )
