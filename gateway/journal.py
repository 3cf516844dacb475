"""The records of one worker, on their way to the process that keeps them: what is sent, what waits for room, what is owed, what becomes a sum."""

import asyncio
from collections.abc import Callable
from typing import Final

from audit.feed import Feed
from audit.ledger import Ledger
from audit.record import Record
from gateway.burial import Notes
from gateway.decide import refuse
from gateway.dns.budget import Bucket
from gateway.flow import Endpoint, Flow
from gateway.net.clock import now
from gateway.net.progress import Progress
from gateway.reasons import Reason
from gateway.sums import REFUSALS, Sums
from gateway.tally import WAITING, Tally
from gateway.wording import Wordings, decision_record

FLUSH_S: Final = 0.05
"""How often room in the pipe is looked for while records wait."""

ALIKE: Final = ("rule", "reason", "domain", "dest_ip", "dest_port", "app")
"""Of refusals: those that are the same in these are one sum."""
NOBODYS: Final = {"domain": None, "domain_source": None, "dest_ip": None, "dest_port": 0, "app": None}
"""In the sum of all others."""
OF_ONE: Final = frozenset(("domain_raw", "ech", "dest_mismatch"))
"""What no sum tells."""


class Journal:
    """The records of one worker."""

    def __init__(
        self,
        feed: Feed,
        ledger: Ledger,
        kept: Progress | None = None,
        tally: Tally | None = None,
        soon: Callable[[Callable[[], object]], object] | None = None,
    ) -> None:
        """``kept`` counts the records that are on the disk, where somebody waits for that; ``tally`` is this worker's own if None. ``soon`` calls
        what it is given at the end of the turn: how connections ended is then sent together."""
        self.feed = feed
        self.tally = tally or Tally()
        self.ledger = ledger
        self.kept = kept
        self._carried = 0
        self._owed = 0
        self._flushing: asyncio.TimerHandle | None = None
        self._soon = soon
        self._ending = False
        self._room: asyncio.Future[None] | None = None
        self.wordings = Wordings()
        self._refusals = Bucket(*REFUSALS, now())
        self._sums = Sums(self)
        self._held = 0
        self._notes = Notes()

    @property
    def generation(self) -> int:
        """Of the policy that decides now."""
        return self.wordings.generation

    @generation.setter
    def generation(self, number: int) -> None:
        self._sums.flush()  # each is of one policy
        self.wordings.turn(number)

    @property
    def waits(self) -> bool:
        """Whether records wait for the keeper: no more connections should be accepted until it has taken them."""
        return self.feed.waiting or self._room is not None

    async def room(self) -> None:
        """Return when there may be room in the keeper's pipe again."""
        if self._room is None:
            self._room = asyncio.get_running_loop().create_future()
            self._flush_soon()
        await self._room

    def note(self, who: bytes, dest: Endpoint) -> int | None:
        """Note an accepted connection, of ``audit.brief.whose``, in the ledger: its slot there. None where no more can be noted."""
        return self.ledger.open(self._notes.of(who, dest))

    def blocked(self, flow: Flow, reason: Reason) -> None:
        """Record a refusal that never became an attempt."""
        self.tally.refused(reason)
        self.refused(decision_record(flow, refuse(reason), None))

    def refused(self, record: Record, slot: int | None = None) -> bool:
        """Send the record of a refusal; as one of a sum where there were too many. False where it is lost, and counted."""
        moment = now()
        if self._refusals.holds(1, moment):
            self._refusals.take(1)
            return self.send(record, slot)
        alike = tuple([record[field] for field in ALIKE])
        if not self._sums.apart(alike):
            alike = (record["rule"], record["reason"])
            record |= NOBODYS
        self._sums.add(
            alike, {field: record[field] for field in record if field not in OF_ONE} | {"src_port": 0}
        )
        if slot is not None:  # when it is owed already: one too many for a kill in between, and none too few
            self.ledger.close(slot)
        return True

    def offer(self, record: Record) -> bool:
        """Hand one record over now, or not at all: what cannot be recorded must not leave."""
        self._date(record)
        return self.feed.offer(record)

    def begin(self, slot: int) -> None:
        """An allowed connection is about to be handed over, and to be carried: its end is owed. Whoever is killed from here on has said so."""
        self._carried += 1
        self._owe()
        self.ledger.offering(slot)

    def take_back(self, slot: int) -> None:
        """It was not taken."""
        self.ledger.unsent(slot)
        self._carried -= 1
        self._owe()

    def begun(self, slot: int) -> None:
        """It was, with all ends that waited for a line to go with: until here, a kill has them counted as lost too."""
        self._note_owed()
        self.ledger.close(slot)

    def ended(self, line: bytes) -> None:
        """It has ended, as ``line`` tells."""
        self._carried -= 1
        self.feed.later(line)
        if self._soon is None:
            self._end_turn()
        elif not self._ending:
            self._ending = True
            self._soon(self._end_turn)

    def _end_turn(self) -> None:
        self._ending = False
        self.feed.flush()
        self._note_owed()
        self._flush_soon()

    def _note_owed(self) -> None:
        self.tally.carried(self._carried)
        self._owe()

    def _owe(self) -> None:
        """Where whoever survives this process finds it."""
        owed = self._carried + self.feed.unsent + self._held
        if owed != self._owed:
            self._owed = owed
            self.ledger.owe(owed)

    def send(self, record: Record, slot: int | None = None) -> bool:
        """Send one record, now or as soon as there is room; then ``slot`` is cleared. False where it is lost, and counted."""
        self._date(record)
        if slot is None:
            taken = self.feed.send(record)
        else:
            taken = self.feed.send(record, lambda: self.ledger.close(slot))
            if not taken:
                self.ledger.close(slot)
        if self.feed.waiting:
            self._note_owed()
            self._note_waiting()
            self._flush_soon()
        return taken

    def hold(self, count: int) -> None:
        """So many more wait in a sum, this journal's or another's; fewer, where it is below 0. They would be lost with this process."""
        self._held += count
        self._owe()

    def _date(self, record: Record) -> None:
        """By the policy in force; the end of a connection keeps the one that it was allowed under."""
        if self.generation != 1 and "reason" in record:
            record["generation"] = self.generation

    def _flush_soon(self) -> None:
        """What waits for room in the pipe must not wait for the next record."""
        if self.waits and self._flushing is None:
            self._flushing = asyncio.get_running_loop().call_later(FLUSH_S, self._flush)

    def flush(self) -> None:
        """Send what waits, sums too, as far as there is room, and wake who waits for room."""
        self._sums.flush()
        if self._flushing is not None:
            self._flushing.cancel()
        self._flush()

    def _flush(self) -> None:
        self._flushing = None
        self.feed.flush()
        if self._room is not None and not self.feed.waiting:
            room, self._room = self._room, None
            if not room.done():  # a task, which no strand is, takes it along when it is cancelled
                room.set_result(None)
        self._note_owed()
        self._note_waiting()
        self._flush_soon()

    def _note_waiting(self) -> None:
        self.tally.words[WAITING] = self.feed.backlog


class Counting:
    """The journal of those whose records are no connections' (the kernel's, DNS): it counts what they say."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def offer(self, record: Record) -> bool:
        """As ``Journal.offer``. Counted if it is taken: else another is written in its place."""
        taken = self._journal.offer(record)
        if taken:
            self._journal.tally.record(record)
        return taken

    def send(self, record: Record) -> bool:
        """As ``Journal.send``. Counted in any case: what is lost of it was decided all the same."""
        self._journal.tally.record(record)
        return self._journal.send(record)

    def hold(self, count: int) -> None:
        """As ``Journal.hold``. They are counted with their sum."""
        self._journal.hold(count)
