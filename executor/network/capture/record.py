"""The operators that a module reaches, recorded while it runs on tensors without values.

What `torch.fx`'s `make_fx` does on fake tensors, for the modules that classifiers are made of, in a seventh of the
time: only operators on the image are recorded, each is asked for its result's shape alone, and
everything that does not depend on the image is computed as it stands. Where that is not enough (values are looked at,
constants are written to, memory is resized), it says so, and `capture` has the module traced by PyTorch.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode

from obeql.executor.network.capture.meta import on_meta
from obeql.executor.network.capture.trace import TRACE_BATCH

__all__ = ["CannotRecordError", "record"]


class CannotRecordError(Exception):
    """The module does something on the way that recording does not follow."""


def record(run: Callable[[Tensor], Tensor], image: Tensor) -> fx.Graph:
    """Return the ATen operators of `run` on `image`, a meta tensor.

    Nodes hold tensors that do not depend on the image as they are, and a meta tensor as `val`. An operator that writes
    into its operand is recorded as such. Raises CannotRecordError, or whatever `run` raises on tensors without values.
    """
    recorder = _Recorder()
    symbol = recorder.placeholder(image)
    with recorder:
        result = run(symbol)
    if not isinstance(result, _Symbol):
        raise CannotRecordError("the output does not depend on the image")
    recorder.graph.output(result.node)
    return recorder.graph


class _Symbol(Tensor):
    """A tensor of the device, shape and strides that one would have, without values; `node` computes it."""

    meta: Tensor
    node: fx.Node

    @staticmethod
    def __new__(cls, meta: Tensor, node: fx.Node, device: torch.device) -> _Symbol:
        symbol: _Symbol = Tensor._make_wrapper_subclass(
            cls,
            meta.shape,
            strides=meta.stride(),
            storage_offset=meta.storage_offset(),
            dtype=meta.dtype,
            device=device,
        )
        symbol.meta, symbol.node = meta, node
        return symbol

    def __init__(self, meta: Tensor, node: fx.Node, device: torch.device) -> None:
        super().__init__()

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise CannotRecordError(f"{func} runs where nothing is recorded")


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, operators on symbols are recorded and give symbols; others run."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph = fx.Graph()
        self._device = torch.device("cpu")
        #: meta tensors of constants, which are kept so that an id stays theirs
        self._metas: dict[int, tuple[Tensor, Tensor]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False. PyTorch would import its compiler, for a second, to leave the method below uncompiled."""
        return False

    def placeholder(self, image: Tensor) -> _Symbol:
        return self._symbol(image, self.graph.placeholder("x"))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves = list(_leaves((args, kwargs)))
        symbols = [leaf for leaf in leaves if isinstance(leaf, _Symbol)]
        schema = func._schema
        if schema.is_mutable and not _writes_one_symbol(schema, args):
            raise CannotRecordError(f"{func} writes into something else than a value of the image")
        if not symbols and not any(type(leaf) is int and leaf == TRACE_BATCH for leaf in leaves):
            return func(*args, **kwargs)
        result = on_meta(func, _mapped(args, self._meta), _mapped(kwargs, self._meta))
        name = self.graph._target_to_str(func.overloadpacket.__name__)
        node = self.graph.create_node("call_function", func, _mapped(args, _node), _mapped(kwargs, _node), name=name)
        if schema.is_mutable:
            written: _Symbol = args[0]
            if torch.Tag.inplace_view in func.tags:
                with torch._C._DisableTorchDispatch():
                    func(*args, **kwargs)  # the symbol's own shape and strides
            if result is not written.meta or result.shape != written.shape or result.stride() != written.stride():
                raise CannotRecordError(f"{func} changes the shape of its operand")
            node.meta["val"] = result
            written.node = node
            return written
        return self._given(node, result)

    def _given(self, node: fx.Node, result: Any) -> Any:
        """Return the symbols for what an operator gives on meta tensors."""
        if isinstance(result, Tensor):
            return self._symbol(result, node)
        if not isinstance(result, (tuple, list)):
            raise CannotRecordError(f"{node.target} gives a {type(result).__name__}")
        node.meta["val"] = result
        items = [
            self._symbol(item, self.graph.call_function(operator.getitem, (node, i)))
            if isinstance(item, Tensor)
            else item
            for i, item in enumerate(result)
        ]
        return type(result)(items)

    def _symbol(self, meta: Tensor, node: fx.Node) -> _Symbol:
        if not meta.is_meta:
            raise CannotRecordError(f"{node.target} gives values")
        node.meta["val"] = meta
        return _Symbol(meta, node, self._device)

    def _meta(self, leaf: Any) -> Any:
        """Return an operand as it is handed to a meta kernel."""
        if isinstance(leaf, _Symbol):
            return leaf.meta
        if isinstance(leaf, Tensor):
            if id(leaf) not in self._metas:
                self._metas[id(leaf)] = leaf, leaf.detach().to("meta")
            return self._metas[id(leaf)][1]
        return torch.device("meta") if isinstance(leaf, torch.device) else leaf


def _node(leaf: Any) -> Any:
    """Return an operand as it is recorded."""
    if isinstance(leaf, _Symbol):
        return leaf.node
    return leaf.detach() if isinstance(leaf, Tensor) else leaf


def _writes_one_symbol(schema: Any, args: Any) -> bool:
    """Return whether all that an operator writes into is its first operand, a symbol, which it returns."""
    written = [i for i, each in enumerate(schema.arguments) if each.alias_info is not None and each.alias_info.is_write]
    return written == [0] and bool(args) and isinstance(args[0], _Symbol) and len(schema.returns) == 1


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, dict):
        yield from _leaves(tuple(value.values()))
    else:
        yield value


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(_mapped(item, change) for item in value)
    if isinstance(value, dict):
        return {key: _mapped(item, change) for key, item in value.items()}
    return change(value)
