"""A network's other inputs, bound to constants: `inputs={'age': 0.5}`.

The URI families say which inputs a network declares; `split_inputs` tells the image from the others and makes tensors
of what the option holds. Files bind them inside their graphs, modules of Python code are wrapped in `BoundInputs`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from obeql.errors import ModelError, nearest
from obeql.planner.binding.input_values import InputValue

__all__ = ["BoundInputs", "BoundValue", "DeclaredInput", "bind_module", "split_inputs"]


@dataclass(frozen=True, slots=True)
class DeclaredInput:
    """An input as its network declares it: `shape` with None for a free axis; None where nothing is declared."""

    name: str
    shape: tuple[int | None, ...] | None = None
    dtype: torch.dtype | None = None
    required: bool = True

    @property
    def shown(self) -> str:
        """The name with shape and number format, for messages."""
        sizes = self.shape and ", ".join("?" if size is None else str(size) for size in self.shape)
        shape = "" if self.shape is None else f" ({sizes or ''}{',' if len(self.shape) == 1 else ''})"
        return f"'{self.name}'{shape}{f' {self.dtype}'.replace('torch.', '') if self.dtype else ''}"


@dataclass(frozen=True, slots=True, eq=False)
class BoundValue:
    """The constant of an input. `each_image`: its first axis is 1 and stands for the images of a batch."""

    tensor: Tensor
    each_image: bool

    def of(self, tensor: Any, n_images: int) -> Any:
        """Return `tensor`, which holds the value, for a batch of `n_images`."""
        return tensor.expand(n_images, *tensor.shape[1:]) if self.each_image else tensor


def split_inputs(
    declared: Sequence[DeclaredInput], said: Mapping[str, InputValue] | None, where: str
) -> tuple[DeclaredInput, dict[str, BoundValue]]:
    """Return the input that takes the image, and the values of those that `said` names.

    The image is the first that is left and may have four axes. `where` names the network.

    Raises: ModelError for a name that is no input, a value that does not fit, and inputs that are left without one.
    """
    said = said or {}
    by_name = {each.name: each for each in declared}
    for name in said:
        if name not in by_name:
            raise ModelError(f"{where} has no input {name!r}; it takes {_listed(declared)}.{nearest(name, by_name)}")
    left = [each for each in declared if each.name not in said]
    if not left:
        raise ModelError(f"{where} takes {_listed(declared)}; inputs leaves none of them for the image.")
    pictures = [each for each in left if each.shape is None or len(each.shape) in (0, 4)]
    pictures = pictures or [each for each in left if each.shape is not None and len(each.shape) == 3]  # signals
    image = pictures[0] if pictures else left[0]
    missing = [each for each in left if each is not image and each.required]
    if missing:
        example = ", ".join(f"'{each.name}': .." for each in missing)
        raise ModelError(
            f"{where} takes {_listed(declared)}: the image is one of them, and the others need a value, the same for "
            f"every image, for example inputs={{{example}}}."
        )
    batch = image.shape[0] if image.shape else None
    return image, {name: _fitted(by_name[name], value, batch) for name, value in said.items()}


def _listed(declared: Sequence[DeclaredInput]) -> str:
    if not declared:
        return "no inputs"
    return ("the inputs " if len(declared) > 1 else "the input ") + ", ".join(each.shown for each in declared)


def _fitted(declared: DeclaredInput, value: InputValue, batch: int | None) -> BoundValue:
    """Return a value in the shape that its input declares.

    One number fills any shape. Of an input whose first axis is the batch, the value may be that of one image.
    """
    tensor = _tensor(declared, value)
    if declared.shape is None:
        return BoundValue(tensor, tensor.ndim > 0 and tensor.shape[0] == 1)
    each_image = bool(declared.shape) and declared.shape[0] in (None, batch)
    wanted = (1, *declared.shape[1:]) if each_image else declared.shape
    if tensor.ndim == 0 and None not in wanted:
        return BoundValue(tensor.expand([size or 1 for size in wanted]).contiguous(), each_image)
    if each_image and tensor.ndim == len(wanted) - 1:
        tensor = tensor[None]
    fits = tensor.ndim == len(wanted) and all(size in (None, n) for size, n in zip(wanted, tensor.shape, strict=True))
    if not fits:
        given = tuple(torch.as_tensor(value).shape)
        held = f"has shape {given}" if given else "is one number"
        once = "; its first axis is the batch, of which one image's value is said" if each_image else ""
        raise ModelError(f"The input {declared.shown} is given a value that {held}{once}.")
    return BoundValue(tensor.contiguous(), each_image)


def _tensor(declared: DeclaredInput, value: InputValue) -> Tensor:
    """Return the value in the number format that is declared; else whole numbers as int64, others as float64."""
    plain = torch.tensor(value)
    if plain.is_floating_point():
        plain = torch.tensor(value, dtype=torch.float64)
    wanted = declared.dtype or plain.dtype
    tensor = plain.to(wanted)
    if not wanted.is_floating_point and not torch.equal(tensor.to(plain.dtype), plain):
        kind = "true or false" if wanted is torch.bool else f"whole numbers ({wanted})".replace("torch.", "")
        raise ModelError(f"The input {declared.shown} takes {kind}; inputs gives it {_first_other(tensor, plain)}.")
    return tensor


def _first_other(tensor: Tensor, plain: Tensor) -> float:
    return float(plain[tensor.to(plain.dtype) != plain].reshape(-1)[0])


class BoundInputs(nn.Module):
    """A module of several arguments as one from (N, C, H, W) images alone; `image` is the argument that takes them.

    Without it, they are its first.
    """

    def __init__(self, network: nn.Module, image: str | None, values: Mapping[str, BoundValue]) -> None:
        super().__init__()
        self.network = network
        self.image = image
        self._values = dict(values)
        for name, value in values.items():
            if value.tensor.ndim:
                self.register_buffer(f"value_of_{name}", value.tensor)
            else:
                setattr(self, f"value_of_{name}", value.tensor.item())

    def forward(self, image: Tensor) -> Any:
        """Return what the network returns for the images and the values that are bound; a number stays a number."""
        held = {name: getattr(self, f"value_of_{name}") for name in self._values}
        bound = {name: value.of(held[name], image.shape[0]) for name, value in self._values.items()}
        return self.network(image, **bound) if self.image is None else self.network(**{self.image: image}, **bound)


def bind_module(module: nn.Module, said: Mapping[str, InputValue] | None) -> nn.Module:
    """Return a module that takes images alone, with what is `said` bound to its other arguments.

    A value whose first axis has length 1 is repeated for every image of a batch; others are handed over as they are.

    Raises: ModelError as `split_inputs` does.
    """
    arguments = _arguments(module, said or {})
    if not said and sum(each.required for each in arguments) <= 1:
        return module
    image, values = split_inputs(arguments, said, f"The network {type(module).__name__}")
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    cast = {
        name: replace(value, tensor=value.tensor.to(dtype)) if value.tensor.is_floating_point() else value
        for name, value in values.items()
    }
    return BoundInputs(module, None if image is arguments[0] else image.name, cast)


def _arguments(module: nn.Module, said: Mapping[str, InputValue]) -> list[DeclaredInput]:
    """Return the arguments of a module's forward; where it takes any name, those that are said as well."""
    if isinstance(module, torch.jit.ScriptModule):
        schema = module._c._get_method("forward").schema.arguments[1:]  # behind self
        return [DeclaredInput(each.name, required=not each.has_default_value()) for each in schema]
    kinds = inspect.Parameter
    found: list[DeclaredInput] = []
    takes_any = False
    for each in inspect.signature(module.forward).parameters.values():
        if each.kind is kinds.VAR_KEYWORD:
            takes_any = True
        else:
            has_value = each.default is not kinds.empty or (each.kind is kinds.VAR_POSITIONAL and bool(found))
            found.append(DeclaredInput(each.name, required=not has_value))
    names = {each.name for each in found}
    return found + [DeclaredInput(name, required=False) for name in said if takes_any and name not in names]
