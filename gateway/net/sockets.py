"""Waiting for a descriptor, and the few socket operations of the path. Sockets here are non-blocking, always."""

import asyncio
import contextlib
import socket
import struct
import sys
from typing import Any, Final

from gateway.flow import Endpoint, met

Sock = socket.SocketType
"""A socket without what ``socket.socket`` adds in Python, which costs a connection as much as a system call or two."""
_new_tuple: Final = tuple.__new__  # what Endpoint() calls, at half the price
_new_socket: Final = socket.SocketType
_Endpoint: Final = Endpoint  # final, because names that are not are looked up in a dictionary, compiled too
RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)  # struct linger: on, 0 s (socket(7))
PROBE_AFTER_S: Final = 60
MAX_DIALLED: Final = 4096
"""Places that are remembered."""
ACCEPTABLE: Final = 24
"""Where a listener's ``tcpi_unacked`` is in ``struct tcp_info`` (linux/tcp.h): the length of its queue."""
RENO: Final = b"reno"
"""The congestion control that every kernel has: the way to a workload is this machine's memory, where measuring and pacing (BBR) only cost."""


async def writable(sock: socket.socket) -> None:
    """Return when ``sock`` takes bytes, when its connect has ended, or when it has an error."""
    loop = asyncio.get_running_loop()
    woken: asyncio.Future[None] = loop.create_future()
    loop.add_writer(sock, _wake, woken)
    try:
        await woken
    finally:
        loop.remove_writer(sock)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def received(sock: socket.SocketType, most: int) -> bytes | None:
    """Up to ``most`` bytes that are there now, none at the end of file; None where it has to be waited for. OSError as the kernel reports it."""
    try:
        return sock.recv(most)
    except BlockingIOError:
        return None


async def send_all(sock: socket.socket, data: bytes | memoryview) -> None:
    """Send ``data`` whole. OSError as the kernel reports it."""
    rest = memoryview(data)
    while rest:
        taken = sent(sock, rest)
        if not taken:
            await writable(sock)
        rest = rest[taken:]


def sent(sock: Sock, data: bytes | memoryview) -> int:
    """How many bytes of ``data`` were taken now; 0 where it has to be waited for. OSError as the kernel reports it."""
    try:
        return sock.send(data)
    except BlockingIOError:
        return 0


def endpoint(address: tuple[str, int] | tuple[str, int, int, int]) -> Endpoint:
    """What ``getsockname`` or ``accept`` said, as a value; a zone (``%eth0``) is dropped."""
    return Endpoint(met(address[0]), address[1])


_dialled: Final[dict[tuple[Any, ...], Endpoint]] = {}


def destination(address: tuple[Any, ...]) -> Endpoint:
    """As ``endpoint``, of what many connections have in common: it is one object for all of them."""
    found = _dialled.get(address)
    if found is None:
        if len(_dialled) >= MAX_DIALLED:
            _dialled.clear()
        found = _dialled[address] = Endpoint(met(address[0]), address[1])
    return found


class Listener:
    """A listening socket of the path. What it is asked for each connection it answers without asking back."""

    __slots__ = ("_accept", "_family", "_proto", "_source", "_source_ip", "_type", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._accept = sock._accept  # type: ignore[attr-defined]  # what socket.accept calls, which makes more of it than is needed
        self._family: Any = int(sock.family)
        self._type: Any = int(sock.type)
        self._proto: Any = sock.proto
        """Any, as constants of calls are: compiled, an int is made an object for each."""
        self._source = ""
        self._source_ip: Any = None
        """Of the last connection: a sandbox has one address, or two."""

    def waiting(self) -> int:
        """How many connections can be accepted. To find out by an accept that fails costs the kernel as much as one that does not."""
        info: bytes = self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, ACCEPTABLE + 4)
        return int.from_bytes(info[ACCEPTABLE:], sys.byteorder)

    def accept(self) -> tuple[Sock, Endpoint]:
        """The next connection, non-blocking, and its other end. BlockingIOError where none waits, OSError as the kernel reports it."""
        accepted: tuple[int, tuple[Any, ...]] = self._accept()
        number, peer = accepted
        client = _new_socket(self._family, self._type, self._proto, number)
        client.setblocking(False)
        source: str = peer[0]
        if source != self._source:
            self._source, self._source_ip = source, met(source)
        return client, _new_tuple(_Endpoint, (self._source_ip, peer[1]))


def set_for_accepted(listener: socket.socket) -> None:
    """What accepted sockets inherit costs a connection nothing: small answers go out at once, and the kernel finds out which peers are gone.

    A client that closed and was forgotten (tcp_fin_timeout) sends nothing more, and half-closed is what it would look like for ever.
    """
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, PROBE_AFTER_S)
    with contextlib.suppress(
        OSError
    ):  # an administrator may have left it out of tcp_allowed_congestion_control
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, RENO)


def reset_on_close(sock: Sock) -> None:
    """Make the coming ``close`` send RST: the other side must see an abort as an abort."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
