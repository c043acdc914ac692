"""Print a plan: the text of PLAN, and of PLAN ANALYZE with measured values beside the estimates.

The last stage of the planner; what it prints fits 100 columns, except statements and names that are longer.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from obeql.planner.binding.settings import ALL_GPUS
from obeql.planner.binding.values import show_pair
from obeql.planner.geometry import Network
from obeql.planner.logical.plan import CachedCells
from obeql.planner.logical.rules import CHOICES
from obeql.planner.physical.plan import (
    Cost,
    DenseForward,
    Engine,
    ExplainPlan,
    IncrementalForward,
    ProgressiveRefine,
    PrunedTop,
    Refinement,
)
from obeql.planner.printing.layers import layer_lines

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
_OF_REFINEMENTS = ("choose_refinement", "choose_reduced_precision")
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
        _section("Refused", _refusals(plan)),
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
    where = f"run {plan.run_name!r}" if plan.run_name else "run without a name"
    yield _row(f"  Store  {where}{', replaced' if plan.run_name and plan.replace_run else ''}")
    indent = "  "
    if plan.workers:
        yield _distributed(plan, indent)
        indent += "   "
    for sharing in _sharing(plan):
        yield _row(f"{indent}└─ {sharing}")
        indent += "   "
    by_grid = measured.get("grids", ())
    held = plan.held or (None,) * n_grids
    for position, (grid, engine) in enumerate(zip(plan.grids, plan.engines, strict=True)):
        last = position == n_grids - 1
        lead, follow = indent + ("└─ " if last else "├─ "), indent + ("   " if last else "│  ")
        name = type(engine).__name__
        stored = held[position]
        n_left = n_images * grid.n_windows - (stored.n_cells if stored else 0)
        if stored is not None and stored.n_cells:
            yield from _reused(stored, n_images * grid.n_windows, lead, follow)
            lead, follow = f"{follow}└─ ", f"{follow}   "
        refinement = plan.refinements[position] if plan.refinements else None
        n_expected = n_left
        if refinement is not None:
            n_expected = round(n_left * refinement.expected_share)
            yield from _refined(refinement, n_left, n_images, lead, follow)
            indent_below = follow
            if refinement.reduced is not None:
                reduced = refinement.reduced
                n_reduced = round(n_left * reduced.share)
                lead, follow = f"{indent_below}├─ ", f"{indent_below}│  "
                estimate = _estimate(reduced.engine.cost, n_reduced, n_images)
                name_below = f"{type(reduced.engine).__name__}  in {reduced.precision}"
                yield _row(f"{lead}{name_below}", _cells(estimate))
                yield from _engine_lines(reduced.engine, plan, n_reduced, follow)
            lead, follow = f"{indent_below}└─ ", f"{indent_below}   "
        estimate = _estimate(engine.cost, n_expected, n_images)
        yield _row(f"{lead}{name}  patch {show_pair(grid.patch)}", _cells(estimate))
        if position < len(by_grid):
            yield _row(f"{follow}  measured", _cells(by_grid[position]))
        yield from _engine_lines(engine, plan, n_expected, follow)
    if plan.n_passes:
        n_passes = n_images * plan.n_passes
        yield _row(f"  Clean {'pass' if n_passes == 1 else 'passes'}", _cells(_clean_passes(plan)))
    if n_grids > 1 or n_images > 1 or measured:
        yield _row(f"  Total of {_plural(n_images, 'image')}, {_plural(n_grids, 'grid')}", _cells(_total(plan)))
    if measured:
        yield _row("  measured", _cells(measured))


def _sharing(plan: ExplainPlan) -> Iterator[str]:
    """Yield what the grids below have in common: images that go together, and the clean pass."""
    if plan.together > 1:
        yield f"BatchedImages  {plan.together} images at a time share batches"
    if plan.shared_pass:
        yield f"BatchedQueries  {len(plan.grids)} grids share one clean pass"


def _engine_lines(engine: Engine, plan: ExplainPlan, n_windows: float, follow: str) -> Iterator[str]:
    """Yield the lines below an operator that computes so many windows of all images."""
    whole = float(plan.model.network.macs) * n_windows / len(plan.images)
    for title, text in _details(engine, whole, plan.model.network):
        lead, hanging = f"{follow}  {title:<12}", f"{follow}  {'':<12}"
        yield from textwrap.wrap(text, WIDTH, initial_indent=lead, subsequent_indent=hanging)


def _row(left: str, cells: Sequence[str] = ()) -> str:
    return f"{left:<{TREE_WIDTH}}{''.join(cells)}"


def _distributed(plan: ExplainPlan, indent: str) -> str:
    """Return the line of Distribute, with the seconds that pass while the workers share the work below."""
    where = "every GPU" if plan.device == ALL_GPUS and plan.cluster is None else plan.device
    where += "" if plan.cluster is None else f", Ray at {plan.cluster}"
    seconds = plan.seconds * len(plan.images) / plan.workers
    return _row(f"{indent}└─ Distribute  {_plural(plan.workers, 'worker')} on {where}", _cells({"seconds": seconds}))


def _reused(held: CachedCells, n_asked: int, lead: str, follow: str) -> Iterator[str]:
    """Yield the lines of ReuseCells above the operator that computes the rest."""
    yield f"{lead}ReuseCells  {held.n_cells:,} of {n_asked:,} cells are stored"
    text = ", ".join(f"{run}: {n_cells:,}" for run, n_cells in held.by_run)
    title, hanging = f"{follow}│    {'from':<12}", f"{follow}│    {'':<12}"
    yield from textwrap.wrap(text, WIDTH, initial_indent=title, subsequent_indent=hanging)


def _refined(refinement: Refinement, n_left: int, n_images: int, lead: str, follow: str) -> Iterator[str]:
    """Yield the lines of ProgressiveRefine or PrunedTop above the operator that computes the windows it chooses."""
    if isinstance(refinement, PrunedTop):
        asked = f"{_plural(refinement.k, 'cell')} of largest importance, confidence {refinement.confidence:g}"
    else:
        asked = f"{refinement.metric}"
        asked += "" if refinement.target is None else f" >= {refinement.target:g}"
        asked += f", confidence {refinement.confidence:g}"
        asked += "" if refinement.within_s is None else f", within {digits(refinement.within_s)} s"
    yield f"{lead}{type(refinement).__name__}  {asked}"
    reduced = refinement.reduced
    share = refinement.expected_share if reduced is None else reduced.share
    estimating = f"{digits(refinement.overhead_s * n_images)} s of estimating"
    if isinstance(refinement, ProgressiveRefine) and refinement.target is None:
        text = "as many windows as the time allows"
    elif reduced is None:
        text = f"{ratio(1, share)} fewer windows, {estimating}"
    else:
        some = "all windows" if share >= 1 else f"{ratio(1, share)} fewer windows"
        text = f"{some}, most in {reduced.precision}, {round(n_left * refinement.expected_share):,} exact; {estimating}"
    yield f"{follow}│    {'expected':<12}{text}"


def _estimate(cost: Cost, n_windows: int, n_images: int) -> dict[str, float]:
    return {
        "windows": n_windows,
        "macs": cost.macs * n_images,
        "bytes": cost.bytes * n_images,
        "seconds": cost.seconds * n_images,
        "memory": cost.memory,
    }


def _clean_passes(plan: ExplainPlan) -> dict[str, float]:
    n_passes = len(plan.images) * plan.n_passes
    return {
        "windows": n_passes,
        "macs": float(plan.model.network.macs) * n_passes,
        "seconds": plan.pass_s * n_passes,
    }


def _total(plan: ExplainPlan) -> dict[str, float]:
    engines = [*plan.engines, *(r.reduced.engine for r in plan.refinements if r is not None and r.reduced is not None)]
    rows = [_estimate(engine.cost, 0, len(plan.images)) for engine in engines]
    total = {key: sum(row[key] for row in rows) for _, key in COLUMNS}
    if plan.n_passes:
        total |= {key: total[key] + value for key, value in _clean_passes(plan).items()}
    held = plan.held or (None,) * len(plan.grids)
    refined = plan.refinements or (None,) * len(plan.grids)
    n_computed = sum(
        round((len(plan.images) * grid.n_windows - (h.n_cells if h else 0)) * _share(r))
        for grid, h, r in zip(plan.grids, held, refined, strict=True)
    )
    return total | {"windows": n_computed, "memory": max(row["memory"] for row in rows)}


def _share(refinement: Refinement | None) -> float:
    """Share of the windows that is computed, in whichever precision; some may be in both."""
    if refinement is None:
        return 1.0
    return refinement.expected_share + (refinement.reduced.share if refinement.reduced is not None else 0.0)


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


def _details(engine: Engine, whole: float, network: Network) -> Iterator[tuple[str, str]]:
    """Yield (title, text) of what there is to know about one operator; `whole` are the MACs of plain inference."""
    if isinstance(engine, DenseForward):
        memory = "" if engine.channels_last else ", maps in plain memory"
        yield "batch", f"{_plural(engine.batch, 'window')}{_lanes(engine)}{memory}"
        if network.whole:
            yield "network", f"runs as a whole: {network.reason}"
        return
    yield "work", _work(engine, whole)
    layers = [i for i, layer in enumerate(network.layers) if layer.reach != "source"]
    boxed = [i for i in layers if engine.regions[i]]
    whole_maps = [i for i in layers if not engine.regions[i]]
    if boxed:
        yield "boxes", f"{_plural(len(boxed), 'layer')}, {_layer(network, boxed[0])} to {_layer(network, boxed[-1])}"
    if whole_maps:
        yield "whole maps", f"{_plural(len(whole_maps), 'layer')} from {_layer(network, whole_maps[0])}"
    yield "batch", f"{_plural(engine.batch, 'window')} on boxes, {engine.tail_batch} on whole maps{_lanes(engine)}"
    yield "groups", f"at most {engine.n_row_groups} x {engine.n_col_groups} sizes of boxes, rows x columns"


def _lanes(engine: Engine) -> str:
    return f", {engine.n_lanes} side by side" if engine.n_lanes > 1 else ""


def _work(engine: IncrementalForward, whole: float) -> str:
    text = f"plain inference: {digits(whole / 1e9)} GMAC an image"
    if engine.cost.macs and whole:
        text += f"; here {ratio(whole, engine.cost.macs)} less"
        if engine.bound_macs:
            text += f", at best {ratio(whole, engine.bound_macs)} less"
    return text


def _layer(network: Network, index: int) -> str:
    layer = network.layers[index]
    return f"{index} {layer.name} ({layer.kind})"


def _refusals(plan: ExplainPlan) -> list[str]:
    lines = []
    for refusal in plan.refusals:
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


# ---- numbers ---------------------------------------------------------------------------------------------


def digits(value: float) -> str:
    """Return a number with three digits that count and thousands separated: 0.0123, 1.23, 12.3, 123, 12,345."""
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    if abs(value) < 1e-3:
        return f"{value:.1e}"
    places = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{places}f}"


def size(n_bytes: float) -> str:
    """Return bytes in the decimal unit that fits: 512 B, 1.20 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{digits(n_bytes)} {unit}"
        n_bytes /= 1000
    return f"{digits(n_bytes)} TB"


def ratio(whole: float, part: float) -> str:
    """Return how many times `part` fits into `whole`, as 8.7x."""
    return f"{whole / part:.1f}x"


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
