"""Who may ask: the token of the address, the cookie it is traded for, Host and Origin, and what a page may load.

The outermost layer of `app`. A page of another site can make a browser send requests here; none of them gets past this
module, because the cookie is not sent with them, their Origin is another one, and a name that was bent to this machine
(DNS rebinding) is no Host of ours.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response

__all__ = ["Access", "AccessRules"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

#: The page runs its own scripts and styles and talks to its own origin: nothing else, whatever is in it.
_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


@dataclass(frozen=True)
class AccessRules:
    """The token of a server, and the address that it listens at: `host` as it was given, and its port."""

    host: str
    port: int
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))

    @property
    def cookie(self) -> str:
        """Return the name of the cookie; cookies are shared by all ports of a host, so the port is part of it."""
        return f"obeql_{self.port}"

    @property
    def address(self) -> str:
        """Return the address of the page, with the token."""
        host = "127.0.0.1" if self._everywhere else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/?token={self.token}"

    @property
    def is_local(self) -> bool:
        """Return whether this machine alone can reach the server."""
        return self.host == "localhost" or (_is_ip(self.host) and ipaddress.ip_address(self.host).is_loopback)

    @property
    def _everywhere(self) -> bool:
        return _is_ip(self.host) and ipaddress.ip_address(self.host).is_unspecified

    def knows_host(self, host: str) -> bool:
        """Return whether a Host header names this server: its own name, or where all can reach it any IP address."""
        try:
            parts = urlsplit(f"//{host}")
            name, port = parts.hostname or "", parts.port
        except ValueError:
            return False
        if port != self.port and not (port is None and self.port == 80):
            return False
        if self.is_local:
            return name == "localhost" or (_is_ip(name) and ipaddress.ip_address(name).is_loopback)
        return name == self.host.lower() or name == "localhost" or (self._everywhere and _is_ip(name))

    def knows_token(self, given: str) -> bool:
        """Return whether this is the token, taking as long for a near miss as for a far one."""
        return hmac.compare_digest(given.encode(), self.token.encode())


class Access:
    """The ASGI layer that applies `rules` before `app` sees a request, and adds what browsers are told to forbid."""

    def __init__(self, app: App, rules: AccessRules) -> None:
        self._app = app
        self._rules = rules

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refused(scope)
        await (self._app if refusal is None else refusal)(scope, receive, with_headers)

    def _refused(self, scope: Message) -> Response | None:
        """Return the answer to a request that goes no further; None lets it through."""
        headers, rules = Headers(scope=scope), self._rules
        if not rules.knows_host(headers.get("host", "")):
            return _no(scope, "This server does not answer to that name.", 421)
        origin = headers.get("origin")
        if origin is not None and origin != f"http://{headers.get('host')}":
            return _no(scope, "Requests from other sites are refused.", 403)
        if headers.get("sec-fetch-site") == "cross-site" and scope["path"] != "/":
            return _no(scope, "Requests from other sites are refused.", 403)
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        token = dict(query).get("token")
        if token is not None and scope["path"] == "/" and scope["method"] == "GET" and rules.knows_token(token):
            rest = urlencode([pair for pair in query if pair[0] != "token"])
            answer = RedirectResponse(f"/?{rest}" if rest else "/", 303)
            answer.set_cookie(rules.cookie, rules.token, httponly=True, samesite="strict", path="/")
            return answer
        given = cookie_parser(headers.get("cookie", "")).get(rules.cookie, "")
        if not rules.knows_token(given):
            return _no(scope, "Open the page by the address that obeql ui has printed: it holds the token.", 401)
        return None


def _no(scope: Message, why: str, status: int) -> Response:
    """Return a refusal in the form that is asked for: JSON under /api/, else a line for a person."""
    if not scope["path"].startswith("/api/"):
        return PlainTextResponse(why, status)
    return JSONResponse({"error": why, "kind": "Access"}, status)


def _is_ip(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
