"""The host's half, in a namespace that is the host: what comes with the first uplink goes with the last, whatever fails on the way, and at no moment
is the host a router for its neighbours."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.netd import host, sysctls, variants
from gateway.netd.spaces import _open, within
from gateway.netd.variants import HostError
from rules.link import Family
from tests.gateway.netd.hosting import (
    CLOSING,
    CLOSING_LAST,
    FAMILIES,
    OWNER,
    SWITCHES,
    forwards,
    ip,
    is_router,
    other_space,
    raised,
    rules,
    state,
)

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a network namespace"),
]


def test_all_that_comes_goes(cell: int) -> None:
    before = state()
    raised(cell)
    assert forwards() == ["1", "1"]
    assert is_router() == []
    host.lower_uplinks(OWNER)
    assert state() == before


def watch(monkeypatch: pytest.MonkeyPatch, look: Callable[[str], None]) -> None:
    """Have ``look`` called around every step that changes the host."""
    for module, name in ((variants, "apply"), (sysctls, "write")):
        real = getattr(module, name)

        def step(*args: Any, real: Any = real, name: str = name, **more: Any) -> Any:
            look(f"before {name} {args}")
            done = real(*args, **more)
            look(f"after {name} {args}")
            return done

        monkeypatch.setattr(module, name, step)


def never_a_router(step: str) -> None:
    """For ``watch``."""
    assert is_router() == [], step


@pytest.mark.parametrize("used", [[], ["legacy"], ["nft"], ["legacy", "nft"]], ids=" ".join)
def test_at_no_step_is_it_a_router(cell: int, monkeypatch: pytest.MonkeyPatch, used: list[str]) -> None:
    """Whose tables the host uses already, or both kinds."""
    for variant in used:
        for program in variants.PROGRAMS.values():
            subprocess.run(
                [f"{program}-{variant}", "-A", "FORWARD", "-i", "theirs", "-j", "ACCEPT"], check=True
            )
    before = state()
    seen: list[str] = []

    def look(step: str) -> None:
        seen.append(step)
        never_a_router(step)

    watch(monkeypatch, look)
    raised(cell)
    host.lower_uplinks(OWNER)
    assert any("-X EGRESS-FORWARD" in step for step in seen)
    assert state() == before


SENDER = """
import os, socket, time
os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
one, other = (socket.socket(family, socket.SOCK_DGRAM) for family in (socket.AF_INET, socket.AF_INET6))
while True:
    one.sendto(b"x", ("198.51.100.2", 9))
    other.sendto(b"x", ("2001:db8:2::2", 9))
    time.sleep(0.001)
"""


@pytest.fixture
def neighbours(on_host: None) -> Iterator[list[socket.socket]]:
    """One sends through the host, a thousand packets a second and family, to sockets of the other."""
    near, far = other_space(), other_space()
    for number, (name, space) in enumerate((("near", near), ("far", far))):
        net, net6 = ("192.0.2", "198.51.100")[number], f"2001:db8:{number + 1}:"
        ip(f"link add {name} type veth peer name eth0 netns /proc/{os.getpid()}/fd/{space}")
        for where, device, last in ((None, name, 1), (space, "eth0", 2)):
            ip(f"addr add {net}.{last}/24 dev {device}", where)
            ip(f"-6 addr add {net6}:{last}/64 dev {device} nodad", where)
            ip(f"link set {device} up", where)
        ip(f"route add default via {net}.1", space)
        ip(f"-6 route add default via {net6}:1", space)
    home = _open("net")
    heard = within(far, home, lambda: [listening("198.51.100.2"), listening("2001:db8:2::2")])
    sender = within(near, home, lambda: subprocess.Popen([sys.executable, "-c", SENDER]))
    try:
        yield heard
    finally:
        sender.kill()
        sender.wait()
        for one in heard:
            one.close()
        for space in (near, far, home):
            os.close(space)


def listening(address: str) -> socket.socket:
    """Where the neighbour sends."""
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((address, 9))
    sock.setblocking(False)
    return sock


def taken(sockets: list[socket.socket]) -> list[int]:
    """How many packets came to each since it was asked last."""
    counts = []
    for one in sockets:
        counts.append(0)
        while True:
            try:
                one.recv(9)
            except BlockingIOError:
                break
            counts[-1] += 1
    return counts


def taken_by_now(sockets: list[socket.socket]) -> list[int]:
    """As ``taken``, with what is still on its way: the host's own come behind it, sent on the processor that the sender is on. Twice, for who is
    routed goes a step more."""
    counts, before = taken(sockets), os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    for word in (b"first", b"last"):
        for number, (one, to) in enumerate(zip(sockets, ("198.51.100.2", "2001:db8:2::2"), strict=True)):
            with socket.socket(one.family, socket.SOCK_DGRAM) as ours:
                ours.sendto(word, (to, 9))
            one.settimeout(30)
            while one.recv(9) != word:
                counts[number] += 1
            one.setblocking(False)
    os.sched_setaffinity(0, before)
    return counts


def came_from_the_neighbour() -> int:
    """Packets to the host."""
    (link,) = json.loads(ip("-s -j link show near"))
    return int(link["stats64"]["rx"]["packets"])


def test_not_one_packet_of_a_neighbour_is_routed(cell: int, neighbours: list[socket.socket]) -> None:
    sysctls.write(dict.fromkeys(SWITCHES, "1"))
    for one in neighbours:
        one.settimeout(30)
        assert one.recv(9) == b"x", "they come where they are let"
        one.setblocking(False)
    sysctls.write(dict.fromkeys(SWITCHES, "0"))
    taken_by_now(neighbours)
    turns = 0
    while turns < 5:
        before = came_from_the_neighbour()
        raised(cell)
        host.lower_uplinks(OWNER)
        turns += came_from_the_neighbour() > before + 100  # or the sender was held up
    assert taken_by_now(neighbours) == [0, 0]


def failing(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Have the step of this number fail: of all that reads or changes the host's rules and settings."""
    left = [number]
    for module, name in ((variants, "saved"), (variants, "apply"), (sysctls, "read"), (sysctls, "write")):
        real = getattr(module, name)

        error: type[Exception] = HostError if module is variants else OSError

        def step(*args: Any, real: Any = real, error: type[Exception] = error, **more: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise error("it would not")
            return real(*args, **more)

        monkeypatch.setattr(module, name, step)


def test_whatever_fails_is_said_and_leaves_the_host_closed(cell: int) -> None:
    """And the next uplink's end takes away what was left."""
    before = state()
    for number in range(1, 100):
        raised(cell)
        with pytest.MonkeyPatch.context() as patched:
            failing(patched, number)
            try:
                host.lower_uplinks(OWNER)
                break
            except HostError as error:
                assert "it would not" in str(error)
        assert is_router() == [], f"step {number}"
    assert number > 8
    assert state() == before


def test_one_family_that_fails_does_not_keep_the_other(cell: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real = variants.saved

    def saved(variant: str, family: Family) -> dict[str, list[str]]:
        if family == 4:
            raise HostError("it would not")
        return real(variant, family)

    raised(cell)
    with monkeypatch.context() as patched:
        patched.setattr(variants, "saved", saved)
        with pytest.raises(HostError, match=r"^IPv4: it would not$"):
            host.lower_uplinks(OWNER)
    assert forwards() == ["1", "0"]
    assert (CLOSING in rules(4), rules(6)) == (True, [])


def test_who_began_to_forward_after_a_failure_is_let(cell: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was given back is not remembered as what was before the next uplink."""

    def forget(_: host.Place) -> None:
        raise OSError("it would not")

    raised(cell)
    with monkeypatch.context() as patched:
        patched.setattr(host.Place, "forget", forget)
        with pytest.raises(OSError, match="it would not"):
            host.lower_uplinks(OWNER)
    sysctls.write(dict.fromkeys(SWITCHES, "1"))
    raised(cell)
    assert [CLOSING in rules(family) for family in FAMILIES] == [False, False]
    host.lower_uplinks(OWNER)
    assert forwards() == ["1", "1"]


def test_who_came_meanwhile_goes_on_forwarding(cell: int) -> None:
    raised(cell)
    (variant,) = variants.in_use(4)
    subprocess.run([f"iptables-{variant}", "-A", "FORWARD", "-i", "docker0", "-j", "ACCEPT"], check=True)
    host.lower_uplinks(OWNER)
    assert forwards() == ["1", "0"]
    assert rules(4) == ["-A FORWARD -i docker0 -j ACCEPT"]


@pytest.mark.parametrize("used", [["legacy"], ["nft"], ["legacy", "nft"]], ids=" ".join)
def test_who_begins_to_forward_meanwhile_is_not_cut_off(
    cell: int, neighbours: list[socket.socket], monkeypatch: pytest.MonkeyPatch, used: list[str]
) -> None:
    """As dockerd does, with rules before ours. What he does not accept is dropped as before."""
    for variant in used:
        subprocess.run([f"iptables-{variant}", "-A", "FORWARD", "-i", "theirs", "-j", "DROP"], check=True)
    raised(cell)
    rule = ["FORWARD", "-i", "near", "-p", "udp", "--dport", "9", "-j", "ACCEPT"]
    subprocess.run([f"iptables-{used[-1]}", "-I", *rule], check=True)
    taken(neighbours)
    watch(monkeypatch, never_a_router)
    second = other_space()
    try:
        raised(second, f"{OWNER}1")
    finally:
        os.close(second)
    heard, shut = neighbours
    heard.settimeout(30)
    assert heard.recv(9) == b"x"
    heard.setblocking(False)
    forward = [rule for rule in variants.saved(used[-1], 4)["filter"] if rule.startswith("-A FORWARD")]
    assert (forward[0], forward[-1]) == ("-A FORWARD -j EGRESS-FORWARD", CLOSING_LAST)
    assert CLOSING in rules(6) and taken([shut]) == [0], "there nobody has come"
    subprocess.run([f"iptables-{used[-1]}", "-D", *rule], check=True)
    third = other_space()
    raised(third, f"{OWNER}2")
    os.close(third)
    assert CLOSING in rules(4), "he is gone"
    for owner in (OWNER, f"{OWNER}1", f"{OWNER}2"):
        host.lower_uplinks(owner)
    assert forwards() == ["0", "0"]
    assert "EGRESS" not in str(state()["rules"])


@pytest.mark.parametrize("first", [0, 1])
def test_two_that_do_not_see_each_others_files(
    cell: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, first: int
) -> None:
    """As in a container with the host's network beside the host: whichever ends last, the host is no router after it, nor before."""
    before = state()
    places, other = [host.STATE, tmp_path / "other"], other_space()
    watch(monkeypatch, never_a_router)
    for place, space, owner in zip(places, (cell, other), (OWNER, f"{OWNER}1"), strict=True):
        monkeypatch.setattr(host, "STATE", place)
        raised(space, owner)
        assert is_router() == []
    for number in (first, 1 - first):
        monkeypatch.setattr(host, "STATE", places[number])
        host.lower_uplinks((OWNER, f"{OWNER}1")[number])
        assert is_router() == []
    assert forwards() == ["0", "0"] and "EGRESS" not in str(state()["rules"])
    monkeypatch.setattr(host, "STATE", places[0])
    raised(other)
    host.lower_uplinks(OWNER)
    os.close(other)
    assert state() == before


def test_the_first_after_a_while_is_not_the_one_before(cell: int) -> None:
    """Or what a server still sends to that one is the new one's, for the host's conntrack knows no difference."""
    found = set()
    for _ in range(4):
        raised(cell)
        found.add(state()["devices"][0].partition("@")[0])
        host.lower_uplinks(OWNER)
    assert len(found) > 1
