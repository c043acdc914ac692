"""The views of the page: one table, in the order of the navigation.

Read by `app`, which serves their addresses, and told to the page at its start, which makes their elements. A view is a
module in `static`, whose contract `main.js` begins with, and a row here; where it shows data of its own, a module here
has the addresses of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.routing import BaseRoute

from obeql.web import comparing, sheet, sql_tab

if TYPE_CHECKING:
    from obeql.web.page import Page

__all__ = ["VIEWS", "View"]


@dataclass(frozen=True, slots=True)
class View:
    """A view: its name in addresses, its title, its module in `static`, and what serves its data under /api/.

    One that another leads to, and not the navigation, says which: `under`.
    """

    name: str
    title: str
    module: str
    routes: Callable[[Page], Sequence[BaseRoute]] | None = None
    under: str = ""


#: The first is what the page opens with.
VIEWS: tuple[View, ...] = (
    View("explain", "Explain", "explain.js"),
    View("runs", "Runs", "runs.js"),
    View("sheet", "Figure grid of a run", "sheet.js", sheet.routes, under="runs"),
    View("compare", "Compare", "compare.js", comparing.routes),
    View("sql", "SQL", "sqltab.js", sql_tab.routes),
)
