"""DINOv2 ViT-S/14 with trained weights, as a classifier whose classes are photographs.

Its file is that of `scripts/fetch_assets.py --transformer`, a network of saliency whose backbone it is. A logit is the
scaled cosine between the class token of an image and that of a photograph. timm's `VisionTransformer` computes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from obeql.executor.models.zoo.import_torchvision import torchvision

__all__ = ["MEAN", "SIZE", "STD", "dinov2"]

SIZE, MEAN, STD = 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SCALE = 20.0  # of cosines
_EMBEDDED = "/backbone/embeddings/Add_output_0"


class _ByPhotographs(nn.Module):
    """Logits (N, K) of images (N, 3, 224, 224): how near their class tokens are to `prototypes` (K, 384)."""

    def __init__(self, backbone: nn.Module, prototypes: Tensor) -> None:
        super().__init__()
        self.backbone = backbone
        self.register_buffer("prototypes", F.normalize(prototypes, dim=1))

    def forward(self, x: Tensor) -> Tensor:
        return _SCALE * F.normalize(self.backbone(x), dim=1) @ self.prototypes.t()


def dinov2(path: Path, photographs: Sequence[Any]) -> nn.Module:
    """Return the classifier of so many photographs, uint8 (H, W, 3) each, with the weights of the ONNX file."""
    backbone = _backbone(path)
    with torch.inference_mode():
        tokens = backbone(torch.stack([_input(photograph) for photograph in photographs]))
    return _ByPhotographs(backbone, tokens.clone()).eval()


def _input(photograph: Any) -> Tensor:
    pixels = torch.from_numpy(np.array(photograph)).permute(2, 0, 1)[None].float() / 255
    resized = F.interpolate(pixels, (SIZE, SIZE), mode="bilinear", antialias=True)[0]
    return (resized - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def _backbone(path: Path) -> nn.Module:
    torchvision("this benchmark")  # which timm imports
    from timm.models.vision_transformer import VisionTransformer  # noqa: PLC0415 - only this network needs it

    module = VisionTransformer(SIZE, 14, embed_dim=384, depth=12, num_heads=6, num_classes=0, init_values=1e-5)
    module.load_state_dict(_weights(onnx.load(str(path))))
    module.eval()
    assert isinstance(module, nn.Module)
    return module


def _weights(model: Any) -> dict[str, Tensor]:
    """Return the backbone's weights under timm's names."""
    held = {each.name: torch.from_numpy(numpy_helper.to_array(each).copy()) for each in model.graph.initializer}
    for node in model.graph.node:  # weights of products have no names but those of their nodes
        if node.op_type == "MatMul" and node.input[1] in held:
            name = node.name.strip("/").removesuffix("/MatMul").replace("/", ".")
            held[f"{name}.weight"] = held[node.input[1]].t().contiguous()
    found = {
        "cls_token": held["backbone.embeddings.cls_token"],
        "patch_embed.proj.weight": held["backbone.embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": held["backbone.embeddings.patch_embeddings.projection.bias"],
    }
    fixed = torch.cat([found["cls_token"], found["patch_embed.proj.bias"].expand(1, 256, -1)], 1)
    found["pos_embed"] = _embedded_black(model) - fixed
    for part in ("weight", "bias"):
        found[f"norm.{part}"] = held[f"backbone.layernorm.{part}"]
        for i in range(12):
            of, to = f"backbone.encoder.layer.{i}", f"blocks.{i}"
            keys = [held[f"{of}.attention.attention.{each}.{part}"] for each in ("query", "key", "value")]
            found[f"{to}.attn.qkv.{part}"] = torch.cat(keys)
            found[f"{to}.attn.proj.{part}"] = held[f"{of}.attention.output.dense.{part}"]
            for each in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                found[f"{to}.{each}.{part}"] = held[f"{of}.{each}.{part}"]
    for i in range(12):
        for k in (1, 2):
            found[f"blocks.{i}.ls{k}.gamma"] = held[f"backbone.encoder.layer.{i}.layer_scale{k}.lambda1"]
    return found


def _embedded_black(model: Any) -> Tensor:
    """Return the tokens (1, 257, 384) of an image of zeros, positions added, as the file computes them."""
    model.graph.output.append(onnx.helper.make_tensor_value_info(_EMBEDDED, onnx.TensorProto.FLOAT, None))
    run = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    zeros = np.zeros((1, 3, SIZE, SIZE), np.float32)
    return torch.from_numpy(run.run([_EMBEDDED], {run.get_inputs()[0].name: zeros})[0])
