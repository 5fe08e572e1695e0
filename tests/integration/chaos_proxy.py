"""A bad network on loopback: a TCP proxy that delays, narrows, slices, holds, resets and damages what passes.

It listens on 127.0.0.2 on the very ports that a coordinator has on 127.0.0.1, so a worker that is told a data port
finds the proxy there too. All that it does is counted: a test asserts that its fault happened.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from running import PATIENCE_S, eventually, listening_ports

Plane = Literal["control", "data"]
Direction = Literal["up", "down"]
#: Where in the piece that passes now a byte is to be damaged, if it is this piece.
Flip = Callable[[bytes], int | None]
HOST = "127.0.0.2"
#: Small, so that what a slow link has not carried yet waits at the sender and not in here.
_BUFFER = 64 * 1024


@dataclass
class Line:
    """One direction of one plane; up is from worker to coordinator.

    Attributes:
      latency_s, jitter_s: each piece comes so late, give or take; order is kept.
      slice_nbytes: pieces are passed on in slices of this size.
      hold_at: count of bytes passed (`nbytes`) at which it falls silent, as a cable that was pulled.
      reset_every: each connection is reset (RST) when it has passed so many bytes, `resets_left` times.
      flip: damages one bit, once.
      nbytes, read: bytes passed on, and bytes taken from the sender.
      pieces, holds, resets, flips: how often a piece was read, had to wait, a connection was reset, a bit flipped.
      delays, narrowings, slices: how often a piece came late, waited for bandwidth, and slices that pieces came in.
    """

    latency_s: float = 0.0
    jitter_s: float = 0.0
    slice_nbytes: int | None = None
    hold_at: float = float("inf")
    reset_every: int | None = None
    resets_left: int = 0
    flip: Flip | None = None
    nbytes: int = 0
    read: int = 0
    pieces: int = 0
    holds: int = 0
    resets: int = 0
    flips: int = 0
    delays: int = 0
    narrowings: int = 0
    slices: int = 0
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def damage(self, piece: bytes) -> bytes:
        if self.flip is None or (index := self.flip(piece)) is None:
            return piece
        self.flip, self.flips = None, self.flips + 1
        return piece[:index] + bytes([piece[index] ^ 0x10]) + piece[index + 1 :]


class _Reset(Exception):
    """The connection is to be reset."""


class ChaosProxy:
    """In front of one coordinator.

    Attributes:
      address: what a worker is told to connect to.
      lines: by plane and direction.
      bandwidth: bytes a second of a direction, for all connections together; None: any number.
    """

    def __init__(self, pid: int, port: int) -> None:
        (data,) = eventually(lambda: listening_ports(pid) - {port}, "a data port")
        self.address = f"tcp://{HOST}:{port}"
        self.bandwidth: dict[Direction, int | None] = {"up": None, "down": None}
        self.connections = 0
        self._free_at: dict[Direction, float] = {"up": 0.0, "down": 0.0}
        self._random = random.Random(0)
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        planes: dict[Plane, int] = {"control": port, "data": data}
        directions: tuple[Direction, ...] = ("up", "down")
        self.lines = {(plane, direction): Line() for plane in planes for direction in directions}
        self._servers = [self._do(self._listen(plane, port)) for plane, port in planes.items()]

    def line(self, plane: Plane, direction: Direction) -> Line:
        return self.lines[plane, direction]

    def hold(self, *directions: Direction) -> None:
        """Nothing more gets through, on both planes, and on new connections too."""
        for (_, direction), line in self.lines.items():
            if direction in directions:
                line.hold_at = line.nbytes

    def release(self) -> None:
        """What was held goes on."""

        async def now() -> None:
            for line in self.lines.values():
                line.hold_at = float("inf")
                line.released.set()
                line.released = asyncio.Event()

        self._do(now())

    def close(self) -> None:
        async def end() -> None:
            for server in self._servers:
                server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

        self._do(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        self._loop.close()

    def _do(self, what):  # type: ignore[no-untyped-def]
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(PATIENCE_S)

    async def _listen(self, plane: Plane, port: int) -> asyncio.Server:
        server = socket.create_server((HOST, port))
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            try:
                await self._connect(plane, port, reader, writer)
            except asyncio.CancelledError:
                pass  # asyncio would complain of it; the proxy is being closed
            finally:
                self._tasks.discard(task)

        return await asyncio.start_server(accept, sock=server, limit=_BUFFER)

    async def _connect(
        self, plane: Plane, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        ends = [writer]
        pumps: list[asyncio.Task[None]] = []
        self.connections += 1
        try:
            far = socket.socket()
            far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
            far.setblocking(False)
            try:
                await self._loop.sock_connect(far, ("127.0.0.1", port))
            except OSError:
                far.close()
                raise
            far_reader, far_writer = await asyncio.open_connection(sock=far, limit=_BUFFER)
            ends.append(far_writer)
            pumps = [
                asyncio.create_task(self._pump(plane, "up", reader, far_writer)),
                asyncio.create_task(self._pump(plane, "down", far_reader, writer)),
            ]
            done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in done:
                pump.result()
        except _Reset:
            for end in ends:
                end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.transport.abort()
        except OSError:
            pass
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for end in ends:
                end.close()

    async def _pump(
        self, plane: Plane, direction: Direction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        line = self.lines[plane, direction]
        late: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        deliver = asyncio.create_task(self._deliver(line, late, writer))
        due, passed = 0.0, 0
        try:
            while piece := await reader.read(max(1, (self.bandwidth[direction] or 20 * _BUFFER) // 20)):
                line.read, line.pieces = line.read + len(piece), line.pieces + 1
                while piece:
                    while line.nbytes >= line.hold_at:
                        line.holds += 1
                        await line.released.wait()
                    left = (line.reset_every - passed) if line.reset_every and line.resets_left else len(piece)
                    now_, piece = piece[:left], piece[left:]
                    passed += len(now_)
                    await self._narrow(line, direction, len(now_))
                    due = max(due, self._loop.time() + line.latency_s + line.jitter_s * self._random.uniform(-1, 1))
                    line.nbytes += len(now_)
                    late.put_nowait((due, line.damage(now_)))
                    if line.resets_left and passed == line.reset_every:
                        await self._flush(late, deliver)
                        line.resets, line.resets_left = line.resets + 1, line.resets_left - 1
                        raise _Reset
                if deliver.done():
                    deliver.result()
            await self._flush(late, deliver)
        finally:
            deliver.cancel()
            await asyncio.gather(deliver, return_exceptions=True)

    async def _flush(self, late: asyncio.Queue[tuple[float, bytes]], deliver: asyncio.Task[None]) -> None:
        empty = asyncio.create_task(late.join())
        await asyncio.wait([empty, deliver], return_when=asyncio.FIRST_COMPLETED)
        empty.cancel()

    async def _narrow(self, line: Line, direction: Direction, nbytes: int) -> None:
        if (rate := self.bandwidth[direction]) is not None:
            line.narrowings += 1
            now = self._loop.time()
            self._free_at[direction] = max(now, self._free_at[direction]) + nbytes / rate
            await asyncio.sleep(self._free_at[direction] - now)

    async def _deliver(
        self, line: Line, late: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter
    ) -> None:
        while True:
            due, piece = await late.get()
            try:
                if (wait_s := due - self._loop.time()) > 0:
                    line.delays += 1
                    await asyncio.sleep(wait_s)
                size = line.slice_nbytes or len(piece)
                for start in range(0, len(piece), size):
                    line.slices += size < len(piece)
                    writer.write(piece[start : start + size])
                    await writer.drain()
            finally:
                late.task_done()


def byte(n: int) -> Flip:
    """The n-th byte from now, counted from 0."""
    left = n

    def flip(piece: bytes) -> int | None:
        nonlocal left
        here, left = left, left - len(piece)
        return here if here < len(piece) else None

    return flip


def near(word: bytes, n: int) -> Flip:
    """The n-th byte from the start of the first `word`."""

    def flip(piece: bytes) -> int | None:
        found = piece.find(word)
        return found + n if found >= -n and found >= 0 and found + n < len(piece) else None

    return flip


def within(nbytes: int) -> Flip:
    """The middle of the first piece of at least so many bytes: what it is cannot be read where there are keys."""
    return lambda piece: len(piece) // 2 if len(piece) >= nbytes else None
