"""How many questions may leave: whoever asks, one budget; what is known, or under way, costs nothing."""

import asyncio

import pytest

from gateway.net.answers import Answer
from gateway.net.resolve import ResolveError, ResolveLimit, Resolver
from tests.gateway.dns_server import Asked, reply, serving
from tests.gateway.net.attempts import patient


class Purse:
    """Holds so many questions."""

    def __init__(self, holds: int) -> None:
        self.holds = holds
        self.sizes: list[int] = []

    def __call__(self, size: int) -> bool:
        self.sizes.append(size)
        self.holds -= 1
        return self.holds >= 0


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    patient(monkeypatch)


def _found(asked: Asked) -> list[bytes]:
    return [reply(asked, f"{asked.name} 60 IN A 203.0.113.9")]


async def test_beyond_it_nothing_leaves_and_what_is_known_is_still_known() -> None:
    with serving(_found) as server:
        resolver = Resolver(server.endpoint)
        resolver.admits = purse = Purse(2)
        for number in range(4):
            name = f"n{number}.example"
            if number < 2:
                assert len(await resolver.resolve(name)) == 1
            else:
                with pytest.raises(ResolveLimit):
                    await resolver.resolve(name)
        assert len(await resolver.resolve("n0.example")) == 1
        assert len(server.asked) == 2
    assert purse.sizes == [len("n0.example")] * 4
    assert issubclass(ResolveLimit, ResolveError), "a session that knows no better says resolve_failed"


async def test_who_joins_a_question_pays_nothing() -> None:
    with serving(_found) as server:
        resolver = Resolver(server.endpoint)
        resolver.admits = purse = Purse(1)
        await asyncio.gather(*(resolver.addresses("a.example") for _ in range(20)))
        assert len(server.asked) == 1
    assert len(purse.sizes) == 1


async def test_each_family_is_a_question() -> None:
    """One that may not be asked for leaves the other, and is not tried again with each connection."""
    with serving(lambda asked: _found(asked) if asked.message.question[0].rdtype == 1 else []) as server:
        resolver = Resolver(server.endpoint, ipv6=True)
        resolver.admits = purse = Purse(1)
        for _ in range(3):
            assert len(await resolver.addresses("a.example")) == 1
        assert len(server.asked) == 1
    assert len(purse.sizes) == 2


async def test_limit_is_said_where_nothing_else_is_known() -> None:
    with serving(lambda asked: [reply(asked)]) as server:
        resolver = Resolver(server.endpoint, ipv6=True)
        resolver.admits = Purse(1)
        with pytest.raises(ResolveLimit):
            await resolver.addresses("a.example")


async def test_those_who_wait_for_one_answer_have_it_although_nobody_else_is_left() -> None:
    """Who asked first gives up; an answer that nobody waits for any more is remembered all the same."""
    with serving(_found) as server:
        resolver = Resolver(server.endpoint)
        waiters = [resolver.asked("a.example", 1) for _ in range(3)]
        waiters[0].cancel()
        found = await waiters[2]
        assert isinstance(found, Answer)
        assert waiters[1].done() or await waiters[1] is found
        assert not resolver.under_way("a.example", 1)
