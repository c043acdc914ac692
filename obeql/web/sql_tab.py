"""The SQL tab: a table of what a query yields, with the maps it names, or all of it as CSV.

Beside `reader`, each query on a connection of its own, so that a long one holds nobody up; it is interrupted when it
takes too long, and when the browser that asked is gone.
"""

from __future__ import annotations

import asyncio
import csv
import threading
from io import StringIO
from typing import TYPE_CHECKING, Any

import duckdb
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from obeql.errors import ExecutionError, UnsupportedError
from obeql.grammar.embedding import find_embedded
from obeql.web.outcomes import MOST_ROWS, as_json, table_facts
from obeql.web.reading_sql import require_reading
from obeql.web.request_parts import json_body, json_text

if TYPE_CHECKING:
    from obeql.web.page import Page

__all__ = ["csv_text", "routes", "run_sql"]

#: A query of the page ends after so long; a prompt has no such end.
_MOST_S = 60.0
#: Rows of a download.
_MOST_CSV = 1_000_000


def routes(page: Page) -> list[BaseRoute]:
    """Return the addresses of the view: the first rows of a query, and all of them as CSV."""

    async def rows(request: Request) -> Response:
        text = json_text(await json_body(request), "sql")
        return JSONResponse(await run_sql(page, text, request))

    async def csv_file(request: Request) -> Response:
        text = json_text(await json_body(request), "sql")
        content = await run_in_threadpool(csv_text, page, text)
        headers = {"content-disposition": 'attachment; filename="result.csv"'}
        return Response(content, media_type="text/csv; charset=utf-8", headers=headers)

    return [Route("/api/sql", rows, methods=["POST"]), Route("/api/sql.csv", csv_file, methods=["POST"])]


async def run_sql(page: Page, text: str, request: Request) -> dict[str, Any]:
    """Return the first rows of a query. Raises UnsupportedError where it does more than read."""
    cursor = await run_in_threadpool(page.reader.cursor)
    asked = asyncio.ensure_future(run_in_threadpool(_table, page, cursor, text))
    waited = 0.0
    while not asked.done():
        await asyncio.wait({asked}, timeout=0.5)
        waited += 0.5
        if not asked.done() and (waited >= _MOST_S or page.changes.closing or await request.is_disconnected()):
            cursor.interrupt()
            with_reason = waited >= _MOST_S
            await asyncio.wait({asked})
            if with_reason:
                asked.exception()
                raise ExecutionError(f"the query was stopped after {_MOST_S:g} seconds; run it in a prompt")
    return asked.result()


def csv_text(page: Page, text: str) -> str:
    """Return all rows of a query as CSV, with a header."""
    cursor = page.reader.cursor()
    timer = threading.Timer(_MOST_S, cursor.interrupt)
    timer.daemon = True
    timer.start()
    try:
        _check(page, cursor, text)
        found = cursor.execute(text)
        written = StringIO()
        writer = csv.writer(written)
        writer.writerow([column[0] for column in found.description or ()])
        writer.writerows([as_json(value) for value in row] for row in found.fetchmany(_MOST_CSV))
        return written.getvalue()
    finally:
        timer.cancel()
        cursor.close()


def _table(page: Page, cursor: duckdb.DuckDBPyConnection, text: str) -> dict[str, Any]:
    try:
        _check(page, cursor, text)
        found = cursor.execute(text)
        columns = [column[0] for column in found.description or ()]
        return {"kind": "table", **table_facts(columns, found.fetchmany(MOST_ROWS + 1))}
    finally:
        cursor.close()


def _check(page: Page, cursor: duckdb.DuckDBPyConnection, text: str) -> None:
    if next(find_embedded(text, 0, len(text)), None) is not None:
        raise UnsupportedError(
            "This tab reads what is stored; SQL with EXPLAIN OCCLUDE or PREDICT inside runs in a prompt."
        )
    if not page.allow_files:
        require_reading(cursor, text.rstrip().rstrip(";"))
