"""Waiting for a descriptor, and the small operations on it."""

import asyncio
import contextlib
import errno
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from gateway.flow import Endpoint
from gateway.net.sockets import (
    PROBE_AFTER_S,
    Listener,
    endpoint,
    reset_on_close,
    send_all,
    set_for_accepted,
    writable,
)
from tests.gateway.net.loop import WITHIN_S, readable, receive
from tests.gateway.net.loopback import nothing_left, tcp_pair, unix_pair

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture(params=[tcp_pair, unix_pair])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    one, other = request.param()
    yield one, other
    one.close()
    other.close()


def _fill(sock: socket.socket) -> int:
    sent = 0
    while True:
        try:
            sent += sock.send(b"x" * 65536)
        except BlockingIOError:
            return sent


async def test_writable_waits_for_room(pair: Pair) -> None:
    one, other = pair
    with nothing_left(one):
        await asyncio.wait_for(writable(one), WITHIN_S)
        _fill(one)
        waiting = asyncio.get_running_loop().create_task(writable(one))
        await asyncio.sleep(0.02)
        assert not waiting.done()
        for _ in range(1000):
            if waiting.done():
                break
            try:
                other.recv(65536)
            except BlockingIOError:
                pass
            await asyncio.sleep(0)
        await asyncio.wait_for(waiting, WITHIN_S)


async def test_a_cancelled_wait_leaves_nothing_registered(pair: Pair) -> None:
    one, _ = pair
    _fill(one)
    with nothing_left(one):
        task = asyncio.get_running_loop().create_task(writable(one))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_send_all_sends_all_whatever_the_buffer(pair: Pair) -> None:
    one, other = pair
    data = bytes(range(256)) * 20_000
    got = bytearray()

    async def drain() -> None:
        while len(got) < len(data):
            await receive(other, got, 10_000)

    with nothing_left(one, other):
        await asyncio.gather(send_all(one, memoryview(data)), drain())
    assert got == data
    await send_all(one, b"")


async def test_send_all_reports_a_reader_that_is_gone(pair: Pair) -> None:
    one, other = pair
    other.close()
    with pytest.raises(OSError, match=r"reset|pipe"):
        for _ in range(100):
            await send_all(one, b"x" * 65536)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (("10.0.0.2", 41234), Endpoint(ip_address("10.0.0.2"), 41234)),
        (("2001:db8::9", 443, 0, 0), Endpoint(ip_address("2001:db8::9"), 443)),
        (("fe80::1%eth0", 443, 0, 2), Endpoint(ip_address("fe80::1"), 443)),
        (("::ffff:10.0.0.2", 1, 0, 0), Endpoint(ip_address("::ffff:10.0.0.2"), 1)),
    ],
)
def test_an_endpoint(address: tuple[str, int], expected: Endpoint) -> None:
    assert endpoint(address) == expected


async def test_reset_on_close_sends_rst_though_nothing_is_unread() -> None:
    one, other = tcp_pair()
    with one:
        reset_on_close(other)
        assert struct.unpack("ii", other.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)) == (1, 0)
        other.close()
        await readable(one)
        with pytest.raises(OSError, match="reset") as caught:
            one.recv(1)
        assert caught.value.errno == errno.ECONNRESET


class _Restricted:
    """A listener where the administrator allows no congestion control but the default one."""

    def __init__(self) -> None:
        self.options: list[int] = []

    def setsockopt(self, _level: int, option: int, _value: object) -> None:
        if option == socket.TCP_CONGESTION:
            raise PermissionError(errno.EPERM, "not allowed")
        self.options.append(option)


def test_a_listener_whose_congestion_control_is_not_ours_to_choose() -> None:
    listener = _Restricted()
    set_for_accepted(listener)  # type: ignore[arg-type]
    assert {socket.TCP_NODELAY, socket.SO_KEEPALIVE} <= set(listener.options)


def test_nothing_is_paced_on_the_way_to_a_workload() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        set_for_accepted(listener)
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0") == b"reno"


def test_accepted_sockets_are_probed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        set_for_accepted(listener)
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == PROBE_AFTER_S


def test_a_listener_knows_how_many_wait() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=8) as sock:
        sock.setblocking(False)
        listener = Listener(sock)
        assert listener.waiting() == 0
        with contextlib.ExitStack() as clients:
            for count in range(1, 4):
                clients.enter_context(socket.create_connection(sock.getsockname()))
                assert listener.waiting() == count
            listener.accept()[0].close()
            assert listener.waiting() == 2
