"""OBEQL against Captum and MONAI as their users run them, on the same network, image and grid.

    python -m benchmarks.peers --networks resnet18 vgg16 --stride 16

Captum: `Occlusion` with its default of one perturbation at a time and with the best of several batch sizes. MONAI:
`OcclusionSensitivity` with its default batch of 16 and the best of several. OBEQL: the `explain` call of a session,
planning, measuring nothing (rates are stored by a call before), storing the map included. Each runs `--repeats`
times, in turns; medians are reported. The peers take as long for a window wherever it lies, so that `at_fine_stride`
holds OBEQL's whole map at `--fine-stride` against their measured seconds of a window times its windows. Needs
`pip install obeql[peers]`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import obeql
from benchmarks.machine import machine
from benchmarks.networks import SIZES, network
from obeql.planner.grid import WindowGrid

BATCHES = (16, 64)


def timed(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def bench(name: str, args: argparse.Namespace) -> dict[str, Any]:
    from captum.attr import Occlusion  # noqa: PLC0415
    from monai.visualize import OcclusionSensitivity  # noqa: PLC0415

    size = SIZES.get(name, 224)
    module = network(name)
    pixels = np.random.default_rng(0).random((3, size, size)).astype(np.float32)
    image = torch.from_numpy(pixels)[None].contiguous(memory_format=torch.channels_last)
    patch, stride = args.patch, args.stride
    with torch.inference_mode():
        target = int(module(image).argmax())
    occlusion = Occlusion(module)

    def captum(batch: int) -> None:
        with torch.inference_mode():
            occlusion.attribute(
                image,
                sliding_window_shapes=(3, patch, patch),
                strides=(3, stride, stride),
                target=target,
                baselines=0.5,
                perturbations_per_eval=batch,
            )

    def monai(batch: int) -> None:
        overlap = max(0.0, 1 - (stride + 0.25) / patch)
        with torch.inference_mode():
            OcclusionSensitivity(module, mask_size=patch, n_batch=batch, overlap=overlap, verbose=False)(image)

    db = obeql.connect()
    db.create_model("net", module, size=(size, size))
    seed = iter(range(10_000))

    def ours(stride: int = stride) -> None:
        # Another fill each time, so that nothing could be answered from what is stored.
        shade = 0.5 + next(seed) * 1e-6
        db.explain(pixels, "net", patch=patch, stride=stride, fill=(shade, shade, shade), classes=target)

    ours()
    contenders: dict[str, Callable[[], None]] = {"captum default (1)": lambda: captum(1)}
    contenders |= {f"captum {b}": (lambda b=b: captum(b)) for b in BATCHES}
    contenders |= {"monai default (16)": lambda: monai(16), "monai 64": lambda: monai(64), "obeql": ours}
    taken: dict[str, list[float]] = {key: [] for key in contenders}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(args.repeats):
            for key, work in contenders.items():
                taken[key].append(timed(work))
    seconds = {key: round(statistics.median(values), 3) for key, values in taken.items()}
    fine_s = timed(lambda: ours(args.fine_stride))
    db.close()
    n_windows, n_fine = (
        WindowGrid.over((size, size), (patch, patch), (s, s)).n_windows for s in (stride, args.fine_stride)
    )
    peers = {key: value for key, value in seconds.items() if key != "obeql"}
    return {
        "network": name,
        "windows": n_windows,
        "seconds": seconds,
        "times_faster": {key: round(value / seconds["obeql"], 2) for key, value in peers.items()},
        "at_fine_stride": {
            "windows": n_fine,
            "seconds": round(fine_s, 3),
            "times_faster": {key: round(value / n_windows * n_fine / fine_s, 2) for key, value in peers.items()},
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["resnet18", "vgg16"])
    parser.add_argument("--patch", type=int, default=16)
    parser.add_argument("--stride", type=int, default=16)
    parser.add_argument("--fine-stride", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write JSON here")
    args = parser.parse_args()
    rows = [bench(name, args) for name in args.networks]
    print(json.dumps(rows, indent=1))
    if args.out:
        args.out.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
