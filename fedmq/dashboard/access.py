"""Who may see the page: the ASGI layer in front of it that checks Host and token, and sets the security headers."""

from __future__ import annotations

import hmac
import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_COOKIE = "fedmq_dashboard"
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it.

    Example:
      >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
      (True, True, False)
    """
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def known_host(header: str, host: str) -> bool:
    """Whether a Host header is one that we are reached by. Another site's name, pointed at us, is not.

    Example:
      >>> known_host("127.0.0.1:8000", "127.0.0.1"), known_host("evil.example:8000", "127.0.0.1")
      (True, False)
    """
    try:
        name = urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return False
    return name in ("localhost", host) or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Guard:
    """Lets through who may see the page.

    Args:
      app: behind it.
      host: that is listened on.
      token: to be shown, by `?token=` once, a cookie after that, or as a bearer; None = nobody is asked.
    """

    def __init__(self, app: ASGIApp, host: str, token: str | None) -> None:
        self._app, self._host, self._token = app, host, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        refused = self._answer(Request(scope))
        await (self._app if refused is None else refused)(scope, receive, send_safely)

    def _answer(self, request: Request) -> Response | None:
        if not known_host(request.headers.get("host", ""), self._host):
            return PlainTextResponse("unknown Host header: use the address that fedmq printed\n", 421)
        if self._token is None:
            return None
        if self._is_token(request.query_params.get("token", "")):
            answer = RedirectResponse(request.url.path, 303)
            answer.set_cookie(_COOKIE, self._token, httponly=True, samesite="strict")
            return answer
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        if self._is_token(request.cookies.get(_COOKIE, "")) or (scheme.lower() == "bearer" and self._is_token(bearer)):
            return None
        return PlainTextResponse("a token is needed: open the address that fedmq printed, with its ?token=\n", 401)

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), (self._token or "").encode())
