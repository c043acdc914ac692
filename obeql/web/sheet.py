"""The maps of a run as a sheet: sorted and filtered by any SQL expression over a row of `heatmaps`.

Beside `reader`; the page shows the query that is built here, to be taken to the SQL tab, a prompt or a script.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from obeql.web.reading_sql import require_reading
from obeql.web.request_parts import n_rows, number

if TYPE_CHECKING:
    from obeql.web.page import Page
    from obeql.web.reader import Reader

__all__ = ["PRESETS", "SheetQuery", "routes", "sheet_facts"]

#: What people ask of the maps of a run, in SQL over a row of `heatmaps`.
PRESETS: tuple[tuple[str, str], ...] = (
    ("strongest window", "list_max(flatten(importance))"),
    ("windows that flip the class", "len(list_filter(flatten(top_class), lambda c: c >= 0 AND c <> clean_top_class))"),
    (
        "share of evidence outside the middle half",
        "1 - list_sum(list_transform(flatten(list_transform(importance[rows // 4 + 1 : rows - rows // 4], "
        "lambda r: r[cols // 4 + 1 : cols - cols // 4])), lambda v: greatest(v, 0))) / "
        "nullif(list_sum(list_transform(flatten(importance), lambda v: greatest(v, 0))), 0)",
    ),
    ("score of the whole image", "clean_score"),
    ("stated bound", "bound"),
)


def routes(page: Page) -> list[BaseRoute]:
    """Return the address of the view: the maps of a run, some of them at a time."""

    async def maps(request: Request) -> Response:
        query = request.query_params
        asked = SheetQuery(
            int(request.path_params["run_id"]),
            query.get("order", ""),
            query.get("where", ""),
            query.get("ascending") == "true",
        )
        start, most = number(query, "start", 0), n_rows(query, 200)
        return JSONResponse(await run_in_threadpool(sheet_facts, page.reader, asked, start, most))

    return [Route("/api/runs/{run_id:int}/sheet", maps)]


@dataclass(frozen=True, slots=True)
class SheetQuery:
    """What a sheet asks: the maps of a run where `where` holds, by `order`, the largest first unless `ascending`."""

    run_id: int
    order: str = ""
    where: str = ""
    ascending: bool = False

    @property
    def sql(self) -> str:
        """Return the query, without its LIMIT."""
        value = f",\n       ({self.order}) AS value" if self.order.strip() else ", NULL AS value"
        condition = f"\n  AND ({self.where})" if self.where.strip() else ""
        direction = "ASC" if self.ascending else "DESC"
        by = f"value {direction} NULLS LAST, map_id" if self.order.strip() else "map_id"
        return (
            f"SELECT map_id, image_id, name, label, class_name, clean_score{value}\n"
            f"FROM heatmaps\nWHERE run_id = {int(self.run_id)}{condition}\nORDER BY {by}"
        )


def sheet_facts(reader: Reader, query: SheetQuery, start: int, most: int) -> dict[str, Any]:
    """Return some maps of a sheet, how many there are, and the SQL. Raises UnsupportedError, and errors of DuckDB."""
    cursor = reader.cursor()
    try:
        # Asked as written first: what stands in the parts must not reach beyond their parentheses.
        for part in (query.order, query.where):
            if part.strip():
                require_reading(cursor, f"SELECT ({part}\n) FROM heatmaps")
        require_reading(cursor, query.sql)
        # One reading of the maps, however many pages: the value is worked out for all of them anyway.
        found = cursor.execute(
            f"SELECT *, count(*) OVER () AS total FROM ({query.sql}) LIMIT {int(most)} OFFSET {int(start)}"
        )
        rows = found.fetchall()
    finally:
        cursor.close()
    maps = [
        {
            "key": f"{map_id}-{image_id}",
            "image_id": image_id,
            "name": name,
            "label": label,
            "class_name": class_name,
            "clean_score": clean_score,
            "value": value if value is None or isinstance(value, (int, float, str)) else str(value),
        }
        for map_id, image_id, name, label, class_name, clean_score, value, _ in rows
    ]
    return {"sql": query.sql, "maps": maps, "total": rows[0][-1] if rows else 0, "start": start}
