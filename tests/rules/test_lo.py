"""The ``lo`` link in the kernel, behind either backend: what every program may do is done, and each attempt at anything else is told of, once."""

import json
import os
import subprocess
import sys
from itertools import product
from typing import Any

import pytest

from rules.backend import Backend
from rules.link import LO, Family
from tests.lab.lab import ROOT

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(60),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a network namespace"),
]

PROGRAM = """
import json, os, select, socket, sys
from gateway.netd.cells import install
from gateway.netd.links import raise_lo
from gateway.netd.nflog import open_logs
from gateway.netd.sockets import open_sockets
from gateway.packets import messages
from rules import ALL_TRAFFIC, NetworkPolicy
from rules.choose import choose
from rules.link import LO
from rules.plan import build_plan
family, backend, resolver, wait_s = int(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4])
policy = NetworkPolicy(["a.test"], [ALL_TRAFFIC], resolver=resolver)
plans = [build_plan(policy, "lo", one) for one in (4, 6)]
install(choose(plans, backend), plans)
raise_lo(LO, ipv6=True)
log = open_logs()["nflog_refused"]
ours = open_sockets(plans[0]) | open_sockets(plans[1])
listener = ours["listener" if family == 4 else "listener6"]
kind = socket.AF_INET if family == 4 else socket.AF_INET6
def told(first_s):
    found = []
    # The kernel tells as it drops: what else there is of one attempt is there by the first.
    while select.select([log], [], [], 0.02 if found else first_s)[0]:
        found += [one.packet for one in messages(log.recv(1 << 16))]
    return [[str(one.source), str(one.dest), one.dest_port, one.proto] for one in found]
def attempt(how, dest, port, source=None):
    said = None
    with socket.socket(kind, how) as sock:
        sock.settimeout(wait_s)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            if source:
                if family == 6:
                    sock.setsockopt(socket.IPPROTO_IPV6, 78, 1)  # IPV6_FREEBIND, linux/in6.h: anybody may
                sock.bind((source, 0))
            sock.connect((dest, port))
            sock.send(b"asked")
            if port == 53:
                answer(how)
            elif how == socket.SOCK_STREAM:
                came = taken(listener)
                assert came.getsockname()[0] == dest, came
                came.setblocking(True)
                said = came.recv(9).decode()
                came.sendall(said.encode())
            said = sock.recv(9).decode()
        except OSError as error:
            said = type(error).__name__
    return said, told(0.1 if said == "asked" else 5)
def taken(listener):
    select.select([listener], [], [], wait_s)
    return listener.accept()[0]
def answer(how):
    if how == socket.SOCK_DGRAM:
        if not select.select([ours["dns_udp"]], [], [], wait_s)[0]:
            return
        data, peer = ours["dns_udp"].recvfrom(9)
        ours["dns_udp"].sendto(data, peer)
    else:
        came = taken(ours["dns_tcp"])
        came.setblocking(True)
        came.sendall(came.recv(9))
TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM
said = [attempt({"tcp": TCP, "udp": UDP}[how], *more) for how, *more in json.load(sys.stdin)]
print(json.dumps(said))
"""
FAR: dict[Family, str] = {4: "198.51.100.9", 6: "2001:db8:1::9"}
RESOLVER: dict[Family, str] = {4: "9.9.9.9", 6: "2620:fe::fe"}
OWN: dict[Family, str] = {4: LO.address, 6: LO.address6}
FORGED: dict[Family, list[str]] = {4: ["1.2.3.4", "127.0.0.1"], 6: ["2001:db8:9::1", "::1"]}
GROUPS: dict[Family, list[str]] = {
    4: ["239.1.2.3", "224.0.0.251", "239.255.255.250", "255.255.255.255"],
    6: ["ff05::1:3", "ff05::c", "ff0e::1234"],
}
"""On a link-local one nothing can be sent here: ``lo`` has no such address."""


def tried(
    family: Family, backend: Backend, *attempts: tuple[Any, ...], wait_s: float = 5
) -> list[tuple[str, list[list[Any]]]]:
    """Each in its turn: what became of it within ``wait_s``, and what the kernel told of meanwhile."""
    argv = [
        "unshare",
        "--net",
        sys.executable,
        "-c",
        PROGRAM,
        str(family),
        backend,
        RESOLVER[family],
        str(wait_s),
    ]
    done = subprocess.run(
        argv, input=json.dumps(attempts), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [(said, told) for said, told in json.loads(done.stdout)]


BOTH = pytest.mark.parametrize("family", [4, 6])
BACKENDS = pytest.mark.parametrize("backend", ["legacy", "nft"])


@BACKENDS
@BOTH
def test_what_the_gateway_answers_comes_and_is_on_no_record(family: Family, backend: Backend) -> None:
    """In the name of the address that was dialled, and of the resolver's."""
    attempts = [("tcp", FAR[family], 443), ("udp", RESOLVER[family], 53), ("tcp", RESOLVER[family], 53)]
    assert tried(family, backend, *attempts) == [("asked", [])] * 3


@BACKENDS
@BOTH
def test_what_is_refused_is_told_of_once(family: Family, backend: Backend) -> None:
    ((said, told),) = tried(family, backend, ("udp", FAR[family], 443))
    assert said in ("ConnectionRefusedError", "OSError", "PermissionError")
    assert told == [[OWN[family], FAR[family], 443, "udp"]]


@BACKENDS
@BOTH
def test_under_another_address_nothing_comes_and_it_is_told_of(family: Family, backend: Backend) -> None:
    """Any can be bound there, for every one is local. Nor is an answer of the gateway's told of, that would be to it."""
    places = ((FAR[family], 443), (RESOLVER[family], 53))
    attempts = [
        (how, *place, source) for how, place, source in product(("tcp", "udp"), places, FORGED[family])
    ]
    found = tried(family, backend, *attempts, wait_s=0.1)
    for (how, *place, source), (said, told) in zip(attempts, found, strict=True):
        assert said == "TimeoutError"
        # A SYN may be sent again.
        assert told and all(one == [source, *place, how] for one in told)


@BACKENDS
@BOTH
def test_groups_and_broadcasts_are_told_of(family: Family, backend: Backend) -> None:
    attempts = [("udp", group, port) for group in GROUPS[family] for port in (1900, 5353)]
    found = tried(family, backend, *attempts, wait_s=0.1)
    for (how, group, port), (_, told) in zip(attempts, found, strict=True):
        assert [one[1:] for one in told] == [[group, port, how]]
