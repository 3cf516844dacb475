"""Pairs of connected sockets, and what is left in a loop after use."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from gateway.net.sockets import RESET_ON_CLOSE


def nonblocking(*socks: socket.socket) -> None:
    for sock in socks:
        sock.setblocking(False)


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a connection over loopback, non-blocking."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        other, _ = server.accept()
    nonblocking(one, other)
    return one, other


def unix_pair() -> tuple[socket.socket, socket.socket]:
    """A socketpair, non-blocking."""
    pair = socket.socketpair()
    nonblocking(*pair)
    return pair


def reset(sock: socket.socket) -> None:
    """Close with RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    sock.close()


@contextmanager
def nothing_left(*socks: socket.socket) -> Iterator[None]:
    """No reader and no writer may stay registered."""
    yield
    loop = asyncio.get_running_loop()
    for sock in socks:
        if sock.fileno() >= 0:
            assert not loop.remove_reader(sock), "a reader was left"
            assert not loop.remove_writer(sock), "a writer was left"
