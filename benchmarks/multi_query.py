"""What statements save that are planned together, and statements that come after others.

    python -m benchmarks.multi_query --network resnet18 --repeats 3 --out benchmarks/results/multi-query.json

Each case runs its statements on a random image in an empty database, once as a script with everything on and once each
for itself (NO REUSE). Both take turns. Reported are medians of wall-clock seconds, windows computed, and the largest
difference of a logit between the two ways.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import obeql
from benchmarks.networks import SIZES, network

#: name -> statements, as what follows EXPLAIN OCCLUDE ? USING net
CASES: dict[str, tuple[str, ...]] = {
    "four classes of the same windows": tuple(f"FOR CLASS {k} WITH patch=16 stride=16" for k in range(4)),
    "stride 32, then 16": ("FOR CLASS 0 WITH patch=16 stride=32", "FOR CLASS 0 WITH patch=16 stride=16"),
    "a region of a map that is stored": (
        "FOR CLASS 0 WITH patch=16 stride=16",
        "FOR CLASS 0 REGION (48, 48, 128, 128) WITH patch=16 stride=16",
    ),
    "three patch sizes": tuple(f"FOR CLASS 0 WITH patch={patch} stride=32" for patch in (16, 24, 32)),
}


@dataclass(frozen=True)
class Measured:
    """Wall-clock seconds, windows computed and seconds of clean passes of some statements, and their logits."""

    seconds: float
    n_windows: int
    clean_pass_s: float
    planes: list[np.ndarray]


def measured(db: obeql.Session, path: str, statements: Sequence[str]) -> Measured:
    """Run statements as one script in a database that holds no maps."""
    for (run_id,) in db.execute("SELECT run_id FROM runs").fetchall():
        db.execute(f"DROP RUN {run_id}")
    script = ";".join(f"EXPLAIN OCCLUDE '{path}' USING net {text}" for text in statements)
    started = time.perf_counter()
    results = list(db.run_script(script))
    seconds = time.perf_counter() - started
    parts = [json.loads(text) for (text,) in db.execute("SELECT measured FROM runs").fetchall()]
    planes = [heat.cells.logit for result in results for heat in result]
    n_windows = sum(part["cells_computed"] for part in parts)
    return Measured(seconds, n_windows, sum(part.get("clean pass", 0.0) for part in parts), planes)


def compared(name: str, alone: list[Measured], together: list[Measured]) -> dict[str, Any]:
    """One row: medians of both ways, and how far the numbers are apart."""
    seconds = [statistics.median(each.seconds for each in way) for way in (alone, together)]
    pairs = zip(alone[0].planes, together[0].planes, strict=True)
    return {
        "case": name,
        "alone_s": round(seconds[0], 3),
        "together_s": round(seconds[1], 3),
        "ratio": round(seconds[0] / seconds[1], 2),
        "alone_windows": alone[0].n_windows,
        "together_windows": together[0].n_windows,
        "together_clean_pass_s": round(statistics.median(each.clean_pass_s for each in together), 3),
        "max_difference": max(float(np.abs(a - b).max()) for a, b in pairs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()

    module = network(arguments.network)
    size = SIZES.get(arguments.network, 224)
    rows = []
    with tempfile.TemporaryDirectory() as folder, obeql.connect() as db:
        db.create_model("net", module, size=(size, size))
        path = f"{folder}/image.png"
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)).save(path)
        # measures the network's rates, once
        db.execute(f"EXPLAIN OCCLUDE '{path}' USING net FOR CLASS 0 WITH patch={size} stride={size}")
        for name, statements in CASES.items():
            runs: dict[str, list[Measured]] = {"alone": [], "together": []}
            for _ in range(arguments.repeats):
                runs["alone"].append(measured(db, path, [f"{text} NO REUSE" for text in statements]))
                runs["together"].append(measured(db, path, statements))
            row = compared(name, runs["alone"], runs["together"])
            rows.append(row)
            print(json.dumps(row), flush=True)
    machine = {
        "machine": platform.machine(),
        "cores": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "network": arguments.network,
    }
    if arguments.out is not None:
        arguments.out.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
