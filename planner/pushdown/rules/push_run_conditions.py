"""Rule `push_run_conditions`: nothing is computed where no row of the run can be in the answer."""

from __future__ import annotations

from collections.abc import Sequence

from obeql.planner.pushdown.facts import RUN_COLUMNS, Condition, Holds, MapFacts, Restriction

__all__ = ["push_run_conditions"]


def push_run_conditions(facts: MapFacts, conditions: Sequence[Condition], holds: Holds) -> Restriction:
    """Compute nothing where a condition on `exact`, `run` or `run_id` fails for every run that this one may become.

    >>> facts = MapFacts({}, [0, 1], None, (), run_ids=[7, 8])
    >>> asked = Condition("NOT exact", frozenset(["exact"]))
    >>> push_run_conditions(facts, [asked], lambda condition, rows: []).is_empty
    True
    """
    pushed, left = [], []
    is_empty = False
    for condition in conditions:
        if condition.tables or not condition.columns or condition.columns - RUN_COLUMNS:
            continue
        if "exact" in condition.columns and facts.estimates:
            left.append((condition.sql, "which windows are computed is known when the map is done"))
            continue
        ids = facts.run_ids
        columns = {"run_id": ids, "run": [str(each) for each in ids], "exact": [True] * len(ids)}
        n_met = len(holds(condition, columns))
        if n_met not in (0, len(ids)):
            left.append((condition.sql, "the number of the run is known when it is stored"))
            continue
        is_empty = is_empty or not n_met
        pushed.append(("push_run_conditions", condition.sql))
    return Restriction(images=frozenset() if is_empty else None, pushed=tuple(pushed), left=tuple(left))
