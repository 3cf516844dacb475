"""From accept to record: each accepted connection leaves exactly one decision, whatever becomes of it or of this process.

An attempt is noted in the ledger, which outlives this process, before anything else happens; its decision is handed to the process that keeps the
records before anything is sent upstream; only then is the note cleared.
"""

import asyncio
from types import TracebackType
from typing import Final

from audit.brief import FORM_MARK, closed_line, whose
from audit.record import EndedBy, Phase, moment
from gateway.decide import Decision, Verdict, refuse
from gateway.flow import Flow, IPAddress
from gateway.journal import Journal
from gateway.net.clock import now_ns
from gateway.net.relay import Counts, Ended, Relayed
from gateway.net.sockets import Sock
from gateway.reasons import Reason
from gateway.sniff.naming import Naming
from gateway.sniff.result import Refused, Sniffed
from gateway.wording import Wording, decision_record, milliseconds, quoted, wall_ns

KEPT_S: Final = 10.0
"""How long an allowed connection waits for its record to be on the disk, where it must be."""

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

    def __init__(self, journal: Journal, flow: Flow, source: str, who: bytes, slot: int) -> None:
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
            self.refused(refuse(Reason.SHUTDOWN if stopping else Reason.INTERNAL_ERROR), None)
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

    def refused(self, made: Decision, seen: Sniffed | Refused | None) -> bool:
        """Hand over that ``made`` refuses it. False where the record is lost, and counted; it may wait its turn, noted in the ledger meanwhile."""
        journal = self._journal
        record = decision_record(self.flow, made, seen)
        self._decided = True
        self.made, self.seen = made, seen
        journal.ledger.sending(self._slot)
        journal.tally.decided(made.reason, now_ns() - self._started_ns)
        return journal.refused(record, self._slot)

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


def opened(journal: Journal, flow: Flow) -> Attempt | None:
    """The attempt of an accepted connection; None where no more can be noted, so that it must be refused."""
    source = flow.source.ip.compressed
    who = whose(source, flow.source.port, flow.id)
    slot = journal.note(who, flow.dest)
    return None if slot is None else Attempt(journal, flow, source, who, slot)
