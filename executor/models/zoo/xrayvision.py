"""Networks of torchxrayvision, told by their attributes: what their input is and what their outputs are called.

Asked for every live module and Python factory by `obeql.executor.models.load`; the package itself is not needed.
"""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from obeql.executor.models.found import Found
from obeql.executor.models.preprocessing import Declared

__all__ = ["with_xrayvision"]

NOTE = (
    "Taken for a network of torchxrayvision (it has pathologies and op_threshs): one channel in -1024..1024, and "
    "classes that do not exclude each other. Options say otherwise."
)

#: Pixels in 0..1 to -1024..1024, as `torchxrayvision.datasets.normalize`; the center, as its XRayCenterCrop.
INPUT = Declared(
    size=(224, 224), resize="shortest", interpolation="bilinear", channels="gray", mean=(0.5,), std=(1 / 2048,)
)


def with_xrayvision(found: Found) -> Found:
    """Return what was found with what a network of torchxrayvision declares, where its module is one."""
    module = found.module
    names = getattr(module, "pathologies", None)
    if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) for name in names):
        return found
    if not hasattr(module, "op_threshs"):
        return found
    # Heads of weights for fewer findings have outputs without a name.
    classes = tuple(name or f"output {number}" for number, name in enumerate(names))
    thresholds = module.op_threshs is not None or bool(getattr(module, "apply_sigmoid", False))
    return replace(
        found,
        declared=_with_size(module),
        classes=classes,
        raw_outputs="probabilities" if thresholds else None,
        activation="sigmoid",
        notes=(*found.notes, NOTE),
    )


def _with_size(module: nn.Module) -> Declared:
    """Return the input of a network; the ResNets are for 512 pixels, and say so in `weights`."""
    side = 512 if "res512" in str(getattr(module, "weights", "")) else 224
    return replace(INPUT, size=(side, side))
