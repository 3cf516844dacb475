"""What the person who ran a command wants to know at its end: how much was let out, and what was refused."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

DISTINCT: Final = 1000
"""A workload can invent names without end; beyond these only the number is kept."""
SHOWN: Final = 10


class Summary:
    """Counts decision records as they are kept."""

    def __init__(self) -> None:
        self.allowed = 0
        self.blocked = 0
        self.kept_back = 0
        """DNS queries that did not leave."""
        self.lost = 0
        self.unwritten = 0
        """What the keeper of the records itself could not write."""
        self._beyond = False
        self._refused: Counter[str] = Counter()

    def count(self, record: Mapping[str, object]) -> None:
        """Take one record into account; events that decide nothing are ignored."""
        event = record.get("event")
        if event == "egress_allowed":
            self.allowed += _times(record)
        elif event == "egress_blocked":
            times = _times(record)
            self.blocked += times
            what = f"{record.get('domain') or record.get('dest_ip')}:{record.get('dest_port')} ({record.get('reason')})"
            if what in self._refused or len(self._refused) < DISTINCT:
                self._refused[what] += times
            else:
                self._beyond = True
        elif event == "dns_blocked":
            self.kept_back += _times(record)
        elif event == "audit_lost":
            self.lost += _times(record)

    def lines(self, records: str | None) -> Iterator[str]:
        """For stderr; ``records`` is where they were written, None if audit is off."""
        yield f"{self.allowed} allowed, {self.blocked} blocked" + (
            f"; records in {records}" if records else ""
        )
        for what, times in self._refused.most_common(SHOWN):
            yield f"blocked {what}" + (f", {times} times" if times > 1 else "")
        if len(self._refused) > SHOWN:
            more = f"{len(self._refused) - SHOWN}{' or more' if self._beyond else ''}"
            yield f"... and {more} other destinations" + (": see the records" if records else "")
        if self.kept_back:
            yield f"{self.kept_back} DNS queries kept back"
        if lost := self.lost + self.unwritten:
            yield f"{lost} records could not be written"


def _times(record: Mapping[str, object]) -> int:
    """How many the record stands for."""
    count = record.get("count")
    return count if isinstance(count, int) else 1
