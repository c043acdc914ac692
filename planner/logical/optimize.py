"""Apply the rules to a logical plan until none changes it.

Comes after `bind`, before `lower`. After each rule that changed the plan the checker runs, so a faulty rule is named.
"""

from __future__ import annotations

from collections.abc import Sequence

from obeql.errors import InternalError
from obeql.planner.logical.check import check_plan, check_rewrite
from obeql.planner.logical.plan import LogicalNode
from obeql.planner.logical.rules import RULES, Rule

__all__ = ["MAX_PASSES", "optimize"]

#: Passes over all rules after which they are taken to go round in circles.
MAX_PASSES = 16


def optimize(
    logical: LogicalNode, disabled: frozenset[str] = frozenset(), rules: Sequence[Rule] = RULES
) -> tuple[LogicalNode, tuple[str, ...]]:
    """Return the rewritten plan and the names of the rules that changed it, in the order they first did.

    `disabled` are names of rules to leave out. Raises InternalError, naming the rule, when a rule makes an illegal
    plan, asks for other maps, or never comes to rest.
    """
    check_plan(logical, "binding")
    fired: dict[str, None] = {}
    active = [rule for rule in rules if rule.__name__ not in disabled]
    for _ in range(MAX_PASSES):
        restless = []
        for rule in active:
            rewritten = rule(logical)
            if rewritten is logical or rewritten == logical:
                continue
            check_rewrite(logical, rewritten, rule.__name__)
            logical = rewritten
            restless.append(rule.__name__)
        if not restless:
            return logical, tuple(fired)
        fired.update(dict.fromkeys(restless))
    raise InternalError(
        f"The rules {', '.join(restless)} still change the plan after {MAX_PASSES} passes. "
        "Please report this statement."
    )
