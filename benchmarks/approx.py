"""How good and how fast approximate maps are: coverage of their bounds, the trade-off against other ways, timings.

    python -m benchmarks.approx maps data/approx.duckdb          exact maps, and the same in bfloat16 (half an hour)
    python -m benchmarks.approx replay data/approx.duckdb --out benchmarks/results/cpu2-approx-replay.json
    python -m benchmarks.approx curve data/approx.duckdb --out benchmarks/results/cpu2-approx-curve.json
    python -m benchmarks.approx tau
    python -m benchmarks.approx live --out benchmarks/results/cpu2-approx-live.json

`replay` refines stored maps as APPROX would, with the stored cells in place of the network, for many goals and seeds,
and compares what is stated with what is true. `curve` gives the true SSIM of maps of which a share is known, for
refinement, for plain strided interpolation and for Krypton's drill-down, `tau` for its projective-field limit.
`live` runs statements: naive batches of the module, in float32 and in bfloat16, the exact map, APPROX 0.9 and
TOP 10 CELLS, in turns. The networks and images are those of `scripts/fetch_assets.py --photos`; with `--kinds fashion`
those of `scripts/train_resnet18.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

import obeql
from benchmarks.machine import machine
from benchmarks.networks import network
from obeql.executor.grid_run import GridRun
from obeql.executor.materialise import materialise
from obeql.executor.models.import_torchvision import torchvision
from obeql.executor.network.capture import capture
from obeql.executor.operators.dense_forward import occlude
from obeql.executor.rates import measure_rates
from obeql.executor.refine.kriging import work_of
from obeql.executor.refine.problem import Goal, Problem
from obeql.executor.refine.quality import quality_of, ssim
from obeql.executor.refine.refiner import Refiner
from obeql.executor.refine.top_search import TopSearch
from obeql.planner.grid import WindowGrid
from obeql.planner.physical import IncrementalForward, Prices
from obeql.planner.refinement import MOST_REDUCED_PRICE
from obeql.planner.schedule import choose_engine
from obeql.planner.scores import ScoreKind, score_of

Floats = npt.NDArray[np.float64]

DATA = Path(os.environ.get("OBEQL_DATA", "data"))
SCANS, PHOTOS, FASHION = "scans", "photos", "fashion"
KINDS = (SCANS, PHOTOS, FASHION)
#: classes whose maps are stored
CLASSES = {SCANS: "ALL", PHOTOS: "TOP 3", FASHION: "TOP 2"}
HEAD = "EXPLAIN OCCLUDE {images} USING {model} FOR {classes} WITH patch=16 stride=4 precision={precision} "
#: what refining costs, in exact cells of whole grids: measured on the machine of the committed results
PRICES = {
    SCANS: Prices(0.001, 0.01, 0.54),
    PHOTOS: Prices(0.005, 0.01, 0.6),
    FASHION: Prices(0.004, 0.015, 0.5),
}


def session(path: str = ":memory:") -> obeql.Session:
    """A session with the networks."""
    db = obeql.connect(path)
    db.execute(
        f"CREATE OR REPLACE MODEL scans FROM '{DATA}/tumour/vgg16.onnx' "
        "WITH classes=['glioma', 'meningioma', 'notumor', 'pituitary']"
    )
    lite = network("efficientnet_lite0")
    look = {"size": 224, "resize": "shortest", "edge": 256, "interpolation": "bicubic", "mean": 127 / 255}
    db.create_model("photos", lite, replace=True, std=128 / 255, **look)
    if (DATA / "resnet18").is_dir():
        db.create_model("fashion", _resnet18(), replace=True, size=224)
    return db


def _resnet18() -> torch.nn.Module:
    """The residual network of `scripts/train_resnet18.py`, with its weights."""
    module = torchvision("this benchmark").models.resnet18(weights=None, num_classes=10)
    module.load_state_dict(torch.load(DATA / "resnet18" / "fashion.pt", weights_only=True))
    module = module.eval().to(memory_format=torch.channels_last)
    assert isinstance(module, torch.nn.Module)
    return module


def images(kind: str) -> dict[str, Any]:
    """Images by name: 17 scans, 8 photographs and the halves of the wide ones, or test pictures of Fashion-MNIST."""
    if kind != PHOTOS:
        folder = DATA / "mri" if kind == SCANS else DATA / "resnet18" / "test"
        return {path.stem: str(path) for path in sorted(folder.iterdir()) if path.suffix in (".jpg", ".png")}
    found: dict[str, Any] = {}
    for path in sorted((DATA / "photos").iterdir()):
        pixels = np.asarray(Image.open(path).convert("RGB"))
        found[path.stem] = pixels
        if pixels.shape[1] > 1.4 * pixels.shape[0]:
            middle = pixels.shape[1] // 2
            found[f"{path.stem} left"] = np.ascontiguousarray(pixels[:, :middle])
            found[f"{path.stem} right"] = np.ascontiguousarray(pixels[:, middle:])
    return found


# ---- stored maps ---------------------------------------------------------------------------------------------


def compute_maps(args: argparse.Namespace) -> None:
    """Every map, exact and in bfloat16, of all classes of a scan and the three likeliest of a photograph."""
    db = session()
    arrays: dict[str, Any] = {}
    for kind in args.kinds:
        for name, image in images(kind).items():
            classes = CLASSES[kind]
            for precision in ("float32", "bfloat16"):
                started = time.perf_counter()
                query = HEAD.format(images="$image", model=kind, classes=classes, precision=precision)
                maps = db.execute(query, {"image": image})
                print(kind, name, precision, f"{time.perf_counter() - started:.1f} s", flush=True)
                for heat in maps:
                    arrays[f"{kind}|{name}|{heat.class_id}|{precision}"] = np.stack(
                        [heat.cells.logit, heat.cells.others]
                    )
                    arrays[f"{kind}|{name}|starts"] = np.stack([heat.cells.tops, heat.cells.lefts])
                classes = f"CLASSES ({', '.join(str(heat.class_id) for heat in maps)})"
        np.savez_compressed(_planes(args.file), **arrays)


def _planes(file: str) -> Path:
    return Path(file).with_suffix(".npz")


@dataclass(frozen=True)
class Stored:
    """One map as it was computed: `exact` and `reduced` hold logit and others, (2, rows, cols)."""

    kind: str
    image: str
    class_id: int
    exact: Floats
    reduced: Floats
    starts: npt.NDArray[np.int32]

    @cached_property
    def grid(self) -> Any:
        """What a refiner asks of a grid."""
        size = int(self.starts[0][-1]) + 16
        grid = WindowGrid.over((size, size), (16, 16), (4, 4))
        assert grid.shape == self.exact.shape[1:]
        return grid

    def scores(self, kind: ScoreKind) -> Floats:
        return score_of(kind, *self.exact)


def stored(file: str) -> Iterator[Stored]:
    with np.load(_planes(file)) as arrays:
        for key in arrays.files:
            kind, image, *rest = key.split("|")
            if rest[-1] == "float32":
                class_id = int(rest[0])
                exact = arrays[key].astype(float)
                reduced = arrays[f"{kind}|{image}|{class_id}|bfloat16"].astype(float)
                yield Stored(kind, image, class_id, exact, reduced, arrays[f"{kind}|{image}|starts"])


# ---- replay --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One refinement to replay: of which map, with which goal; `price` of a bfloat16 cell: None as usual, 0 without."""

    map: Stored
    score: ScoreKind
    metric: str
    target: float
    seed: int
    price: float | None


def replay(case: Case) -> dict[str, Any]:
    """Refine a stored map; returns what is stated, what is true, and what it cost, in exact cells."""
    torch.set_num_threads(1)
    cells = case.map
    prices = PRICES[cells.kind]
    if case.price is not None:
        prices = replace(prices, reduced=case.price)
    if prices.reduced > MOST_REDUCED_PRICE:  # as the planner would
        prices = replace(prices, reduced=0.0)
    started = time.perf_counter()
    is_top = case.metric == "top_cells"
    goal = Goal(case.metric, 0.95, 1.0 if is_top else case.target)
    problem = Problem(cells.grid, case.score, 1, goal, case.seed, prices)
    refiner = TopSearch(problem, int(case.target)) if is_top else Refiner(problem)
    cost = _drive(refiner, cells, prices)
    truth = cells.scores(case.score)
    found = score_of(case.score, refiner.estimates[0].logit, refiner.estimates[0].others)
    if case.metric == "top_cells":
        k = int(case.target)
        best = np.argsort(truth.ravel(), kind="stable")[:k]
        named = np.argsort(np.where(np.isnan(found), np.inf, found).ravel(), kind="stable")[:k]
        true = len(np.intersect1d(best, named)) / k
    else:
        true = float(quality_of(case.metric, truth[None], found)[0])
    return {
        "kind": cells.kind,
        "image": cells.image,
        "class": cells.class_id,
        "score": case.score,
        "metric": case.metric,
        "target": case.target,
        "seed": case.seed,
        "reduced": prices.reduced,
        "bound": round(refiner.worst, 4),
        "true": round(true, 4),
        "exact_share": round(float(refiner.cells.exact.mean()), 4),
        "levels": len(refiner.history),
        "cost": round(cost, 4),
        "estimating_s": round(time.perf_counter() - started, 3),
    }


def _drive(refiner: Refiner, cells: Stored, prices: Prices) -> float:
    """Give a refiner the cells it asks for until it is done; returns what that cost, estimating included.

    1 is the cost of computing all exactly; what a quarter of the windows or more cost at once is as little each.
    """
    exact, reduced = (plane.reshape(2, -1) for plane in (cells.exact, cells.reduced))
    n, cost = exact.shape[1], 0.0
    request = refiner.first()
    while not request.empty:
        cost += (len(request.exact) + len(request.reduced) * prices.reduced) / n
        cost += prices.level if 0 < len(request.exact) < n / 4 else 0.0
        if len(request.exact):
            refiner.cells.add(request.exact, *exact[:, request.exact, None])
        if len(request.reduced):
            refiner.cells.add_reduced(request.reduced, *reduced[:, request.reduced, None])
        n_looks = len(refiner.history)
        refiner.update()
        if len(refiner.history) > n_looks and not refiner.cells.exact.all():
            cost += prices.look * work_of(int(refiner.cells.seen.sum()), n)
        request = refiner.next()
    return cost


def cases(
    maps: list[Stored], seeds: int, scores: list[ScoreKind], goals: list[str], prices: list[float | None]
) -> list[Case]:
    """`goals` as metric:target, such as ssim:0.9."""
    return [
        Case(each, score, goal.split(":")[0], float(goal.split(":")[1]), seed, price)
        for goal in goals
        for price in prices
        for score in scores
        for seed in range(seeds)
        for each in maps
    ]


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Coverage and cost by network, score and goal."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[k] for k in ("kind", "score", "metric", "target", "reduced")), []).append(row)
    found = []
    for (kind, score, metric, target, reduced), all_rows in groups.items():
        said = [row for row in all_rows if row["exact_share"] < 1]
        # A search for cells states that all are right, at 95 %.
        least = 1.0 if metric == "top_cells" else target
        true = sorted(row["true"] for row in said)
        found.append(
            {
                "network": kind,
                "score": score,
                "goal": f"{metric} {target:g}",
                "bfloat16 at": reduced or None,
                "maps": len(all_rows),
                "approximate": len(said),
                "as stated": sum(row["true"] >= least - 1e-9 for row in said),
                "true least": true[0] if true else None,
                "true 5 %": true[len(true) // 20] if true else None,
                "true mean": round(statistics.mean(true), 4) if true else None,
                "at least the bound": sum(row["true"] >= row["bound"] - 1e-9 for row in said),
                "cost median": round(statistics.median(row["cost"] for row in all_rows), 3),
                "cost mean": round(statistics.mean(row["cost"] for row in all_rows), 3),
                "cost most": max(row["cost"] for row in all_rows),
                "estimating s": round(statistics.median(row["estimating_s"] for row in all_rows), 2),
            }
        )
    return found


def run_replay(args: argparse.Namespace) -> None:
    maps = [each for each in stored(args.file) if not args.kinds or each.kind in args.kinds]
    if args.maps:
        maps = maps[:: max(1, len(maps) // args.maps)]
    todo = cases(maps, args.seeds, args.scores, args.goals, args.prices or [None])
    with ProcessPoolExecutor(args.workers) as pool:
        rows = list(pool.map(replay, todo, chunksize=4))
    found = summary(rows)
    _write(args.out, {"summary": found, "rows": rows}, found)


# ---- the trade-off -------------------------------------------------------------------------------------------


def strided(cells: Stored, score: ScoreKind, step: int) -> tuple[float, Floats]:
    """Every step-th row and column and cubic interpolation between; step divides the grids' sizes less one."""
    plane = cells.scores(score)
    coarse = torch.from_numpy(plane[::step, ::step].copy())[None, None]
    full = torch.nn.functional.interpolate(coarse, plane.shape, mode="bicubic", align_corners=True)
    return coarse.numel() / plane.size, full[0, 0].numpy()


def drill_down(cells: Stored, score: ScoreKind, step: int, share: float) -> tuple[float, Floats]:
    """Krypton's: every step-th window, then all windows of the `share` of coarse cells of least score.

    Other windows take the value of the coarse window at or before them, as there (SIGMOD 2019, section 4.2).
    """
    plane = cells.scores(score)
    coarse = plane[::step, ::step]
    full = np.repeat(np.repeat(coarse, step, 0), step, 1)[: plane.shape[0], : plane.shape[1]]
    limit = np.sort(coarse.ravel())[max(0, round(share * coarse.size) - 1)]
    fine = np.repeat(np.repeat(coarse <= limit, step, 0), step, 1)[: plane.shape[0], : plane.shape[1]]
    fine[::step, ::step] = True
    return float(fine.mean()), np.where(fine, plane, full)


def run_curve(args: argparse.Namespace) -> None:
    rows = []
    for cells in stored(args.file):
        if args.kinds and cells.kind not in args.kinds:
            continue
        for score in args.scores:
            truth = cells.scores(score)[None]
            ways = [(f"strided {step}", *strided(cells, score, step)) for step in (2, 4)]
            ways += [
                (f"drill-down {step}, {r:g}", *drill_down(cells, score, step, r))
                for step in (2, 4)
                for r in (0.25, 0.5)
            ]
            ways.append(("bfloat16, all cells", PRICES[cells.kind].reduced, score_of(score, *cells.reduced)))
            for way, cost, plane in ways:
                rows.append(
                    {"kind": cells.kind, "score": score, "way": way, "cost": cost, "true": float(ssim(truth, plane)[0])}
                )
    found = []
    for key in dict.fromkeys((row["kind"], row["score"], row["way"]) for row in rows):
        same = [row for row in rows if (row["kind"], row["score"], row["way"]) == key]
        true = [row["true"] for row in same]
        found.append(
            dict(zip(("network", "score", "way"), key, strict=True))
            | {
                "maps": len(same),
                "cost": round(statistics.median(row["cost"] for row in same), 3),
                "true median": round(statistics.median(true), 3),
                "true least": round(min(true), 3),
            }
        )
    _write(args.out, {"summary": found}, found)


def run_tau(args: argparse.Namespace) -> None:
    """Krypton's projective-field limit on one class of some maps: no box wider than a share tau of its map."""
    rows = []
    with torch.inference_mode():
        for kind in args.kinds:
            module, size = _module(kind)
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
    _write(args.out, {"summary": rows}, rows)


# ---- timings -------------------------------------------------------------------------------------------------


def run_live(args: argparse.Namespace) -> None:
    db = session()
    rows = []
    for kind in args.kinds:
        module, size = _module(kind)
        for name, image in list(images(kind).items())[: args.images]:
            head = f"EXPLAIN OCCLUDE $image USING {kind} WITH patch=16 stride=4 score=log_odds "
            seconds: dict[str, list[float]] = {}
            maps: dict[str, Any] = {}
            for _ in range(args.repeats):
                seconds.setdefault("naive", []).append(_naive(module, size))
                seconds.setdefault("naive bfloat16", []).append(_naive(module.to(torch.bfloat16), size))
                module.float()
                for clause in ("EXACT", *args.clauses):
                    started = time.perf_counter()
                    maps[clause] = db.execute(f"{head} {clause} NO REUSE", {"image": image})[0]
                    seconds.setdefault(clause, []).append(time.perf_counter() - started)
            exact = maps["EXACT"]
            n = exact.scores.size
            row = {"network": kind, "image": name, "naive s": statistics.median(seconds["naive"]) * n}
            row["naive bfloat16 s"] = statistics.median(seconds["naive bfloat16"]) * n
            row["exact s"] = statistics.median(seconds["EXACT"])
            for clause in args.clauses:
                took = statistics.median(seconds[clause])
                row |= {f"{clause} s": took, f"{clause} x naive": row["naive s"] / took}
                row[f"{clause} x exact"] = row["exact s"] / took
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
    _write(args.out, {"summary": found, "rows": rows}, found)


def _module(kind: str) -> tuple[torch.nn.Module, int]:
    """The network as a plain user would run it; the scans' VGG16 has torchvision's layers and 240 pixels."""
    if kind == FASHION:
        return _resnet18(), 224
    return (network("vgg16"), 240) if kind == SCANS else (network("efficientnet_lite0"), 224)


def _naive(module: torch.nn.Module, size: int, n: int = 32, batches: tuple[int, ...] = (8, 32)) -> float:
    """Seconds of one window in the fastest batch: channels-last, inference mode."""
    grid = WindowGrid.over((size, size), (16, 16), (4, 4))
    dtype = next(module.parameters()).dtype
    image = torch.rand((1, 3, size, size), dtype=dtype).contiguous(memory_format=torch.channels_last)
    fill = image.mean((2, 3)).view(3, 1, 1)
    sample = np.random.default_rng(0).choice(grid.n_windows, n, replace=False)
    best = float("inf")
    with torch.inference_mode():
        for batch in batches:
            started = time.perf_counter()
            for start in range(0, n, batch):
                module(occlude(image, fill, grid, sample[start : start + batch]))
            best = min(best, (time.perf_counter() - started) / n)
    return best


# ---- output --------------------------------------------------------------------------------------------------


def _write(out: Path | None, result: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    head = list(rows[0])
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    lines += ["| " + " | ".join(str(row.get(key, "")) for key in head) + " |" for row in rows]
    print("\n".join(lines))
    if out is not None:
        parts = {"machine": machine(), **result}
        # A line for each row: there are hundreds of them.
        text = ",\n".join(f"{json.dumps(key)}: {_lines(value)}" for key, value in parts.items())
        out.write_text(f"{{\n{text}\n}}\n", encoding="utf-8")
        out.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _lines(value: Any) -> str:
    if not isinstance(value, list):
        return json.dumps(value)
    return "[\n" + ",\n".join(json.dumps(each, separators=(",", ":")) for each in value) + "\n]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ways = parser.add_subparsers(required=True)
    maps, replays, curve, tau, live = (ways.add_parser(name) for name in ("maps", "replay", "curve", "tau", "live"))
    for each in (maps, replays, curve):
        each.add_argument("file")
    for each in (maps, replays, curve, tau, live):
        each.add_argument("--kinds", nargs="+", default=[SCANS, PHOTOS], choices=KINDS)
    for each in (replays, curve, tau, live):
        each.add_argument("--out", type=Path, help="write JSON here, and the table beside it as .md")
    for each in (replays, curve):
        each.add_argument("--scores", nargs="+", default=["log_odds", "probability"])
    replays.add_argument("--goals", nargs="+", default=["ssim:0.8", "ssim:0.9", "ssim:0.95", "top_cells:10"])
    replays.add_argument("--seeds", type=int, default=2)
    replays.add_argument("--maps", type=int, default=0, help="about so many maps, evenly taken; 0 = all")
    replays.add_argument(
        "--prices",
        type=float,
        nargs="+",
        help="of a bfloat16 cell, in exact ones; 0 without",
    )
    replays.add_argument("--workers", type=int, default=os.cpu_count())
    live.add_argument("--images", type=int, default=3)
    live.add_argument("--repeats", type=int, default=3)
    live.add_argument("--clauses", nargs="+", default=["APPROX 0.9", "TOP 10 CELLS"])
    maps.set_defaults(run=compute_maps)
    replays.set_defaults(run=run_replay)
    curve.set_defaults(run=run_curve)
    tau.set_defaults(run=run_tau)
    live.set_defaults(run=run_live)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
