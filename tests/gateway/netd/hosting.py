"""A namespace that is the host: uplinks, and what of them can be seen."""

import os
import subprocess
from typing import Any

from gateway.netd import host, sysctls, variants
from gateway.netd.spaces import CLONE_NEWNET, _enter, _open, _unshare
from rules import NetworkPolicy
from rules.link import Family
from rules.plan import Plan, build_plan

FAMILIES: tuple[Family, ...] = (4, 6)
OWNER = f"{host.OWNERS}test.1"
SWITCHES = ("ipv4/ip_forward", "ipv6/conf/all/forwarding")
CLOSING = "-A EGRESS-FORWARD -j DROP"
CLOSING_LAST = "-A FORWARD -j EGRESS-CLOSE"


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
