"""The sandbox's DNS: each query that reaches the resolver's address inside the cell is judged, and answered here or asked again from the host's side.

A query is passed on from a fresh socket, so with a random port, under a random id; only an answer from the resolver with that id and that
question is handed back, under the sandbox's own id and spelling.
"""

import asyncio
import os
import socket
from collections.abc import Coroutine
from typing import Any, Final

from gateway.dns.guard import MIN_QUERY_BYTES, QR, Guard, question_end
from gateway.flow import Endpoint
from gateway.net.connect import connect
from gateway.net.sockets import readable, send_all
from gateway.tasks import spawn

MAX_UDP_BYTES: Final = 4096
TIMEOUT_S: Final = 5.0
MAX_IN_FLIGHT: Final = 256
"""Queries of one sandbox under way at once; those beyond are dropped, as a full queue would, and clients ask again."""
TCP_IDLE_S: Final = 10.0
PAUSE_S: Final = 0.1
"""How long accepting rests when it fails."""


class DnsForwarder:
    """Serves one sandbox on its two DNS sockets."""

    def __init__(self, udp: socket.socket, tcp: socket.socket, resolver: Endpoint, guard: Guard) -> None:
        self._guard = guard
        self._udp = udp
        self._tcp = tcp
        self._resolver = resolver
        self._in_flight = 0
        self._stopped = False

    def start(self) -> None:
        """Begin to serve in the running loop."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._udp, self._on_udp)
        loop.add_reader(self._tcp, self._on_tcp)

    def stop(self) -> None:
        """Take no more queries; those under way end by their deadline."""
        self._stopped = True
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._udp)
        loop.remove_reader(self._tcp)

    def _on_udp(self) -> None:
        for _ in range(32):
            try:
                query, client = self._udp.recvfrom(MAX_UDP_BYTES)
            except OSError:
                return
            ruling = self._guard.judge(query)
            if ruling.answer:
                self._reply(ruling.answer, client)
            elif ruling.forward and self._in_flight < MAX_IN_FLIGHT:
                self._start(self._answer_udp(query, ruling.forward, client), "dns udp")

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Counted from here on, not from when the task first runs: a burst arrives in one turn."""
        self._in_flight += 1
        spawn(work, name).add_done_callback(self._ended)

    def _ended(self, _: "asyncio.Task[None]") -> None:
        self._in_flight -= 1

    def _reply(self, answer: bytes, client: tuple[Any, ...]) -> None:
        try:
            self._udp.sendto(answer, client)
        except OSError:
            return  # the client is gone, or its queue is full: it asks again

    def _on_tcp(self) -> None:
        try:
            client, _ = self._tcp.accept()
        except BlockingIOError:
            return
        except OSError:
            # Out of descriptors, most likely: no busy loop, and others' closes make room.
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._tcp)
            loop.call_later(PAUSE_S, self._resume)
            return
        if self._in_flight >= MAX_IN_FLIGHT:
            client.close()
            return
        client.setblocking(False)
        self._start(self._serve_tcp(client), "dns tcp")

    def _resume(self) -> None:
        if not self._stopped:
            asyncio.get_running_loop().add_reader(self._tcp, self._on_tcp)

    async def _answer_udp(self, query: bytes, ours: bytes, client: tuple[Any, ...]) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                answer = self._guard.hand_on(await self._ask_udp(os.urandom(2) + ours[2:]))
            self._reply(_as_asked(query, answer), client)
        except OSError:
            pass  # a TimeoutError too: the client asks again, as it would of any resolver that lost a packet

    async def _ask_udp(self, query: bytes) -> bytes:
        family = socket.AF_INET if self._resolver.ip.version == 4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
            sock.connect((str(self._resolver.ip), self._resolver.port))
            sock.send(query)
            while True:
                await readable(sock)
                try:
                    answer = sock.recv(0xFFFF)
                except BlockingIOError:
                    continue
                if _answers(query, answer):
                    return answer

    async def _serve_tcp(self, client: socket.socket) -> None:
        try:
            with client:
                while True:
                    async with asyncio.timeout(TCP_IDLE_S):
                        query = await _read_message(client)
                        ruling = self._guard.judge(query)
                        if ruling.forward:
                            answer = self._guard.hand_on(
                                await self._ask_tcp(os.urandom(2) + ruling.forward[2:])
                            )
                            await send_all(client, _framed(_as_asked(query, answer)))
                        elif ruling.answer:
                            await send_all(client, _framed(ruling.answer))
                        else:
                            return
        except (OSError, EOFError):
            pass  # a connection that ends early is an answer that clients know

    async def _ask_tcp(self, query: bytes) -> bytes:
        sock, _ = await connect((self._resolver.ip,), self._resolver.port)
        with sock:
            await send_all(sock, _framed(query))
            answer = await _read_message(sock)
        if not _answers(query, answer):
            raise EOFError("that was no answer to the query")
        return answer


def _answers(query: bytes, answer: bytes) -> bool:
    """Whether ``answer`` is one, to this query: id and question are what a forger has to guess (RFC 5452).

    Some servers spell the question in their own way, and some leave it out of an error.
    """
    if len(answer) < MIN_QUERY_BYTES or not answer[2] & QR or answer[:2] != query[:2]:
        return False
    if _without_question(answer):
        return bool(answer[3] & 0xF)
    end = question_end(query)
    if end == MIN_QUERY_BYTES:  # passed on as it was, whatever it is: there is only the id to go by
        return True
    return (
        answer[MIN_QUERY_BYTES : end - 4].lower() == query[MIN_QUERY_BYTES : end - 4].lower()
        and answer[end - 4 : end] == query[end - 4 : end]
    )


def _without_question(answer: bytes) -> bool:
    return answer[4:6] == b"\0\0"


def _as_asked(query: bytes, answer: bytes) -> bytes:
    """Under the sandbox's own id, and with its own spelling of the question, which some resolvers check."""
    if _without_question(answer):
        return query[:2] + answer[2:]
    end = question_end(query)
    return query[:2] + answer[2:MIN_QUERY_BYTES] + query[MIN_QUERY_BYTES:end] + answer[end:]


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
