"""How good and how fast approximate maps are: coverage of their bounds, the trade-off against other ways, timings.

    python -m benchmarks.approx maps data/approx.duckdb          exact maps, and the same in bfloat16 (half an hour)
    python -m benchmarks.approx replay data/approx.duckdb --out benchmarks/results/cpu2-approx-replay.json
    python -m benchmarks.approx curve data/approx.duckdb --out benchmarks/results/cpu2-approx-curve.json
    python -m benchmarks.approx tau --out benchmarks/results/cpu2-approx-tau.json
    python -m benchmarks.approx live --kinds scans --out benchmarks/results/cpu2-approx-live-scans.json
    python -m benchmarks.approx live --kinds transformer --stride 8 --images 2 --repeats 1 --clauses "APPROX 0.9"
    python -m benchmarks.approx ceiling --out benchmarks/results/cpu2-approx-ceiling.json
    python -m benchmarks.approx proxies vit.npz --strides 8 --out benchmarks/results/cpu2-proxies-replay.json

`replay` refines stored maps as APPROX would, with the stored cells in place of the network, for many goals and seeds,
one class at a time, and compares what is stated with what is true. `curve` gives the true SSIM of plain strided
interpolation and of Krypton's drill-down on the same maps, `tau` that of its projective-field limit.
`proxies` refines stored maps about stored guesses, and drawn maps about guesses that are wrong in several ways.
`live` runs statements: naive batches of the module, in float32 and in bfloat16, the exact map, APPROX 0.9 and
TOP 10 CELLS, in turns. The networks and images are those of `scripts/fetch_assets.py --photos`; with `--kinds fashion`
those of `scripts/train_resnet18.py`, with `--kinds transformer` the network of `scripts/fetch_assets.py --photos
--transformer`, DINOv2 ViT-S/14. `ceiling` measures what APPROX costs where it saves nothing, in shares of EXACT,
on small networks with random weights.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from benchmarks.approx.ceiling import NETWORKS, SCORES, TARGETS, run_ceiling
from benchmarks.approx.curve import run_curve
from benchmarks.approx.live import run_live
from benchmarks.approx.proxies import run_proxies
from benchmarks.approx.replay import run_replay
from benchmarks.approx.setting import KINDS, PHOTOS, SCANS
from benchmarks.approx.stored_maps import compute_maps
from benchmarks.approx.tau import run_tau


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ways = parser.add_subparsers(required=True)
    maps, replays, curve, tau, live = (ways.add_parser(name) for name in ("maps", "replay", "curve", "tau", "live"))
    proxies = ways.add_parser("proxies")
    for each in (maps, replays, curve):
        each.add_argument("file")
    for each in (maps, replays, curve, tau, live):
        each.add_argument("--kinds", nargs="+", default=[SCANS, PHOTOS], choices=KINDS)
    for each in (replays, curve, tau, live, proxies):
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
    for each in (tau, live):
        each.add_argument("--images", type=int, default=3)
        each.add_argument("--repeats", type=int, default=3)
    live.add_argument("--stride", type=int, default=4)
    live.add_argument("--clauses", nargs="+", default=["APPROX 0.9", "TOP 10 CELLS"])
    ceiling = ways.add_parser("ceiling")
    ceiling.add_argument("--out", type=Path, help="write JSON here, and the table beside it as .md")
    ceiling.add_argument("--networks", nargs="+", default=NETWORKS, choices=NETWORKS)
    ceiling.add_argument("--scores", nargs="+", default=SCORES)
    ceiling.add_argument("--targets", type=float, nargs="+", default=TARGETS)
    ceiling.add_argument("--most-windows", type=int, default=10_000, help="leave out grids of more windows")
    ceiling.add_argument("--repeats", type=int, default=5)
    ceiling.set_defaults(run=run_ceiling)
    proxies.add_argument("files", nargs="*", help="exact maps with guesses, as .npz")
    proxies.add_argument("--strides", type=int, nargs="*", default=[], help="of the files, in pixels")
    proxies.add_argument("--drawn", type=int, default=40, help="maps drawn at random, for each kind of guess")
    proxies.add_argument("--seeds", type=int, default=16, help="audits a stored map")
    proxies.add_argument("--target", type=float, default=0.9)
    proxies.set_defaults(run=run_proxies)
    maps.set_defaults(run=compute_maps)
    replays.set_defaults(run=run_replay)
    curve.set_defaults(run=run_curve)
    tau.set_defaults(run=run_tau)
    live.set_defaults(run=run_live)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
