"""Names to addresses: what is an answer, and what is none."""

import asyncio
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from ipaddress import ip_address

import dns.flags
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.flow import Endpoint
from gateway.net import resolve
from gateway.net.resolve import ResolveError, Resolver, ResolveTimeout
from tests.gateway.dns_server import Asked, DnsServer, reply, serving
from tests.gateway.net.attempts import disappointed, hurried, patient

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


# -- answers


@pytest.mark.parametrize(
    ("records", "addresses"),
    [
        ([GOOD], ["203.0.113.9"]),
        (
            [f"{NAME}. 60 IN A 203.0.113.{last}" for last in (9, 3, 7)],
            ["203.0.113.9", "203.0.113.3", "203.0.113.7"],
        ),
        (
            [
                f"{NAME}. 60 IN CNAME a.example.",
                "a.example. 60 IN CNAME b.example.",
                "b.example. 60 IN A 203.0.113.9",
            ],
            ["203.0.113.9"],
        ),
        (["a.example. 60 IN A 203.0.113.9", f"{NAME}. 60 IN CNAME a.example."], ["203.0.113.9"]),
        ([GOOD, "evil.example. 60 IN A 198.51.100.66"], ["203.0.113.9"]),
        (["API.OpenAI.com. 60 IN A 203.0.113.9"], ["203.0.113.9"]),
    ],
)
async def test_the_addresses_of_a_name_in_the_servers_order(records: list[str], addresses: list[str]) -> None:
    with serving(lambda asked: [reply(asked, *records)]) as server:
        assert await _ask(server) == addresses


@pytest.mark.parametrize(
    ("records", "rcode"),
    [
        ([], 0),
        ([], 2),
        ([], 3),
        ([], 5),
        ([GOOD], 2),
        ([GOOD], 3),
        ([GOOD], 23),
        ([f"{NAME}. 60 IN AAAA 2001:db8::9"], 0),
        ([f"{NAME}. 60 IN TXT x"], 0),
        (["evil.example. 60 IN A 198.51.100.66"], 0),
        ([f"{NAME}. 60 IN CNAME a.example."], 0),
        ([f"{NAME}. 60 IN CNAME a.example.", "b.example. 60 IN A 198.51.100.66"], 0),
        ([f"{NAME}. 60 IN CNAME a.example.", f"a.example. 60 IN CNAME {NAME}."], 0),
        ([f"{NAME}. 60 IN CNAME {NAME}."], 0),
        (
            [f"{NAME}. 60 IN CNAME c0.example."]
            + [f"c{n}.example. 60 IN CNAME c{n + 1}.example." for n in range(40)],
            0,
        ),
        ([f"{NAME}. 60 CH A a.example. 0177"], 0),
    ],
)
async def test_no_usable_answer(records: list[str], rcode: int) -> None:
    with serving(lambda asked: [reply(asked, *records, rcode=rcode)]) as server:
        with pytest.raises(ResolveError) as caught:
            await _ask(server)
    assert not isinstance(caught.value, ResolveTimeout)
    assert len(server.asked) == 1


async def test_an_error_without_its_question_is_an_answer() -> None:
    with serving(lambda asked: [asked.wire[:2] + b"\x81\x82" + bytes(8)]) as server:
        with pytest.raises(ResolveError, match="SERVFAIL"):
            await _ask(server)


@pytest.mark.parametrize("rcode", [dns.rcode.FORMERR, dns.rcode.NOTIMP])
@pytest.mark.parametrize("bare", [False, True], ids=["about the question", "about nothing"])
async def test_a_server_that_knows_no_edns_is_asked_without(rcode: int, bare: bool) -> None:
    """RFC 6891 section 7."""

    def answering(asked: Asked) -> list[bytes]:
        if asked.message.edns < 0:
            return [reply(asked, GOOD)]
        return [
            asked.wire[:2] + bytes((0x81, 0x80 | rcode)) + bytes(8) if bare else reply(asked, rcode=rcode)
        ]

    with serving(answering) as server:
        assert await _ask(server) == ["203.0.113.9"]
    assert [asked.message.edns for asked in server.asked] == [0, -1]
    assert len({asked.message.id for asked in server.asked}) == 2
    assert server.asked[1].message.question == server.asked[0].message.question


async def test_an_error_without_edns_too_is_an_answer() -> None:
    with serving(lambda asked: [reply(asked, rcode=dns.rcode.FORMERR)]) as server:
        with pytest.raises(ResolveError, match="FORMERR"):
            await _ask(server)
    assert len(server.asked) == 2


async def test_what_is_asked_is_one_plain_question() -> None:
    with serving(lambda asked: [reply(asked, GOOD)]) as server:
        await _ask(server)
    (asked,) = server.asked
    assert asked.message.question[0].to_text() == f"{NAME}. IN A"
    assert asked.message.flags == dns.flags.RD
    assert (asked.message.edns, asked.message.payload, asked.message.options) == (0, 1232, ())
    assert not asked.tcp


async def test_ids_and_ports_differ_from_question_to_question() -> None:
    with serving(lambda asked: [reply(asked, f"{asked.name} 60 IN A 203.0.113.9")]) as server:
        for number in range(12):
            await _ask(server, f"n{number}.example")
    assert len({asked.wire[:2] for asked in server.asked}) > 8
    assert len(set(server.sources)) > 8


# -- what is no answer to our question


def _other_id(wire: bytes) -> bytes:
    return bytes((wire[0] ^ 1,)) + wire[1:]


def _evil(asked: Asked) -> bytes:
    return reply(asked, f"{NAME}. 60 IN A 198.51.100.66")


FORGED: list[Callable[[Asked], bytes]] = [
    lambda asked: _other_id(_evil(asked)),
    lambda asked: _evil(asked).replace(b"\x03api", b"\x03apj"),
    lambda asked: _evil(asked).replace(b"\x00\x01\x00\x01", b"\x00\x1c\x00\x01", 1),
    lambda asked: asked.wire,
    lambda asked: b"",
    lambda asked: b"\x00",
    lambda asked: asked.wire[:2] + b"\x81\x80",
    lambda asked: asked.wire[:2] + b"\x81\x80" + b"\xff" * 40,
    lambda asked: _evil(asked)[:-3],
    lambda asked: _evil(asked) + b"junk",
    lambda asked: asked.wire[:2] + b"\xa9\x80" + _evil(asked)[4:],
]


@pytest.mark.parametrize("forge", FORGED)
async def test_a_forgery_is_passed_over_and_the_answer_taken(forge: Callable[[Asked], bytes]) -> None:
    with serving(lambda asked: [forge(asked), reply(asked, GOOD)]) as server:
        assert await _ask(server) == ["203.0.113.9"]
    assert len(server.asked) == 1


@pytest.mark.parametrize("forge", FORGED)
async def test_forgeries_alone_are_a_timeout(
    forge: Callable[[Asked], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    disappointed(monkeypatch)
    with serving(lambda asked: [forge(asked)]) as server, pytest.raises(ResolveTimeout):
        await _ask(server)
    assert len(server.asked) == resolve.ATTEMPTS


async def test_a_packet_from_elsewhere_is_passed_over() -> None:
    def after_a_forger(asked: Asked) -> list[bytes]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as forger:
            forger.sendto(_evil(asked), ("127.0.0.1", server.sources[-1]))
        return [reply(asked, GOOD)]

    with serving(after_a_forger) as server:
        assert await _ask(server) == ["203.0.113.9"]
    assert len(server.asked) == 1


# -- truncation


async def test_a_truncated_answer_is_asked_for_again_over_tcp() -> None:
    with serving(
        lambda asked: [reply(asked, GOOD) if asked.tcp else reply(asked, flags=dns.flags.TC)]
    ) as server:
        assert await _ask(server) == ["203.0.113.9"]
    assert [asked.tcp for asked in server.asked] == [False, True]


@pytest.mark.parametrize("forge", FORGED)
async def test_no_forgery_over_tcp_is_taken(forge: Callable[[Asked], bytes]) -> None:
    with serving(lambda asked: [forge(asked)] if asked.tcp else [reply(asked, flags=dns.flags.TC)]) as server:
        with pytest.raises(ResolveError):
            await _ask(server)


async def test_a_truncated_forgery_does_not_lead_to_tcp() -> None:
    with serving(lambda asked: [_other_id(reply(asked, flags=dns.flags.TC)), reply(asked, GOOD)]) as server:
        assert await _ask(server) == ["203.0.113.9"]
    assert [asked.tcp for asked in server.asked] == [False]


# -- silence


async def test_a_lost_packet_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    hurried(monkeypatch, lambda kind, number: number < 3)
    with serving(lambda asked: [reply(asked, GOOD)] if len(server.asked) == 3 else []) as server:
        assert await _ask(server) == ["203.0.113.9"]
    assert len(server.asked) == 3


async def test_a_silent_server_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "ATTEMPT_S", 0.15)
    with serving(lambda asked: []) as server:
        with pytest.raises(ResolveTimeout):
            await _ask(server)
    assert len(server.asked) == 3


async def test_both_transports_share_the_time_of_one_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else three attempts would last as long as six, and whoever waits has given up."""
    monkeypatch.setattr(resolve, "ATTEMPT_S", 0.2)

    def slow(asked: Asked) -> list[bytes]:
        time.sleep(0.15)
        return [reply(asked, GOOD) if asked.tcp else reply(asked, flags=dns.flags.TC)]

    with serving(slow) as server, pytest.raises(ResolveTimeout):
        await _ask(server)


async def test_a_server_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "ATTEMPT_S", 0.15)
    with serving(lambda asked: []) as server:
        gone = server.endpoint
    with pytest.raises(ResolveError):
        await Resolver(gone).addresses(NAME)
    with pytest.raises(ResolveError):
        await Resolver(Endpoint(ip_address("255.255.255.255"), 53)).addresses(NAME)


@pytest.mark.parametrize("name", ["", ".", "a..b", "x" * 64 + ".example", "a." * 130, "\x00.example", "a\\"])
async def test_what_is_no_name_is_an_error_at_the_worst(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "ATTEMPT_S", 0.15)
    with serving(lambda asked: []) as server:
        with pytest.raises(ResolveError):
            await _ask(server, name)


# -- hostile bytes


class _Answer:
    """What the server of the property below says; one server for all its examples."""

    def __init__(self) -> None:
        self.make: Callable[[Asked], bytes] = lambda asked: b""

    def __call__(self, asked: Asked) -> list[bytes]:
        return [self.make(asked)]


@pytest.fixture
def hostile() -> Iterator[tuple[_Answer, DnsServer]]:
    answer = _Answer()
    manager: AbstractContextManager[DnsServer] = serving(answer)
    with manager as server:
        yield answer, server


def _mutated(asked: Asked, cuts: list[tuple[int, int]], body: bytes, counts: tuple[int, int, int]) -> bytes:
    chain = [
        f"{NAME}. 60 IN CNAME a.example.",
        "a.example. 60 IN A 203.0.113.9",
        "a.example. 60 IN A 203.0.113.8",
    ]
    wire = bytearray(reply(asked, *chain) + body)
    for at, value in cuts:
        wire[2 + at % (len(wire) - 2)] = value
    if any(counts):
        struct.pack_into("!HHH", wire, 6, *counts)
    return bytes(wire)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    cuts=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=4),
    body=st.binary(max_size=20),
    counts=st.tuples(*(st.integers(0, 4),) * 3),
    tcp=st.booleans(),
)
def test_no_answer_raises_anything_but_resolve_error(
    hostile: tuple[_Answer, DnsServer],
    monkeypatch: pytest.MonkeyPatch,
    cuts: list[tuple[int, int]],
    body: bytes,
    counts: tuple[int, int, int],
    tcp: bool,
) -> None:
    answer, server = hostile

    def make(asked: Asked) -> bytes:
        if tcp and not asked.tcp:
            return reply(asked, flags=dns.flags.TC)
        return _mutated(asked, cuts, body, counts)

    answer.make = make
    monkeypatch.setattr(resolve, "ATTEMPT_S", 0.02)
    monkeypatch.setattr(resolve, "ATTEMPTS", 1)

    async def once() -> None:
        try:
            found = await Resolver(server.endpoint).addresses(NAME)
        except ResolveError:
            return
        assert all(ip.version == 4 for ip in found)

    asyncio.run(once())
