"""Models from a Python function: python:package.module:factory, where factory() returns an nn.Module.

One of the URI families of `obeql.executor.models.load`.
"""

from __future__ import annotations

import re

from torch import nn

from obeql.errors import ModelError, nearest
from obeql.executor.models.forward import reason
from obeql.executor.models.found import Found
from obeql.executor.models.fresh_import import import_fresh
from obeql.executor.models.identity.snapshot import snapshot
from obeql.executor.models.options import ModelOptions
from obeql.executor.models.paths import existing_file
from obeql.executor.models.preprocessing import declared_by
from obeql.executor.models.seeded import seeded
from obeql.executor.models.weights.weights_file import fit_weights, read_tensors
from obeql.executor.models.zoo.import_torchvision import is_mismatched, torchvision

__all__ = ["load_factory"]

_TARGET = re.compile(r"(?P<module>[^\W\d]\w*(?:\.[^\W\d]\w*)*):(?P<factory>[^\W\d]\w*(?:\.[^\W\d]\w*)*)")


def load_factory(target: str, options: ModelOptions) -> Found:
    """Return what package.module:factory returns, called without arguments, with the weights of a file if one is said.

    The module is imported as its files are now. Torch's generator is seeded during the call, so that random weights are
    the same on every call.

    Raises: ModelError when the module cannot be imported, the factory fails, or it returns no nn.Module.
    """
    match = _TARGET.fullmatch(target)
    if match is None:
        raise ModelError(f"'python:{target}' must have the form python:package.module:factory.")
    try:
        value = _module(match["module"])
    except Exception as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == match["module"].partition(".")[0]
        raise ModelError(
            f"The Python module {match['module']!r} cannot be imported: {type(error).__name__}: {reason(error)}."
            f"{' It must be installed or on PYTHONPATH.' if missing else ''}"
        ) from error
    for part in match["factory"].split("."):
        if not hasattr(value, part):
            names = [name for name in dir(value) if not name.startswith("_")]
            raise ModelError(f"The Python module {match['module']!r} has no {part!r}.{nearest(part, names)}")
        value = getattr(value, part)
    if isinstance(value, nn.Module):
        module: object = value
    elif callable(value):
        try:
            module = seeded(value)
        except Exception as error:
            raise ModelError(
                f"python:{target} failed when called without arguments: {type(error).__name__}: {reason(error)}."
            ) from error
    else:
        raise ModelError(f"python:{target} is a {type(value).__name__}, not a function that returns an nn.Module.")
    if not isinstance(module, nn.Module):
        raise ModelError(f"python:{target} returned a {type(module).__name__} instead of an nn.Module.")
    if options.weights is not None:
        path = existing_file(options.weights, "weights file")
        fit_weights(module, read_tensors(path, options.trust), path)
    copy = snapshot(module)  # it may hand out one that it keeps
    return Found(copy, declared_by(copy), from_code=True)


def _module(name: str) -> object:
    """Import a user's module, also one that imports a torchvision built for another torch."""
    try:
        return import_fresh(name)
    except RuntimeError as error:
        if not is_mismatched(error):
            raise
    torchvision(f"the Python module {name!r}")
    return import_fresh(name)
