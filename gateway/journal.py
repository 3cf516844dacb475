"""From accept to record: each accepted connection leaves exactly one decision, whatever becomes of it or of this process.

An attempt is noted in the ledger, which outlives this process, before anything else happens; its decision is handed to the process that keeps the
records before anything is sent upstream; only then is the note cleared.
"""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Final

from audit.brief import FORM_MARK, closed_line, whose
from audit.feed import Feed
from audit.ledger import Ledger
from audit.record import EndedBy, Phase, Record, moment
from gateway.burial import Notes
from gateway.decide import Decision, Verdict, refuse
from gateway.dns.budget import Bucket
from gateway.flow import Flow, IPAddress
from gateway.net.poller import now, now_ns
from gateway.net.progress import Progress
from gateway.net.relay import Counts, Ended, Relayed
from gateway.net.sockets import Sock
from gateway.reasons import Reason
from gateway.sniff.naming import Naming
from gateway.sniff.result import Refused, Sniffed
from gateway.sums import REFUSALS, Sums
from gateway.tally import WAITING, Tally
from gateway.wording import Wording, Wordings, milliseconds, quoted, wall_ns
from gateway.wording import decision_record as decision_record

KEPT_S: Final = 10.0
"""How long an allowed connection waits for its record to be on the disk, where it must be."""
FLUSH_S: Final = 0.05
"""How often room in the pipe is looked for while records wait."""

ALIKE: Final = ("rule", "reason", "domain", "dest_ip", "dest_port", "app")
"""Of refusals: those that are the same in these are one sum."""
NOBODYS: Final = {"domain": None, "domain_source": None, "dest_ip": None, "dest_port": 0, "app": None}
"""In the sum of all others."""
OF_ONE: Final = frozenset(("domain_raw", "ech", "dest_mismatch"))
"""What no sum tells."""

ALLOW: Final = Verdict.ALLOW
SNIFF: Final = Phase.SNIFF
ERROR: Final = EndedBy.ERROR
CLIENT: Final = EndedBy.CLIENT
UPSTREAM: Final = EndedBy.UPSTREAM
ORDERLY: Final = Ended.ORDERLY
FAILED: Final = Ended.FAILED
"""By name: see ``gateway.session``."""


class Attempt(Counts):
    """One accepted connection's way into the records, and the bytes that passed. Leaving it as a context manager writes what is still owed."""

    __slots__ = (
        "_decided",
        "_journal",
        "_number",
        "_slot",
        "_source",
        "_started_ns",
        "_who",
        "_wording",
        "ended_by",
        "flow",
        "made",
        "naming",
        "phase",
        "revoked",
        "seen",
        "upstream_ip",
    )

    def __init__(self, journal: "Journal", flow: Flow, source: str, who: bytes, slot: int) -> None:
        """``source``: the text of the address that it comes from; ``who``: as ``audit.brief.whose`` has it."""
        self.up = self.down = 0
        self._journal = journal
        self.flow = flow
        self._source = source
        self._who = who
        self._slot = slot
        self._started_ns = now_ns()
        self._wording: Wording | None = None
        self._number = 0
        self._decided = False
        self.phase = SNIFF
        self.ended_by = ERROR
        self.upstream_ip: IPAddress | None = None
        self.naming: Naming | None = None
        """Who looks for a name that passes, where none decided."""
        self.made: Decision | None = None
        """The decision that is on record, and what it was made with."""
        self.seen: Sniffed | Refused | None = None
        self.revoked = False
        """Whether a later policy refuses what this one allowed."""

    def __enter__(self) -> "Attempt":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stopping = kind is not None and issubclass(kind, asyncio.CancelledError)
        if stopping and self.revoked:
            self.ended_by, stopping = EndedBy.POLICY, False
        if not self._decided:
            self.decided(refuse(Reason.SHUTDOWN if stopping else Reason.INTERNAL_ERROR), None)
        if self._wording is not None:
            ended_by = EndedBy.SHUTDOWN if stopping else self.ended_by
            self._journal.tally.closed(ended_by, self.phase, self.up, self.down)
            self._journal.ended(self._end(self._wording, ended_by))

    def carried(self, relayed: Relayed, client: Sock) -> None:
        """Its relay has ended; ``client`` is the side that began it."""
        if relayed.why is ORDERLY or relayed.why is FAILED:
            self.ended_by = CLIENT if relayed.first is client else UPSTREAM
        else:
            self.ended_by = EndedBy.POLICY if relayed.why is Ended.FORBIDDEN else EndedBy.TIMEOUT

    def _end(self, wording: Wording, ended_by: EndedBy) -> bytes:
        ended, ms = moment(wall_ns()), milliseconds(now_ns() - self._started_ns)
        upstream = wording.upstream(self.upstream_ip)
        named = self.naming is not None and self.naming.host is not None and wording.made.host is None
        if not named and self._journal.wordings.remembered(wording):
            return closed_line(
                wording.form, ended, self._who, upstream, self.up, self.down, ms, ended_by, self.phase
            )
        domain = quoted(self.naming.host) if named and self.naming is not None else wording.host
        who = self._source, self.flow.source.port, domain, upstream.decode(), self.flow.id
        return wording.ended(ended.decode(), *who, self.up, self.down, ms.decode(), ended_by, self.phase)

    def offered(self, made: Decision, seen: Sniffed | Refused | None) -> bool:
        """Hand over that ``made`` allows it. False where the keeper has no room for that now: nothing is decided then, and nothing may be carried.

        It must be in the keeper's pipe before anything is carried, or it is no longer an allowed one.
        """
        journal, slot, flow = self._journal, self._slot, self.flow
        wording = journal.wordings.of(flow, made, seen)
        line = wording.decided(self._source, flow, self._who)
        journal.begin(slot)
        if not journal.feed.put(line):
            journal.take_back(slot)
            return False
        self._decided = True
        self.made, self.seen = made, seen
        journal.tally.decided(made.reason, now_ns() - self._started_ns)
        journal.begun(slot)
        if not wording.told:
            wording.told = line[0] == FORM_MARK
        self._wording, self._number = wording, journal.feed.sent
        return True

    async def room(self) -> None:
        """Return when what was not taken may be offered again."""
        await self._journal.room()

    def decided(self, made: Decision, seen: Sniffed | Refused | None) -> bool:
        """Hand the decision to the keeper of the records. False where it was not taken: then nothing may be carried.

        A refusal may wait its turn, and is noted in the ledger as long as it does; an allowed one that cannot be handed over now is one.
        """
        allowed = made.verdict is ALLOW
        if allowed and self.offered(made, seen):
            return True
        if allowed:
            made = refuse(Reason.LIMIT)._replace(host=made.host)
        journal = self._journal
        record = decision_record(self.flow, made, seen)
        self._decided = True
        self.made, self.seen = made, seen
        journal.ledger.sending(self._slot)
        journal.tally.decided(made.reason, now_ns() - self._started_ns)
        return journal.refused(record, self._slot) and not allowed

    def connected(self, took_ns: int) -> None:
        """The upstream answered, so long after it was first asked."""
        self._journal.tally.connected(took_ns)

    @property
    def to_be_kept(self) -> bool:
        """Whether the record of an allowed connection must be on the disk before anything is carried: then await ``is_kept``."""
        return self._journal.kept is not None

    async def is_kept(self) -> bool:
        """Whether the record that was handed over is on the disk, once it is; False where that takes too long."""
        kept = self._journal.kept
        if kept is None:
            return True
        self.phase = Phase.DECIDE
        if await kept.reaches(self._number, KEPT_S):
            return True
        self.ended_by = EndedBy.TIMEOUT
        return False


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
        self._sums = Sums(self._send_sum)
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

    def open(self, flow: Flow) -> Attempt | None:
        """Note an accepted connection; None where no more can be noted, so that it must be refused."""
        source = flow.source.ip.compressed
        who = whose(source, flow.source.port, flow.id)
        slot = self.ledger.open(self._notes.of(who, flow.dest))
        return None if slot is None else Attempt(self, flow, source, who, slot)

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
        self._owe()  # before the slot is cleared: one too many for a kill in between, and none too few
        if slot is not None:
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
        owed = self._carried + self.feed.unsent + self._sums.held
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

    def _send_sum(self, record: Record) -> None:
        self.send(record)
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
