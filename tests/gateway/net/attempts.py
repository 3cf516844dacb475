"""How long a resolver waits for its server: as long as that takes, but where a test wants it to give up."""

import asyncio
import socket
from collections import Counter
from collections.abc import Callable

import pytest

from gateway.flow import Endpoint
from gateway.net import asking, resolve
from gateway.net.message import read
from gateway.net.pace import Pace
from tests.gateway.dns_server import DnsServer
from tests.gateway.net.loop import until

BRIEF_S = 0.01
LONG_S = 3600.0


def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's thread may wait for the processor: no question is asked twice, or given up, for that."""
    monkeypatch.setattr(resolve, "ATTEMPT_S", LONG_S)
    monkeypatch.setattr(resolve, "FAMILY_S", LONG_S)


def hurried(monkeypatch: pytest.MonkeyPatch, given_up: Callable[[int, int], bool]) -> None:
    """Have attempts given up as soon as their packet has left: where ``given_up`` says so, by the type that is asked for and their number."""
    made = Counter[bytes]()
    leaving: dict[bytes, asyncio.Timeout] = {}
    really_send = asking._send

    def send(sock: socket.socket, query: bytes, server: Endpoint) -> None:
        really_send(sock, query, server)
        if query in leaving:
            leaving.pop(query).reschedule(asyncio.get_running_loop().time() + BRIEF_S)

    async def by_udp(
        query: bytes, server: Endpoint, pace: Pace, take: Callable[[bytes], resolve.Heard | None]
    ) -> resolve.Heard:
        made[query] += 1
        async with asyncio.timeout(LONG_S) as given:
            if given_up(read(query).kind, made[query]):
                leaving[query] = given
            return await asking.by_udp(query, server, pace, take)

    monkeypatch.setattr(asking, "_send", send)
    monkeypatch.setattr(resolve, "by_udp", by_udp)


def disappointed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have an attempt given up by the first message that is no answer, and not before it has come."""

    async def by_udp(
        query: bytes, server: Endpoint, pace: Pace, take: Callable[[bytes], resolve.Heard | None]
    ) -> resolve.Heard:
        async with asyncio.timeout(LONG_S) as given:

            def taken(message: bytes) -> resolve.Heard | None:
                heard = take(message)
                if heard is None:
                    given.reschedule(asyncio.get_running_loop().time())
                return heard

            return await asking.by_udp(query, server, pace, taken)

    monkeypatch.setattr(resolve, "by_udp", by_udp)


async def has_asked(server: DnsServer, number: int) -> None:
    """That the server was asked so many times, once its thread has read that far."""
    await until(lambda: len(server.asked) >= number)
    assert len(server.asked) == number
