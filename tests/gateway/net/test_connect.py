"""Connecting: in order, to numbers, and nothing left open."""

import asyncio
import errno
import gc
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from ipaddress import ip_address

import pytest

from gateway.flow import IPAddress
from gateway.net import connect as module
from gateway.net.connect import connect
from gateway.net.events import OUT
from gateway.net.strand import current
from gateway.net.waits import ready
from gateway.tasks import spawn
from tests.gateway.net.carrying import carried
from tests.gateway.net.leaps import Leaps
from tests.gateway.net.loop import WITHIN_S

FIRST, SECOND, THIRD = (ip_address(f"127.0.0.{last}") for last in (11, 12, 13))


def _listener(*ips: IPAddress) -> tuple[list[socket.socket], int]:
    """Listeners on one port of several addresses."""
    first = socket.create_server((str(ips[0]), 0))
    port = first.getsockname()[1]
    return [first, *(socket.create_server((str(ip), port)) for ip in ips[1:])], port


@contextmanager
def _no_new_descriptor() -> Iterator[None]:
    gc.collect()
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert set(os.listdir("/proc/self/fd")) <= before


@contextmanager
def _deaf(ip: IPAddress, port: int = 0) -> Iterator[int]:
    """A port whose queue is full: SYNs are dropped, as by a black hole."""
    with ExitStack() as kept:
        server = kept.enter_context(socket.socket())
        server.bind((str(ip), port))
        server.listen(0)
        for _ in range(4):
            filler = kept.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        time.sleep(0.05)
        yield server.getsockname()[1]


async def test_the_first_that_answers_is_taken_and_no_other_is_asked() -> None:
    listeners, port = _listener(FIRST, SECOND)
    with _no_new_descriptor():
        sock, ip, _ = await carried(connect((FIRST, SECOND), port))
        with closing(sock):
            assert ip == FIRST
            assert sock.getpeername() == (str(FIRST), port)
            assert not sock.getblocking()
            assert not os.get_inheritable(sock.fileno())
    listeners[1].setblocking(False)
    with pytest.raises(BlockingIOError):
        listeners[1].accept()
    for listener in listeners:
        listener.close()


async def test_who_refuses_is_passed_over_in_order() -> None:
    listeners, port = _listener(THIRD)
    with _no_new_descriptor():
        sock, ip, _ = await carried(connect((FIRST, SECOND, THIRD), port))
        sock.close()
        assert ip == THIRD
    listeners[0].close()


async def test_no_other_address_is_ever_asked() -> None:
    listeners, port = _listener(SECOND)
    with pytest.raises(ConnectionRefusedError):
        await carried(connect((FIRST,), port))
    listeners[0].setblocking(False)
    with pytest.raises(BlockingIOError):
        listeners[0].accept()
    listeners[0].close()


async def test_the_last_error_is_what_is_told() -> None:
    with _no_new_descriptor():
        with pytest.raises(ConnectionRefusedError):
            await carried(connect((FIRST, SECOND), 1))
        with pytest.raises(OSError, match="unreachable|denied|Invalid") as caught:  # noqa: RUF043 - alternatives
            await carried(connect((FIRST, ip_address("255.255.255.255")), 1))
        assert caught.value.errno in (errno.ENETUNREACH, errno.EACCES, errno.EINVAL)


async def test_nothing_to_connect_to() -> None:
    with pytest.raises(OSError, match="no address"):
        await carried(connect((), 443))


async def _connected(ip: IPAddress, port: int, first: bytes) -> tuple[int, bool]:
    """How much was sent at once, and whether anybody waited for it. The rest is sent too, and an end."""
    sock, _, sent = await connect((ip,), port, first)
    with closing(sock):
        waited = current().hears(sock)
        rest = memoryview(first)[sent:]
        while rest:
            try:
                rest = rest[sock.send(rest) :]
            except BlockingIOError:
                await ready(sock, OUT)
    return sent, waited


async def _heard(server: socket.socket) -> bytes:
    server.setblocking(False)
    loop = asyncio.get_running_loop()
    taken, _ = await loop.sock_accept(server)
    got = bytearray()
    with taken:
        while chunk := await loop.sock_recv(taken, 65536):
            got += chunk
    return bytes(got)


async def test_who_has_answered_already_is_told_at_once() -> None:
    """Someone on this machine: the handshake is over when ``connect`` returns."""
    listeners, port = _listener(FIRST)
    with listeners[0] as server:
        assert await carried(_connected(FIRST, port, b"a hello")) == (7, False)
        assert await _heard(server) == b"a hello"


async def test_what_finds_no_room_at_once_is_left_to_the_caller() -> None:
    listeners, port = _listener(FIRST)
    first = bytes(range(256)) * 65536
    with listeners[0] as server:
        async with asyncio.timeout(10):
            (sent, _), heard = await asyncio.gather(carried(_connected(FIRST, port, first)), _heard(server))
        assert 0 < sent < len(first)
        assert heard == first


async def test_who_has_not_answered_yet_is_waited_for() -> None:
    """Nothing is sent before; here to one whose queue is full when the first SYN comes."""
    with socket.socket() as server:
        server.bind((str(FIRST), 0))
        server.listen(0)
        port = server.getsockname()[1]
        with socket.create_connection((str(FIRST), port)):
            task = spawn(carried(_connected(FIRST, port, b"a hello")), "connects")
            await asyncio.sleep(0.05)
            assert not task.done()
        async with asyncio.timeout(10):
            assert await _heard(server) == b""
            assert await _heard(server) == b"a hello"
            assert await task == (0, True)


async def test_who_refuses_while_told_at_once_is_passed_over() -> None:
    listeners, port = _listener(SECOND)
    with listeners[0], _no_new_descriptor():
        sock, ip, sent = await carried(connect((FIRST, SECOND), port, b"a hello"))
        sock.close()
        assert (ip, sent) == (SECOND, 7)
        with pytest.raises(ConnectionRefusedError):
            await carried(connect((FIRST,), port, b"a hello"))


async def test_ipv6() -> None:
    try:
        server = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this host has no IPv6")
    with server:
        sock, ip, _ = await carried(connect((ip_address("::1"),), server.getsockname()[1]))
        sock.close()
        assert str(ip) == "::1"


async def test_who_says_nothing_is_given_up_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """When his time is up, and not before."""
    leaps = Leaps(monkeypatch, module)
    monkeypatch.setattr(module, "EACH_S", 3600.0)
    listeners, port = _listener(SECOND)
    with _deaf(FIRST, port), _no_new_descriptor():
        task = spawn(carried(connect((FIRST, SECOND), port)), "connects")
        await asyncio.sleep(0.2)
        assert not task.done()
        leaps.on(3600.0)
        sock, ip, _ = await asyncio.wait_for(task, WITHIN_S)
        sock.close()
        assert ip == SECOND
    listeners[0].close()


async def test_the_last_is_waited_for_as_long_as_the_caller_likes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EACH_S", 0.05)
    with _deaf(FIRST) as port, _no_new_descriptor():
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.4):
                await carried(connect((FIRST,), port))
        assert time.monotonic() - began > 0.35


async def test_a_cancelled_wait_closes_what_was_under_way() -> None:
    with _deaf(FIRST) as port, _no_new_descriptor():
        task = asyncio.get_running_loop().create_task(carried(connect((FIRST, SECOND), port)))
        await asyncio.sleep(0.05)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_process_without_descriptors_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(module, "_new_socket", none_left)
        with pytest.raises(OSError, match="Too many"):
            await carried(connect((FIRST,), 1))
