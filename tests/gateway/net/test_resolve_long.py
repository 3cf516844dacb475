"""Long answers: the first of their addresses are remembered, and stand for what was said."""

from ipaddress import ip_address

import dns.flags
import dns.message
import dns.rdatatype
import dns.rrset
import pytest

from gateway.net import answers
from gateway.net.answers import MAX_ADDRESSES, Answer
from gateway.net.resolve import CACHED_BYTES, Resolver
from tests.gateway.dns_server import Asked, reply, serving
from tests.gateway.net.attempts import patient

NAME = "api.openai.com"
A, AAAA = 1, 28


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    patient(monkeypatch)


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
    wanted = {kind: set(addresses_of(kind, number)) for kind, number in numbers.items()}
    with serving(lambda asked: saying(asked, numbers)) as server:
        resolver = Resolver(server.endpoint, ipv6=ipv6)
        if told:
            await resolver.ask(NAME, A)
        asked_before = len(server.asked)
        first = await resolver.addresses(NAME)
        for kind, number in numbers.items():
            told_of = {str(ip) for ip in first if (ip.version == 6) is (kind == "AAAA")}
            assert len(told_of) == min(number, MAX_ADDRESSES)
            assert told_of <= wanted[kind]
        if told and not ipv6:
            assert len(server.asked) == asked_before, "what was told is what is dialled"
        asked = len(server.asked)
        for _ in range(2):
            assert await resolver.addresses(NAME) == resolver.answers.addresses(NAME) == first
        assert len(server.asked) == asked


async def test_of_the_message_there_is_as_much_as_they_need() -> None:
    with serving(lambda asked: saying(asked, {"A": 4000})) as server:
        resolver = Resolver(server.endpoint)
        first = await resolver.ask(NAME, A)
        assert await resolver.ask(NAME, A) is first
        assert len(server.asked) == 2, "over UDP and TCP, once"
    assert len(first.wire) <= CACHED_BYTES
    (rrset,) = dns.message.from_wire(first.wire).answer
    assert [record.address for record in rrset] == [str(ip) for ip in first.addresses]
    assert len(first.addresses) == MAX_ADDRESSES


async def test_a_message_that_is_still_too_long_is_asked_for_again() -> None:
    """Its names are not compressed. What is dialled is remembered all the same."""
    name = ".".join(["a" * 49] * 5)

    def long(asked: Asked) -> list[bytes]:
        if not asked.tcp:
            return [reply(asked, flags=dns.flags.TC)]
        head = asked.wire[:2] + b"\x81\x80\0\1\0\x80\0\0\0\0"
        question = asked.wire[12 : 12 + len(name) + 2 + 4]
        record = question + b"\0\0\0\x3c\0\4"
        return [head + question + b"".join(record + bytes((203, 0, 113, last)) for last in range(128))]

    with serving(long) as server:
        resolver = Resolver(server.endpoint)
        for _ in range(2):
            assert len((await resolver.ask(name, A)).wire) > CACHED_BYTES
        assert len(server.asked) == 4
        assert len(await resolver.addresses(name)) == MAX_ADDRESSES
        assert len(server.asked) == 4


async def test_a_long_answer_is_not_asked_for_again_with_the_other_family() -> None:
    clock = Clock()
    with serving(lambda asked: saying(asked, {"A": 260, "AAAA": 1})) as server:
        resolver = Resolver(server.endpoint, clock, ipv6=True)
        assert len(await resolver.addresses(NAME)) == MAX_ADDRESSES + 1
        asked = len(server.asked)
        clock.now += 21
        assert len(await resolver.addresses(NAME)) == MAX_ADDRESSES + 1
        assert [one.message.question[0].rdtype for one in server.asked[asked:]] == [AAAA]
        clock.now += 41
        assert len(await resolver.addresses(NAME)) == MAX_ADDRESSES + 1
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
