"""A fast transfer is told of seldom, and yet no byte of it is late, or lost, or stuck behind what tells of it."""

import asyncio
import contextlib
import random
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.net import coalescing, poller
from gateway.net.coalescing import GATHER_BYTES
from gateway.net.events import HEARING, IN
from gateway.net.relay import Counts, Ended, Relayed, relay
from gateway.net.strand import Ear, current
from gateway.net.waits import ready
from tests.gateway.net.carrying import carried
from tests.gateway.net.loop import WITHIN_S, until
from tests.gateway.net.loopback import reset, tcp_pair

FAST = random.Random(1).randbytes(8_000_000)


def told_of(sock: socket.socket) -> int:
    """Events of which an epoll tells: proc_pid_fdinfo(5)."""
    for info in Path("/proc/self/fdinfo").iterdir():
        with contextlib.suppress(OSError):  # it has been closed
            for line in info.read_text().splitlines():
                if line.startswith("tfd:") and line.split()[1] == str(sock.fileno()):
                    return int(line.split()[3], 16)
    raise LookupError(sock)


class Transfer:
    """``source`` to ``sink``, through a relay that has seen it go fast."""

    def __init__(self) -> None:
        self.source, self.inner = tcp_pair()
        self.outer, self.sink = tcp_pair()
        self.counts = Counts()
        self.task: asyncio.Task[Relayed] = asyncio.get_running_loop().create_task(carried(self._carry()))

    async def _carry(self) -> Relayed:
        with self.inner, self.outer:
            return await relay(self.inner, self.outer, self.counts)

    async def pass_on(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        saying = loop.create_task(loop.sock_sendall(self.source, data))
        assert await self.arrive(len(data)) == data
        await saying

    async def arrive(self, size: int) -> bytes:
        got = bytearray()
        async with asyncio.timeout(WITHIN_S):
            while len(got) < size:
                got += await asyncio.get_running_loop().sock_recv(self.sink, size - len(got))
        return bytes(got)

    @property
    def gathers(self) -> bool:
        """As the kernel has it; it takes no more than half of its largest buffer for that."""
        return self.inner.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) > 1

    @property
    def deaf(self) -> bool:
        """As the kernel has it: of what comes nothing is told."""
        return not told_of(self.inner) & coalescing.OF_BYTES

    async def stall(self) -> int:
        """Send, and read nothing, until nothing more is passed on, though there would be room for more of it on the way. How many bytes.

        The kernel lets the sink hold forty megabytes at times.
        """
        passed, idle, sent = -1, 0, 0
        while idle < 3:
            sent += self.source.send(b"x" * (65536 if idle else 1 << 19))
            await asyncio.sleep(0.02)
            idle = idle + 1 if self.counts.up == passed else 0
            passed = self.counts.up
        return sent

    def close(self) -> None:
        for sock in (self.source, self.inner, self.outer, self.sink):
            sock.close()


@pytest.fixture
async def transfer(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Transfer]:
    """However slow the machine, it is fast enough."""
    monkeypatch.setattr(coalescing, "FAST_S", 1e9)
    made = Transfer()
    yield made
    made.task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await made.task
    made.close()


@pytest.fixture
async def gathering(transfer: Transfer, monkeypatch: pytest.MonkeyPatch) -> Transfer:
    """It gathers, and goes on with it."""
    monkeypatch.setattr(coalescing, "SLOW_BYTES", 0)
    await transfer.pass_on(FAST)
    await until(lambda: transfer.gathers)
    return transfer


async def test_little_that_comes_while_it_gathers_is_late_by_a_look_at_the_most(gathering: Transfer) -> None:
    for _ in range(20):
        await gathering.pass_on(b"a few bytes")


async def test_what_has_become_slow_is_told_at_once_again(transfer: Transfer) -> None:
    await transfer.pass_on(FAST)
    await until(lambda: not transfer.gathers)
    await transfer.pass_on(b"and it is heard")


async def test_who_asks_again_and_again_does_not_wait_for_a_look(transfer: Transfer) -> None:
    """However much each answer brings."""
    loop = asyncio.get_running_loop()
    for _ in range(5):
        transfer.sink.send(b"more")
        assert await loop.sock_recv(transfer.source, 10) == b"more"
        await transfer.pass_on(FAST[: coalescing.FAST_BYTES - 1])
        assert not transfer.gathers


async def test_a_word_the_other_way_ends_it(gathering: Transfer) -> None:
    loop = asyncio.get_running_loop()
    gathering.sink.send(b"enough")
    assert await loop.sock_recv(gathering.source, 10) == b"enough"
    await gathering.pass_on(b"x" * 40_000)
    await until(lambda: not gathering.gathers)


async def test_the_end_is_passed_on(gathering: Transfer) -> None:
    gathering.source.send(b"the last")
    gathering.source.shutdown(socket.SHUT_WR)
    assert await gathering.arrive(8) == b"the last"
    assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(gathering.sink, 1), WITHIN_S) == b""
    gathering.sink.shutdown(socket.SHUT_WR)
    assert (await asyncio.wait_for(gathering.task, WITHIN_S)).why is Ended.ORDERLY


async def test_a_reset_of_the_source_is_told_without_a_look(gathering: Transfer) -> None:
    gathering.source.send(b"the last")
    reset(gathering.source)
    assert await asyncio.wait_for(gathering.task, WITHIN_S) == Relayed(gathering.inner, Ended.FAILED)


async def test_urgent_data_ends_it(gathering: Transfer) -> None:
    """The kernel has another reader from there on, which hears every edge."""
    gathering.source.send(b"!", socket.MSG_OOB)
    await gathering.pass_on(b"what follows")
    await until(lambda: not gathering.gathers)
    await gathering.pass_on(b"and more")


async def test_a_sink_that_stalls_does_not_end_the_looking(gathering: Transfer) -> None:
    for sock in (gathering.outer, gathering.sink):  # or they might hold it all, as some kernels let them
        for buffer in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, buffer, 65536)
    data = random.Random(2).randbytes(60_000_000)
    loop = asyncio.get_running_loop()
    saying = loop.create_task(loop.sock_sendall(gathering.source, data))
    await asyncio.sleep(0.2)
    assert not saying.done()
    assert await gathering.arrive(len(data)) == data
    await saying
    await gathering.pass_on(b"and on")


async def test_what_comes_while_the_sink_is_full_wakes_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = 0
    turn = poller.Poller._turn

    def counting(self: poller.Poller) -> None:
        nonlocal turns
        turns += 1
        turn(self)

    monkeypatch.setattr(poller.Poller, "_turn", counting)
    transfer = Transfer()
    await transfer.pass_on(FAST)  # it has a pipe now
    await transfer.stall()
    assert transfer.deaf
    before, passed = turns, transfer.counts.up
    for _ in range(50):
        transfer.source.send(b"x" * 1000)
        await asyncio.sleep(0.001)
    assert turns == before
    transfer.source.shutdown(socket.SHUT_WR)
    await until(lambda: turns > before)  # of the end it is told
    sent = passed - len(FAST)
    assert await transfer.arrive(sent + 1) == b"x" * (sent + 1), "what waited goes on"
    await until(lambda: not transfer.deaf or transfer.task.done())
    transfer.task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await transfer.task
    transfer.close()


async def test_a_source_that_is_gone_behind_a_full_sink_is_noticed_at_once(transfer: Transfer) -> None:
    await transfer.pass_on(FAST)
    await transfer.stall()
    reset(transfer.source)
    assert await asyncio.wait_for(transfer.task, WITHIN_S) == Relayed(transfer.inner, Ended.FAILED)


async def test_urgent_data_behind_a_full_sink_holds_nothing_back(transfer: Transfer) -> None:
    await transfer.pass_on(FAST)
    sent = await transfer.stall()
    transfer.source.send(b"!", socket.MSG_OOB)
    transfer.source.send(b"what follows")
    assert await transfer.arrive(sent + 12) == b"x" * sent + b"what follows"
    await transfer.pass_on(b"and more")


async def test_both_ways_at_once(gathering: Transfer) -> None:
    """Then neither gathers, and nothing is lost."""
    back = random.Random(3).randbytes(20_000_000)
    loop = asyncio.get_running_loop()
    saying = loop.create_task(loop.sock_sendall(gathering.sink, back))
    got = bytearray()

    async def hear() -> None:
        while len(got) < len(back):
            got.extend(await loop.sock_recv(gathering.source, 1 << 20))

    await asyncio.wait_for(asyncio.gather(hear(), gathering.pass_on(FAST)), WITHIN_S)
    await saying
    assert bytes(got) == back


async def test_it_is_woken_seldom(gathering: Transfer, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its looks, not by what comes: a piece each tenth of a look makes no more turns than looks."""
    turns = 0
    hear_later = poller.Poller.hear_later

    def counting(self: poller.Poller, ear: Ear) -> None:
        nonlocal turns
        turns += 1
        hear_later(self, ear)

    monkeypatch.setattr(poller.Poller, "hear_later", counting)
    began = time.monotonic()
    pieces = 0
    while pieces < 1000:
        gathering.source.send(b"x" * 1000)
        pieces += 1
        await asyncio.sleep(0)
    await gathering.arrive(pieces * 1000)
    assert pieces * 1000 < GATHER_BYTES
    assert turns <= (time.monotonic() - began) / poller.LATER_S + 2


async def test_a_descriptor_that_changed_hands_is_not_told_for_the_one_before() -> None:
    """It was asked for by one strand, and the number is another's when the time has come."""
    made = poller.Poller()
    one, other = tcp_pair()
    woken: list[str] = []

    async def asks() -> None:
        strand = current()
        strand.wait_for(one, HEARING)
        strand.hear_later(one)
        strand.forget(one)
        made.start(waits(), lambda strand, failure: None)

    async def waits() -> None:
        await ready(other, IN)
        woken.append("told")

    with one, other:
        strand = made.start(asks(), lambda strand, failure: None)
        made._later = {other.fileno(): Ear(other, other.fileno(), strand, 0, HEARING)}
        await asyncio.sleep(0.02)
        assert not made._later
        assert not woken
        made.close()
