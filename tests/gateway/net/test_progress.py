"""Waiting for another process's count."""

import asyncio
import os
from collections.abc import Iterator

import pytest

from gateway.net.progress import Progress
from tests.gateway.net.carrying import carried
from tests.gateway.net.loop import WITHIN_S


@pytest.fixture
def descriptor() -> Iterator[int]:
    made = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    yield made
    os.close(made)


async def _waits(progress: Progress, number: int) -> "asyncio.Task[bool]":
    task = asyncio.get_running_loop().create_task(carried(progress.reaches(number, WITHIN_S)))
    await asyncio.sleep(0)
    return task


async def test_who_waits_goes_on_when_the_number_is_reached_and_not_before(descriptor: int) -> None:
    progress = Progress(descriptor)
    tasks = [await _waits(progress, number) for number in (1, 2, 5)]
    os.eventfd_write(descriptor, 2)
    assert await tasks[0] and await tasks[1]
    assert not tasks[2].done()
    os.eventfd_write(descriptor, 1)
    os.eventfd_write(descriptor, 2)
    assert await tasks[2]
    assert progress.done == 5


async def test_what_is_done_already_is_not_waited_for(descriptor: int) -> None:
    progress = Progress(descriptor)
    first = await _waits(progress, 3)
    os.eventfd_write(descriptor, 3)
    assert await first
    assert await carried(progress.reaches(2, 0))


async def test_who_waited_too_long_hears_so_and_delays_nobody(descriptor: int) -> None:
    progress = Progress(descriptor)
    assert not await carried(progress.reaches(1, 0.01))
    later = await _waits(progress, 2)
    os.eventfd_write(descriptor, 2)
    assert await later


async def test_who_is_cancelled_delays_nobody(descriptor: int) -> None:
    progress = Progress(descriptor)
    one, other = await _waits(progress, 1), await _waits(progress, 2)
    one.cancel()
    os.eventfd_write(descriptor, 2)
    assert await other
    assert one.cancelled()
