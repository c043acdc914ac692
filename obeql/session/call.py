"""What a statement is run with: the script it stands in, its parameters, and who is told of its progress."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from obeql.grammar import syntax
from obeql.planner import FollowingStatements
from obeql.planner.aggregates import AggregateAim
from obeql.session.parameters import Parameters

if TYPE_CHECKING:
    from obeql.executor.execution.progress import OnProgress
    from obeql.executor.operators.measured_windows import AskColumns

__all__ = ["Call"]


@dataclass(frozen=True, slots=True)
class Call:
    """What a statement is run with: the script it stands in, its parameters and the callback of its progress.

    `alone` says that the script has no other statement, `place` which of them this is, and `ahead` knows what those
    after it ask for.
    """

    text: str
    parameters: Parameters
    on_progress: OnProgress | None
    alone: bool
    place: int = 0
    ahead: FollowingStatements | None = None
    #: values of parameters that are not the user's, such as the images that the SQL around leaves of a source
    given: Mapping[syntax.Parameter, Any] = field(default_factory=dict)
    #: what a run says of itself behind the text of its statement
    note: str = ""
    #: what the SQL around it asks of each map, where a sample of the windows is to tell it, and who reads that SQL
    aggregates: AggregateAim | None = None
    ask_columns: AskColumns | None = None
    #: when its turn came, of time.perf_counter: the time of WITHIN counts from here
    began: float = field(default_factory=time.perf_counter)
