"""What there is to tell of an answer is worked out once, for as long as that holds, and only so much is kept."""

import gc
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gateway.dns import tellings as module
from gateway.dns.guard import Guard
from gateway.dns.reply import Telling
from gateway.dns.tellings import HOLDS_S, Tellings
from gateway.flow import met
from gateway.net.answers import Answer
from tests.gateway.dns.queries import guard, query, rule
from tests.gateway.dns_server import Asked, reply


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def counted(by: Guard, size: int = 10) -> Iterator[list[bytes]]:
    made: list[bytes] = []

    def telling(found: bytes) -> Telling:
        made.append(found)
        return Telling(0, b"x", (bytes(size),))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(by, "telling", telling)
        yield made


def _answer(wire: bytes) -> Answer:
    return Answer(wire, 2000.0, 0, ())


def test_once_an_answer_while_it_holds() -> None:
    clock, by = Clock(), guard()
    with counted(by) as made:
        kept, one = Tellings(by, clock), _answer(b"one")
        assert kept.of(("a", 1), one) is kept.of(("a", 1), one)
        kept.of(("b", 1), one)
        kept.of(("a", 28), one)
        assert len(made) == 3
        clock.now += HOLDS_S
        kept.of(("a", 1), one)
        assert len(made) == 4
        kept.of(("a", 1), _answer(b"another"))
        assert made[-1] == b"another"
        assert len(kept._kept) == 3


def test_the_oldest_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    each = 1000 + module.PART_BYTES + module.EACH_BYTES
    monkeypatch.setattr(module, "KEPT_BYTES", 3 * each)
    by = guard()
    with counted(by, 1000) as made:
        kept, one = Tellings(by, Clock()), _answer(b"one")
        for number in range(5):
            kept.of((f"n{number}", 1), one)
        assert [name for name, _ in kept._kept] == ["n2", "n3", "n4"]
        assert kept._size == 3 * each
        kept.of(("n4", 1), one)
        assert len(made) == 5
    with counted(by, 10_000):
        kept.of(("huge", 1), one)
        assert (kept._size, len(kept._kept)) == (0, 0)


@pytest.mark.parametrize(
    ("kind", "record", "number"),
    [(1, "A 203.0.{}.{}", 100), (28, "AAAA 2001:db8::{:x}:{:x}", 100), (1, "A 203.0.{}.{}", 1)],
)
@pytest.mark.timeout(60)
def test_what_is_kept_takes_no_more_than_is_counted(
    kind: int, record: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An allowed wildcard's name server chooses how many addresses each name has."""
    monkeypatch.setattr(module, "KEPT_BYTES", 256 * 1024)
    answers = []
    for place in range(300):
        asked = Asked(query(f"n{place}.anthropic.com", kind), False)
        records = (f"{asked.name} 60 IN {record.format(place % 256, last)}" for last in range(number))
        answers.append(Answer(reply(asked, *records), 2000.0, 0, ()))
    by = Guard("guarded", rule, lambda ip: True, forwards_all=False, ipv6=True)
    kept = Tellings(by, Clock())
    gc.collect()
    tracemalloc.start()
    try:
        for place, answer in enumerate(answers):
            kept.of((f"n{place}.anthropic.com", kind), answer)
        met.cache_clear()  # which holds some thousands that nobody else holds any more
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0 < held <= kept._size <= 256 * 1024
