"""What tests share: a session, a tiny network, small pictures, a dump of everything a database holds.

Tests run side by side (`make test` starts two processes): those marked `alone` wait until no other test runs.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

try:
    import fcntl
except ImportError:  # Windows, where tests run one after the other
    fcntl = None  # type: ignore[assignment]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    """Hold a lock while a test runs, shared with other processes unless the test is marked `alone`."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    if run is None or fcntl is None:
        return (yield)
    with _held(Path(tempfile.gettempdir()) / f"obeql-tests-{run}", item.get_closest_marker("alone") is not None):
        return (yield)


#: Files that take longest, the longest first. They begin first: each stays in one process, and the last one
#: to begin would run on alone. (Makefile switches off that files of many tests begin first.)
LONGEST = (
    "executor/test_torchvision.py",
    "session/test_parquet.py",
    "project/test_gpu_check.py",
    "session/test_durability.py",
    "project/test_skull.py",
    "executor/test_incremental.py",
    "session/test_workers.py",
    "session/test_limits.py",
    "session/test_plans_agree.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest; the others stay in their order."""
    root = Path(__file__).parent
    places = {root / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@contextmanager
def _held(path: Path, alone: bool) -> Iterator[None]:
    """Hold the lock at `path`. Whoever waits for it keeps the door shut, so that others do not run past."""
    with path.with_suffix(".door").open("w") as door, path.open("w") as lock:
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        if not alone:
            fcntl.flock(door, fcntl.LOCK_UN)
        yield


#: What workers import on first use.
PRELOADED = ("obeql.executor.execution.executor", "obeql.executor.network.capture.capture", "sympy", "torch._dynamo")


@pytest.fixture
def quick_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers start from a server that has imported PyTorch, not as a new interpreter each, which takes seconds.

    `tests/session/test_workers.py` has those that scripts start as users do.
    """
    from obeql.executor.workers import process_pool

    if "forkserver" in multiprocessing.get_all_start_methods():
        multiprocessing.set_forkserver_preload(["torch", "obeql.executor.workers.worker", *PRELOADED])
        monkeypatch.setattr(process_pool, "START", "forkserver")


#: What was timed in this process, by what was timed.
_MEASURED: dict[Any, Any] = {}


@pytest.fixture(autouse=True)
def rates_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions of a test process time the same layers once: half of what a test with one small map would take.

    `tests/session/test_rate_book.py` measures in each of its tests, `tests/executor/test_rates.py` calls what measures.
    """
    rates = sys.modules.get("obeql.executor.calibration.rates")
    if rates is None:  # nothing was measured yet; PyTorch is not imported for a test that needs none
        return
    import torch

    from obeql.executor.devices import device_of

    measure, matrix = rates.measure_rates, rates.matrix_rate

    def place_of(device: Any, dtype: Any) -> tuple[Any, ...]:
        place = device_of(device)
        return device, dtype, torch.get_num_threads(), place.n_lanes, place.hardware

    def measured(
        graph: Any, device: Any, dtype: Any, heed: Callable[[], None] = lambda: None, *, is_rough: bool = False
    ) -> Any:
        if graph.reason:  # what runs whole is not told apart by its layers
            return measure(graph, device, dtype, heed, is_rough=is_rough)
        heed()
        key = repr(graph.network()), is_rough, *place_of(device, dtype)
        if key not in _MEASURED:
            _MEASURED[key] = measure(graph, device, dtype, heed, is_rough=is_rough)
        return _MEASURED[key]

    def limit(device: Any, dtype: Any) -> Any:
        key = place_of(device, dtype)
        if key not in _MEASURED:
            _MEASURED[key] = matrix(device, dtype)
        return _MEASURED[key]

    monkeypatch.setattr(rates, "measure_rates", measured)
    monkeypatch.setattr(rates, "matrix_rate", limit)


SIZE = 32
CLASSES = ("ant", "bee", "cat")


@pytest.fixture
def db() -> Iterator[Any]:
    """A session in memory."""
    import obeql

    with obeql.connect(allow_python=True) as session:
        yield session


@pytest.fixture
def scanned(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many characters each token that the scanner found has: their sum is what was read, however often."""
    from obeql.grammar import embedding, scanner

    found: list[int] = []
    scan = scanner.scan

    def noted(text: str, start: int = 0) -> Iterator[Any]:
        for token in scan(text, start):
            found.append(token.end - token.start)
            yield token

    for module in (scanner, embedding):
        monkeypatch.setattr(module, "scan", noted)
    return found


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Small tensors run fastest, and repeatably, on one thread."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C as at a terminal: what a shell runs in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def tiny_net() -> Any:
    """Build a seeded convolutional network, (N, 3, 32, 32) to (N, 3), whose outputs vary with what is hidden."""
    import torch
    from torch import Generator, nn

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # networks this small only lose by waiting for each other

    def build(seed: int = 0) -> nn.Sequential:
        net = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 6, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(96, 3),
        )
        generator = Generator().manual_seed(seed)
        for parameter in net.parameters():
            nn.init.normal_(parameter, std=0.4, generator=generator)
        return net.eval()

    yield build
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def pixels() -> Callable[..., Any]:
    """Make a seeded random picture, (size, size, 3) uint8."""

    def make(seed: int = 0, size: int = SIZE) -> Any:
        return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)

    return make


@pytest.fixture
def folder(tmp_path: Path, pixels: Callable[..., Any]) -> Path:
    """A folder of three PNG files of the network's size: scan1, scan2, scan3."""
    scans = tmp_path / "scans"
    scans.mkdir()
    for seed in (1, 2, 3):
        Image.fromarray(pixels(seed)).save(scans / f"scan{seed}.png")
    return scans


@pytest.fixture
def net_db(db: Any, tiny_net: Any) -> Any:
    """A session with the model `net`."""
    db.create_model("net", tiny_net(), size=(SIZE, SIZE), classes=list(CLASSES))
    return db


@pytest.fixture(scope="module")
def shared_db(tiny_net: Any) -> Iterator[Any]:
    """As `net_db`, for the tests of a file that leave it as it was."""
    import obeql

    with obeql.connect(allow_python=True) as session:
        session.create_model("net", tiny_net(), size=(SIZE, SIZE), classes=list(CLASSES))
        yield session


@pytest.fixture(scope="session")
def dump() -> Callable[[Any], dict[str, list[Any]]]:
    """Return every row of every table of a session's store."""

    def rows(session: Any) -> dict[str, list[Any]]:
        connection = session.connection
        tables = connection.execute(
            "SELECT table_name FROM duckdb_tables() WHERE schema_name = 'obeql_store' ORDER BY 1"
        ).fetchall()
        names = [f"obeql_store.{name}" for (name,) in tables]
        return {name: sorted(connection.execute(f"SELECT * FROM {name}").fetchall(), key=repr) for name in names}

    return rows


@pytest.fixture(scope="session")
def make_heatmap() -> Callable[..., Any]:
    """Make a heat map without a network: importances (11, 11), or one for all, of patch 8, stride 4 on 48 x 48."""

    def make(importance: Any, size: tuple[int, int] = (60, 80), fill: str = "mean", **more: Any) -> Any:
        from obeql.executor.images import decode_object, place
        from obeql.planner.catalog import Preprocessing
        from obeql.planner.cells import CellKey, MapCells
        from obeql.planner.grid import WindowGrid
        from obeql.results.heatmap import Heatmap

        how = Preprocessing((48, 48), mean=(0.5,), std=(0.2,))
        source = decode_object(Image.new("L", (size[1], size[0]), 128), "gray")
        grid = WindowGrid.over(how.size, (8, 8), (4, 4))
        rows, cols = (np.array(axis.starts, np.int32) for axis in (grid.rows, grid.cols))
        lengths = np.full(11, 8, np.int32)
        logit = np.broadcast_to(-np.asarray(importance, np.float32), grid.shape)
        key = CellKey(source.digest, "m", "p", (8, 8), fill, "float32")
        top = np.zeros(grid.shape, np.int32)
        quality = more.pop("quality", {})
        cells = MapCells(
            key, 0, (rows, cols), (lengths, lengths), logit, np.zeros_like(logit), top, 0.0, 0.0, 0, None, quality
        )
        more = {"picture": source, "class_name": "cat", "classes": ("cat", "dog"), "run_id": 1, **more}
        return Heatmap(
            cells, "log_odds", "folder/gray.png", model="net", stride=(4, 4), placement=place(source.size, how), **more
        )

    return make


class Counter:
    """Counts the windows that networks compute, and the clean passes."""

    def __init__(self) -> None:
        self.windows = 0
        self.passes = 0

    def take(self) -> tuple[int, int]:
        seen = self.windows, self.passes
        self.windows = self.passes = 0
        return seen


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """How many windows and clean passes were computed since it was asked last."""
    from obeql.executor.execution import executor
    from obeql.executor.operators.grid_scan import GridScan

    counter = Counter()
    plain_compute, plain_pass = GridScan.compute, executor.materialise

    def compute(self: Any, *args: Any) -> Any:
        wanted = args[5]
        counter.windows += int(wanted.sum())
        return plain_compute(self, *args)

    def materialise(*args: Any) -> Any:
        counter.passes += len(args[1])  # images
        return plain_pass(*args)

    monkeypatch.setattr(GridScan, "compute", compute)
    monkeypatch.setattr(executor, "materialise", materialise)
    return counter
