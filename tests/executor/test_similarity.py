"""One output that is the similarity to something, such as CLIP's to one text, is not taken for a logit of yes or no."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from obeql.errors import ModelError
from obeql.executor.network.capture.capture import capture

Head = Callable[[Tensor, Tensor], Tensor]


def unit(features: Tensor) -> Tensor:
    """Features of length 1."""
    return features / features.norm(dim=-1, keepdim=True)


class Network(nn.Module):
    """Features of an image, (N, 8), and a head that compares them with `text` (1, 8)."""

    def __init__(self, head: Head, n_texts: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution, self.projection = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 8)
        self.text, self.scale = nn.Parameter(torch.randn(n_texts, 8)), nn.Parameter(torch.tensor(2.6))
        self.norm = nn.LayerNorm(8)
        self.head = head

    def forward(self, image: Tensor) -> Tensor:
        features = self.projection(torch.relu(self.convolution(image)).mean((2, 3)))
        return self.head(features, self.text)


SIMILARITIES: dict[str, Head] = {
    "clip": lambda f, t: torch.tensor(2.6).exp() * (f / f.norm(dim=-1, keepdim=True)) @ t.t(),
    "normalize": lambda f, t: functional.normalize(f, dim=1) @ functional.normalize(t, dim=1).t() * 100 + 3,
    "cosine": lambda f, t: functional.cosine_similarity(f, t, dim=1)[:, None],
    "cosine, texts spread": lambda f, t: functional.cosine_similarity(f[:, None], t[None], dim=-1),
    "einsum": lambda f, t: torch.einsum("nd,kd->nk", unit(f), unit(t)),
    "einsum, scaled": lambda f, t: (
        100 * torch.einsum("nd,kd->nk", functional.normalize(f), functional.normalize(t)) - 1
    ),
    "einsum, a column": lambda f, t: torch.einsum("nd,dk->nk", unit(f), t.t()),
    "einsum, texts first": lambda f, t: torch.einsum("kd,nd->kn", unit(t), unit(f)).t(),
    "einsum, of one axis": lambda f, t: torch.einsum("nd,d->n", unit(f), t[0])[:, None],
    "bmm": lambda f, t: torch.bmm(unit(f)[None], unit(t).t()[None])[0],
    "bmm, one an image": lambda f, t: torch.bmm(t.expand(len(f), -1, -1), unit(f)[:, :, None])[:, :, 0],
    "bmm, one an image, texts last": lambda f, t: torch.bmm(unit(f)[:, None], t.t().expand(len(f), -1, -1))[:, 0],
    "matmul, texts first": lambda f, t: (unit(t) @ unit(f).T).T,
    "matmul of three axes": lambda f, t: (unit(f)[:, None] @ unit(t).T).squeeze(1),
    "sum of products": lambda f, t: (unit(f)[:, None] * t[None]).sum(-1),
    "tensordot": lambda f, t: torch.tensordot(unit(f), t, dims=([1], [1])),
    "inner": lambda f, t: torch.inner(unit(f), t),
    "linear": lambda f, t: functional.linear(unit(f), t),
    "root of squares": lambda f, t: (f * torch.rsqrt((f * f).sum(-1, keepdim=True) + 1e-6)) @ t.t(),
}
LOGITS: dict[str, Head] = {
    "product": lambda f, t: f @ t.t(),
    "root mean square": lambda f, t: (f * torch.rsqrt((f * f).mean(-1, keepdim=True) + 1e-6)) @ t.t(),
    "layers after": lambda f, t: torch.relu(functional.normalize(f, dim=1) @ t.t().expand(8, 8)) @ t.t(),
}


@pytest.mark.parametrize("name", SIMILARITIES)
def test_one_similarity_has_to_be_named(name: str) -> None:
    module = Network(SIMILARITIES[name]).eval()
    with pytest.raises(ModelError, match="outputs=value for a similarity, or outputs=logits"):
        capture(module, (3, 8, 8))
    assert capture(module, (3, 8, 8), outputs="value").activation == "none"
    assert capture(module, (3, 8, 8), outputs="logits").activation == "sigmoid"
    assert capture(module, (3, 8, 8), activation="sigmoid").activation == "sigmoid"


@pytest.mark.parametrize("name", LOGITS)
def test_other_single_outputs_are_logits_of_yes(name: str) -> None:
    assert capture(Network(LOGITS[name]).eval(), (3, 8, 8)).activation == "sigmoid"


PRODUCTS = [
    name for name in SIMILARITIES if name.startswith(("einsum", "matmul", "bmm", "inner", "linear", "tensordot"))
]
#: products of which an image has one of its own: they run on whole maps
STACKED = ("bmm, one an image", "bmm, one an image, texts last")


@pytest.mark.parametrize("name", [name for name in SIMILARITIES if name not in ("cosine", "einsum, of one axis")])
def test_similarities_to_several_texts_are_logits(name: str) -> None:
    module = Network(SIMILARITIES[name], n_texts=3).eval()
    graph = capture(module, (3, 8, 8))
    assert graph.activation == "softmax" and graph.layers[1].kind == "conv"
    if name in PRODUCTS and name not in STACKED:
        assert graph.layers[-1].kind == "linear" or graph.layers[-2].kind == "linear"
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(
        graph.to(torch.device("cpu"), torch.float32).forward(images), module(images), rtol=1e-4, atol=1e-5
    )


def test_what_is_no_product_says_which_operator_stands_in_the_way() -> None:
    module = Network(lambda f, t: torch.cumsum(unit(f).t(), 0).t() @ t.t().expand(8, 2)).eval()
    graph = capture(module, (3, 8, 8))
    assert graph.layers[1].kind == "whole" and "aten.cumsum" in graph.reason
