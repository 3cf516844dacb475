"""Copying bytes both ways between two connected sockets, until both sides have ended or one has failed.

An end of file is passed on as a half-close. A side is heard only where it may speak, so one that the kernel has given up (a reset behind a stall,
a client that is gone after its half-close) is looked for from time to time. What ends before both sides have ended ends in a reset, lest a part
pass for the whole.
"""

import contextlib
import socket
from enum import Enum, auto
from typing import Final

from gateway.net.clock import NEVER, now
from gateway.net.direction import Direction, Failed, Watch
from gateway.net.events import ANYTHING, END, ERROR, HEARING, IN, OUT, PRI, RDHUP
from gateway.net.sockets import Sock, reset_on_close
from gateway.net.strand import current
from gateway.net.waits import EVENT

LOOK_S: Final = 15.0
"""Between two looks for a side that is gone unheard, and for a connection that nothing has passed on for ``IDLE_S``."""
IDLE_S: Final = 3600.0
"""Long enough for whatever waits for an answer; who waits longer keeps the connection alive (websocket pings, ssh's ServerAliveInterval)."""
HEARD: Final = IN | END
UNUSUAL: Final = ERROR | PRI


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


class Relayed:
    """How it went. No NamedTuple: compiled, one is made at a fifth of the price."""

    __slots__ = ("first", "why")

    def __init__(self, first: Sock, why: Ended) -> None:
        self.first = first
        """The side that ended first: by its half-close, or by its error."""
        self.why = why

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Relayed) and (other.first, other.why) == (self.first, self.why)


class Counts:
    """Bytes passed so far: also to be read while a relay runs, or after it was cancelled."""

    __slots__ = ("down", "up")

    def __init__(self) -> None:
        self.up = 0
        self.down = 0


async def relay(
    client: Sock,
    upstream: Sock,
    counts: Counts,
    first: bytes = b"",
    watch: Watch | None = None,
    sent: int = 0,
) -> Relayed:
    """Pass on ``first``, of which so many bytes were ``sent`` already, then copy until both sides have half-closed, one has failed, or ``watch``
    has had enough. ``counts`` is kept current, so it holds when this is cancelled too. Closing is the caller's, and sends a reset unless the end was
    in order."""
    if watch is not None and watch.settled:
        watch = None
    up = Direction(client, upstream, watch, True)
    down = Direction(upstream, client, watch, False)
    up.back, down.back = down, up
    strand = current()
    ended: Sock | None = None
    why: Ended = FAILED
    moved_at, passed, quick, hears_room = now(), 0, False, False
    strand.wake_at = moved_at + LOOK_S
    try:
        up.more = strand.hears(client)  # it was read from: what is left was told before
        # Of the client's side, room to write would be told at once, and is seldom waited for.
        at_client, at_upstream = strand.wait_for(client, HEARING), strand.wait_for(upstream)
        up.passed = sent
        up.push(first[sent:])
        delays = bool(first)  # connect() told the upstream's handshake to wait for these bytes
        first, watch = b"", None  # whoever holds thousands of connections does not hold what they began with
        while not (up.ended and down.ended):
            if down.blocked and not hears_room:
                hears_room = True
                strand.hear(client, OUT)
            strand.heeds = ANYTHING if up.blocked or down.blocked else HEARD
            if not ((at_client.seen | at_upstream.seen) & strand.heeds or up.more or down.more):
                counts.up, counts.down = up.passed, down.passed
                await EVENT
            said_by_client, said_by_upstream = at_client.seen, at_upstream.seen
            at_client.seen = at_upstream.seen = 0
            if said_by_client & RDHUP:
                up.hung_up = True
            elif said_by_client & IN and not quick:
                # Not before: most connections are over with the client's first message.
                quick = True
                _set(upstream, socket.IPPROTO_TCP, socket.TCP_NODELAY)
            if said_by_upstream & RDHUP:
                down.hung_up = True
            if (said_by_client | said_by_upstream) & UNUSUAL:
                up.urgent |= bool(said_by_client & PRI)
                down.urgent |= bool(said_by_upstream & PRI)
                if (said_by_client | said_by_upstream) & ERROR:
                    _look(up, down)
            if said_by_upstream & OUT if up.blocked else said_by_client & HEARD or up.more:
                up.pump()
            if said_by_client & OUT if down.blocked else said_by_upstream & HEARD or down.more:
                down.pump()
                if delays and not down.hung_up:
                    # Who writes an answer in pieces may wait for the first to be acknowledged (Nagle): 40 ms, else.
                    delays = False
                    _set(upstream, socket.IPPROTO_TCP, socket.TCP_QUICKACK)
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
                strand.heeds = 0  # it waits for its turn alone
                await EVENT
        else:
            why = ORDERLY
    except Failed as failed:
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


def _look(up: Direction, down: Direction) -> None:
    """Ask the kernel what it thinks of both sides. Failed with the one that is gone."""
    for side in (up.source, down.source):
        if side.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise Failed(side)
