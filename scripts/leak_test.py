"""Open a database, explain an image and close it, over and over: threads, files and memory stay what they are.

    python scripts/leak_test.py --cycles 1000

The first third of the cycles warms up: caches of bounded size fill. Prints one line of JSON. `in_use_kB_a_cycle` is
what the C library has given out, `blocks_a_cycle` the number of Python's small objects, and `memory_kB_a_cycle` what
the process takes (resident): beside these, free memory that the C library keeps for threads (MALLOC_ARENA_MAX=1 in
the environment leaves that out). PyTorch keeps the source of every traced network: about 1 kB in seven blocks. The exit
code is 1 where threads or files were left, or a cycle left more than 5 kB in use or 50 resident. Needs Linux with
glibc 2.33 or newer.
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
    grown = report["memory_kB_a_cycle"] > 50 or report["in_use_kB_a_cycle"] > 5
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
    warm = n_cycles // 3
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
    each = {name: (after[name] - before[name]) / 1024 / (n_cycles - warm) for name in ("in_use", "memory")}
    return {
        "cycles": n_cycles,
        "threads_left": after["threads"] - before["threads"],
        "files_left": after["files"] - before["files"],
        "in_use_kB_a_cycle": round(each["in_use"], 1),
        "blocks_a_cycle": round((after["blocks"] - before["blocks"]) / (n_cycles - warm), 1),
        "memory_kB_a_cycle": round(each["memory"], 1),
        "memory_MB": round(after["memory"] / 1e6),
    }


class _Mallinfo(ctypes.Structure):
    """glibc's `struct mallinfo2`; `uordblks` and `hblkhd` are bytes given out, from all arenas and by mapping."""

    _NAMES = "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in _NAMES]


def _held() -> dict[str, int]:
    """Threads, but for lanes that are kept for the next statement, files, and bytes that the process holds now."""
    from obeql.executor.devices import lanes

    gc.collect()
    library = ctypes.CDLL("libc.so.6")
    library.malloc_trim(0)
    library.mallinfo2.restype = _Mallinfo
    given_out = library.mallinfo2()
    return {
        "threads": len(list(Path("/proc/self/task").iterdir())) - sum(n_lanes for (n_lanes, _), _ in lanes._idle),
        "files": len(list(Path("/proc/self/fd").iterdir())),
        "in_use": given_out.uordblks + given_out.hblkhd,
        "blocks": sys.getallocatedblocks(),
        "memory": int(Path("/proc/self/statm").read_text().split()[1]) * 4096,
    }


if __name__ == "__main__":
    sys.exit(main())
