"""Sets of images with few windows each: one image after the other, several together, and plain inference.

    python -m benchmarks.images --networks resnet18 squeezenet1_1 --strides 70 32 --out benchmarks/results/images.json

Each row explains random images of one network, patch and stride. *Naive* is the module itself on batches that take
windows, and clean images, from several images, at the fastest of several batch sizes. *Alone* is OBEQL with the choice
`batch_images` off, *together* with it on. All three take turns; reported are medians of seconds an image, the number
of images together, and the largest difference of a log-probability between together and alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import obeql
from benchmarks.machine import machine
from benchmarks.networks import SIZES, network
from obeql.executor.operators.dense_forward import occlude
from obeql.planner.grid import WindowGrid

NAIVE_BATCHES = (4, 8, 16, 32, 64)


def small() -> nn.Module:
    """A network as people train for pictures of 32 x 32 pixels."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in ((3, 32), (32, 64), (64, 64)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 16, 10)).eval()


def naive(module: nn.Module, images: Tensor, grid: WindowGrid, batch: int) -> float:
    """Seconds an image of the module itself on all occluded images and the images themselves."""
    fill = images.mean((2, 3), keepdim=True)
    started = time.perf_counter()
    with torch.inference_mode():
        for start in range(0, len(images), batch):
            module(images[start : start + batch].contiguous(memory_format=torch.channels_last))
        numbers = np.arange(len(images) * grid.n_windows)
        for start in range(0, len(numbers), batch):
            module(occlude(images, fill, grid, numbers[start : start + batch]))
    return (time.perf_counter() - started) / len(images)


def explained(db: obeql.Session, statement: str, n_images: int) -> tuple[float, list[np.ndarray]]:
    started = time.perf_counter()
    result = db.execute(statement)
    seconds = (time.perf_counter() - started) / n_images
    planes = [heat.cells.logit - heat.cells.others for heat in result]
    db.execute(f"DROP RUN {result.run_id}")
    return seconds, planes


def measured(name: str, stride: int, n_images: int, repeats: int) -> dict[str, Any]:
    module = small() if name == "small" else network(name)
    size = 32 if name == "small" else SIZES.get(name, 224)
    patch = 8 if name == "small" else 16
    grid = WindowGrid.over((size, size), (patch, patch), (stride, stride))
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (size, size, 3), dtype=np.uint8) for _ in range(n_images)]
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
    statement = f"EXPLAIN OCCLUDE pictures USING net FOR CLASS 0 WITH patch={patch} stride={stride} NO REUSE"
    seconds: dict[str, list[float]] = {"naive": [], "alone": [], "together": []}
    planes: dict[str, list[np.ndarray]] = {}
    with obeql.connect() as db:
        db.create_model("net", module, size=(size, size))
        db.create_images("pictures", pictures)
        db.execute("PLAN " + statement)  # measures the network's rates, once
        few = images[: max(1, min(n_images, 128 // grid.n_windows))]
        batch = min(NAIVE_BATCHES, key=lambda batch: min(naive(module, few, grid, batch) for _ in range(2)))
        together = db.execute("PLAN " + statement).physical.together
        for _ in range(repeats):
            seconds["naive"].append(naive(module, images, grid, batch))
            for way, off in (("alone", "batch_images"), ("together", "")):
                db.execute(f"SET obeql.disabled_rules = '{off}'")
                took, planes[way] = explained(db, statement, n_images)
                seconds[way].append(took)
    medians = {way: statistics.median(each) for way, each in seconds.items()}
    return {
        "network": name,
        "size": size,
        "windows": grid.n_windows,
        "images": n_images,
        "naive_ms": round(1e3 * medians["naive"], 2),
        "naive_batch": batch,
        "alone_ms": round(1e3 * medians["alone"], 2),
        "together_ms": round(1e3 * medians["together"], 2),
        "images_together": together,
        "gain": round(medians["alone"] / medians["together"], 2),
        "ratio": round(medians["naive"] / medians["together"], 2),
        "max_difference": max(
            float(np.abs(a - b).max()) for a, b in zip(planes["alone"], planes["together"], strict=True)
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["small", "squeezenet1_1", "mobilenet_v2", "resnet18"])
    parser.add_argument("--strides", nargs="+", type=int, default=[70, 32], help="of networks for 224 pixels")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows = []
    for name in arguments.networks:
        for stride in [8, 4] if name == "small" else arguments.strides:
            n_images = arguments.images * (8 if name == "small" else 1)
            row = measured(name, stride, n_images, arguments.repeats)
            rows.append(row)
            print(json.dumps(row), flush=True)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
