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


class Network(nn.Module):
    """Features of an image, (N, 8), and a head that compares them with `text` (1, 8)."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution, self.projection = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 8)
        self.text, self.scale = nn.Parameter(torch.randn(1, 8)), nn.Parameter(torch.tensor(2.6))
        self.norm = nn.LayerNorm(8)
        self.head = head

    def forward(self, image: Tensor) -> Tensor:
        features = self.projection(torch.relu(self.convolution(image)).mean((2, 3)))
        return self.head(features, self.text)


SIMILARITIES: dict[str, Head] = {
    "clip": lambda f, t: torch.tensor(2.6).exp() * (f / f.norm(dim=-1, keepdim=True)) @ t.t(),
    "normalize": lambda f, t: functional.normalize(f, dim=1) @ functional.normalize(t, dim=1).t() * 100 + 3,
    "cosine": lambda f, t: functional.cosine_similarity(f, t, dim=1)[:, None],
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


def test_similarities_to_several_texts_are_logits() -> None:
    texts = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    module = Network(lambda f, t: 20 * functional.normalize(f, dim=1) @ functional.normalize(texts, dim=1).t()).eval()
    assert capture(module, (3, 8, 8)).activation == "softmax"
