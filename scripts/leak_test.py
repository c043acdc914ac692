"""Open a database, explain an image and close it, over and over: threads, files and memory stay what they are.

    python scripts/leak_test.py --cycles 1000

The first tenth of the cycles warms up. Prints one line of JSON; the exit code is 1 where threads or files were left,
or memory grew by more than 50 kB a cycle (PyTorch keeps the source of every traced network). Linux only.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import sys
import tempfile
from pathlib import Path
from typing import Any


def main() -> int:
    """Run the cycles, print what was left behind, and return the exit code."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--cycles", type=int, default=100)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = run(Path(folder), given.cycles)
    print(json.dumps(report))
    grown = report["memory_kB_a_cycle"] > 50
    return 1 if report["threads_left"] or report["files_left"] or grown else 0


def run(folder: Path, n_cycles: int) -> dict[str, Any]:
    """Do the cycles on one file that is kept and, every other time, on a database in memory."""
    import numpy as np
    import torch

    import obeql

    torch.manual_seed(0)
    parts = torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(784, 3)
    network = torch.nn.Sequential(*parts).eval()
    pictures = np.random.default_rng(0).integers(0, 256, (n_cycles, 16, 16, 3), dtype=np.uint8)
    before: dict[str, int] = {}
    warm = max(10, n_cycles // 10)
    for number in range(n_cycles):
        if number == warm:
            before = _held()
        with obeql.connect(folder / "heat.duckdb" if number % 2 else ":memory:") as db:
            db.create_model("net", network, size=(16, 16))
            result = db.execute(
                "EXPLAIN OCCLUDE ? USING net WITH patch=4 NO REUSE INTO OR REPLACE r", [pictures[number]]
            )
            db.execute("SELECT count(*) FROM cells").fetchall()
            assert result[0].shape == (13, 13)
        del db, result
    after = _held()
    return {
        "cycles": n_cycles,
        "threads_left": after["threads"] - before["threads"],
        "files_left": after["files"] - before["files"],
        "memory_kB_a_cycle": round((after["memory"] - before["memory"]) / 1024 / (n_cycles - warm), 1),
        "memory_MB": round(after["memory"] / 1e6),
    }


def _held() -> dict[str, int]:
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return {
        "threads": len(list(Path("/proc/self/task").iterdir())),
        "files": len(list(Path("/proc/self/fd").iterdir())),
        "memory": int(Path("/proc/self/statm").read_text().split()[1]) * 4096,
    }


if __name__ == "__main__":
    sys.exit(main())
