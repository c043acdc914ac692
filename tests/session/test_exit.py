"""How a program ends that has used a database: nothing of it complains, whatever is left open."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

PROLOGUE = """
import sys
import numpy as np, torch, obeql

torch.manual_seed(0)
parts = torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(3600, 3)
images = list(np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8))
db = obeql.connect(sys.argv[1])
db.create_model("net", torch.nn.Sequential(*parts).eval(), size=(32, 32))
"""

#: How it ends, and the exit code.
ENDINGS = {
    "left open, with lanes and relations that are not read": (
        """
        db.execute("SET obeql.threads = 2")
        result = db.explain(images, "net", patch=4, stride=1)
        rows, runs = db.execute("FROM windows"), db.execute("SHOW RUNS")
        with obeql.connect() as other:
            closed = other.execute("SELECT 1")
        """,
        0,
    ),
    "by an exception, an error of ours kept": (
        """
        result = db.explain(images[0], "net", patch=8)
        try:
            db.execute("FROM nowhere")
        except obeql.ObeqlError as error:
            kept = sys.modules["kept"] = error
        connection = db.connection
        1 / 0
        """,
        1,
    ),
    "while a daemon thread explains": (
        """
        import threading
        begun = threading.Event()
        def explain():
            db.execute(
                "EXPLAIN OCCLUDE ? USING net WITH patch=4 stride=1", [images * 200],
                on_progress=lambda progress: progress.done and begun.set(),
            )
        threading.excepthook = lambda stopped: None
        threading.Thread(target=explain, daemon=True).start()
        assert begun.wait(120)
        """,
        0,
    ),
    "in the middle of lanes": (
        """
        def stop(progress):
            if progress.done:
                raise KeyboardInterrupt
        db.execute("SET obeql.threads = 2")
        db.execute("EXPLAIN OCCLUDE ? USING net WITH patch=4 stride=1", [images], on_progress=stop)
        """,
        -2 if sys.platform != "win32" else 0xC000013A,
    ),
}


def test_nothing_complains_when_a_program_ends(tmp_path: Path) -> None:
    started = []
    for number, (ending, _) in enumerate(ENDINGS.values()):  # side by side: each imports PyTorch
        code = PROLOGUE + textwrap.dedent(ending)
        command = [sys.executable, "-c", code, str(tmp_path / f"{number}.duckdb")]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    for process, (name, (_, code)) in zip(started, ENDINGS.items(), strict=True):
        said = process.communicate(timeout=300)[1]
        assert process.returncode == code, f"{name}: {said}"
        assert "nanobind" not in said and "leaked" not in said, f"{name}: {said}"
        assert code or said == "", name
