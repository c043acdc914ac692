"""Whole statements, timed: naive batches of the module, the exact map, APPROX 0.9 and TOP 10 CELLS, in turns."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import numpy as np
import torch

from benchmarks.approx.setting import images, module_of, session
from benchmarks.approx.tables import write
from obeql.executor.adaptive.map_quality import ssim
from obeql.executor.operators.dense_forward import occlude
from obeql.planner.grid import WindowGrid

HEAD = "EXPLAIN OCCLUDE $image USING {kind} WITH patch=16 stride={stride} score=log_odds"


def run_live(args: argparse.Namespace) -> None:
    db = session(kinds=args.kinds)
    rows = []
    for kind in args.kinds:
        module, size = module_of(kind)
        head = HEAD.format(kind=kind, stride=args.stride)
        pictures = list(images(kind).items())[: args.images]
        started = time.perf_counter()
        for clause in ("EXACT", *args.clauses):  # rates of the model are measured once, and stored
            db.execute(f"PLAN {head} {clause} NO REUSE", {"image": pictures[0][1]})
        print(kind, f"rates measured in {time.perf_counter() - started:.1f} s", flush=True)
        for name, image in pictures:
            seconds: dict[str, list[float]] = {}
            maps: dict[str, Any] = {}
            for _ in range(args.repeats):
                seconds.setdefault("naive", []).append(_naive(module, size, args.stride))
                seconds.setdefault("naive bfloat16", []).append(_naive(module.to(torch.bfloat16), size, args.stride))
                module.float()
                for clause in ("EXACT", *args.clauses):
                    started = time.perf_counter()
                    maps[clause] = db.execute(f"{head} {clause} NO REUSE", {"image": image})[0]
                    seconds.setdefault(clause, []).append(time.perf_counter() - started)
            exact = maps["EXACT"]
            n = exact.scores.size
            row = {"network": kind, "image": name, "naive s": statistics.median(seconds["naive"]) * n}
            row["naive bfloat16 s"] = statistics.median(seconds["naive bfloat16"]) * n
            row["windows"] = n
            row["exact s"] = statistics.median(seconds["EXACT"])
            for clause in args.clauses:
                took = statistics.median(seconds[clause])
                row |= {f"{clause} s": took, f"{clause} x naive": row["naive s"] / took}
                row[f"{clause} x exact"] = row["exact s"] / took
                row[f"{clause} approximate"] = maps[clause].approx
                row[f"{clause} computed"] = float(maps[clause].cells.quality.get("n_exact", n)) / n
                print(name, clause, maps[clause].quality, flush=True)
                if "CELLS" not in clause:
                    row[f"{clause} SSIM"] = float(ssim(exact.scores[None], maps[clause].scores)[0])
            rows.append({key: round(v, 3) if isinstance(v, float) else v for key, v in row.items()})
            print(json.dumps(rows[-1]), flush=True)
    found = []
    for kind in args.kinds:
        same = [row for row in rows if row["network"] == kind]
        median = {
            key: round(statistics.median(row[key] for row in same), 3)
            for key in same[0]
            if key not in ("network", "image")
        }
        found.append({"network": kind, "images": len(same)} | median)
    write(args.out, {"summary": found, "rows": rows}, found)


def _naive(module: torch.nn.Module, size: int, stride: int, n: int = 32, batches: tuple[int, ...] = (8, 32)) -> float:
    """Seconds of one window in the fastest batch: channels-last, inference mode."""
    grid = WindowGrid.over((size, size), (16, 16), (stride, stride))
    dtype = next(module.parameters()).dtype
    image = torch.rand((1, 3, size, size), dtype=dtype).contiguous(memory_format=torch.channels_last)
    fill = image.mean((2, 3)).view(3, 1, 1)
    sample = np.random.default_rng(0).choice(grid.n_windows, n, replace=False)
    best = float("inf")
    with torch.inference_mode():
        for batch in batches:
            module(occlude(image, fill, grid, sample[:batch]))  # what is done once
            started = time.perf_counter()
            for start in range(0, n, batch):
                module(occlude(image, fill, grid, sample[start : start + batch]))
            best = min(best, (time.perf_counter() - started) / n)
    return best
