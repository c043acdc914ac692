"""Print the plan of SQL that has statements inside: of each statement, and of what the SQL says to it.

Comes after `plan`, which prints a single statement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from obeql.planner.physical.plan import ExplainPlan
from obeql.planner.printing.plan import show
from obeql.planner.pushdown.facts import Restriction

__all__ = ["PlannedStatement", "show_sql"]


@dataclass(frozen=True, slots=True)
class PlannedStatement:
    """A statement inside SQL, as it is written, and the plan of what the SQL leaves of it.

    PREDICT, which has no choices, has none, nor a statement of which nothing is left.
    """

    written: str
    plan: ExplainPlan | None
    restriction: Restriction = field(default_factory=Restriction)


def show_sql(planned: Sequence[PlannedStatement]) -> str:
    """Return the plans of all statements, each under its text; DuckDB runs the SQL around them afterwards."""
    count = f"{len(planned)} statement{'s' if len(planned) != 1 else ''}"
    parts = [f"SQL around {count}: {'they run' if len(planned) != 1 else 'it runs'} first, then DuckDB runs the SQL"]
    for number, each in enumerate(planned, start=1):
        lines = [f"-- {number}: {' '.join(each.written.split())}", *_pushdown(each.restriction)]
        parts.append("\n".join([*lines, "", _body(each)]))
    return "\n\n".join(parts)


def _body(planned: PlannedStatement) -> str:
    if planned.plan is not None:
        return show(planned.plan)
    if planned.restriction.is_empty:
        return "computes nothing: no row can meet the conditions"
    return "runs the network once an image"


def _pushdown(restriction: Restriction) -> list[str]:
    """Return what the SQL says to the statement: the conditions that leave something out, and those that cannot."""
    lines = [f"pushed  {rule:<24} {sql}" for rule, sql in restriction.pushed]
    return [*lines, *(f"left    {sql + ': ' if sql else ''}{why}" for sql, why in restriction.left)]
