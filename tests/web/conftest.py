"""What tests of the page share: a small network as a file, pictures, a page in this process, and one in a browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

try:
    import fcntl
except ImportError:  # Windows, where tests run one after the other
    fcntl = None  # type: ignore[assignment]

pytest.importorskip("starlette", reason="the page needs the extra ui")
pytest.importorskip("uvicorn", reason="the page needs the extra ui")

#: Input of the network, in pixels.
SIDE = 64
CLASSES = ["ant", "bee", "cat"]


def write_network(path: Path, seed: int = 0) -> None:
    """Write a convolutional network of three classes, whose outputs vary with what is hidden, as an ONNX file."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(seed)
    weights = {
        "w1": random.normal(size=(12, 3, 3, 3)) * 0.4,
        "b1": random.normal(size=12) * 0.1,
        "w2": random.normal(size=(16, 12, 3, 3)) * 0.2,
        "b2": random.normal(size=16) * 0.1,
        "w3": random.normal(size=(len(CLASSES), 16 * 64)) * 0.15,
        "b3": random.normal(size=len(CLASSES)) * 0.1,
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("MaxPool", ["r1"], ["p1"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p1", "w2", "b2"], ["c2"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("AveragePool", ["r2"], ["p2"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Flatten", ["p2"], ["f"]),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, len(CLASSES)])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))


def write_pictures(folder: Path) -> list[Path]:
    """Write three pictures of the network's size: blobs, so that maps have places that matter."""
    folder.mkdir(exist_ok=True)
    rows, cols = np.mgrid[:SIDE, :SIDE]
    paths = []
    for seed in (1, 2, 3):
        random = np.random.default_rng(seed)
        y, x = random.integers(12, 52, 2)
        blob = np.exp(-((rows - y) ** 2 + (cols - x) ** 2) / 90)
        pixels = np.clip(
            60 + 180 * blob[..., None] * random.random(3) + random.normal(size=(SIDE, SIDE, 3)) * 12, 0, 255
        )
        paths.append(folder / f"scan{seed}.png")
        Image.fromarray(pixels.astype(np.uint8)).save(paths[-1])
    return paths


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network's file."""
    path = tmp_path_factory.mktemp("network") / "small.onnx"
    write_network(path)
    return path


def prepare(folder: Path, network: Path) -> Path:
    """Make a database with the model `net`, the labelled image set `scans` and measured rates; returns its file.

    Paths in it are relative, and found beside it: the folder can be copied.
    """
    import obeql

    folder.mkdir(exist_ok=True)
    shutil.copy(network, folder / "small.onnx")
    names = [path.name for path in write_pictures(folder / "scans")]
    classes = ", ".join(repr(name) for name in CLASSES)
    rows = " UNION ALL ".join(f"SELECT 'scans/{name}' AS path, 'ant' AS label" for name in names)
    with chdir(folder), obeql.connect("heat.duckdb") as session:
        session.execute(f"CREATE MODEL net FROM 'small.onnx' WITH classes=[{classes}]")
        session.execute(f"CREATE IMAGES scans FROM ({rows} ORDER BY path)")
        session.execute("PLAN EXPLAIN OCCLUDE scan1 USING net WITH patch=8")  # measured here, so that no test waits
    return folder / "heat.duckdb"


@pytest.fixture(scope="session")
def prepared(network: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with such a database, to be copied; test processes that run side by side share it."""
    root = tmp_path_factory.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "page-prepared"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "data").exists():
            prepare(folder / "making", network)
            (folder / "making").rename(folder / "data")
    return folder / "data"


def decoded(content: bytes) -> dict[str, Any]:
    """Read a frame as the page does."""
    length = int.from_bytes(content[:4], "little")
    head = json.loads(content[4 : 4 + length])
    at = 4 + length
    for plane in head["planes"]:
        n = int(np.prod(plane["shape"]))
        kind = np.dtype(plane["kind"])
        head[plane["name"]] = np.frombuffer(content, kind, n, at).reshape(plane["shape"])
        at += -(-n * kind.itemsize // 4) * 4
    assert at == len(content)
    return head


# ---- a page in this process ------------------------------------------------------------------------------------


class Site:
    """A page with its session, and a client that has been let in."""

    def __init__(self, session: Any, allow_files: bool = False) -> None:
        from starlette.testclient import TestClient

        from obeql.web.access import AccessRules
        from obeql.web.app import build_app
        from obeql.web.page import Page

        self.session = session
        self.page = Page(session, allow_files)
        self.rules = AccessRules("127.0.0.1", 4321, "a-token")
        self.client = TestClient(
            build_app(self.page, self.rules),
            base_url="http://127.0.0.1:4321",
            cookies={self.rules.cookie: self.rules.token},
            raise_server_exceptions=False,
        )

    def get(self, path: str, **query: Any) -> Any:
        found = self.client.get(path, params=query)
        assert found.status_code == 200, found.text
        return found.json()

    def post(self, path: str, status: int = 200, **body: Any) -> Any:
        found = self.client.post(path, json=body)
        assert found.status_code == status, found.text
        return found.json()

    def run(self, text: str) -> Any:
        """Run a statement to its end and return the job."""
        job = self.post("/api/jobs", 201, text=text)
        return self.ended(job["job_id"])

    def ended(self, job_id: int) -> Any:
        """Wait for the end of a job: its events end with it."""
        assert self.client.get(f"/api/jobs/{job_id}/events").status_code == 200
        return self.get(f"/api/jobs/{job_id}")


@pytest.fixture
def make_site() -> Iterator[Callable[..., Site]]:
    """Make pages of sessions, and close them."""
    made: list[Site] = []

    def make(session: Any, allow_files: bool = False) -> Site:
        site = Site(session, allow_files)
        site.client.__enter__()
        made.append(site)
        return site

    yield make
    for site in made:
        site.client.__exit__(None, None, None)
        site.page.close()


@pytest.fixture
def session(prepared: Path, tmp_path: Path) -> Iterator[Any]:
    """A session on a file, with the model and three images."""
    import obeql

    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    with obeql.connect(tmp_path / "heat.duckdb") as opened:
        yield opened


@pytest.fixture
def site(session: Any, make_site: Callable[..., Site]) -> Site:
    """The page of that session."""
    return make_site(session)


# ---- a page in a process of its own ----------------------------------------------------------------------------


class Server:
    """`obeql ui` as a process; `address` is what it has printed."""

    def __init__(self, *arguments: str, cwd: Path) -> None:
        # What a shell runs in the background ignores Ctrl-C.
        code = (
            "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
            "from obeql.cli.main import main; sys.exit(main())"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, "ui", *arguments, "--no-browser"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"http://\S+", line)
        if found is None:
            _, errors = self.process.communicate()
            raise AssertionError(f"no address in {line!r}: {errors}")
        self.address = found.group()
        self.origin = self.address.partition("/?")[0]

    def interrupt(self) -> tuple[int, str]:
        """Press Ctrl-C; returns the exit code and what was written to standard error."""
        self.process.send_signal(signal.SIGINT)
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[..., Server]]:
    """Start servers, and end them."""
    made: list[Server] = []

    def start(*arguments: str, cwd: Path) -> Server:
        made.append(Server(*arguments, cwd=cwd))
        return made[-1]

    yield start
    for server in made:
        server.close()


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> Path:
    """A folder with a database that has a run of three maps, for a server."""
    import obeql

    folder = tmp_path_factory.mktemp("workshop")
    shutil.copytree(prepared, folder, dirs_exist_ok=True)
    with obeql.connect(folder / "heat.duckdb") as opened:
        opened.execute("EXPLAIN OCCLUDE scans USING net FOR LABEL WITH patch=8 stride=8 score=log_odds INTO first")
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, where this machine has it."""
    api = pytest.importorskip("playwright.sync_api", reason="browser tests need playwright")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("browser tests need Chromium (apt-get install chromium)")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()
