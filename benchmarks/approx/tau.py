"""Krypton's limit on the projective field: what it saves on OBEQL's engine, and the SSIM it leaves.

No box is wider than a share tau of its map (SIGMOD 2019, section 4.1). The maps are of the predicted class, by
log-odds, and compared with those of float32 without a limit, as their times are: medians of turns. bfloat16 has an
engine of its own.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch

import obeql
from benchmarks.approx.setting import images, session
from benchmarks.approx.tables import medians, write
from obeql.executor.adaptive.map_quality import ssim
from obeql.executor.calibration.rates import measure_rates
from obeql.executor.images import decode_file, decode_object, preprocess
from obeql.executor.operators.clean_pass import materialise
from obeql.executor.operators.grid_scan import GridScan
from obeql.planner.grid import WindowGrid
from obeql.planner.physical.plan import IncrementalForward
from obeql.planner.physical.schedule import choose_engine

TAUS = (1.0, 0.8, 0.6, 0.5, 0.4, 0.3)
DTYPES = (torch.float32, torch.bfloat16)


def run_tau(args: argparse.Namespace) -> None:
    db, rows = session(), []
    with torch.inference_mode():
        for kind in args.kinds:
            rows += _rows_of(db, kind, args.images, args.repeats)
    found = medians(rows, ("network", "precision", "tau"), "images")
    write(args.out, {"summary": found, "rows": rows}, found)


def _rows_of(db: obeql.Session, kind: str, n_images: int, repeats: int) -> list[dict[str, Any]]:
    """Every limit in every precision on some images of one network."""
    model = db._store.model(kind)  # the benchmark of an operator, below any statement
    assert model is not None
    captured, cpu, rows = db._model_registry.graph(model), torch.device("cpu"), []
    height, width = model.preprocessing.size
    grid = WindowGrid.over((height, width), (16, 16), (4, 4))
    exact: dict[str, tuple[Any, float]] = {}
    for dtype in DTYPES:
        graph = captured.to(cpu, dtype)
        engine, _ = choose_engine(graph.network(), grid, measure_rates(graph, cpu, dtype))
        assert isinstance(engine, IncrementalForward)
        for name, picture in list(images(kind).items())[:n_images]:
            source = decode_file(picture) if isinstance(picture, str) else decode_object(picture, name)
            pixels = torch.as_tensor(preprocess(source, model.preprocessing).values).reshape(1, 3, height, width)
            fill = pixels.mean((2, 3)).view(3, 1, 1).to(dtype)
            runs = {tau: GridScan(graph, grid, replace(engine, tau=tau)) for tau in TAUS}
            seconds: dict[float, list[float]] = {tau: [] for tau in TAUS}
            scores: dict[float, Any] = {}
            for turn in range(1 + repeats):
                for tau, run in runs.items():
                    clean = materialise(graph, pixels.to(dtype), run.needed)
                    best = [[int(clean.logits.argmax())]]
                    some = np.arange(grid.n_windows) < (grid.n_windows if turn else 200)  # the first turn is to warm up
                    started = time.perf_counter()
                    planes = run.compute(clean, fill, best, model.activation, lambda n: None, some[None])[0]
                    if turn:
                        seconds[tau].append(time.perf_counter() - started)
                    scores[tau] = (planes.logit - planes.others).double().numpy().reshape(grid.shape)
            took = {tau: statistics.median(each) for tau, each in seconds.items()}
            true, true_s = exact.setdefault(name, (scores[1.0], took[1.0]))
            for tau in TAUS:
                row = {"network": kind, "image": name, "precision": str(dtype).removeprefix("torch."), "tau": tau}
                row |= {"cost": round(took[tau] / true_s, 3)}
                row |= {"true": round(float(ssim(true[None], scores[tau])[0]), 4)}
                rows.append(row)
                print(row, flush=True)
    return rows
