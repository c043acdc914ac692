"""Measure the memory that statements take against what `memory` allows: peak beyond the weights and the clean pass.

    python scripts/measure_memory.py                 every row of the table, each in a process of its own
    python scripts/measure_memory.py --quick         the first two

`windows_MB` is what `memory` bounds: the process's peak (VmHWM) while windows were computed, less what it held before,
the weights and the clean pass's views among it. `statement_MB` is the peak of a whole statement: decoding, clean pass,
windows, and storing. Linux only. Prints one line of JSON a row.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """A network of NETWORKS, or of torchvision, on a square input, and the statement's options."""

    network: str
    size: int
    memory: str
    options: str


ROWS = (
    Row("thin", 512, "6MB", "patch=64 stride=32"),
    Row("wide", 512, "10MB", "patch=64 stride=32"),
    Row("wide", 512, "50MB", "patch=64 stride=32"),
    Row("wide", 512, "500MB", "patch=64 stride=32"),
    Row("thin", 320, "50MB", "patch=4 stride=1"),
    Row("thin", 2048, "100MB", "patch=128 stride=128"),
    Row("thin", 4096, "150MB", "patch=256 stride=512"),
    Row("thin", 4096, "1GB", "patch=256 stride=512"),
    Row("resnet18", 224, "20MB", "patch=32 stride=16"),
    Row("resnet18", 224, "200MB", "patch=32 stride=16"),
    Row("resnet18", 224, "40MB", "patch=[8, 12, 16, 20, 24, 28, 32] stride=4"),
    Row("densenet121", 224, "100MB", "patch=32 stride=32"),
    Row("vgg16", 224, "100MB", "patch=32 stride=32"),
)


def main() -> int:
    """Measure the rows and print them."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true")
    options.add_argument("--row", type=int, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.row is not None:
        print(json.dumps(measure(ROWS[given.row])))
        return 0
    for number in range(2 if given.quick else len(ROWS)):
        done = subprocess.run(
            [sys.executable, __file__, "--row", str(number)], capture_output=True, text=True, check=False
        )
        print(done.stdout.strip() or json.dumps({"row": number, "failed": done.stderr[-300:]}), flush=True)
    return 0


def measure(row: Row) -> dict[str, Any]:
    """Run one row in this process."""
    import numpy as np
    import torch

    import obeql
    from obeql.executor.devices.allocator import memory_given_back
    from obeql.executor.operators.clean_pass import materialise
    from obeql.executor.operators.grid_scan import GridScan

    picture = np.random.default_rng(0).integers(0, 256, (row.size, row.size, 3), dtype=np.uint8)
    statement = f"EXPLAIN OCCLUDE ? USING net WITH {row.options} memory='{row.memory}'"
    with obeql.connect() as db:
        if row.network in NETWORKS:
            db.create_model("net", NETWORKS[row.network](), size=(row.size, row.size))
        else:
            db.execute(f"CREATE MODEL net FROM 'torchvision:{row.network}' WITH size={row.size}")
        plan = db.execute(f"PLAN {statement}", [picture]).physical
        graph = db._model_registry.graph(plan.model).to(torch.device("cpu"), torch.float32)
        # Where boxes lie is kept for every size of patch while the others run.
        runs = [GridScan(graph, grid, engine) for grid, engine in zip(plan.grids, plan.engines, strict=True)]
        needed = sorted({each for run in runs for each in run.needed})
        with memory_given_back(plan), torch.inference_mode():
            image = torch.rand(1, 3, row.size, row.size)
            hidden = torch.zeros(3, 1, 1)
            first = materialise(graph, image, needed)
            # This prepares what lasts, such as packed weights.
            runs[0].compute(first, hidden, [[0]], "softmax", lambda _: None)
            del first
            before = _start()
            clean = materialise(graph, image, needed)
            clean_bytes = _peak() - before
            before = _start()
            for run in runs:
                run.compute(clean, hidden, [[0]], "softmax", lambda _: None)
            used = _peak() - before
            del clean
        before = _start()
        db.execute(statement, [picture])
        whole = _peak() - before
    return {
        "network": row.network,
        "input_px": row.size,
        "windows": plan.n_windows,
        "operator": ", ".join(sorted({type(engine).__name__ for engine in plan.engines})),
        "batch": max(engine.batch for engine in plan.engines),
        "clean_pass_MB": round(clean_bytes / 1e6, 1),
        "limit": row.memory,
        "windows_MB": round(used / 1e6, 1),
        "statement_MB": round(whole / 1e6, 1),
    }


def _start() -> int:
    """Give back what is free, reset the peak, and return the bytes held now."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def _small(channels: int) -> Any:
    import torch
    from torch import nn

    torch.manual_seed(0)
    parts: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    parts += [nn.Conv2d(channels, 2 * channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(32 * channels, 4)).eval()


NETWORKS = {"thin": lambda: _small(4), "wide": lambda: _small(16)}


if __name__ == "__main__":
    sys.exit(main())
