"""The sandbox's DNS: each query that reaches the resolver's address inside the cell is asked again from the host's side, and the answer handed back.

A query is passed on from a fresh socket, so with a random port, under a random id; only an answer from the resolver with that id and that
question is handed back, under the sandbox's own id.
"""

import asyncio
import os
import socket
from typing import Any, Final

from gateway.flow import Endpoint
from gateway.net.sockets import readable, send_all
from gateway.tasks import spawn

MAX_UDP_BYTES: Final = 4096
HEADER_BYTES: Final = 12
QR: Final = 0x80  # RFC 1035 section 4.1.1, third octet
TIMEOUT_S: Final = 5.0
MAX_IN_FLIGHT: Final = 256
"""Queries of one sandbox under way at once; those beyond are dropped, as a full queue would, and clients ask again."""
TCP_IDLE_S: Final = 10.0


class DnsForwarder:
    """Serves one sandbox on its two DNS sockets."""

    def __init__(self, udp: socket.socket, tcp: socket.socket, resolver: Endpoint) -> None:
        self._udp = udp
        self._tcp = tcp
        self._resolver = (str(resolver.ip), resolver.port)
        self._family = socket.AF_INET if resolver.ip.version == 4 else socket.AF_INET6
        self._in_flight = 0

    def start(self) -> None:
        """Begin to serve in the running loop."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._udp, self._on_udp)
        loop.add_reader(self._tcp, self._on_tcp)

    def stop(self) -> None:
        """Take no more queries; those under way end by their deadline."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._udp)
        loop.remove_reader(self._tcp)

    def _on_udp(self) -> None:
        for _ in range(32):
            try:
                query, client = self._udp.recvfrom(MAX_UDP_BYTES)
            except OSError:
                return
            if self._admits(query):
                spawn(self._answer_udp(query, client), "dns udp")

    def _on_tcp(self) -> None:
        try:
            client, _ = self._tcp.accept()
        except OSError:
            return
        if self._in_flight >= MAX_IN_FLIGHT:
            client.close()
            return
        client.setblocking(False)
        spawn(self._serve_tcp(client), "dns tcp")

    def _admits(self, query: bytes) -> bool:
        return len(query) > HEADER_BYTES and not query[2] & QR and self._in_flight < MAX_IN_FLIGHT

    async def _answer_udp(self, query: bytes, client: tuple[Any, ...]) -> None:
        self._in_flight += 1
        try:
            async with asyncio.timeout(TIMEOUT_S):
                answer = await self._ask_udp(query)
            self._udp.sendto(answer, client)
        except (OSError, TimeoutError):
            pass  # the client asks again, as it would of any resolver that lost a packet
        finally:
            self._in_flight -= 1

    async def _ask_udp(self, query: bytes) -> bytes:
        ours = os.urandom(2) + query[2:]
        with socket.socket(self._family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
            sock.connect(self._resolver)
            sock.send(ours)
            while True:
                await readable(sock)
                try:
                    answer = sock.recv(0xFFFF)
                except BlockingIOError:
                    continue
                if answer[:2] == ours[:2] and len(answer) >= HEADER_BYTES and answer[2] & QR:
                    return query[:2] + answer[2:]

    async def _serve_tcp(self, client: socket.socket) -> None:
        self._in_flight += 1
        try:
            with client:
                while True:
                    async with asyncio.timeout(TCP_IDLE_S):
                        query = await _read_message(client)
                        if not query:
                            return
                        await send_all(client, _framed(await self._ask_tcp(query)))
        except (OSError, TimeoutError, EOFError):
            pass  # a connection that ends early is an answer that clients know
        finally:
            self._in_flight -= 1

    async def _ask_tcp(self, query: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        with socket.socket(self._family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
            await loop.sock_connect(sock, self._resolver)
            await send_all(sock, _framed(query))
            return await _read_message(sock)


def _framed(message: bytes) -> bytes:
    """RFC 1035 section 4.2.2: two octets of length before each message."""
    return len(message).to_bytes(2, "big") + message


async def _read_message(sock: socket.socket) -> bytes:
    """One framed message; empty at an end of file between messages, EOFError within one."""
    head = await _read_exactly(sock, 2, at_start=True)
    return await _read_exactly(sock, int.from_bytes(head, "big"), at_start=False) if head else b""


async def _read_exactly(sock: socket.socket, size: int, *, at_start: bool) -> bytes:
    got = bytearray()
    while len(got) < size:
        try:
            chunk = sock.recv(size - len(got))
        except BlockingIOError:
            await readable(sock)
            continue
        if not chunk:
            if at_start and not got:
                return b""
            raise EOFError("the connection ended within a message")
        got += chunk
    return bytes(got)
