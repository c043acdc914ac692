"""From any module to a layer graph: trace, lower, fold, and check the result against the module itself.

The module runs once on tensors without values, and the ATen operators that it reaches are recorded. That takes any
Python control flow that does not depend on pixel values, and needs no forward pass. `record` does it for most modules;
what it does not follow `torch.fx`'s `make_fx` traces on fake tensors. Where that fails, `torch.export` is tried, and
what none of them captures runs whole: slower, never wrong.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from obeql.errors import ModelError
from obeql.executor.devices.modes import without_modes
from obeql.executor.network.capture.outputs import main_output
from obeql.executor.network.capture.quiet import quiet
from obeql.executor.network.capture.reading import reach_of, with_head
from obeql.executor.network.capture.record import record
from obeql.executor.network.capture.scale_shift import BatchNormAsScaleShift
from obeql.executor.network.capture.similarity import is_similarity
from obeql.executor.network.graph import LayerGraph
from obeql.executor.network.identity import graph_digest
from obeql.executor.network.layers import Layer
from obeql.executor.network.layers.image import Image
from obeql.executor.network.layers.whole import Whole
from obeql.executor.network.lowering.lower import TRACE_BATCH, CannotLowerError, lower
from obeql.executor.network.passes.fold import fold
from obeql.executor.network.tensor_digests import TensorDigests
from obeql.planner.catalog import Activation, RawOutputs

__all__ = ["capture"]

#: Differences, as a share of the output: up to the first, rounding of float32 explains them; beyond the second, it
#: does not. In between, float64 decides, where the module runs in it.
_ROUNDING, _TOLERANCE = 1e-4, 1e-3
_ROUNDING_IN_FLOAT64 = 1e-5


def capture(
    module: nn.Module,
    input_shape: tuple[int, ...],
    outputs: RawOutputs | None = None,
    activation: Activation | None = None,
    digests: TensorDigests | None = None,
    heed: Callable[[], None] = lambda: None,
) -> LayerGraph:
    """Return `module` (in eval mode, on CPU, (N, C, H, W) or (N, C, D, H, W) to (N, K)) as a layer graph.

    The graph gives a logit for each class, or the outputs themselves where they are values. `outputs` says what the
    module returns, `activation` how logits become probabilities; None detects a final softmax or sigmoid, and
    otherwise looks at what the module returns (`reading`). One output is the two classes no and yes.

    Raises ModelError when the module cannot run on `input_shape` = (C, ...), its output is not (N, K), or is not what
    was said. The graph agrees with the module to float noise: that was checked on a random input. It is the same
    whatever modes the caller is in, and shares no memory but the module's own parameters and buffers. With `digests`,
    the graph says by its digest what it computes. `heed` is called between passes, and may raise to stop.
    """
    with without_modes():
        return _captured(module, input_shape, outputs, activation, digests, heed)


def _captured(
    module: nn.Module,
    input_shape: tuple[int, ...],
    outputs: RawOutputs | None,
    activation: Activation | None,
    digests: TensorDigests | None,
    heed: Callable[[], None],
) -> LayerGraph:
    heed()
    returned, probe = _probe(module, input_shape)
    expected = returned.float()

    def more() -> Tensor:
        heed()
        try:
            return _run(module, _wild_images(input_shape)).to(returned.dtype)
        except Exception:  # a module may refuse such images
            return returned[:0]

    reasons: list[str] = []
    for trace in (_trace_plain, _trace_functional, _trace_export):
        heed()
        try:
            traced = trace(module, input_shape)
            if traced is None:
                continue
            heed()
            layers, found = lower(traced, input_shape, outputs not in ("logits", "value"))
            layers = _owned(layers, module)
            folded = tuple(fold(layers))
            _check(module, LayerGraph(folded, "none"), probe, expected, found)
        except (CannotLowerError, ModelError) as error:
            reasons.append(str(error))
        except Exception as error:  # tracing runs the user's code: anything may come out of it
            reasons.append(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200])
        else:
            said = outputs, activation, found
            graph = with_head(folded, *said, reach_of(layers), returned, more, similarity=is_similarity(layers))
            if digests is None:
                return graph
            return replace(graph, digest=graph_digest(layers, graph.layers[len(folded) :], graph.activation, digests))
    image = Image("image", (), input_shape)
    whole = Whole("network", (0,), (expected.shape[1],), module)
    reason = reasons[0] or "the network could not be traced"
    return with_head((image, whole), outputs, activation, None, "unknown", returned, more, reason)


def _run(module: nn.Module, images: Tensor) -> Tensor:
    """Return what the module returns for images (N, C, ...), (N, K)."""
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # A clone: a module may write into its input.
        return main_output(module(images.to(module_dtype(module), copy=True)))


def _wild_images(input_shape: tuple[int, ...]) -> Tensor:
    """Return images (8, C, ...) beyond what a network is meant for: noise, and planes of one color, of growing size."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn((8, *input_shape), generator=generator, dtype=torch.float32)
    n_axes = len(input_shape) - 1
    noise[6:] = noise[(slice(6, None), slice(None), *(slice(1) for _ in range(n_axes)))].sign()
    return noise * torch.tensor([1, 3, 3, 10, 10, 30, 2, 8], dtype=torch.float32).reshape(8, 1, *(1,) * n_axes)


def _owned(layers: Sequence[Layer], module: nn.Module) -> list[Layer]:
    """Return the layers with copies of all tensors but the module's parameters and buffers.

    A constant that the code takes from elsewhere, such as a global or a closure, may be written to later.
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in (*module.parameters(), *module.buffers())}

    def copied(tensor: Tensor) -> Tensor:
        return tensor if tensor.untyped_storage().data_ptr() in own else tensor.clone()

    return [layer.map_parameters(copied) for layer in layers]


def _probe(module: nn.Module, input_shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Run the module on two random images; returns (output (2, K), the images (2, C, ...), which are float32)."""
    generator = torch.Generator().manual_seed(0)
    probe = torch.rand((2, *input_shape), generator=generator, dtype=torch.float32)
    try:
        output, alone = _run(module, probe), _run(module, probe[:1])
    except ModelError:
        raise
    except Exception as error:
        channels, *sizes = input_shape
        size = "x".join(map(str, sizes))
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"the network does not run on an image of {size} pixels and {channels} channels: {first}"
        ) from error
    if output.dim() != 2 or output.shape[0] != 2 or output.shape[1] < 1:
        raise ModelError(
            f"the network's output for 2 images has shape {tuple(output.shape)}; a classifier's is (2, classes)"
        )
    if alone.shape != output[:1].shape or _difference(alone, output[:1]) > _TOLERANCE:
        raise ModelError(
            "the network's output for an image changes from call to call or with the other images of its batch; "
            "dropout that stays on and batch norm without running statistics do that"
        )
    return output, probe


def module_dtype(module: nn.Module) -> torch.dtype:
    """Return the dtype a module's input must have: that of its first floating-point tensor."""
    tensors = (*module.parameters(), *module.buffers())
    return next((t.dtype for t in tensors if t.is_floating_point()), torch.float32)


def _difference(got: Tensor, expected: Tensor) -> float:
    """Return the largest difference as a share of the largest value; infinite where NaN, inf or -inf lie elsewhere."""
    got, expected = got.double(), expected.double()
    finite = expected.isfinite()
    if not torch.equal(got[~finite].nan_to_num(nan=0.5), expected[~finite].nan_to_num(nan=0.5)):
        return float("inf")
    if not bool(got[finite].isfinite().all()):
        return float("inf")
    if not bool(finite.any()):
        return 0.0
    scale = float(expected[finite].abs().max())
    error = float((got[finite] - expected[finite]).abs().max())
    return error / scale if scale > 0 else float(error > 0)


def _trace_plain(module: nn.Module, input_shape: tuple[int, ...]) -> fx.Graph | None:
    try:
        traced = _recorded(module, input_shape)
    except Exception:  # tracing by PyTorch follows more, and says better what is wrong
        traced = _traced(module, input_shape, functional=False)
    # Lowering reads an in-place operator as one with a result; that is wrong where a view of its operand is read.
    return None if _writes_through_views(traced) else traced


def _trace_functional(module: nn.Module, input_shape: tuple[int, ...]) -> fx.Graph:
    return _traced(module, input_shape, functional=True)


def _trace_export(module: nn.Module, input_shape: tuple[int, ...]) -> fx.Graph:
    example = torch.zeros((TRACE_BATCH, *input_shape), dtype=module_dtype(module))
    with torch.no_grad(), quiet():
        program = torch.export.export(module, (example,), strict=False)
        return _trace_functional(program.module(), input_shape)


def _recorded(module: nn.Module, input_shape: tuple[int, ...]) -> fx.Graph:
    image = torch.empty((TRACE_BATCH, *input_shape), dtype=module_dtype(module), device="meta")
    with torch.no_grad(), warnings.catch_warnings(), BatchNormAsScaleShift():
        warnings.simplefilter("ignore")
        return record(lambda x: main_output(module(x)), image)


def _traced(module: nn.Module, input_shape: tuple[int, ...], functional: bool) -> fx.Graph:
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    fake = mode.from_tensor(torch.empty((TRACE_BATCH, *input_shape), dtype=module_dtype(module)))

    def run(x: Tensor) -> Tensor:
        return main_output(module(x))

    with torch.no_grad(), quiet(), BatchNormAsScaleShift():
        traced = torch.func.functionalize(run, remove="mutations") if functional else run
        return make_fx(traced, tracing_mode="real", _allow_non_fake_inputs=True)(fake).graph


def _writes_through_views(traced: fx.Graph) -> bool:
    """Return whether an in-place operator changes a tensor that another node sees through a view."""
    for node in traced.nodes:
        if node.op == "call_function" and _aliasing(node) == "writes":
            operands = [arg for arg in node.args if isinstance(arg, fx.Node)][:1]
            while operands and _aliasing(operands[0]) == "writes":
                operands = [arg for arg in operands[0].args if isinstance(arg, fx.Node)][:1]
            if any(_aliasing(n) == "views" or any(_aliasing(u) == "views" for u in n.users) for n in operands):
                return True
    return False


def _aliasing(node: fx.Node) -> str:
    """Return `writes` for an operator that changes an operand, `views` for one that returns a view, else nothing."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return ""
    if schema.is_mutable:
        return "writes"
    return "views" if any(r.alias_info is not None for r in schema.returns) else ""


def _check(module: nn.Module, graph: LayerGraph, probe: Tensor, expected: Tensor, taken_off: Activation | None) -> None:
    """Compare the graph with the module on the probe; a graph that disagrees is not used.

    `taken_off` is the final activation that the module applies and the graph does not.
    """
    with torch.inference_mode():
        got = graph.to(torch.device("cpu"), torch.float32).forward(probe)
    got = _with(taken_off, got)
    error = _difference(got, expected)
    allowed = _TOLERANCE
    if _ROUNDING < error < float("inf"):
        exact = _difference_in_float64(module, graph, probe, taken_off)
        if exact is not None:
            error, allowed = exact, _ROUNDING_IN_FLOAT64
    if error > allowed:
        raise CannotLowerError(f"the traced network differs from the module by {error:.2g} of its output")


def _difference_in_float64(
    module: nn.Module, graph: LayerGraph, probe: Tensor, taken_off: Activation | None
) -> float | None:
    """Return the difference without float32's rounding, which deep networks amplify.

    Return None if the module has only float32.
    """
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    wide = {name: t.detach().double() if t.is_floating_point() else t for name, t in tensors.items()}
    try:
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = main_output(torch.func.functional_call(module, wide, (probe.double(),)))
            got = graph.to(torch.device("cpu"), torch.float64).forward(probe.double())
    except Exception:  # a module that insists on its own dtype
        return None
    return _difference(_with(taken_off, got), expected)


def _with(activation: Activation | None, logits: Tensor) -> Tensor:
    if activation is None:
        return logits
    return torch.softmax(logits, 1) if activation == "softmax" else torch.sigmoid(logits)
