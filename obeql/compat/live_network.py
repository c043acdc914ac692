"""Live modules that the incremental engine runs: captured once, kept as long as the module lives and stays what it is.

Asked by `captum` and `monai` for every call. What is kept of a module is used only while `module_state` says that it is
unchanged, and each call compares the clean image's outputs with what the module itself has just returned; the first one
also compares some windows. None in place of a network, or of its outputs, means: run the module itself.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from obeql.compat.module_state import module_state
from obeql.executor.calibration.rates import measure_rates
from obeql.executor.devices import DTYPES, arithmetic
from obeql.executor.devices.stopwatch import Stopwatch
from obeql.executor.models.identity.snapshot import snapshot
from obeql.executor.network.capture.capture import capture
from obeql.executor.network.graph import LayerGraph
from obeql.executor.operators.clean_pass import materialise
from obeql.executor.operators.dense_forward import DenseRun, as_computed
from obeql.executor.operators.incremental_forward import IncrementalRun
from obeql.executor.operators.skip_unchanged import unchanged_windows
from obeql.executor.operators.window_fill import WindowFill
from obeql.planner.grid import WindowGrid
from obeql.planner.physical.cost import Rates
from obeql.planner.physical.plan import IncrementalForward
from obeql.planner.physical.schedule import choose_engine

__all__ = ["LiveNetwork", "live_network", "share_of"]

_LOG = logging.getLogger(__name__)

#: What it takes to capture a network and to measure how fast it runs: seconds a layer, and passes of one image.
_LAYER_S, _CAPTURE_PASSES, _RATES_PASSES = 0.02, 20, 40
#: So many times as long the windows asked for have to take, for that to be worth it.
_WORTH = 1.5
#: Images in the passes that tell how long a window takes: the user's batches are such.
_TIMED_TOGETHER = 4
#: Grids of which the prepared operator is kept, a network.
_MOST_GRIDS = 4
#: Largest difference from the module's own outputs, as a share of the largest, or of 1.
_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}
_PRECISION = {dtype: name for name, dtype in DTYPES.items() if name in ("float32", "float64")}

#: shape of an image, its dtype and device
_Key = tuple[tuple[int, ...], torch.dtype, torch.device]


@dataclass(slots=True, eq=False)
class _Module:
    """What is known of a module: its networks by the images they take, all as of `state`."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    state: str | None = None
    networks: dict[_Key, LiveNetwork | None] = field(default_factory=dict)
    #: how fast it runs: its layers stay what they are while it is trained
    rates: dict[tuple[_Key, int], Rates] = field(default_factory=dict)
    #: windows that were asked for since the state was another one; seconds of one, None where that cannot be told
    n_asked: Counter[_Key] = field(default_factory=Counter)
    window_s: dict[_Key, float | None] = field(default_factory=dict)
    #: it changes while it runs, or nobody can tell
    is_opaque: bool = False


_modules: WeakKeyDictionary[nn.Module, _Module] = WeakKeyDictionary()
_registering = threading.Lock()


def live_network(module: Any, images: Tensor, returned: Any, n_windows: int) -> LiveNetwork | None:
    """Return what runs `module` incrementally on images (N, C, ...) of two or three axes; None where it cannot.

    `returned` is what it has returned for the images; `n_windows` are asked for of each image. None as well while the
    windows asked for so far, in this call and those before, take about as long as it does to prepare the network.
    """
    if not (_can_be_captured(module) and _is_plain(images, returned)):
        return None
    with _registering:
        known = _modules.setdefault(module, _Module())
    with known.lock:
        key = _key(images)
        known.n_asked[key] += n_windows * len(images)
        if known.is_opaque or not (known.networks or _is_worth(known, module, images)):
            return None
        if key in known.networks and known.networks[key] is None:
            return None
        state = module_state(module)
        if state != known.state:
            if known.networks:
                known.n_asked = Counter({key: n_windows * len(images)})
            known.networks.clear()
            known.state = state
            known.is_opaque = state is None
        if key not in known.networks and not known.is_opaque and _is_worth(known, module, images):
            with torch.no_grad():
                module(images[:1].clone())  # into which it may write
            known.is_opaque = module_state(module) != state  # it notes what it has seen
            known.networks[key] = None if known.is_opaque else _captured(module, images, known.rates)
        return known.networks.get(key)


def _is_worth(known: _Module, module: nn.Module, images: Tensor) -> bool:
    """Return whether the windows asked for so far take clearly longer than preparing the network does."""
    key = _key(images)
    n_asked, n_passes = known.n_asked[key], _CAPTURE_PASSES
    if _rates_key(images) not in known.rates:
        n_passes += _RATES_PASSES
    if n_asked < _WORTH * n_passes:
        return False
    if key not in known.window_s:
        known.window_s[key] = _window_seconds(module, images)
    window_s = known.window_s[key]
    n_layers = sum(not part._modules for part in module.modules())
    return window_s is not None and n_asked * window_s >= _WORTH * (n_layers * _LAYER_S + n_passes * window_s)


def _window_seconds(module: nn.Module, images: Tensor) -> float | None:
    """Return how long the module takes for an image where several go together; None where that fails."""
    several = images[:1].repeat(_TIMED_TOGETHER, *[1] * (images.dim() - 1))
    try:
        with torch.no_grad():
            return Stopwatch(images.device).least(lambda: module(several)) / _TIMED_TOGETHER
    except Exception as error:  # the user's code, which may take one image alone
        _LOG.debug("not timed: %s", error)
        return None


def _key(images: Tensor) -> _Key:
    return tuple(images.shape[1:]), images.dtype, images.device


def _rates_key(images: Tensor) -> tuple[_Key, int]:
    return _key(images), torch.get_num_threads()


def _can_be_captured(module: Any) -> bool:
    """Return whether a module is called as it is written: in evaluation mode, without hooks, in this process."""
    if not isinstance(module, nn.Module) or isinstance(module, (nn.DataParallel, torch.jit.ScriptModule)):
        return False
    if type(module).__call__ is not nn.Module.__call__ or hasattr(module, "_orig_mod"):  # torch.compile's wrapper
        return False
    if nn.modules.module._global_forward_hooks or nn.modules.module._global_forward_pre_hooks:
        return False
    return not any(part.training or part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def _is_plain(images: Tensor, returned: Any) -> bool:
    """Return whether images (N, C, ...) and outputs (N, K) are numbers of one format, as the engine computes in."""
    if not isinstance(returned, Tensor) or images.dim() not in (4, 5) or returned.dim() != 2 or images.numel() == 0:
        return False
    if (
        images.dtype not in _PRECISION
        or images.is_meta
        or images.layout != torch.strided
        or len(returned) != len(images)
    ):
        return False
    if (returned.dtype, returned.device) != (images.dtype, images.device) or returned.shape[1] < 1:
        return False
    return bool(images.isfinite().all()) and bool(returned.isfinite().all())


def _captured(module: nn.Module, images: Tensor, rates: dict[tuple[_Key, int], Rates]) -> LiveNetwork | None:
    """Return a network of its own memory; None where it was not captured layer by layer."""
    precision, device = _PRECISION[images.dtype], images.device
    try:
        with torch.no_grad():
            graph = capture(snapshot(module).cpu(), tuple(images.shape[1:]), outputs="value")
            if graph.reason:
                _LOG.debug("runs whole: %s", graph.reason)
                return None
            with arithmetic(precision, device):
                known = rates.get(_rates_key(images))
                if known is None or len(known.layer_s) != len(graph.layers):
                    known = rates[_rates_key(images)] = measure_rates(graph, device, images.dtype, is_rough=True)
                return LiveNetwork(graph.to(device, images.dtype), known, precision)
    except Exception as error:  # the user's code is traced: anything may come out of it
        _LOG.debug("not captured: %s", error)
        return None


class LiveNetwork:
    """A module's layers on a device, and the operators that were prepared for the grids asked for last.

    `precision` names the number format of `graph`.
    """

    def __init__(self, graph: LayerGraph, rates: Rates, precision: str) -> None:
        self._graph = graph
        self._rates = rates
        self._precision = precision
        self._runs: OrderedDict[tuple[WindowGrid, bool, int], IncrementalRun | DenseRun | None] = OrderedDict()
        self._is_checked = False
        self._is_wrong = False

    def outputs(
        self,
        module: nn.Module,
        images: Tensor,
        fill: Tensor | WindowFill,
        grid: WindowGrid,
        returned: Tensor,
        tell: Callable[[float], None],
    ) -> Tensor | None:
        """Return the outputs (windows, N, K) of images (N, C, ...) with each window of `grid` hidden by `fill`.

        `fill` is (1, C, 1, ...), (N, C, ...), or works values out. `module` is what the layers were captured of, and
        `returned` its outputs (N, K) for the images themselves. `tell` is called with the share of windows that is
        done. None where numbers differ from the module's own, or memory does not suffice.
        """
        if self._is_wrong:
            return None
        found = torch.empty((grid.n_windows, *returned.shape), dtype=returned.dtype, device=returned.device)
        plain = images.detach().as_subclass(torch.Tensor)
        for number in range(len(plain)):
            image = plain[number : number + 1]
            own = fill[number : number + 1] if isinstance(fill, Tensor) and len(fill) > 1 else fill
            try:
                logits = self._of_image(image, own, grid, returned[number], share_of(tell, number, len(plain)))
            except RuntimeError as error:  # such as too little memory
                _LOG.debug("not run incrementally: %s", error)
                return None
            if logits is None or not self._agrees(module, image, own, grid, logits):
                return None
            found[:, number] = logits
        return found

    def _of_image(
        self,
        image: Tensor,
        fill: Tensor | WindowFill,
        grid: WindowGrid,
        returned: Tensor,
        tell: Callable[[float], None],
    ) -> Tensor | None:
        """Return the outputs (windows, K) of one image (1, C, ...); None where the clean ones are not `returned`."""
        n_windows, n_done = grid.n_windows, 0
        with arithmetic(self._precision, image.device):
            run = self._run(grid, is_worked_out=isinstance(fill, WindowFill))
            if run is None:
                return None
            clean = materialise(self._graph, image, run.needed)
            if not _are_close(clean.logits[0], returned):
                self._is_wrong = True
                return None
            logits = clean.logits.repeat(n_windows, 1)
            wanted = _changed(image, fill, grid)

            def take(windows: npt.NDArray[np.int64], values: Tensor) -> None:
                nonlocal n_done
                logits[torch.from_numpy(windows).to(logits.device)] = values
                n_done += len(windows)
                tell(n_done / n_windows)

            if isinstance(run, DenseRun):
                assert isinstance(fill, Tensor)  # `_run` has seen to that
                run.run(clean, fill, wanted, take, as_computed)
            else:
                run.run(clean, fill, wanted, take, as_computed)
        return logits.clone() if bool(logits.isfinite().all()) else None

    def _run(self, grid: WindowGrid, is_worked_out: bool) -> IncrementalRun | DenseRun | None:
        """Return the operator of a grid, prepared once; None where windows are worked out, but not incrementally."""
        key = grid, is_worked_out, torch.get_num_threads()
        if key in self._runs:
            self._runs.move_to_end(key)
            return self._runs[key]
        engine, _ = choose_engine(self._graph.network(), grid, self._rates)
        run: IncrementalRun | DenseRun | None = None
        if isinstance(engine, IncrementalForward):
            run = IncrementalRun(self._graph, grid, engine, several=True)
        elif not is_worked_out:
            run = DenseRun(self._graph, grid, engine)
        self._runs[key] = run
        while len(self._runs) > _MOST_GRIDS:
            self._runs.popitem(last=False)
        return run

    def _agrees(
        self, module: nn.Module, image: Tensor, fill: Tensor | WindowFill, grid: WindowGrid, logits: Tensor
    ) -> bool:
        """Return whether the first, a middle and the last window are what the module gives; asked once."""
        if self._is_checked:
            return True
        middle = int(np.ravel_multi_index([n // 2 for n in grid.shape], grid.shape))
        numbers = sorted({0, middle, grid.n_windows - 1})
        with torch.no_grad():
            expected = module(torch.cat([_hidden(image, fill, grid, number) for number in numbers]))
        self._is_checked = _are_close(logits[numbers], expected)
        self._is_wrong = not self._is_checked
        return self._is_checked


def share_of(tell: Callable[[float], None], number: int, n: int) -> Callable[[float], None]:
    """Return what `tell` is told through of part `number` of `n` equal parts, by the share of the part that is done."""
    return lambda share: tell((number + share) / n)


def _are_close(found: Tensor, expected: Tensor) -> bool:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    scale = max(1.0, float(expected.abs().max()))
    return float((found - expected).abs().max()) <= _TOLERANCE[found.dtype] * scale


def _changed(image: Tensor, fill: Tensor | WindowFill, grid: WindowGrid) -> npt.NDArray[np.bool_] | None:
    """Return which windows (1, *grid's shape) change the image; None for all of them."""
    if isinstance(fill, WindowFill):
        return None
    unchanged = unchanged_windows(image, fill, grid)
    return ~unchanged.reshape(1, *grid.shape) if unchanged.any() else None


def _hidden(image: Tensor, fill: Tensor | WindowFill, grid: WindowGrid, number: int) -> Tensor:
    """Return a copy of an image (1, C, ...) with one window hidden."""
    places = zip(grid.axes, np.unravel_index(number, grid.shape), strict=True)
    box = (slice(axis.starts[place], axis.starts[place] + axis.lengths[place]) for axis, place in places)
    where = (slice(None), slice(None), *box)
    hidden = image.clone()
    hidden[where] = fill.expand_as(image)[where] if isinstance(fill, Tensor) else fill.values(image[where], None)
    return hidden
