"""The networks and images that approximate maps are measured on, and what refining them costs.

Those of `scripts/fetch_assets.py --photos`; `fashion` are those of `scripts/train_resnet18.py`, and `transformer` looks
at the photographs with the network of `scripts/fetch_assets.py --photos --transformer`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import obeql
from benchmarks.approx.dinov2 import MEAN, SIZE, STD, dinov2
from benchmarks.networks import network
from obeql.executor.models.zoo.import_torchvision import torchvision
from obeql.planner.physical.plan import CostShares

DATA = Path(os.environ.get("OBEQL_DATA", "data"))
SCANS, PHOTOS, FASHION, TRANSFORMER = "scans", "photos", "fashion", "transformer"
KINDS = (SCANS, PHOTOS, FASHION, TRANSFORMER)
#: classes whose maps are stored
CLASSES = {SCANS: "ALL", PHOTOS: "TOP 3", FASHION: "TOP 2", TRANSFORMER: "TOP 2"}
HEAD = "EXPLAIN OCCLUDE {images} USING {model} FOR {classes} WITH patch=16 stride=4 precision={precision} "
#: what refining costs, in exact cells of whole grids: measured on the machine of the committed results
PRICES = {
    SCANS: CostShares(0.001, 0.01, 0.54),
    PHOTOS: CostShares(0.005, 0.01, 0.6),
    FASHION: CostShares(0.004, 0.015, 0.5),
    TRANSFORMER: CostShares(0.0002, 0.0),
}


def session(path: str = ":memory:", kinds: Sequence[str] = (SCANS, PHOTOS, FASHION)) -> obeql.Session:
    """A session with the networks of these kinds."""
    db = obeql.connect(path)
    if SCANS in kinds:
        db.execute(
            f"CREATE OR REPLACE MODEL scans FROM '{DATA}/tumour/vgg16.onnx' "
            "WITH classes=['glioma', 'meningioma', 'notumor', 'pituitary']"
        )
    if PHOTOS in kinds:
        lite = network("efficientnet_lite0")
        look = {"size": 224, "resize": "shortest", "edge": 256, "interpolation": "bicubic", "mean": 127 / 255}
        db.create_model("photos", lite, replace=True, std=128 / 255, **look)
    if FASHION in kinds and (DATA / "resnet18").is_dir():
        db.create_model("fashion", _resnet18(), replace=True, size=224)
    if TRANSFORMER in kinds:
        db.create_model("transformer", _transformer(), replace=True, size=SIZE, mean=MEAN, std=STD)
    return db


def _transformer() -> torch.nn.Module:
    return dinov2(DATA / "dinov2" / "vit_s_focus.onnx", list(images(TRANSFORMER).values())[:8])


def _resnet18() -> torch.nn.Module:
    """The residual network of `scripts/train_resnet18.py`, with its weights."""
    module = torchvision("this benchmark").models.resnet18(weights=None, num_classes=10)
    module.load_state_dict(torch.load(DATA / "resnet18" / "fashion.pt", weights_only=True))
    module = module.eval().to(memory_format=torch.channels_last)
    assert isinstance(module, torch.nn.Module)
    return module


def images(kind: str) -> dict[str, Any]:
    """Images by name: 17 scans, 8 photographs and the halves of the wide ones, or test pictures of Fashion-MNIST."""
    if kind not in (PHOTOS, TRANSFORMER):
        folder = DATA / "mri" if kind == SCANS else DATA / "resnet18" / "test"
        return {path.stem: str(path) for path in sorted(folder.iterdir()) if path.suffix in (".jpg", ".png")}
    found: dict[str, Any] = {}
    for path in sorted((DATA / "photos").iterdir()):
        pixels = np.asarray(Image.open(path).convert("RGB"))
        found[path.stem] = pixels
        if pixels.shape[1] > 1.4 * pixels.shape[0]:
            middle = pixels.shape[1] // 2
            found[f"{path.stem} left"] = np.ascontiguousarray(pixels[:, :middle])
            found[f"{path.stem} right"] = np.ascontiguousarray(pixels[:, middle:])
    return found


def module_of(kind: str) -> tuple[torch.nn.Module, int]:
    """The network as a plain user would run it; the scans' VGG16 has torchvision's layers and 240 pixels."""
    if kind in (FASHION, TRANSFORMER):
        return _resnet18() if kind == FASHION else _transformer(), 224
    return (network("vgg16"), 240) if kind == SCANS else (network("efficientnet_lite0"), 224)
