"""A journal, the pipe and the ledger that it writes to, and the keeper behind them."""

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from audit.feed import Feed, Intake, open_pipe
from audit.ledger import Ledger
from audit.log import AuditLog
from gateway.attempt import Attempt, opened
from gateway.burial import bury
from gateway.decide import Decision, Verdict
from gateway.flow import Flow
from gateway.journal import Journal
from gateway.sniff.result import Refused, Sniffed
from gateway.summary import Summary
from tests.audit.day import today
from tests.gateway.deciding import flow_to, said

DECISIONS = ("egress_allowed", "egress_blocked")
ALLOW = said("2", "allow_out[0] 203.0.113.0/24", None)
BLOCK = said("4*", "", None)._replace(host="evil.example")


class Desk:
    """A journal, and all that is behind it."""

    def __init__(self, directory: Path, slots: int = 64) -> None:
        self.read_end, self.write_end = open_pipe()
        self.ledger = Ledger(slots)
        self.log = AuditLog(directory, clock=today())
        self.summary = Summary()
        self.intake = Intake(self.read_end, self.log, self.summary.count, sandbox="agent-1")
        self.journal = Journal(Feed(self.write_end), self.ledger)
        self._opened = 0

    def open(self, flow: Flow | None = None) -> Attempt:
        """An attempt with a flow id of its own."""
        self._opened += 1
        attempt = opened(self.journal, flow or self.flow(self._opened))
        assert attempt is not None
        return attempt

    def flow(self, number: int) -> Flow:
        template = flow_to("203.0.113.9")
        return Flow(f"ab-{number:x}", template.sandbox, template.source, template.dest)

    def shrink(self) -> None:
        fcntl.fcntl(self.write_end, fcntl.F_SETPIPE_SZ, 4096)

    def stuff(self) -> None:
        """Fill the pipe to the last byte with what is passed over."""
        while True:
            try:
                os.write(self.write_end, b"\n")
            except BlockingIOError:
                return

    def keep(self) -> None:
        self.intake.drain()
        self.log.flush()

    def bury(self) -> None:
        self.keep()
        bury(self.ledger, self.log, "agent-1", self.summary)

    def records(self) -> list[dict[str, Any]]:
        self.keep()
        return [json.loads(line) for line in self.log.path.read_text().splitlines()]

    def decisions(self) -> list[dict[str, Any]]:
        return [record for record in self.records() if record["event"] in DECISIONS]

    def close(self) -> None:
        os.close(self.write_end)
        self.intake.close()
        self.log.close()


def decide(attempt: Attempt, made: Decision, seen: Sniffed | Refused | None) -> bool:
    """As a session does; whether it was taken."""
    return attempt.offered(made, seen) if made.verdict is Verdict.ALLOW else attempt.refused(made, seen)
