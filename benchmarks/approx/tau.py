"""Krypton's limit on the projective field, on the same engine: what it saves, and the SSIM it leaves."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import torch

from benchmarks.approx.setting import module_of
from benchmarks.approx.tables import write
from obeql.executor.grid_run import GridRun
from obeql.executor.materialise import materialise
from obeql.executor.network.capture import capture
from obeql.executor.rates import measure_rates
from obeql.executor.refine.quality import ssim
from obeql.planner.grid import WindowGrid
from obeql.planner.physical import IncrementalForward
from obeql.planner.schedule import choose_engine


def run_tau(args: argparse.Namespace) -> None:
    """Krypton's projective-field limit on one class of some maps: no box wider than a share tau of its map."""
    rows = []
    with torch.inference_mode():
        for kind in args.kinds:
            module, size = module_of(kind)
            cpu, grid = torch.device("cpu"), WindowGrid.over((size, size), (16, 16), (4, 4))
            graph = capture(module, (3, size, size)).to(cpu, torch.float32)
            engine, _ = choose_engine(graph.network(), grid, measure_rates(graph, cpu, torch.float32))
            assert isinstance(engine, IncrementalForward)
            image = torch.rand((1, 3, size, size), generator=torch.Generator().manual_seed(1)) * 2 - 1
            fill = image.mean((2, 3)).view(3, 1, 1)
            exact, exact_s = None, 0.0
            for tau in (1.0, 0.8, 0.6, 0.5, 0.4):
                run = GridRun(graph, grid, replace(engine, tau=tau))
                clean = materialise(graph, image, run.needed)
                started = time.perf_counter()
                planes = run.compute(clean, fill, [[int(clean.logits.argmax())]], "softmax", lambda n: None)[0]
                took = time.perf_counter() - started
                found = (planes.logit - planes.others).double().numpy().reshape(grid.shape)
                exact, exact_s = (found, took) if exact is None else (exact, exact_s)
                true = float(ssim(exact[None], found)[0])
                rows.append({"network": kind, "tau": tau, "cost": round(took / exact_s, 3), "true": round(true, 3)})
                print(rows[-1], flush=True)
    write(args.out, {"summary": rows}, rows)
