"""Awaiting from a test what the path awaits: one strand, on a poller of its own."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from gateway.net.poller import Poller
from gateway.net.strand import Strand

T = TypeVar("T")


async def carried(work: Coroutine[Any, Any, T]) -> T:
    """What ``work`` returns or raises, as a strand; cancelled with the caller. Nothing of it may be left in the poller."""
    poller = Poller()
    result: list[T] = []
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run() -> None:
        result.append(await work)

    def ended(_: Strand, failure: BaseException | None) -> None:
        if over.done():
            return
        if failure is None or isinstance(failure, asyncio.CancelledError):
            over.set_result(None)
        else:
            over.set_exception(failure)

    strand = poller.start(run(), ended)
    try:
        await over
    except asyncio.CancelledError:
        strand.cancel()
        raise
    finally:
        poller.close()
        assert not poller.live
        assert not any(poller._ears)
    return result[0]
