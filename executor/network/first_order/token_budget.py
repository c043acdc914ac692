"""A network of tokens with a budget: of the tokens that a window changes, a few are computed, the rest to first order.

After `gradients`; run by `obeql.executor.operators.proxy_forward`. Wherever tokens go into products with weights, those
that changed most against the unoccluded image go on, `budget` of them, and what the others would have changed in a
score is their change times the score's gradient with respect to that layer's input. Attention is updated where keys and
values changed, for all queries. So the cost falls with the budget, and what is left out is linearised, not dropped.

Values are kept as changes against the unoccluded image of all tokens (`_Full`), or as those of chosen ones (`_Few`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from obeql.executor.kernels.memory_format import from_positions
from obeql.executor.network.first_order.gradients import FirstOrder, score_of_logits
from obeql.executor.network.graph import LayerGraph
from obeql.executor.network.layers import Layer
from obeql.executor.network.layers.attention import Attention
from obeql.executor.network.layers.pointwise import Combine
from obeql.executor.network.layers.tokens import AddMap, SelectPositions, as_map, as_rows
from obeql.planner.physical.plan import ProxyForward
from obeql.planner.physical.proxies.token_budget import chosen_layers

__all__ = ["TokenBudget", "guessing"]

#: Limits what a score may grow by before it is exponentiated; a sum of weights is at least this.
_LARGEST, _LEAST_TOTAL = 60.0, 1e-20
#: Share of a query's weights below which what is left of them is summed anew, not as a difference; and a sum that
#: stands for scores beyond the limit.
_CANCELLED, _OVERGROWN = 0.01, 1e20


@dataclass(frozen=True, slots=True, eq=False)
class _Full:
    """Changes of all tokens of n windows, (n, T, C)."""

    change: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class _Few:
    """Values (n, r, C) of the tokens `index` (n, r) of n windows; the others are as in the unoccluded image."""

    index: Tensor
    values: Tensor


_State = _Full | _Few


@dataclass(frozen=True, slots=True, eq=False)
class _Scores:
    """Of attention on the unoccluded image: exp(scores - `largest`) (heads, T, T), and their sums over keys."""

    q: Tensor
    k: Tensor
    v: Tensor
    largest: Tensor
    weights: Tensor
    total: Tensor
    sums: Tensor


def guessing(graph: LayerGraph, proxy: ProxyForward, around: FirstOrder) -> LayerGraph:
    """Return a graph whose layers on whole maps run by chosen tokens, as many as the proxy has, and give scores."""
    whole = [i for i, on in enumerate(proxy.engine.regions) if not on]
    tokens = TokenBudget(graph, whole, proxy.amount, around.values, around.gradients)

    def scores(maps: Mapping[int, Tensor]) -> Tensor:
        logits, added = tokens.run(maps)
        return score_of_logits(logits, around.classes, graph.activation, around.kind) + added

    return _Tail(graph.layers, graph.activation, scores=scores)


@dataclass(frozen=True, eq=False)
class _Tail(LayerGraph):
    """A graph whose layers on whole maps are run by `scores`."""

    scores: Callable[[Mapping[int, Tensor]], Tensor] = field(kw_only=True)

    def forward_from(
        self,
        values: Mapping[int, Tensor],
        order: Sequence[int],
        timed: Callable[[int, Callable[[], Tensor]], Tensor] | None = None,
    ) -> Tensor:
        return self.scores(values)


class TokenBudget:
    """The rest of a network, from maps that come in whole to the scores of K classes, with a budget of tokens.

    `order` are the layers of the rest, from first to last.
    `values` are the unoccluded image's, (1, C, H, W) of every layer; `gradients` (K, T, C) of the score with respect to
    what each of `chosen_layers` reads.
    """

    def __init__(
        self,
        graph: LayerGraph,
        order: Sequence[int],
        budget: int,
        values: Mapping[int, Tensor],
        gradients: Mapping[int, Tensor],
    ) -> None:
        self.graph = graph
        self.budget = budget
        network = graph.network()
        self._choices = chosen_layers(network)
        self.order = tuple(order)
        self._clean = {i: as_rows(value)[0] for i, value in values.items() if value.dim() == 4}
        self._gradient = {i: g.flatten(1).t().contiguous() for i, g in gradients.items()}
        self._scores: dict[int, _Scores] = {}
        self._last = graph.last_use(1)
        #: layers whose changes another layer's are, in the same memory
        self._shared = {j for layer in graph.layers if isinstance(layer, AddMap) for j in layer.inputs}
        read = [layer.positions for layer in graph.layers if isinstance(layer, SelectPositions)]
        #: tokens that the head reads, which are always computed
        self._kept = sorted({p for positions in read if len(positions) <= budget // 2 for p in positions})

    def run(self, maps: Mapping[int, Tensor]) -> tuple[Tensor, Tensor]:
        """Return logits (n, classes) and what is to be added to the scores, (n, K), for maps {layer: (n, C, H, W)}."""
        state: dict[int, _State | Tensor] = {i: _Full(as_rows(value) - self._clean[i]) for i, value in maps.items()}
        n = len(next(iter(maps.values())))
        added = next(iter(maps.values())).new_zeros((n, next(iter(self._gradient.values())).shape[1]))
        for i in self.order:
            layer = self.graph.layers[i]
            inputs = [state[j] for j in layer.inputs]
            if i in self._choices and isinstance(inputs[0], _Full):
                inputs[0], left = self._chosen(layer.inputs[0], inputs[0], self._gradient[i])
                added += left
            state[i] = self._step(i, layer, inputs)
            for j in set(layer.inputs):
                if self._last[j] == i:
                    del state[j]
        last = state[len(self.graph.layers) - 1]
        assert isinstance(last, Tensor)
        return last, added

    # ---- one layer -------------------------------------------------------------------------------------------

    def _step(self, i: int, layer: Layer, inputs: Sequence[_State | Tensor]) -> _State | Tensor:
        if isinstance(layer, Attention):
            found = self._attention(i, layer, inputs)
            if found is not None:
                return found
        elif isinstance(layer, SelectPositions) and isinstance(inputs[0], _Full):
            return _Full(inputs[0].change[:, list(layer.positions)])
        elif isinstance(layer, AddMap) and isinstance(inputs[0], _Full):
            return inputs[0]
        elif isinstance(layer, Combine) and layer.function == "add" and _is_plain(layer):
            found = self._sum(i, layer, inputs)
            if found is not None:
                return found
        elif len(layer.inputs) == 1 and layer.reach == "pointwise" and isinstance(inputs[0], _Few):
            if not isinstance(layer, AddMap):
                few = inputs[0]
                return _Few(few.index, as_rows(layer.forward([as_map(few.values, len(layer.shape) - 1)])))
        elif isinstance(layer, Combine) and layer.reach == "pointwise":
            a, b = inputs
            if isinstance(a, _Few) and isinstance(b, _Few) and a.index is b.index:
                maps = [as_map(each.values, len(layer.shape) - 1) for each in (a, b)]
                return _Few(a.index, as_rows(layer.forward(maps)))
        return self._whole(i, layer, inputs)

    def _whole(self, i: int, layer: Layer, inputs: Sequence[_State | Tensor]) -> _State | Tensor:
        """Run a layer on all that it reads."""
        y = layer.forward([self._value(j, each) for j, each in zip(layer.inputs, inputs, strict=True)])
        if y.dim() == 2 or i not in self._clean:
            return y
        return _Full(as_rows(y) - self._clean[i])

    def _value(self, i: int, state: _State | Tensor) -> Tensor:
        """Return what a layer gives, (n, C, T, 1, ...), or a vector."""
        if isinstance(state, Tensor):
            return state
        rows = self._clean[i] + self._change(i, state)
        return from_positions(rows.view(len(rows), *self.graph.layers[i].shape[1:], -1))

    def _change(self, i: int, state: _State) -> Tensor:
        """Return the changes of all tokens, (n, T, C)."""
        if isinstance(state, _Full):
            return state.change
        clean = self._clean[i]
        change = clean.new_zeros((len(state.index), *clean.shape))
        index = state.index[:, :, None].expand(-1, -1, clean.shape[1])
        return change.scatter_(1, index, state.values - clean[state.index])

    def _sum(self, number: int, layer: Layer, inputs: Sequence[_State | Tensor]) -> _State | None:
        """Add what chosen tokens give to all of them; in place where nobody reads these again."""
        (a, i), (b, j) = zip(inputs, layer.inputs, strict=True)
        if isinstance(a, _Few) and isinstance(b, _Full):
            (a, i), (b, j) = (b, j), (a, i)
        if not isinstance(a, _Full) or isinstance(b, Tensor):
            return None
        if isinstance(b, _Full):
            return _Full(a.change + b.change)
        if b.values.shape[2] != a.change.shape[2]:  # one channel for all
            return None
        index = b.index[:, :, None].expand(-1, -1, b.values.shape[2])
        change = a.change if self._last[i] == number and self._is_own(i) else a.change.clone()
        return _Full(change.scatter_add_(1, index, b.values - self._clean[j][b.index]))

    def _is_own(self, i: int) -> bool:
        """Return whether the changes of layer `i` share no memory with those of another one."""
        return isinstance(self.graph.layers[i], (Attention, Combine)) and i not in self._shared

    # ---- choosing tokens -------------------------------------------------------------------------------------

    def _chosen(self, source: int, full: _Full, gradient: Tensor) -> tuple[_State, Tensor]:
        """Return the tokens that changed most, and what the others are worth to first order, (n, K)."""
        change, clean = full.change, self._clean[source]
        n, n_tokens, n_channels = change.shape
        worth = change.reshape(n, -1) @ gradient
        if n_tokens <= self.budget:
            return full, torch.zeros_like(worth)
        size = torch.linalg.vector_norm(change, dim=2)
        if self._kept and len(self._kept) < n_tokens and max(self._kept) < n_tokens:
            size[:, self._kept] = torch.inf
        index = size.topk(self.budget, dim=1, sorted=False).indices
        taken = change.gather(1, index[:, :, None].expand(-1, -1, n_channels))
        of_index = gradient.view(n_tokens, n_channels, -1)[index]  # (n, r, C, K)
        worth = worth - torch.einsum("nrc,nrck->nk", taken, of_index)
        return _Few(index, taken + clean[index]), worth

    # ---- attention -------------------------------------------------------------------------------------------

    def _attention(self, i: int, layer: Attention, inputs: Sequence[_State | Tensor]) -> _State | None:
        q, k, v = inputs
        if not isinstance(k, _Few) or not isinstance(v, _Few) or k.index is not v.index or layer.bias is not None:
            return None
        clean = self._scores.get(i)
        if clean is None:
            clean = self._scores[i] = self._of_clean(layer)
        keys, values = layer.heads(k.values), layer.heads(v.values)  # (n, heads, r, d)
        if isinstance(q, _Full):
            rows = self._clean[layer.inputs[0]] + q.change
            found = self._of_queries(layer, clean, k.index, layer.heads(rows), keys, values)
            return _Full(found - self._clean[i])
        if not isinstance(q, _Few) or q.index is not k.index:
            return None
        change = self._of_all(layer, clean, k.index, keys, values)
        change -= self._clean[i]
        few = self._of_queries(layer, clean, k.index, layer.heads(q.values), keys, values)
        index = q.index[:, :, None].expand(-1, -1, few.shape[2])
        return _Full(change.scatter_(1, index, few - self._clean[i][q.index]))

    def _of_clean(self, layer: Attention) -> _Scores:
        q, k, v = (layer.heads(self._clean[j][None])[0] for j in layer.inputs)  # (heads, T, d)
        q = q * layer.scale
        scores = q @ k.transpose(1, 2)
        largest = scores.amax(2, keepdim=True)
        weights = (scores - largest).exp()
        return _Scores(q, k, v, largest, weights, weights.sum(2), weights @ v)

    @staticmethod
    def _of_all(layer: Attention, clean: _Scores, index: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Return what queries that did not change give, (n, T, C), where the keys `index` did."""
        n, n_heads, r, width = keys.shape
        n_queries = clean.q.shape[1]
        # (heads, T, d) @ (heads, d, n * r)
        scores = clean.q @ keys.permute(1, 3, 0, 2).reshape(n_heads, width, n * r)
        new = (scores - clean.largest).clamp_(max=_LARGEST).exp_().view(n_heads, n_queries, n, r)
        old = clean.weights[:, :, index]  # (heads, T, n, r)
        kept = clean.total[:, :, None] - old.sum(3)
        total = (kept + new.sum(3)).permute(2, 0, 1)  # (n, heads, T)
        both = torch.cat([new, -old], 3).permute(2, 0, 1, 3)  # (n, heads, T, 2r)
        given = torch.cat([values, clean.v[:, index].transpose(0, 1)], 2)  # (n, heads, 2r, d)
        sums = torch.matmul(both, given).add_(clean.sums)
        sums /= total[:, :, :, None].clamp_(min=_LEAST_TOTAL)
        # Differences of large numbers say nothing where most of a query's weight was on tokens that changed.
        for head in range(n_heads):
            each = total[:, head]
            window, query = ((each < _CANCELLED * clean.total[head]) | ~(each < _OVERGROWN)).nonzero(as_tuple=True)
            if len(window):
                changed = keys[window, head], values[window, head]
                sums[window, head, query] = _attended(clean, head, query, index[window], *changed)
        return sums.transpose(1, 2).reshape(n, n_queries, -1)

    @staticmethod
    def _of_queries(layer: Attention, clean: _Scores, index: Tensor, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Return what queries `q` (n, heads, m, d) give, (n, m, C), where the keys `index` did change."""
        n, n_heads, m, width = q.shape
        q = q * layer.scale
        by_head = q.transpose(0, 1).reshape(n_heads, n * m, width)
        scores = (by_head @ clean.k.transpose(1, 2)).view(n_heads, n, m, -1).transpose(0, 1)
        at = index[:, None, None, :].expand(-1, n_heads, m, -1)
        scores = scores.scatter(3, at, q @ keys.transpose(2, 3))
        weights = scores.softmax(3)
        found = (weights.transpose(0, 1).reshape(n_heads, n * m, -1) @ clean.v).view(n_heads, n, m, -1).transpose(0, 1)
        found = found + weights.gather(3, at) @ (values - clean.v[:, index].transpose(0, 1))
        return found.transpose(1, 2).reshape(n, m, -1)


def _is_plain(layer: Combine) -> bool:
    """Return whether a change of an input is as large a change of the sum, position by position."""
    return layer.activation is None and layer.reach == "pointwise"


def _attended(clean: _Scores, head: int, query: Tensor, index: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Return what m unchanged queries of a head give, (m, d), each beside its own changed `keys` (m, r, d)."""
    q = clean.q[head, query]
    scores = (q @ clean.k[head].t()).scatter_(1, index, torch.einsum("md,mrd->mr", q, keys))
    weights = scores.softmax(1)
    changed = values - clean.v[head][index]
    return weights @ clean.v[head] + torch.einsum("mr,mrd->md", weights.gather(1, index), changed)
