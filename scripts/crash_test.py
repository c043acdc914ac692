"""Kill a process that explains a set of images, at random moments, and look at what its database then holds.

    python scripts/crash_test.py --kills 200

A child process opens a database, explains a set, and reports through a pipe every image that `Progress.images_done`
calls done. After a random time it is killed (SIGKILL). Then the file has to open, to hold every image that was
reported, each with all of its maps and with the numbers of an undisturbed run, and no part of any other. The next
child runs the same statement on the same file: it must compute the images that are missing and no other. Prints one
line of JSON; the exit code is 1 where anything was lost.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

STATEMENT = "EXPLAIN OCCLUDE scans USING net FOR ALL WITH patch=[8, 12] stride=4 batch=49 INTO crash"
SIZE, MAPS_AN_IMAGE = 32, 6
#: Share of the kills that may come at any time; the others come while maps are computed and stored.
ANY_TIME = 0.25


def main() -> int:
    """Kill as often as asked, print what was found, and return the exit code."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--kills", type=int, default=200)
    options.add_argument("--images", type=int, default=160, help="images of the set")
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "obeql.session.session",
            "obeql.executor.execution.executor",
            "obeql.executor.network.capture.capture",
            "sympy",
            "torch._dynamo",
            "lark",
        ]
    )
    with tempfile.TemporaryDirectory() as folder:
        report = Trial(Path(folder), random.Random(given.seed), context, given.images).run(given.kills)
    print(json.dumps(report))
    return 1 if report["problems"] else 0


class Trial:
    """One series of kills; every finished set is followed by a fresh file."""

    def __init__(self, folder: Path, chance: random.Random, context: Any, n_images: int) -> None:
        self.folder = folder
        self.chance = chance
        self.context = context
        self.n_images = n_images
        self.report: dict[str, Any] = {
            "kills": 0,
            "kills_between_commits": 0,
            "sets_finished": 0,
            "reported_before_a_kill": 0,
        }
        self.report |= {"images_lost": 0, "maps_checked": 0, "problems": []}
        (folder / "scans").mkdir()
        for number, picture in enumerate(_pictures(n_images)):
            picture.save(folder / "scans" / f"{number:03}.png")
        self.seconds = 5.0  # of an undisturbed child's whole life, and of its run alone
        self.run_seconds = 3.0

    def run(self, n_kills: int) -> dict[str, Any]:
        """Kill `n_kills` children; returns the counts and what was wrong."""
        self._child(self.folder / "first.duckdb", None)  # starts the server that children are forked from
        started = time.perf_counter()
        reported = self._child(self.folder / "reference.duckdb", None)
        self.seconds = time.perf_counter() - started
        self.run_seconds = self.seconds - reported["run_began_s"]
        if reported["images_done"] != self.n_images:
            raise SystemExit(f"the undisturbed run ended early: {reported}")
        self.expected = _stored(self.folder / "reference.duckdb")[1]
        number = 0
        file = self.folder / "0.duckdb"
        while self.report["kills"] < n_kills:
            reported = self._child(file, self._moment())
            self._check(file, reported)
            if reported["finished"]:
                self.report["sets_finished"] += 1
                number += 1
                file = self.folder / f"{number}.duckdb"
        self._finish(file)
        self.report["seconds_of_a_run"] = round(self.run_seconds, 1)
        return self.report

    def _moment(self) -> tuple[bool, float]:
        """When to kill: whether counted from the beginning of the run, and after how many seconds."""
        in_run = self.chance.random() >= ANY_TIME
        return in_run, self.chance.uniform(0.0, 1.1 * (self.run_seconds if in_run else self.seconds))

    def _child(self, file: Path, kill: tuple[bool, float] | None) -> dict[str, Any]:
        """Run a child, kill it at that moment unless it is done, and return what it said."""
        ours, theirs = self.context.Pipe(duplex=False)
        n_held = self.chance.choice([6, 24, 256])  # maps a commit: seldom, as usual, and after every image
        child = self.context.Process(target=_explain, args=(str(file), self.folder / "scans", theirs, n_held))
        child.start()
        began = time.perf_counter()
        theirs.close()
        said: dict[str, Any] = {"n_todo": None, "images_done": 0, "durable_before": 0, "run_began_s": 0.0}
        while (kill is None or kill[0]) and said["n_todo"] is None and (message := _message(ours, 120.0)):
            said |= message
        said["run_began_s"] = time.perf_counter() - began
        child.join(None if kill is None else kill[1])
        killed = child.is_alive()
        if killed:
            child.kill()
            child.join()
        said["finished"] = not killed
        while message := _message(ours, 0.0):
            said |= message
        if not killed and child.exitcode:
            self.report["problems"].append(f"the child failed: {said.get('error')}")
        self.report["kills"] += killed
        return said

    def _check(self, file: Path, said: dict[str, Any]) -> None:
        """Compare a file with what its last child reported."""
        problems = self.report["problems"]
        if not file.exists():
            return
        status, maps = _stored(file)
        stored = {name for name, *_ in maps}
        n_reported = max(said["durable_before"], said["images_done"])  # a run that goes on counts what it kept
        self.report["reported_before_a_kill"] += 0 if said["finished"] else n_reported
        self.report["images_lost"] += max(0, n_reported - len(stored))
        self.report["kills_between_commits"] += len(stored) > n_reported
        if n_reported > len(stored):
            problems.append(f"{n_reported} images were reported, {len(stored)} are stored")
        if len(maps) != MAPS_AN_IMAGE * len(stored):
            problems.append(f"{len(maps)} maps of {len(stored)} images")
        if wrong := [key for key, digest in maps.items() if self.expected[key] != digest]:
            problems.append(f"{len(wrong)} maps differ from the undisturbed run")
        if said["n_todo"] is not None and said["n_todo"] != self.n_images - said["durable_before"]:
            problems.append(f"{said['n_todo']} images were computed with {said['durable_before']} stored")
        if said["finished"] and (status != ["done"] or len(stored) != self.n_images):
            problems.append(f"a finished run is {status} with {len(stored)} images")
        self.report["maps_checked"] += len(maps)

    def _finish(self, file: Path) -> None:
        """The last set is completed: the statement that was killed goes on to its end."""
        said = self._child(file, None)
        self._check(file, said)
        self.report["sets_finished"] += 1


def _explain(file: str, scans: Path, out: Connection, n_held: int) -> None:
    """The child: explain the set on `file` and report what is done."""
    import torch

    import obeql
    from obeql.session import run_recorder

    run_recorder._HOLD_MAPS = n_held
    torch.set_num_threads(1)
    try:
        with obeql.connect(file) as db:
            held = db.execute("SELECT count(DISTINCT image_id) FROM obeql_store.run_maps").fetchall()[0][0]
            out.send({"durable_before": held})
            db.create_model("net", _network(), size=(SIZE, SIZE))
            db.create_images("scans", scans)
            if db.execute("SELECT count(*) FROM runs WHERE status = 'done'").fetchall()[0][0]:
                out.send({"images_done": 0, "n_todo": 0})  # killed after its last commit
                return

            reported = -1

            def tell(progress: Any) -> None:
                nonlocal reported
                if not progress.phase and progress.images_done > reported:
                    reported = progress.images_done
                    out.send({"n_todo": progress.n_images - held, "images_done": reported})

            # The same plan and the same batches, and so the same bits, every time.
            db.execute("SET obeql.disabled_rules = 'choose_engine, batch_images'")
            db.execute(STATEMENT, on_progress=tell)
    except Exception as error:
        out.send({"error": f"{type(error).__name__}: {error}"})
        raise SystemExit(1) from None


def _message(pipe: Connection, wait_s: float) -> dict[str, Any] | None:
    """The next message of a child; None at the end, which may be a message that the kill cut off."""
    try:
        found: dict[str, Any] | None = pipe.recv() if pipe.poll(wait_s) else None
    except (EOFError, OSError):
        return None
    return found


def _stored(file: Path) -> tuple[list[str], dict[tuple[str, int, int], str]]:
    """The status of the file's runs, and a digest of the numbers of each map by image, class and patch."""
    import obeql

    with obeql.connect(file) as db:
        status = [row[0] for row in db.execute("SELECT status FROM runs").fetchall()]
        rows = db.execute(
            "SELECT images.name, map.class_id, patch_height, md5(CAST((logit, others, top_class) AS VARCHAR)) "
            "FROM obeql_store.run_maps JOIN obeql_store.maps AS map USING (map_id) JOIN images USING (image_id)"
        ).fetchall()
        if len(rows) != len({row[:3] for row in rows}):
            raise SystemExit("a map is stored twice")
        return status, {row[:3]: row[3] for row in rows}


def _network() -> Any:
    import torch
    from torch import nn

    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 256, 3)]
    return nn.Sequential(*parts).eval()


def _pictures(n_images: int) -> Iterator[Any]:
    import numpy as np
    from PIL import Image

    for seed in range(n_images):
        yield Image.fromarray(np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8))


if __name__ == "__main__":
    sys.exit(main())
