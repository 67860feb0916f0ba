"""Who may speak to the server: this machine alone, or whoever has the token; never the page of another site."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection
from http.cookies import CookieError, SimpleCookie
from urllib.parse import SplitResult, quote, unquote, urlsplit

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEADERS = {
    # Nothing is loaded from elsewhere, and no other page shows ours in a frame.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """Middleware that refuses requests before anything reads them.

    hosts: the names under which the server may be addressed, so that no other name that is made to point to this
    machine will do; any if None. token: what a client must show: as `Authorization: Bearer …`, or once as `?token=…`,
    which a browser then keeps as a cookie.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None, token: str | None) -> None:
        self._app = app
        self._hosts = hosts
        self._token = token
        # Cookies are shared by all ports of a machine: servers with other tokens have other names.
        self._cookie = f"sbm-{hashlib.sha256((token or '').encode()).hexdigest()[:8]}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if scope["type"] == "websocket":
            if refusal is None:
                await self._app(scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": 1008})  # before it is accepted: 403
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await (refusal or self._app)(scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._hosts is not None and not _is_named(host, self._hosts):
            return _error(421, f"this server does not answer to the name {host!r}.", "Use the address it printed.")
        origin = headers.get("origin")
        if origin is not None and _parts(origin).netloc != host:
            return _error(403, f"pages of {origin} may not use this server.", "Use its own page.")
        if self._token is None or self._matches(self._shown(headers)):
            return None
        if scope["type"] == "http" and scope["path"] == "/":
            given = QueryParams(scope["query_string"]).get("token", "")
            if self._matches(given):
                response = RedirectResponse("/", 303)
                # Strict, it would not be sent after a link in a mail or chat; with lax, none of their forms sends it.
                response.set_cookie(self._cookie, quote(given), httponly=True, samesite="lax")
                return response
        return _error(401, "the token is missing or wrong.", "Open the address that `sbm serve` printed.")

    def _shown(self, headers: Headers) -> str:
        kind, _, token = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return token.strip()
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(self._cookie)
        except CookieError:
            return ""
        return unquote(cookie.value) if cookie else ""

    def _matches(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), (self._token or "").encode())


def _is_named(host: str, names: Collection[str]) -> bool:
    """Whether a host is one of the names, with or without a port, and nothing else beside it."""
    parts = _parts(f"//{host}")
    return parts.hostname in names and parts.netloc == host and parts.username is None


def _parts(address: str) -> SplitResult:
    try:
        return urlsplit(address)
    except ValueError:  # half a pair of brackets
        return urlsplit("")


def _error(status: int, message: str, hint: str) -> Response:
    return JSONResponse({"error": message, "hint": hint}, status)
