"""What one undecided client may cost: bytes, wake-ups and time, over loopback sockets that pass for a sandbox's."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from gateway import session as module
from gateway.attempt import Attempt
from gateway.decide import Decision, compile_policy
from gateway.flow import Endpoint, Flow, IPAddress
from gateway.net import poller
from gateway.net.answers import Answers
from gateway.net.resolve import Resolver
from gateway.net.sockets import Sock
from gateway.net.waits import arrival
from gateway.reasons import Reason
from gateway.rulings import Rulings
from gateway.session import MAX_READS, Gate, House, run_session
from gateway.sniff import Refused, Sniffed, sniff
from gateway.tasks import spawn
from rules import ALL_TRAFFIC, NetworkPolicy
from tests.gateway.journal_desk import Desk
from tests.gateway.net.carrying import carried
from tests.gateway.net.leaps import Leaps
from tests.gateway.net.loop import WITHIN_S, until
from tests.gateway.net.loopback import nothing_left, reset, tcp_pair
from tests.netns.hello import client_hello

POLICY = NetworkPolicy(allow_out=["allowed.test"], deny_out=[ALL_TRAFFIC])
DEST = Endpoint(ip_address("198.18.0.10"), 443)


def gate_of(policy: NetworkPolicy) -> Gate:
    return Gate(
        compile_policy(policy), Resolver(Endpoint(ip_address("127.0.0.1"), 9), ipv6=False), frozenset()
    )


class Session:
    """A session whose client is in the test's hands."""

    def __init__(self, desk: Desk, policy: NetworkPolicy = POLICY) -> None:
        self.client, self.inner = tcp_pair()
        self.client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.desk = desk
        flow = Flow("ab-1", "agent-1", Endpoint(ip_address("192.0.0.2"), 40_000), DEST)
        self.house = House(gate_of(policy))
        self.task = spawn(carried(run_session(self.inner, flow, self.house, desk.open(flow))), "session")

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
        await asyncio.wait_for(self.task, WITHIN_S)
        (record,) = self.desk.decisions()
        return record

    def close(self) -> None:
        self.client.close()
        self.desk.close()


@pytest.fixture
async def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Session]:
    """Whose time is not up because this process has to wait for the processor."""
    monkeypatch.setattr(module, "DECIDE_S", 3600.0)
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
    """A byte in time buys no more of it: it is up when half of them are said."""
    leaps = Leaps(monkeypatch, module)
    monkeypatch.setattr(poller, "TICK_S", 0.005)
    pieces = [bytes((byte,)) for byte in client_hello("allowed.test")]
    with pytest.raises(ConnectionResetError):
        for piece in pieces:
            session.client.send(piece)
            leaps.on(2 * module.DECIDE_S / len(pieces))
            await asyncio.sleep(0.01)
    record = await session.end()
    assert (record["rule"], record["reason"]) == ("unreadable", "no_hello")


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


# -- another policy, while the client is read

BY_ADDRESS = NetworkPolicy(allow_out=[str(DEST.ip)], deny_out=[ALL_TRAFFIC])
BEGUN, REST = b"GET / HTTP/1.1\r\nHost: named", b".test\r\n\r\n"


@pytest.fixture
def leaps(monkeypatch: pytest.MonkeyPatch) -> Leaps:
    """By which time is up, and by nothing else."""
    monkeypatch.setattr(module, "DECIDE_S", 3600.0)
    monkeypatch.setattr(module, "ROOM_S", 3600.0)
    return Leaps(monkeypatch, module)


@pytest.fixture
async def unhurried(tmp_path: Path, leaps: Leaps) -> AsyncIterator[Session]:
    """A session whose time is up when a test says so."""
    made = Session(Desk(tmp_path))
    await asyncio.sleep(0.01)
    yield made
    made.close()


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The other end of whatever is dialled."""
    upstream, far = tcp_pair()

    async def here(addresses: Sequence[IPAddress], port: int, first: bytes) -> tuple[Sock, IPAddress, int]:
        return upstream, addresses[0], 0

    monkeypatch.setattr(module, "connect", here)
    yield far
    far.close()
    upstream.close()


async def all_of(sock: socket.socket) -> bytes:
    got = b""
    async with asyncio.timeout(WITHIN_S):
        while chunk := await asyncio.get_running_loop().sock_recv(sock, 65536):
            got += chunk
    return got


async def begin_under_a_name(session: Session) -> None:
    """A part of a head is read while a name is needed; then a policy comes that needs none."""
    session.client.send(BEGUN)
    await asyncio.sleep(0.02)
    session.house.gate = gate_of(BY_ADDRESS)


@pytest.mark.parametrize("late", [False, True], ids=["half-closed", "out of time"])
async def test_what_was_read_under_the_policy_before_is_carried(
    unhurried: Session, leaps: Leaps, far: socket.socket, late: bool
) -> None:
    """And is looked at, as all that passes is, for the name that it shows."""
    await begin_under_a_name(unhurried)
    if late:
        leaps.on(module.DECIDE_S)
        await until(unhurried.desk.decisions)
        unhurried.client.send(REST)
    unhurried.client.shutdown(socket.SHUT_WR)
    said = BEGUN + REST if late else BEGUN
    assert await all_of(far) == said
    far.shutdown(socket.SHUT_WR)
    record = await unhurried.end()
    assert (record["event"], record["reason"], record["domain"]) == (
        "egress_allowed",
        "allowed_address",
        None,
    )
    closed = unhurried.desk.records()[-1]
    assert (closed["bytes_up"], closed["ended_by"]) == (len(said), "client")
    assert closed["domain"] == ("named.test" if late else None)


async def test_of_who_is_gone_nothing_is_carried_by_any_policy(
    unhurried: Session, far: socket.socket
) -> None:
    await begin_under_a_name(unhurried)
    reset(unhurried.client)
    record = await unhurried.end()
    assert (record["event"], record["reason"]) == ("egress_blocked", "client_closed")


async def test_after_an_error_no_policy_carries_what_may_be_a_part(
    unhurried: Session, far: socket.socket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(data: bytes, *, scanned: int = 0) -> Any:
        unhurried.house.gate = gate_of(BY_ADDRESS)
        raise ValueError("a fault of ours")

    monkeypatch.setattr(module, "sniff", fails)
    unhurried.client.send(BEGUN)
    record = await unhurried.end()
    assert (record["event"], record["reason"]) == ("egress_blocked", "internal_error")
    assert "refused after an unexpected error" in caplog.text


class Unwilling(Resolver):
    """Never has an answer."""

    waits = False

    async def resolve(self, name: str) -> tuple[IPAddress, ...]:
        self.waits = True
        never: asyncio.Future[tuple[IPAddress, ...]] = asyncio.get_running_loop().create_future()
        return await never


@pytest.mark.parametrize("fails", ["decide", "resolve"])
async def test_time_that_runs_out_under_the_next_policy_is_a_refusal(
    unhurried: Session,
    leaps: Leaps,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fails: str,
) -> None:
    """Whoever it is that raises TimeoutError."""

    await begin_under_a_name(unhurried)
    resolver = Unwilling(Endpoint(ip_address("127.0.0.1"), 9))
    policy = compile_policy(NetworkPolicy(allow_out=["named.test"], deny_out=[ALL_TRAFFIC]))
    gate = unhurried.house.gate = Gate(policy, resolver, frozenset())
    decide = Rulings.decide

    def out_of_time(rulings: Rulings, flow: Flow, seen: Sniffed | Refused | None) -> Decision:
        if fails == "decide" and rulings is gate.rulings:
            raise TimeoutError
        return decide(rulings, flow, seen)

    monkeypatch.setattr(Rulings, "decide", out_of_time)
    unhurried.client.send(REST)
    if fails == "resolve":
        await until(lambda: resolver.waits)
        leaps.on(module.DECIDE_S)
    record = await unhurried.end()
    reason = "internal_error" if fails == "decide" else "resolve_timeout"
    assert (record["event"], record["reason"]) == ("egress_blocked", reason)
    assert ("refused after an unexpected error" in caplog.text) is (fails == "decide")


async def test_a_name_that_is_one_too_many_to_ask_for_is_refused(unhurried: Session) -> None:
    await begin_under_a_name(unhurried)
    resolver = Resolver(Endpoint(ip_address("127.0.0.1"), 9))
    resolver.admits = lambda size: False
    policy = compile_policy(NetworkPolicy(allow_out=["named.test"], deny_out=[ALL_TRAFFIC]))
    unhurried.house.gate = Gate(policy, resolver, frozenset())
    unhurried.client.send(REST)
    record = await unhurried.end()
    assert (record["event"], record["reason"], record["domain"]) == ("egress_blocked", "limit", "named.test")


# -- no room for the record


async def test_who_waits_for_room_behind_others_waits_no_longer(
    tmp_path: Path, far: socket.socket, leaps: Leaps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else's record waits too, so the keeper is not even asked; and who gives up takes nothing from the next who waits."""
    wait, waiting = Attempt.room, 0

    async def room(attempt: Attempt) -> None:
        nonlocal waiting
        waiting += 1
        await wait(attempt)

    monkeypatch.setattr(Attempt, "room", room)
    desk = Desk(tmp_path)
    desk.shrink()
    desk.stuff()
    desk.journal.blocked(desk.flow(9), Reason.LIMIT)
    first = Session(desk, BY_ADDRESS)
    await until(lambda: waiting == 1)
    leaps.on(0.8 * module.ROOM_S)
    second = Session(desk, BY_ADDRESS)
    await until(lambda: waiting == 2)
    leaps.on(0.4 * module.ROOM_S)
    await asyncio.wait_for(first.task, WITHIN_S)
    assert not second.task.done()
    desk.keep()
    second.client.send(b"carried")
    second.client.shutdown(socket.SHUT_WR)
    assert await all_of(far) == b"carried"
    far.shutdown(socket.SHUT_WR)
    await asyncio.wait_for(second.task, WITHIN_S)
    decided = [(record["event"], record["reason"]) for record in desk.decisions()]
    assert sorted(decided) == [
        ("egress_allowed", "allowed_address"),
        ("egress_blocked", "limit"),
        ("egress_blocked", "limit"),
    ]
    first.client.close()
    second.close()


async def test_who_finds_no_room_is_refused_by_name(
    unhurried: Session, leaps: Leaps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Answers, "addresses", lambda answers, name: (ip_address("203.0.113.9"),))
    unhurried.desk.shrink()
    unhurried.desk.stuff()
    unhurried.desk.journal.blocked(unhurried.desk.flow(9), Reason.LIMIT)
    unhurried.client.send(client_hello("allowed.test"))
    await until(lambda: unhurried.desk.journal._room is not None)
    leaps.on(module.ROOM_S)
    await asyncio.wait_for(unhurried.task, WITHIN_S)
    await until(lambda: len(unhurried.desk.decisions()) == 2)
    record = unhurried.desk.decisions()[-1]
    assert (record["event"], record["reason"], record["domain"]) == (
        "egress_blocked",
        "limit",
        "allowed.test",
    )
