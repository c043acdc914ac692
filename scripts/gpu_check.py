"""Prove the engine on a device, in one command: exactness, speed, launches, memory, whole statements.

    python scripts/gpu_check.py                          everything, on the first GPU
    python scripts/gpu_check.py --device cpu --quick     the same steps on a CPU, small: under a minute
    python scripts/gpu_check.py --table FILE             what a file of results says, as tables

Every step runs in a process of its own with its own time limit and appends a line of JSON a row to --out as it goes
on: a crash or a time-out loses nothing of before. `make gpu-kit` collects what a machine without a network needs.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # last, so that an installed wheel comes before the source folder obeql/


@dataclass(frozen=True)
class Step:
    """A function `module:name` of benchmarks.gpu, or one here; `seconds` is its limit, shorter with --quick."""

    name: str
    function: str
    seconds: int
    asks: str


#: in the order of what is worth most where time is short
STEPS = (
    Step("doctor", "doctor", 60, "what the installation says of itself"),
    Step("tests", "gpu_tests", 120, "the tests marked gpu"),
    Step("exactness", "exactness:run", 150, "operators against plain inference in float64"),
    Step("rates", "speed:rates", 90, "measured rates and the plan that follows"),
    Step("speed", "speed:whole_grids", 240, "whole grids against the best naive batch"),
    Step("few_windows", "speed:few_windows", 90, "16 windows against the best naive batch"),
    Step("launches", "launches:run", 60, "calls a batch, and the time they explain"),
    Step("graphs", "launches:graphs", 40, "what CUDA graphs would save"),
    Step("memory", "statements:out_of_memory", 60, "too little memory"),
    Step("side_by_side", "statements:side_by_side", 60, "two statements at once"),
    Step("approx", "statements:approximate", 90, "APPROX 0.9 against exact maps"),
    Step("compiled", "speed:compiled", 120, "torch.compile of the naive batch"),
)
_QUICK_SECONDS = 120


def main() -> int:
    """Run the steps one after the other; 1 where a row says that it did not pass, or a step ended badly."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--device", default="cuda")
    options.add_argument("--quick", action="store_true", help="small sizes, one or two networks")
    options.add_argument("--out", type=Path, default=ROOT / "build" / "gpu-check.jsonl")
    options.add_argument("--steps", nargs="+", choices=[step.name for step in STEPS], metavar="STEP")
    options.add_argument("--seconds", type=float, default=540, help="after which no further step begins")
    options.add_argument("--table", type=Path, metavar="FILE")
    given = options.parse_args()
    if given.table is not None:
        print(tables(given.table))
        return 0
    given.out.parent.mkdir(parents=True, exist_ok=True)
    _append(given.out, step="machine", **_machine(given.device))
    started = time.perf_counter()
    for step in STEPS:
        if given.steps is None or step.name in given.steps:
            left = given.seconds - (time.perf_counter() - started)
            _run(step, given, left)
    rows = _rows(given.out)
    bad = [row for row in rows if row.get("passed") is False]
    for row in bad:
        print("NOT PASSED:", json.dumps(row))
    print(f"{len(rows)} rows in {given.out}; {len(bad)} not passed")
    return int(bool(bad))


def _run(step: Step, given: argparse.Namespace, left: float) -> None:
    """Run one step in its own process; what goes wrong becomes a row."""
    if left < 10:
        _append(given.out, step=step.name, skipped="no time was left")
        return
    limit = min(left, _QUICK_SECONDS if given.quick else step.seconds)
    began = time.perf_counter()
    with tempfile.NamedTemporaryFile("r", encoding="utf-8", errors="replace") as said:
        process = _processes().Process(target=_run_here, args=(step, given.device, given.quick, given.out, said.name))
        process.start()
        process.join(limit)
        failure = None
        if process.is_alive():
            process.kill()
            process.join()
            failure = f"not done after {limit:.0f} s"
        elif process.exitcode:
            failure = f"exit {process.exitcode}: {said.read().strip()[-1500:]}"
    seconds = round(time.perf_counter() - began, 1)
    _append(
        given.out, step=step.name, seconds=seconds, passed=failure is None, **({"failure": failure} if failure else {})
    )
    print(f"{step.name}: {seconds} s{' FAILED: ' + failure.splitlines()[-1] if failure else ''}", flush=True)


def _processes() -> multiprocessing.context.BaseContext:
    """Processes that begin with PyTorch imported, which takes longer than a quick step; no device is touched before."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.gpu.ready"])
    return context


def _run_here(step: Step, device: str, quick: bool, out: Path, said: str) -> None:
    """Run one step in this process, whose output goes into the file `said`."""
    file = os.open(said, os.O_WRONLY)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.chdir(ROOT)
    from benchmarks.gpu.setting import Setting
    from obeql.executor.devices import resolve_device

    module, _, name = step.function.rpartition(":")
    where: Any = importlib.import_module(f"benchmarks.gpu.{module}") if module else sys.modules[__name__]
    function: Callable[[Setting], None] = getattr(where, name)
    function(Setting(step.name, resolve_device(device), quick, out))


def doctor(setting: Any) -> None:
    """Write what `obeql doctor` finds."""
    done = subprocess.run([sys.executable, "-P", "-m", "obeql", "doctor"], capture_output=True, text=True, check=False)
    setting.write(passed=done.returncode == 0, said=done.stdout.splitlines())


def gpu_tests(setting: Any) -> None:
    """Write how the tests marked gpu end; where there is no GPU they are skipped."""
    # The variable is set only where a Triton kernel is to be interpreted, never on a GPU.
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [
        sys.executable,
        "-P",
        "-m",
        "pytest",
        "-q",
        "-m",
        "gpu",
        "tests/executor/test_gpu.py",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    lines = done.stdout.strip().splitlines()
    setting.write(passed=done.returncode == 0, said=lines[-1:] if done.returncode == 0 else [*lines[-40:], done.stderr])


def tables(file: Path) -> str:
    """Return the rows of a results file as a Markdown table for each step."""
    by_step: dict[str, list[dict[str, Any]]] = {}
    for row in _rows(file):
        by_step.setdefault(row.pop("step"), []).append(row)
    parts = []
    for step, rows in by_step.items():
        keys = list(dict.fromkeys(key for row in rows for key in row))
        lines = [f"### {step}", "", "| " + " | ".join(keys) + " |", "|---" * len(keys) + "|"]
        lines += ["| " + " | ".join(_shown(row.get(key, "")) for key in keys) + " |" for row in rows]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _shown(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _machine(device: str) -> dict[str, Any]:
    from benchmarks.machine import machine

    return {**machine(), "device": device, "at": time.strftime("%Y-%m-%d")}


def _append(file: Path, **row: Any) -> None:
    with file.open("a", encoding="utf-8") as out:
        out.write(json.dumps(row) + "\n")


def _rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    sys.exit(main())
