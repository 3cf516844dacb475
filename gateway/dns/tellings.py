"""What there is to tell of answers, worked out once for all who ask while it holds."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

from gateway.dns.guard import Guard
from gateway.dns.reply import Telling
from gateway.net.answers import Answer, Question

HOLDS_S: Final = 5.0
"""As short as any TTL: which addresses are this host's own may change meanwhile."""
KEPT_BYTES: Final = 4 * 1024 * 1024
EACH_BYTES: Final = 1024
"""What one takes beside its records."""
PART_BYTES: Final = 40
"""And each piece of it beside its octets."""
ADDRESS_BYTES: Final = 256


class _Kept(NamedTuple):
    answer: Answer
    until: float
    telling: Telling
    size: int


class Tellings:
    """The newest of them, by what was asked."""

    def __init__(self, guard: Guard, clock: Callable[[], float]) -> None:
        self._guard = guard
        self._clock = clock
        self._kept: OrderedDict[Question, _Kept] = OrderedDict()
        self._size = 0

    def of(self, question: Question, answer: Answer) -> Telling:
        """Of ``answer``, which is one to ``question``."""
        kept = self._kept.get(question)
        if kept is not None:
            if kept.answer is answer and kept.until > self._clock():
                return kept.telling
            self._forget(question)
        telling = self._guard.telling(answer.wire)
        size = sum(len(part) + PART_BYTES for part in telling.parts)
        size += len(telling.addresses) * ADDRESS_BYTES + EACH_BYTES
        self._kept[question] = _Kept(answer, self._clock() + HOLDS_S, telling, size)
        self._size += size
        while self._size > KEPT_BYTES:
            self._forget(next(iter(self._kept)))
        return telling

    def _forget(self, question: Question) -> None:
        self._size -= self._kept.pop(question).size
