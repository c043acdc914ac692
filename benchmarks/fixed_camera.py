"""Frames of a camera that stands still: each computed from the one before, beside whole passes.

    python -m benchmarks.fixed_camera --networks vgg16 resnet50 resnet18 --out benchmarks/results/cpu2-fixed-camera.json

A square of noise of `side` pixels moves across a picture that stands still, a step a frame, as an object does before a
camera. For each frame both ways run in turn, seconds of the processor are compared, and the logits. The ratio is the
median over the frames; 1.0 where the operator chooses whole passes itself. `estimate` is what it expected of an update.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.machine import machine
from benchmarks.networks import network
from obeql.executor.network.capture.capture import capture
from obeql.executor.operators.changed_boxes import changed_boxes
from obeql.executor.operators.frame_update import FrameUpdateRun
from obeql.planner.physical.frames import FrameUpdate


def clip(size: int, side: int, step: int, n_frames: int) -> Iterator[Tensor]:
    """Yield frames (1, 3, size, size)."""
    generator = torch.Generator().manual_seed(0)
    still = torch.rand((1, 3, size, size), generator=generator)
    thing = torch.rand((3, side, side), generator=generator)
    for number in range(n_frames):
        frame = still.clone()
        top, left = size // 3 + number % 4, size // 8 + step * number
        frame[0, :, top : top + side, left : left + side] = thing
        yield frame


def measure(name: str, size: int, side: int, step: int, n_frames: int) -> dict[str, Any]:
    graph = capture(network(name), (3, size, size)).to(torch.device("cpu"), torch.float32)
    operator = FrameUpdate.of(graph.network(), 8e9)
    run = FrameUpdateRun(graph, operator)
    whole, updates, errors, estimates = [], [], [], []
    last = None
    with torch.inference_mode():
        for number, frame in enumerate(clip(size, side, step, n_frames)):
            started = time.process_time()
            expected = graph.forward(frame)
            between = time.process_time()
            found = run.forward(frame)
            ended = time.process_time()
            errors.append(float((found - expected).abs().max() / expected.abs().max()))
            if number >= 4 and last is not None:
                whole.append(between - started)
                updates.append(ended - between)
                boxes = changed_boxes((frame != last).any(1)[0].numpy())
                estimates.append(operator.share(operator.spans(boxes)))
            last = frame
    return {
        "network": name,
        "size": size,
        "side": side,
        "step": step,
        "updated": run.count.updated,
        "whole": run.count.whole,
        "ratio": round(median(w / u for w, u in zip(whole, updates, strict=True)), 2),
        "macs": round(run.count.computed / run.count.updated, 3) if run.count.updated else 1.0,
        "estimate": round(median(estimates), 3),
        "error": max(errors),
        "why_whole": operator.why_whole,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["vgg16", "resnet50", "resnet18", "mobilenet_v2"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[224, 448])
    parser.add_argument("--sides", nargs="+", type=int, default=[12, 32])
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    rows = []
    for name in asked.networks:
        for size in asked.sizes:
            for side in asked.sides:
                rows.append(measure(name, size, side, 4, asked.frames))
                print(rows[-1])
    if asked.out is not None:
        asked.out.write_text(json.dumps({**machine(), "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
