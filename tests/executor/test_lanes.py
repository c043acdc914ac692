"""Lanes: pieces of work side by side, results in order, errors and stops passed on, thread settings put back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from obeql.executor.devices import device_of
from obeql.executor.devices.lanes import StoppedError, run_in_lanes
from obeql.executor.devices.threads import set_own_threads
from obeql.executor.network.capture.capture import capture
from obeql.executor.operators.clean_pass import materialise
from obeql.executor.operators.dense_forward import DenseRun, as_computed, occlude
from obeql.executor.operators.incremental_forward import IncrementalRun
from obeql.planner.boxes import region_layers
from obeql.planner.grid import WindowGrid
from obeql.planner.physical.plan import Cost, DenseForward, IncrementalForward

Piece = Callable[[threading.Event], int]


def _sleeping(number: int) -> Piece:
    def piece(stop: threading.Event) -> int:
        time.sleep(0.01 * (number % 3))
        return number

    return piece


def run_elsewhere(call: Callable[[], int]) -> int:
    """What `call` returns in a thread born for it."""
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.parametrize("n_lanes", [1, 2, 3])
def test_results_come_in_order(n_lanes: int) -> None:
    taken: list[int] = []
    run_in_lanes((_sleeping(i) for i in range(20)), n_lanes, taken.append)
    assert taken == list(range(20))


@pytest.mark.parametrize("n_lanes", [1, 3])
def test_what_a_piece_raises_is_raised_and_stops_the_rest(n_lanes: int) -> None:
    def broken(stop: threading.Event) -> int:
        raise ValueError("broken")

    taken: list[int] = []
    with pytest.raises(ValueError, match="broken"):
        run_in_lanes([_sleeping(0), broken, *(_sleeping(i) for i in range(50))], n_lanes, taken.append)
    assert taken == [0]


def test_a_taker_that_raises_stops_pieces_that_are_running() -> None:
    seen: list[str] = []

    def long(stop: threading.Event) -> int:
        if not stop.wait(60):
            seen.append("waited in vain")
        raise StoppedError

    def take(number: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_in_lanes([_sleeping(0), long, long], 2, take)
    assert seen == []


def test_thread_settings_are_put_back_and_lanes_share_the_cores() -> None:
    before = torch.get_num_threads()
    inside: list[int] = []

    def piece(stop: threading.Event) -> int:
        inside.append(torch.get_num_threads())
        assert torch.is_inference_mode_enabled()
        return 0

    run_in_lanes([piece] * 4, 2, lambda _: None)
    assert torch.get_num_threads() == before
    assert set(inside) == {max(1, before // 2)}


def test_a_thread_born_while_lanes_are_at_work_has_the_threads_of_others() -> None:
    usual = run_elsewhere(torch.get_num_threads)
    inside: list[int] = []
    both = threading.Barrier(2)  # lanes that are about to start take a moment

    def piece(stop: threading.Event) -> int:
        both.wait(30)
        return run_elsewhere(torch.get_num_threads)

    run_in_lanes([piece] * 4, 2, inside.append)
    assert {*inside, run_elsewhere(torch.get_num_threads)} == {usual}


def test_a_thread_may_set_threads_for_itself_alone() -> None:
    before = torch.get_num_threads()
    try:
        set_own_threads(before + 1)
        assert torch.get_num_threads() == before + 1
        assert run_elsewhere(torch.get_num_threads) == before
    finally:
        set_own_threads(before)


def test_lanes_stay_for_the_next_call_also_after_a_piece_that_failed() -> None:
    def broken(stop: threading.Event) -> int:
        raise ValueError("broken")

    both = threading.Barrier(2)

    def named(stop: threading.Event) -> int:
        both.wait(30)
        return threading.get_ident()

    seen: list[set[int]] = []
    for pieces in ([named, named], [named, named, broken], [named, named]):
        names: list[int] = []
        with suppress(ValueError):
            run_in_lanes(pieces, 2, names.append)
        seen.append(set(names))
    assert seen[0] == seen[1] == seen[2] and len(seen[0]) == 2


def test_few_cores_have_a_lane_each_and_gpus_one() -> None:
    assert device_of(torch.device("cpu")).n_lanes == min(torch.get_num_threads(), 8)
    assert device_of(torch.device("cuda")).n_lanes == 1


def test_lanes_that_run_the_whole_network_have_as_many_windows_each() -> None:
    grid = WindowGrid.over((16, 8), (4, 4), (2, 4))  # 7 x 2 windows
    graph = capture(nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.LazyLinear(2)), (3, 16, 8))
    run = DenseRun(graph, grid, DenseForward(6, Cost(0.0, 0.0, 0.0), n_lanes=2))
    image, sizes = torch.rand(1, 3, 16, 8), []
    with torch.inference_mode():
        for wanted in (None, np.arange(grid.n_windows)[None] < 1):
            clean = materialise(graph, image, [])
            run.run(clean, torch.zeros(3, 1, 1), wanted, lambda part, _: sizes.append(len(part)), as_computed)
    assert sizes == [4, 4, 3, 3, 1]


@pytest.mark.parametrize("n_windows", [2, 14])
@pytest.mark.parametrize("boxes", [False, True])
def test_what_is_made_of_logits_is_made_in_lanes(boxes: bool, n_windows: int) -> None:
    grid = WindowGrid.over((16, 8), (4, 4), (2, 4))
    layers = nn.Conv2d(3, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 16 * 8, 2)
    graph = capture(nn.Sequential(*layers).eval(), (3, 16, 8)).to(torch.device("cpu"), torch.float32)
    whole, boxed = DenseForward(3, Cost(0, 0, 0), n_lanes=2), region_layers(graph.network(), 3)
    engine = IncrementalForward(boxed, (2, 1), 3, 3, Cost(0, 0, 0), n_lanes=2)
    run = IncrementalRun(graph, grid, engine) if boxes else DenseRun(graph, grid, whole)
    threads: set[int] = set()
    taken: dict[int, float] = {}

    def finish(windows: npt.NDArray[np.int64], logits: torch.Tensor) -> torch.Tensor:
        threads.add(threading.get_ident())
        return logits[:, 0] - logits[:, 1]

    def done(windows: npt.NDArray[np.int64], found: torch.Tensor) -> None:
        assert threading.current_thread() is threading.main_thread()
        taken.update(zip(windows.tolist(), found.tolist(), strict=True))

    image = torch.rand((1, 3, 16, 8), generator=torch.Generator().manual_seed(0))
    wanted = (np.arange(grid.n_windows) < n_windows).reshape(1, *grid.shape)
    with torch.inference_mode():
        run.run(materialise(graph, image, run.needed), torch.zeros(3, 1, 1), wanted, done, finish)
        logits = graph.forward(occlude(image, torch.zeros(3, 1, 1), grid, np.arange(n_windows)))
    assert threads and threading.get_ident() not in threads
    expected = dict(enumerate((logits[:, 0] - logits[:, 1]).tolist()))
    assert taken == pytest.approx(expected, abs=1e-5)
