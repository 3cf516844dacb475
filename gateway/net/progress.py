"""Waiting until another process has come so far: it says by how much, again and again, and this one awaits a number."""

import asyncio
import os
from collections import deque

from gateway.net.clock import now
from gateway.net.strand import deadline


class Progress:
    """How many of something the other process has done. Numbers are awaited in ascending order."""

    def __init__(self, descriptor: int) -> None:
        """Must be made in the running loop, which reads ``descriptor`` (non-blocking; eight bytes at a time, as of an eventfd(2)) from now on."""
        self._descriptor = descriptor
        self.done = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        asyncio.get_running_loop().add_reader(descriptor, self._advance)

    def _advance(self) -> None:
        try:
            self.done += os.eventfd_read(self._descriptor)
        except BlockingIOError:
            return
        while self._waiting and self._waiting[0][0] <= self.done:
            future = self._waiting.popleft()[1]
            if not future.done():
                future.set_result(None)

    async def reaches(self, number: int, timeout_s: float) -> bool:
        """True once ``number`` are done; False if that takes longer than ``timeout_s``."""
        if number <= self.done:
            return True
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((number, future))
        try:
            with deadline(now() + timeout_s):
                await future
        except TimeoutError:
            return False
        return True
