"""Whole statements through a session: approximate maps, two at once, and too little memory."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import torch

import obeql
from benchmarks.gpu.setting import Setting
from benchmarks.networks import network
from obeql.executor.devices import device_of
from obeql.executor.operators.dense_forward import DenseRun
from obeql.executor.operators.incremental_forward import IncrementalRun

__all__ = ["approximate", "out_of_memory", "side_by_side"]


def approximate(setting: Setting) -> None:
    """Write exact and APPROX 0.9 maps of three images: seconds of each, and the bound that was stated."""
    with _session(setting) as db:
        for seed in range(1 if setting.quick else 3):
            image = _image(setting, seed)
            exact, exact_s = _timed(db, setting, image, "EXACT")
            approx, approx_s = _timed(db, setting, image, "APPROX 0.9")
            error = float(np.nanmax(np.abs(exact.scores - approx.scores)))
            setting.write(exact_s=exact_s, approx_s=approx_s, largest_difference=error, repr=repr(approx))


def side_by_side(setting: Setting) -> None:
    """Write whether two statements in two threads give the maps that each gives alone."""
    with _session(setting) as db:
        images = [_image(setting, seed) for seed in range(2)]
        alone = [_timed(db, setting, image, "NO REUSE") for image in images]
        found: list[Any] = [None, None]

        def explain(place: int) -> None:
            with _session(setting) as own:
                found[place] = _timed(own, setting, images[place], "NO REUSE")

        started = time.perf_counter()
        threads = [threading.Thread(target=explain, args=(place,)) for place in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        together_s = time.perf_counter() - started
        errors = [float(np.abs(a[0].scores - b[0].scores).max()) for a, b in zip(alone, found, strict=True)]
        setting.write(alone_s=[s for _, s in alone], together_s=together_s, errors=errors, passed=max(errors) < 1e-5)


def out_of_memory(setting: Setting) -> None:
    """Write how often batches were halved where the device has little memory, and whether the map stayed the same."""
    retries = []
    usual = {operator: operator.run for operator in (IncrementalRun, DenseRun)}

    def run(self: Any, *args: Any) -> None:
        retries.append(self.engine.batch)
        if setting.device.type == "cpu" and len(retries) == 1:
            raise torch.OutOfMemoryError("out of memory, as a GPU says it")
        usual[type(self)](self, *args)

    with _session(setting) as db:
        image = _image(setting, 0)
        wanted, _ = _timed(db, setting, image, "NO REUSE")
        if setting.device.type == "cuda":
            total = torch.cuda.get_device_properties(setting.device).total_memory
            torch.cuda.empty_cache()
            used = torch.cuda.memory_allocated(setting.device)
            torch.cuda.set_per_process_memory_fraction(min(1.0, (used + 0.6e9) / total), setting.device)
        _replace_run(dict.fromkeys(usual, run))
        try:
            found, seconds = _timed(db, setting, image, "NO REUSE")
        finally:
            _replace_run(usual)
            if setting.device.type == "cuda":
                torch.cuda.set_per_process_memory_fraction(1.0, setting.device)
        error = float(np.abs(wanted.scores - found.scores).max())
        setting.write(batches=retries, error=error, seconds=seconds, passed=error < 1e-4 and len(retries) > 1)


def _replace_run(runs: dict[Any, Any]) -> None:
    for operator, run in runs.items():
        operator.run = run


def _session(setting: Setting) -> Any:
    db = obeql.connect()
    size = setting.size("resnet18")
    module = network("squeezenet1_1" if setting.quick else "resnet18")
    db.create_model("net", module, size=(size, size), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    db.execute("SET obeql.progress = false")
    return db


def _image(setting: Setting, seed: int) -> Any:
    size = setting.size("resnet18")
    smooth = np.random.default_rng(seed).random((1, 3, 6, 6), np.float32)
    pixels = torch.nn.functional.interpolate(torch.from_numpy(smooth), (size, size), mode="bicubic").clamp(0, 1)
    return (pixels[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)


def _timed(db: Any, setting: Setting, image: Any, clause: str) -> tuple[Any, float]:
    stride = 16 if setting.quick else 4
    device_of(setting.device).synchronize()
    started = time.perf_counter()
    statement = f"EXPLAIN OCCLUDE ? USING net WITH patch=16 stride={stride} score=log_odds {clause} ON {setting.device}"
    heat = db.execute(statement, [image])[0]
    return heat, time.perf_counter() - started
