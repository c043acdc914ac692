"""The files of the page: its HTML, its style and its modules, as they lie in `obeql/web/static`."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

__all__ = ["static_file"]

_MEDIA = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


@cache
def _names() -> frozenset[str]:
    folder = files("obeql.web.static")
    return frozenset(entry.name for entry in folder.iterdir() if entry.is_file())


async def static_file(request: Request) -> Response:
    """Return a file of the page by its bare name; there are no others."""
    name = request.path_params.get("name", "index.html")
    suffix = f".{name.rpartition('.')[2]}"
    if name not in _names() or suffix not in _MEDIA:
        raise HTTPException(404, "There is no such file.")
    text = (files("obeql.web.static") / name).read_text(encoding="utf-8")
    return Response(text, media_type=f"{_MEDIA[suffix]}; charset=utf-8", headers={"cache-control": "no-cache"})
