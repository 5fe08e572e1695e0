"""The app behind the page: its files, the run as JSON, and a stream of what changes in it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from fedmq.dashboard.logs import find_log_dir, log_files, log_tail
from fedmq.dashboard.watch import Watch
from fedmq.errors import StorageError
from fedmq.protocol.printable import escaped
from fedmq.report import palette

_STATIC = Path(__file__).with_name("static")
#: Between two questions to the file system whether run.db has changed; nobody asks while no page is open.
_LOOK_EVERY_S = 0.2
#: A comment this often shows a stream whose browser is gone.
_LOOKS_PER_PING = 50
#: After which a page asks for a stream again that has broken.
_RETRY_MS = 500
#: More rounds than these nobody can tell apart in a timeline.
_MAX_TIMELINE_ROUNDS = 100


class Feed:
    """What a watch finds, for pages that ask at once: one thread does all the reading, as SQLite wants it.

    Args:
      watch: that has had its first look.
      stopping: whether the server is about to end.
    """

    def __init__(self, watch: Watch, stopping: Callable[[], bool]) -> None:
        self._watch, self._stopping = watch, stopping
        self._thread = ThreadPoolExecutor(1, "watch")

    async def ask(self, question: Callable[..., Any], *arguments: Any) -> Any:
        """What a method of the watch answers."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, question, *arguments)

    async def news(self, seen: str) -> tuple[str, str]:
        """What has changed since "epoch-version", and what to call it now; everything after another epoch."""
        return await self.ask(self._news, seen)  # type: ignore[no-any-return]

    def _news(self, seen: str) -> tuple[str, str]:
        self._watch.look()
        now = f"{self._watch.epoch}-{self._watch.version}"
        if now == seen:
            return "", now
        epoch, _, version = seen.partition("-")
        known = int(version) if epoch == self._watch.epoch and version.isdecimal() else 0
        return self._watch.since(known), now

    async def stream(self, seen: str) -> AsyncIterator[str]:
        """Server-sent events: what has changed since `seen`, as it changes; "end" before the server ends."""
        looks = 0
        yield f"retry: {_RETRY_MS}\n\n"
        while True:
            stopping = self._stopping()
            changed, now = await self.news(seen)
            if now != seen:
                seen = now
                yield f"id: {now}\ndata: {changed}\n\n"
            elif looks % _LOOKS_PER_PING == 0:
                yield ": still here\n\n"
            if stopping:
                yield "event: end\ndata:\n\n"
                return
            looks += 1
            await asyncio.sleep(_LOOK_EVERY_S)


def dashboard_app(watch: Watch, log_dir: Path | None, stopping: Callable[[], bool]) -> Starlette:
    """The app of one run.

    Args:
      watch: that has had its first look.
      log_dir: LOG_DIR, if it is not where the config has it.
      stopping: whether the server is about to end.
    """
    feed = Feed(watch, stopping)

    async def run(_: Request) -> Response:
        changed, _seen = await feed.news("")
        return Response(changed, media_type="application/json")

    async def events(request: Request) -> Response:
        seen = request.headers.get("last-event-id") or request.query_params.get("since", "")
        return StreamingResponse(feed.stream(seen), media_type="text/event-stream")

    async def timeline(request: Request) -> Response:
        first, last = _whole(request, "first"), _whole(request, "last")
        if first is None or last is None or not 0 <= last - first < _MAX_TIMELINE_ROUNDS:
            return _refused(f"expected first and last, at most {_MAX_TIMELINE_ROUNDS} rounds", 400)
        try:
            return Response(await feed.ask(watch.timeline, first, last), media_type="application/json")
        except StorageError as error:
            return _refused(str(error), 503)

    async def logs(_: Request) -> Response:
        folder = await feed.ask(_log_dir)
        files = await asyncio.to_thread(log_files, folder)
        return JSONResponse({"folder": None if folder is None else escaped(str(folder)), "files": files})

    async def log(request: Request) -> Response:
        folder = await feed.ask(_log_dir)
        name = request.query_params.get("name", "")
        tail = await asyncio.to_thread(log_tail, folder, name, _whole(request, "start"))
        return _refused(f"there is no log {json.dumps(name)}", 404) if tail is None else JSONResponse(tail)

    def _log_dir() -> Path | None:
        return find_log_dir(watch.run_dir, watch.config, log_dir)

    async def colours(_: Request) -> Response:
        light, dark = palette.variables(dark=False), palette.variables(dark=True)
        text = f":root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
        return Response(text, media_type="text/css")

    async def page(_: Request) -> Response:
        return FileResponse(_STATIC / "index.html")

    return Starlette(
        routes=[
            Route("/", page),
            Route("/colours.css", colours),
            Route("/api/run", run),
            Route("/api/events", events),
            Route("/api/timeline", timeline),
            Route("/api/logs", logs),
            Route("/api/log", log),
            Mount("/static", StaticFiles(directory=_STATIC)),
        ],
        middleware=[Middleware(GZipMiddleware, compresslevel=3)],
    )


def _whole(request: Request, name: str) -> int | None:
    value = request.query_params.get(name, "")
    return int(value) if value.isdecimal() and len(value) < 16 else None


def _refused(text: str, status: int) -> Response:
    return JSONResponse({"error": text}, status_code=status)
