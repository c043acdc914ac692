"""Memory, time and repetition: what a statement may take, and that nothing is left of it."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from obeql.errors import DeviceError, QueryTypeError
from obeql.executor.operators.clean_pass import materialise
from obeql.executor.operators.dense_forward import DenseRun
from obeql.executor.operators.grid_scan import GridScan
from obeql.executor.operators.incremental_forward import IncrementalRun
from obeql.planner.physical.plan import IncrementalForward

STATEMENT = "EXPLAIN OCCLUDE ? USING net FOR CLASS 1 WITH patch=8 stride=2 score=log_odds"


def script(name: str) -> Any:
    path = Path(__file__).parents[2] / "scripts" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


# ---- memory ----------------------------------------------------------------------------------------------------


def test_too_little_memory_is_refused_with_the_least(net_db: Any, pixels: Any) -> None:
    with pytest.raises(
        QueryTypeError, match=r"one window of 8x8 at a time needs \d+(\.\d)?kB beyond the weights"
    ) as said:
        net_db.execute(f"{STATEMENT} memory=10", [pixels()])
    least = str(said.value).partition(" needs ")[2].partition(" ")[0]
    whole = net_db.execute(f"{STATEMENT} NO REUSE", [pixels()])
    small = net_db.execute(f"{STATEMENT} memory='{least}' NO REUSE", [pixels()])
    np.testing.assert_allclose(small[0].scores, whole[0].scores, atol=1e-4)
    with pytest.raises(QueryTypeError, match="needs"):
        net_db.execute("SET obeql.memory = '10B'; " + STATEMENT, [pixels(1)])
    net_db.execute("RESET obeql.memory")


def test_a_map_of_one_class_does_not_keep_those_of_all(net_db: Any, pixels: Any) -> None:
    for heat in net_db.execute("EXPLAIN OCCLUDE ? USING net FOR ALL WITH patch=8 stride=4", [[pixels(3), pixels(4)]]):
        for plane in (heat.cells.logit, heat.cells.others, heat.cells.top_class):
            assert plane.base is None or plane.base.nbytes <= plane.nbytes


def test_memory_bounds_a_batch_that_was_asked_for(net_db: Any, pixels: Any) -> None:
    many = net_db.execute(f"PLAN {STATEMENT} batch=64", [pixels()]).physical.engines[0]
    few = net_db.execute(f"PLAN {STATEMENT} batch=64 memory='100kB'", [pixels()]).physical.engines[0]
    assert many.batch == 64 and 1 <= few.batch < 64
    if isinstance(few, IncrementalForward):
        assert few.tail_batch < 64


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")])
def test_failed_allocations_make_batches_smaller(
    net_db: Any, pixels: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    expected = net_db.execute(f"{STATEMENT} NO REUSE", [pixels()])
    tried: list[int] = []
    for operator in (DenseRun, IncrementalRun):
        real = operator.run

        def run(self: Any, *rest: Any, real: Any = real) -> None:
            tried.append(self.engine.batch)
            if self.engine.batch > 3:
                raise type(error)(*error.args)  # one that is raised keeps what its frames hold, to the end of the tests
            real(self, *rest)

        monkeypatch.setattr(operator, "run", run)
    found = net_db.execute(f"{STATEMENT} batch=16 NO REUSE", [pixels()])
    assert tried == [16, 8, 4, 2]
    np.testing.assert_allclose(found[0].scores, expected[0].scores, atol=1e-4)


def test_no_memory_at_all_is_an_error_of_the_device(net_db: Any, pixels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    net_db.execute(STATEMENT, [pixels(7)])  # measures rates

    def run(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(DenseRun, "run", run)
    monkeypatch.setattr(IncrementalRun, "run", run)
    with pytest.raises(DeviceError, match="not enough memory for one window at a time"):
        net_db.execute(STATEMENT, [pixels()])


def test_an_address_space_that_is_too_small(tmp_path: Path) -> None:
    code = """
    import json, resource
    import numpy as np, torch, obeql
    torch.set_num_threads(1); torch.manual_seed(0)
    parts = torch.nn.Conv2d(3, 64, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(64, 64, 3, padding=1)
    head = torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(64, 3)
    net = torch.nn.Sequential(*parts, *head).eval()
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    with obeql.connect() as db:
        db.create_model("net", net, size=(64, 64))
        db.execute("SET obeql.disabled_rules = 'choose_engine'")
        statement = "EXPLAIN OCCLUDE ? USING net WITH patch=16 stride=4 batch={} NO REUSE"
        whole = db.execute(statement.format(8), [picture])
        used = int(open("/proc/self/statm").read().split()[0]) * 4096
        resource.setrlimit(resource.RLIMIT_AS, (used + 100_000_000, -1))  # 169 windows need 350 MB
        small = db.execute(statement.format(169), [picture])
        resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
        print(json.dumps(float(np.abs(whole[0].scores - small[0].scores).max())))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) < 1e-5


def test_what_is_kept_for_a_list_of_patches_is_within_what_is_allowed(net_db: Any, pixels: Any) -> None:
    """Every array that says where boxes lie, counted, after all sizes of patch have run."""
    query = "EXPLAIN OCCLUDE ? USING net WITH patch=[4, 8, 12] stride=4 memory='2MB'"
    plan = net_db.execute(f"PLAN {query}", [pixels(0)]).physical
    graph = net_db._model_registry.graph(plan.model).to(torch.device("cpu"), torch.float32)
    runs = [GridScan(graph, *each, several=True) for each in zip(plan.grids, plan.engines, strict=True)]
    operators = [run._operator for run in runs if isinstance(run._operator, IncrementalRun)]
    with torch.inference_mode():
        clean = materialise(graph, torch.rand(1, *graph.layers[0].shape), {each for run in runs for each in run.needed})
        for run in runs:
            for _ in range(2):
                run.compute(clean, torch.zeros(3, 1, 1), [[0]], "softmax", lambda _: None)
    kept = [array_bytes(run._kept) for run in operators]
    assert max(kept) > 0
    assert all(run._kept_bytes <= run.engine.kept_bytes for run in operators)
    assert sum(kept) + max(run.engine.least_bytes for run in operators) <= plan.memory_bytes


def test_lanes_together_keep_no_more_than_is_allowed(net_db: Any, pixels: Any) -> None:
    plan = net_db.execute("PLAN EXPLAIN OCCLUDE ? USING net WITH patch=8 stride=4", [pixels(0)]).physical
    (engine,) = plan.engines
    graph = net_db._model_registry.graph(plan.model)
    run = IncrementalRun(graph, plan.grids[0], replace(engine, kept_bytes=1000.0), several=True)
    with ThreadPoolExecutor(8) as lanes:
        taken = list(lanes.map(run._reserve, [90] * 100))
    assert sum(taken) == 11 and run._kept_bytes == 990


def array_bytes(held: Any, seen: set[int] | None = None) -> int:
    """Bytes of all tensors and arrays below an object, each storage once."""
    seen = set() if seen is None else seen
    if isinstance(held, torch.Tensor):
        held = held.numpy()
    if isinstance(held, np.ndarray):
        while isinstance(held.base, np.ndarray):
            held = held.base
        new, place = held.ctypes.data not in seen, held.ctypes.data
        seen.add(place)
        return held.nbytes if new else 0
    if isinstance(held, dict):
        return sum(array_bytes(each, seen) for each in held.values())
    if isinstance(held, (list, tuple)):
        return sum(array_bytes(each, seen) for each in held)
    if is_dataclass(held):
        return sum(array_bytes(getattr(held, each.name), seen) for each in fields(held))
    return 0


@pytest.mark.slow
def test_memory_in_use_is_about_what_is_allowed() -> None:
    """The fixed costs of threads and allocators are a few megabytes, whatever the limit."""
    measured = script("measure_memory").measure(script("measure_memory").ROWS[2])
    assert measured["limit"] == "50MB" and measured["windows_MB"] < 60


# ---- time ------------------------------------------------------------------------------------------------------


def test_a_time_limit_ends_with_part_of_the_map(net_db: Any, pixels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    real = DenseRun.run, IncrementalRun.run
    for operator, run in zip((DenseRun, IncrementalRun), real, strict=True):

        def slow(self: Any, clean: Any, fill: Any, *given: Any, run: Any = run) -> None:
            time.sleep(0.3)
            run(self, clean, fill, *given)

        monkeypatch.setattr(operator, "run", slow)
    result = net_db.execute("EXPLAIN OCCLUDE ? USING net WITH patch=4 stride=1 WITHIN 0.5 SECONDS", [pixels()])
    (heat,) = result
    assert 0 < heat.cells.quality["n_exact"] < heat.shape[0] * heat.shape[1]
    assert net_db.execute("SELECT status FROM runs").fetchall() == [("done",)]
    with pytest.raises(QueryTypeError):
        net_db.execute("EXPLAIN OCCLUDE ? USING net WITHIN 0 SECONDS", [pixels()])


# ---- repetition ------------------------------------------------------------------------------------------------


def test_sessions_leave_nothing_behind(tmp_path: Path) -> None:
    report = script("leak_test").run(tmp_path, 15)
    assert report["threads_left"] == 0 and report["files_left"] == 0
