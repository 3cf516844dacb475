"""What a dead worker left: attempts that it noted in the ledger and did not live to decide. Whoever forked it writes them down."""

import time

from audit.claim import rebuilt
from audit.ledger import Ledger
from audit.log import AuditLog
from audit.record import Event, Record, decision
from gateway.flow import Endpoint
from gateway.reasons import Reason
from gateway.summary import Summary
from gateway.tally import Tally


class Notes:
    """Attempts as the ledger has them. Where the last one went is put into words already: many go there."""

    __slots__ = ("_dest", "_text")

    def __init__(self) -> None:
        self._dest: Endpoint | None = None
        self._text = b""

    def of(self, who: bytes, dest: Endpoint) -> bytes:
        """``who``: as ``audit.brief.whose`` has it."""
        if dest is not self._dest:
            self._dest = dest
            self._text = f"|{dest.ip}|{dest.port}".encode()
        return who + self._text


def bury(
    ledger: Ledger,
    log: AuditLog | None,
    sandbox: str,
    summary: Summary,
    generation: int = 1,
    tally: Tally | None = None,
) -> None:
    """Write down what a dead worker left undecided under the policy of ``generation``, count what it owed, and make the ledger ready for the next.
    What it says is not trusted."""
    missing = ledger.missing()
    left = [(leftover, _attempt(leftover.payload, sandbox, generation)) for leftover in ledger.leftovers()]
    ledger.reset()
    arrived: set[str] = set()
    if log is not None:
        arrived = log.decided({record["flow"] for one, record in left if one.sending and record is not None})
        # What was not allowed after all has no end.
        missing -= sum(
            one.offering and (record is None or record["flow"] not in arrived) for one, record in left
        )
        if missing > 0:
            log.count_lost(missing)
    for one, record in left:
        sending = one.sending
        if record is None:
            if log is not None:
                log.count_lost(1)
        elif not (sending and record["flow"] in arrived):
            if log is not None:
                log.write(record)
            summary.count(record)
            if tally is not None and not sending:  # else it counted its decision before it died
                tally.refused(Reason.WORKER_DIED)


def _attempt(payload: bytes, sandbox: str, generation: int) -> Record | None:
    """The record of one that only the ledger knows of; None where the ledger was scribbled on."""
    nothing, *parts = payload.decode("ascii", "replace").split("|")
    if nothing or len(parts) != 5 or not (parts[1].isdigit() and parts[4].isdigit()):
        return None
    claim = decision(
        time.time_ns(),
        Event.BLOCKED,
        sandbox=sandbox,
        flow=parts[2],
        source=(parts[0], int(parts[1])),
        dest=(parts[3], int(parts[4])),
        rule="limit",
        reason=str(Reason.WORKER_DIED),
        generation=generation,
    )
    return rebuilt(claim, sandbox)
