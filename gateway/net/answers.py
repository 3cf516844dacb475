"""Answers of a resolver that are remembered while they are good."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

from gateway.flow import IPAddress

CACHED_ANSWERS: Final = 4096
CACHED_ADDRESSES: Final = 64 * 1024
"""In all of them."""
MAX_ADDRESSES: Final = 100
"""Of one answer, which may bring four thousand: as many are told and dialled, and who asks tries a few."""


class Answer(NamedTuple):
    """What a server said to one question."""

    wire: bytes
    """The message, or as much of it as holds its addresses; nothing where it is too long to be remembered, or the question was given up in favour of
    another family."""
    until: float
    """How long it is good, by the resolver's clock: seconds."""
    rcode: int
    """RFC 1035 section 4.1.1, RFC 6895."""
    addresses: tuple[IPAddress, ...]
    """Where an address was asked for: the first ``MAX_ADDRESSES`` at the end of the chain of CNAMEs that begins with the question."""


Question = tuple[str, int]
"""A name (canonical), and the type that is asked for."""


class Answers:
    """The newest so many, by what was asked."""

    __slots__ = ("_addresses", "_by_question", "_clock", "_kinds")

    def __init__(self, kinds: tuple[int, ...], clock: Callable[[], float]) -> None:
        """``kinds``: of address records, in the order in which their addresses are to be dialled."""
        self._kinds = kinds
        self._clock = clock
        self._by_question: OrderedDict[Question, Answer] = OrderedDict()
        self._addresses = 0

    def known(self, name: str, kind: int) -> Answer | None:
        """The answer, while it is good."""
        answer = self._by_question.get((name, kind))
        return answer if answer is not None and answer.until > self._clock() else None

    def addresses(self, name: str) -> tuple[IPAddress, ...]:
        """All that are known of ``name``; none where not every kind has been asked for."""
        found: tuple[IPAddress, ...] = ()
        for kind in self._kinds:
            answer = self.known(name, kind)
            if answer is None:
                return ()
            found = found + answer.addresses if found else answer.addresses
        return found

    def remember(self, question: Question, answer: Answer) -> None:
        """For the next who asks. The oldest make room."""
        before = self._by_question.pop(question, None)
        if before is not None:
            self._addresses -= len(before.addresses)
        self._by_question[question] = answer
        self._addresses += len(answer.addresses)
        while len(self._by_question) > CACHED_ANSWERS or self._addresses > CACHED_ADDRESSES:
            _, oldest = self._by_question.popitem(last=False)
            self._addresses -= len(oldest.addresses)
