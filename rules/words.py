"""Marks, and what the two address families call the same things. Pure."""

from typing import Final, NamedTuple

from rules.link import Family, Link

PROXY_MARK: Final = "0x4/0xf"
"""Set by TPROXY on every packet that it gives to the listener; a workload cannot set marks (CAP_NET_ADMIN)."""
FORWARD_MARK: Final = "0x1/0xf"
"""Set on what leaves the cell: the one thing by which a packet finds the uplink's routes."""
LIMIT_MARK: Final = "0x2/0xf"
"""Set in its place on the first packet of one flow too many, to be told of and dropped."""

REFUSED_GROUP: Final = 1
"""NFLOG group of what the kernel refuses or drops: every packet."""
ALLOWED_GROUP: Final = 2
"""NFLOG group of what it lets out: the first packet of each flow."""


class Words(NamedTuple):
    """One family's."""

    address: str
    gateway: str | None
    listen_ip: str
    loopback: str
    reject_with: str


def spell(link: Link, family: Family) -> Words:
    """The words of ``family`` on ``link``."""
    if family == 4:
        return Words(link.address, link.gateway, link.listen_ip, "127.0.0.0/8", "icmp-admin-prohibited")
    return Words(link.address6, link.gateway6, link.listen_ip6, "::1/128", "icmp6-adm-prohibited")
