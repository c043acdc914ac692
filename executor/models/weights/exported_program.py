"""Models from .pt2 files that torch.export.save wrote.

One of the URI families of `obeql.executor.models.load`; `exported_archive` has checked the file before.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.utils._pytree import tree_unflatten

from obeql.errors import ModelError
from obeql.executor.models.bound_inputs import BoundValue, DeclaredInput, split_inputs
from obeql.executor.models.forward import reason
from obeql.executor.models.found import Found
from obeql.executor.models.options import Channels, ModelOptions, numbered
from obeql.executor.models.paths import existing_file
from obeql.executor.models.per_batch import FixedBatch, fits_any_batch
from obeql.executor.models.preprocessing import Declared
from obeql.executor.models.weights.exported_archive import check_archive
from obeql.executor.network.capture.quiet import quiet
from obeql.planner.input_kinds import KINDS

__all__ = ["ExportedModule", "load_exported"]

_ATEN = torch.ops.aten
#: Operators whose second argument is a shape that begins with the batch.
_SHAPED = (_ATEN.view.default, _ATEN.reshape.default, _ATEN._unsafe_view.default, _ATEN.expand.default)
#: Operators with a training flag, and where it is among the arguments.
_TRAINING_FLAGS: Mapping[Any, int] = {
    _ATEN.dropout.default: 2,
    _ATEN.feature_dropout.default: 2,
    _ATEN.native_dropout.default: 2,
    _ATEN.batch_norm.default: 5,
    _ATEN._native_batch_norm_legit.default: 5,
}


class ExportedModule(nn.Module):
    """An exported graph as a module from (N, C, H, W) or (N, C, length) to what it returns; it has no training mode.

    `names` are its inputs in order, one of which takes the images; `values` are bound to all others.
    """

    def __init__(self, graph: fx.GraphModule, names: Sequence[str], values: Mapping[str, BoundValue]) -> None:
        super().__init__()
        self.graph = graph
        self._names = tuple(names)
        self._values = dict(values)
        for name, value in values.items():
            self.register_buffer(f"value_of_{name}", value.tensor)

    def forward(self, image: torch.Tensor) -> Any:
        """Return what the graph returns for images (N, C, H, W) and the bound values."""
        if not self._values:
            return self.graph(image)
        flat = [
            self._values[name].of(getattr(self, f"value_of_{name}"), image.shape[0]) if name in self._values else image
            for name in self._names
        ]
        args, kwargs = tree_unflatten(flat, self.graph._in_spec)
        return self.graph(*args, **kwargs)

    def train(self, mode: bool = True) -> ExportedModule:
        # Exported graphs refuse train() and eval(): what they do was fixed when they were exported.
        self.training = False
        return self


def load_exported(target: str, options: ModelOptions) -> Found:
    """Return the network of a torch.export file.

    A graph exported for a fixed batch size runs at any: rebuilt where that provably gives the same outputs, else in
    pieces, with a note.

    Raises: ModelError for a file that is damaged, could run code (without trust), was exported in training mode, or
    is not a network from one image batch.
    """
    if options.weights is not None:
        raise ModelError("A .pt2 file carries its weights; the option weights does not apply to it.")
    path = existing_file(target, "model file")
    if not options.trust:
        check_archive(path)
    with quiet():  # torch's loader and graphs use what torch has deprecated
        return _network(path, options)


def _network(path: Path, options: ModelOptions) -> Found:
    program = _read(path)
    graph = _module_of(path, program)
    image, values = _inputs(path, graph, options)
    sizes = [size if isinstance(size, int) else None for size in image.meta["val"].shape]
    _refuse_training(path, graph)
    batch, channels, *spatial = sizes
    known = tuple(each for each in spatial if each is not None)
    size = known if len(known) == len(spatial) else None
    colors: Channels = "gray" if channels == 1 else "rgb"
    kind = colors if len(spatial) == 2 else numbered(channels or 1)
    declared = Declared(size=size, channels=kind, n_axes=len(spatial))
    names = [node.name for node in _placeholders(graph)]
    module: nn.Module = ExportedModule(graph, names, values)
    used = size or options.size_of(len(spatial))
    if batch is None or used is None:
        return Found(module, declared, binds_inputs=True)
    fixed = FixedBatch(module, batch)
    free = ExportedModule(_any_batch(graph, batch, image.name), names, values)
    if fits_any_batch(free, fixed, (channels or 3, *used)):
        return Found(free, declared, binds_inputs=True)
    note = (
        f"The file was exported for a batch of {batch} and runs in such pieces, which is slow; export it with "
        f"dynamic_shapes=({{0: torch.export.Dim('batch')}},)."
    )
    return Found(fixed, declared, notes=(note,), binds_inputs=True)


def _read(path: Path) -> torch.export.ExportedProgram:
    try:
        return torch.export.load(path)
    except Exception as error:
        raise ModelError(f"{str(path)!r} is not a torch.export file this torch can load: {reason(error)}.") from error


def _module_of(path: Path, program: torch.export.ExportedProgram) -> fx.GraphModule:
    """Return the program as a graph module without the guards that pin the example's batch size."""
    try:
        graph = program.module()
    except Exception as error:
        raise ModelError(f"The program in {str(path)!r} cannot be turned into a module: {reason(error)}.") from error
    graph._forward_pre_hooks.clear()
    for node in list(graph.graph.nodes):
        if node.op == "call_module" and str(node.target).endswith("_guards_fn"):
            graph.graph.erase_node(node)
    graph.recompile()
    return graph


def _placeholders(graph: fx.GraphModule) -> list[fx.Node]:
    return [node for node in graph.graph.nodes if node.op == "placeholder"]


def _inputs(path: Path, graph: fx.GraphModule, options: ModelOptions) -> tuple[fx.Node, dict[str, BoundValue]]:
    """Return the input that takes images and the values of the others. Raises ModelError as `split_inputs` does."""
    nodes = {node.name: node for node in _placeholders(graph)}
    declared = [_declared(path, node) for node in nodes.values()]
    if not declared:
        raise ModelError(f"A classifier takes an image batch; {str(path)!r} has no inputs.")
    image, values = split_inputs(declared, options.inputs, repr(str(path)))
    is_batch = image.shape is not None and len(image.shape) - 2 in KINDS
    if not is_batch or image.dtype is None or not image.dtype.is_floating_point:
        raise ModelError(
            f"The input {image.shown} of {str(path)!r} takes no images; an image batch is (N, C, H, W), of signals "
            "(N, C, length), of volumes (N, C, depth, height, width), floating point."
        )
    return nodes[image.name], values


def _declared(path: Path, node: fx.Node) -> DeclaredInput:
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        raise ModelError(f"The input {node.name!r} of {str(path)!r} is no tensor; export the network without it.")
    sizes = tuple(size if isinstance(size, int) else None for size in value.shape)
    return DeclaredInput(node.name, sizes, value.dtype)


def _refuse_training(path: Path, graph: fx.GraphModule) -> None:
    for node in graph.graph.nodes:
        position = _TRAINING_FLAGS.get(node.target) if node.op == "call_function" else None
        if position is not None and len(node.args) > position and node.args[position] is True:
            raise ModelError(
                f"{str(path)!r} was exported in training mode ({node.name} is random or changes its statistics); "
                f"call model.eval() before torch.export.export."
            )


def _any_batch(graph: fx.GraphModule, batch: int, image_name: str) -> fx.GraphModule:
    """Return a copy, sharing the weights: constant shapes that begin with `batch` begin with the batch at hand."""
    free = fx.GraphModule(graph, copy.deepcopy(graph.graph))
    image = next(node for node in _placeholders(free) if node.name == image_name)
    with free.graph.inserting_after(image):
        size = free.graph.call_function(_ATEN.sym_size.int, (image, 0))
    for node in free.graph.nodes:
        if node.op == "call_function" and node.target in _SHAPED:
            shape = node.args[1]
            if len(shape) > 1 and shape[0] == batch:
                node.args = (node.args[0], [size, *shape[1:]], *node.args[2:])
    free.graph.lint()
    free.recompile()
    return free
