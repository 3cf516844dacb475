"""The driver of the path: one edge-triggered epoll, nested in the loop, that resumes strands.

Deadlines are looked at every ``TICK_S``: no timer a connection. While nothing is resumed there can be no new ones, and none is looked at before the
first is due: connections that idle wake nobody.
"""

import asyncio
import select
import socket
from collections.abc import Callable
from typing import Final

from gateway.net.clock import now
from gateway.net.events import BYTES
from gateway.net.strand import Ear, Ended, Strand, Work

EVENTS_A_TURN: Final = 256
LOOKS_A_TURN: Final = 4
"""What the first strands of a turn have set off is often there by the end of it, and another turn of the loop costs more than a look."""
TICK_S: Final = 0.1
REST_S: Final = 60.0
"""At the most from one look to the next."""
LATER_S: Final = 0.001
"""The shortest that the loop's timers know; late by as much."""


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
                    if events & strand.heeds:
                        strand.wake()

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
