"""One moment over several waits."""

import asyncio

import pytest

from gateway.net.deadline import deadline, now


async def test_several_waits_share_one_deadline() -> None:
    began = now()
    with pytest.raises(TimeoutError):
        async with deadline(began + 0.2):
            for _ in range(100):
                await asyncio.sleep(0.03)
    assert 0.15 < now() - began < 2


async def test_what_ends_in_time_ends() -> None:
    async with deadline(now() + 5):
        await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_a_moment_that_is_past_stops_the_first_wait() -> None:
    reached = False
    with pytest.raises(TimeoutError):
        async with deadline(now() - 1):
            await asyncio.sleep(1)
            reached = True
    assert not reached


async def test_a_cancellation_from_outside_stays_one() -> None:
    async def work() -> None:
        async with deadline(now() + 5):
            await asyncio.sleep(5)

    task = asyncio.get_running_loop().create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_clock_is_the_drivers() -> None:
    first = now()
    await asyncio.sleep(0.02)
    assert now() > first
