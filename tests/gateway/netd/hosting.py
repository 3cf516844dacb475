"""A namespace that is the host: uplinks, and what of them can be seen."""

import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.netd import cells, host, sysctls, variants
from gateway.netd.generation import NETLINK_NETFILTER
from gateway.netd.spaces import CLONE_NEWNET, _enter, _open, _unshare
from rules import NetworkPolicy
from rules.link import Family
from rules.plan import Plan, build_plan

FAMILIES: tuple[Family, ...] = (4, 6)
OWNER = f"{host.OWNERS}test.1"
SWITCHES = ("ipv4/ip_forward", "ipv6/conf/all/forwarding")
CLOSING = "-A EGRESS-FORWARD -j DROP"
CLOSING_LAST = "-A FORWARD -j EGRESS-CLOSE"
EMPTY = "".join(
    f"*{table}\n:{chain} ACCEPT\nCOMMIT\n"
    for table, chain in (("filter", "FORWARD"), ("raw", "PREROUTING"), ("nat", "POSTROUTING"))
)


def other_space() -> int:
    """A new one, which nobody is in; its descriptor."""
    home = _open("net")
    _unshare(CLONE_NEWNET)
    made = _open("net")
    _enter(home)
    os.close(home)
    return made


def ip(words: str, space: int | None = None) -> str:
    """Run iproute2 here, or there."""
    argv = [
        *([] if space is None else ["nsenter", f"--net=/proc/{os.getpid()}/fd/{space}"]),
        "ip",
        *words.split(),
    ]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def raised(cell: int, owner: str = OWNER) -> None:
    """An uplink of both families."""
    host.raise_uplink(cell, "up0", FAMILIES, owner)


def rules(family: Family) -> list[str]:
    """Of all tables, by those who have any."""
    return [
        rule
        for variant in variants.in_use(family)
        for table in variants.saved(variant, family).values()
        for rule in table
        if rule.startswith("-A") or "EGRESS" in rule
    ]


def given_up_when(
    monkeypatch: pytest.MonkeyPatch, stuck: Callable[[], bool], hangs: Callable[[], bool]
) -> None:
    """Have who waits for a process at work lose patience soon after that ``hangs``, where it is to be ``stuck``; once, for what then takes it back
    may take as long as ever."""
    patient = True

    def recv_fds(sock: socket.socket, *more: int) -> Any:
        nonlocal patient
        if patient and stuck():
            patient = False
            while not hangs():
                time.sleep(0.01)
            sock.settimeout(0.2)
        return socket.recv_fds(sock, *more)

    monkeypatch.setattr(cells, "socket", SimpleNamespace(**{**vars(socket), "recv_fds": recv_fds}))


def awaited(met: Callable[[], bool]) -> None:
    """A look is a second away, or a little more."""
    give_up = time.monotonic() + 60
    while not met():
        assert time.monotonic() < give_up
        time.sleep(0.05)


def flush() -> None:
    """What ``nft flush ruleset`` does, which not every machine has: between the two ends of a batch, NFT_MSG_DELTABLE of no table in particular,
    acknowledged (linux/netfilter/nfnetlink.h, nf_tables.h)."""
    batch = ((16, 1, 10), (10 << 8 | 2, 5, 0), (17, 1, 10))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as netlink:
        netlink.settimeout(10)
        netlink.send(
            b"".join(
                struct.pack("=IHHIIBBH", 20, kind, flags, 0, 0, 0, 0, socket.htons(subsystem))
                for kind, flags, subsystem in batch
            )
        )
        (wrong,) = struct.unpack_from("=i", netlink.recv(4096), 16)
    assert wrong == 0


def forwards() -> list[str]:
    """The switches."""
    return [(sysctls.SYSCTL_ROOT / name).read_text().strip() for name in SWITCHES]


def is_router() -> list[Family]:
    """The families in which the host would route for its neighbours."""
    return [
        family
        for family, switch in zip(FAMILIES, forwards(), strict=True)
        if switch != "0" and not {CLOSING, CLOSING_LAST} & set(rules(family))
    ]


def state() -> dict[str, Any]:
    """What an uplink changes."""
    return {
        "rules": [rules(family) for family in FAMILIES],
        "settings": sysctls.read((*SWITCHES, *host.TOUCHED[4], *host.TOUCHED[6])),
        "devices": sorted(line.split()[1] for line in ip("-o link").splitlines()),
        "files": sorted(path.name for path in host.STATE.glob("*/*")),
    }


def uplinked() -> tuple[Plan, Plan]:
    """Of a cell that forwards something in both families."""
    policy = NetworkPolicy(["198.51.100.0/24:9", "2001:db8:2::/64"], ["0.0.0.0/0", "::/0"])
    plans = build_plan(policy, "veth"), build_plan(policy, "veth", 6)
    assert all(plan.uplink for plan in plans)
    return plans
