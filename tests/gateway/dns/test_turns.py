"""However much is asked at once, the loop goes on: what is done in one of its turns is counted, and time is what a test says it is."""

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import dns.flags
import dns.message
import dns.rrset
import pytest

from gateway.dns import guard as guard_module
from gateway.dns import reply as reply_module
from gateway.dns import server as module
from gateway.dns import tellings as tellings_module
from gateway.net.answers import MAX_ADDRESSES
from gateway.net.message import read
from gateway.net.pace import PIECES_A_TURN, TURN_S
from gateway.net.sockets import send_all
from tests.gateway.dns.front import Desk, Front, framed
from tests.gateway.dns.queries import ALLOWED, guard, option, query
from tests.gateway.dns_server import Asked, reply, serving
from tests.gateway.net.attempts import patient

ROOM = 1 << 20


class Turns:
    """Of the loop; and what was done in each of them."""

    def __init__(self) -> None:
        self.number = 0
        self.done: Counter[int] = Counter()
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_soon(self._next)

    def _next(self) -> None:
        self.number += 1
        self._timer = self._loop.call_soon(self._next)

    def stop(self) -> None:
        self._timer.cancel()

    def counting(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **named: Any) -> Any:
            self.done[self.number] += 1
            return real(*args, **named)

        return counted


class Costly:
    """A clock for which whatever is measured takes a while."""

    def __init__(self, each_s: float) -> None:
        self.now = 1000.0
        self.each_s = each_s

    def __call__(self) -> float:
        self.now += self.each_s
        return self.now


@contextmanager
def many(number: int) -> Iterator[Callable[[Asked], list[bytes]]]:
    """So many addresses for each name; those that came over UDP first are let go together, at the end."""
    texts = [f"203.{n // 62500}.{n // 250 % 250}.{n % 250 + 1}" for n in range(number)]

    def answering(asked: Asked) -> list[bytes]:
        if number > 12 and not asked.tcp:
            return [reply(asked, flags=dns.flags.TC)]
        answer = dns.message.make_response(asked.message)
        answer.answer.append(dns.rrset.from_text(asked.name, 60, "IN", "A", *texts))
        return [answer.to_wire(max_size=65535)]

    yield answering


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    patient(monkeypatch)


@pytest.fixture
async def turns() -> AsyncIterator[Turns]:
    made = Turns()
    yield made
    made.stop()


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    with serving(lambda asked: []) as server:
        made = Desk(server)
        yield made
        for front in made.fronts:
            await front.close()


async def _answers(
    front: Front, wires: list[bytes], all_wait: Callable[[], object] | None = None
) -> list[bytes]:
    """To all of them, sent at once. ``all_wait`` is called when the forwarder has taken them, and none has an answer."""
    got: list[bytes] = []
    with front.client() as sock:
        for one in (sock, front.udp):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ROOM)
        for wire in wires:
            sock.send(wire)
        async with asyncio.timeout(10):
            while all_wait is not None and front.forwarder._in_flight < len(wires):
                await asyncio.sleep(0)
            if all_wait is not None:
                all_wait()
            while len(got) < len(wires):
                try:
                    got.append(sock.recv(65535))
                except BlockingIOError:
                    await asyncio.sleep(0)
    return got


@pytest.mark.parametrize("number", [12, 240, 4000])
async def test_those_who_wait_for_one_answer_are_answered_a_few_a_turn(
    desk: Desk, turns: Turns, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Whoever asks after the answer has it at once, and is bounded where queries are read: so it comes when all have asked."""
    all_wait = threading.Event()
    with many(number) as answering:
        front = desk.front(lambda asked: answering(asked) if all_wait.wait(10) else [])
    worked_out = 0
    real = reply_module.tell

    def tell(*args: Any) -> Any:
        nonlocal worked_out
        worked_out += 1
        return real(*args)

    monkeypatch.setattr(reply_module, "tell", tell)
    monkeypatch.setattr(front.forwarder, "_reply", turns.counting(front.forwarder._reply))
    got = await _answers(front, [query(edns=b"")] * 200, all_wait.set)
    assert turns.done.total() == 200
    assert max(turns.done.values()) <= 2 * PIECES_A_TURN
    assert worked_out == 1
    assert len(set(got)) == 1
    assert bool(dns.message.from_wire(got[0]).flags & dns.flags.TC) is (number > 12)
    told = dns.message.from_wire(await front.ask_tcp(query()))
    assert [len(rrset) for rrset in told.answer] == [min(number, MAX_ADDRESSES)]
    assert worked_out == 1
    assert len(desk.asked) == (1 if number == 12 else 2), "what is long is not asked for again either"


async def test_work_ends_a_turn_by_the_clock(desk: Desk, turns: Turns) -> None:
    """Two hundred names, whose answers come as they come; each piece of work is dear."""
    with many(12) as answering:
        front = desk.front(answering)
    front.resolver.pace.clock = Costly(TURN_S / 2)
    front.forwarder._told = turns.counting(front.forwarder._told)  # type: ignore[method-assign]
    await _answers(front, [query(f"n{number}.anthropic.com", edns=b"") for number in range(200)])
    assert turns.done.total() == 200
    assert max(turns.done.values()) <= 4


@pytest.mark.parametrize("host", [ALLOWED, "evil.example"])
async def test_reading_ends_by_the_clock_and_goes_on_in_the_next_turn(
    desk: Desk, turns: Turns, host: str
) -> None:
    """A flood of queries that are answered from here, or from what is known."""
    with many(240) as answering:
        front = desk.front(answering)
    await front.ask_udp(query(host, edns=b""))
    turns.done.clear()
    front.resolver.pace.clock = Costly(module.READING_S / 4)
    front.forwarder._reply = turns.counting(front.forwarder._reply)  # type: ignore[method-assign]
    await _answers(front, [query(host, edns=b"")] * 200)
    assert turns.done.total() == 200
    assert max(turns.done.values()) <= 5


async def test_a_known_answer_costs_no_reading_of_it(
    desk: Desk, turns: Turns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tellings_module, "HOLDS_S", 3600.0)
    with many(240) as answering:
        front = desk.front(answering)
    await front.ask_udp(query(edns=b""))
    monkeypatch.setattr(reply_module, "read", turns.counting(read))
    monkeypatch.setattr(front.forwarder.told._names, "move_to_end", turns.counting(lambda ip: None))
    await _answers(front, [query(edns=b"")] * 200)
    assert turns.done.total() == 0


async def test_queries_in_a_row_on_one_connection_end_a_turn_too(
    desk: Desk, turns: Turns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading and writing never have to wait where a client writes fast and reads fast."""
    front = desk.front()
    monkeypatch.setattr(module, "send_all", turns.counting(send_all))
    number = 2000
    with front.client(socket.SOCK_STREAM) as sock:
        for one in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            sock.setsockopt(socket.SOL_SOCKET, one, ROOM)
        sock.send(framed(query("evil.example")) * number)
        async with asyncio.timeout(10):
            while turns.done.total() < number:
                try:
                    sock.recv(ROOM)
                except BlockingIOError:
                    pass
                await asyncio.sleep(0)
    assert max(turns.done.values()) <= 2 * PIECES_A_TURN


async def test_a_policy_is_obeyed_in_the_midst_of_a_flood(desk: Desk) -> None:
    """What the loop does beside DNS has its turn while hundreds of queries wait."""
    with many(240) as answering:
        front = desk.front(answering)
    await front.ask_udp(query(edns=b""))
    with front.client() as sock:
        front.udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ROOM)
        for _ in range(200):
            sock.send(query(edns=b""))
        front.resolver.pace.clock = Costly(module.READING_S)
        await asyncio.sleep(0)
        front.forwarder.obey(guard("strict", ipv6=False))
        for _ in range(5):
            await asyncio.sleep(0)
        assert 0 < len(front.sink.records) < 100, "one a turn"


@pytest.mark.parametrize("mode", ["guarded", "strict"])
async def test_a_query_that_is_dear_to_read_is_not_read(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    subnets = option(8, b"\0\1\x20\0\x0a\0\0\2") * 300
    front = desk.front(by=guard(mode))
    closely: list[bytes] = []
    monkeypatch.setattr(guard_module, "read_query", closely.append)
    answer = dns.message.from_wire(await front.ask_udp(query(edns=subnets)))
    assert (answer.rcode(), closely) == (dns.rcode.FORMERR, [])
