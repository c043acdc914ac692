"""Which of the tensors that a network returns its classes are read from.

What a module returns is laid out as a list of named tensors: the fields of a tuple, a mapping or an object, in order,
nested ones joined by a dot. One of them is chosen, by name, by number, or by the rule of `choose_output`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from obeql.errors import ModelError, nearest
from obeql.planner.catalog import Activation
from obeql.planner.geometry import NetworkOutput

__all__ = [
    "activation_beside",
    "choose_output",
    "described",
    "facts_of",
    "is_row",
    "main_output",
    "n_rows",
    "named_outputs",
]

#: Names that the main output goes by, the first that is there counts.
MAIN_NAMES = ("logits", "logits_per_image", "out", "output")

#: The name of an output that has none.
ONLY = "output"

#: What networks return beside their logits, and which activation of the classes that is.
_DERIVED: tuple[tuple[Callable[[Tensor], Tensor], Activation], ...] = (
    (lambda row: row.softmax(1), "softmax"),
    (lambda row: row.log_softmax(1), "softmax"),
    (torch.sigmoid, "sigmoid"),
    (torch.nn.functional.logsigmoid, "sigmoid"),
)


def named_outputs(returned: Any) -> dict[str, Tensor]:
    """Return all tensors that a module returned, by name, in order; empty where there are none."""
    return dict(_tensors(returned, ""))


def main_output(returned: Any) -> Tensor:
    """Return the tensor that the classes are read from where nobody has said which.

    Raises ModelError as `choose_output`.
    """
    if isinstance(returned, Tensor):
        return returned
    outputs = named_outputs(returned)
    if not outputs:
        raise ModelError(f"the network returns a {type(returned).__name__}; a classifier returns a tensor (N, classes)")
    n_images = next(iter(outputs.values())).shape[:1]
    return outputs[choose_output(facts_of(outputs), n_images[0] if n_images else 0, None, 0)]


def facts_of(outputs: Mapping[str, Tensor]) -> dict[str, tuple[tuple[int, ...], bool]]:
    """Return what `choose_output` goes by."""
    return {name: (tuple(tensor.shape), tensor.is_floating_point()) for name, tensor in outputs.items()}


def _tensors(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name or ONLY, value
        return
    fields: Mapping[Any, Any] = {}
    if isinstance(value, Mapping):
        fields = value
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        fields = dict(zip(value._fields, value, strict=True))
    elif isinstance(value, tuple | list):
        fields = dict(enumerate(value))
    elif hasattr(value, "__dict__") and not isinstance(value, type):
        fields = vars(value)
    for key, item in fields.items():
        if isinstance(item, Tensor | Mapping | tuple | list):
            yield from _tensors(item, f"{name}.{key}" if name else str(key))


def is_row(shape: Sequence[int], n_images: int) -> bool:
    """Return whether a tensor of that shape is one row of numbers an image: (N, K), (N,) or (N, K, 1, 1)."""
    if not shape or shape[0] != n_images or 0 in shape:
        return False
    return len(shape) <= 2 or all(size == 1 for size in shape[2:])


def n_rows(outputs: Mapping[str, tuple[Sequence[int], bool]], n_images: int) -> int:
    """Return how many outputs, (shape, whether it is floating point) by name, may be the classes of images."""
    return sum(is_floating and is_row(shape, n_images) for shape, is_floating in outputs.values())


def activation_beside(values: Mapping[str, Tensor], name: str) -> Activation | None:
    """Return which activation of output `name` another output is, as `values` for some images show; None for none."""
    return next((found for source, found in _sources(values).values() if source == name), None)


def _sources(values: Mapping[str, Tensor]) -> dict[str, tuple[str, Activation]]:
    """Return the outputs that are the softmax or sigmoid of another one, or its logarithm: of which, and which."""
    rows = {
        name: tensor.reshape(len(tensor), -1).double()
        for name, tensor in values.items()
        if tensor.is_floating_point() and is_row(tensor.shape, len(tensor) if tensor.dim() else 0)
    }
    found: dict[str, tuple[str, Activation]] = {}
    for name, row in rows.items():
        eps = torch.finfo(values[name].dtype).eps
        for source, logits in rows.items():
            if source == name or logits.shape != row.shape:
                continue
            for activate, activation in _DERIVED:
                if activation == "softmax" and row.shape[1] == 1:
                    continue  # which is 1, whatever the logit
                if torch.allclose(activate(logits), row, rtol=max(1e-4, 4 * eps), atol=eps):
                    found.setdefault(name, (source, activation))
    return found


def choose_output(
    outputs: Mapping[str, tuple[Sequence[int], bool]],
    n_images: int,
    said: str | int | None,
    n_names: int,
    look: Callable[[], Mapping[str, Tensor]] | None = None,
) -> str:
    """Return the name of the output that the classes are read from.

    `outputs` are (shape, whether it is floating point) by name, for `n_images` images; `said` is the option output, a
    name or a number in their order. Without it the only row of numbers counts; of several, the one that is called
    logits, logits_per_image, out or output; else the only one that has `n_names` columns, the number of class names;
    else the only one that is no softmax or sigmoid of another, as the values show that `look` gives for some images.

    Raises ModelError, with the list, where that leaves none or several, or there is none of that name.
    """
    names = list(outputs)
    if said is not None:
        return _said(said, names, outputs)
    rows = [name for name in names if is_row(outputs[name][0], n_images) and outputs[name][1]]
    if len(rows) == 1:
        return rows[0]
    for main in MAIN_NAMES:
        if main in rows:
            return main
    named = [name for name in rows if n_names and _columns(outputs[name][0]) == n_names]
    if len(named) == 1:
        return named[0]
    if look is not None and (left := named or rows):
        values = look()
        derived = _sources({name: values[name] for name in left if name in values})
        left = [name for name in left if name not in derived]
        if len(left) == 1:
            return left[0]
    if not rows and len(names) == 1:
        return names[0]  # what is wrong with it, the caller says
    if not rows:
        raise ModelError(f"None of the network's outputs is one row of classes an image: {_listed(outputs)}.")
    raise ModelError(
        f"The network has several outputs that may be its classes: {_listed({name: outputs[name] for name in rows})}; "
        f"say which with output='name' or its number, such as output={_written(rows[-1])}."
    )


def _said(said: str | int, names: Sequence[str], outputs: Mapping[str, tuple[Sequence[int], bool]]) -> str:
    if isinstance(said, int):
        if 0 <= said < len(names):
            return names[said]
    else:
        alike = [name for name in names if name == said] or [n for n in names if n.casefold() == said.casefold()]
        if len(alike) == 1:
            return alike[0]
    near = nearest(str(said), names)
    raise ModelError(f"The network has no output {_written(said)}; it has {_listed(outputs)}.{near}")


def _listed(outputs: Mapping[str, tuple[Sequence[int], bool]]) -> str:
    """Return the outputs with their shapes, for a message."""
    return ", ".join(f"{_written(name)} {_shape(shape)}" for name, (shape, _) in outputs.items())


def described(outputs: Mapping[str, tuple[Sequence[int], bool]], chosen: str) -> tuple[NetworkOutput, ...]:
    """Return the outputs as the model is to keep them."""
    return tuple(NetworkOutput(name, tuple(shape[1:]), name == chosen) for name, (shape, _) in outputs.items())


def _columns(shape: Sequence[int]) -> int:
    return shape[1] if len(shape) > 1 else 1


def _shape(shape: Sequence[int]) -> str:
    """Return a shape with N for the number of images."""
    return f"({', '.join(['N', *map(str, shape[1:])])}{',' if len(shape) == 1 else ''})" if shape else "()"


def _written(name: str | int) -> str:
    return str(name) if isinstance(name, int) or name.isdecimal() else f"'{name}'"
