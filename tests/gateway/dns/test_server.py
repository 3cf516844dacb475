"""The sandbox's DNS over real sockets: what comes back, what never leaves, and what nobody can make it do."""

import asyncio
import errno
import itertools
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address

import dns.flags
import dns.message
import dns.rcode
import pytest

from gateway.addresses import SINKHOLE
from gateway.dns import server as module
from gateway.dns.budget import Budget
from gateway.dns.guard import Guard
from gateway.dns.server import MAX_IN_FLIGHT
from gateway.flow import Endpoint
from gateway.net import resolve
from gateway.net.sockets import send_all
from gateway.tasks import spawn
from tests.gateway.dns.front import Desk, Front, framed, read_message
from tests.gateway.dns.queries import ALLOWED, ECH, HTTPS, NO, OTHER, A, guard, name, option, public, query
from tests.gateway.dns_server import Asked, DnsServer, reply, serving
from tests.gateway.net.attempts import LONG_S, has_asked, patient
from tests.gateway.net.loop import WITHIN_S, readable, receive, until

GOOD = f"{ALLOWED}. 60 IN A 203.0.113.9"


@contextmanager
def _honest() -> Iterator[DnsServer]:
    with serving(lambda asked: [reply(asked, GOOD)]) as server:
        yield server


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    with _honest() as server:
        made = Desk(server)
        yield made
        for front in made.fronts:
            await front.close()


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    patient(monkeypatch)
    monkeypatch.setattr(module, "TIMEOUT_S", LONG_S)


@pytest.fixture(params=["udp", "tcp"])
def by(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def _ask(front: Front, by: str, wire: bytes) -> dns.message.Message:
    answer = await (front.ask_udp(wire) if by == "udp" else front.ask_tcp(wire))
    assert answer[:2] == wire[:2]
    return dns.message.from_wire(answer)


# -- answers


async def test_an_allowed_name_is_answered_by_the_resolver(desk: Desk, by: str) -> None:
    answer = await _ask(desk.front(), by, query())
    assert answer.answer[0].to_text() == GOOD
    (asked,) = desk.asked
    assert not asked.tcp
    assert asked.wire[2:] == query(edns=b"")[2:]


async def test_another_name_is_answered_here_and_nothing_leaves(desk: Desk, by: str) -> None:
    answer = await _ask(desk.front(), by, query(OTHER))
    assert answer.answer[0].to_text() == f"{OTHER}. 5 IN A {SINKHOLE}"
    assert desk.asked == []


async def test_id_and_spelling_are_ours_outside_and_the_sandboxs_inside(desk: Desk, by: str) -> None:
    front = desk.front(lambda asked: [reply(asked, f"{asked.name} 60 IN A 203.0.113.9")])
    for number in range(12):
        answer = await _ask(front, by, query(f"a{number}.AnthROPIC.CoM"))
        assert answer.question[0].name.to_text() == f"a{number}.AnthROPIC.CoM."
        assert answer.answer
    assert [asked.name for asked in desk.asked] == [f"a{number}.anthropic.com." for number in range(12)]
    assert len({asked.wire[:2] for asked in desk.asked}) > 8, "an id is drawn for each query"
    assert len(set(desk.server.sources)) > 8, "and a port"


CARRIERS = [
    query("aPi.OPENai.CoM"),
    query(flags=0),
    query(flags=0x01F0),
    query(flags=0x060F),
    query(edns=option(12, bytes(200))),  # padding
    query(edns=option(10, b"secret!!")),  # cookie
    query(edns=option(8, b"\0\1\x20\0\x0a\0\0\2")),  # client subnet
    query(edns=option(65001, b"exfiltrated")),  # private use
    query(edns=b"", ttl=0xFF00FFFF),
    query(edns=b"", payload=700),
    query(counts=(1, 0, 0, 1), rest=name("exfiltrated.example") + b"\0\x10\0\1\0\0\0\0\0\5\4data"),
]


async def test_whatever_a_query_carries_the_same_octets_leave(desk: Desk, by: str) -> None:
    for wire in CARRIERS:
        front = desk.front()
        assert (await _ask(front, by, wire)).answer
    assert len(desk.asked) == len(CARRIERS)
    assert {asked.wire[2:] for asked in desk.asked} == {query(edns=b"")[2:]}


async def test_equal_questions_are_asked_once_and_their_answer_is_remembered(desk: Desk, by: str) -> None:
    front = desk.front()
    await asyncio.gather(*(_ask(front, by, query()) for _ in range(20)))
    await _ask(front, by, query("API.openai.com", edns=b""))
    assert len(desk.asked) == 1
    assert [str(ip) for ip in await front.resolver.addresses(ALLOWED)] == ["203.0.113.9"]
    assert len(desk.asked) == 1, "what the sandbox was told is what is dialled"


async def test_truncation_is_resolved_here_and_said_where_it_is_the_clients(desk: Desk) -> None:
    many = [f"{ALLOWED}. 60 IN A 203.0.113.{last}" for last in range(60)]

    def answering(asked: Asked) -> list[bytes]:
        return [reply(asked, *many) if asked.tcp else reply(asked, flags=dns.flags.TC)]

    front = desk.front(answering)
    assert (await _ask(front, "udp", query())).flags & dns.flags.TC, "512 octets hold no sixty addresses"
    for by, wire in (("udp", query(edns=b"")), ("tcp", query())):
        whole = await _ask(front, by, wire)
        assert not whole.flags & dns.flags.TC
        assert len(whole.answer[0]) == 60
    assert [asked.tcp for asked in desk.asked] == [False, True]


async def test_keys_of_encrypted_hello_do_not_reach_the_sandbox(desk: Desk, by: str) -> None:
    record = f"{ALLOWED}. 60 IN HTTPS 1 . alpn=h2 {ECH}"
    front = desk.front(lambda asked: [reply(asked, record)])
    answer = await _ask(front, by, query(ALLOWED, HTTPS))
    assert answer.answer[0].to_text() == f'{ALLOWED}. 60 IN HTTPS 1 . alpn="h2"'


async def test_a_resolver_that_spells_the_question_its_own_way_is_understood(desk: Desk, by: str) -> None:
    def shout(asked: Asked) -> list[bytes]:
        wire = reply(asked, GOOD)
        return [wire[:12] + wire[12:25].upper() + wire[25:]]

    answer = await _ask(desk.front(shout), by, query())
    assert answer.question[0].name.to_text() == f"{ALLOWED}."
    assert answer.answer


@pytest.mark.parametrize("code", [1, 2, 4, 5, 9])
async def test_an_error_of_the_resolver_is_a_failure(
    desk: Desk, by: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that is none without the question, and is waited for in vain."""
    monkeypatch.setattr(resolve, "ATTEMPT_S", 0.15)
    front = desk.front(lambda asked: [asked.wire[:2] + bytes((0x81, 0x80 | code)) + bytes(8)])
    answer = await _ask(front, by, query())
    assert (answer.rcode(), len(answer.question)) == (dns.rcode.SERVFAIL, 1)


async def test_passthrough_hands_on_what_it_is_given(desk: Desk, by: str) -> None:
    front = desk.front(by=guard("passthrough"))
    assert (await _ask(front, by, query("MiXed.example", edns=b"\xfd\xe9\0\1x"))).question[
        0
    ].name.to_text() == "MiXed.example."
    assert desk.asked[0].wire[2:] == query("MiXed.example", edns=b"\xfd\xe9\0\1x")[2:]


async def test_passthrough_of_what_has_no_question_goes_by_the_id(desk: Desk) -> None:
    wire = query(counts=(0, 0, 0, 0))[:12]
    front = desk.front(
        lambda asked: [b"\0\0" + asked.wire[2:], asked.wire[:2] + b"\x81\x81" + bytes(8)],
        guard("passthrough"),
    )
    assert await front.ask_udp(wire) == wire[:2] + b"\x81\x81" + bytes(8)


async def test_passthrough_of_a_question_that_cannot_be_read_goes_by_the_id(desk: Desk) -> None:
    wire = query(b"\1a\xc0\x00")
    rest = b"\x81\x80\0\1\0\1\0\0\0\1" + b"whatever the resolver makes of it"
    front = desk.front(lambda asked: [b"\0\0" + rest, asked.wire[:2] + rest], guard("passthrough"))
    assert await front.ask_udp(wire) == wire[:2] + rest


# -- what is no answer


FORGED: list[Callable[[Asked], bytes]] = [
    lambda asked: bytes((asked.wire[0] ^ 1,)) + reply(asked, f"{ALLOWED}. 60 IN A 198.51.100.66")[1:],
    lambda asked: reply(asked, f"{ALLOWED}. 60 IN A 198.51.100.66").replace(b"\3api", b"\3apj", 1),
    lambda asked: reply(asked).replace(b"\0\1\0\1", b"\0\x1c\0\1", 1),
    lambda asked: reply(asked).replace(b"\0\1\0\1", b"\0\1\0\3", 1),
    lambda asked: asked.wire,
    lambda asked: b"",
    lambda asked: asked.wire[:11],
    lambda asked: asked.wire[:2] + b"\x81\x80" + bytes(8),  # no error, and no question
    lambda asked: reply(asked)[:20],
]


@pytest.mark.parametrize("forged", range(len(FORGED)))
async def test_a_forgery_is_passed_over_and_the_answer_taken(desk: Desk, forged: int) -> None:
    """Of what is passed on as it is; tests/gateway/net/test_resolve.py has the rest."""
    front = desk.front(lambda asked: [FORGED[forged](asked), reply(asked, GOOD)], guard("passthrough"))
    answer = await _ask(front, "udp", query())
    assert answer.answer[0].to_text() == GOOD


@pytest.mark.parametrize("forged", range(len(FORGED)))
async def test_over_tcp_a_forgery_ends_the_connection(desk: Desk, forged: int) -> None:
    front = desk.front(lambda asked: [FORGED[forged](asked)], guard("passthrough"))
    assert await front.ask_tcp(query()) == b""


@pytest.mark.parametrize("mode", ["guarded", "passthrough"])
async def test_a_packet_from_elsewhere_is_not_taken(desk: Desk, mode: str) -> None:
    front = desk.front(lambda asked: [], guard(mode))
    with front.client() as sock, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as forger:
        sock.send(query())
        await has_asked(desk.server, 1)
        forger.sendto(
            reply(desk.asked[0], f"{ALLOWED}. 60 IN A 198.51.100.66"), ("127.0.0.1", desk.server.sources[0])
        )
        await asyncio.sleep(0.1)
        with pytest.raises(BlockingIOError):
            sock.recv(100)


# -- TCP framing


async def test_one_octet_at_a_time(desk: Desk) -> None:
    front = desk.front()
    with front.client(socket.SOCK_STREAM) as sock:
        for octet in framed(query()):
            await send_all(sock, bytes((octet,)))
            await asyncio.sleep(0.001)
        assert dns.message.from_wire(await read_message(sock)).answer


async def test_several_queries_on_one_connection_even_at_once(desk: Desk) -> None:
    front = desk.front()
    with front.client(socket.SOCK_STREAM) as sock:
        await send_all(sock, framed(query()) + framed(query(OTHER)) + framed(query("a.anthropic.com", 28)))
        got = bytearray()
        async with asyncio.timeout(WITHIN_S):
            while got.count(b"\x12\x34") < 3:
                assert await receive(sock, got, 65535)
        names = []
        while got:
            size = int.from_bytes(got[:2], "big")
            names.append(dns.message.from_wire(bytes(got[2 : 2 + size])).question[0].name.to_text())
            del got[: 2 + size]
    assert names == [f"{ALLOWED}.", f"{OTHER}.", "a.anthropic.com."]


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\0",
        b"\0\0",
        b"\0\5abc",
        b"\xff\xff" + b"x" * 100,
        framed(b"short"),
        framed(query(flags=0x8100)),
    ],
)
async def test_what_is_no_message_ends_the_connection_and_nothing_else(desk: Desk, sent: bytes) -> None:
    front = desk.front()
    with front.client(socket.SOCK_STREAM) as sock:
        await send_all(sock, sent)
        sock.shutdown(socket.SHUT_WR)
        assert await read_message(sock) == b""
    assert _seen(front) == [("dns_blocked", None, "bad_query")]
    assert (await _ask(front, "tcp", query())).answer
    await front.settled()
    assert len(front.sink.records) == 2, "who has asked may go"


@pytest.mark.parametrize("sent", [b"\0", b"\0\5abc", b"\0\0"])
async def test_who_has_asked_and_then_begins_what_is_no_message_is_on_record(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    """It is there when the query is answered: else its time might be up before it has begun."""
    monkeypatch.setattr(module, "TCP_IDLE_S", 0.2)
    for ends in (True, False):
        front = desk.front()
        with front.client(socket.SOCK_STREAM) as sock:
            await send_all(sock, framed(query(OTHER)) + sent)
            assert await read_message(sock)
            if ends:
                sock.shutdown(socket.SHUT_WR)
            assert await read_message(sock) == b""
        assert [reason for _, _, reason in _seen(front)] == ["no_allow_entry", "bad_query"]


async def test_who_has_asked_may_be_idle(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TCP_IDLE_S", 0.2)
    front = desk.front()
    with front.client(socket.SOCK_STREAM) as sock:
        await send_all(sock, framed(query(OTHER)))
        assert await read_message(sock)
        assert await read_message(sock) == b""
    assert len(front.sink.records) == 1


async def test_a_resolver_that_is_silent_is_no_fault_of_the_query(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TCP_IDLE_S", 0.2)
    front = desk.front(lambda asked: [], guard("passthrough"))
    assert await front.ask_tcp(query()) == b""
    assert len(front.sink.records) == 1


async def test_who_has_asked_and_resets_the_connection_is_no_fault(desk: Desk) -> None:
    front = desk.front()
    with front.client(socket.SOCK_STREAM) as sock:
        await send_all(sock, framed(query(OTHER)))
        await asyncio.wait_for(readable(sock), WITHIN_S)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    await front.settled()
    assert len(front.sink.records) == 1


async def test_a_long_message_is_refused_without_being_read_closely(desk: Desk) -> None:
    front = desk.front()
    bomb = query(counts=(1, 0, 0, 5000), rest=(b"\0\0\x29\4\0\0\0\0\0\0\0") * 5000)
    began = time.monotonic()
    answer = await _ask(front, "tcp", bomb)
    assert answer.rcode() == dns.rcode.FORMERR
    assert time.monotonic() - began < 10
    assert desk.asked == []


async def test_a_client_that_says_nothing_is_let_go(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TCP_IDLE_S", 0.1)
    front = desk.front()
    with front.client(socket.SOCK_STREAM) as sock:
        await send_all(sock, b"\0")
        assert await read_message(sock) == b""
    assert _seen(front) == [("dns_blocked", None, "bad_query")]


# -- who goes away


async def test_a_client_that_is_gone_harms_nobody(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    def slow(asked: Asked) -> list[bytes]:
        time.sleep(0.05)
        return [reply(asked, GOOD)]

    front = desk.front(slow)
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        sock = front.client(kind)
        sock.send(query() if kind is socket.SOCK_DGRAM else framed(query()))
        await asyncio.sleep(0.01)
        sock.close()
    await asyncio.sleep(0.2)
    assert (await _ask(front, "udp", query())).answer
    await front.settled()
    assert caplog.records == []


async def test_a_silent_resolver_costs_a_wait_and_is_a_failure(
    desk: Desk, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many attempts as there are, and no more."""
    monkeypatch.setattr(resolve, "ATTEMPT_S", 0.15)
    front = desk.front(lambda asked: [])
    began = time.monotonic()
    assert (await _ask(front, by, query())).rcode() == dns.rcode.SERVFAIL
    assert time.monotonic() - began > 0.4
    await front.settled()
    await has_asked(desk.server, resolve.ATTEMPTS)


async def test_a_silent_resolver_of_what_is_passed_on(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT_S", 0.1)
    front = desk.front(lambda asked: [], guard("passthrough"))
    with front.client() as sock:
        sock.send(query())
        await asyncio.sleep(0.3)
        with pytest.raises(BlockingIOError):
            sock.recv(100)
    assert await front.ask_tcp(query()) == b""
    await front.settled()


async def test_a_resolver_that_is_not_there(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "ATTEMPT_S", 0.15)
    with serving(lambda asked: []) as server:
        gone = server.endpoint
    front = Front(gone, guard())
    desk.fronts.append(front)
    for by in ("udp", "tcp"):
        assert (await _ask(front, by, query())).rcode() == dns.rcode.SERVFAIL
    await front.settled()
    assert (await _ask(front, "udp", query(OTHER))).answer


# -- too much


async def test_queries_under_way_are_bounded(desk: Desk) -> None:
    front = desk.front(lambda asked: [], guard("passthrough"))
    with front.client() as sock:
        for _ in range(40):
            for _ in range(10):
                sock.send(query())
            await asyncio.sleep(0.005)
        await until(front.has_read_all)
        assert front.forwarder._in_flight == MAX_IN_FLIGHT
        await has_asked(desk.server, MAX_IN_FLIGHT)
        assert await front.ask_tcp(query(OTHER)) == b""
    limited = [record["proto"] for record in front.sink.records if record["reason"] == "limit"]
    assert 400 - MAX_IN_FLIGHT >= limited.count("udp") > 0
    assert limited.count("tcp") == 1


async def test_a_burst_in_one_turn_is_bounded_too(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_IN_FLIGHT", 3)
    front = desk.front(lambda asked: [], guard("passthrough"))
    with front.client() as sock:
        for _ in range(30):
            sock.send(query())
        await until(front.has_read_all)
    assert front.forwarder._in_flight == 3
    assert len(front.sink.records) == 30
    await has_asked(desk.server, 3)


async def test_out_of_descriptors_it_rests_and_comes_back(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    front = desk.front()
    tried: list[float] = []

    class NoRoom:
        def accept(self) -> None:
            tried.append(asyncio.get_running_loop().time())
            raise OSError(errno.EMFILE, "Too many open files")

        def fileno(self) -> int:
            return front.tcp.fileno()

    monkeypatch.setattr(front.forwarder, "_tcp", NoRoom())
    with front.client(socket.SOCK_STREAM) as sock:
        await until(lambda: len(tried) == 4)
        pauses = [later - one for one, later in itertools.pairwise(tried)]
        assert min(pauses) > 0.99 * module.PAUSE_S, "it neither spins nor gives up"
        monkeypatch.setattr(front.forwarder, "_tcp", front.tcp)
        await send_all(sock, framed(query(OTHER)))
        assert await read_message(sock)


async def test_stopped_it_takes_no_more(desk: Desk) -> None:
    front = desk.front()
    front.forwarder.stop()
    with front.client() as sock:
        sock.send(query(OTHER))
        await asyncio.sleep(0.05)
        with pytest.raises(BlockingIOError):
            sock.recv(100)
    front.forwarder._resume()
    assert not asyncio.get_running_loop().remove_reader(front.tcp)


async def test_ipv6_resolver(desk: Desk) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as resolver:
        try:
            resolver.bind(("::1", 0))
        except OSError:
            pytest.skip("this host has no IPv6")
        resolver.setblocking(False)
        front = Front(Endpoint(ip_address("::1"), resolver.getsockname()[1]), guard())
        desk.fronts.append(front)
        with front.client() as sock:
            sock.send(query(ALLOWED, A))
            await asyncio.wait_for(readable(resolver), WITHIN_S)
            wire, peer = resolver.recvfrom(1000)
            resolver.sendto(reply(Asked(wire, False), GOOD), peer)
            await asyncio.wait_for(readable(sock), WITHIN_S)
            assert dns.message.from_wire(sock.recv(1000)).answer


# -- on record


def _seen(front: Front) -> list[tuple[str, str | None, str]]:
    return [(record["event"], record["domain"], record["reason"]) for record in front.sink.records]


async def test_every_query_is_on_record_before_it_is_answered(desk: Desk, by: str) -> None:
    front = desk.front()
    for wire in (query(), query(OTHER), query("API.openai.com"), query(ALLOWED, 255), query(b"\3a b\3com\0")):
        await _ask(front, by, wire)
    assert _seen(front) == [
        ("dns_allowed", ALLOWED, "allowed_name"),
        ("dns_blocked", OTHER, "no_allow_entry"),
        ("dns_allowed", ALLOWED, "allowed_name"),
        ("dns_blocked", ALLOWED, "bad_query"),
        ("dns_blocked", None, "bad_name"),
    ]
    assert {record["proto"] for record in front.sink.records} == {by}
    assert {record["src_ip"] for record in front.sink.records} == {"127.0.0.1"}
    assert len(desk.asked) == 1


async def test_what_cannot_be_recorded_does_not_leave(desk: Desk, by: str) -> None:
    front = desk.front()
    front.sink.full = True
    assert (await _ask(front, by, query())).rcode() == dns.rcode.SERVFAIL
    assert desk.asked == []
    assert _seen(front) == [("dns_blocked", ALLOWED, "limit")]


async def test_beyond_the_budget_nothing_leaves_and_what_is_known_is_still_answered(
    desk: Desk, by: str
) -> None:
    front = desk.front(lambda asked: [reply(asked, f"{asked.name} 60 IN A 203.0.113.9")])
    front.forwarder._budget = Budget((0.001, 2), (0.001, 1000))
    for number, rcode in enumerate((0, 0, 2, 2)):
        assert (await _ask(front, by, query(f"n{number}.anthropic.com"))).rcode() == rcode
    assert (await _ask(front, by, query("n0.anthropic.com"))).answer
    assert len(desk.asked) == 2
    assert [reason for _, _, reason in _seen(front)] == ["allowed_name"] * 2 + ["limit"] * 2 + [
        "allowed_name"
    ]


async def test_names_that_are_dialled_have_no_budget_of_their_own(desk: Desk, by: str) -> None:
    """A hello under an allowed wildcard says as much to its name server as a query does."""
    front = desk.front(lambda asked: [reply(asked, f"{asked.name} 60 IN A 203.0.113.9")])
    front.forwarder._budget = Budget((0.001, 4), (0.001, 1000))
    for number in range(2):
        assert len(await front.resolver.resolve(f"dialled{number}.anthropic.com")) == 1
    for number, rcode in enumerate((0, 0, 2)):
        assert (await _ask(front, by, query(f"asked{number}.anthropic.com"))).rcode() == rcode
    for known in ("asked0", "dialled0"):
        assert len(await front.resolver.resolve(f"{known}.anthropic.com")) == 1
    with pytest.raises(resolve.ResolveLimit):
        await front.resolver.resolve("dialled9.anthropic.com")
    assert (await _ask(front, by, query("dialled1.anthropic.com"))).answer, "known"
    assert len(desk.asked) == 4


async def test_octets_of_names_are_budgeted_whoever_asks(desk: Desk) -> None:
    front = desk.front(lambda asked: [reply(asked, f"{asked.name} 60 IN A 203.0.113.9")])
    long = ".".join(["a" * 49] * 4) + ".anthropic.com"
    front.forwarder._budget = Budget((100, 100), (0.001, 3 * len(long) + 10))
    for number in range(5):
        try:
            await front.resolver.resolve(f"b{number}{long[2:]}")
        except resolve.ResolveLimit:
            assert number >= 3
    assert len(desk.asked) == 3


async def test_where_any_name_may_be_asked_for_there_is_no_budget(desk: Desk) -> None:
    front = desk.front(
        lambda asked: [reply(asked, f"{asked.name} 60 IN A 203.0.113.9")], guard("passthrough")
    )
    front.forwarder._budget = Budget((0.001, 0), (0.001, 0))
    for number in range(3):
        await front.resolver.resolve(f"n{number}.anthropic.com")
    front.forwarder.obey(guard())
    with pytest.raises(resolve.ResolveLimit):
        await front.resolver.resolve("n4.anthropic.com")


async def test_equal_questions_at_once_cost_the_budget_one(desk: Desk, by: str) -> None:
    """Each is on record; one leaves."""
    front = desk.front(lambda asked: [reply(asked, f"{asked.name} 60 IN A 203.0.113.9")])
    front.forwarder._budget = Budget((0.001, 1), (0.001, 1000))
    answers = await asyncio.gather(*(_ask(front, by, query("a.anthropic.com")) for _ in range(10)))
    assert {answer.rcode() for answer in answers} == {dns.rcode.NOERROR}
    assert _seen(front) == [("dns_allowed", "a.anthropic.com", "allowed_name")] * 10
    assert len(desk.asked) == 1


async def test_a_name_that_leads_nowhere_it_may_lead_is_on_record(desk: Desk, by: str) -> None:
    front = desk.front(lambda asked: [reply(asked, f"{ALLOWED}. 60 IN A 10.0.0.1")])
    for _ in range(2):
        answer = await _ask(front, by, query())
        assert (answer.rcode(), answer.answer) == (dns.rcode.NOERROR, [])
    assert (
        _seen(front)
        == [
            ("dns_allowed", ALLOWED, "allowed_name"),
            ("dns_blocked", ALLOWED, "forbidden_answer"),
        ]
        * 2
    )


async def test_at_a_stop_what_has_arrived_is_judged(desk: Desk) -> None:
    front = desk.front()
    with front.client() as sock:
        for number in range(100):
            sock.send(query(f"n{number}.example"))
        front.forwarder.stop()
    assert len(front.sink.records) == 100


async def test_what_is_no_query_is_on_record_too(desk: Desk) -> None:
    front = desk.front()
    with front.client() as sock:
        for wire in (b"", b"junk", query(flags=0x8100)):
            sock.send(wire)
        await until(front.has_read_all)
        await asyncio.sleep(0.05)
        with pytest.raises(BlockingIOError):
            sock.recv(100)
    assert _seen(front) == [("dns_blocked", None, "bad_query")] * 3


# -- another policy


def _forbids() -> Guard:
    return Guard("guarded", lambda host: NO, public, forwards_all=False, ipv6=True)


async def _asked_across(desk: Desk, by: str, before: Guard, after: Guard) -> tuple[Front, bytes]:
    """What comes back of a query that is under way while the policy is replaced."""
    asked, replaced = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def answering(asked_now: Asked) -> list[bytes]:
        loop.call_soon_threadsafe(asked.set)
        assert replaced.wait(10)
        return [reply(asked_now, GOOD)]

    front = desk.front(answering, before)
    answer = spawn(front.ask_udp(query()) if by == "udp" else front.ask_tcp(query()), "asking")
    await asyncio.wait_for(asked.wait(), WITHIN_S)
    front.forwarder.obey(after)
    replaced.set()
    return front, await answer


@pytest.mark.parametrize("before", ["guarded", "passthrough"])
async def test_a_query_under_way_is_answered_by_the_policy_that_holds_then(
    desk: Desk, by: str, before: str
) -> None:
    front, wire = await _asked_across(desk, by, guard(before), _forbids())
    assert dns.message.from_wire(wire).answer[0].to_text() == f"{ALLOWED}. 5 IN A {SINKHOLE}"
    assert _seen(front)[1:] == [("dns_blocked", ALLOWED, "no_allow_entry")]
    assert front.sink.records[-1]["rule"] == NO.entry
    assert front.forwarder.told.name_of(ip_address("203.0.113.9")) is None


@pytest.mark.parametrize("after", ["guarded", "strict", "passthrough"])
async def test_what_both_policies_allow_is_answered_and_on_record_once(
    desk: Desk, by: str, after: str
) -> None:
    front, wire = await _asked_across(desk, by, guard(), guard(after))
    assert dns.message.from_wire(wire).answer[0].to_text() == GOOD
    assert _seen(front) == [("dns_allowed", ALLOWED, "allowed_name")]


async def test_what_was_passed_on_and_is_now_to_be_asked_for_is_a_failure(desk: Desk, by: str) -> None:
    """The resolver's own message is not for a sandbox under an allowlist: the client asks again."""
    _, wire = await _asked_across(desk, by, guard("passthrough"), guard())
    assert dns.message.from_wire(wire).rcode() == dns.rcode.SERVFAIL
