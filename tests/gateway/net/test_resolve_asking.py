"""How often the resolver's server is asked: what is remembered, shared, and asked for in both families."""

import asyncio
import threading

import dns.flags
import dns.message
import dns.rrset
import pytest
from dns.rdatatype import RdataType

from gateway.net import answers, resolve
from gateway.net.answers import CACHED_ANSWERS
from gateway.net.resolve import (
    ATTEMPTS,
    CACHED_BYTES,
    FAMILY_S,
    TTL_MAX_S,
    TTL_MIN_S,
    ResolveError,
    Resolver,
    ResolveTimeout,
)
from tests.gateway.dns_server import Asked, DnsServer, reply, serving
from tests.gateway.net.attempts import has_asked, hurried, patient
from tests.gateway.net.loop import until

NAME = "api.openai.com"
GOOD = f"{NAME}. 60 IN A 203.0.113.9"


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    patient(monkeypatch)


async def _ask(server: DnsServer, name: str = NAME) -> list[str]:
    return [str(ip) for ip in await Resolver(server.endpoint).addresses(name)]


# -- what is remembered


@pytest.mark.parametrize(
    ("ttl", "kept"),
    [(0, TTL_MIN_S), (1, TTL_MIN_S), (5, 5), (60, 60), (300, 300), (301, TTL_MAX_S), (2**31 - 1, TTL_MAX_S)],
)
async def test_an_answer_is_good_for_its_ttl_within_bounds(ttl: int, kept: int) -> None:
    clock = Clock()
    with serving(lambda asked: [reply(asked, f"{NAME}. {ttl} IN A 203.0.113.{len(server.asked)}")]) as server:
        resolver = Resolver(server.endpoint, clock)
        first = await resolver.addresses(NAME)
        clock.now += kept - 0.5
        assert await resolver.addresses(NAME) == first
        assert len(server.asked) == 1
        clock.now += 1
        assert await resolver.addresses(NAME) != first
        assert len(server.asked) == 2


async def test_the_smallest_ttl_of_a_chain_counts() -> None:
    clock = Clock()
    chain = [f"{NAME}. 20 IN CNAME a.example.", "a.example. 200 IN A 203.0.113.9"]
    with serving(lambda asked: [reply(asked, *chain)]) as server:
        resolver = Resolver(server.endpoint, clock)
        await resolver.addresses(NAME)
        clock.now += 21
        await resolver.addresses(NAME)
    assert len(server.asked) == 2


async def test_only_the_question_asked_is_remembered() -> None:
    others = [GOOD, "a.example. 60 IN A 198.51.100.66", f"{NAME}. 60 IN TXT x"]
    with serving(lambda asked: [reply(asked, *(others if asked.name == f"{NAME}." else []))]) as server:
        resolver = Resolver(server.endpoint)
        await resolver.addresses(NAME)
        with pytest.raises(ResolveError):
            await resolver.addresses("a.example")
    assert len(server.asked) == 2


async def test_errors_are_not_remembered() -> None:
    with serving(
        lambda asked: [reply(asked, GOOD) if len(server.asked) > 1 else reply(asked, rcode=2)]
    ) as server:
        resolver = Resolver(server.endpoint)
        with pytest.raises(ResolveError):
            await resolver.addresses(NAME)
        assert len(await resolver.addresses(NAME)) == 1


async def test_memory_is_bounded_and_the_oldest_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert CACHED_ANSWERS == 4096
    monkeypatch.setattr(answers, "CACHED_ANSWERS", 3)
    clock = Clock()
    with serving(lambda asked: [reply(asked, f"{asked.name} 5 IN A 203.0.113.9")]) as server:
        resolver = Resolver(server.endpoint, clock)
        for name in ("a.example", "b.example", "c.example"):
            await resolver.addresses(name)
        clock.now += 10
        await resolver.addresses("a.example")  # asked for again: the newest now
        await resolver.addresses("d.example")
        assert [name for name, _ in resolver.answers._by_question] == ["c.example", "a.example", "d.example"]


# -- questions in flight


async def test_one_question_serves_all_who_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    hurried(monkeypatch, lambda kind, number: number == 1)
    with serving(lambda asked: [reply(asked, GOOD)] if len(server.asked) == 2 else []) as server:
        resolver = Resolver(server.endpoint)
        answers = await asyncio.gather(*(resolver.addresses(NAME) for _ in range(50)))
        assert len(set(answers)) == 1
        assert len(server.asked) == 2
        assert resolver._asking == {}


async def test_an_error_reaches_all_who_wait_for_it() -> None:
    with serving(lambda asked: [reply(asked, rcode=3)]) as server:
        resolver = Resolver(server.endpoint)
        answers = await asyncio.gather(*(resolver.addresses(NAME) for _ in range(5)), return_exceptions=True)
        assert all(isinstance(answer, ResolveError) for answer in answers)
        assert len(server.asked) == 1


async def test_one_who_gives_up_takes_nothing_from_the_others() -> None:
    one_is_gone = threading.Event()
    with serving(lambda asked: [reply(asked, GOOD)] if one_is_gone.wait(10) else []) as server:
        resolver = Resolver(server.endpoint)
        loop = asyncio.get_running_loop()
        first, second = (loop.create_task(resolver.addresses(NAME)) for _ in range(2))
        await has_asked(server, 1)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        one_is_gone.set()
        assert [str(ip) for ip in await second] == ["203.0.113.9"]
        assert len(server.asked) == 1


async def test_when_all_have_given_up_nothing_is_left_to_complain(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolve, "ATTEMPT_S", 0.15)
    with serving(lambda asked: []) as server:
        resolver = Resolver(server.endpoint)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await resolver.addresses(NAME)
        assert [name for name, _ in resolver._asking] == [NAME]
        await until(lambda: not resolver._asking)
        await has_asked(server, ATTEMPTS)
    assert caplog.records == []


# -- both families


def _both(asked: Asked, a: list[str], aaaa: list[str], rcode: int = 0) -> list[bytes]:
    kind = asked.message.question[0].rdtype.name
    records = [f"{NAME}. {60 if kind == 'A' else 20} IN {kind} {ip}" for ip in (a if kind == "A" else aaaa)]
    return [reply(asked, *records, rcode=0 if records else rcode)]


@pytest.mark.parametrize(
    ("a", "aaaa", "rcode"),
    [
        (["203.0.113.9"], ["2001:db8::9", "2001:db8::8"], 0),
        (["203.0.113.9"], [], 0),
        ([], ["2001:db8::9"], 0),
        (["203.0.113.9"], [], 2),
        ([], ["2001:db8::9"], 2),
        ([], [], 0),
        ([], [], 3),
    ],
)
async def test_both_families_are_asked_for_where_both_are_wanted(
    a: list[str], aaaa: list[str], rcode: int
) -> None:
    clock = Clock()
    with serving(lambda asked: _both(asked, a, aaaa, rcode)) as server:
        resolver = Resolver(server.endpoint, clock, ipv6=True)
        if not a + aaaa:
            with pytest.raises(ResolveError):
                await resolver.addresses(NAME)
            return
        assert [str(ip) for ip in await resolver.addresses(NAME)] == a + aaaa
        assert len(server.asked) == 2
        clock.now += 21 if aaaa else 61
        await resolver.addresses(NAME)
        assert len(server.asked) == (3 if a and aaaa else 4), "each kind has its own TTL"


@pytest.mark.parametrize("silent", ["A", "AAAA"])
async def test_silence_about_one_family_does_not_take_the_other(
    monkeypatch: pytest.MonkeyPatch, silent: str
) -> None:
    hurried(monkeypatch, lambda kind, number: kind == RdataType[silent])

    def answering(asked: Asked, *found: str) -> list[bytes]:
        kind = asked.message.question[0].rdtype.name
        return [] if kind == silent else _both(asked, [*found[:1]], [*found[1:]])

    with serving(lambda asked: answering(asked, "203.0.113.9", "2001:db8::9")) as server:
        assert len(await Resolver(server.endpoint, ipv6=True).addresses(NAME)) == 1
    with serving(answering) as server, pytest.raises(ResolveTimeout):
        await Resolver(server.endpoint, ipv6=True).addresses(NAME)


async def test_a_family_that_is_not_answered_is_not_waited_for_with_each_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """But a sandbox that asks for it itself is."""
    hurried(monkeypatch, lambda kind, number: kind == RdataType.AAAA)
    clock = Clock()

    def only_a(asked: Asked) -> list[bytes]:
        silent = asked.message.question[0].rdtype.name == "AAAA"
        return [] if silent else _both(asked, ["203.0.113.9"], [])

    with serving(only_a) as server:
        resolver = Resolver(server.endpoint, clock, ipv6=True)
        for _ in range(3):
            assert len(await resolver.addresses(NAME)) == 1
        await has_asked(server, 4)  # one A, three attempts at AAAA
        with pytest.raises(ResolveTimeout):
            await resolver.ask(NAME, 28)
        clock.now += 61
        await resolver.addresses(NAME)
        await has_asked(server, 11)


async def test_a_slow_family_is_not_waited_for_and_is_known_when_it_has_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who connects has a deadline; the question goes on without whoever waited, and what it brings is dialled from then on."""
    monkeypatch.setattr(resolve, "FAMILY_S", FAMILY_S)
    asked_for_slow = asyncio.Event()
    loop = asyncio.get_running_loop()
    for slow in ("A", "AAAA"):
        late: list[tuple[bytes, int]] = []
        asked_for_slow.clear()

        def answering(asked: Asked, slow: str = slow, late: list[tuple[bytes, int]] = late) -> list[bytes]:
            answer = _both(asked, ["203.0.113.9"], ["2001:db8::9"])
            if asked.message.question[0].rdtype.name != slow:
                return answer
            late.append((answer[0], server.sources[-1]))
            loop.call_soon_threadsafe(asked_for_slow.set)
            return []

        with serving(answering) as server:
            resolver = Resolver(server.endpoint, ipv6=True)
            async with asyncio.timeout(30):
                (quick,) = await resolver.addresses(NAME)
                assert await resolver.addresses(NAME) == resolver.answers.addresses(NAME) == (quick,)
                await asked_for_slow.wait()
                told = resolver.asked(NAME, 28 if slow == "AAAA" else 1)
                server.say(*late[0])
                (slowly,) = (await told).addresses
            assert {quick.version, slowly.version} == {4, 6}
            assert set(resolver.answers.addresses(NAME)) == {quick, slowly}, "what is told is dialled"
            assert len(server.asked) == 2


@pytest.mark.parametrize("empty", ["A", "AAAA"])
async def test_nothing_is_refused_while_a_family_may_still_bring_an_address(
    monkeypatch: pytest.MonkeyPatch, empty: str
) -> None:
    """Only an address is worth leaving the other family for."""
    monkeypatch.setattr(resolve, "FAMILY_S", 0.0)
    hurried(monkeypatch, lambda kind, number: kind != RdataType[empty] and number == 1)
    seen: list[str] = []

    def answering(asked: Asked) -> list[bytes]:
        kind = asked.message.question[0].rdtype.name
        seen.append(kind)
        if kind == empty:
            return [reply(asked)]
        return _both(asked, ["203.0.113.9"], ["2001:db8::9"]) if seen.count(kind) > 1 else []

    with serving(answering) as server:
        assert len(await Resolver(server.endpoint, ipv6=True).addresses(NAME)) == 1


# -- what a sandbox asks for


async def test_what_the_sandbox_was_told_is_what_is_dialled() -> None:
    with serving(lambda asked: [reply(asked, f"{NAME}. 0 IN A 203.0.113.{len(server.asked)}")]) as server:
        resolver = Resolver(server.endpoint, Clock())
        (told,) = (await resolver.ask(NAME, 1)).addresses
        assert await resolver.addresses(NAME) == (told,)
        assert len(server.asked) == 1


SOA = f"{NAME}. {{}} IN SOA a.example. b.example. 1 2 3 4 {{}}"


@pytest.mark.parametrize("rcode", [0, 3])
@pytest.mark.parametrize(("ttl", "least", "kept"), [(60, 40, 40), (40, 60, 40), (0, 0, 5), (900, 900, 300)])
async def test_that_there_is_nothing_is_remembered_as_long_as_its_zone_says(
    rcode: int, ttl: int, least: int, kept: int
) -> None:
    clock = Clock()

    def nothing(asked: Asked) -> list[bytes]:
        answer = dns.message.from_wire(reply(asked, rcode=rcode))
        name, ttl_text, rdclass, rdtype, data = SOA.format(ttl, least).split(maxsplit=4)
        answer.authority.append(dns.rrset.from_text(name, int(ttl_text), rdclass, rdtype, data))
        return [answer.to_wire()]

    with serving(nothing) as server:
        resolver = Resolver(server.endpoint, clock)
        for moment in (0, kept - 1):
            clock.now = 1000.0 + moment
            assert (await resolver.ask(NAME, 16)).rcode == rcode
        with pytest.raises(ResolveError):
            await resolver.addresses(NAME)
        assert len(server.asked) == 2
        clock.now = 1000.5 + kept
        await resolver.ask(NAME, 16)
        assert len(server.asked) == 3


async def test_what_is_long_is_not_remembered() -> None:
    def long(asked: Asked) -> list[bytes]:
        if not asked.tcp:
            return [reply(asked, flags=dns.flags.TC)]
        answer = dns.message.make_response(asked.message)
        answer.answer.append(
            dns.rrset.from_text(NAME + ".", 60, "IN", "TXT", *(f"{number:0250}" for number in range(20)))
        )
        return [answer.to_wire(max_size=65535)]

    with serving(long) as server:
        resolver = Resolver(server.endpoint)
        for _ in range(2):
            assert len((await resolver.ask(NAME, 16)).wire) > CACHED_BYTES
        assert len(server.asked) == 4
        assert not resolver.answers._by_question


@pytest.mark.parametrize(
    "records",
    [
        [f"{NAME}. 60 IN CNAME a.example.", f"a.example. 60 IN CNAME {NAME}."],
        [f"c{n}.example. 60 IN CNAME c{n + 1}.example." for n in range(40)]
        + [f"{NAME}. 60 IN CNAME c0.example."],
    ],
)
async def test_a_chain_without_end_is_no_answer(records: list[str]) -> None:
    with serving(lambda asked: [reply(asked, *records)]) as server:
        with pytest.raises(ResolveError):
            await Resolver(server.endpoint).ask(NAME, 1)
