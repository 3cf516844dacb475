"""Every byte both ways, half-closes in either order, resets, and a reader that does not read."""

import asyncio
import random
import socket
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gateway.net import poller
from gateway.net import relay as module
from gateway.net.direction import Direction
from gateway.net.relay import Counts, Ended, Relayed, relay
from gateway.net.sockets import send_all
from tests.gateway.net.carrying import carried
from tests.gateway.net.leaps import Leaps
from tests.gateway.net.loop import WITHIN_S, receive, until
from tests.gateway.net.loopback import nothing_left, reset, tcp_pair, unix_pair

Pair = tuple[socket.socket, socket.socket]


class Path:
    """client <-> inner, relayed, outer <-> upstream."""

    def __init__(self, pair: Callable[[], Pair]) -> None:
        self.client, self.inner = pair()
        self.outer, self.upstream = pair()
        self.counts = Counts()
        self.task: asyncio.Task[Relayed] | None = None

    def shrink(self) -> None:
        """Small buffers in the kernel, so that a stall comes soon and for sure."""
        for sock in (self.client, self.inner, self.outer, self.upstream):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)

    def start(self, first: bytes = b"", sent: int = 0) -> "asyncio.Task[Relayed]":
        self.task = asyncio.get_running_loop().create_task(carried(self._carry(first, sent)))
        return self.task

    async def _carry(self, first: bytes, sent: int) -> Relayed:
        """As the session does: closing comes right after."""
        with self.inner, self.outer:
            return await relay(self.inner, self.outer, self.counts, first, sent=sent)

    async def end(self) -> Relayed:
        assert self.task is not None
        return await asyncio.wait_for(self.task, WITHIN_S)

    def close(self) -> None:
        for sock in (self.client, self.inner, self.outer, self.upstream):
            sock.close()


@pytest.fixture(params=[tcp_pair, unix_pair])
def path(request: pytest.FixtureRequest) -> Iterator[Path]:
    made = Path(request.param)
    yield made
    made.close()


@pytest.fixture
def tcp() -> Iterator[Path]:
    made = Path(tcp_pair)
    yield made
    made.close()


async def _all(sock: socket.socket) -> bytes:
    got = bytearray()
    while await receive(sock, got, 50_000):
        pass
    return bytes(got)


async def _say(sock: socket.socket, data: bytes, seed: int) -> None:
    """In pieces of many sizes, then no more."""
    sizes = random.Random(seed)
    at = 0
    while at < len(data):
        size = sizes.choice((1, 7, 1400, 16_384, 200_000))
        await send_all(sock, data[at : at + size])
        at += size
    sock.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize(
    ("up", "down"),
    [(0, 0), (1, 0), (0, 1), (100_000, 3_000_000), (3_000_000, 100_000), (2_000_000, 2_000_000)],
)
async def test_every_byte_arrives_both_ways_and_is_counted(path: Path, up: int, down: int) -> None:
    said_up, said_down = random.Random(1).randbytes(up), random.Random(2).randbytes(down)
    with nothing_left(path.inner, path.outer):
        path.start()
        async with asyncio.timeout(WITHIN_S):
            heard_up, heard_down, _, _ = await asyncio.gather(
                _all(path.upstream),
                _all(path.client),
                _say(path.client, said_up, 3),
                _say(path.upstream, said_down, 4),
            )
        assert (await path.end()).why is Ended.ORDERLY
    assert heard_up == said_up
    assert heard_down == said_down
    assert (path.counts.up, path.counts.down) == (up, down)


@pytest.mark.parametrize("first", ["client", "upstream"])
async def test_a_half_close_leaves_the_other_way_open(path: Path, first: str) -> None:
    ends = {
        "client": (path.client, path.upstream, path.inner),
        "upstream": (path.upstream, path.client, path.outer),
    }
    early, late, side = ends[first]
    with nothing_left(path.inner, path.outer):
        task = path.start()
        await send_all(early, b"request")
        early.shutdown(socket.SHUT_WR)
        assert await asyncio.wait_for(_all(late), WITHIN_S) == b"request"
        await asyncio.sleep(0.02)
        assert not task.done()
        for piece in (b"a long ", b"answer"):
            await send_all(late, piece)
            await asyncio.sleep(0.01)
        late.shutdown(socket.SHUT_WR)
        assert await asyncio.wait_for(_all(early), WITHIN_S) == b"a long answer"
        assert await path.end() == Relayed(side, Ended.ORDERLY)


@pytest.mark.parametrize("who", ["client", "upstream"])
@pytest.mark.parametrize("after", ["at once", "half-closed by the other"])
async def test_a_reset_of_either_side_ends_it(tcp: Path, who: str, after: str) -> None:
    broken, other, side = (
        (tcp.client, tcp.upstream, tcp.inner) if who == "client" else (tcp.upstream, tcp.client, tcp.outer)
    )
    with nothing_left(tcp.inner, tcp.outer):
        tcp.start()
        await send_all(other, b"x")
        if after != "at once":
            other.shutdown(socket.SHUT_WR)
        await asyncio.sleep(0.02)
        reset(broken)
        assert await tcp.end() == Relayed(side, Ended.FAILED)


async def test_what_was_sent_before_a_reset_was_counted(tcp: Path) -> None:
    tcp.start()
    await send_all(tcp.client, b"12345")
    await send_all(tcp.upstream, b"123")
    assert await asyncio.wait_for(_some(tcp.upstream), WITHIN_S) == b"12345"
    assert await asyncio.wait_for(_some(tcp.client), WITHIN_S) == b"123"
    reset(tcp.client)
    assert (await tcp.end()).why is Ended.FAILED
    assert (tcp.counts.up, tcp.counts.down) == (5, 3)


async def _some(sock: socket.socket) -> bytes:
    got = bytearray()
    await receive(sock, got, 100)
    return bytes(got)


async def test_writing_to_a_side_that_is_gone_ends_it(path: Path) -> None:
    with nothing_left(path.inner, path.outer):
        path.start()
        path.upstream.close()
        for _ in range(50):
            if path.task is not None and path.task.done():
                break
            try:
                path.client.send(b"x" * 1000)
            except OSError:
                break
            await asyncio.sleep(0.01)
        assert (await path.end()).first is path.outer


@pytest.mark.parametrize("way", ["down", "up"])
async def test_a_reader_that_does_not_read_stops_the_sender_and_costs_no_memory(path: Path, way: str) -> None:
    talker = path.upstream if way == "down" else path.client
    total = 64 * 1024 * 1024
    block = b"x" * 65536
    sent = 0

    async def flood() -> None:
        nonlocal sent
        while sent < total:
            await send_all(talker, block)
            sent += len(block)

    with nothing_left(path.inner, path.outer):
        task = path.start()
        flooding = asyncio.get_running_loop().create_task(flood())
        tracemalloc.start()
        try:
            idle, stalled = 0, -1
            # So many turns, and not so much time: this process may have waited for the processor.
            while idle < 20:
                await asyncio.sleep(0.01)
                idle = idle + 1 if sent == stalled else 0
                stalled = sent
            held = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        assert sent < total // 2, "the kernel's buffers must press back"
        assert held < 1_000_000
        passed = path.counts.down if way == "down" else path.counts.up
        assert passed <= sent
        # The other way is not held up by it.
        quiet, hearer = (path.client, path.upstream) if way == "down" else (path.upstream, path.client)
        await send_all(quiet, b"still here")
        assert await asyncio.wait_for(_some(hearer), WITHIN_S) == b"still here"
        flooding.cancel()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_stalled_way_goes_on_without_loss_or_repetition(path: Path) -> None:
    said = random.Random(5).randbytes(8_000_000)
    path.shrink()
    path.start()
    saying = asyncio.get_running_loop().create_task(_say(path.upstream, said, 6))
    await asyncio.sleep(0.3)
    assert not saying.done()
    path.client.shutdown(socket.SHUT_WR)
    assert await asyncio.wait_for(_all(path.client), WITHIN_S) == said
    await asyncio.wait_for(saying, WITHIN_S)
    assert (await path.end()).why is Ended.ORDERLY
    assert path.counts.down == len(said)


@pytest.mark.parametrize("stalled", [False, True])
async def test_cancelled_it_leaves_nothing_registered_and_the_counts_stand(path: Path, stalled: bool) -> None:
    with nothing_left(path.inner, path.outer):
        task = path.start()
        await send_all(path.client, b"12345")
        assert await asyncio.wait_for(_some(path.upstream), WITHIN_S) == b"12345"
        if stalled:
            with pytest.raises(BlockingIOError):
                while True:
                    path.client.send(b"x" * 65536)
                    await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert path.counts.up >= 5
        before = path.counts.up
        await asyncio.sleep(0.02)
        assert path.counts.up == before, "nothing moves any more"


async def test_sockets_that_were_dead_before_it_began(tcp: Path) -> None:
    reset(tcp.upstream)
    tcp.client.close()
    await asyncio.sleep(0.02)
    with nothing_left(tcp.inner, tcp.outer):
        tcp.start()
        assert (await tcp.end()).why is Ended.FAILED


async def test_what_was_read_before_goes_first(path: Path) -> None:
    """Also where the other side takes it in small pieces."""
    path.shrink()
    first = random.Random(7).randbytes(1_000_000)
    await send_all(path.client, b"then this")
    path.client.shutdown(socket.SHUT_WR)
    path.start(first)
    assert await asyncio.wait_for(_all(path.upstream), WITHIN_S) == first + b"then this"
    path.upstream.shutdown(socket.SHUT_WR)
    assert await path.end() == Relayed(path.inner, Ended.ORDERLY)
    assert path.counts.up == len(first) + 9


@pytest.mark.parametrize("sent", [1, 5, 10])
async def test_what_was_sent_before_is_counted_and_not_sent_again(path: Path, sent: int) -> None:
    first = b"0123456789"
    await send_all(path.outer, first[:sent])
    path.start(first, sent)
    await send_all(path.client, b"then this")
    path.client.shutdown(socket.SHUT_WR)
    assert await asyncio.wait_for(_all(path.upstream), WITHIN_S) == first + b"then this"
    path.upstream.shutdown(socket.SHUT_WR)
    assert await path.end() == Relayed(path.inner, Ended.ORDERLY)
    assert path.counts.up == len(first) + 9


async def _stall(path: Path) -> None:
    """Nothing more is taken, though all that hold something have had their turns."""
    refused = 0
    while refused < 20:
        try:
            path.client.send(b"x" * 65536)
            refused = 0
        except BlockingIOError:
            refused += 1
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("first", [b"", b"x" * 5_000_000], ids=["later", "from the beginning"])
async def test_a_reset_behind_a_stall_is_noticed(
    tcp: Path, first: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is read from a side whose bytes cannot be passed on, so its end would go unseen as long as the other side pleases."""
    monkeypatch.setattr(module, "LOOK_S", 0.1)
    tcp.shrink()
    tcp.start(first)
    await _stall(tcp)
    reset(tcp.client)
    with nothing_left(tcp.inner, tcp.outer):
        assert await tcp.end() == Relayed(tcp.inner, Ended.FAILED)


async def test_a_side_that_only_waits_is_let_be(tcp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half-closed and stalled, for long: both are the right of a peer."""
    monkeypatch.setattr(module, "LOOK_S", 0.02)
    tcp.shrink()
    task = tcp.start()
    await _stall(tcp)
    tcp.upstream.shutdown(socket.SHUT_WR)
    tcp.client.shutdown(socket.SHUT_WR)
    await asyncio.sleep(0.3)
    assert not task.done()
    assert len(await asyncio.wait_for(_all(tcp.upstream), WITHIN_S)) == tcp.counts.up
    assert (await tcp.end()).why is Ended.ORDERLY


async def test_what_nothing_passes_on_is_ended(tcp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But not before: the clock starts anew with each byte."""
    looks, leaps, look = 0, Leaps(monkeypatch, module), module._look

    def looking(up: Direction, down: Direction) -> None:
        nonlocal looks
        looks += 1
        look(up, down)

    monkeypatch.setattr(module, "_look", looking)
    monkeypatch.setattr(poller, "TICK_S", 0.01)
    task = tcp.start()

    async def a_byte_passes() -> None:
        tcp.upstream.send(b"x")
        assert await asyncio.wait_for(_some(tcp.client), WITHIN_S) == b"x"
        await looked_after(module.LOOK_S)

    async def looked_after(seconds: float) -> None:
        before = looks
        leaps.on(seconds)
        await until(lambda: looks > before)

    for _ in range(4):
        await a_byte_passes()
        await looked_after(0.7 * module.IDLE_S)
        assert not task.done()
    await a_byte_passes()
    with nothing_left(tcp.inner, tcp.outer):
        await looked_after(module.IDLE_S)
        assert (await tcp.end()).why is Ended.IDLE
    tcp.inner.close()
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(_all(tcp.client), WITHIN_S)


async def test_what_was_cut_short_ends_in_a_reset(tcp: Path) -> None:
    """The client has said all, but not all was passed on: an orderly end would let half an upload pass for the whole."""
    tcp.shrink()
    task = tcp.start()
    await _stall(tcp)
    tcp.client.shutdown(socket.SHUT_WR)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for sock in (tcp.inner, tcp.outer):
        sock.close()
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(_all(tcp.upstream), WITHIN_S)


class Flagged(socket.socket):
    """Keeps with what flags it is written to, and how long it was then until its end."""

    def __init__(self, other: socket.socket) -> None:
        super().__init__(fileno=other.detach())
        self.setblocking(False)
        self.flags: list[int] = []
        self.took_s = 0.0

    def send(self, data: Any, flags: int = 0, /) -> int:
        self.flags.append(flags)
        self.took_s = -time.monotonic()
        return super().send(data, flags)

    def shutdown(self, how: int, /) -> None:
        super().shutdown(how)
        if self.flags:
            self.took_s += time.monotonic()


def _segments_in(sock: socket.socket) -> int:
    """tcp(7), TCP_INFO: tcpi_segs_in of linux/tcp.h."""
    return int.from_bytes(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 148)[140:144], sys.byteorder)


@pytest.mark.parametrize("answer", [b"", b"an answer", b"x" * 30_000])
async def test_the_last_bytes_and_the_end_leave_together(tcp: Path, answer: bytes) -> None:
    """Where the end is known when the bytes are read: one segment less to make, to carry and to acknowledge.

    The kernel holds the bytes back for 200 ms, and no longer: who was kept from saying the end for so long has said it all the same, as he should.
    """
    tcp.inner = inner = Flagged(tcp.inner)
    await send_all(tcp.upstream, answer)
    tcp.upstream.shutdown(socket.SHUT_WR)
    await asyncio.sleep(0.01)
    before = _segments_in(tcp.client)
    tcp.start()
    assert await asyncio.wait_for(_all(tcp.client), WITHIN_S) == answer
    assert inner.flags == [socket.MSG_MORE] * bool(answer)
    assert _segments_in(tcp.client) == before + 1 or inner.took_s > 0.15
    tcp.client.shutdown(socket.SHUT_WR)
    assert (await tcp.end()).why is Ended.ORDERLY


async def test_bytes_that_are_not_the_last_are_not_held_back(tcp: Path) -> None:
    tcp.inner = inner = Flagged(tcp.inner)
    tcp.start()
    for piece in (b"one", b"two"):
        await send_all(tcp.upstream, piece)
        assert await asyncio.wait_for(_some(tcp.client), WITHIN_S) == piece
    assert inner.flags == [0, 0], "MSG_MORE would hold them for 200 ms"
    tcp.upstream.shutdown(socket.SHUT_WR)
    tcp.client.shutdown(socket.SHUT_WR)
    assert (await tcp.end()).why is Ended.ORDERLY
