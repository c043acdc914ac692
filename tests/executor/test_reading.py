"""What outputs are taken for: probabilities however they end, logits, values; and what was said wrongly of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from obeql.errors import ModelError
from obeql.executor.network.capture.capture import capture
from obeql.executor.network.capture.outputs import choose_output, named_outputs
from obeql.executor.network.graph import LayerGraph
from obeql.executor.network.layers.head import Probabilities

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = (3, 12, 12)


class Net(nn.Module):
    """A small network whose last numbers z (N, K) go through `end`."""

    def __init__(self, end: Callable[[Tensor], object], n_outputs: int = 3, scale: float = 6.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 25, n_outputs))
        self.end, self.scale = end, scale

    def forward(self, x: Tensor) -> object:
        return self.end(self.body(x) * self.scale)


def _probabilities(graph: LayerGraph, x: Tensor) -> Tensor:
    with torch.inference_mode():
        logits = graph.to(torch.device("cpu"), torch.float32).forward(x).double()
    return logits.softmax(1) if graph.activation == "softmax" else logits.sigmoid()


def _complement(z: Tensor) -> Tensor:
    p = z.sigmoid()
    return torch.cat((1 - p, p), dim=1)


EXCLUSIVE: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "softmax": (lambda z: z.softmax(1), 3),
    "times one": (lambda z: z.softmax(1) * 1.0, 3),
    "plus a little": (lambda z: z.softmax(1) + 1e-8, 3),
    "clamped": (lambda z: z.softmax(1).clamp(1e-7, 1), 3),
    "complement": (_complement, 1),
    "two heads": (lambda z: (z.softmax(1) + (z / 2).softmax(1)) / 2, 3),
    "a stack of heads": (lambda z: torch.stack([z.softmax(1), (z / 2).softmax(1)]).mean(0), 3),
    "log and back": (lambda z: z.log_softmax(1).exp(), 3),
    "twice": (lambda z: z.softmax(1).softmax(1), 3),
    "shares": (lambda z: z.abs() / z.abs().sum(1, keepdim=True), 3),
}
ALONE: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "one sigmoid": (lambda z: z.sigmoid(), 1),
    "one sigmoid, scaled": (lambda z: z.sigmoid() * 1.0, 1),
    "one tanh": (lambda z: z.tanh() / 2 + 0.5, 1),
    "one, two heads": (lambda z: (z.sigmoid() + (z / 2).sigmoid()) / 2, 1),
    "sigmoids": (lambda z: z.sigmoid() * 1.0, 3),
    "hard sigmoids": (lambda z: F.hardsigmoid(z / 9), 3),
    "clamped sigmoids": (lambda z: z.sigmoid().clamp(1e-3, 1 - 1e-3), 2),
    "a clamp": (lambda z: (z / 30 + 0.5).clamp(0, 1), 1),
    "clamped far": (lambda z: z.softmax(1).clamp(0.01, 1), 3),
}


@pytest.mark.parametrize("name", [*EXCLUSIVE, *ALONE])
def test_probabilities_are_recognized_by_their_looks(name: str) -> None:
    end, n_outputs = (EXCLUSIVE | ALONE)[name]
    module = Net(end, n_outputs).eval()
    graph = capture(module, SHAPE)
    assert graph.activation == ("softmax" if name in EXCLUSIVE else "sigmoid")
    x = torch.rand(5, *SHAPE)
    with torch.inference_mode():
        expected = module(x)
    assert isinstance(expected, Tensor)
    found = _probabilities(graph, x)
    if n_outputs == 1 and name in ALONE:
        assert torch.equal(found[:, 0].float(), (1 - found[:, 1]).float())
        found = found[:, 1:]
    torch.testing.assert_close(found, expected.double(), rtol=0, atol=3e-7)
    torch.testing.assert_close(
        _probabilities(capture(module, SHAPE, outputs="probabilities"), x), _probabilities(graph, x)
    )


def test_a_network_that_runs_whole_is_looked_at_as_well() -> None:
    def branching(end: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda z: end(z) if float(z.sum()) > 0 else end(z) * 1.0

    for end, n_outputs, activation in (
        (lambda z: z.softmax(1), 3, "softmax"),
        (lambda z: z.sigmoid(), 1, "sigmoid"),
        (lambda z: z.sigmoid(), 3, "sigmoid"),
    ):
        module = Net(branching(end), n_outputs).eval()
        graph = capture(module, SHAPE)
        assert graph.reason and graph.activation == activation
        assert any(isinstance(layer, Probabilities) for layer in graph.layers)
        x = torch.rand(2, *SHAPE)
        with torch.inference_mode():
            expected = module(x)
        assert isinstance(expected, Tensor)
        torch.testing.assert_close(_probabilities(graph, x)[:, -n_outputs:], expected.double(), rtol=0, atol=3e-7)


#: What outputs are compared with, (2, 3).
WAYS = torch.tensor([[1.0, -1.0, 2.0], [0.5, 3.0, -1.0]])

LOGITS: dict[str, tuple[Callable[[Tensor], Tensor], int, float]] = {
    "logits": (lambda z: z, 3, 6.0),
    "logits that lie in 0..1": (lambda z: z + 0.5, 1, 0.01),
    "several that lie in 0..1": (lambda z: z + 0.5, 3, 0.01),
    "log probabilities": (lambda z: z.log_softmax(1), 3, 6.0),
    "similarities": (lambda z: F.cosine_similarity(z[:, None], z[:, None] * WAYS + 1, dim=2) / 2 + 0.5, 3, 6.0),
    "constant": (lambda z: z * 0 + 0.5, 1, 1.0),
}


@pytest.mark.parametrize("name", LOGITS)
def test_logits_stay_logits(name: str) -> None:
    end, n_outputs, scale = LOGITS[name]
    module = Net(end, n_outputs, scale).eval()
    graph = capture(module, SHAPE)
    assert not any(isinstance(layer, Probabilities) for layer in graph.layers)
    x = torch.rand(2, *SHAPE)
    with torch.inference_mode():
        logits, expected = graph.to(torch.device("cpu"), torch.float32).forward(x), module(x)
    assert isinstance(expected, Tensor)
    torch.testing.assert_close(logits[:, -expected.shape[1] :], expected, rtol=1e-5, atol=1e-6)


def test_what_is_said_counts() -> None:
    softmax, logits = Net(lambda z: z.softmax(1) * 1.0).eval(), Net(lambda z: z).eval()
    assert not any(isinstance(each, Probabilities) for each in capture(softmax, SHAPE, outputs="logits").layers)
    assert capture(logits, SHAPE, outputs="value").activation == "none"
    one = Net(lambda z: z.sigmoid(), 1).eval()
    value = capture(one, SHAPE, outputs="value")
    x = torch.rand(2, *SHAPE)
    with torch.inference_mode():
        torch.testing.assert_close(value.to(torch.device("cpu"), torch.float32).forward(x), one(x))
    assert capture(softmax, SHAPE, activation="sigmoid").activation == "sigmoid"


def test_what_is_said_wrongly_is_refused() -> None:
    logits = Net(lambda z: z).eval()
    with pytest.raises(ModelError, match=r"output \d is -?\d.*outside 0\.\.1; say outputs=logits"):
        capture(logits, SHAPE, outputs="probabilities")
    with pytest.raises(ModelError, match="sum to 1, but those of a random image sum to"):
        capture(Net(lambda z: z.sigmoid() * 1.0).eval(), SHAPE, outputs="probabilities", activation="softmax")
    with pytest.raises(ModelError, match="ends in a softmax, which activation=sigmoid contradicts"):
        capture(Net(lambda z: z.softmax(1)).eval(), SHAPE, activation="sigmoid")
    with pytest.raises(ModelError, match="softmax over one class is always 1"):
        capture(Net(lambda z: z.softmax(1), 1).eval(), SHAPE)
    with pytest.raises(ModelError, match="not for outputs=value"):
        capture(logits, SHAPE, outputs="value", activation="softmax")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_saturated_probabilities_are_finite_logits(dtype: torch.dtype) -> None:
    rows = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.25, 0.75]], dtype=dtype)
    for exclusive in (True, False):
        logits = Probabilities("p", (0,), (2,), exclusive).forward([rows])
        assert logits.dtype == torch.float32 and bool(logits.isfinite().all())
        assert logits[0, 0] < logits[2, 0] < logits[2, 1] < logits[0, 1]
        assert bool(Probabilities("p", (0,), (2,), exclusive).forward([rows + 0.5])[0, 1].isnan())
    assert Probabilities("p", (0,), (2,), True, 2.0**-25).forward([rows])[0, 0] == -25 * torch.tensor(2.0).log()


def test_a_squeezed_output_is_not_blamed_on_dropout() -> None:
    from obeql.executor.models import adopt

    for n_outputs in (1, 4):
        model = adopt(Net(lambda z: z.squeeze(), n_outputs).eval(), size=12)
        assert model.n_classes == n_outputs
        for n_images in (1, 3):
            assert model.module(torch.rand(n_images, *SHAPE)).shape == (n_images, n_outputs)
        assert not capture(model.module, SHAPE).reason


# ---- several outputs ----------------------------------------------------------------------------------------


def test_outputs_by_name_and_order() -> None:
    a, b = torch.zeros(2, 3), torch.zeros(2, 5)
    assert list(named_outputs(a)) == ["output"]
    assert list(named_outputs((a, b))) == ["0", "1"]
    assert list(named_outputs({"out": a, "more": [b, {"deep": a}], "loss": None})) == ["out", "more.0", "more.1.deep"]
    assert named_outputs(None) == {} == named_outputs(3)


@pytest.mark.parametrize(
    ("outputs", "said", "n_names", "chosen"),
    [
        ({"0": (2, 512), "1": (2, 4, 1, 1)}, None, 4, "1"),
        ({"features": (2, 512), "out": (2, 4)}, None, 0, "out"),
        ({"logits": (2, 4), "aux": (2, 4)}, None, 0, "logits"),
        ({"0": (2, 4), "1": (2, 12, 9, 9)}, None, 0, "0"),
        ({"0": (2, 512), "1": (2, 4)}, 0, 4, "0"),
        ({"A": (2, 512), "b": (2, 4)}, "a", 0, "A"),
        ({"logits_per_image": (2, 3), "logits_per_text": (3, 2), "embeds": (2, 8)}, None, 0, "logits_per_image"),
    ],
)
def test_the_rule_of_several_outputs(
    outputs: dict[str, tuple[int, ...]], said: str | int | None, n_names: int, chosen: str
) -> None:
    assert choose_output({name: (shape, True) for name, shape in outputs.items()}, 2, said, n_names) == chosen


def test_outputs_that_leave_it_open_are_listed() -> None:
    two = {"0": ((2, 512), True), "1": ((2, 4), True)}
    with pytest.raises(ModelError, match=r"several outputs .*: 0 \(N, 512\), 1 \(N, 4\); .* output=1"):
        choose_output(two, 2, None, 0)
    with pytest.raises(ModelError, match=r"no output 'logit'; it has 0 \(N, 512\), 1 \(N, 4\)"):
        choose_output(two, 2, "logit", 0)
    with pytest.raises(ModelError, match=r"None of .*: 'a' \(N, 3, 8, 8\), 'b' \(N, 2\)"):
        choose_output({"a": ((2, 3, 8, 8), True), "b": ((2, 2), False)}, 2, None, 0)


BESIDE: dict[str, tuple[Callable[[Tensor], object], int, str, str]] = {
    "softmax first": (lambda z: (z.softmax(1), z), 3, "1", "softmax"),
    "softmax last": (lambda z: {"score": z, "p": z.softmax(1)}, 3, "score", "softmax"),
    "all three": (lambda z: (z.softmax(1), z.log_softmax(1), z), 3, "2", "softmax"),
    "sigmoid": (lambda z: (z, z.sigmoid()), 3, "0", "sigmoid"),
    "one sigmoid": (lambda z: (z.sigmoid(), z), 1, "1", "sigmoid"),
    "squeezed": (lambda z: (z.sigmoid().squeeze(1), z.squeeze(1)), 1, "1", "sigmoid"),
    "beside features": (lambda z: (z.repeat(1, 4), z.softmax(1)[..., None, None], z), 3, "2", "softmax"),
}


@pytest.mark.parametrize("name", BESIDE)
def test_logits_count_where_their_probabilities_lie_beside_them(name: str) -> None:
    from obeql.executor.models import adopt

    end, n_outputs, chosen, activation = BESIDE[name]
    # Of several widths, the number of class names says which.
    said = {"classes": ["a", "b", "c"]} if name == "beside features" else {}
    model = adopt(Net(end, n_outputs).eval(), size=12, **said)
    assert [output.name for output in model.outputs if output.chosen] == [chosen]
    assert (model.raw_outputs, model.activation, model.n_classes) == ("logits", activation, n_outputs)
    x = torch.rand(2, *SHAPE)
    with torch.inference_mode():
        torch.testing.assert_close(model.module(x), Net(lambda z: z, n_outputs).eval()(x))


@pytest.mark.parametrize(
    "end",
    [
        lambda z: (z.softmax(1), 2 * z),
        lambda z: (z, z + 1),
        lambda z: (z.softmax(1), z, z / 2),
        lambda z: (torch.zeros_like(z).softmax(1), z.repeat(1, 2)),
    ],
)
def test_outputs_of_which_none_is_made_of_another_are_listed(end: Callable[[Tensor], object]) -> None:
    from obeql.executor.models import adopt

    with pytest.raises(ModelError, match=r"several outputs that may be its classes: .*0 \(N, 3\).*say which with out"):
        adopt(Net(end).eval(), size=12)
    assert adopt(Net(end).eval(), size=12, output=0).n_classes == 3
