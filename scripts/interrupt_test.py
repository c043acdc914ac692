"""Press Ctrl-C at random moments of a statement at the prompt, and measure how long it takes until the prompt is back.

    python scripts/interrupt_test.py --presses 50 --model data/tumour/vgg16.onnx --image data/mri/Te-gl_0010.jpg

`obeql` runs in a pseudo-terminal, so that keys arrive as a person's do. Each round types a statement that takes long,
presses Ctrl-C after a random time, and waits for the prompt; then a SELECT has to answer, which shows that the session
is whole. Some rounds start a new process first, whose first statement imports PyTorch, loads the network and, on a
fresh database, measures the device. Prints one line of JSON; the exit code is 1 where a press took longer than --limit
or broke the session.
"""

from __future__ import annotations

import argparse
import json
import os
import pty
import random
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

#: The prompt with nothing typed behind it.
PROMPT = r"obeql> [\s\x08]*$"
#: Statements that take long.
STATEMENTS = {
    "exact": "EXPLAIN OCCLUDE '{image}' USING net WITH patch=16 stride=4 NO REUSE;",
    "approx": "EXPLAIN OCCLUDE '{image}' USING net WITH patch=16 stride=4 APPROX 0.9 NO REUSE;",
    "kept": "EXPLAIN OCCLUDE '{image}' USING net WITH patch=16 stride=4;",
}
WAIT_S = 120.0


def main() -> int:
    """Press as often as asked, print what was measured, and return the exit code."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--presses", type=int, default=50)
    options.add_argument("--model", required=True, help="a model's uri; a large one, or there is nothing to interrupt")
    options.add_argument("--with", dest="model_options", default="", help="options of the model, such as size=224")
    options.add_argument("--image", required=True, help="an image")
    options.add_argument("--most-seconds", type=float, default=30.0, help="latest moment of a press")
    options.add_argument("--limit", type=float, default=1.0, help="seconds that a press may take")
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = Trial(given, Path(folder)).run()
    print(json.dumps(report))
    return 1 if report["problems"] or report["worst_s"] > given.limit else 0


class Terminal:
    """`obeql` in a pseudo-terminal."""

    def __init__(self, file: Path) -> None:
        self.process, self.screen = pty.fork()
        if self.process == 0:
            environment = dict(os.environ, TERM="xterm-256color", COLUMNS="120", LINES="40", OBEQL_DEBUG="")
            environment["XDG_STATE_HOME"] = str(file.parent)
            command = [sys.executable, "-m", "obeql", str(file), "--allow-python"]
            os.execvpe(sys.executable, command, environment)
        self.text = ""

    def type(self, text: str) -> None:
        """Type a text and press Enter."""
        os.write(self.screen, text.encode() + b"\r")

    def press_ctrl_c(self) -> None:
        """Press Ctrl-C: the terminal makes a signal of it while a statement runs."""
        os.write(self.screen, b"\x03")

    def wait_for(self, wanted: str, seconds: float) -> float:
        """Read the screen until the pattern is there; returns the seconds it took, infinity where it never came."""
        began = time.perf_counter()
        self.text = ""
        while (left := seconds - (time.perf_counter() - began)) > 0:
            self._read(min(left, 0.05))
            if re.search(wanted, self.text):
                taken = time.perf_counter() - began
                self._read(0.03)  # what looks like the end may go on
                if re.search(wanted, self.text):
                    return taken
        return float("inf")

    def run_for(self, seconds: float) -> bool:
        """Read the screen for some time; returns whether the prompt came back meanwhile."""
        return self.wait_for(PROMPT, seconds) < seconds

    def end(self) -> None:
        """End the process, however it is."""
        os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        os.close(self.screen)

    def _read(self, seconds: float) -> None:
        if select.select([self.screen], [], [], seconds)[0]:
            data = os.read(self.screen, 65536)
            if b"\x1b[6n" in data:  # the prompt asks where the cursor is
                os.write(self.screen, b"\x1b[1;1R")
            self.text += re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[=>]", "", data.decode(errors="replace"))


class Trial:
    """One series of presses."""

    def __init__(self, given: argparse.Namespace, folder: Path) -> None:
        self.given = given
        self.folder = folder
        self.chance = random.Random(given.seed)
        self.problems: list[str] = []
        self.taken: list[tuple[float, str]] = []
        self.n_files = 0
        self.image = str(Path(given.image).resolve())

    def run(self) -> dict[str, Any]:
        """Press until there are enough presses that hit a running statement."""
        terminal: Terminal | None = None
        while len(self.taken) < self.given.presses:
            fresh_file = terminal is None or self.chance.random() < 0.25
            fresh_process = fresh_file or self.chance.random() < 0.25
            if fresh_process and terminal is not None:
                terminal.end()
                terminal = None
            terminal = terminal or self._open(fresh_file)
            if not self._press(terminal, "fresh file" if fresh_file else "fresh" if fresh_process else "warm"):
                terminal.end()
                terminal = None
        if terminal is not None:
            terminal.end()
        seconds = sorted(taken for taken, _ in self.taken)
        slow = sorted(((round(taken, 2), when) for taken, when in self.taken), reverse=True)[:8]
        return {
            "presses": len(seconds),
            "median_s": round(seconds[len(seconds) // 2], 3),
            "p90_s": round(seconds[int(len(seconds) * 0.9)], 3),
            "worst_s": round(seconds[-1], 3),
            "slowest": slow,
            "problems": self.problems,
        }

    def _open(self, fresh_file: bool) -> Terminal:
        if fresh_file:
            self.n_files += 1
            self._prepare(self.folder / f"{self.n_files}.duckdb")
        terminal = Terminal(self.folder / f"{self.n_files}.duckdb")
        terminal.wait_for(PROMPT, WAIT_S)
        return terminal

    def _press(self, terminal: Terminal, how: str) -> bool:
        """One round; returns whether the terminal is fit for another."""
        name, statement = self.chance.choice(list(STATEMENTS.items()))
        moment = self.given.most_seconds * self.chance.random() ** 2  # more often at the beginning, where much happens
        terminal.type(statement.format(image=self.image))
        if terminal.run_for(moment):
            return True  # it was done before
        terminal.press_ctrl_c()
        taken = terminal.wait_for(PROMPT, WAIT_S)
        when = f"{how}, {name} after {moment:.2f} s"
        said = terminal.text
        self.taken.append((taken, when))
        print(f"{taken:.3f} s: {when}", file=sys.stderr, flush=True)
        if "rror" in said or "Traceback" in said:
            self.problems.append(f"{when}: {said.strip()[-300:]}")
        terminal.type("SELECT 6 * 7 AS answer;")
        if terminal.wait_for("42", 60.0) == float("inf") or "rror" in terminal.text:
            self.problems.append(f"{when}: the session does not answer: {terminal.text.strip()[-300:]}")
            return False
        terminal.run_for(0.3)
        if self.chance.random() < 0.2:  # not only the database answers
            terminal.type(f"PREDICT '{self.image}' USING net;")
            if terminal.wait_for(PROMPT, WAIT_S) == float("inf") or "rror" in terminal.text:
                self.problems.append(f"{when}: the network does not answer: {terminal.text.strip()[-300:]}")
                return False
            terminal.run_for(0.3)
        return True

    def _prepare(self, file: Path) -> None:
        create = f"CREATE MODEL net FROM '{self.given.model}'"
        create += f" WITH {self.given.model_options}" if self.given.model_options else ""
        subprocess.run(
            [sys.executable, "-m", "obeql", str(file), "--allow-python", "-c", create], check=True, capture_output=True
        )


if __name__ == "__main__":
    sys.exit(main())
