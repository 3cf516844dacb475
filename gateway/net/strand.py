"""A straight coroutine under way: what resumes it, and when its time is up.

It awaits the primitives of this package and nothing else, but that it may await a future of asyncio's too (an answer that is not known yet), and is
resumed by ``next``: no task, no future, no handle a wait. Each of its sockets is registered once, for all that it may hear, and closing takes it
out; what is seldom wanted is asked for later (``hear``), and what would be told too often is left out for a while (``ignore``). So an edge is told
once, and whoever waits must have tried first: what came meanwhile is kept in its ``Ear``.
"""

import asyncio
import socket
from collections.abc import Callable, Coroutine, Generator, Iterator
from typing import TYPE_CHECKING, Any, Final

from gateway.net.clock import NEVER, now
from gateway.net.events import ANYTHING, EVERYTHING

if TYPE_CHECKING:
    from gateway.net.poller import Poller

OVER: Final = object()
_next: Final[Callable[[Iterator[Any], object], Any]] = next
"""With ``OVER`` for an end: no StopIteration is made, caught and traced back for each connection."""

Work = Coroutine[Any, Any, None]
Ended = Callable[["Strand", BaseException | None], None]


class Expired(BaseException):
    """Thrown into a strand that ``expires``, or whose deadline has passed; only that deadline turns it into a TimeoutError.

    That is an OSError, as a socket's own timeout is one: this must not be taken for it.
    """


class Ear:
    """One strand's, at one descriptor."""

    __slots__ = ("before", "events", "look", "number", "seen", "sock", "strand")

    def __init__(
        self, sock: socket.SocketType, number: int, strand: "Strand", look: int, events: int
    ) -> None:
        self.sock: socket.SocketType | None = sock
        """None once it is forgotten."""
        self.number = number
        self.events = events
        """What epoll is to tell of; it tells of errors and hang-ups unasked."""
        self.strand = strand
        self.look = look
        """Of the poller, when it was registered: what epoll said of this number at that look was meant for another."""
        self.seen = 0
        """What epoll has told and nobody has asked for yet."""
        self.before: Ear | None = None
        """Another of the same strand."""


class Strand:
    """One coroutine under way."""

    __slots__ = (
        "_ears",
        "_ended",
        "_future",
        "_poller",
        "_steps",
        "carries",
        "deadlines",
        "expires",
        "heeds",
        "queued",
        "wake_at",
    )

    def __init__(self, poller: "Poller", work: Work, ended: Ended, carries: object) -> None:
        self._poller = poller
        self._steps: Generator[Any, Any, None] | None = work.__await__()
        """None once it has ended."""
        self._ended = ended
        self._future: asyncio.Future[Any] | None = None
        self._ears: Ear | None = None
        """The newest; each knows the one before it, and a list of two would cost more than both."""
        self.carries = carries
        """What whoever started it is to find with it while it is ``live``."""
        self.heeds = ANYTHING
        """Of what is told, that for which it is to be resumed."""
        self.deadlines: tuple[deadline, ...] = ()
        self.expires = NEVER
        """When ``Expired`` is thrown into it, once: for whoever is on its own, ``deadline`` is for those that may be within another's."""
        self.wake_at = NEVER
        """When to be resumed though nothing happens."""
        self.queued = False
        """Its turn ``again`` is on its way: one, however often it is asked for."""

    def cancel(self) -> None:
        """Throw CancelledError into it, now. Nothing if it has ended."""
        self._throw(asyncio.CancelledError())

    def wake(self) -> None:
        """Resume it, unless it has ended or waits for a future."""
        if self._future is None:
            self._resume()

    def hears(self, sock: socket.SocketType) -> bool:
        """Whether it waits for ``sock``, or has waited."""
        return self._ear(sock) is not None

    def wait_for(self, sock: socket.SocketType, events: int = EVERYTHING) -> Ear:
        """See to it that ``events`` of ``sock`` resume this strand."""
        ear = self._ear(sock)
        if ear is None:
            ear = self._poller.register(sock, self, events)
            ear.before, self._ears = self._ears, ear
        return ear

    def hear(self, sock: socket.SocketType, events: int) -> None:
        """Of a socket that it waits for: these too from now on. What is so now is told."""
        ear = self._ear(sock)
        if ear is not None:
            self._poller.listen(ear, ear.events | events)

    def ignore(self, sock: socket.SocketType, events: int) -> None:
        """These no more. What happens meanwhile is told when they are heard again."""
        ear = self._ear(sock)
        if ear is not None:
            self._poller.listen(ear, ear.events & ~events)

    def hear_later(self, sock: socket.SocketType) -> None:
        """Be resumed ``LATER_S`` from now as if there were something to read, which epoll may not tell (SO_RCVLOWAT)."""
        ear = self._ear(sock)
        if ear is not None:
            self._poller.hear_later(ear)

    def forget(self, sock: socket.SocketType) -> None:
        """Before a socket is closed while the strand goes on: another may get its number."""
        ear = self._ear(sock)
        if ear is not None:
            self._poller.forget(ear)

    def _ear(self, sock: socket.SocketType) -> Ear | None:
        """Its own: it has two or three, and a socket's number would have to be asked for."""
        ear = self._ears
        while ear is not None and ear.sock is not sock:
            ear = ear.before
        return ear

    def again(self) -> None:
        """Be resumed once the others have had their turn."""
        if not self.queued:
            self.queued = True
            self._poller.soon(self)

    def go_on(self) -> None:
        """Its turn, as asked for."""
        self.queued = False
        self.wake()

    def due(self) -> float:
        """When to look at the time next, if it is not resumed before."""
        moment = min(self.wake_at, self.expires)
        for one in self.deadlines:
            moment = min(moment, one.at)
        return moment

    def tick(self, moment: float) -> None:
        """Look at the time."""
        if self.wake_at <= moment:
            self.wake_at = NEVER
            self.wake()
        if self.expires <= moment:
            self.expires = NEVER
            self._throw(Expired())
            return
        for one in self.deadlines:
            if one.at <= moment:
                one.expired = True
                self._throw(Expired())
                return

    def _throw(self, error: BaseException) -> None:
        if self._steps is not None:
            self._future = None
            self._resume(error)

    def _resume(self, error: BaseException | None = None) -> None:
        steps = self._steps
        if steps is None:
            return
        if self._poller.quiet:
            self._poller.stir()
        before, _whose.strand = _whose.strand, self
        _whose.moment = 0.0
        try:
            future = _next(steps, OVER) if error is None else steps.throw(error)
            if future is OVER:
                self._end(None)
            elif future is not None:
                future._asyncio_future_blocking = False
                self._future = future
                future.add_done_callback(self._answered)
        except StopIteration:
            self._end(None)
        except BaseException as failure:
            self._end(failure)
        finally:
            _whose.strand = before

    def _answered(self, future: "asyncio.Future[Any]") -> None:
        if self._future is future:
            self._future = None
            self._resume()

    def _end(self, failure: BaseException | None) -> None:
        self._steps = None
        # A cycle would be left for the collector to find, which stops everybody.
        ear, self._ears = self._ears, None
        while ear is not None:
            self._poller.forget(ear)
            ear = ear.before
        self._poller.end(self)
        self._ended(self, failure)


class Turn:
    """Whose it is."""

    __slots__ = ("moment", "strand")

    def __init__(self) -> None:
        self.strand: Strand | None = None
        self.moment = 0.0
        """The time, once it was asked for."""


_whose: Final = Turn()


def current() -> Strand:
    """The strand that runs now. RuntimeError outside of any."""
    strand = _whose.strand
    if strand is None:
        raise RuntimeError("this awaits the poller: start it with Poller.start")
    return strand


def lately() -> float:
    """``now``, as it was when it was first asked for since this strand was resumed: for all that needs to know it no better than a deadline."""
    if _whose.strand is None:
        return now()
    if not _whose.moment:
        _whose.moment = now()
    return _whose.moment


class deadline:
    """``with deadline(at):`` raises TimeoutError at ``at`` (seconds of ``now``), or within a tick of the poller: one over all the waits within."""

    __slots__ = ("_strand", "at", "expired")

    def __init__(self, at: float) -> None:
        self.at = at
        self.expired = False

    def __enter__(self) -> "deadline":
        strand = self._strand = current()
        strand.deadlines = (*strand.deadlines, self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        strand = self._strand
        strand.deadlines = tuple(one for one in strand.deadlines if one is not self)
        if kind is Expired and self.expired:
            raise TimeoutError from None
