"""So much a turn, in order, and no more; whoever waits has his turn."""

import asyncio
import socket

import pytest

from gateway.net.pace import PIECES_A_TURN, TURN_S, Pace
from tests.gateway.net.loop import WITHIN_S


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def _turns(number: int = 1) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def _raise() -> None:
    raise ValueError("no number")


async def test_at_first_there_is_room_at_once() -> None:
    pace, done = Pace(Clock()), list[int]()
    pace.put(lambda: done.append(1))
    assert done == [1]
    assert await pace.run(lambda: 7) == 7
    await pace.turn()


async def test_so_many_pieces_a_turn_in_order() -> None:
    pace, done = Pace(Clock()), list[int]()
    for number in range(3 * PIECES_A_TURN):
        pace.put(lambda number=number: done.append(number))  # type: ignore[misc]
    assert done == list(range(PIECES_A_TURN))
    await _turns()
    assert len(done) <= 2 * PIECES_A_TURN
    await _turns(4)
    assert done == list(range(3 * PIECES_A_TURN))


async def test_a_turn_ends_by_the_clock() -> None:
    clock, done = Clock(), list[int]()
    pace = Pace(clock)

    def dear() -> None:
        clock.now += 2 * TURN_S
        done.append(1)

    for _ in range(4):
        pace.put(dear)
    assert len(done) == 1
    for turn in range(2, 5):
        await _turns()
        assert len(done) <= turn
    await _turns(3)
    assert len(done) == 4


async def test_who_comes_later_does_not_go_before() -> None:
    clock, done = Clock(), list[str]()
    pace = Pace(clock)

    def dear() -> None:
        clock.now += 2 * TURN_S

    pace.put(dear)
    pace.put(lambda: done.append("first"))
    await _turns()
    pace.put(lambda: done.append("second"))
    await _turns(3)
    assert done == ["first", "second"]


@pytest.mark.parametrize("waits", [False, True])
async def test_what_work_raises_reaches_who_wanted_it(waits: bool) -> None:
    pace = Pace(Clock())
    for _ in range(PIECES_A_TURN if waits else 0):
        pace.put(lambda: None)
    with pytest.raises(ValueError, match="no number"):
        await pace.run(_raise)
    await pace.turn()


async def test_work_that_nobody_waits_for_any_more_is_not_done() -> None:
    pace, done = Pace(Clock()), list[int]()
    for _ in range(4 * PIECES_A_TURN):
        pace.put(lambda: None)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await pace.run(lambda: done.append(1))
    await _turns(6)
    assert done == []


async def test_idle_it_does_not_turn_the_loop() -> None:
    pace = Pace(Clock())
    await pace.turn()
    await _turns(4)
    assert not pace._counting


async def test_those_whose_sockets_hear_are_woken_a_few_a_turn() -> None:
    pace = Pace(Clock())
    pairs = [socket.socketpair() for _ in range(3 * PIECES_A_TURN)]
    woken = 0

    async def wait(sock: socket.socket) -> None:
        nonlocal woken
        await pace.readable(sock)
        woken += 1

    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(wait(sock)) for sock, _ in pairs]
    await _turns(2)
    for _, other in pairs:
        other.send(b"x")
    most = before = 0
    async with asyncio.timeout(WITHIN_S):
        while woken < len(pairs):
            await _turns()
            most, before = max(most, woken - before), woken
    assert most <= 2 * PIECES_A_TURN
    await asyncio.gather(*tasks)
    for pair in pairs:
        for sock in pair:
            sock.close()


async def test_who_gives_up_waiting_for_a_socket_leaves_nothing() -> None:
    pace = Pace(Clock())
    one, other = socket.socketpair()
    with one, other:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await pace.readable(one)
        other.send(b"x")
        await _turns(2)
        assert not asyncio.get_running_loop().remove_reader(one)
