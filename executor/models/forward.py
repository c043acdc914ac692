"""Check that a module classifies: one forward pass of a small zero batch, (N, C, H, W) -> (N, K).

The last step of loading; what passes here is what `obeql.executor.network` captures.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from obeql.errors import ModelError
from obeql.executor.models.bound_inputs import BoundInputs
from obeql.executor.models.loaded import LoadedModel
from obeql.executor.network.capture.outputs import (
    activation_beside,
    choose_output,
    described,
    facts_of,
    is_row,
    n_rows,
    named_outputs,
)

__all__ = ["MainOutput", "check_forward", "module_device", "module_dtype", "reason"]

#: Two, so that a batch axis that is dropped or fixed to one shows.
BATCH = 2


class MainOutput(nn.Module):
    """A network with several outputs, or with one of an unusual shape, reduced to (N, K): the output of one name."""

    def __init__(self, network: nn.Module, output: str) -> None:
        super().__init__()
        self.network = network
        self.output = output

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        row = named_outputs(self.network(image))[self.output]
        n_images = image.shape[0]
        if row.ndim == 2 and row.shape[0] == n_images:
            return row
        # (N,) of a network with one output, (N, K, 1, 1) of a fully convolutional one, (K,) of one image, squeezed
        return row.reshape(n_images, -1)


def check_forward(loaded: LoadedModel, output: str | int | None = None) -> LoadedModel:
    """Return the model with `n_classes` and `outputs` set, and, where the module returns several outputs, or a row
    that is not always (N, K), the module wrapped to return (N, K).

    Runs two zero images of the declared size, and then one, through the module under `torch.inference_mode`. `output`
    is the option of that name.

    Raises: ModelError when the forward pass fails, when the outputs are not (N, K) numbers, when it is not clear which
    of several are meant, or when the number of class names does not fit.
    """
    how = loaded.preprocessing
    shape = (BATCH, how.n_channels, *how.size)
    module = loaded.module
    zeros = torch.zeros(
        (BATCH, how.n_channels, *how.map_size), device=module_device(module), dtype=module_dtype(module)
    )
    try:
        with torch.inference_mode():
            raw, alone = module(zeros.clone()), module(zeros[:1].clone())
    except Exception as error:
        if isinstance(error, ModelError) and error.__cause__ is None:
            raise
        said = str(error) if isinstance(error, ModelError) else f"{reason(error)}."
        axes = ", ".join(how.kind.axes)
        check = f"size=({axes}{',' if how.is_signal else ''}) and channels="
        check += "rgb, bgr or gray" if how.is_image else ", a number or a list of names"
        check += ", and the shapes of what inputs binds" if isinstance(loaded.found, BoundInputs) else ""
        raise ModelError(
            f"The model fails on a batch of shape {shape}: {said} Check its input with {check}."
        ) from error
    returned = named_outputs(raw)
    if not returned:
        raise ModelError(f"The model returns {_described(raw)} instead of one (N, classes) tensor.")
    facts, looked = facts_of(returned), dict[str, torch.Tensor]()

    def look() -> dict[str, torch.Tensor]:
        looked.update(named_outputs(_of_noise(module, zeros)))
        return looked

    name = choose_output(facts, BATCH, output, len(loaded.classes), look)
    if not looked and n_rows(facts, BATCH) > 1:  # whatever says which is meant, another may be its probabilities
        look()
    row = returned[name]
    if not is_row(row.shape, BATCH):
        raise ModelError(
            f"A classifier returns (N, classes), but for an input of shape {shape} this model returns "
            f"{_described(raw if len(returned) == 1 else row)}."
        )
    if not row.is_floating_point():
        raise ModelError(f"The model returns {row.dtype} values; a classifier returns floating-point logits.")
    n_classes = row[0].numel()
    _require_names(len(loaded.classes), n_classes, loaded.raw_outputs == "value")
    single = named_outputs(alone).get(name)
    if row is not raw or row.ndim != 2 or single is None or single.shape != (1, n_classes):
        module = MainOutput(module, name).eval()
    outputs = loaded.outputs or described(facts, name)
    beside = activation_beside(looked, name)
    if beside is not None and loaded.raw_outputs is None:  # its probabilities lie beside it
        loaded = replace(loaded, raw_outputs="logits", activation=loaded.activation or beside)
    return replace(loaded, module=module, n_classes=n_classes, outputs=outputs)


def _of_noise(module: nn.Module, zeros: torch.Tensor) -> Any:
    """Return what the module returns for random images like `zeros`: of zeros, different outputs may be alike."""
    noise = torch.rand(zeros.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    with torch.inference_mode():
        return module(noise.to(zeros.device, zeros.dtype))


def _require_names(n_names: int, n_outputs: int, values: bool) -> None:
    """Raise where class names were given that are not one an output; one output may have names of no and of yes."""
    if n_names in (0, n_outputs) or (n_outputs == 1 and n_names == 2 and not values):
        return
    has = f"{n_outputs} outputs" if n_outputs != 1 else "1 output"
    allowed = ", so one name for yes, or two, for no and yes" if n_outputs == 1 and not values else ""
    given = f"{n_names} class name{'s were' if n_names != 1 else ' was'} given"
    raise ModelError(f"The model has {has}{allowed}, but {given}.")


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
