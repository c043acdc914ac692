"""The addresses of the page: each takes a request apart, asks one of the modules below, and words the answer as JSON.

Between `access`, which has let the request through, and worker, reader and the others; a view's own data has its
addresses in a module that `views` names. What the page shows is there under /api/ as JSON, too. Functions that wait for
DuckDB or files run on threads; the event loop only passes things on.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import duckdb
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from obeql.errors import ImageError, ObeqlError, QueryTypeError, StoreError, UnknownNameError, UnsupportedError
from obeql.web.access import Access, AccessRules
from obeql.web.events import job_events
from obeql.web.map_frames import MEDIA, about_map, map_frame
from obeql.web.outcomes import error_facts
from obeql.web.page import Page
from obeql.web.reader import picture_bytes
from obeql.web.request_parts import json_body, json_text, map_address, n_rows, number
from obeql.web.statement_parts import changed
from obeql.web.statics import static_file
from obeql.web.uploads import MOST_BYTES
from obeql.web.views import VIEWS
from obeql.web.worker import BusyError, Job

__all__ = ["build_app"]

#: What may stand around an image in a form.
_FORM_BYTES = 64 * 2**10

Handler = Callable[["Request"], Awaitable[Response]]


@dataclass(frozen=True)
class _Handlers:
    """One method an address."""

    page: Page

    # ---- what there is ----------------------------------------------------------------------------------------

    async def state(self, request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self.page.state))

    async def images(self, request: Request) -> Response:
        query = request.query_params
        found = await run_in_threadpool(
            self.page.reader.images,
            query.get("set"),
            query.get("words"),
            number(query, "start", 0),
            n_rows(query, 60),
        )
        return JSONResponse(found)

    async def runs(self, request: Request) -> Response:
        query = request.query_params
        found = await run_in_threadpool(
            self.page.reader.runs,
            query.get("words") or None,
            number(query, "start", 0),
            n_rows(query, 50),
        )
        return JSONResponse(found)

    async def run(self, request: Request) -> Response:
        run_id = int(request.path_params["run_id"])
        return JSONResponse(await run_in_threadpool(self.page.run_facts, run_id))

    # ---- maps and pictures ------------------------------------------------------------------------------------

    async def map_facts(self, request: Request) -> Response:
        heat = await run_in_threadpool(self.page.reader.heat, *map_address(request))
        return JSONResponse(about_map(heat))

    async def map_planes(self, request: Request) -> Response:
        heat = await run_in_threadpool(self.page.reader.heat, *map_address(request))
        return Response(await run_in_threadpool(map_frame, heat), media_type=MEDIA)

    async def map_file(self, request: Request) -> Response:
        run_id, key = map_address(request)
        form = request.path_params["form"]
        content, media = await run_in_threadpool(self.page.downloads.of_map, run_id, key, form, request.query_params)
        name = f"run_{run_id}_{'map' if key is None else key[0]}.{form}"
        return Response(content, media_type=media, headers={"content-disposition": f'attachment; filename="{name}"'})

    async def run_report(self, request: Request) -> Response:
        run_id = int(request.path_params["run_id"])
        content = await run_in_threadpool(self.page.downloads.report, run_id)
        headers = {"content-disposition": f'attachment; filename="run_{run_id}.html"'}
        return Response(content, media_type="text/html", headers=headers)

    async def picture(self, request: Request) -> Response:
        longest = min(2048, max(16, number(request.query_params, "size", 768)))
        content, media = await run_in_threadpool(
            self.page.reader.picture, int(request.path_params["image_id"]), longest
        )
        return Response(content, media_type=media, headers={"cache-control": "private, max-age=600"})

    # ---- statements -------------------------------------------------------------------------------------------

    async def jobs(self, request: Request) -> Response:
        if request.method == "GET":
            return JSONResponse({"jobs": [job.facts() for job in self.page.worker.jobs()]})
        body = await json_body(request)
        job = self.page.worker.submit(json_text(body, "text"))
        return JSONResponse(job.facts(), 201)

    async def job(self, request: Request) -> Response:
        return JSONResponse(self._job(request).facts())

    async def job_stop(self, request: Request) -> Response:
        job = self._job(request)
        await run_in_threadpool(self.page.worker.stop, job)
        return JSONResponse(job.facts())

    async def job_events(self, request: Request) -> Response:
        job = self._job(request)
        seen = request.headers.get("last-event-id", request.query_params.get("seen", "0"))
        events = job_events(job, self.page.changes, int(seen) if seen.isdigit() else 0)
        return StreamingResponse(events, media_type="text/event-stream")

    async def job_map(self, request: Request) -> Response:
        live = self._job(request).live.map
        return Response(status_code=204) if live is None else Response(live, media_type=MEDIA)

    async def job_picture(self, request: Request) -> Response:
        picture = self._job(request).live.picture
        if picture is None:
            raise HTTPException(404, "There is no picture yet.")
        content, media = await run_in_threadpool(picture_bytes, picture[1], 1024)
        return Response(content, media_type=media)

    def _job(self, request: Request) -> Job:
        job = self.page.worker.job(int(request.path_params["job_id"]))
        if job is None:
            raise UnknownNameError("That statement is not known to this server.")
        return job

    async def editor(self, request: Request) -> Response:
        body = await json_body(request)
        cursor = body.get("cursor")
        names = await run_in_threadpool(self.page.names)
        from obeql.web.editing import editor_facts  # noqa: PLC0415 - the prompt's modules are loaded behind the page

        return JSONResponse(editor_facts(json_text(body, "text"), cursor if isinstance(cursor, int) else None, names))

    async def statement(self, request: Request) -> Response:
        body = await json_body(request)
        changes = body.get("changes")
        if not isinstance(changes, dict):
            raise QueryTypeError("changes is an object of parts.")
        return JSONResponse(changed(json_text(body, "text"), changes))

    async def plan(self, request: Request) -> Response:
        text = json_text(await json_body(request), "text")
        return JSONResponse(await self.page.plan(text))

    # ---- one image before one model ---------------------------------------------------------------------------

    async def upload(self, request: Request) -> Response:
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) > MOST_BYTES + _FORM_BYTES:
            raise ImageError(f"the file has more than {MOST_BYTES // 2**20} MB, which is the most that the page takes")
        if not length.isdigit():
            raise ImageError("an upload says how long it is")
        async with request.form(max_files=1, max_fields=4) as form:
            file = form.get("file")
            if file is None or isinstance(file, str):
                raise ImageError("no file was sent")
            content, name = await file.read(), file.filename or ""
        return JSONResponse(await run_in_threadpool(self.page.take_image, content, name), 201)

    async def probe(self, request: Request) -> Response:
        body = await json_body(request)
        return JSONResponse(await self.page.probe(body))


def build_app(page: Page, rules: AccessRules) -> Starlette:
    """Return the application of a page; requests that `rules` do not let through get no further."""

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        page.changes.begin()
        yield

    at = _Handlers(page)
    routes: list[BaseRoute] = [
        Route("/", static_file),
        Route("/static/{name:path}", static_file),
        Route("/api/state", at.state),
        Route("/api/images", at.images, methods=["GET"]),
        Route("/api/images", at.upload, methods=["POST"]),
        Route("/api/images/{image_id:int}/picture", at.picture),
        Route("/api/runs", at.runs),
        Route("/api/runs/{run_id:int}", at.run),
        Route("/api/runs/{run_id:int}/report.html", at.run_report),
        Route("/api/runs/{run_id:int}/maps/{key}", at.map_facts),
        Route("/api/runs/{run_id:int}/maps/{key}/planes", at.map_planes),
        Route("/api/runs/{run_id:int}/maps/{key}/file.{form}", at.map_file),
        Route("/api/jobs", at.jobs, methods=["GET", "POST"]),
        Route("/api/jobs/{job_id:int}", at.job),
        Route("/api/jobs/{job_id:int}/stop", at.job_stop, methods=["POST"]),
        Route("/api/jobs/{job_id:int}/events", at.job_events),
        Route("/api/jobs/{job_id:int}/map", at.job_map),
        Route("/api/jobs/{job_id:int}/picture", at.job_picture),
        Route("/api/editor", at.editor, methods=["POST"]),
        Route("/api/statement", at.statement, methods=["POST"]),
        Route("/api/plan", at.plan, methods=["POST"]),
        Route("/api/probe", at.probe, methods=["POST"]),
        *(route for view in VIEWS if view.routes is not None for route in view.routes(page)),
    ]
    handlers: Any = {ObeqlError: _on_error, duckdb.Error: _on_error, HTTPException: _on_http, Exception: _on_error}
    return Starlette(
        routes=routes, lifespan=lifespan, exception_handlers=handlers, middleware=[Middleware(Access, rules=rules)]
    )


# ---- errors ----------------------------------------------------------------------------------------------------

_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (BusyError, 409),
    (UnknownNameError, 404),
    (UnsupportedError, 403),
    (StoreError, 409),
)


def _on_error(request: Request, error: Exception) -> Response:
    status = next((number for kind, number in _STATUS if isinstance(error, kind)), 400)
    facts = error_facts(error)
    if facts["family"] == "InternalError":
        status = 500
    return JSONResponse(facts, status)


def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"kind": "error", "error": error.detail, "family": "Request"}, error.status_code)
