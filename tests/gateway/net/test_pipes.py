"""Pipes are borrowed: a bulk transfer takes one, gives it back empty, and goes without where there is none."""

import asyncio
import os
import socket
from collections.abc import Iterator

import pytest

from gateway.net import direction, pipes
from gateway.net.pipes import Pipe, put_back, take
from gateway.net.relay import Counts, Ended, relay
from gateway.net.sockets import send_all
from gateway.tasks import spawn
from tests.gateway.net.carrying import carried
from tests.gateway.net.loop import WITHIN_S, until
from tests.gateway.net.loopback import tcp_pair

SIZE = 8_000_000


@pytest.fixture(autouse=True)
def none_left() -> Iterator[None]:
    _drop_spare()
    yield
    assert pipes._lent == 0
    _drop_spare()


def _drop_spare() -> None:
    while pipes._spare:
        pipes._spare.pop().close()


async def transfer(cut: list[Pipe] | None = None) -> tuple[bytes, Counts, Ended | None]:
    """``SIZE`` bytes down; what arrived, what was counted, how it ended. Where it is cut: when one of these pipes holds bytes, for nobody reads."""
    (client, inner), (outer, upstream) = tcp_pair(), tcp_pair()
    counts = Counts()
    data = os.urandom(SIZE)

    async def carry() -> Ended:
        with inner, outer:
            return (await relay(inner, outer, counts)).why

    with client, upstream:
        task = spawn(carried(carry()), "relay")
        sending = spawn(send_all(upstream, data), "send")
        loop = asyncio.get_running_loop()
        if cut is not None:
            await until(lambda: any(pipe.held for pipe in cut))
            task.cancel()
            await asyncio.wait((task,))
            sending.cancel()
            await asyncio.wait((sending,))
            return b"", counts, None
        got = bytearray()
        while len(got) < SIZE:
            got += await loop.sock_recv(client, 1 << 20)
        await sending
        upstream.shutdown(socket.SHUT_WR)
        assert await loop.sock_recv(client, 1) == b""
        client.shutdown(socket.SHUT_WR)
        why = await asyncio.wait_for(task, WITHIN_S)
    assert bytes(got) == data
    return bytes(got), counts, why


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[Pipe]:
    """By whoever copies."""
    pipes_taken: list[Pipe] = []

    def taking() -> Pipe | None:
        pipe = take()
        assert pipe is not None
        pipes_taken.append(pipe)
        return pipe

    monkeypatch.setattr(direction, "take", taking)
    return pipes_taken


async def test_a_bulk_transfer_takes_a_pipe_and_gives_it_back(taken: list[Pipe]) -> None:
    _, counts, why = await transfer()
    assert (counts.up, counts.down, why) == (0, SIZE, Ended.ORDERLY)
    assert len(taken) == 1
    assert pipes._spare == taken
    again = take()
    assert again is taken[0], "made once"
    put_back(again)


async def test_without_a_pipe_it_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipes, "MOST", 0)
    _, counts, why = await transfer()
    assert (counts.down, why) == (SIZE, Ended.ORDERLY)


async def test_a_pipe_with_bytes_in_it_is_not_lent_again(taken: list[Pipe]) -> None:
    """They are another connection's."""
    _, counts, _ = await transfer(taken)
    assert 0 < counts.down < SIZE
    assert not pipes._spare


def test_there_are_only_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipes, "MOST", 3)
    lent = [take() for _ in range(4)]
    assert lent.count(None) == 1
    for pipe in lent:
        if pipe is not None:
            put_back(pipe)


def test_who_has_no_descriptor_left_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: int) -> tuple[int, int]:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pipe2", none)
    assert take() is None


def test_the_first_are_large_and_lent_first() -> None:
    lent = [pipe for _ in range(pipes.LARGE + 2) if (pipe := take())]
    sizes = [pipe.size for pipe in lent]
    assert sizes == [pipes.LARGE_BYTES] * pipes.LARGE + [pipes.SMALL_BYTES] * 2
    for pipe in lent:
        put_back(pipe)
    again = take()
    assert again is not None
    assert again.size == pipes.LARGE_BYTES
    put_back(again)


def test_a_pipe_too_small_to_be_worth_it_is_not_lent(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user gets them who has filled his share of them (pipe(7))."""
    monkeypatch.setattr(pipes, "LARGE_BYTES", 8192)
    assert take() is None
    assert not pipes._spare
