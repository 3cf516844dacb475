"""One absolute deadline over several waits."""

import asyncio


def deadline(at: float) -> asyncio.Timeout:
    """``async with deadline(at):`` raises TimeoutError at ``at``, in seconds of ``now``."""
    return asyncio.timeout_at(at)


def now() -> float:
    """The driver's clock: monotonic seconds."""
    return asyncio.get_running_loop().time()
