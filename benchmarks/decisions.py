"""Decide HAVING of estimated maps from samples of their windows: windows computed, and decisions that are right.

`scans`: the 17 brain scans of `scripts/fetch_assets.py` under their VGG16. `small`: 200 pictures of blurred discs under
a small network of random weights. Each question is asked of exact maps first.

    python -m benchmarks.decisions scans small --out benchmarks/results/cpu2-decisions.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter
from torch import nn

import obeql
from benchmarks.machine import machine

DATA = Path(os.environ.get("OBEQL_DATA", "data"))
POSITIVE = "sum(importance) FILTER (WHERE importance > 0)"
#: Questions: more than half of the positive evidence lies outside a box, or in a half of the picture.
OUTSIDE = "top_px + height_px <= {0} OR top_px >= {1} OR left_px + width_px <= {0} OR left_px >= {1}"
SMALL_SIDE, N_SMALL = 96, 200


def evidence(where: str, share: float = 0.5) -> str:
    """Return a condition of HAVING: more than a share of the positive evidence lies in these windows."""
    return f"sum(importance) FILTER (WHERE importance > 0 AND ({where})) > {share} * {POSITIVE}"


def scans(db: obeql.Session) -> tuple[str, dict[str, str]]:
    """Create the scans' model and set; return the windows and the questions."""
    classes = ["glioma", "meningioma", "notumor", "pituitary"]
    db.execute(f"CREATE MODEL net FROM '{DATA}/tumour/vgg16.onnx' WITH classes={classes}")
    db.execute(f"CREATE IMAGES pictures FROM '{DATA}/mri/*.jpg'")
    return "patch=16 stride=8", {
        "more than half of the positive evidence outside the head box": evidence(OUTSIDE.format(32, 192)),
        "more than half of the positive evidence in the upper half": evidence("top_px + height_px / 2 < 112"),
    }


def small(db: obeql.Session) -> tuple[str, dict[str, str]]:
    """Create a small network of random weights and 200 pictures; return the windows and the questions."""
    torch.manual_seed(1)
    layers = (nn.Conv2d(3, 8, 5, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(4))
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 4)).eval()
    db.create_model("net", net, size=(SMALL_SIDE, SMALL_SIDE), classes=["a", "b", "c", "d"])
    random, folder = np.random.default_rng(1), Path(tempfile.mkdtemp())
    for number in range(N_SMALL):
        picture = Image.new("RGB", (SMALL_SIDE, SMALL_SIDE))
        for left, top, size in random.integers((2, 2, 6), (70, 70, 28), (5, 3)).tolist():
            color = tuple(random.integers(40, 255, 3).tolist())
            ImageDraw.Draw(picture).ellipse((left, top, left + size, top + size), fill=color)
        picture.filter(ImageFilter.GaussianBlur(2)).save(folder / f"{number:03}.png")
    db.execute(f"CREATE IMAGES pictures FROM '{folder}/*.png'")
    return "patch=16 stride=2", {
        "more than half of the positive evidence outside the middle": evidence(OUTSIDE.format(24, 72)),
        "more than half of the positive evidence in the upper half": evidence("top_px + height_px / 2 < 48"),
        "mean importance above 0": "avg(importance) > 0",
    }


SETTINGS: dict[str, Callable[[obeql.Session], tuple[str, dict[str, str]]]] = {"scans": scans, "small": small}


def decide(db: obeql.Session, windows: str, having: str, seed: int) -> set[str]:
    """Return the images that meet HAVING, by samples drawn with a seed; no stored cell answers."""
    maps = f"EXPLAIN OCCLUDE pictures USING net WITH {windows} score=log_odds seed={seed} APPROX 0.9 NO REUSE"
    return {image for (image,) in db.execute(f"SELECT image FROM ({maps}) GROUP BY image HAVING {having}").fetchall()}


def measure(name: str, seeds: int) -> list[dict[str, Any]]:
    """Return a row for each question of a setting."""
    rows = []
    with obeql.connect() as db:
        windows, questions = SETTINGS[name](db)
        db.execute(f"EXPLAIN OCCLUDE pictures USING net WITH {windows} score=log_odds INTO exact")
        images = {image for (image,) in db.execute("SELECT DISTINCT image FROM windows").fetchall()}
        print(name, len(images), "images computed", flush=True)
        for question, having in questions.items():
            asked = f"SELECT image FROM windows WHERE run = 'exact' GROUP BY image HAVING {having}"
            true = {image for (image,) in db.execute(asked).fetchall()}
            shares: list[float] = []
            n_wrong = 0
            for seed in range(seeds):
                n_wrong += len(decide(db, windows, having, seed) ^ true)
                latest = 'SELECT n_exact / ("rows" * cols) FROM heatmaps WHERE run_id = (SELECT max(run_id) FROM runs)'
                shares += [share for (share,) in db.execute(latest).fetchall()]
            n = seeds * len(images)
            low, middle, high = statistics.quantiles(shares, n=4)
            rows.append(
                {
                    "setting": name,
                    "question": question,
                    "images": len(images),
                    "seeds": seeds,
                    "windows of a map": db.execute('SELECT any_value("rows" * cols) FROM heatmaps').fetchall()[0][0],
                    "yes": len(true),
                    "decisions": n,
                    "right": n - n_wrong,
                    "windows computed, mean": round(statistics.mean(shares), 4),
                    "lower quartile": round(low, 4),
                    "median": round(middle, 4),
                    "upper quartile": round(high, 4),
                    "computed whole": round(sum(share >= 1 for share in shares) / n, 4),
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("settings", nargs="+", choices=sorted(SETTINGS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = [row for name in args.settings for row in measure(name, args.seeds)]
    if args.out is not None:
        lines = ",\n".join(json.dumps(row) for row in rows)
        args.out.write_text(f'{{\n"machine": {json.dumps(machine())},\n"rows": [\n{lines}\n]\n}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
