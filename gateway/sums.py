"""Records of what comes more often than is worth a line each: those that were decided alike are counted, and one line stands for them all."""

import asyncio
import time
from collections.abc import Hashable
from typing import Final, Protocol

from audit.record import Record, timestamp

AGGREGATE_S: Final = 10.0
"""How long they are counted before their sum is written."""
APART: Final = 16
"""That are counted apart in that time; the rest share what is less particular."""
REFUSALS: Final = (10.0, 1000.0)
"""That get a line of their own: so many a second, and so many at once."""


class Sink(Protocol):
    """Takes records: ``gateway.journal.Journal``."""

    def offer(self, record: Record) -> bool:
        """Now, or not at all."""

    def send(self, record: Record) -> bool:
        """Now, or as soon as there is room."""

    def hold(self, count: int) -> None:
        """So many more that are decided wait for a sum to be written; fewer, where it is below 0."""


class Sums:
    """``sink`` takes each sum when its time has come, or at ``flush``; until then it knows how many would be lost with this process."""

    def __init__(self, sink: Sink, most: int = APART) -> None:
        self._sink = sink
        self._most = most
        self._sums: dict[Hashable, Record] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False

    def apart(self, alike: Hashable) -> bool:
        """Whether those that are ``alike`` can be counted apart."""
        return alike in self._sums or len(self._sums) < self._most

    def add(self, alike: Hashable, record: Record, count: int = 1) -> None:
        """``record``: what the line will say, if these are the first."""
        known = self._sums.get(alike)
        if known is None:
            known = self._sums[alike] = record | {"count": 0}
        known["count"] += count
        self._sink.hold(count)
        if self._timer is None and not self._stopped:
            self._timer = asyncio.get_running_loop().call_later(AGGREGATE_S, self.flush)

    def flush(self) -> None:
        """Write them down. A sum of one is a line like any other."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        sums = list(self._sums.values())
        self._sums.clear()
        moment = timestamp(time.time_ns())
        for record in sums:
            count = record["count"]
            if count == 1 and record["dest_ip"] is not None:
                del record["count"]
            self._sink.send(record | {"timestamp": moment})
            self._sink.hold(
                -count
            )  # only now: one that dies in between has some counted twice, and none not at all

    def stop(self) -> None:
        """Write them down; what comes after this waits for a ``flush``."""
        self._stopped = True
        self.flush()
