"""Networks with attention: captured as layers in every form they are written in, and equal to the module."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from obeql.executor.network.capture.capture import capture
from obeql.executor.network.graph import LayerGraph
from obeql.executor.network.layers.attention import Attention
from tests.executor.vision_transformer import FORMS, PATCH, SIZE, WIDTH, Transformer


def captured(module: nn.Module) -> LayerGraph:
    torch.manual_seed(0)
    return capture(module.eval(), (3, SIZE, SIZE))


def transformer(*args: object, **kwargs: object) -> Transformer:
    torch.manual_seed(3)
    return Transformer(*args, **kwargs).eval().double()  # type: ignore[arg-type]


def assert_equal(graph: LayerGraph, module: nn.Module) -> None:
    x = torch.randn((3, 3, SIZE, SIZE), dtype=torch.float64)
    with torch.inference_mode():
        found = graph.to(torch.device("cpu"), torch.float64).forward(x)
        torch.testing.assert_close(found, module(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("head", ["token", "mean of patches", "mean of a map"])
def test_attention_is_a_layer_in_whatever_form_it_is_written(form: str, head: str) -> None:
    module = transformer(form, head)
    graph = captured(module)
    assert graph.reason == ""
    kinds = [layer.kind for layer in graph.layers]
    assert kinds.count("attention") == 2 and "opaque" not in kinds
    assert_equal(graph, module)


@pytest.mark.parametrize("form", FORMS)
def test_a_network_whose_weights_are_frozen_is_captured_too(form: str) -> None:
    """PyTorch multiplies otherwise where no operand asks for a gradient, or in inference mode."""
    module = transformer(form).requires_grad_(False)
    graph = captured(module)
    assert graph.reason == ""
    kinds = [layer.kind for layer in graph.layers]
    assert kinds.count("attention") == 2 and "opaque" not in kinds
    assert_equal(graph, module)
    with torch.inference_mode():
        module = transformer(form)
        assert captured(module).reason == ""


def test_registers_and_blocks_of_another_number() -> None:
    module = transformer("fused", "token", 3, n_registers=4)
    graph = captured(module)
    assert graph.reason == ""
    assert_equal(graph, module)


def test_a_head_that_reads_one_token_prunes_the_last_block() -> None:
    graph = captured(transformer("fused", "token"))
    attentions = [layer for layer in graph.layers if isinstance(layer, Attention)]
    assert [layer.shape[1] for layer in attentions] == [17, 1]
    last = graph.layers.index(attentions[-1])
    assert {layer.shape[1] for layer in graph.layers[last:] if len(layer.shape) == 3} == {1}
    # Keys and values of all tokens, queries of one.
    products = [layer.shape[:2] for layer in graph.layers[:last] if layer.kind == "conv"]
    assert (2 * WIDTH, 17) in products and (WIDTH, 1) in products
    assert products.count((3 * WIDTH, 17)) == 1
    whole = captured(transformer("fused", "mean of patches"))
    assert graph.network().macs < 0.75 * whole.network().macs


def test_keys_from_elsewhere_are_followed() -> None:
    class Pooling(nn.Module):
        """One learned query over all positions of a map."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, WIDTH, 3, padding=1)
            self.kv = nn.Linear(WIDTH, 2 * WIDTH)
            self.q = nn.Linear(WIDTH, WIDTH)
            self.head = nn.Linear(WIDTH, 4)

        def forward(self, x: Tensor) -> Tensor:
            rows = self.conv(x).relu().flatten(2).transpose(1, 2)
            k, v = self.kv(rows).chunk(2, dim=-1)
            q = self.q(rows.mean(dim=1, keepdim=True))
            return self.head(F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0, 0])

    torch.manual_seed(1)
    module = Pooling().eval().double()
    graph = captured(module)
    assert_equal(graph, module)


def test_attention_that_cannot_be_followed_runs_whole_and_is_right() -> None:
    class Causal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Conv2d(3, WIDTH, PATCH, PATCH)
            self.head = nn.Linear(WIDTH, 4)

        def forward(self, x: Tensor) -> Tensor:
            rows = self.embed(x).flatten(2).transpose(1, 2)
            scores = rows @ rows.transpose(1, 2)
            return self.head((scores.softmax(-1).tanh() @ rows).mean(1))

    module = Causal().eval()
    graph = captured(module)
    x = torch.randn((2, 3, SIZE, SIZE))
    with torch.inference_mode():
        torch.testing.assert_close(graph.forward(x), module(x), rtol=1e-4, atol=1e-5)


class WrittenOut(nn.Module):
    """Layer norm and GELU as ONNX files have them."""

    def __init__(self, halves_last: bool, roots: str) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.weight, self.bias = nn.Parameter(torch.randn(WIDTH)), nn.Parameter(torch.randn(WIDTH))
        self.linear, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 4)
        self.halves_last, self.roots = halves_last, roots

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        centered = x - x.mean(-1, keepdim=True)
        if self.roots == "rsqrt":
            y = centered * (centered * centered).mean(-1, keepdim=True).add(1e-5).rsqrt()
        else:
            y = centered / torch.sqrt(centered.pow(2).mean(-1, keepdim=True) + 1e-5)
        y = self.linear(y * self.weight + self.bias)
        curve = torch.erf(y / 2**0.5) + 1.0
        y = y * curve * 0.5 if self.halves_last else 0.5 * y * curve
        return self.head((x + y).mean(1))


@pytest.mark.parametrize("halves_last", [True, False])
@pytest.mark.parametrize("roots", ["sqrt", "rsqrt"])
def test_norms_and_gelus_that_are_written_out_become_layers(halves_last: bool, roots: str) -> None:
    torch.manual_seed(2)
    module = WrittenOut(halves_last, roots).eval().double()
    graph = captured(module)
    assert [layer.kind for layer in graph.layers[1:6]] == ["conv", "channel_norm", "conv", "combine", "global_mean"]
    assert_equal(graph, module)


def test_a_norm_with_another_mean_or_square_stays_as_it_is() -> None:
    class Other(WrittenOut):
        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x).flatten(2).transpose(1, 2)
            centered = x - x.mean(-1, keepdim=True)
            y = centered / torch.sqrt(centered.pow(4).mean(-1, keepdim=True) + 1e-5)
            y = y + x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)
            return self.head((self.linear(y) * (torch.erf(y * 0.5) + 1.0)).mean(1))

    torch.manual_seed(2)
    module = Other(True, "sqrt").eval().double()
    graph = captured(module)
    kinds = [layer.kind for layer in graph.layers]
    assert "channel_norm" not in kinds and "channel_mean" in kinds
    assert_equal(graph, module)
