"""The drop-ins against Captum and MONAI themselves: the same call, with another import.

    python -m benchmarks.drop_in --out benchmarks/results/cpu2-drop-in.json
    python -m benchmarks.drop_in --short

For each network: the best batch of either library, tried on the network alone; the first call of a module that nobody
has seen, at `--first-stride`; later calls at `--stride`; and the first calls on small images, one after the other, one
of which prepares the network. Theirs and ours take turns; medians and the medians of ratios are reported, and the
largest difference of the maps. MONAI runs in its default mode. A small network shows
what a call costs beyond its work. `--short` takes each once, a few minutes in all on two cores. Needs
`pip install obeql[peers]`.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.machine import machine
from benchmarks.networks import SIZES, network
from obeql.compat.captum import Occlusion
from obeql.compat.monai import OcclusionSensitivity

BATCHES = (1, 8, 16, 32, 64)
#: images that batches are tried on
TUNED_ON = 64
TINY_CALLS = 30
#: Side of small images, the stride on them, and calls that are made one after the other.
SMALL_SIZE, SMALL_STRIDE, SMALL_CALLS = 64, 4, 5

#: a module, a stride and a batch -> a map
Call = Callable[[nn.Module, int, int], Tensor]


def calls(library: str, patch: int, image: Tensor, target: int) -> tuple[Call, Call]:
    """The call of a library, and ours with the same arguments."""
    if library == "captum":
        from captum.attr import Occlusion as Theirs  # noqa: PLC0415

        def attribute(kind: Any, module: nn.Module, stride: int, batch: int) -> Tensor:
            found: Tensor = kind(module).attribute(
                image,
                sliding_window_shapes=(image.shape[1], patch, patch),
                strides=(image.shape[1], min(stride, patch), min(stride, patch)),
                target=target,
                perturbations_per_eval=batch,
            )
            return found

        return (lambda *args: attribute(Theirs, *args)), (lambda *args: attribute(Occlusion, *args))
    from monai.visualize import OcclusionSensitivity as Its  # noqa: PLC0415

    def sensitivity(kind: Any, module: nn.Module, stride: int, batch: int) -> Tensor:
        overlap = max(0.0, 1 - (stride + 0.25) / patch)
        found: Tensor = kind(module, mask_size=patch, n_batch=batch, overlap=overlap, verbose=False)(image)[0]
        return found

    return (lambda *args: sensitivity(Its, *args)), (lambda *args: sensitivity(OcclusionSensitivity, *args))


def timed(work: Callable[[], Tensor]) -> tuple[float, Tensor]:
    started = time.perf_counter()
    found = work()
    return time.perf_counter() - started, found


def side_by_side(theirs: Callable[[], Tensor], ours: Callable[[], Tensor], repeats: int) -> dict[str, float]:
    """Seconds of either, their ratio, and the largest difference of what they return; in turns."""
    taken: list[tuple[float, float]] = []
    difference = 0.0
    for _ in range(repeats):
        its_s, expected = timed(theirs)
        our_s, found = timed(ours)
        taken.append((its_s, our_s))
        difference = max(difference, float((found - expected).abs().max()))
    return {
        "theirs_s": round(statistics.median(its for its, _ in taken), 4),
        "ours_s": round(statistics.median(our for _, our in taken), 4),
        "times_faster": round(statistics.median(its / our for its, our in taken), 2),
        "difference": difference,
    }


def windows(size: int, patch: int, stride: int) -> int:
    return (-(-(size - patch) // stride) + 1) ** 2


def bench(name: str, library: str, args: argparse.Namespace) -> dict[str, Any]:
    size = args.size or SIZES.get(name, 224)
    module = network(name)
    image = torch.rand((1, 3, size, size), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        target = int(module(image).argmax())
    theirs, ours = calls(library, args.patch, image, target)
    tuned = {batch: best_of(lambda b=batch: some_windows(module, image, b)) for batch in args.batches}
    batch = min(tuned, key=lambda each: tuned[each])
    repeats = 1 if args.short else args.repeats
    first: list[dict[str, float]] = []
    for _ in range(repeats):
        fresh = copy.deepcopy(module)
        first.append(
            side_by_side(
                lambda: theirs(module, args.first_stride, batch),
                lambda: ours(fresh, args.first_stride, batch),  # noqa: B023
                1,
            )
        )
    ours(module, args.stride, batch)
    later = side_by_side(lambda: theirs(module, args.stride, batch), lambda: ours(module, args.stride, batch), repeats)
    return {
        "network": name,
        "library": library,
        "batch": batch,
        "first": {"windows": windows(size, args.patch, args.first_stride), **middle(first)},
        "later": {"windows": windows(size, args.patch, args.stride), **later},
    }


def small(name: str, library: str, args: argparse.Namespace) -> dict[str, Any]:
    """The first calls on small images of a module that nobody has seen: what each takes, and theirs beside it."""
    module, batch = network(name), args.batches[-1]
    image = torch.rand((1, 3, SMALL_SIZE, SMALL_SIZE), generator=torch.Generator().manual_seed(0))
    theirs, ours = calls(library, args.patch, image, 0)
    theirs(module, args.patch, batch)
    seen = copy.deepcopy(module)
    made = [
        side_by_side(lambda: theirs(module, SMALL_STRIDE, batch), lambda: ours(seen, SMALL_STRIDE, batch), 1)
        for _ in range(SMALL_CALLS)
    ]
    n_windows = windows(SMALL_SIZE, args.patch, SMALL_STRIDE)
    return {"network": name, "library": library, "size": SMALL_SIZE, "windows": n_windows, "calls": made}


def some_windows(module: nn.Module, image: Tensor, batch: int) -> None:
    """Run the module on some images, so many at a time: all that a batch decides."""
    with torch.no_grad():
        for _ in range(TUNED_ON // batch):
            module(image.expand(batch, -1, -1, -1).contiguous())


def best_of(work: Callable[[], None]) -> float:
    work()
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def middle(rows: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}


def tiny(library: str) -> dict[str, Any]:
    """What a call on a small network takes beyond the other library's, in milliseconds; 16 windows."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4),
    ).eval()  # fmt: skip
    image = torch.rand((1, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    theirs, ours = calls(library, 8, image, 0)
    ours(module, 8, 16)
    row = side_by_side(lambda: theirs(module, 8, 16), lambda: ours(module, 8, 16), TINY_CALLS)
    return {"library": library, **row, "overhead_ms": round(1e3 * (row["ours_s"] - row["theirs_s"]), 2)}


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["resnet18"])
    parser.add_argument("--libraries", nargs="+", default=["captum", "monai"], choices=["captum", "monai"])
    parser.add_argument("--size", type=int, default=0)
    parser.add_argument("--patch", type=int, default=16)
    parser.add_argument("--stride", type=int, default=8)
    parser.add_argument("--first-stride", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument("--short", action="store_true", help="each once, under four minutes")
    parser.add_argument("--note", default="", help="what a reader of the figures should know, as of a machine at work")
    parser.add_argument("--out", type=Path, help="write JSON here")
    return parser


def main() -> None:
    args = options().parse_args()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = []
        for name in args.networks:
            for library in args.libraries:
                rows.append(bench(name, library, args))
                print(json.dumps(rows[-1]), flush=True)
        little = [small(name, library, args) for name in args.networks for library in args.libraries]
        tiniest = [tiny(library) for library in args.libraries]
    print(json.dumps(little), json.dumps(tiniest), sep="\n")
    if args.out:
        found = {"machine": machine(), "note": args.note, "rows": rows, "small": little, "tiny": tiniest}
        args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
