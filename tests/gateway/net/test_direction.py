"""Urgent data, at whose mark the kernel stops a read: nothing behind it may be held back, or be lost at the end."""

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.net import pipes
from gateway.net.direction import EACH_BYTES, READ_BYTES, SPLICE_AFTER, TURN_BYTES, Direction
from gateway.net.relay import Counts, Ended, Relayed, relay
from tests.gateway.net.carrying import carried
from tests.gateway.net.loopback import tcp_pair

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
        async with asyncio.timeout(2):
            while len(got) < size:
                chunk = await asyncio.get_running_loop().sock_recv(self.sink, 1 << 20)
                if not chunk:
                    break
                got += chunk
        return got

    async def end(self) -> Ended:
        assert self.task is not None
        self.sink.shutdown(socket.SHUT_WR)
        return (await asyncio.wait_for(self.task, 2)).why


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

    def recv_into(self, buffer: bytearray) -> int:
        self.reads += 1
        return 1

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
