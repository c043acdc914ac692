"""Print a plan: the text of PLAN, and of PLAN ANALYZE with measured values beside the estimates.

The last stage of the planner; what it prints fits 100 columns, except statements and names that are longer.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from obeql.planner.logical.rules import CHOICES
from obeql.planner.physical.plan import DenseForward, ExplainPlan, IncrementalForward
from obeql.planner.printing.layers import layer_lines
from obeql.planner.printing.numbers import digits, plural, size
from obeql.planner.printing.operators import OperatorNode, clean_passes, operator_tree, total
from obeql.planner.proxies import PROXIES

__all__ = ["show"]

WIDTH = 100
#: Columns of the physical plan and the keys of `measured` behind them.
COLUMNS = (
    ("windows", "windows"),
    ("GMAC", "macs"),
    ("GB moved", "bytes"),
    ("seconds", "seconds"),
    ("memory", "memory"),
)
COLUMN_WIDTH = 10
#: Choices that are made only where windows may be left out.
_OF_PROXIES = ("choose_proxy", *PROXIES)
_OF_REFINEMENTS = ("choose_refinement", *_OF_PROXIES, "choose_reduced_precision")
#: Choices that concern several images or statements
_OF_SETS = ("batch_images", "share_windows")
#: choices that are left where no window runs on boxes
_OF_WHOLE_MAPS = ("choose_engine", "choose_batch", "choose_threads", "choose_layout", "skip_unchanged")
TREE_WIDTH = WIDTH - COLUMN_WIDTH * len(COLUMNS)


def show(plan: ExplainPlan, measured: Mapping[str, Any] | None = None) -> str:
    """Return the text of a plan.

    Estimates are of all images together; memory is the peak. `measured` has any of the keys windows, macs, bytes,
    seconds and memory for the whole run, `grids` with a list of such mappings, one a grid, `layers` with measured
    seconds by layer, one mapping a grid, and may have further keys, which are printed as they are.
    """
    sections = [
        _statement(plan),
        _section("Logical plan", plan.logical_text[1].splitlines()),
        _section("Rules", _rules(plan)),
        "\n".join(line.rstrip() for line in _physical(plan, measured or {})),
        _section("Layers", layer_lines(plan, (measured or {}).get("layers", ()))),
        _section("Rejected alternatives", _rejected(plan)),
        _section("Options", _options(plan)),
        _section("Measured", _further(measured or {})),
        _section("Notes", [line for note in _notes(plan) for line in _wrap(note)]),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _section(title: str, lines: Sequence[str]) -> str:
    return "\n".join([title, *(f"  {line}".rstrip() for line in lines)]) if lines else ""


def _wrap(text: str, lead: str = "") -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH - 2,
        initial_indent=lead,
        subsequent_indent=" " * len(lead),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _statement(plan: ExplainPlan) -> str:
    lines = [
        part
        for line in plan.statement.expandtabs(4).splitlines()
        for part in textwrap.wrap(
            line, WIDTH - 4, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
    ]
    width = max(WIDTH - 4, *(len(line) for line in lines))
    bar = "─" * (width + 2)
    return "\n".join([f"┌{bar}┐", *(f"│ {line:<{width}} │" for line in lines), f"└{bar}┘"])


def _rules(plan: ExplainPlan) -> list[str]:
    made = [choice.name for choice in CHOICES if choice.name not in plan.disabled]
    if not any(isinstance(engine, IncrementalForward) for engine in plan.engines):
        # Without boxes there is nothing to switch or to group.
        made = [name for name in made if name in {*_OF_WHOLE_MAPS, *_OF_SETS, *_OF_REFINEMENTS}]
    if not any(isinstance(engine, DenseForward) and not engine.channels_last for engine in plan.engines):
        made = [name for name in made if name != "choose_layout"]
    if not any(plan.refinements):
        made = [name for name in made if name not in _OF_REFINEMENTS]
    elif not any(each is not None and each.reduced is not None for each in plan.refinements):
        made = [name for name in made if name != "choose_reduced_precision"]
    offered = {p.method for each in plan.refinements if each is not None for p in each.proxies}
    used = offered | ({"choose_proxy"} if offered else set())
    made = [name for name in made if name in used or name not in _OF_PROXIES]
    if plan.together == 1:
        made = [name for name in made if name != "batch_images"]
    if not plan.also:
        made = [name for name in made if name != "share_windows"]
    return [
        line
        for title, names in (("fired", plan.fired), ("chosen", made), ("off", plan.disabled))
        for line in _wrap(", ".join(names) or "none", f"{title:<9}")
    ]


# ---- physical plan ---------------------------------------------------------------------------------------


def _physical(plan: ExplainPlan, measured: Mapping[str, Any]) -> Iterator[str]:
    n_images, n_grids = len(plan.images), len(plan.grids)
    yield _row("Physical plan", [f"{title:>{COLUMN_WIDTH}}" for title, _ in COLUMNS])
    yield from _tree(operator_tree(plan), measured.get("grids", ()), "  ", "  ")
    if plan.n_passes:
        n_passes = n_images * plan.n_passes
        yield _row(f"  Unoccluded {'pass' if n_passes == 1 else 'passes'}", _cells(clean_passes(plan)))
    if n_grids > 1 or n_images > 1 or measured:
        yield _row(f"  Total of {plural(n_images, 'image')}, {plural(n_grids, 'grid')}", _cells(total(plan)))
    if measured:
        yield _row("  measured", _cells(measured))


def _tree(node: OperatorNode, by_grid: Sequence[Mapping[str, Any]], lead: str, follow: str) -> Iterator[str]:
    """Yield an operator, what was measured of it, its details and what it takes from; `follow` begins further lines."""
    estimate = [] if node.estimate is None else _cells(node.estimate)
    yield _row(f"{lead}{node.name}  {node.parameters}", estimate)
    if node.grid is not None and node.grid < len(by_grid):
        yield _row(f"{follow}  measured", _cells(by_grid[node.grid]))
    bar = f"{follow}│    " if node.children else f"{follow}  "
    for title, text in node.details:
        yield from textwrap.wrap(text, WIDTH, initial_indent=f"{bar}{title:<12}", subsequent_indent=f"{bar}{'':<12}")
    for place, child in enumerate(node.children):
        last = place == len(node.children) - 1
        yield from _tree(child, by_grid, follow + ("└─ " if last else "├─ "), follow + ("   " if last else "│  "))


def _row(left: str, cells: Sequence[str] = ()) -> str:
    return f"{left:<{TREE_WIDTH}}{''.join(cells)}"


def _cells(values: Mapping[str, Any]) -> list[str]:
    """Return the columns as text; a value that is missing shows as a dash."""
    shown = []
    for _, key in COLUMNS:
        value = values.get(key)
        if value is None:
            text = "-"
        elif key == "windows":
            text = f"{round(value):,}"
        elif key == "memory":
            text = size(value) if value else "-"
        else:
            text = digits(value / 1e9 if key in {"macs", "bytes"} else value)
        shown.append(f"{text:>{COLUMN_WIDTH}}")
    return shown


def _rejected(plan: ExplainPlan) -> list[str]:
    lines = []
    for refusal in plan.rejected:
        seconds = "-" if refusal.cost is None else f"{digits(refusal.cost.seconds * len(plan.images))} s"
        lines.extend(_wrap(refusal.reason, f"{refusal.operator:<20}{seconds:>12}  "))
    return lines


def _options(plan: ExplainPlan) -> list[str]:
    shown = {**plan.options, "device": plan.device}
    if plan.memory_bytes is not None:
        shown["memory"] = size(plan.memory_bytes).replace(" ", "")
    if plan.approx:
        shown |= plan.approx
    return _wrap("  ".join(f"{name}={_option(value)}" for name, value in shown.items()))


def _option(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).replace(", ", ",")


def _notes(plan: ExplainPlan) -> tuple[str, ...]:
    return (f"estimates for {plan.estimated_for}", *plan.notes) if plan.estimated_for else plan.notes


def _further(measured: Mapping[str, Any]) -> list[str]:
    known = {key for _, key in COLUMNS} | {"grids", "layers"}
    rest = {key: value for key, value in measured.items() if key not in known}
    width = max((len(key) for key in rest), default=0)
    return [f"{key:<{width}}  {digits(value) if isinstance(value, float) else value}" for key, value in rest.items()]
