"""Decide HAVING of estimated maps from samples of their windows: windows computed, and decisions that are right.

`scans`: the 17 brain scans of `scripts/fetch_assets.py` under their VGG16. `small`: 200 pictures of blurred discs under
a small network of random weights. Each question is asked of exact maps first.

    python -m benchmarks.decisions scans small --out benchmarks/results/cpu2-decisions.json

`--replay` takes the windows of the samples from the exact maps instead of computing them again, for many seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import re
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
from obeql.executor.adaptive.aggregate_sampler import AggregateSampler
from obeql.executor.adaptive.problem import Goal, Problem
from obeql.planner.aggregates import AggregateAim, Arithmetic, Column, Number, Sum
from obeql.planner.grid import WindowGrid

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


def replayed(db: obeql.Session, having: str, seed: int) -> tuple[set[str], list[float]]:
    """Return the images that meet HAVING by samples of the exact maps, and the share of the windows each one took."""
    share = float(re.search(r"> ([\d.]+) \*", having)[1])  # type: ignore[index]
    inside = re.search(r"importance > 0 AND \((.*)\)\) >", having)[1]  # type: ignore[index]
    columns = f"SELECT importance, greatest(importance, 0), CASE WHEN {inside} THEN greatest(importance, 0) END"
    held = Arithmetic("-", Sum(1), Arithmetic("*", Number(share), Sum(0)))
    aim = AggregateAim((Column("positive"), Column("inside")), (), (held,), 0.1, 0.95, all_must_hold=True)
    met, shares = set(), []
    for number, (image, size, patch, stride) in enumerate(
        db.execute(
            "SELECT name, input_height, patch_height, stride_height FROM heatmaps WHERE run_name = 'exact' "
            "ORDER BY name"
        ).fetchall()
    ):
        grid = WindowGrid.over((size, size), (patch, patch), (stride, stride), border="clip")
        where = f"FROM windows WHERE run = 'exact' AND image = '{image}' ORDER BY row, col"
        importance, positive, inside_of = np.array(db.execute(f"{columns} {where}").fetchall(), float).T
        values = np.stack(
            [np.where(positive > 0, positive, np.nan), np.where(inside_of > 0, inside_of, np.nan), importance]
        )
        problem = Problem(grid, "log_odds", 1, Goal("aggregates", 0.95, 0.9), 1000 * number + seed)
        sampler = AggregateSampler(problem, aim, lambda k, windows, logit, others, v=values: v[:, windows])
        request = sampler.first()
        while not request.empty:
            sampler.cells.add(request.exact, importance[request.exact][:, None], np.zeros((len(request.exact), 1)))
            sampler.update()
            request = sampler.next()
        drawn, _, weights = sampler.sample
        totals = np.nansum(weights * values[:2, drawn], axis=1)
        if totals[1] > share * totals[0]:
            met.add(image)
        shares.append(float(sampler.cells.exact.mean()))
    return met, shares


def measure(name: str, seeds: int, replay: bool) -> list[dict[str, Any]]:
    """Return a row for each question of a setting; with `replay`, of those about shares."""
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
            if replay and " * " not in having:
                continue
            for seed in range(seeds):
                if replay:
                    met, own = replayed(db, having, seed)
                    n_wrong += len(met ^ true)
                    shares += own
                    continue
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
                    "replayed": replay,
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
    parser.add_argument("--replay", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = [row for name in args.settings for row in measure(name, args.seeds, args.replay)]
    if args.out is not None:
        lines = ",\n".join(json.dumps(row) for row in rows)
        args.out.write_text(f'{{\n"machine": {json.dumps(machine())},\n"rows": [\n{lines}\n]\n}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
