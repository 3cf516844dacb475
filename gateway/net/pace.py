"""What DNS does in one turn of the loop, bounded by the clock: what a sandbox asks for at once is answered over as many turns as it takes.

A query costs what its name, its answer and their number have it cost, and all that wait for one answer wake together. So work that is worth the
name is done here, one piece after another, for ``TURN_S`` a turn; who waits for a socket, or for an answer that others share, is woken in the same
order. Between two turns the loop goes on: the sandbox's connections, and the orders of who keeps this process. No piece may be long in itself.
"""

import asyncio
import socket
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar

TURN_S: Final = 0.0005
"""No further piece is begun then."""
PIECES_A_TURN: Final = 16
"""Each may wake a task, which the clock of this turn does not see."""

T = TypeVar("T")


class Pace:
    """Of one sandbox's DNS."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._queue: deque[Callable[[], None]] = deque()
        self._pieces = 0
        self._spent_s = 0.0
        self._counting = False
        """There will be another turn that begins anew."""

    def put(self, piece: Callable[[], None]) -> None:
        """Do ``piece``, which raises nothing: now, if this turn has room and nobody else waits, or as soon as it is its turn."""
        if self._admits():
            self._do(piece)
        else:
            self._queue.append(piece)

    async def run(self, work: Callable[[], T]) -> T:
        """As ``put``; what ``work`` gives back, or raises."""
        if self._admits():
            return self._do(work)
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.append(partial(_settle, done, work))
        return await done

    async def turn(self) -> None:
        """Return when it is the caller's turn."""
        await self.run(_nothing)

    async def readable(self, sock: socket.socket) -> None:
        """Return when ``sock`` has bytes, an end of file or an error to read, and it is the caller's turn."""
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()
        loop.add_reader(sock, self._heard, loop, sock, woken)
        try:
            await woken
        finally:
            loop.remove_reader(sock)

    def _heard(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, woken: "asyncio.Future[None]"
    ) -> None:
        loop.remove_reader(sock)
        self.put(partial(_settle, woken, _nothing))

    def _admits(self) -> bool:
        if not self._counting:
            self._counting = True
            self._pieces, self._spent_s = 0, 0.0
            asyncio.get_running_loop().call_soon(self._next)
        return not self._queue and self._room()

    def _room(self) -> bool:
        return self._pieces < PIECES_A_TURN and self._spent_s < TURN_S

    def _do(self, work: Callable[[], T]) -> T:
        self._pieces += 1
        begun = self.clock()
        try:
            return work()
        finally:
            self._spent_s += self.clock() - begun

    def _next(self) -> None:
        """Another turn."""
        self._pieces, self._spent_s = 0, 0.0
        while self._queue and self._room():
            self._do(self._queue.popleft())
        self._counting = self._pieces > 0
        if self._counting:
            asyncio.get_running_loop().call_soon(self._next)


def _nothing() -> None:
    pass


def _settle(done: "asyncio.Future[Any]", work: Callable[[], Any]) -> None:
    if done.done():
        return  # nobody waits any more
    try:
        done.set_result(work())
    except Exception as error:
        done.set_exception(error)
