"""Queries on record: a line each within a budget, beyond it one line for all that were decided alike, so that no flood can fill the disk."""

import time
from collections.abc import Callable
from typing import NamedTuple

import dns.rdatatype

from audit.record import Event, Record, query
from gateway.dns.budget import RECORDED, Budget
from gateway.dns.guard import Question, Rule
from gateway.flow import Endpoint
from gateway.sums import Sink, Sums


class _Alike(NamedTuple):
    event: Event
    rule: Rule
    name: str | None = None
    kind: int | None = None


class QueryRecords:
    """Writes the queries of one sandbox down."""

    def __init__(
        self,
        sink: Sink,
        sandbox: str,
        resolver: Endpoint,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sink = sink
        self._sandbox = sandbox
        self._dest = (str(resolver.ip), resolver.port)
        self._budget = Budget(*RECORDED, clock)
        self._sums = Sums(sink)

    def offer(self, rule: Rule, question: Question, client: Endpoint, proto: str) -> bool:
        """Record a query that is about to leave: False where that cannot be, and then it must not."""
        return self._sink.offer(self._record(rule, question, client, proto))

    def note(self, rule: Rule, question: Question, client: Endpoint, proto: str) -> None:
        """Record a query for which nothing leaves, by a line of its own or as one of many."""
        record = self._record(rule, question, client, proto)
        if self._budget.admits(len(question.name or question.raw)):
            self._sink.send(record)
            return
        alike = _Alike(record["event"], rule, question.name, question.kind)
        if not self._sums.apart(alike):
            alike = _Alike(record["event"], rule)
            record |= {"domain": None, "qtype": None}
        record.pop("domain_raw", None)
        self._sums.add(alike, record | {"src_port": 0})

    def flush(self) -> None:
        """Write the sums down."""
        self._sums.flush()

    def _record(self, rule: Rule, question: Question, client: Endpoint, proto: str) -> Record:
        return query(
            time.time_ns(),
            Event.DNS_ALLOWED if rule.allowed else Event.DNS_BLOCKED,
            sandbox=self._sandbox,
            source=(str(client.ip), client.port),
            dest=self._dest,
            proto=proto,
            domain=question.name,
            domain_raw=question.raw,
            qtype=dns.rdatatype.to_text(dns.rdatatype.RdataType(question.kind)) if question.kind else None,
            rule=rule.entry,
            reason=str(rule.reason),
        )
