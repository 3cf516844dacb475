"""Copying bytes both ways between two connected sockets, until both sides have ended or one has failed.

Strategy: bytes go from ``recv`` straight to ``send``; what the slower side does not take at once (one read at the most)
is kept, and its source is not read until it is gone. So nothing queues here, and the kernel's own buffers press back on
a fast sender. An end of file is passed on as a half-close.

A side is heard only where it may speak, so one that the kernel has given up (a reset behind a stall, a client that is gone after its half-close)
is looked for from time to time. What ends before both sides have ended ends in a reset, lest a part pass for the whole.

A ``Watch`` may look at what passes until it has seen enough: it gives back what may pass now, and keeps the rest.
"""

import asyncio
import socket
from collections.abc import Callable
from enum import Enum, auto
from typing import Final, NamedTuple, Protocol

from gateway.net.sockets import reset_on_close

READ_BYTES: Final = 64 * 1024
LOOK_S: Final = 15.0
"""Between two looks for a side that is gone unheard, and for a connection that nothing has passed on for ``IDLE_S``."""
IDLE_S: Final = 3600.0
"""Long enough for whatever waits for an answer; who waits longer keeps the connection alive (websocket pings, ssh's ServerAliveInterval)."""


class Watch(Protocol):
    """Looks at the bytes of a connection: pure, and allowed to raise whatever it likes, which ends the connection."""

    @property
    def settled(self) -> bool:
        """It has seen enough, and holds nothing."""

    def up(self, chunk: bytes) -> bytes:
        """Of the client; what may pass now."""

    def down(self, chunk: bytes) -> bytes:
        """Of the server, which passes as it is; what may pass of the client now."""


class Ended(Enum):
    """Why a relay ended."""

    ORDERLY = auto()
    """Both sides have half-closed."""
    FAILED = auto()
    """One side had an error, or was reset."""
    FORBIDDEN = auto()
    """The watch had enough."""
    IDLE = auto()
    """Nothing passed for ``IDLE_S``."""


class Relayed(NamedTuple):
    """How it went."""

    first: socket.socket
    """The side that ended first: by its half-close, or by its error."""
    why: Ended


class Counts:
    """Bytes passed so far: also to be read while a relay runs, or after it was cancelled."""

    __slots__ = ("down", "up")

    def __init__(self) -> None:
        self.up = 0
        self.down = 0


class _Direction:
    """One way, from ``source`` to ``sink``."""

    __slots__ = ("_add", "_done", "_loop", "_rest", "ended", "look", "sink", "source")

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
        self.look: Callable[[bytes], bytes] | None = None
        """Sees each chunk before it passes, and says what does."""
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
        if not chunk:
            self._end()
            return
        if self.look is not None:
            chunk = self.look(chunk)
        if chunk:
            self._pass_on(memoryview(chunk))

    def push(self, chunk: bytes) -> None:
        """Pass on what was read before, or held, after all that has passed already."""
        if self.ended:
            return  # the client gave up before it was its turn
        if self._rest:
            self._rest = memoryview(bytes(self._rest) + chunk)
        else:
            self._pass_on(memoryview(chunk))

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


async def relay(
    client: socket.socket,
    upstream: socket.socket,
    counts: Counts,
    first: bytes = b"",
    watch: Watch | None = None,
) -> Relayed:
    """Pass on ``first``, then copy until both sides have half-closed, one has failed, or ``watch`` has had enough. ``counts`` is kept current, so it
    holds when this is cancelled too. Closing is the caller's, and sends a reset unless the end was in order."""
    loop = asyncio.get_running_loop()
    finished: asyncio.Future[Relayed] = loop.create_future()
    order: list[socket.socket] = []
    timer: asyncio.TimerHandle
    passed, moved_at = 0, loop.time()

    def done(side: socket.socket, failed: bool) -> None:
        order.append(side)
        if finished.done():
            return
        if failed:
            finished.set_result(Relayed(side, Ended.FAILED))
        elif up.ended and down.ended:
            finished.set_result(Relayed(order[0], Ended.ORDERLY))

    def look() -> None:
        nonlocal timer, passed, moved_at
        for side in (client, upstream):
            if side.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                done(side, True)
        if passed != counts.up + counts.down:
            passed, moved_at = counts.up + counts.down, loop.time()
        elif loop.time() - moved_at >= IDLE_S and not finished.done():
            finished.set_result(Relayed(client, Ended.IDLE))
        timer = loop.call_later(LOOK_S, look)

    def add_up(n: int) -> None:
        counts.up += n

    def add_down(n: int) -> None:
        counts.down += n

    up = _Direction(client, upstream, add_up, done)
    down = _Direction(upstream, client, add_down, done)
    if watch is not None and not watch.settled:
        _set_watch(watch, up, down, finished)
    up.start()
    down.start()
    if first:
        up.push(first)
    timer = loop.call_later(LOOK_S, look)
    orderly = False
    try:
        relayed = await finished
        orderly = relayed.why is Ended.ORDERLY
        return relayed
    finally:
        timer.cancel()
        up.stop()
        down.stop()
        if not orderly:
            reset_on_close(client)
            reset_on_close(upstream)


def _set_watch(watch: Watch, up: _Direction, down: _Direction, finished: "asyncio.Future[Relayed]") -> None:
    """Let ``watch`` look at both directions until it is settled."""

    def forbid() -> None:
        if not finished.done():
            finished.set_result(Relayed(up.source, Ended.FORBIDDEN))

    def after() -> None:
        if watch.settled:
            up.look = down.look = None

    def look_up(chunk: bytes) -> bytes:
        if finished.done():
            return b""
        try:
            passes = watch.up(chunk)
        except Exception:
            forbid()
            return b""
        after()
        return passes

    def look_down(chunk: bytes) -> bytes:
        try:
            passes = watch.down(chunk)
        except Exception:
            forbid()
            return b""
        if passes:
            up.push(passes)
        after()
        return chunk

    up.look, down.look = look_up, look_down
