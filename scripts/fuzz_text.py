"""Feed text to the parser, the printer, the binder and the planner: a plan or a QueryError, never anything else.

    python scripts/fuzz_text.py --seconds 60                    damage statements of a corpus, token by token
    python scripts/fuzz_text.py --seconds 60 --coverage         let atheris (pip install atheris) look for new paths

What parses is printed and parsed again, which must give the same tree, and then bound and planned against a session
with one model and one set of images; SQL inside a statement runs without access to files. Prints one line of JSON; the
exit code is 1 where anything else was raised, or a text took more than ten seconds.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).parents[1] / "tests" / "golden" / "identity.sql"
_TOO_LONG_S = 10.0
_ODD = [
    "\0",
    "\ud800",
    "é",
    "İ",
    "\u200b",
    "'",
    '"',
    "$$",
    "--",
    "/*",
    "*/",
    ";",
    "(",
    ")",
    "[",
    "]",
    "?",
    "$x",
    "\n",
    "\\",
]
_NUMBERS = ["0", "-1", "1e999", "16x24", "2GB", "99999999999999999999", "0.9", ".5", "1.", "nan", "inf"]


def main() -> int:
    """Fuzz as long as asked, print what was found, and return the exit code."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=10.0)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--coverage", action="store_true")
    given = options.parse_args()
    if given.coverage:
        return _with_coverage(given.seconds, given.seed)
    report = run(given.seconds, given.seed)
    print(json.dumps(report))
    return 1 if report["problems"] else 0


def run(seconds: float, seed: int, n_texts: int | None = None) -> dict[str, Any]:
    """Try texts for so many seconds, or so many texts; returns how often each outcome came, and what was wrong."""
    chance = random.Random(seed)
    target = Target()
    pieces = _pieces()
    statements = _statements()
    outcomes: Counter[str] = Counter()
    problems: list[str] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until if n_texts is None else outcomes.total() < n_texts:
        text = _mutated(chance, statements, pieces)
        started = time.process_time()
        try:
            outcomes[target(text)] += 1
        except Exception as error:
            outcomes["problem"] += 1
            problems.append(f"{type(error).__name__}: {str(error)[:200]} for {text!r}")
        if time.process_time() - started > _TOO_LONG_S:
            problems.append(f"{time.process_time() - started:.0f} s for {text!r}")
    return {"texts": outcomes.total(), "outcomes": dict(outcomes), "problems": problems[:20]}


class Target:
    """What a text goes through; says how far it came."""

    def __init__(self) -> None:
        import numpy as np
        import torch

        import obeql

        parts = torch.nn.Conv2d(3, 2, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(200, 3)
        self.session = obeql.connect()
        self.session.create_model("net", torch.nn.Sequential(*parts).eval(), size=(12, 12), classes=["a", "b", "c"])
        self.session.create_images("scans", [np.zeros((12, 12, 3), np.uint8)])
        self.session.execute("SET enable_external_access = false; SET lock_configuration = true")

    def __call__(self, text: str) -> str:
        from obeql.errors import ObeqlError, QuerySyntaxError
        from obeql.grammar import SqlStatement, accepts, is_complete, parse_script, parse_statement, print_statement

        accepts(text)
        is_complete(text)
        try:
            trees = parse_script(text)
        except QuerySyntaxError as error:
            str(error).encode()
            return "syntax error"
        reached = "SQL"
        for tree in trees:
            again = parse_statement(print_statement(tree))
            if again != tree:
                raise AssertionError(f"printed and parsed again it is {again!r}")
            if isinstance(tree, SqlStatement):
                continue
            try:
                reached = self._planned(tree, text)
            except ObeqlError as error:
                str(error).encode()
                reached = type(error).__name__
        return reached

    def _planned(self, tree: Any, text: str) -> str:
        from obeql.grammar import statements
        from obeql.planner import Rates, bind, bind_setting, model_options, plan_explain, show

        catalog = self.session._context.catalog
        match tree:
            case statements.ExplainOcclude() | statements.PlanStatement():
                show(plan_explain(bind(tree, catalog, text), Rates()))
            case statements.Predict():
                bind(tree, catalog, text)
            case statements.CreateModel():
                model_options(tree.options, {})
            case statements.SetSetting() | statements.ResetSetting():
                bind_setting(tree)
            case _:
                return "not bound"
        return "planned"


def _statements() -> list[str]:
    lines = [line for line in CORPUS.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    # often, because the names in them exist, so that what is left of them can be planned
    return lines + 25 * [
        "EXPLAIN OCCLUDE scans USING net FOR TOP 2 WITH patch=[4, 6x5] stride=2 fill=(0, 0.5, 1) score=log_odds",
        "PLAN EXPLAIN OCCLUDE scans USING net REGION (1, 2, 8, 9) WITH patch=3 border=clip APPROX 0.9 METRIC ssim",
        "EXPLAIN OCCLUDE (SELECT image_id FROM images) USING net FOR CLASSES ('a', 2) TOP 3 CELLS WITHIN 5 SECONDS",
    ]


def _pieces() -> list[str]:
    """Tokens of the corpus, and odd ones."""
    words = {word for line in _statements() for word in line.replace(",", " , ").replace("=", " = ").split()}
    return [*sorted(words), *_ODD, *_NUMBERS, "net", "scans"]


def _mutated(chance: random.Random, statements: list[str], pieces: list[str]) -> str:
    """A statement of the corpus with one to six tokens or letters changed."""
    text = chance.choice(statements)
    if chance.random() < 0.1:
        text += "; " + chance.choice(statements)
    for _ in range(chance.randint(1, 6)):
        tokens = text.split(" ")
        at = chance.randrange(len(tokens))
        match chance.randrange(6):
            case 0:
                del tokens[at]
            case 1:
                tokens[at] = chance.choice(pieces)
            case 2:
                tokens.insert(at, chance.choice(pieces))
            case 3:
                tokens[at] = tokens[at] * chance.randint(2, 5)
            case 4:
                tokens[at], tokens[at - 1] = tokens[at - 1], tokens[at]
            case 5:
                place = chance.randrange(len(tokens[at]) + 1)
                odd = chance.choice(_ODD) if chance.random() < 0.5 else chr(chance.randrange(0x300))
                tokens[at] = tokens[at][:place] + odd + tokens[at][place + chance.randrange(2) :]
        text = " ".join(tokens) or " "
    return text


def _with_coverage(seconds: float, seed: int) -> int:
    """The same target under atheris, which prints its own report and leaves with its own exit code."""
    import atheris

    with atheris.instrument_imports(include=["obeql"]):
        target = Target()
        target("EXPLAIN OCCLUDE scans USING net")  # imports the rest
    chance = random.Random(seed)
    statements, pieces = _statements(), _pieces()

    def one(data: bytes) -> None:
        target(data.decode("utf-8", "surrogatepass" if b"\xed" in data else "replace"))

    def mutate(data: bytes, most: int, number: int) -> bytes:
        chance.seed(number)
        text = data.decode("utf-8", "replace")
        return _mutated(chance, [text, text, text, *statements], pieces).encode("utf-8", "replace")[:most]

    arguments = [sys.argv[0], f"-max_total_time={seconds:.0f}", f"-seed={seed + 1}", "-max_len=2000", "-timeout=60"]
    atheris.Setup(arguments, one, custom_mutator=mutate)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
