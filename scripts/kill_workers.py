"""Kill workers of a run, one after the other, and compare what the database then holds with an undisturbed run.

    python scripts/kill_workers.py --kills 20
    python scripts/kill_workers.py --kills 20 --engine ray

Two workers explain a set of images. Each time that some more images are finished, one of the workers that are at work
is killed (SIGKILL). At the end every image has to be there once, with all of its maps and the bits of the undisturbed
run. Prints one line of JSON; the exit code is 1 where anything was lost, doubled or changed, or fewer were killed.
Needs Linux.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

import obeql

SIZE, IMAGES_A_KILL = 32, 8
STATEMENT = "EXPLAIN OCCLUDE scans USING net FOR TOP 2 WITH patch=[4, 8] stride=1 batch=64"


def main() -> int:
    """Kill as often as asked, print what was found, and return the exit code."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--kills", type=int, default=20)
    options.add_argument("--engine", choices=("processes", "ray"), default="processes")
    options.add_argument("--shards", action="store_true", help="workers write Parquet shards")
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as place:
        report = trial(Path(place), given)
    print(json.dumps(report))
    return 0 if report["same"] and report["kills"] == given.kills else 1


def trial(place: Path, given: argparse.Namespace) -> dict[str, Any]:
    """One undisturbed run, and one with kills."""
    n_images = given.kills * IMAGES_A_KILL
    random_pixels = np.random.default_rng(given.seed)
    (place / "scans").mkdir()
    for number in range(n_images):
        pixels = random_pixels.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
        Image.fromarray(pixels).save(place / "scans" / f"image{number:04}.png")
    torch.manual_seed(given.seed)
    net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(1024, 4))
    killer = Killer(given.kills, given.engine, random.Random(given.seed))
    with obeql.connect(place / "heat.duckdb") as db:
        db.create_model("net", net.eval(), size=(SIZE, SIZE))
        db.create_images("scans", place / "scans")
        # One image at a time also where there are no workers: the same batches, and so the same bits.
        db.execute("SET obeql.threads = 1; SET obeql.disabled_rules = 'batch_images'")
        db.execute("SET obeql.engine = ?", [given.engine])
        if given.shards:
            db.execute("SET obeql.store_folder = ?", [str(place / "maps")])
        started = time.perf_counter()
        found = db.execute(f"{STATEMENT} workers=2 NO REUSE", on_progress=killer)
        seconds = time.perf_counter() - started
        stored = db.execute(
            "SELECT count(*), count(DISTINCT (image_id, class_id, patch_height)) FROM heatmaps WHERE run_id = 1"
        ).fetchall()[0]
        db.execute("RESET obeql.engine; RESET obeql.store_folder")
        whole = db.execute(f"{STATEMENT} NO REUSE")
        same = [_bits(heat) for heat in found] == [_bits(heat) for heat in whole]
    return {
        "kills": killer.kills,
        "images": n_images,
        "failures": len(found.failures),
        "maps": stored[0],
        "maps_once": stored[1],
        "same": same and stored == (len(whole), len(whole)),
        "seconds": round(seconds, 1),
    }


def _bits(heat: Any) -> tuple[Any, ...]:
    return heat.image, heat.patch, heat.class_id, heat.scores.tobytes(), heat.clean_score


class Killer:
    """A callback of progress that kills one worker for each few images that are finished."""

    def __init__(self, n_kills: int, engine: str, chance: random.Random) -> None:
        self.n_kills = n_kills
        self.engine = engine
        self.chance = chance
        self.kills = 0

    def __call__(self, progress: Any) -> None:
        if self.kills < self.n_kills and progress.image >= self.kills * IMAGES_A_KILL + 1 and (found := self.workers()):
            os.kill(self.chance.choice(found), signal.SIGKILL)
            self.kills += 1

    def workers(self) -> list[int]:
        """The processes of the workers."""
        if self.engine == "processes":
            return [child.pid for child in multiprocessing.active_children() if child.pid is not None]
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if path.read_bytes().startswith(b"ray::Actor"):
                    found.append(int(path.parent.name))
            except OSError:
                continue
        return found


if __name__ == "__main__":
    sys.exit(main())
