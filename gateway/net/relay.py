"""Copying bytes both ways between two connected sockets, until both sides have ended or one has failed.

Strategy: small exchanges are copied through one buffer that all connections share, straight from ``recv`` to ``send``. What the slower side does
not take at once is kept, and its source is not read until it is gone: nothing queues here, and the kernel's own buffers press back on a fast
sender. A direction that fills the buffer again and again goes over to ``splice`` through a pipe, and its bytes never enter this process. After
``TURN_BYTES`` a direction lets the others have their turn.

An end of file is passed on as a half-close. A side is heard only where it may speak, so one that the kernel has given up (a reset behind a stall,
a client that is gone after its half-close) is looked for from time to time. What ends before both sides have ended ends in a reset, lest a part
pass for the whole.

A ``Watch`` may look at what passes until it has seen enough: it gives back what may pass now, and keeps the rest.
"""

import contextlib
import os
import socket
import types
from collections.abc import Generator
from enum import Enum, auto
from typing import Final, NamedTuple, Protocol

from gateway.net.pipes import Pipe, put_back, take
from gateway.net.poller import ANYTHING, END, ERROR, IN, NEVER, OUT, RDHUP, current, now
from gateway.net.sockets import Sock, reset_on_close

READ_BYTES: Final = 64 * 1024
TURN_BYTES: Final = 1024 * 1024
SPLICE_AFTER: Final = 4
"""Buffers filled in a row: a bulk transfer, worth a pipe."""
LOOK_S: Final = 15.0
"""Between two looks for a side that is gone unheard, and for a connection that nothing has passed on for ``IDLE_S``."""
IDLE_S: Final = 3600.0
"""Long enough for whatever waits for an answer; who waits longer keeps the connection alive (websocket pings, ssh's ServerAliveInterval)."""
SPLICE: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK

HEARD: Final = IN | END
MSG_MORE: Final = int(socket.MSG_MORE)
"""For the last bytes before an end of file that is known already: both leave in one segment."""

_buffer: Final = bytearray(READ_BYTES)
_view: Final = memoryview(_buffer)


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


FAILED: Final = Ended.FAILED
ORDERLY: Final = Ended.ORDERLY


class Relayed(NamedTuple):
    """How it went."""

    first: Sock
    """The side that ended first: by its half-close, or by its error."""
    why: Ended


class Counts:
    """Bytes passed so far: also to be read while a relay runs, or after it was cancelled."""

    __slots__ = ("down", "up")

    def __init__(self) -> None:
        self.up = 0
        self.down = 0


class _Failed(Exception):
    """Of one side; ``args[0]`` is which."""


class _Direction:
    """One way, from ``source`` to ``sink``."""

    __slots__ = (
        "_flags",
        "_full",
        "back",
        "ended",
        "hung_up",
        "more",
        "passed",
        "pipe",
        "rest",
        "sink",
        "source",
        "upwards",
        "watch",
    )
    back: "_Direction"
    """The other way."""

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
        """Stopped only for the others' sake."""
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
        """Move what can be moved now. _Failed with the side that broke."""
        self.more = False
        if self.ended or (self.rest and not self._flush()):
            return
        if self.pipe is not None:
            self._splice(self.pipe)
            return
        moved = 0
        while moved < TURN_BYTES:
            try:
                size = self.source.recv_into(_buffer)
            except BlockingIOError:
                return
            except OSError:
                raise _Failed(self.source) from None
            if not size:
                self._end()
                return
            moved += size
            self._flags = MSG_MORE if self.hung_up and size < READ_BYTES else 0
            if self.watch is not None:
                self._look(self.watch, bytes(_view[:size]))
            elif not self._send(_view[:size]):
                self.rest = bytes(self.rest)  # the buffer is everybody's
            if self.rest:
                return
            if size < READ_BYTES:
                self._full = 0
                if self.hung_up:
                    self._end()
                return  # a short read was all there was (epoll(7)); more is another edge, or nothing
            self._full += 1
            if self._full >= SPLICE_AFTER and self.watch is None and (pipe := take()) is not None:
                self.pipe = pipe
                self._splice(pipe)
                return
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
                    return
                except OSError:
                    raise _Failed(self.source) from None
                if not pipe.held:
                    self._end()
                    return
            try:
                sent = os.splice(pipe.read_end, sink, pipe.held, flags=SPLICE)
            except BlockingIOError:
                return
            except OSError:
                raise _Failed(self.sink) from None
            pipe.held -= sent
            self.passed += sent
            moved += sent
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
            raise _Failed(self.sink) from None
        self.passed += sent
        if sent == len(chunk):
            return True
        self.rest = memoryview(chunk)[sent:]
        return False

    def _end(self) -> None:
        self.ended = True
        if self.back.ended:
            return  # closing says it
        try:
            self.sink.shutdown(socket.SHUT_WR)
        except OSError:
            raise _Failed(self.sink) from None

    def close(self) -> None:
        """Give back what was borrowed, and let go of the other way, which does so too: garbage that is no cycle costs nothing to find."""
        del self.back
        if self.pipe is not None:
            put_back(self.pipe)
            self.pipe = None


@types.coroutine
def relay(
    client: Sock,
    upstream: Sock,
    counts: Counts,
    first: bytes = b"",
    watch: Watch | None = None,
) -> Generator[None, None, Relayed]:
    """Pass on ``first``, then copy until both sides have half-closed, one has failed, or ``watch`` has had enough. ``counts`` is kept current, so it
    holds when this is cancelled too. Closing is the caller's, and sends a reset unless the end was in order."""
    if watch is not None and watch.settled:
        watch = None
    up = _Direction(client, upstream, watch, True)
    down = _Direction(upstream, client, watch, False)
    up.back, down.back = down, up
    strand = current()
    seen = strand.seen
    ended: Sock | None = None
    why: Ended = FAILED
    moved_at, passed, quick = now(), 0, False
    strand.wake_at = moved_at + LOOK_S
    try:
        at_client, at_upstream = strand.wait_for(client), strand.wait_for(upstream)
        up.push(first)
        del first, watch
        while not (up.ended and down.ended):
            waits = up.rest or up.pipe or down.rest or down.pipe
            strand.heeds = ANYTHING if waits else HEARD
            if not ((seen[at_client] | seen[at_upstream]) & strand.heeds or up.more or down.more):
                counts.up, counts.down = up.passed, down.passed
                yield
            said_by_client, said_by_upstream = seen[at_client], seen[at_upstream]
            seen[at_client] = seen[at_upstream] = 0
            if said_by_client & RDHUP:
                up.hung_up = True
            elif said_by_client & IN and not quick:
                # Not before: most connections are over with the client's first message.
                quick = True
                _set(upstream, socket.IPPROTO_TCP, socket.TCP_NODELAY)
            if said_by_upstream & RDHUP:
                down.hung_up = True
            if (said_by_client | said_by_upstream) & ERROR:
                _look(up, down)
            if said_by_client & HEARD or up.more or (said_by_upstream & OUT and (up.rest or up.pipe)):
                up.pump()
            if said_by_upstream & HEARD or down.more or (said_by_client & OUT and (down.rest or down.pipe)):
                down.pump()
            if ended is None:
                ended = client if up.ended else upstream if down.ended else None
            if strand.wake_at == NEVER:
                _look(up, down)
                # It lasts: a peer that vanishes is to be noticed.
                _set(upstream, socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                if passed != (passed := up.passed + down.passed):
                    moved_at = now()
                elif now() - moved_at >= IDLE_S:
                    ended, why = client, Ended.IDLE
                    break
                strand.wake_at = now() + LOOK_S
            if up.more or down.more:
                counts.up, counts.down = up.passed, down.passed
                strand.again()
                yield
        else:
            why = ORDERLY
    except _Failed as failed:
        ended = failed.args[0]
    except OSError:
        raise  # no room in the epoll
    except Exception:
        ended, why = client, Ended.FORBIDDEN
    finally:
        counts.up, counts.down = up.passed, down.passed
        strand.heeds = ANYTHING
        up.close()
        down.close()
        if why is not ORDERLY:
            reset_on_close(client)
            reset_on_close(upstream)
    return Relayed(ended or client, why)


def _set(sock: Sock, level: int, option: int) -> None:
    with contextlib.suppress(
        OSError
    ):  # a socket that is no TCP socket, or is gone: whoever reads it next is told
        sock.setsockopt(level, option, 1)


def _look(up: _Direction, down: _Direction) -> None:
    """Ask the kernel what it thinks of both sides. _Failed with the one that is gone."""
    for side in (up.source, down.source):
        if side.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise _Failed(side)
