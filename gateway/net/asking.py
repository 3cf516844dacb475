"""One DNS message to a server, and what it answers, over UDP or TCP; and how messages travel over TCP. Deadlines are the caller's."""

import asyncio
import socket
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

from gateway.flow import Endpoint
from gateway.net.pace import Pace
from gateway.net.sockets import send_all

MAX_MESSAGE_BYTES: Final = 0xFFFF

T = TypeVar("T")


async def by_udp(query: bytes, server: Endpoint, pace: Pace, take: Callable[[bytes], T | None]) -> T:
    """What ``take`` makes of the first message from ``server`` that it makes anything of: it is asked in turn, and the others are passed over.

    From a fresh socket, so with a random port. OSError as the kernel reports it, but that nobody listens there: somebody may in a moment.
    """
    with socket.socket(_family(server), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        await pace.run(partial(_send, sock, query, server))
        while True:
            await pace.readable(sock)
            try:
                message = sock.recv(MAX_MESSAGE_BYTES)
            except (BlockingIOError, ConnectionRefusedError):
                continue
            taken = await pace.run(partial(take, message))
            if taken is not None:
                return taken


def _send(sock: socket.socket, query: bytes, server: Endpoint) -> None:
    sock.connect((str(server.ip), server.port))
    sock.send(query)


async def by_tcp(query: bytes, server: Endpoint, pace: Pace) -> bytes:
    """The first message; empty at an end of file before it. OSError, or EOFError within it."""
    with socket.socket(_family(server), socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
        await pace.turn()
        await asyncio.get_running_loop().sock_connect(sock, (str(server.ip), server.port))
        await send_all(sock, framed(query))
        return await read_message(sock, pace)


def _family(server: Endpoint) -> socket.AddressFamily:
    return socket.AF_INET if server.ip.version == 4 else socket.AF_INET6


def framed(message: bytes) -> bytes:
    """RFC 1035 section 4.2.2: two octets of length before each message."""
    return len(message).to_bytes(2, "big") + message


async def begins(sock: socket.socket, pace: Pace) -> bool:
    """Whether there is another message, as soon as its first octet is there; False at an end of file. OSError."""
    while True:
        try:
            return bool(sock.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            await pace.readable(sock)


async def read_message(sock: socket.socket, pace: Pace) -> bytes:
    """One framed message; empty at an end of file between messages, EOFError within one."""
    head = await _read_exactly(sock, 2, pace, at_start=True)
    return await _read_exactly(sock, int.from_bytes(head, "big"), pace, at_start=False) if head else b""


async def _read_exactly(sock: socket.socket, size: int, pace: Pace, *, at_start: bool) -> bytes:
    got = bytearray()
    while len(got) < size:
        try:
            chunk = sock.recv(size - len(got))
        except BlockingIOError:
            await pace.readable(sock)
            continue
        if not chunk:
            if at_start and not got:
                return b""
            raise EOFError("the connection ended within a message")
        got += chunk
    return bytes(got)
