"""Copying bytes one way between two connected sockets, as they come.

Strategy: small exchanges are copied through one buffer that all connections share, straight from ``recv`` to ``send``. What the sink does not
take at once is kept, and the source is not read until it is gone: nothing queues here, and the kernel's own buffers press back on a fast sender.
A direction that fills the buffer again and again goes over to ``splice`` through a pipe, and its bytes never enter this process; while they come fast
it is not woken for each few of them. After ``TURN_BYTES`` a direction lets the others have their turn.

A ``Watch`` may look at what passes until it has seen enough: it gives back what may pass now, and keeps the rest. A look may cost thirty times what
the copy does, by how the sender chooses to cut his bytes: so little is read at once where each byte may be looked at, and the clock ends such a turn.
"""

import os
import socket
from typing import Final, Protocol

from gateway.net.clock import NEVER, now
from gateway.net.coalescing import Coalescing
from gateway.net.pipes import Pipe, put_back, take
from gateway.net.sockets import Sock

READ_BYTES: Final = 64 * 1024
TURN_BYTES: Final = 1024 * 1024
EACH_BYTES: Final = 4096
"""What a read counts for beyond its bytes: who sends one at a time, as fast as they are read, has no longer turns than others."""
LOOKED_AT_BYTES: Final = 4096
"""What is read at once of what a watch frames: two milliseconds' work at the most, where it is all heads of requests or chunks of one byte."""
LOOKING_S: Final = 0.001
"""Of a turn in which a watch looks on: no further read is begun then."""
SPLICE_AFTER: Final = 4
"""Buffers filled in a row: a bulk transfer, worth a pipe."""
SPLICE: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
SHUT_WR: Final = socket.SHUT_WR
MSG_MORE: Final = int(socket.MSG_MORE)
"""For the last bytes before an end of file that is known already: both leave in one segment."""

_buffer: Final = bytearray(READ_BYTES)
_view: Final = memoryview(_buffer)


class Watch(Protocol):
    """Looks at the bytes of a connection: pure, and allowed to raise whatever it likes, which ends the connection."""

    @property
    def settled(self) -> bool:
        """It has seen enough, and holds nothing."""

    @property
    def ahead(self) -> int:
        """How many of the client's next bytes pass without a look, as far as it knows."""

    def up(self, chunk: bytes) -> bytes:
        """Of the client; what may pass now."""

    def down(self, chunk: bytes) -> bytes:
        """Of the server, which passes as it is; what may pass of the client now."""


class Failed(Exception):
    """Of one side; ``args[0]`` is which."""


class Direction:
    """One way, from ``source`` to ``sink``."""

    __slots__ = (
        "_coalescing",
        "_flags",
        "_full",
        "back",
        "blocked",
        "ended",
        "hung_up",
        "more",
        "passed",
        "pipe",
        "rest",
        "sink",
        "source",
        "upwards",
        "urgent",
        "watch",
    )
    __deletable__ = ("back",)
    back: "Direction"
    """The other way; gone after ``close`` (mypyc wants to be told which attribute may be)."""
    _coalescing: Coalescing
    """From its first splice on."""

    def __init__(self, source: Sock, sink: Sock, watch: Watch | None, upwards: bool) -> None:
        self.source = source
        self.sink = sink
        self.watch = watch
        self.upwards = upwards
        self.ended = False
        """The source said all it had, and all of it was passed on."""
        self.hung_up = False
        """The source's end of file is on its way: a short read is not the last."""
        self.more = False
        """Stopped only for the others' sake, or not begun: there may be more, and no edge will say so."""
        self.blocked = False
        """The sink takes nothing until it says so."""
        self.urgent = False
        """The source has sent urgent data, or may have: a read stops at its mark, short, and a splice never gets past it (tcp(7))."""
        self.passed = 0
        self.rest: bytes | memoryview = b""
        """What the sink has not taken yet."""
        self.pipe: Pipe | None = None
        self._full = 0
        self._flags = 0

    def push(self, chunk: bytes) -> None:
        """Pass on what was read before, or held, after all that has passed already."""
        if self.ended or not chunk:
            return  # the client gave up before it was its turn
        if self.rest:
            self.rest = bytes(self.rest) + chunk
        else:
            self._send(chunk)

    def pump(self) -> None:
        """Move what can be moved now. Failed with the side that broke."""
        self.more = self.blocked = False
        if self.ended or (self.rest and not self._flush()):
            return
        if self.pipe is not None:
            self._splice(self.pipe)
            return
        moved = 0
        until = NEVER
        while moved < TURN_BYTES:
            most = READ_BYTES
            if self.watch is not None and self.upwards:
                most = min(max(self.watch.ahead, LOOKED_AT_BYTES), READ_BYTES)
            try:
                if self.watch is None:
                    size = self.source.recv_into(_buffer, most)
                else:
                    chunk = self.source.recv(most)  # it may keep it, and the buffer is everybody's
                    size = len(chunk)
            except BlockingIOError:
                return
            except OSError:
                raise Failed(self.source) from None
            if not size:
                self._end()
                return
            last = size < most and not self.urgent
            self._flags = MSG_MORE if self.hung_up and last else 0
            if self.watch is not None:
                if until == NEVER and not last:
                    until = now() + LOOKING_S
                self._look(self.watch, chunk)
            elif not self._send(_view[:size]):
                self.rest = bytes(self.rest)  # the buffer is everybody's
            if self.rest:
                return
            if last:
                self._full = 0
                if self.hung_up:
                    self._end()
                return  # a short read was all there was (epoll(7)); more is another edge, or nothing
            moved += size + EACH_BYTES
            self._full += 1
            if self._full >= SPLICE_AFTER and not (self.watch or self.urgent) and (pipe := take()):
                self.pipe = pipe
                self._coalescing = Coalescing(self.source)
                self._splice(pipe)
                return
            if self.watch is not None and now() >= until:
                break
        self.more = True

    def _look(self, watch: Watch, chunk: bytes) -> None:
        """Let the watch see ``chunk``, and pass on what may pass."""
        if self.upwards:
            self.push(watch.up(chunk))
        else:
            passes = watch.down(chunk)
            self.back.push(passes)
            self.push(chunk)
        if watch.settled:
            self.watch = self.back.watch = None

    def _splice(self, pipe: Pipe) -> None:
        source, sink = self.source.fileno(), self.sink.fileno()
        moved = 0
        while moved < TURN_BYTES:
            if not pipe.held:
                try:
                    pipe.held = os.splice(source, pipe.write_end, pipe.size, flags=SPLICE)
                except BlockingIOError:
                    if not self.urgent:
                        self._coalescing.drained(self.passed, self.back.passed)
                        return
                except OSError:
                    raise Failed(self.source) from None
                if not pipe.held:
                    # The end, or nothing before the mark of urgent data, of which nobody may have told yet: reading tells, and goes past it.
                    self._coalescing.stop()
                    self._put_back()
                    self.urgent = self.more = True
                    return
            try:
                sent = os.splice(pipe.read_end, sink, pipe.held, flags=SPLICE)
            except BlockingIOError:
                self.blocked = True
                self._coalescing.full()
                return
            except OSError:
                raise Failed(self.sink) from None
            pipe.held -= sent
            self.passed += sent
            moved += sent + EACH_BYTES
        self.more = True

    def _flush(self) -> bool:
        rest, self.rest = self.rest, b""
        self._flags = 0
        return self._send(rest)

    def _send(self, chunk: bytes | memoryview) -> bool:
        """Whether the sink took all of it; what it did not is the rest."""
        try:
            sent = self.sink.send(chunk, self._flags)
        except BlockingIOError:
            sent = 0
        except OSError:
            raise Failed(self.sink) from None
        self.passed += sent
        if sent == len(chunk):
            return True
        self.rest = memoryview(chunk)[sent:]
        self.blocked, self.more = True, False
        return False

    def _end(self) -> None:
        self.ended = True
        if self.back.ended:
            return  # closing says it
        try:
            self.sink.shutdown(SHUT_WR)
        except OSError:
            raise Failed(self.sink) from None

    def close(self) -> None:
        """Give back what was borrowed, and let go of the other way, which does so too: garbage that is no cycle costs nothing to find."""
        del self.back
        self._put_back()

    def _put_back(self) -> None:
        if self.pipe is not None:
            put_back(self.pipe)
            self.pipe = None
