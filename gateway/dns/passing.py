"""Queries that are passed on as they are, where the policy asks for it, and how messages travel over TCP.

A query leaves from a fresh socket, so with a random port, under a random id; only an answer from the resolver with that id and that question is
handed back, under the sandbox's own id and spelling.
"""

import asyncio
import os
import socket

from gateway.dns.guard import MIN_QUERY_BYTES, QR, question_end
from gateway.flow import Endpoint
from gateway.net.sockets import readable, send_all


async def pass_on(query: bytes, resolver: Endpoint, *, tcp: bool) -> bytes:
    """The resolver's answer to ``query``, over the same transport. OSError or EOFError; the caller sets the deadline."""
    ours = os.urandom(2) + query[2:]
    return _as_asked(query, await (_ask_tcp(ours, resolver) if tcp else _ask_udp(ours, resolver)))


async def _ask_udp(query: bytes, resolver: Endpoint) -> bytes:
    family = socket.AF_INET if resolver.ip.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.connect((str(resolver.ip), resolver.port))
        sock.send(query)
        while True:
            await readable(sock)
            try:
                answer = sock.recv(0xFFFF)
            except BlockingIOError:
                continue
            if _answers(query, answer):
                return answer


async def _ask_tcp(query: bytes, resolver: Endpoint) -> bytes:
    family = socket.AF_INET if resolver.ip.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as sock:
        await asyncio.get_running_loop().sock_connect(sock, (str(resolver.ip), resolver.port))
        await send_all(sock, framed(query))
        answer = await read_message(sock)
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


def framed(message: bytes) -> bytes:
    """RFC 1035 section 4.2.2: two octets of length before each message."""
    return len(message).to_bytes(2, "big") + message


async def read_message(sock: socket.socket) -> bytes:
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
