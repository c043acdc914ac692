"""Check that a module classifies: one forward pass of a small zero batch, (N, C, H, W) -> (N, K).

The last step of loading; what passes here is what `obeql.executor.network` captures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from obeql.errors import ModelError
from obeql.executor.models.loaded import LoadedModel

__all__ = ["MainOutput", "check_forward", "main_output", "module_device", "module_dtype", "reason"]

#: Two, so that a batch axis that is dropped or fixed to one shows.
BATCH = 2


class MainOutput(nn.Module):
    """A network with several outputs, or with outputs of an unusual shape, reduced to its (N, K) main output."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = main_output(self.network(image))
        if output.ndim == 1:
            return output.unsqueeze(1)  # (N,) of a two-class network
        return output.flatten(1) if output.ndim > 2 else output  # (N, K, 1, 1) of a fully convolutional one


def main_output(output: Any) -> Any:
    """Return `.logits` or `['logits']` where there is one, else the first of several outputs, else the output."""
    if isinstance(output, torch.Tensor):
        return output
    if isinstance(getattr(output, "logits", None), torch.Tensor):
        return output.logits
    if isinstance(output, Mapping):
        return main_output(output["logits"] if "logits" in output else next(iter(output.values()), None))
    if isinstance(output, tuple | list) and output:
        return main_output(output[0])
    return output


def check_forward(loaded: LoadedModel) -> LoadedModel:
    """Return the model with `n_classes` set, `activation` settled for one output, and, where the module returns
    auxiliary outputs or (N,) or (N, K, 1, 1), the module wrapped to return (N, K).

    Runs two zero images of the declared size through the module under `torch.inference_mode`.

    Raises: ModelError when the forward pass fails, when the outputs are not (N, K) numbers, or when the number of
    class names is not K.
    """
    height, width = loaded.preprocessing.size
    shape = (BATCH, 1 if loaded.preprocessing.channels == "gray" else 3, height, width)
    module = loaded.module
    zeros = torch.zeros(shape, device=module_device(module), dtype=module_dtype(module))
    try:
        with torch.inference_mode():
            raw = module(zeros)
    except Exception as error:
        if isinstance(error, ModelError) and error.__cause__ is None:
            raise
        said = str(error) if isinstance(error, ModelError) else f"{reason(error)}."
        raise ModelError(
            f"The model fails on a batch of shape {shape}: {said} "
            f"Check its input with size=(height, width) and channels=rgb, bgr or gray."
        ) from error
    output = main_output(raw)
    if not isinstance(output, torch.Tensor):
        raise ModelError(f"The model returns {_described(raw)} instead of one (N, classes) tensor.")
    plain = output.ndim == 1 or (output.ndim > 2 and output.shape[2:].numel() == 1)
    if output.shape[:1] != (BATCH,) or not (output.ndim == 2 or plain) or output.numel() == 0:
        raise ModelError(
            f"A classifier returns (N, classes), but for an input of shape {shape} this model returns "
            f"{_described(raw)}."
        )
    if not output.is_floating_point():
        raise ModelError(f"The model returns {output.dtype} values; a classifier returns floating-point logits.")
    n_classes = output[0].numel()
    if loaded.classes and len(loaded.classes) != n_classes:
        raise ModelError(f"The model has {n_classes} outputs, but {len(loaded.classes)} class names were given.")
    if output is not raw or output.ndim != 2:
        module = MainOutput(module).eval()
    activation = "sigmoid" if n_classes == 1 else loaded.activation
    return replace(loaded, module=module, n_classes=n_classes, activation=activation)


def module_device(module: nn.Module) -> torch.device:
    """Return the device of the module's first parameter or buffer; the CPU without any."""
    for tensor in (*module.parameters(), *module.buffers()):
        return tensor.device
    return torch.device("cpu")


def module_dtype(module: nn.Module) -> torch.dtype:
    """Return the dtype of the module's first floating-point parameter; float32 without any."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)


def reason(error: BaseException) -> str:
    """Return the first line of an error's message, at most 200 characters, without a final full stop."""
    line = str(error).strip().partition("\n")[0].strip() or type(error).__name__
    return (line if len(line) <= 200 else line[:197] + "...").rstrip(".")


def _described(output: Any) -> str:
    if isinstance(output, torch.Tensor):
        return f"shape {tuple(output.shape)}"
    if isinstance(output, tuple | list):
        shapes = ", ".join(_described(item) for item in output[:3])
        return f"a {type(output).__name__} of {len(output)} ({shapes}{', ...' if len(output) > 3 else ''})"
    return f"a {type(output).__name__}"
