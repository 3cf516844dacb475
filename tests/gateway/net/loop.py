"""Reading a socket in asyncio's loop, as a test does that plays a client or an origin."""

import asyncio
import socket
from collections.abc import Callable

from gateway.net.sockets import received

WITHIN_S = 15.0
"""For what must come: a slow machine is no fault."""


async def until(met: Callable[[], object]) -> None:
    """Return when that is so."""
    async with asyncio.timeout(WITHIN_S):
        while not met():
            await asyncio.sleep(0.002)


async def readable(sock: socket.socket) -> None:
    """Return when ``sock`` has bytes, an end of file or an error to read."""
    loop = asyncio.get_running_loop()
    woken: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not woken.done():
            woken.set_result(None)

    loop.add_reader(sock, wake)
    try:
        await woken
    finally:
        loop.remove_reader(sock)


async def receive(sock: socket.socket, into: bytearray, most: int) -> int:
    """Append up to ``most`` bytes to ``into`` and say how many; 0 is the end of file. OSError as the kernel reports it."""
    while (chunk := received(sock, most)) is None:
        await readable(sock)
    into += chunk
    return len(chunk)
