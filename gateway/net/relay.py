"""Copying bytes both ways between two connected sockets, until both sides have ended or one has failed.

Strategy: bytes go from ``recv`` straight to ``send``; what the slower side does not take at once (one read at the most)
is kept, and its source is not read until it is gone. So nothing queues here, and the kernel's own buffers press back on
a fast sender. An end of file is passed on as a half-close.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Final, NamedTuple

READ_BYTES: Final = 64 * 1024


class Relayed(NamedTuple):
    """How it went."""

    first: socket.socket
    """The side that ended first: by its half-close, or by its error."""
    failed: bool
    """By an error or a reset; False where both sides half-closed in order."""


class Counts:
    """Bytes passed so far: also to be read while a relay runs, or after it was cancelled."""

    __slots__ = ("down", "up")

    def __init__(self) -> None:
        self.up = 0
        self.down = 0


class _Direction:
    """One way, from ``source`` to ``sink``."""

    __slots__ = ("_add", "_done", "_loop", "_rest", "ended", "sink", "source")

    def __init__(
        self,
        source: socket.socket,
        sink: socket.socket,
        add: Callable[[int], None],
        done: Callable[[socket.socket, bool], None],
    ) -> None:
        self.source = source
        self.sink = sink
        self.ended = False
        self._add = add
        self._done = done
        self._rest = memoryview(b"")
        self._loop = asyncio.get_running_loop()

    def start(self) -> None:
        self._loop.add_reader(self.source, self._on_readable)

    def stop(self) -> None:
        self._loop.remove_reader(self.source)
        self._loop.remove_writer(self.sink)

    def _on_readable(self) -> None:
        try:
            chunk = self.source.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self._done(self.source, True)
            return
        if chunk:
            self._pass_on(memoryview(chunk))
        else:
            self._end()

    def _pass_on(self, chunk: memoryview) -> None:
        try:
            sent = self.sink.send(chunk)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._done(self.sink, True)
            return
        self._add(sent)
        if sent < len(chunk):
            self._rest = chunk[sent:]
            self._loop.remove_reader(self.source)
            self._loop.add_writer(self.sink, self._on_writable)

    def _on_writable(self) -> None:
        try:
            sent = self.sink.send(self._rest)
        except BlockingIOError:
            return
        except OSError:
            self._done(self.sink, True)
            return
        self._add(sent)
        self._rest = self._rest[sent:]
        if not self._rest:
            self._loop.remove_writer(self.sink)
            self._loop.add_reader(self.source, self._on_readable)

    def _end(self) -> None:
        """The source said all it had, and all of it was passed on."""
        self.ended = True
        self._loop.remove_reader(self.source)
        try:
            self.sink.shutdown(socket.SHUT_WR)
        except OSError:
            self._done(self.sink, True)
            return
        self._done(self.source, False)


async def relay(client: socket.socket, upstream: socket.socket, counts: Counts) -> Relayed:
    """Copy until both sides have half-closed or one has failed. ``counts`` is kept current, so it holds when this is cancelled too."""
    finished: asyncio.Future[socket.socket | None] = asyncio.get_running_loop().create_future()
    order: list[socket.socket] = []

    def done(side: socket.socket, failed: bool) -> None:
        order.append(side)
        if not finished.done() and (failed or (up.ended and down.ended)):
            finished.set_result(side if failed else None)

    def add_up(n: int) -> None:
        counts.up += n

    def add_down(n: int) -> None:
        counts.down += n

    up = _Direction(client, upstream, add_up, done)
    down = _Direction(upstream, client, add_down, done)
    up.start()
    down.start()
    try:
        failed = await finished
    finally:
        up.stop()
        down.stop()
    return Relayed(order[0] if failed is None else failed, failed is not None)
