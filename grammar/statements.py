"""The statements, all of them: the classes of `map_statements`, `catalog_statements` and `run_statements`.

Before: `obeql.grammar.parser` builds these nodes as it does those of `syntax`, by the rules of their names. After:
`scanner` knows by their words which texts are OBEQL's, `printer` writes them, the prompt completes and explains them;
`obeql.planner` binds what is planned, and `obeql.session` has a handler for each.

A statement is a rule in `obeql.lark`, a class with its `about` and its `words` in one of those modules and in the list
at its end, and a handler in the module of that name in `obeql.session`.
"""

from __future__ import annotations

from typing import TypeAlias

from obeql.grammar.catalog_statements import (
    CATALOG_STATEMENTS,
    CreateImages,
    CreateModel,
    Describe,
    Drop,
    Kind,
    ResetSetting,
    SetSetting,
    Show,
)
from obeql.grammar.map_statements import (
    MAP_STATEMENTS,
    ExplainOcclude,
    PlanPredict,
    PlanSql,
    PlanStatement,
    Predict,
    SqlStatement,
)
from obeql.grammar.run_statements import RUN_STATEMENTS, Evaluate, ExportRun, Render
from obeql.grammar.statement_node import About, StatementNode

__all__ = [
    "STATEMENTS",
    "About",
    "CreateImages",
    "CreateModel",
    "Describe",
    "Drop",
    "Evaluate",
    "ExplainOcclude",
    "ExportRun",
    "Kind",
    "PlanPredict",
    "PlanSql",
    "PlanStatement",
    "Predict",
    "Render",
    "ResetSetting",
    "SetSetting",
    "Show",
    "SqlStatement",
    "Statement",
    "StatementNode",
]

Statement: TypeAlias = StatementNode | SqlStatement

#: OBEQL's own, in the order in which help lists them.
STATEMENTS: tuple[type[StatementNode], ...] = (*MAP_STATEMENTS, *CATALOG_STATEMENTS, *RUN_STATEMENTS)
