"""Urgent data, at whose mark the kernel stops a read: nothing behind it may be held back, or be lost at the end. And how long a turn is."""

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from gateway.net import direction as module
from gateway.net import pipes
from gateway.net.coalescing import Coalescing
from gateway.net.direction import EACH_BYTES, READ_BYTES, SPLICE_AFTER, TURN_BYTES, Direction, Watch
from gateway.net.relay import Counts, Ended, Relayed, relay
from gateway.sniff import Requests
from tests.gateway.net.carrying import carried
from tests.gateway.net.loop import WITHIN_S
from tests.gateway.net.loopback import reset, tcp_pair

BULK = random.Random(1).randbytes(4 * READ_BYTES * SPLICE_AFTER)


class Way:
    """One way through a relay: ``source`` to ``sink``."""

    def __init__(self) -> None:
        self.source, self._inner = tcp_pair()
        self._outer, self.sink = tcp_pair()
        self.task: asyncio.Task[Relayed] | None = None

    def start(self) -> None:
        self.task = asyncio.get_running_loop().create_task(carried(self._carry()))

    async def _carry(self) -> Relayed:
        with self._inner, self._outer:
            return await relay(self._inner, self._outer, Counts())

    async def say(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.source, data)

    async def arrive(self, size: int) -> bytes:
        """Up to ``size`` bytes at the sink: fewer only at its end of file."""
        got = b""
        async with asyncio.timeout(WITHIN_S):
            while len(got) < size:
                chunk = await asyncio.get_running_loop().sock_recv(self.sink, 1 << 20)
                if not chunk:
                    break
                got += chunk
        return got

    async def end(self) -> Ended:
        assert self.task is not None
        self.sink.shutdown(socket.SHUT_WR)
        return (await asyncio.wait_for(self.task, WITHIN_S)).why


@pytest.fixture
async def way() -> AsyncIterator[Way]:
    made = Way()
    yield made
    if made.task is not None:
        made.task.cancel()
        await asyncio.gather(made.task, return_exceptions=True)
    made.source.close()
    made.sink.close()


@pytest.mark.parametrize("late", [False, True], ids=["while it runs", "before it began"])
@pytest.mark.parametrize("ends", [False, True], ids=["open", "with the end"])
async def test_what_follows_urgent_data_arrives(way: Way, late: bool, ends: bool) -> None:
    if not late:
        way.start()
        await asyncio.sleep(0.02)
    way.source.send(b"aaaa")
    way.source.send(b"!", socket.MSG_OOB)
    way.source.send(b"cccc")
    if ends:
        way.source.shutdown(socket.SHUT_WR)
    if late:
        way.start()
    assert await way.arrive(8 + ends) == b"aaaacccc"
    way.source.shutdown(socket.SHUT_WR)
    assert await way.end() is Ended.ORDERLY


@pytest.mark.parametrize("ends", [False, True], ids=["open", "with the end"])
async def test_a_bulk_transfer_gets_past_urgent_data(way: Way, ends: bool) -> None:
    """A splice stops at the mark for good."""
    way.start()
    saying = asyncio.get_running_loop().create_task(way.say(BULK))
    assert await way.arrive(len(BULK)) == BULK
    await saying
    way.source.send(b"aaaa")
    way.source.send(b"!", socket.MSG_OOB)
    way.source.send(b"cccc")
    if ends:
        way.source.shutdown(socket.SHUT_WR)
    assert await way.arrive(8 + ends) == b"aaaacccc"
    assert pipes._spare, "it was spliced, and the pipe is back"
    way.source.shutdown(socket.SHUT_WR)
    assert await way.end() is Ended.ORDERLY


class Dripping:
    """For a socket whose sender is always one byte ahead, which no kernel promises; and one that takes all."""

    def __init__(self) -> None:
        self.reads = 0

    def recv_into(self, buffer: bytearray, most: int) -> int:
        self.reads += 1
        return 1

    def recv(self, most: int) -> bytes:
        self.reads += 1
        return b"x"

    def send(self, chunk: memoryview, flags: int) -> int:
        return len(chunk)


def test_a_turn_ends_however_little_each_read_brings() -> None:
    """Behind urgent data a short read is no sign that there is nothing more."""
    both: Any = Dripping()
    direction = Direction(both, both, None, True)
    direction.urgent = True
    direction.pump()
    assert direction.more
    assert direction.passed == both.reads <= TURN_BYTES // EACH_BYTES


@contextmanager
def standing(watch: Watch | None = None) -> Iterator[tuple[socket.socket, Direction, socket.socket]]:
    """A direction that nothing drives, the way up, between what is said to it and what hears it."""
    said, source = tcp_pair()
    sink, heard = tcp_pair()
    up, down = Direction(source, sink, watch, True), Direction(sink, source, watch, False)
    up.back, down.back = down, up
    with said, source, sink, heard:
        yield said, up, heard
        up.close()


def hear(sock: socket.socket) -> bytes:
    """All that is there, with a mark where the end is."""
    got = b""
    try:
        while chunk := sock.recv(1 << 20):
            got += chunk
    except BlockingIOError:
        return got
    return got + b"|"


# -- where a splice brings nothing


def splice(up: Direction) -> pipes.Pipe:
    """As if it had come fast so far."""
    pipe = up.pipe = pipes.take()
    assert pipe is not None
    up._coalescing = Coalescing(up.source)
    return pipe


@pytest.mark.parametrize("marked", [False, True], ids=["at the end", "at a mark"])
@pytest.mark.parametrize("gathers", [False, True], ids=["heard at once", "gathering"])
def test_a_splice_that_brings_nothing_is_no_end(marked: bool, gathers: bool) -> None:
    """A mark of which nothing was told yet looks like one; what is behind it, the end too, is found by reading."""
    with standing() as (said, up, heard):
        pipe = splice(up)
        if gathers:
            up._coalescing._gathers = True
            up.source.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1 << 20)
        said.send(b"a" * 1000)
        if marked:
            said.send(b"!", socket.MSG_OOB)
        said.send(b"b" * 5000)
        said.shutdown(socket.SHUT_WR)
        up.pump()
        assert (up.ended, up.more) == (False, True), "another turn is asked for, for no edge will come"
        assert (up.pipe, pipe in pipes._spare) == (None, True), "it is back, and empty"
        assert up.source.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1
        up.pump()
        assert (up.ended, up.more, up.passed) == (True, False, 6000)
        assert hear(heard) == b"a" * 1000 + b"b" * 5000 + b"|"


def test_a_reset_where_a_splice_brings_nothing_is_no_end() -> None:
    """What is told by reading is the error, as it was."""
    with standing() as (said, up, heard):
        splice(up)
        reset(said)
        with pytest.raises(module.Failed):
            for _ in range(3):
                up.pump()
        assert hear(heard) == b""


# -- how long a turn is that a watch looks on


class Clock:
    """Stands for the driver's."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Dear:
    """A watch that takes as long for a byte as ``Requests`` takes where they are the dearest, but for those ``ahead``."""

    settled = False
    A_BYTE_S = 0.5e-6

    def __init__(self, clock: Clock, ahead: int = 0) -> None:
        self.clock = clock
        self.ahead = ahead
        self.looks: list[int] = []

    def up(self, chunk: bytes) -> bytes:
        self.looks.append(len(chunk))
        self.clock.now += max(len(chunk) - self.ahead, 0) * self.A_BYTE_S
        self.ahead = max(self.ahead - len(chunk), 0)
        return chunk

    def down(self, chunk: bytes) -> bytes:
        self.looks.append(len(chunk))
        return b""


SAID = random.Random(2).randbytes(300_000)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "now", made, raising=False)
    return made


def turns(
    said: socket.socket, up: Direction, heard: socket.socket, clock: Clock, data: bytes = SAID
) -> Iterator[float]:
    """What each turn takes until all has arrived, where it is said as soon as there is room, and heard at once."""
    at, got = 0, b""
    while len(got) < len(data):
        with contextlib.suppress(BlockingIOError):
            at += said.send(data[at:])
        began = clock.now
        up.pump()
        yield clock.now - began
        got += hear(heard)
    assert got == data


def test_a_turn_in_which_each_byte_is_looked_at_is_short(clock: Clock) -> None:
    watch = Dear(clock)
    with standing(watch) as (said, up, heard):
        assert max(turns(said, up, heard, clock)) <= 0.0031
    assert watch.looks


def test_behind_urgent_data_too(clock: Clock) -> None:
    both: Any = Dripping()
    watch = Dear(clock)
    watch.A_BYTE_S = 0.0001
    direction = Direction(both, both, watch, True)
    direction.urgent = True
    direction.pump()
    assert direction.more
    assert both.reads <= 11


def test_what_passes_without_a_look_is_read_as_fast_as_ever(clock: Clock) -> None:
    watch = Dear(clock, ahead=len(SAID))
    with standing(watch) as (said, up, heard):
        said.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        took = list(turns(said, up, heard, clock))
    assert sum(took) == 0
    assert max(watch.looks) == READ_BYTES


def test_what_the_server_says_is_read_as_fast_as_ever(clock: Clock) -> None:
    watch = Dear(clock)
    with standing(watch) as (said, up, heard):
        up.upwards = False
        assert sum(turns(said, up, heard, clock)) == 0
    assert max(watch.looks) > READ_BYTES // 2


HEADS = b"GET / HTTP/1.1\r\nHost:a.b\r\n\r\n" * 4000
CHUNKS = b"POST / HTTP/1.1\r\nHost:a.b\r\nTransfer-Encoding:chunked\r\n\r\n" + b"1\r\nx\r\n" * 20_000
BODIES = b"POST / HTTP/1.1\r\nHost:a.b\r\nContent-Length:100000\r\n\r\n" + b"x" * 100_000


@pytest.mark.parametrize(
    "data", [HEADS, CHUNKS, BODIES + HEADS + BODIES + CHUNKS], ids=["heads", "chunks", "all"]
)
@pytest.mark.parametrize("late", [0.0, 1.0], ids=["quick", "slow"])
def test_requests_are_framed_by_a_few_at_a_time(clock: Clock, data: bytes, late: float) -> None:
    """However long each look takes, nothing is lost, and nothing dear is read in more than the least at once."""
    watch = Requests("a.b", 80)
    looks: list[tuple[int, int]] = []

    class Looking:
        settled = False

        @property
        def ahead(self) -> int:
            return watch.ahead

        def up(self, chunk: bytes) -> bytes:
            clock.now += late
            looks.append((watch.ahead, len(chunk)))
            return watch.up(chunk)

        def down(self, chunk: bytes) -> bytes:
            return watch.down(chunk)

    with standing(Looking()) as (said, up, heard):
        before = 0
        for _ in turns(said, up, heard, clock, data):
            assert not late or len(looks) <= before + 1
            before = len(looks)
    assert all(size <= max(ahead, 4096) for ahead, size in looks)
