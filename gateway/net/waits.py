"""What a strand awaits: something to happen to one of its sockets, and what is there to read then."""

import socket
from collections.abc import Generator
from typing import Final

from gateway.net.events import END, EVERYTHING, HEARING, IN, OUT, RDHUP
from gateway.net.sockets import received
from gateway.net.strand import current


class Event:
    """Awaited, it suspends the strand until something happens to one of its sockets: ``seen`` says what."""

    __slots__ = ()

    def __await__(self) -> Generator[None, None, None]:
        yield


EVENT: Final = Event()
"""Never to be awaited in an ``except`` block: compiled, the exception would be everybody's until the strand goes on (docs/decisions/0014)."""


async def ready(sock: socket.SocketType, events: int) -> int:
    """Return once one of ``events``, an error or a hang-up has been told of ``sock`` since it was last asked; which.

    A socket that is waited for with ``OUT`` is so from the first time on, or ``hear`` is called in between. That a peer has half-closed stays
    told: it is so for good, and no other edge says it to whoever comes to read next.
    """
    ear = current().wait_for(sock, EVERYTHING if events & OUT else HEARING)
    wanted = events | END
    while not (found := ear.seen & wanted):
        await EVENT
    ear.seen &= ~wanted | RDHUP
    return found


async def arrival(sock: socket.SocketType, at_least: int = 1) -> None:
    """Return once ``sock`` has so many bytes to read, or its end: a sender that drips wakes nobody. To be awaited where a read found nothing."""
    if at_least <= 1:
        await ready(sock, IN)
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, at_least)  # socket(7)
    try:
        await ready(sock, IN)
    finally:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)


async def receive(sock: socket.SocketType, into: bytearray, most: int) -> int:
    """Append up to ``most`` bytes to ``into`` and say how many; 0 is the end of file. OSError as the kernel reports it."""
    while True:
        chunk = received(sock, most)
        if chunk is None:
            await arrival(sock)
            continue
        into += chunk
        return len(chunk)
