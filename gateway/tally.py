"""What a worker counts, in memory that outlives it: whoever forked it reads the same words at any time, and asks it nothing.

A count is one addition to one 64-bit word, for it is made on the path of every connection. Only one process adds at a time: the worker, or,
between two workers, the one that forks them. Counters go on from worker to worker and never fall; gauges are of the worker that lives. A worker
that was taken over can write here what it likes, so this is for looking at, never for deciding.
"""

import mmap
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Final, NamedTuple

from audit.record import EndedBy, Event, Phase, Record
from gateway.reasons import ALLOWING, Reason

LAYERS: Final = ("proxy", "kernel", "dns")
BOUNDS_US: Final = (
    *(50, 100, 250, 500),
    *(1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000),
    *(1_000_000, 2_500_000, 5_000_000, 10_000_000),
)
"""Upper bounds of the latencies' buckets. The last but one is the deadline of a decision, the last that of a connect."""

MOST: Final = 2**62
"""Of anything that can be counted in this world."""

ACCEPTED: Final = 0
CARRIED: Final = 1
"""Gauge: connections that are allowed and have not ended."""
WAITING: Final = 2
"""Gauge: records that wait in the worker for room in the pipe."""
BYTES_UP: Final = 3
BYTES_DOWN: Final = 4
_DECIDED: Final = 5
_CLOSED: Final = _DECIDED + len(LAYERS) * len(Reason)
_DECISION: Final = _CLOSED + len(EndedBy) * len(Phase)
_CONNECT: Final = _DECISION + len(BOUNDS_US) + 2
_WORDS: Final = _CONNECT + len(BOUNDS_US) + 2

_BOUNDS_NS: Final = tuple(bound * 1000 for bound in BOUNDS_US)
_SUM: Final = len(BOUNDS_US) + 1
"""Of a histogram's words: behind those of its buckets, the last of which has no bound."""
_ROWS: Final[Mapping[str, Mapping[Reason, int]]] = {
    layer: {reason: word for word, reason in enumerate(Reason, _DECIDED + number * len(Reason))}
    for number, layer in enumerate(LAYERS)
}
_PROXY: Final = _ROWS["proxy"]
_ENDS: Final = {
    (ended_by, phase): _CLOSED + number * len(Phase) + offset
    for number, ended_by in enumerate(EndedBy)
    for offset, phase in enumerate(Phase)
}


class Decided(NamedTuple):
    """How often one layer decided for one reason."""

    layer: str
    allowed: bool
    reason: Reason
    times: int


class Latencies(NamedTuple):
    """A histogram: ``at_most[n]`` took ``BOUNDS_US[n]`` or less, of ``total`` that took ``sum_s`` seconds together."""

    at_most: tuple[int, ...]
    total: int
    sum_s: float


class Count(NamedTuple):
    """All that was counted, at one moment."""

    accepted: int
    carried: int
    waiting: int
    bytes_up: int
    bytes_down: int
    decided: tuple[Decided, ...]
    closed: Mapping[tuple[EndedBy, Phase], int]
    decision: Latencies
    """From accept to decision."""
    connect: Latencies
    """From the first packet to the upstream until it stands."""


class Tally:
    """The words, in anonymous shared memory."""

    __slots__ = ("words",)

    def __init__(self) -> None:
        self.words = memoryview(mmap.mmap(-1, 8 * _WORDS)).cast("Q")

    def decided(self, reason: Reason, took_ns: int) -> None:
        """A connection was decided, so long after it was accepted."""
        words = self.words
        words[_PROXY[reason]] += 1
        words[_DECISION + bisect_left(_BOUNDS_NS, took_ns)] += 1
        words[_DECISION + _SUM] += took_ns

    def refused(self, reason: Reason) -> None:
        """A connection was refused that nothing was read of."""
        self.words[_PROXY[reason]] += 1

    def connected(self, took_ns: int) -> None:
        """An upstream answered."""
        words = self.words
        words[_CONNECT + bisect_left(_BOUNDS_NS, took_ns)] += 1
        words[_CONNECT + _SUM] += took_ns

    def closed(self, ended_by: EndedBy, phase: Phase, up: int, down: int) -> None:
        """A connection that was allowed has ended."""
        words = self.words
        words[_ENDS[ended_by, phase]] += 1
        words[BYTES_UP] += up
        words[BYTES_DOWN] += down

    def record(self, record: Record) -> None:
        """What a record of the kernel's decisions or of a DNS query says, for as many as it stands for; others say nothing here."""
        if record["event"] != Event.LOST:
            self.words[_ROWS[record["layer"]][Reason(record["reason"])]] += record.get("count", 1)

    def bury(self) -> None:
        """Of a worker that has died nothing lives; and whatever it may have scribbled, there is room to go on counting."""
        words = self.words
        words[CARRIED] = words[WAITING] = 0
        for word, value in enumerate(words):
            if value > MOST:
                words[word] = MOST

    def read(self) -> Count:
        """What was counted by now."""
        words = self.words.tolist()
        decided = tuple(
            Decided(layer, reason in ALLOWING, reason, words[word])
            for layer, row in _ROWS.items()
            for reason, word in row.items()
        )
        return Count(
            accepted=words[ACCEPTED],
            carried=words[CARRIED],
            waiting=words[WAITING],
            bytes_up=words[BYTES_UP],
            bytes_down=words[BYTES_DOWN],
            decided=decided,
            closed={end: words[word] for end, word in _ENDS.items()},
            decision=_latencies(words[_DECISION:_CONNECT]),
            connect=_latencies(words[_CONNECT:]),
        )


def _latencies(words: Sequence[int]) -> Latencies:
    *at_most, total = accumulate(words[:_SUM])
    return Latencies(tuple(at_most), total, words[_SUM] / 1e9)
