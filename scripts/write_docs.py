"""Write the generated parts of docs/: tables of options, commands, operators, rules and layers, and the grammar.

A part stands between `<!-- generated: name -->` and `<!-- end -->`. A test compares what is there with the code.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable
from importlib.resources import files
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table of Markdown."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def options() -> str:
    from obeql.cli import parser

    rows = []
    for action in parser()._actions:
        written = ", ".join(action.option_strings) or f"{action.dest}"
        takes = f" {action.metavar or '|'.join(map(str, action.choices or ()))}".rstrip()
        rows.append((f"`{written}{takes}`", action.help or ""))
    return table(("option", "does"), rows)


def commands() -> str:
    from obeql.repl.commands import COMMANDS

    return table(("command", "does"), [(f"`{each.usage}`", each.does) for each in COMMANDS.values()])


def operators() -> str:
    from obeql.planner.physical import OPERATORS

    rows = [(f"`{each.name}`", each.does, "yes" if each.exact else "no") for each in OPERATORS]
    return table(("operator", "does", "exact"), rows)


def rules() -> str:
    from obeql.planner.rules import CHOICES, RULES

    rows = [(f"`{rule.__name__}`", _first(rule), "the plan as it was") for rule in RULES]
    rows += [(f"`{choice.name}`", choice.does, choice.without) for choice in CHOICES]
    return table(("rule", "does", "without it"), rows)


def layers() -> str:
    from obeql.executor.network.layers import LAYERS

    return table(("layer", "reach", "is"), [(f"`{each.kind}`", each.reach, _first(each)) for each in LAYERS])


def aten() -> str:
    from obeql.executor.network.lowering_rules import RULES

    return ", ".join(f"`{name}`" for name in sorted(RULES)) + "."


def grammar() -> str:
    text = (files("obeql.grammar") / "obeql.lark").read_text(encoding="utf-8")
    return f"```text\n{text.split('// ---- terminals')[0].strip()}\n```"


PARTS: dict[str, Callable[[], str]] = {
    part.__name__: part for part in (options, commands, operators, rules, layers, aten, grammar)
}


def _first(documented: object) -> str:
    return re.split(r"(?<=\.)\s|\n\n", (documented.__doc__ or "").strip())[0].replace("\n", " ").rstrip(".")


def written(text: str) -> str:
    """The text of a page with its generated parts as the code has them now."""

    def part(match: re.Match[str]) -> str:
        return f"{match[1]}\n\n{PARTS[match[2]]()}\n\n<!-- end -->"

    return re.sub(r"(<!-- generated: (\w+) -->).*?<!-- end -->", part, text, flags=re.DOTALL)


def main() -> None:
    """Write every page anew."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    for page in sorted(DOCS.rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        if written(text) != text:
            page.write_text(written(text), encoding="utf-8")
            print(f"{page.relative_to(DOCS)} written")


if __name__ == "__main__":
    main()
