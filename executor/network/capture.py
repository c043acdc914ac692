"""From any module to a layer graph: trace, lower, fold, and check the result against the module itself.

The module runs once on fake tensors under `torch.fx`'s `make_fx`, which records the ATen operators it reaches. That
takes any Python control flow that does not depend on pixel values, and needs no forward pass. Where it fails,
`torch.export` is tried, and what neither captures runs whole: slower, never wrong.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from obeql.errors import ModelError
from obeql.executor.network.fold import fold
from obeql.executor.network.graph import LayerGraph
from obeql.executor.network.layers.image import Image
from obeql.executor.network.layers.whole import Whole
from obeql.executor.network.lower import TRACE_BATCH, CannotLowerError, default_activation, lower
from obeql.planner.catalog import Activation

__all__ = ["capture"]


def capture(
    module: nn.Module,
    input_shape: tuple[int, int, int],
    outputs: Literal["logits", "probabilities"] | None = None,
    activation: Activation | None = None,
) -> LayerGraph:
    """Return `module` (in eval mode, on CPU, (N, C, H, W) to (N, K)) as a layer graph.

    `outputs` says what the module returns; None detects a final softmax or sigmoid and otherwise takes the
    output for logits. Raises ModelError when the module cannot run on `input_shape` = (C, H, W), or its output is
    not (N, K). The graph agrees with the module to float noise: that was checked on a random input.
    """
    expected, probe = _probe(module, input_shape)
    n_classes = expected.shape[1]
    reasons: list[str] = []
    for trace in (_trace_fx, _trace_export):
        try:
            traced = trace(module, input_shape)
            layers, found = lower(traced, input_shape, outputs, activation)
            kind: Activation = activation or found or default_activation(n_classes)
            graph = LayerGraph(fold(layers), kind)
            _check(graph, probe, expected, found or (kind if outputs == "probabilities" else None))
            return graph
        except (CannotLowerError, ModelError) as error:
            reasons.append(str(error))
        except Exception as error:  # tracing runs the user's code: anything may come out of it
            reasons.append(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200])
    kind = activation or default_activation(n_classes)
    image = Image("image", (), input_shape)
    whole = Whole("network", (0,), (n_classes,), module, probabilities=outputs == "probabilities", activation=kind)
    return LayerGraph((image, whole), kind, reason=reasons[0] or "the network could not be traced")


def _probe(module: nn.Module, input_shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Run the module on two random images; returns (output (2, K), the images)."""
    generator = torch.Generator().manual_seed(0)
    probe = torch.rand((2, *input_shape), generator=generator)
    try:
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            output = main_output(module(probe))
    except ModelError:
        raise
    except Exception as error:
        channels, height, width = input_shape
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"the network does not run on an image of {height}x{width} pixels and {channels} channels: {first}"
        ) from error
    if output.dim() != 2 or output.shape[0] != 2 or output.shape[1] < 1:
        raise ModelError(
            f"the network's output for 2 images has shape {tuple(output.shape)}; a classifier's is (2, classes)"
        )
    return output.float(), probe


def main_output(output: Any) -> Tensor:
    """The classifier's tensor out of whatever a module returns (auxiliary heads come after it)."""
    if isinstance(output, Tensor):
        return output
    if hasattr(output, "logits") and isinstance(output.logits, Tensor):
        return output.logits
    if isinstance(output, (tuple, list)) and output and isinstance(output[0], Tensor):
        return output[0]
    raise ModelError(f"the network returns a {type(output).__name__}; a classifier returns a tensor (N, classes)")


def _trace_fx(module: nn.Module, input_shape: tuple[int, int, int]) -> GraphModule:
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    fake = mode.from_tensor(torch.empty((TRACE_BATCH, *input_shape)))

    def run(x: Tensor) -> Tensor:
        return main_output(module(x))

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make_fx(run, tracing_mode="real", _allow_non_fake_inputs=True)(fake)


def _trace_export(module: nn.Module, input_shape: tuple[int, int, int]) -> GraphModule:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(module, (torch.zeros((TRACE_BATCH, *input_shape)),), strict=False)
        return _trace_fx(program.module(), input_shape)


def _check(graph: LayerGraph, probe: Tensor, expected: Tensor, taken_off: Activation | None) -> None:
    """Compare the graph with the module on the probe; a graph that disagrees is not used.

    `taken_off` is the final activation that the module applies and the graph does not.
    """
    with torch.inference_mode():
        got = graph.forward(probe)
    if taken_off == "softmax":
        got = torch.softmax(got, 1)
    elif taken_off == "sigmoid":
        got = torch.sigmoid(got)
    scale = max(1e-3, float(expected.abs().max()))
    same_nan = torch.equal(got.isnan(), expected.isnan())
    error = float((got - expected).nan_to_num().abs().max())
    if not same_nan or error > 1e-3 * scale:
        raise CannotLowerError(f"the traced network differs from the module by {error:.2g} (output up to {scale:.2g})")
