"""Import torchvision, also where a CPU build of torch meets a torchvision built for CUDA.

There its compiled operators are missing and `import torchvision` dies with "operator torchvision::nms does not
exist" (pytorch/vision #9077, #9085). Declaring the two schemas that its fake kernels attach to lets the import pass:
models and transforms then work, detection operators do not. A torchvision that imports is left alone.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import torch

from obeql.errors import ModelError, install

__all__ = ["is_mismatched", "torchvision"]

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
# A library's schemas vanish with the object, so it lives as long as the process.
_declared: list[torch.library.Library] = []


def torchvision(what: str) -> Any:
    """Return the torchvision package. Raises: ModelError naming `what` needs it, when it is missing or broken."""
    try:
        return _import()
    except ImportError:
        raise ModelError(f"{what} needs torchvision; {install('vision')}.") from None
    except RuntimeError as error:
        line = str(error).partition("\n")[0]
        raise ModelError(f"{what} needs torchvision, and importing it failed: {line}.") from error


def is_mismatched(error: Exception) -> bool:
    """Return whether an import failed because torchvision was built for another torch than the one installed."""
    return isinstance(error, RuntimeError) and "torchvision::nms" in str(error)


def _import() -> Any:
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if not is_mismatched(error) or _declared:
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    library.define("nms" + _SCHEMA)  # type: ignore[no-untyped-call]
    library.define("qnms" + _SCHEMA)  # type: ignore[no-untyped-call]
    _declared.append(library)
    return importlib.import_module("torchvision")
