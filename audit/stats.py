"""Records added up: what was let out, what was refused, whose, why, when. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from audit.record import Event, Record

DISTINCT: Final = 100_000
"""A workload can invent names without end; those beyond are counted as ``OTHERS``."""
OTHERS: Final = "(others)"
ALLOWED, BLOCKED = "allowed", "blocked"
VERDICTS: Final = {
    Event.ALLOWED: ALLOWED,
    Event.DNS_ALLOWED: ALLOWED,
    Event.BLOCKED: BLOCKED,
    Event.DNS_BLOCKED: BLOCKED,
}
CONNECTIONS: Final = (Event.ALLOWED, Event.BLOCKED)


@dataclass(slots=True)
class Stats:
    """Sums. Attempts, not lines: one that stands for several counts so often."""

    first: str | None = None
    last: str | None = None
    records: int = 0
    events: Counter[str] = field(default_factory=Counter)
    blocked: Counter[str] = field(default_factory=Counter)
    """Connections refused, by name, or by address where none was seen."""
    allowed: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    """Of refused connections and queries."""
    rules: Counter[str] = field(default_factory=Counter)
    sandboxes: dict[str, Counter[str]] = field(default_factory=dict)
    """Connections allowed and blocked."""
    hours: dict[str, Counter[str]] = field(default_factory=dict)
    """``2026-11-23T07`` (UTC): connections allowed and blocked."""
    bytes_up: int = 0
    bytes_down: int = 0
    lost: int = 0

    def add(self, record: Record) -> None:
        """One record more."""
        event, moment = record.get("event"), str(record.get("timestamp", ""))
        times = record.get("count", 1)
        times = times if type(times) is int and times > 0 else 1
        self.records += 1
        self.first = moment if self.first is None else min(self.first, moment)
        self.last = moment if self.last is None else max(self.last, moment)
        self.events[str(event)] += times if event != Event.LOST else 1
        if event == Event.LOST:
            self.lost += times
        elif event == Event.CLOSED:
            self.bytes_up += _number(record, "bytes_up")
            self.bytes_down += _number(record, "bytes_down")
        if event in (Event.BLOCKED, Event.DNS_BLOCKED):
            _count(self.reasons, record.get("reason"), times)
            _count(self.rules, record.get("rule"), times)
        if event in CONNECTIONS:
            self._connection(record, moment, VERDICTS[Event(str(event))], times)

    def _connection(self, record: Record, moment: str, verdict: str, times: int) -> None:
        where = record.get("domain") or record.get("dest_ip") or "(several)"
        _count(self.blocked if verdict == BLOCKED else self.allowed, where, times)
        _within(self.sandboxes, str(record.get("sandbox")))[verdict] += times
        _within(self.hours, moment[:13])[verdict] += times

    def to_dict(self, top: int) -> dict[str, Any]:
        """Plain data, the ``top`` largest of each."""
        return {
            "first": self.first,
            "last": self.last,
            "records": self.records,
            "lost": self.lost,
            "bytes_up": self.bytes_up,
            "bytes_down": self.bytes_down,
            "events": dict(self.events),
            "blocked": dict(largest(self.blocked, top)),
            "allowed": dict(largest(self.allowed, top)),
            "reasons": dict(largest(self.reasons, top)),
            "rules": dict(largest(self.rules, top)),
            "sandboxes": {name: dict(self.sandboxes[name]) for name, _ in busiest(self.sandboxes, top)},
            "hours": {name: dict(self.hours[name]) for name in sorted(self.hours)},
        }


def add_up(records: Iterable[Record]) -> Stats:
    """All of them."""
    stats = Stats()
    for record in records:
        stats.add(record)
    return stats


def largest(counted: Counter[str], top: int) -> list[tuple[str, int]]:
    """The ``top`` of them; of equal ones, by name."""
    return sorted(counted.items(), key=lambda item: (-item[1], item[0]))[:top]


def busiest(counted: Mapping[str, Counter[str]], top: int) -> list[tuple[str, Counter[str]]]:
    """Those with most refusals, then most of all."""
    return sorted(counted.items(), key=lambda item: (-item[1][BLOCKED], -item[1].total(), item[0]))[:top]


def _number(record: Record, name: str) -> int:
    value = record.get(name)
    return value if type(value) is int and value > 0 else 0


def _count(counter: Counter[str], key: object, times: int) -> None:
    word = str(key)
    counter[word if word in counter or len(counter) < DISTINCT else OTHERS] += times


def _within(groups: dict[str, Counter[str]], key: str) -> Counter[str]:
    if key not in groups and len(groups) >= DISTINCT:
        key = OTHERS
    return groups.setdefault(key, Counter())
