"""Let threads, sessions, readers, cancellations, closings and Ctrl-C meet on one file, and look at what they get.

    python scripts/concurrency_trial.py --seconds 600

Three threads share one session; two more keep opening and closing sessions of their own on the same file; a reader
counts what it sees; the main thread runs statements that Ctrl-C interrupts; another thread cancels and closes. Every
map of a statement that ends has to have the numbers that a session alone gives, the reader must see whole images only,
no error may come that nobody caused, and nobody may wait for ever. At the end the file is opened anew: no run may be
running, those that are done have all of their maps, with the right numbers. Prints one line of JSON; the exit code is 1
where anything was wrong.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import obeql
from obeql.errors import QueryError, StoreError

SIZE, N_IMAGES, N_CLASSES = 32, 6, 3
PATCHES = (8, 12)
STATEMENT = "EXPLAIN OCCLUDE '{images}' USING net FOR ALL WITH patch={patch} stride=4 batch=8 score=log_odds{reuse}"
#: A statement takes well under a second here; one that takes as long as this waits for something.
STUCK_S = 120.0


def main() -> int:
    """Let everybody work for as long as asked, print what was seen, and return the exit code."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=600.0)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    faulthandler.enable()
    with tempfile.TemporaryDirectory() as folder:
        report = Trial(Path(folder), given.seed).run(given.seconds)
    print(json.dumps(report))
    return 1 if report["problems"] else 0


class Trial:
    """One file, those who work on it, and what they saw."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.file = folder / "heat.duckdb"
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []
        self.over = threading.Event()
        self.interruptible = False  # whether Ctrl-C would meet the main thread in a round
        self.busy_since: dict[str, float] = {}
        for number, picture in enumerate(_pictures()):
            picture.save(folder / f"scan{number}.png")
        self.network = _network()
        with obeql.connect() as alone:
            alone.create_model("net", self.network, size=(SIZE, SIZE))
            found = [alone.execute(self._statement("scan*", patch, " NO REUSE")) for patch in PATCHES]
        self.expected = {(heat.image, heat.patch[0], heat.class_id): heat.scores for maps in found for heat in maps}
        self.shared = self._connect()

    def run(self, seconds: float) -> dict[str, Any]:
        """Everybody works for this long; returns the counts and what was wrong."""
        began = time.perf_counter()
        jobs: list[tuple[str, Callable[[random.Random], None]]] = [(f"shared {k}", self._on_shared) for k in range(3)]
        jobs += [(f"own {k}", self._on_own) for k in range(2)]
        jobs += [("reader", self._read), ("disturber", self._disturb)]
        threads = [threading.Thread(target=self._work, args=job, daemon=True) for job in jobs]
        for thread in threads:
            thread.start()
        self._main(began + seconds)
        self.over.set()
        for thread in threads:
            thread.join(STUCK_S)
            if thread.is_alive():
                faulthandler.dump_traceback()
                self.problems.append("a thread did not end")
        self.shared.close()
        self._look_at_the_file()
        return {"seconds": round(time.perf_counter() - began), **sorted_counts(self.counts), "problems": self.problems}

    # ---- those who work ----------------------------------------------------------------------------------------

    def _main(self, until: float) -> None:
        """Run statements in the main thread, which is where Ctrl-C arrives."""
        chance = random.Random(self.seed)
        while time.perf_counter() < until:
            try:
                self.interruptible = True
                self._round("main", lambda: self._explain(self.shared, chance))
                self.interruptible = False
            except KeyboardInterrupt:
                self.interruptible = False
                self.counts["statements_stopped"] += 1

    def _work(self, name: str, job: Callable[[random.Random], None]) -> None:
        chance = random.Random(f"{self.seed} {name}")
        while not self.over.is_set():
            try:
                self._round(name, lambda: job(chance))
            except KeyboardInterrupt:
                self.counts["statements_stopped"] += 1

    def _round(self, name: str, work: Callable[[], None]) -> None:
        """Do something once; a session that is closed meanwhile is no surprise here, any other error is one."""
        self.busy_since[name] = time.perf_counter()
        try:
            work()
        except StoreError as error:
            if "closed" not in str(error):
                self.problems.append(f"{name}: {error}")
            self.counts["found_closed"] += 1
        except Exception as error:
            self.problems.append(f"{name}: {type(error).__name__}: {error}")
        finally:
            del self.busy_since[name]

    def _on_shared(self, chance: random.Random) -> None:
        if chance.random() < 0.8:
            self._explain(self.shared, chance)
        else:
            self._drop_one(self.shared, chance)

    def _on_own(self, chance: random.Random) -> None:
        with self._connect() as db:
            self.counts["sessions_opened"] += 1
            for _ in range(chance.randrange(4)):
                self._explain(db, chance)

    def _read(self, chance: random.Random) -> None:
        with self._connect() as db:
            for _ in range(20):
                rows = db.execute("SELECT run_id, image_id, count(*) FROM heatmaps GROUP BY ALL").fetchall()
                if wrong := [row for row in rows if row[2] != N_CLASSES]:
                    self.problems.append(f"the reader saw parts of images: {wrong[:3]}")
                self.counts["looks_of_the_reader"] += 1
                time.sleep(chance.uniform(0, 0.1))

    def _disturb(self, chance: random.Random) -> None:
        """Cancel, close or press Ctrl-C, and see whether somebody is stuck."""
        time.sleep(chance.uniform(0, 1))
        what = chance.choice(["cancel", "cancel", "press", "press", "close"])
        if what == "cancel":
            self.shared.cancel()
        elif what == "close":
            closing, self.shared = self.shared, self._connect()
            closing.close()
        elif self.interruptible:
            signal.raise_signal(signal.SIGINT)
        self.counts[f"disturbed_by_{what}"] += 1
        if stuck := {name for name, since in self.busy_since.items() if time.perf_counter() - since > STUCK_S}:
            faulthandler.dump_traceback()
            self.problems.append(f"stuck: {', '.join(sorted(stuck))}")

    # ---- what they do ------------------------------------------------------------------------------------------

    def _connect(self) -> Any:
        db = obeql.connect(self.file)
        db.create_model("net", self.network, size=(SIZE, SIZE))
        return db

    def _explain(self, db: Any, chance: random.Random) -> None:
        images = chance.choice(["scan*", f"scan{chance.randrange(N_IMAGES)}", f"scan[{chance.randrange(3)}-4]"])
        statement = self._statement(images, chance.choice(PATCHES), chance.choice(["", " NO REUSE"]))
        for heat in db.execute(statement):
            self._compare(heat.image, heat.patch[0], heat.class_id, heat.scores)
        self.counts["statements_done"] += 1

    def _drop_one(self, db: Any, chance: random.Random) -> None:
        with db.connection.cursor() as cursor:  # DuckDB 2 lets one thread at a time read from a connection
            runs = cursor.execute("SELECT run_id FROM runs WHERE status <> 'running' ORDER BY run_id").fetchall()
        if not runs:
            return
        try:
            db.execute(f"DROP RUN {chance.choice(runs)[0]}")
            self.counts["runs_dropped"] += 1
        except QueryError as error:  # another thread was faster
            if "no run" not in str(error):
                raise

    def _statement(self, images: str, patch: int, reuse: str) -> str:
        return STATEMENT.format(images=self.folder / f"{images}.png", patch=patch, reuse=reuse)

    def _compare(self, image: str, patch: int, class_id: int, scores: Any) -> None:
        self.counts["maps_compared"] += 1
        if not np.allclose(scores, self.expected[image, patch, class_id], atol=1e-4):
            self.problems.append(f"class {class_id} of {image} with patch {patch} has other numbers")

    def _look_at_the_file(self) -> None:
        with obeql.connect(self.file) as db:
            for status, n_runs in db.execute("SELECT status, count(*) FROM runs GROUP BY ALL").fetchall():
                self.counts[f"runs_{status}_at_the_end"] = n_runs
                if status not in ("done", "interrupted"):
                    self.problems.append(f"{n_runs} runs are {status} at the end")
            rows = db.execute("SELECT path, patch_height, class_id, scores FROM heatmaps").fetchall()
        for path, patch, class_id, scores in rows:
            self._compare(path, patch, class_id, scores)


def sorted_counts(counts: Counter[str]) -> dict[str, int]:
    """The counts by name."""
    return dict(sorted(counts.items()))


def _network() -> Any:
    import torch
    from torch import nn

    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 256, N_CLASSES)]
    return nn.Sequential(*parts).eval()


def _pictures() -> list[Any]:
    from PIL import Image

    draws = [np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8) for seed in range(N_IMAGES)]
    return [Image.fromarray(pixels) for pixels in draws]


if __name__ == "__main__":
    sys.exit(main())
