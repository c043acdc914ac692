"""ONNX operators that go through a sequence: LSTM and GRU, of one direction or both.

One function an operator, (node, inputs) -> tensors, as torch's own with the gates in torch's order. Source of the
semantics: the ONNX operator specification, opset 7 to 23. Listed in `RECURRENT`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from obeql.executor.models.onnx.node import Node, Operator

__all__ = ["RECURRENT"]

#: Gates as torch orders them, by their places in ONNX: input, output, forget, cell; and update, reset, hidden.
_LSTM_GATES = (0, 2, 3, 1)
_GRU_GATES = (1, 0, 2)

_DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}
_ACTIVATIONS = {"LSTM": ("sigmoid", "tanh", "tanh"), "GRU": ("sigmoid", "tanh")}


def lstm(
    node: Node,
    x: Tensor,
    weight: Tensor,
    recurrence: Tensor,
    bias: Tensor | None = None,
    lengths: Tensor | None = None,
    hidden: Tensor | None = None,
    cell: Tensor | None = None,
    peephole: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    if peephole is not None or node.get("input_forget", 0):
        raise node.refuse("has peepholes or couples its gates, which is not supported")
    parameters, x, hidden = _prepared(node, x, weight, recurrence, bias, lengths, hidden, _LSTM_GATES)
    cell = torch.zeros_like(hidden) if cell is None else _sequence_first(node, cell)
    y, h, c = torch.lstm(x, [hidden, cell], parameters, bias is not None, 1, 0.0, False, _n(node) == 2, False)
    return _shaped(node, y), _state(node, h), _state(node, c)


def gru(
    node: Node,
    x: Tensor,
    weight: Tensor,
    recurrence: Tensor,
    bias: Tensor | None = None,
    lengths: Tensor | None = None,
    hidden: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    if not node.get("linear_before_reset", 0):
        raise node.refuse("resets before it multiplies (linear_before_reset=0), which is not supported")
    parameters, x, hidden = _prepared(node, x, weight, recurrence, bias, lengths, hidden, _GRU_GATES)
    y, h = torch.gru(x, hidden, parameters, bias is not None, 1, 0.0, False, _n(node) == 2, False)
    return _shaped(node, y), _state(node, h)


def _n(node: Node) -> int:
    return _DIRECTIONS[node.get("direction", "forward")]


def _prepared(
    node: Node,
    x: Tensor,
    weight: Tensor,
    recurrence: Tensor,
    bias: Tensor | None,
    lengths: Tensor | None,
    hidden: Tensor | None,
    gates: tuple[int, ...],
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Return torch's parameters, direction after direction, the sequence (steps, N, features) and its first state."""
    asked = tuple(name.lower() for name in node.get("activations", ()))
    if lengths is not None or node.get("clip") or asked not in ((), _ACTIVATIONS[node.op] * _n(node)):
        raise node.refuse("has sequences of their own lengths, a clip or other activations, which is not supported")
    if node.get("direction") == "reverse":
        raise node.refuse("runs backwards alone, which is not supported")
    parameters = []
    for number in range(_n(node)):
        for each in (weight[number], recurrence[number], *(() if bias is None else bias[number].chunk(2))):
            parts = each.chunk(len(gates))
            parameters.append(torch.cat([parts[place] for place in gates]))
    x = _sequence_first(node, x)
    if hidden is not None:
        return parameters, x, _sequence_first(node, hidden)
    n_units = recurrence.shape[-1]
    return parameters, x, torch.zeros_like(x[:1, :, :1]).expand(_n(node), -1, n_units)


def _sequence_first(node: Node, value: Tensor) -> Tensor:
    return value.transpose(0, 1) if node.get("layout", 0) else value


def _shaped(node: Node, y: Tensor) -> Tensor:
    """Return outputs (steps, N, directions x units) as ONNX has them: (steps, directions, N, units), or by layout."""
    by_direction = y.reshape(*y.shape[:2], _n(node), -1)
    return by_direction.transpose(0, 1) if node.get("layout", 0) else by_direction.transpose(1, 2)


def _state(node: Node, state: Tensor) -> Tensor:
    return state.transpose(0, 1) if node.get("layout", 0) else state


RECURRENT: Mapping[str, Operator] = {"GRU": Operator(gru), "LSTM": Operator(lstm)}
