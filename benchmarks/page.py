"""How fast the page is: from the command to its first answer, a first coarse map, the patch under the hand, lists.

    python -m benchmarks.page --out benchmarks/results/cpu2-page.json

Every figure is taken through the server, as a browser would. *start*: from starting the process to the page being
served, files in the system's cache. *coarse*: from handing in `EXPLAIN OCCLUDE` with patch and stride 32 to having
the bytes of the map, on an image that nothing is stored of, the network loaded and its speed measured before;
*first_cells*: to having the bytes of its first cells, which are shown while the others are computed. *hand*: from
asking to having the probabilities of all classes with one window hidden anywhere in the image, after the first 40
windows, among which the fastest way is found. *lists*: one page of 50 of 10,000 runs, and 200 maps of a sheet by an
SQL expression. *scroll*: a sheet of 200 maps scrolled through in Chromium, where there is one; the time between
frames. Medians, and the 90th percentile where it matters. `load` says how many processes wanted the machine before;
where that is not near 0, wall times are too long; `cpu_ms` is the median CPU time of server and visitor, over all
threads.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

import obeql
from benchmarks.machine import machine

SIDE = 224


class Visitor:
    """A browser's part of the conversation, on one connection that is kept."""

    def __init__(self, address: str) -> None:
        jar = CookieJar()
        urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar)).open(address, timeout=60).read()
        self._cookie = "; ".join(f"{each.name}={each.value}" for each in jar)
        host = address.removeprefix("http://").partition("/")[0]
        self._connection = http.client.HTTPConnection(host, timeout=300)

    def bytes(self, path: str, body: Any = None) -> bytes:
        """Return what an address answers."""
        headers = {"cookie": self._cookie}
        if body is None:
            self._connection.request("GET", path, headers=headers)
        else:
            self._connection.request("POST", path, json.dumps(body), headers | {"content-type": "application/json"})
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status >= 400:
            raise RuntimeError(f"{path}: {content.decode()}")
        return content

    def ask(self, path: str, body: Any = None) -> Any:
        """As `bytes`, of JSON."""
        return json.loads(self.bytes(path, body))

    def first_cells(self, text: str) -> tuple[int, float]:
        """Begin a statement; returns the number of the job, and the milliseconds until its first cells are here."""
        started = time.perf_counter()
        job_id = self.ask("/api/jobs", {"text": text})["job_id"]
        while not ((job := self.ask(f"/api/jobs/{job_id}"))["progress"] or {}).get("map_version"):
            if job["state"] not in ("waiting", "running"):
                raise RuntimeError(str(job["outcome"]))
            time.sleep(0.01)
        self.bytes(f"/api/jobs/{job_id}/map")
        return job_id, 1000 * (time.perf_counter() - started)

    def finished(self, text: str, job_id: int | None = None) -> Any:
        """Run a statement and return the job once it has ended: its events end with it."""
        if job_id is None:
            job_id = self.ask("/api/jobs", {"text": text})["job_id"]
        self.bytes(f"/api/jobs/{job_id}/events")
        job = self.ask(f"/api/jobs/{job_id}")
        if job["state"] != "done":
            raise RuntimeError(str(job["outcome"]))
        return job


def timed(call: Callable[[], Any]) -> tuple[float, float]:
    """Return the milliseconds of a call, of the clock and of this process."""
    started, spent = time.perf_counter(), time.process_time()
    call()
    return 1000 * (time.perf_counter() - started), 1000 * (time.process_time() - spent)


def spread(times: list[tuple[float, float]] | list[float]) -> dict[str, float]:
    """Return the figures of several measurements, each of the clock alone or with CPU time."""
    pairs = [each if isinstance(each, tuple) else (each, None) for each in times]
    ordered = sorted(wall for wall, _ in pairs)
    cpu = [spent for _, spent in pairs if spent is not None]
    return {
        **({"cpu_ms": round(statistics.median(cpu), 1)} if cpu else {}),
        "median_ms": round(statistics.median(ordered), 1),
        "p90_ms": round(ordered[min(len(ordered) - 1, int(0.9 * len(ordered)))], 1),
        "least_ms": round(ordered[0], 1),
        "n": len(ordered),
    }


@contextmanager
def served(database: Path) -> Iterator[tuple[str, float]]:
    """Serve a database in a process; yields the address, and the seconds until it was printed and answered."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "obeql", "ui", str(database), "--no-browser"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    found = re.search(r"http://\S+", process.stdout.readline())
    assert found is not None
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
    opener.open(found.group(), timeout=60).read()
    took = time.perf_counter() - started
    try:
        yield found.group(), took
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def measure_start(folder: Path, times: int = 6) -> dict[str, float]:
    """Start the page several times; the first fills the system's cache and is not counted."""
    found = []
    for _ in range(times):
        with served(folder / "start.duckdb") as (_, seconds):
            found.append(1000 * seconds)
    return spread(found[1:])


def write_pictures(folder: Path, n: int) -> list[Path]:
    """Write pictures of smooth noise, of the networks' size."""
    paths = []
    for seed in range(n):
        small = np.random.default_rng(seed).integers(0, 256, (14, 14, 3), np.uint8)
        paths.append(folder / f"picture_{seed}.png")
        Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(paths[-1])
    return paths


def measure_network(folder: Path, name: str, patches: tuple[int, ...]) -> dict[str, Any]:
    """Measure the first coarse map and the patch under the hand for a network of torchvision, random weights."""
    with obeql.connect(folder / f"{name}.duckdb") as db:
        db.execute(f"CREATE MODEL net FROM 'torchvision:{name}' WITH size={SIDE}")
        db.create_images("pictures", [str(path) for path in sorted(folder.glob("picture_*.png"))])
        visitor = Visitor(db.ui(open_browser=False).address)
        visitor.finished("EXPLAIN OCCLUDE picture_0 USING net WITH patch=32 stride=32 score=log_odds")
        coarse = []
        for number in range(1, 6):
            text = f"EXPLAIN OCCLUDE picture_{number} USING net WITH patch=32 stride=32 score=log_odds"

            def to_map(text: str = text) -> None:
                run_id = visitor.finished(text)["outcome"]["run_id"]
                visitor.bytes(f"/api/runs/{run_id}/maps/first/planes")

            coarse.append(timed(to_map))
        first = []
        for number in range(6, 11):
            text = f"EXPLAIN OCCLUDE picture_{number} USING net WITH patch=32 stride=32 score=log_odds"
            job_id, took_ms = visitor.first_cells(text)
            first.append(took_ms)
            visitor.finished(text, job_id)
        image = visitor.ask("/api/images?words=picture_0")["images"][0]["image_id"]
        hand: dict[str, Any] = {}
        random = np.random.default_rng(0)
        for patch in patches:
            found = []
            for number in range(100):
                top, left = (int(each) for each in random.integers(0, SIDE - patch + 1, 2))
                asked = {"model": "net", "image": image, "box": [top, left, patch, patch]}
                took = timed(lambda asked=asked: visitor.bytes("/api/probe", asked))
                if number >= 40:
                    found.append(took)
            hand[str(patch)] = spread(found)
        return {"network": name, "coarse": spread(coarse), "first_cells": spread(first), "hand": hand}


def measure_lists(folder: Path) -> dict[str, Any]:
    """Measure the list of 10,000 runs, and a sheet of 200 maps, in numbers and in a browser."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 5))
    pictures = [np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8) for seed in range(200)]
    for seed, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(folder / f"small_{seed}.png")
    database = folder / "lists.duckdb"
    with obeql.connect(database) as db:
        db.create_model("net", network.eval(), size=(64, 64))
        db.create_images("small", str(folder / "small_*.png"))
        db.execute("EXPLAIN OCCLUDE small USING net WITH patch=8 stride=4 score=log_odds INTO sheet")
        for table, changed in (
            ("run_rows", "run_id + i AS run_id, NULL AS name"),
            ("run_events", "run_id + i AS run_id, entry_id + 100000 + i AS entry_id"),
        ):
            db.execute(
                f"INSERT INTO obeql_store.{table} SELECT own.* REPLACE ({changed}) "
                f"FROM obeql_store.{table} AS own, range(1, 10000) AS more(i)"
            )
        db.execute(
            "INSERT INTO obeql_store.run_maps "
            "SELECT own.* REPLACE (run_id + i AS run_id, entry_id + 900000 + i AS entry_id) "
            "FROM (FROM obeql_store.run_maps LIMIT 1) AS own, range(1, 10000) AS more(i)"
        )
        visitor = Visitor(db.ui(open_browser=False).address)
        runs = [
            timed(lambda start=start: visitor.bytes(f"/api/runs?start={start}&most=50"))
            for start in range(0, 9500, 950)
        ]
        order = urllib.request.quote("list_max(flatten(importance))")
        sheet = [timed(lambda: visitor.bytes(f"/api/runs/1/sheet?order={order}")) for _ in range(5)]
    with served(database) as (address, _):
        scroll = measure_scroll(address)
    return {"runs": spread(runs), "sheet": spread(sheet), "scroll": scroll}


def measure_scroll(address: str) -> dict[str, Any] | None:
    """Scroll a sheet of 200 maps from top to bottom in Chromium; returns the time between frames."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        return None
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - only where there is a browser

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(address)
        page.wait_for_selector("body[data-state=idle]")
        page.goto(f"{page.url.partition('?')[0]}?view=sheet&run=1")
        page.wait_for_selector("#sheet .thumb[data-drawn=map]")
        frames = page.evaluate(
            """() => new Promise(done => {
                const times = []; let last = performance.now();
                const step = now => {
                    times.push(now - last); last = now;
                    window.scrollBy(0, 24);
                    const end = window.innerHeight + window.scrollY >= document.documentElement.scrollHeight - 2;
                    if (end || times.length > 600) done(times.slice(1)); else requestAnimationFrame(step);
                };
                requestAnimationFrame(step);
            })"""
        )
        drawn = page.locator("#sheet .thumb[data-drawn=map]").count()
        browser.close()
    return {**spread(frames), "maps_drawn_meanwhile": drawn}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_pictures(folder, 11)
        found: dict[str, Any] = {"machine": machine(), "load": round(load, 1)}
        found["start"] = measure_start(folder)
        print(json.dumps({"start": found["start"]}), flush=True)
        found["networks"] = []
        for name in ("resnet18", "vgg16"):
            found["networks"].append(measure_network(folder, name, (16, 32)))
            print(json.dumps(found["networks"][-1]), flush=True)
        found |= measure_lists(folder)
        print(json.dumps({name: found[name] for name in ("runs", "sheet", "scroll")}), flush=True)
    if options.out is not None:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
