"""Answers too long to be remembered: their addresses are, and stand for what was said."""

from ipaddress import ip_address

import dns.flags
import dns.message
import dns.rdatatype
import dns.rrset
import pytest

from gateway.net import answers
from gateway.net.answers import Answer
from gateway.net.resolve import CACHED_BYTES, Resolver
from tests.gateway.dns_server import Asked, reply, serving

NAME = "api.openai.com"
A, AAAA = 1, 28


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def addresses_of(kind: str, number: int) -> list[str]:
    return [
        f"203.0.{n // 200}.{n % 200 + 1}" if kind == "A" else f"2001:db8::{n + 1:x}" for n in range(number)
    ]


def saying(asked: Asked, numbers: dict[str, int]) -> list[bytes]:
    """So many addresses of each kind, over TCP where UDP has no room for them; a kind that is not there is an error."""
    kind = asked.message.question[0].rdtype.name
    if kind not in numbers:
        return [reply(asked, rcode=2)]
    if numbers[kind] > 20 and not asked.tcp:
        return [reply(asked, flags=dns.flags.TC)]
    answer = dns.message.make_response(asked.message)
    ttl = 60 if kind == "A" else 20
    answer.answer.append(dns.rrset.from_text(NAME + ".", ttl, "IN", kind, *addresses_of(kind, numbers[kind])))
    return [answer.to_wire(max_size=65535)]


LONG: list[dict[str, int]] = [
    {"A": 260},
    {"A": 4000},
    {"A": 260, "AAAA": 2},
    {"A": 2, "AAAA": 260},
    {"A": 260, "AAAA": 260},
    {"AAAA": 260},
]


@pytest.mark.parametrize("told", [False, True], ids=["dialled", "told first"])
@pytest.mark.parametrize(
    ("numbers", "ipv6"),
    [(numbers, True) for numbers in LONG] + [(numbers, False) for numbers in LONG[:2]],
    ids=str,
)
async def test_the_addresses_of_a_long_answer_are_remembered(
    numbers: dict[str, int], ipv6: bool, told: bool
) -> None:
    """Of each family, whatever the other one's answer is; and those that the sandbox was told."""
    wanted = [ip for kind, number in numbers.items() for ip in addresses_of(kind, number)]
    with serving(lambda asked: saying(asked, numbers)) as server:
        resolver = Resolver(server.endpoint, ipv6=ipv6)
        if told:
            await resolver.ask(NAME, A)
        asked_before = len(server.asked)
        first = await resolver.addresses(NAME)
        assert sorted(map(str, first)) == sorted(wanted)
        if told and not ipv6:
            assert len(server.asked) == asked_before, "what was told is what is dialled"
        asked = len(server.asked)
        for _ in range(2):
            assert await resolver.addresses(NAME) == resolver.answers.addresses(NAME) == first
        assert len(server.asked) == asked


async def test_the_message_itself_is_asked_for_again() -> None:
    with serving(lambda asked: saying(asked, {"A": 260})) as server:
        resolver = Resolver(server.endpoint)
        await resolver.addresses(NAME)
        for _ in range(2):
            assert len((await resolver.ask(NAME, A)).wire) > CACHED_BYTES
        assert len(server.asked) == 6
        assert resolver.answers.known(NAME, A) is not None
        assert len(await resolver.addresses(NAME)) == 260


async def test_a_long_answer_is_not_asked_for_again_with_the_other_family() -> None:
    clock = Clock()
    with serving(lambda asked: saying(asked, {"A": 260, "AAAA": 1})) as server:
        resolver = Resolver(server.endpoint, clock, ipv6=True)
        assert len(await resolver.addresses(NAME)) == 261
        asked = len(server.asked)
        clock.now += 21
        assert len(await resolver.addresses(NAME)) == 261
        assert [one.message.question[0].rdtype for one in server.asked[asked:]] == [AAAA]
        clock.now += 41
        assert len(await resolver.addresses(NAME)) == 261
        assert len(server.asked) == asked + 1 + 3, "each has its own TTL"


def test_what_is_remembered_of_long_answers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "CACHED_ADDRESSES", 600)
    kept = answers.Answers((A,), lambda: 0.0)
    addresses = tuple(map(ip_address, addresses_of("A", 250)))
    for number in range(5):
        for _ in range(2):
            kept.remember((f"n{number}.example", A), Answer(b"", 60.0, 0, addresses))
    assert [number for number in range(5) if kept.addresses(f"n{number}.example")] == [3, 4]
    assert kept._addresses == 500
