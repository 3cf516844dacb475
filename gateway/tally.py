"""What a worker counts, in memory that outlives it: whoever forked it reads the same words at any time, and asks it nothing.

A count is one addition to one 64-bit word, for it is made on the path of every connection; of most there is one a turn. Only one process adds at a
time: the worker, or, between two workers, the one that forks them. Counters go on from worker to worker and never fall; gauges are of the worker that
lives. A worker that was taken over can write here what it likes, so this is for looking at, never for deciding.
"""

import mmap
from collections.abc import Callable, Mapping, Sequence
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

_BOUNDS_NS: Final = [bound * 1000 for bound in BOUNDS_US]
_SUM: Final = len(BOUNDS_US) + 1
"""Of a histogram's words: behind those of its buckets, the last of which has no bound."""
_ROWS: Final[Mapping[str, Mapping[Reason, int]]] = {
    layer: {reason: word for word, reason in enumerate(Reason, _DECIDED + number * len(Reason))}
    for number, layer in enumerate(LAYERS)
}
_PROXY: Final = _ROWS["proxy"]
_ENDS: Final[Mapping[EndedBy, Mapping[Phase, int]]] = {
    ended_by: {phase: _CLOSED + number * len(Phase) + offset for offset, phase in enumerate(Phase)}
    for number, ended_by in enumerate(EndedBy)
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

    __slots__ = (
        "_carried",
        "_connect_ns",
        "_decision_ns",
        "_down",
        "_due",
        "_more",
        "_soon",
        "_touched",
        "_up",
        "words",
    )

    def __init__(self) -> None:
        self.words = memoryview(mmap.mmap(-1, 8 * _WORDS)).cast("Q")
        self._soon: Callable[[Callable[[], object]], object] | None = None
        self._more = [0] * _WORDS
        """To be added to each."""
        self._touched: list[int] = []
        self._decision_ns = self._connect_ns = self._up = self._down = 0
        """The same, of sums that every connection adds to."""
        self._carried = 0
        self._due = False

    def defer(self, soon: Callable[[Callable[[], object]], object]) -> None:
        """From now on all but decisions, which are on record at once, is gathered, and added when ``soon`` calls what it is given: at the end of a
        turn, for all its connections."""
        self._soon = soon

    def flush(self) -> None:
        """Add what was gathered."""
        self._due = False
        words, more = self.words, self._more
        for word in self._touched:
            words[word] += more[word]
            more[word] = 0
        self._touched.clear()
        if self._decision_ns:  # nothing is written where nothing was counted: another process may be adding, and this one only reads
            words[_DECISION + _SUM] += self._decision_ns
        if self._connect_ns:
            words[_CONNECT + _SUM] += self._connect_ns
        if self._up:
            words[BYTES_UP] += self._up
        if self._down:
            words[BYTES_DOWN] += self._down
        self._decision_ns = self._connect_ns = self._up = self._down = 0

    def _add(self, word: int, count: int) -> None:
        more = self._more
        before = more[word]
        if not before:
            self._touched.append(word)
        more[word] = before + count  # compiled, += on what stands in a list is any object's, not an int's
        if not self._due:
            self._flush_soon()

    def _flush_soon(self) -> None:
        if self._soon is None:
            self.flush()
        else:
            self._due = True
            self._soon(self.flush)

    def accepted(self) -> None:
        """A connection was."""
        self._add(ACCEPTED, 1)

    def decided(self, reason: Reason, took_ns: int) -> None:
        """A connection was decided, so long after it was accepted."""
        self.words[_PROXY[reason]] += 1
        self._decision_ns += took_ns
        self._add(_DECISION + _bucket(took_ns), 1)

    def refused(self, reason: Reason) -> None:
        """A connection was refused that nothing was read of."""
        self.words[_PROXY[reason]] += 1

    def connected(self, took_ns: int) -> None:
        """An upstream answered."""
        self._connect_ns += took_ns
        self._add(_CONNECT + _bucket(took_ns), 1)

    def closed(self, ended_by: EndedBy, phase: Phase, up: int, down: int) -> None:
        """A connection that was allowed has ended."""
        self._up += up
        self._down += down
        self._add(_ENDS[ended_by][phase], 1)

    def carried(self, count: int) -> None:
        """So many that are allowed have not ended."""
        self._add(CARRIED, count - self._carried)
        self._carried = count

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
        self.flush()
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
            closed={
                (ended_by, phase): words[word]
                for ended_by, row in _ENDS.items()
                for phase, word in row.items()
            },
            decision=_latencies(words[_DECISION:_CONNECT]),
            connect=_latencies(words[_CONNECT:]),
        )


def _bucket(took_ns: int) -> int:
    """Which of a histogram's. Most are among the first."""
    number = 0
    for bound in _BOUNDS_NS:
        if took_ns <= bound:
            break
        number += 1
    return number


def _latencies(words: Sequence[int]) -> Latencies:
    *at_most, total = accumulate(words[:_SUM])
    return Latencies(tuple(at_most), total, words[_SUM] / 1e9)
