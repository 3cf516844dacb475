"""The driver of the path: one edge-triggered epoll, nested in the loop, that resumes straight coroutines.

A connection is a coroutine that awaits nothing but the primitives of this package, and is resumed by ``next``: no task, no future, no handle a wait.
Each of its sockets is registered once, for all that it may hear, and closing takes it out; what is seldom wanted is asked for later (``hear``), and
what would be told too often is left out for a while (``ignore``). So an edge is told once, and whoever waits must have tried first: what came
meanwhile is kept in its ``Ear``.

A future of asyncio's may be awaited too (an answer that is not known yet). Deadlines are looked at every ``TICK_S``: no timer a connection. While
nothing is resumed there can be no new ones, and none is looked at before the first is due: connections that idle wake nobody.
"""

import asyncio
import select
import socket
import time
from collections.abc import Callable, Coroutine, Generator, Iterator
from typing import Any, Final

BYTES: Final = select.EPOLLIN
IN: Final = BYTES | select.EPOLLRDHUP
OUT: Final = select.EPOLLOUT
ERROR: Final = select.EPOLLERR
END: Final = select.EPOLLHUP | ERROR
RDHUP: Final = select.EPOLLRDHUP
PRI: Final = select.EPOLLPRI
HEARING: Final = IN | PRI | select.EPOLLET
EVERYTHING: Final = HEARING | OUT
ANYTHING: Final = ~0
EVENTS_A_TURN: Final = 256
LOOKS_A_TURN: Final = 4
"""What the first strands of a turn have set off is often there by the end of it, and another turn of the loop costs more than a look."""
TICK_S: Final = 0.1
REST_S: Final = 60.0
"""At the most from one look to the next."""
LATER_S: Final = 0.001
"""The shortest that the loop's timers know; late by as much."""
NEVER: Final = float("inf")

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
    """``now``, as it was when it was first asked for since this strand was resumed: for all that a look every ``TICK_S`` is good enough for."""
    if _whose.strand is None:
        return now()
    if not _whose.moment:
        _whose.moment = now()
    return _whose.moment


class Poller:
    """The epoll, and the strands that it resumes."""

    def __init__(self) -> None:
        """In the running loop."""
        self._loop = asyncio.get_running_loop()
        self._epoll = select.epoll()
        self._register = self._epoll.register
        self._poll = self._epoll.poll
        self._ears: list[Ear | None] = []
        """By descriptor."""
        self._look = 0
        """How often epoll was asked."""
        self.live: set[Strand] = set()
        self._later: dict[int, Ear] = {}
        """By descriptor."""
        self._within = False
        """A turn."""
        self._at_end: list[Callable[[], object]] = []
        self._timer: asyncio.TimerHandle | None = None
        self.quiet = False
        """No strand was resumed since the last tick: all that they wait for was seen then."""
        self._rests = False
        """The next tick is further away than ``TICK_S``."""
        self._drained: asyncio.Future[None] | None = None
        self._loop.add_reader(self._epoll.fileno(), self._turn)

    def start(self, work: Work, ended: Ended, carries: object = None) -> Strand:
        """Run ``work`` up to its first wait; ``ended`` is called at its end, with the exception that ended it, if one did."""
        strand = Strand(self, work, ended, carries)
        self.live.add(strand)
        if self._timer is None:
            self._next_tick(TICK_S)
        strand.wake()
        return strand

    def stir(self) -> None:
        """A strand is resumed, which may not be able to wait for the tick that was thought of."""
        self.quiet = False
        if self._rests:
            self._rests = False
            self._next_tick(TICK_S)

    async def drained(self, within_s: float) -> None:
        """Return when nothing is under way any more, or after ``within_s``."""
        if self.live:
            self._drained = self._loop.create_future()
            await asyncio.wait((self._drained,), timeout=within_s)

    def close(self) -> None:
        """Cancel what is still under way, and end."""
        for strand in tuple(self.live):
            strand.cancel()
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        if self._timer is not None:
            self._timer.cancel()

    def ear(self, number: int) -> Ear | None:
        """Whoever listens at a descriptor."""
        return self._ears[number] if number < len(self._ears) else None

    def register(self, sock: socket.SocketType, strand: Strand, events: int) -> Ear:
        """``events`` of a socket, from now on and as it is."""
        number = sock.fileno()
        self._register(number, events)
        while number >= len(self._ears):
            self._ears.append(None)
        ear = self._ears[number] = Ear(sock, number, strand, self._look, events)
        return ear

    def listen(self, ear: Ear, events: int) -> None:
        """To these ``events`` from now on."""
        ear.events = events
        self._epoll.modify(ear.number, events)

    def hear_later(self, ear: Ear) -> None:
        """As ``Strand.hear_later``."""
        if not self._later:
            self._loop.call_later(LATER_S, self._hear)
        self._later[ear.number] = ear

    def _hear(self) -> None:
        later, self._later = self._later, {}
        for ear in later.values():
            if self._ears[ear.number] is ear:
                ear.seen |= BYTES
                if ear.strand.heeds & BYTES:
                    ear.strand.wake()

    def forget(self, ear: Ear) -> None:
        """Its descriptor is closed, or about to be, which takes it out of the epoll; another may have the number already."""
        ear.sock = None
        if self._ears[ear.number] is ear:
            self._ears[ear.number] = None

    def soon(self, strand: Strand) -> None:
        """Resume it in the loop's next round."""
        self._loop.call_soon(strand.go_on)

    def end(self, strand: Strand) -> None:
        """It hears nothing any more."""
        self.live.discard(strand)
        if not self.live and self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def at_end(self, act: Callable[[], object]) -> None:
        """Call it when all strands of this turn have had theirs; soon, if this is none. Whatever is done so costs a turn no round of the loop."""
        if self._within:
            self._at_end.append(act)
        else:
            self._loop.call_soon(act)

    def begin_turn(self) -> None:
        """Strands will run, until ``end_turn``."""
        self._within = True

    def end_turn(self) -> None:
        """They have."""
        self._within = False
        acts = self._at_end
        while acts:
            acts.pop()()  # where one raises, the others' end is the next turn's

    def _turn(self) -> None:
        self.begin_turn()
        try:
            self._look_around()
        finally:
            self.end_turn()

    def _look_around(self) -> None:
        ears, poll = self._ears, self._poll
        for _ in range(LOOKS_A_TURN):
            self._look += 1
            look = self._look
            told = poll(0, EVENTS_A_TURN)
            if not told:
                return
            for number, events in told:
                ear = ears[number]
                if ear is not None and ear.look != look:
                    ear.seen |= events
                    strand = ear.strand
                    if events & strand.heeds and strand._future is None:
                        strand._resume()

    def _tick(self) -> None:
        moment, was_quiet = now(), self.quiet
        self.quiet, self._rests, self._timer = True, False, None
        for strand in tuple(self.live):
            strand.tick(moment)
        if not self.live:
            return
        wait_s = TICK_S
        if was_quiet and self.quiet:
            self._rests = True
            wait_s = max(TICK_S, min(REST_S, min([strand.due() for strand in self.live]) - moment))
        self._next_tick(wait_s)

    def _next_tick(self, wait_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(wait_s, self._tick)


class deadline:
    """``with deadline(at):`` raises TimeoutError at ``at`` (in seconds of ``now``), up to ``TICK_S`` late: one over all the waits within."""

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


now: Final = time.monotonic
"""The driver's clock, which is the loop's: seconds. A global that is not final is looked up by name, compiled too."""
now_ns: Final = time.monotonic_ns
"""The same in nanoseconds."""
