"""Tasks have names, and live as long as they run."""

import asyncio
import gc
import weakref

import pytest

from gateway import tasks
from gateway.tasks import spawn
from tests.gateway.net.loop import WITHIN_S


async def test_a_task_has_its_name_and_gives_its_result() -> None:
    async def work() -> int:
        return 7

    task = spawn(work(), "seven")
    assert task.get_name() == "seven"
    assert await task == 7


async def test_a_task_that_nobody_holds_runs_to_its_end() -> None:
    ended = asyncio.Event()

    async def work() -> None:
        # Held by nothing but a cycle of its own: without a reference elsewhere the collector takes both.
        waited = asyncio.get_running_loop().create_future()
        unheld.append(weakref.ref(waited))
        await waited
        ended.set()

    unheld: list[weakref.ref[asyncio.Future[None]]] = []
    spawn(work(), "held by the module alone")
    await asyncio.sleep(0)
    gc.collect()
    waited = unheld[0]()
    assert waited is not None, "the task was collected while it waited"
    waited.set_result(None)
    await asyncio.wait_for(ended.wait(), WITHIN_S)


async def test_nothing_is_kept_of_a_task_that_ended() -> None:
    async def fails() -> None:
        raise ValueError("as it must")

    before = len(tasks._running)
    failing, cancelled = spawn(fails(), "fails"), spawn(asyncio.sleep(60), "cancelled")
    cancelled.cancel()
    with pytest.raises(ValueError, match="as it must"):
        await failing
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    await asyncio.sleep(0)
    assert len(tasks._running) == before


def test_there_is_no_task_without_a_loop() -> None:
    work = asyncio.sleep(0)
    with pytest.raises(RuntimeError):
        spawn(work, "nowhere")
    work.close()
