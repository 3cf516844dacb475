"""What one undecided client may cost: bytes, wake-ups and time, over loopback sockets that pass for a sandbox's."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from gateway import session as module
from gateway.decide import compile_policy
from gateway.flow import Endpoint, Flow
from gateway.net.resolve import Resolver
from gateway.net.waits import arrival
from gateway.session import MAX_READS, Gate, House, run_session
from gateway.sniff import sniff
from gateway.tasks import spawn
from rules import ALL_TRAFFIC, NetworkPolicy
from tests.gateway.journal_desk import Desk
from tests.gateway.net.carrying import carried
from tests.gateway.net.loopback import nothing_left, tcp_pair
from tests.netns.hello import client_hello

POLICY = NetworkPolicy(allow_out=["allowed.test"], deny_out=[ALL_TRAFFIC])
DEST = Endpoint(ip_address("198.18.0.10"), 443)


class Session:
    """A session whose client is in the test's hands."""

    def __init__(self, desk: Desk) -> None:
        self.client, self.inner = tcp_pair()
        self.client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._desk = desk
        flow = Flow("ab-1", "agent-1", Endpoint(ip_address("192.0.0.2"), 40_000), DEST)
        gate = Gate(
            compile_policy(POLICY), Resolver(Endpoint(ip_address("127.0.0.1"), 9), ipv6=False), frozenset()
        )
        self.task = spawn(carried(run_session(self.inner, flow, House(gate), desk.open(flow))), "session")

    async def drip(self, pieces: list[bytes]) -> None:
        """Each in a segment of its own, and seen by the gateway before the next is sent."""
        for piece in pieces:
            if self.task.done():
                return
            try:
                self.client.send(piece)
            except OSError:
                return
            await asyncio.sleep(0.001)

    async def end(self) -> dict[str, Any]:
        await asyncio.wait_for(self.task, 5)
        (record,) = self._desk.decisions()
        return record

    def close(self) -> None:
        self.client.close()
        self._desk.close()


@pytest.fixture
async def session(tmp_path: Path) -> AsyncIterator[Session]:
    made = Session(Desk(tmp_path))
    await asyncio.sleep(0.01)
    yield made
    made.close()


@contextmanager
def looks(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How much there was to see at each look of the sniffer."""
    seen: list[int] = []
    real: Callable[..., Any] = sniff

    def counting(data: bytearray, *, scanned: int = 0) -> Any:
        seen.append(len(data))
        return real(data, scanned=scanned)

    monkeypatch.setattr(module, "sniff", counting)
    yield seen


BYTES = [bytes((byte,)) for byte in client_hello("blocked.test")]


@pytest.mark.parametrize(
    "pieces",
    [BYTES, [b"\x16\x03\x01\x00\x01" + byte for byte in BYTES[5:]]],
    ids=["bytes", "records of one byte"],
)
async def test_a_hello_that_drips_is_read_as_seldom_as_it_can_be(
    session: Session, monkeypatch: pytest.MonkeyPatch, pieces: list[bytes]
) -> None:
    """Nobody looks, and nobody is woken, before enough has come for it to be worth the while."""
    waits: list[int] = []
    real = arrival

    async def counting(sock: socket.socket, at_least: int = 1) -> None:
        waits.append(at_least)
        await real(sock, at_least)

    monkeypatch.setattr(module, "arrival", counting)
    with looks(monkeypatch) as seen, nothing_left(session.inner):
        await session.drip(pieces)
        record = await session.end()
    assert (record["event"], record["domain"], record["reason"]) == (
        "egress_blocked",
        "blocked.test",
        "no_allow_entry",
    )
    assert len(seen) <= MAX_READS // 2
    assert 1 < len(waits) <= 2 * len(seen)


async def test_who_drips_what_has_to_be_looked_at_is_refused(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head may end with each piece of it."""
    with looks(monkeypatch) as seen, nothing_left(session.inner):
        await session.drip([b"GET / HTTP/1.1\r\n", *(b"A: %d\r\n" % number for number in range(200))])
        record = await session.end()
    assert (record["event"], record["rule"], record["reason"], record["app"]) == (
        "egress_blocked",
        "unreadable",
        "too_many_reads",
        "http",
    )
    assert len(seen) <= MAX_READS
    assert session.client.recv(4096).startswith(b"HTTP/1.1 403 ")


async def test_one_deadline_however_the_client_drips(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte in time buys no more of it."""
    monkeypatch.setattr(module, "DECIDE_S", 0.3)
    pieces = [bytes((byte,)) for byte in client_hello("allowed.test")]
    started = asyncio.get_running_loop().time()
    for piece in pieces:
        if session.task.done():
            break
        session.client.send(piece)
        await asyncio.sleep(0.02)
    assert asyncio.get_running_loop().time() - started < len(pieces) * 0.02
    record = await session.end()
    assert (record["rule"], record["reason"]) == ("unreadable", "no_hello")
    with pytest.raises(ConnectionResetError):
        session.client.recv(1)


async def test_endless_bytes_are_read_up_to_a_bound(session: Session) -> None:
    flood = b"GET /" + b"a" * 1_000_000
    sent = 0
    while sent < len(flood) and not session.task.done():
        try:
            sent += session.client.send(flood[sent:])
        except BlockingIOError:
            await asyncio.sleep(0.001)
        except OSError:
            break
    record = await session.end()
    assert record["reason"] == "too_long"


async def test_descriptors_are_where_they_were(session: Session) -> None:
    session.client.close()
    assert (await session.end())["reason"] == "client_closed"
    assert session.inner.fileno() == -1
