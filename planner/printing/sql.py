"""Print the plan of SQL that has statements inside: of each statement, and of what the SQL says to it.

Comes after `plan`, which prints a single statement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from obeql.planner.physical.plan import ExplainPlan
from obeql.planner.printing.plan import show

__all__ = ["PlannedStatement", "show_sql"]


@dataclass(frozen=True, slots=True)
class PlannedStatement:
    """A statement inside SQL, as it is written, and its plan; PREDICT, which has no choices, has none."""

    written: str
    plan: ExplainPlan | None


def show_sql(planned: Sequence[PlannedStatement]) -> str:
    """Return the plans of all statements, each under its text; DuckDB runs the SQL around them afterwards."""
    count = f"{len(planned)} statement{'s' if len(planned) != 1 else ''}"
    parts = [f"SQL around {count}: {'they run' if len(planned) != 1 else 'it runs'} first, then DuckDB runs the SQL"]
    for number, each in enumerate(planned, start=1):
        body = "runs the network once an image" if each.plan is None else show(each.plan)
        parts.append(f"-- {number}: {' '.join(each.written.split())}\n{body}")
    return "\n\n".join(parts)
