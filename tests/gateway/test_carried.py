"""From the first message to the upstream: what a client has sent by then, however and with whatever end, is on its way without more being asked."""

import asyncio
import contextlib
import gc
import socket
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from gateway import session as module
from gateway.attempt import Attempt
from gateway.decide import compile_policy
from gateway.flow import Endpoint, Flow, IPAddress
from gateway.net import relay
from gateway.net.connect import connect
from gateway.net.direction import Direction
from gateway.net.sockets import Sock
from gateway.net.strand import Ear, Strand
from gateway.session import Gate, House, run_session
from gateway.sniff.handshake import Handshake
from gateway.sniff.requests import Requests
from gateway.tasks import spawn
from rules import ALL_TRAFFIC, NetworkPolicy
from tests.gateway.journal_desk import Desk
from tests.gateway.net.carrying import carried
from tests.gateway.net.leaps import Leaps
from tests.gateway.net.loop import WITHIN_S, until
from tests.gateway.net.loopback import reset, tcp_pair

POLICY = NetworkPolicy(allow_out=["allowed.test"], deny_out=[ALL_TRAFFIC])
PUBLIC = ip_address("203.0.113.9")
BODY = b"x" * 40_000
"""More than the first read takes."""


class Known:
    """A resolver that has the answer, and its answers."""

    def __init__(self) -> None:
        self.answers = self

    def addresses(self, name: str) -> tuple[IPAddress, ...]:
        return (PUBLIC,)


def gate_of(policy: NetworkPolicy) -> Gate:
    return Gate(compile_policy(policy), Known(), frozenset())  # type: ignore[arg-type]  # all that a warm cache is asked


class Carried:
    """A session between a client and a listening upstream, both in the test's hands."""

    def __init__(self, desk: Desk) -> None:
        self.client, self._inner = tcp_pair()
        self.client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.server = socket.create_server(("127.0.0.1", 0))
        self.server.setblocking(False)
        self.port = self.server.getsockname()[1]
        self._desk = desk
        self.task: asyncio.Task[None] | None = None

    def head(self, size: int = 0) -> bytes:
        return f"POST / HTTP/1.1\r\nHost: allowed.test:{self.port}\r\nContent-Length: {size}\r\n\r\n".encode()

    def start(self) -> None:
        flow = Flow("ab-1", "agent-1", Endpoint(ip_address("192.0.0.2"), 40_000), Endpoint(PUBLIC, self.port))
        self.house = House(gate_of(POLICY))
        self.task = spawn(
            carried(run_session(self._inner, flow, self.house, self._desk.open(flow))), "session"
        )

    async def arrive(self, size: int) -> bytes:
        """Up to ``size`` bytes at the upstream: fewer only at its end of file."""
        loop = asyncio.get_running_loop()
        got = b""
        async with asyncio.timeout(WITHIN_S):
            upstream, _ = await loop.sock_accept(self.server)
            upstream.setblocking(False)
            with upstream:
                while len(got) < size and (chunk := await loop.sock_recv(upstream, 1 << 20)):
                    got += chunk
        return got

    async def end(self) -> dict[str, Any]:
        assert self.task is not None
        await asyncio.wait_for(self.task, WITHIN_S)
        await until(self._desk.decisions)
        (record,) = self._desk.decisions()
        return record


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.close()


@pytest.fixture
async def session(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Carried]:
    async def here(addresses: Sequence[IPAddress], port: int, first: bytes) -> tuple[Sock, IPAddress, int]:
        """What the name stands for is not to be reached: the upstream is on loopback, where no name may lead."""
        sock, _, sent = await connect((ip_address("127.0.0.1"),), port, first)
        return sock, addresses[0], sent

    monkeypatch.setattr(module, "connect", here)
    for patience in ("DECIDE_S", "ROOM_S", "CONNECT_S"):  # this process may have to wait for the processor
        monkeypatch.setattr(module, patience, 3600.0)
    made = Carried(desk)
    yield made
    if made.task is not None:
        made.task.cancel()
        await asyncio.gather(made.task, return_exceptions=True)
    made.client.close()
    made.server.close()


WAITS = pytest.mark.parametrize("waits", [False, True], ids=["at once", "awaited"])
"""Whether the session is there first, and is woken by what comes."""


async def _say(session: Carried, waits: bool, said: bytes, *, ends: bool) -> None:
    if waits:
        session.start()
        await asyncio.sleep(0.02)
    assert session.client.send(said) == len(said)  # whole, before the session's next turn
    if ends:
        session.client.shutdown(socket.SHUT_WR)
    if not waits:
        session.start()


@WAITS
@pytest.mark.parametrize("size", [10, len(BODY)], ids=["small", "large"])
@pytest.mark.parametrize("ends", [False, True], ids=["open", "with the end"])
async def test_all_that_came_with_the_first_message_is_carried(
    session: Carried, waits: bool, size: int, ends: bool
) -> None:
    said = session.head(size) + BODY[:size]
    await _say(session, waits, said, ends=ends)
    assert await session.arrive(len(said) + ends) == said


async def test_it_leaves_no_cycle_behind(session: Carried) -> None:
    """The collector stops everybody for milliseconds: nothing that each connection makes may need it."""
    made = Strand, Ear, Attempt, Direction, Handshake, Requests
    gc.collect()
    gc.disable()
    try:
        before = {id(one) for one in gc.get_objects() if isinstance(one, made)}
        await _say(session, False, session.head(), ends=True)
        await session.arrive(1 << 20)
        await session.end()
        left = [type(one) for one in gc.get_objects() if isinstance(one, made) and id(one) not in before]
    finally:
        gc.enable()
    assert not left


@contextlib.asynccontextmanager
async def _no_room(session: Carried, desk: Desk) -> AsyncIterator[bytes]:
    """While the session waits for room for its record; what its client has said, and none of which was carried."""
    desk.shrink()
    desk.stuff()
    session.client.send(said := session.head())
    session.start()
    await until(lambda: desk.journal.waits)
    session.server.setblocking(False)
    with pytest.raises(BlockingIOError):
        session.server.accept()
    yield said


async def test_whose_record_finds_no_room_waits_for_it(session: Carried, desk: Desk) -> None:
    """A keeper that is late by a moment refuses nobody."""
    async with _no_room(session, desk) as said:
        desk.keep()
    assert await session.arrive(len(said)) == said
    session.client.close()
    assert (await session.end())["event"] == "egress_allowed"


async def test_a_policy_that_came_while_it_waited_decides(session: Carried, desk: Desk) -> None:
    async with _no_room(session, desk):
        session.house.gate = gate_of(NetworkPolicy(allow_out=["other.test"], deny_out=[ALL_TRAFFIC]))
        desk.keep()
    record = await session.end()
    assert (record["event"], record["reason"]) == ("egress_blocked", "no_allow_entry")


async def test_who_finds_no_room_for_long_is_refused(
    session: Carried, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaps = Leaps(monkeypatch, module)
    async with _no_room(session, desk):
        leaps.on(module.ROOM_S)
        said = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(session.client, 1000), WITHIN_S)
        assert said.startswith(b"HTTP/1.1 403 ")
        desk.keep()
    record = await session.end()
    assert (record["event"], record["reason"], record["domain"]) == (
        "egress_blocked",
        "limit",
        "allowed.test",
    )


async def test_a_stop_while_it_waits_is_a_refusal_on_record(session: Carried, desk: Desk) -> None:
    async with _no_room(session, desk):
        assert session.task is not None
        session.task.cancel()
        await asyncio.gather(session.task, return_exceptions=True)
    desk.keep()
    await until(desk.decisions)
    (record,) = desk.decisions()
    assert (record["event"], record["reason"]) == ("egress_blocked", "shutdown")


@WAITS
async def test_a_client_that_is_gone_with_its_first_message_ends_it(session: Carried, waits: bool) -> None:
    if waits:
        session.start()
        await asyncio.sleep(0.02)
    session.client.send(session.head())
    reset(session.client)
    if not waits:
        session.start()
    with contextlib.suppress(ConnectionResetError):
        assert await session.arrive(1000) in (b"", session.head())
    await session.end()


@contextlib.contextmanager
def _answering(server: socket.socket, pieces: Sequence[bytes]) -> Iterator[list[socket.socket]]:
    """An upstream that writes its answer piece by piece, and has the kernel gather small ones (RFC 896): its socket, once it has been asked."""
    asked: list[socket.socket] = []

    def answer() -> None:
        upstream, _ = server.accept()
        with upstream:
            asked.append(upstream)
            upstream.recv(65536)
            for piece in pieces:
                upstream.send(piece)
            upstream.recv(1)

    server.setblocking(True)
    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield asked
    finally:
        thread.join(WITHIN_S)


def _acknowledged(sock: socket.socket) -> int:
    """tcp(7), TCP_INFO: tcpi_bytes_acked of linux/tcp.h."""
    return int.from_bytes(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128)[120:128], sys.byteorder)


@WAITS
async def test_an_answer_in_small_pieces_is_not_held_up_by_a_missing_acknowledgement(
    session: Carried, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A delayed acknowledgement takes 40 ms or more: the first piece has one as soon as it was read."""
    pieces = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n", b"body"
    acknowledged: list[int] = []
    real = relay._set

    with _answering(session.server, pieces) as asked:

        def noted(sock: Sock, level: int, option: int) -> None:
            real(sock, level, option)
            if option == socket.TCP_QUICKACK:
                acknowledged.append(_acknowledged(asked[0]))

        monkeypatch.setattr(relay, "_set", noted)
        await _say(session, waits, session.head(), ends=False)
        got = b""
        while not got.endswith(b"body"):
            got += await asyncio.wait_for(
                asyncio.get_running_loop().sock_recv(session.client, 1000), WITHIN_S
            )
        session.client.close()
        await session.end()
    assert len(acknowledged) == 1 and acknowledged[0] >= len(pieces[0])


async def test_a_first_flight_that_names_another_too_is_sent_to_nobody(session: Carried, desk: Desk) -> None:
    """Nobody is dialled for it: all that was read is looked at before."""
    head = session.head()
    await _say(session, False, head + head.replace(b"allowed", b"another"), ends=False)
    assert (await session.end())["event"] == "egress_allowed"
    closed = desk.records()[-1]
    assert (closed["event"], closed["ended_by"], closed["bytes_up"]) == ("egress_closed", "policy", 0)
    assert closed["upstream_ip"] is None
    with pytest.raises(BlockingIOError):
        session.server.accept()
    with pytest.raises(ConnectionResetError):
        await asyncio.get_running_loop().sock_recv(session.client, 1)
