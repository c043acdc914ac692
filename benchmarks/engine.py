"""Exact engine against plain batched inference, side by side in one run.

    python -m benchmarks.engine --networks vgg16 resnet18 --repeats 3

For each network: the bound (conv and linear multiply-accumulates of plain inference over those with true boxes),
the best naive batch (the module itself, channels-last, inference mode, batch tuned over 1, 8, 16, 32, 64), the
planned engine on all windows of the grid, the ratio, the share of the bound, and the largest difference of
log-probabilities. A naive window costs the same wherever it lies, so naive runs a sample of windows; the engine runs
the whole grid, with --share a part of it (whole batches, drawn evenly from cheap ones at the border to dear ones in
the middle), or with --windows a random sample. Both take turns; medians are reported.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.machine import machine
from benchmarks.networks import SIZES, network
from obeql.executor.calibration.rates import measure_rates
from obeql.executor.devices import DTYPES, arithmetic, device_of
from obeql.executor.network.capture.capture import capture
from obeql.executor.network.graph import LayerGraph
from obeql.executor.operators.clean_pass import materialise
from obeql.executor.operators.dense_forward import DenseRun, as_computed, occlude
from obeql.executor.operators.incremental_forward import IncrementalRun
from obeql.planner.boxes import axis_spans, region_layers
from obeql.planner.geometry import Network
from obeql.planner.grid import WindowGrid
from obeql.planner.physical.cost import clean_pass_seconds, positions
from obeql.planner.physical.plan import Engine, IncrementalForward
from obeql.planner.physical.schedule import choose_engine

NAIVE_BATCHES = (1, 8, 16, 32, 64)
CPU = torch.device("cpu")


def bound(net: Network, grid: WindowGrid) -> float:
    """Multiply-accumulates of plain inference over those of true boxes at every layer that has a box."""
    regions = region_layers(net, len(net.layers))
    sizes = [axis_spans(net, k, axis, regions).sizes for k, axis in enumerate(grid.axes)]
    least = 0.0
    for i, layer in enumerate(net.layers):
        if regions[i]:
            least += layer.macs / positions(layer) * math.prod(float(along[i].mean()) for along in sizes)
        else:
            least += layer.macs
    return net.macs / least if least else 1.0  # a network that is not known layer by layer has no boxes


def stratified(run: IncrementalRun, share: float) -> npt.NDArray[np.bool_]:
    """About `share` of the grid's windows, in its shape: every so many batches in the order of their boxes' cost."""
    weights = [layer.macs / positions(layer) for layer in run.graph.network().layers]
    parts = sorted(
        run.parts(None),
        key=lambda part: float((part.positions / len(part.windows) * weights)[run.on_boxes].sum()),
    )
    wanted = np.zeros(run.grid.n_windows, bool)
    taken = 0.5 * share
    for part in parts:
        taken += share
        if taken >= 1:
            wanted[part.windows] = True
            taken -= 1
    return wanted.reshape(run.grid.shape)


def chosen(
    run: IncrementalRun | DenseRun, grid: WindowGrid, args: argparse.Namespace, rng: np.random.Generator
) -> npt.NDArray[np.bool_] | None:
    """The windows that --share or --windows asks for, (rows, cols); None for all."""
    wanted = None
    if args.share < 1 and isinstance(run, IncrementalRun):
        wanted = stratified(run, args.share)
    elif args.share < 1:
        args.windows = round(args.share * grid.n_windows)
    if args.windows and args.windows < grid.n_windows:
        wanted = np.zeros(grid.n_windows, bool)
        wanted[rng.choice(grid.n_windows, args.windows, replace=False)] = True
        wanted = wanted.reshape(grid.shape)
    return wanted


def operator(graph: LayerGraph, grid: WindowGrid, engine: Engine) -> IncrementalRun | DenseRun:
    if isinstance(engine, IncrementalForward):
        return IncrementalRun(graph, grid, engine)
    return DenseRun(graph, grid, engine)


def seconds(work: Any, device: torch.device = CPU) -> float:
    device_of(device).synchronize()
    started = time.perf_counter()
    work()
    device_of(device).synchronize()
    return time.perf_counter() - started


def peak_bytes(work: Any, device: torch.device = CPU) -> int:
    """Memory that `work` needs at its peak beyond what was taken before: of a GPU, or resident; 0 where none tells."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return int(torch.cuda.max_memory_allocated(device) - before)
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        before = _status("VmRSS")
        work()
        return max(0, _status("VmHWM") - before)
    except OSError:
        work()
        return 0


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))


def bench(name: str, args: argparse.Namespace) -> dict[str, Any]:
    with arithmetic(args.precision, torch.device(args.device)):
        return _bench(name, args, torch.device(args.device), DTYPES[args.precision])


def _bench(name: str, args: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    size = args.size or SIZES.get(name, 224)
    module = network(name)
    captured_s = time.perf_counter()
    captured = capture(module, (3, size, size))
    graph = captured.to(device, dtype)
    module = module.to(device, dtype)
    captured_s = time.perf_counter() - captured_s
    net = graph.network()
    grid = WindowGrid.over((size, size), (args.patch, args.patch), (args.stride, args.stride))
    rates_s = time.perf_counter()
    rates = measure_rates(captured, device, dtype)
    rates_s = time.perf_counter() - rates_s
    planned_s = time.perf_counter()
    engine, _ = choose_engine(net, grid, rates)
    planned_s = time.perf_counter() - planned_s
    rng = np.random.default_rng(0)
    image = torch.rand((1, 3, size, size), generator=torch.Generator().manual_seed(1)) * 2 - 1
    image = image.to(device, dtype).contiguous(memory_format=torch.channels_last)
    fill = image.mean((2, 3)).view(3, 1, 1)
    run = operator(graph, grid, engine)
    wanted = chosen(run, grid, args, rng)
    n_windows = grid.n_windows if wanted is None else int(wanted.sum())
    logits = torch.zeros((grid.n_windows, net.n_classes), device=device)

    def ours() -> float:
        """Seconds of the windows asked for, with as large a part of the clean pass as they are of the grid."""

        def take(windows: Any, values: torch.Tensor) -> None:
            logits[torch.from_numpy(windows).to(device)] = values.float()

        passed = []
        clean_s = seconds(lambda: passed.append(materialise(graph, image, run.needed)), device)
        return clean_s * n_windows / grid.n_windows + seconds(
            lambda: run.run(passed[0], fill, wanted, take, as_computed), device
        )

    among = np.arange(grid.n_windows) if wanted is None else np.flatnonzero(wanted.reshape(-1))
    sample = np.sort(rng.choice(among, min(args.naive_windows, len(among)), replace=False))

    def naive(batch: int) -> torch.Tensor:
        return torch.cat(
            [module(occlude(image, fill, grid, sample[i : i + batch])) for i in range(0, len(sample), batch)]
        )

    with torch.inference_mode():
        reference = naive(8)
        tuned = {batch: seconds(lambda: naive(batch), device) for batch in args.batches}  # noqa: B023
        best_batch = min(tuned, key=lambda b: tuned[b])
        peaks = {"naive": peak_bytes(lambda: naive(best_batch), device), "ours": peak_bytes(ours, device)}
        ours_s, naive_s = [], []
        for _ in range(args.repeats):
            naive_s.append(seconds(lambda: naive(best_batch), device) / len(sample))
            ours_s.append(ours() / n_windows)
    found = logits[torch.from_numpy(sample).to(device)]
    difference = (found.log_softmax(1) - reference.float().log_softmax(1)).abs().max()
    ratio = statistics.median(n / o for n, o in zip(naive_s, ours_s, strict=True))
    limit = bound(net, grid)
    return {
        "network": name,
        "size": size,
        "device": args.device,
        "precision": args.precision,
        "engine": type(engine).__name__,
        "windows": n_windows,
        "naive_ms": round(1e3 * statistics.median(naive_s), 2),
        "naive_batch": best_batch,
        "ours_ms": round(1e3 * statistics.median(ours_s), 2),
        "ratio": round(ratio, 2),
        "bound": round(limit, 2),
        "share": round(ratio / limit, 3),
        "estimated_ms": round(1e3 * (engine.cost.seconds + clean_pass_seconds(net, rates)) / grid.n_windows, 2),
        "planned_macs_ratio": round(net.macs * grid.n_windows / max(1.0, engine.cost.macs), 2),
        "max_log_probability_error": float(difference),
        "peak_mb": {key: round(value / 1e6) for key, value in peaks.items()},
        "estimated_peak_mb": round(engine.cost.memory / 1e6),
        "capture_s": round(captured_s, 2),
        "rates_s": round(rates_s, 2),
        "plan_s": round(planned_s, 3),
        "groups": list(getattr(engine, "n_groups", (0, 0))),
        "batch": [engine.batch, getattr(engine, "tail_batch", 0)],
        "layers_on_boxes": sum(getattr(engine, "regions", ())),
        "layers": len(net.layers),
    }


def table(rows: list[dict[str, Any]]) -> str:
    head = (
        "network",
        "px",
        "naive ms (batch)",
        "ours ms",
        "ratio",
        "bound",
        "share",
        "estimate ms",
        "peak MB",
        "error",
    )
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for r in rows:
        cells = (
            r["network"],
            r["size"],
            f"{r['naive_ms']} ({r['naive_batch']})",
            r["ours_ms"],
            r["ratio"],
            r["bound"],
            f"{r['share']:.0%}",
            r["estimated_ms"],
            f"{r['peak_mb']['naive']} / {r['peak_mb']['ours']}",
            f"{r['max_log_probability_error']:.1e}",
        )
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["vgg16", "resnet18"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32", choices=list(DTYPES))
    parser.add_argument("--size", type=int, default=0)
    parser.add_argument("--patch", type=int, default=16)
    parser.add_argument("--stride", type=int, default=4)
    parser.add_argument("--windows", type=int, default=0, help="random sample of windows; 0 = the whole grid")
    parser.add_argument("--share", type=float, default=1.0, help="part of the grid, in whole batches; 1 = all of it")
    parser.add_argument("--naive-windows", type=int, default=64, help="windows that naive batches run")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="+", default=list(NAIVE_BATCHES))
    parser.add_argument("--out", type=Path, help="write JSON here, and the table beside it as .md")
    return parser


def main() -> None:
    args = options().parse_args()
    rows = []
    for name in args.networks:
        rows.append(bench(name, args))
        print(json.dumps(rows[-1]), flush=True)
    text = table(rows)
    print(text)
    if args.out:
        args.out.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n", encoding="utf-8")
        args.out.with_suffix(".md").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
