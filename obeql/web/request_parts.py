"""A request taken apart: its JSON, its numbers, the map that it names.

For `app` and for the routes of the views; what is wrong is said as errors of the tree, which `app` words as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request

from obeql.errors import QueryTypeError, UnknownNameError
from obeql.web.reader import MapKey

__all__ = ["json_body", "json_text", "map_address", "map_of", "n_rows", "number"]

#: Longest body of a request that is no image.
_MOST_BODY = 2 * 2**20


async def json_body(request: Request) -> dict[str, Any]:
    """Return the JSON object that is sent. Raises QueryTypeError for anything else."""
    content = b""
    async for part in request.stream():
        content += part
        if len(content) > _MOST_BODY:
            raise QueryTypeError(f"A statement has at most {_MOST_BODY // 2**20} MB.")
    try:
        sent = json.loads(content)
    except ValueError:
        raise QueryTypeError("The body is no JSON.") from None
    if not isinstance(sent, dict):
        raise QueryTypeError("The body is no JSON object.")
    return sent


def json_text(sent: Mapping[str, Any], name: str) -> str:
    """Return a text of a JSON object. Raises QueryTypeError for anything else."""
    value = sent.get(name)
    if not isinstance(value, str):
        raise QueryTypeError(f"{name} is a text.")
    return value


def number(query: Mapping[str, str], name: str, otherwise: int) -> int:
    """Return a number of the address, or `otherwise`."""
    value = str(query.get(name, ""))
    return int(value) if value.isdigit() and len(value) < 10 else otherwise


def n_rows(query: Mapping[str, str], otherwise: int) -> int:
    """Return how many rows are asked for, 1 to 1000."""
    return min(1000, max(1, number(query, "most", otherwise)))


def map_address(request: Request) -> tuple[int, MapKey | None]:
    """Return the run and the key of the map that a path names."""
    return int(request.path_params["run_id"]), _key(request.path_params["key"])


def map_of(address: str) -> tuple[int, MapKey | None]:
    """Return the run and the key of `7/12-3`, or of `7`, whose first map is meant."""
    run, _, key = address.partition("/")
    if not run.isdigit():
        raise UnknownNameError(f"There is no map {address!r}.")
    return int(run), _key(key or "first")


def _key(text: str) -> MapKey | None:
    map_id, _, image_id = text.partition("-")
    if text == "first":
        return None
    if not (map_id.isdigit() and image_id.isdigit()):
        raise UnknownNameError(f"There is no map {text!r}.")
    return int(map_id), int(image_id)
