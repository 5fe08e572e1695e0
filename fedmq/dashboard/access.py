"""Who may look at the page, and what it may do in a browser.

A page of somebody else's may send requests to any address from its visitor's browser; where its own name leads to this
machine (DNS rebinding), it could read the answers. So the Host header must name this server. And where there is a
token, nobody reads anything without it.
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """The way to an app: by a name of this server's, with the token where there is one.

    Args:
      app: what is behind it.
      host, port: where it listens.
      token: None where everybody who reaches the port may look.
    """

    def __init__(self, app: ASGIApp, host: str, port: int, token: str | None) -> None:
        self._app, self._token = app, token
        self._names = {"localhost", host.lower()}
        if not is_loopback(host):
            self._names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
        # Cookies are of a host, whatever the port: two dashboards on one must not overwrite each other's.
        self._cookie = f"fedmq_dashboard_{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        answer = self._answer(Request(scope)) or self._app
        await answer(scope, receive, send_guarded)

    def _answer(self, request: Request) -> Response | None:
        """What is said in place of the page; None lets it through."""
        if not self._is_named(request.headers.get("host", "")):
            return PlainTextResponse(
                "The Host header names another server. Open this one by its IP address, or by the name that was given "
                "with --host.\n",
                status_code=421,
            )
        if self._token is None or self._is_right(request.cookies.get(self._cookie, "")):
            return None
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_right(value):
            return None
        if request.url.path == "/" and self._is_right(request.query_params.get("token", "")):
            # Out of the address bar, of the history and of pictures of the screen.
            answer = RedirectResponse("/", status_code=303)
            answer.set_cookie(self._cookie, self._token, httponly=True, samesite="lax")
            return answer
        return PlainTextResponse(
            "This dashboard needs its token: open the address that `fedmq dashboard` printed, or send the token as "
            "`Authorization: Bearer TOKEN`.\n",
            status_code=401,
            headers={"WWW-Authenticate": "Bearer"},
        )

    def _is_named(self, host: str) -> bool:
        """By one of our names, or by an address: whoever is led astray by a name is sent with that name."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        return name in self._names or _address(name) is not None

    def _is_right(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), (self._token or "").encode())


def is_loopback(host: str) -> bool:
    """Whether it stays on this machine.

    Example:
      >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("::1"), is_loopback("0.0.0.0")
      (True, True, True, False)
    """
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
