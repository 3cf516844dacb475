"""Which addresses are the host's own, by the kernel of a network namespace."""

import ctypes
import os
import socket
import struct
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from gateway.net import local as module
from gateway.net.local import LocalAddresses

CLONE_NEWNET = 0x40000000


def _in_namespace(check: Callable[[], None]) -> None:
    """Run ``check`` in a child whose network namespace dies with it."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "unshare")
            check()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _ip(*commands: str) -> None:
    for command in commands:
        subprocess.run(["ip", *command.split()], check=True)


def _await_routes(*wanted: tuple[str, str]) -> None:
    """The kernel makes those of IPv6 addresses, and of a device that is up, when it comes to it (proc_net(5), ipv6_route)."""
    for _ in range(1000):
        lines = [line.split() for line in Path("/proc/self/net/ipv6_route").read_text().splitlines()]
        if set(wanted) <= {(f"{line[0]}/{line[1]}", line[-1]) for line in lines}:
            return
        time.sleep(0.01)


@pytest.fixture
def local() -> Iterator[LocalAddresses]:
    made = LocalAddresses()
    yield made
    made.close()


@pytest.mark.parametrize(
    "ip", ["127.0.0.1", "127.9.9.9", "127.255.255.255", "255.255.255.255", "224.0.0.1", "0.0.0.0"]
)
def test_local_by_nature_on_any_host(local: LocalAddresses, ip: str) -> None:
    assert ip_address(ip) in local


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a network namespace")
def test_what_ip_addr_says_and_its_neighbours() -> None:
    def check() -> None:
        _ip(
            "link set lo up",
            "link add one type veth peer name two",
            "link set one up",
            "link set two up",
            "addr add 198.18.5.6/24 brd + dev one",
            "addr add 198.18.5.7/32 dev one",
            "-6 addr add 2001:db8::5/64 dev one nodad",
            "route add local 198.19.0.0/16 dev lo",
            "route add 203.0.113.0/24 dev one",
            "route add unreachable 198.51.100.0/24",
            "route add prohibit 192.0.2.0/25",
            "route add blackhole 192.0.2.128/25",
            "-6 route add local 2001:db8:1::/48 dev lo",
            "-6 route add unreachable 2001:db8:2::/48",
        )
        _await_routes(("20010db8000000000000000000000005/80", "one"), (f"ff{bytes(15).hex()}/08", "one"))
        local = LocalAddresses()
        here = "198.18.5.6 198.18.5.7 198.18.5.255 198.19.200.1 127.0.0.1 127.1.2.3 ::1 2001:db8::5 2001:db8:1::77 ff02::1"
        elsewhere = "198.18.5.5 198.18.5.8 198.18.6.6 203.0.113.9 198.51.100.1 192.0.2.1 192.0.2.200 8.8.8.8 2001:db8::6 2001:db8:2::1 2001:db8:3::1"
        seen = {ip: ip_address(ip) in local for ip in (here + " " + elsewhere).split()}
        assert seen == dict.fromkeys(here.split(), True) | dict.fromkeys(elsewhere.split(), False), seen

    _in_namespace(check)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a network namespace")
def test_an_address_that_comes_or_goes_is_noticed_within_a_second() -> None:
    def check() -> None:
        moment = [100.0]
        time.monotonic = lambda: moment[0]  # this child ends before anybody else asks
        _ip("link set lo up", "link add one type veth peer name two", "link set one up")
        local, ip = LocalAddresses(), ip_address("198.18.5.6")
        assert ip not in local
        _ip("addr add 198.18.5.6/24 dev one")
        moment[0] += module.FRESH_S + 0.01
        assert ip in local
        _ip("addr del 198.18.5.6/24 dev one")
        assert ip in local, "an answer is good for a moment"
        moment[0] += module.FRESH_S + 0.01
        assert ip not in local

    _in_namespace(check)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a network namespace")
def test_a_namespace_with_nothing_in_it() -> None:
    def check() -> None:
        local = LocalAddresses()
        assert ip_address("8.8.8.8") not in local
        assert ip_address("2001:db8::1") not in local

    _in_namespace(check)


class _Kernel:
    """A netlink socket that answers what a test says."""

    def __init__(self, *answers: Callable[[int], bytes]) -> None:
        self.answers = list(answers)
        self.asked = 0

    def send(self, message: bytes) -> int:
        self.asked += 1
        self.sequence = struct.unpack_from("=IHHI", message)[3]
        return len(message)

    def recv(self, _: int) -> bytes:
        if not self.answers:
            raise TimeoutError
        return self.answers.pop(0)(self.sequence)

    def close(self) -> None:
        pass


def _error(code: int) -> Callable[[int], bytes]:
    return lambda sequence: struct.pack("=IHHIIi", 20, 2, 0, sequence, 0, -code)


def _route(kind: int, *, off: int = 0) -> Callable[[int], bytes]:
    return lambda sequence: struct.pack(
        "=IHHIIBBBBBBBBI", 28, 24, 0, sequence + off, 0, 2, 32, 0, 0, 255, 2, 0, kind, 0
    )


def _with(*answers: Callable[[int], bytes]) -> tuple[LocalAddresses, _Kernel]:
    local = LocalAddresses()
    local.close()
    kernel = _Kernel(*answers)
    local._socket = kernel  # type: ignore[assignment]
    return local, kernel


@pytest.mark.parametrize("code", [1, 12, 16, 105])
def test_a_kernel_that_does_not_say_is_not_taken_for_a_no(code: int) -> None:
    local, _ = _with(_error(code))
    with pytest.raises(OSError, match=f"Errno {code}"):
        ip_address("8.8.8.8") in local  # noqa: B015 - it raises


def test_a_silent_kernel_is_not_taken_for_a_no() -> None:
    local, _ = _with()
    with pytest.raises(TimeoutError):
        ip_address("8.8.8.8") in local  # noqa: B015 - it raises


def test_an_answer_to_an_earlier_question_is_passed_over() -> None:
    local, _ = _with(_route(1, off=-1), _route(2))
    assert ip_address("8.8.8.8") in local


@pytest.mark.parametrize(
    ("kind", "here"),
    [(1, False), (2, True), (3, True), (4, True), (5, True), (6, False), (7, False), (8, False)],
)
def test_kinds_of_route(kind: int, here: bool) -> None:
    local, _ = _with(_route(kind))
    assert (ip_address("8.8.8.8") in local) is here


def test_an_answer_is_remembered_and_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 3)
    monkeypatch.setattr(module, "FRESH_S", 60.0)
    local, kernel = _with(*[_route(1)] * 20)
    for last in (1, 2, 3, 4, 4, 3, 2):
        assert ip_address(f"8.8.8.{last}") not in local
    assert kernel.asked == 4
    assert len(local._known) == 3
    assert ip_address("8.8.8.1") not in local
    assert kernel.asked == 5


def test_the_socket_is_not_inherited(local: LocalAddresses) -> None:
    assert not os.get_inheritable(local._socket.fileno())
    assert local._socket.family == socket.AF_NETLINK
