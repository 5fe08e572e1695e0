"""The web page of a run: routes, the stream of changes, and the socket that it is served on."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from fedmq.dashboard.access import Guard
from fedmq.dashboard.watch import Watched
from fedmq.errors import ConfigError, StorageError

_STATIC = Path(__file__).parent / "static"
_LOOK_EVERY_S = 0.25
#: A comment this often tells us, and any proxy, whether the page is still open.
_LOOKS_PER_PING = 40


def application(run: Watched, host: str, token: str | None) -> Starlette:
    """The page of a run as an ASGI application."""

    def page(_: Request) -> Response:
        return FileResponse(_STATIC / "index.html")

    def whole(_: Request) -> Response:
        try:
            return Response(run.run_json(), media_type="application/json")
        except StorageError as error:
            return JSONResponse({"error": str(error)}, 503)

    def spans(request: Request) -> Response:
        try:
            return JSONResponse(run.spans(request.path_params["round"]))
        except StorageError as error:
            return JSONResponse({"error": str(error)}, 503)

    def logs(_: Request) -> Response:
        return JSONResponse(run.logs())

    def log(request: Request) -> Response:
        text = run.log(request.path_params["name"])
        return PlainTextResponse("no such log\n", 404) if text is None else PlainTextResponse(text)

    async def changes(request: Request) -> Response:
        return StreamingResponse(_changes(run), media_type="text/event-stream")

    return Starlette(
        routes=[
            Route("/", page),
            Route("/api/run", whole),
            Route("/api/rounds/{round:int}/spans", spans),
            Route("/api/logs", logs),
            Route("/api/logs/{name}", log),
            Route("/api/changes", changes),
            Mount("/static", StaticFiles(directory=_STATIC)),
        ],
        middleware=[Middleware(Guard, host=host, token=token), Middleware(GZipMiddleware, compresslevel=4)],
    )


async def _changes(run: Watched) -> AsyncIterator[str]:
    """An event when the page has to look again: at first, and whenever the run may have changed."""
    told, looks = None, 0
    while True:
        stamp = await asyncio.to_thread(run.stamp)
        if stamp != told:
            told = stamp
            yield f"event: changed\ndata: {json.dumps(stamp)}\n\n"
        elif looks % _LOOKS_PER_PING == 0:
            yield ": still here\n\n"
        looks += 1
        await asyncio.sleep(_LOOK_EVERY_S)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 = any that is free.

    Raises:
      ConfigError: the port is taken, or the address not ours.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        why = error.strerror or error
        raise ConfigError(f"cannot listen on {host} port {port} ({why}): take another --port, or 0 for any") from None


def serve(run: Watched, on: socket.socket, host: str, token: str | None) -> None:
    """Serve until Ctrl-C."""
    config = uvicorn.Config(
        application(run, host, token), log_level="critical", access_log=False, timeout_graceful_shutdown=1
    )
    uvicorn.Server(config).run(sockets=[on])
