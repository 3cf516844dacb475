"""What a sandbox is joined by, and the addresses that belong to the link itself. Pure.

They are the same in every cell: each is a network namespace of its own, and nobody else is in it.
"""

from dataclasses import dataclass, replace
from typing import Final, Literal

LinkKind = Literal["lo", "veth", "iface"]
Family = Literal[4, 6]


@dataclass(frozen=True, slots=True)
class Link:
    """One kind of link. ``lo`` is the sandbox's own loopback; the others have a device in the cell, and a way on where one is needed."""

    kind: LinkKind = "lo"
    device: str = "lo"
    """Where the sandbox's packets come in."""
    address: str = "192.0.0.2"
    """The sandbox's own address: of RFC 7335's continuity prefix, which no host on any network has, and not in the floor."""
    prefixlen: int = 32
    gateway: str | None = None
    """The cell's own address on the link, the sandbox's default route."""
    listen_ip: str = "127.86.0.1"
    """Where TPROXY hands connections over: a loopback address that no workload uses by habit."""
    address6: str = "fd65:6772:6573:73::2"
    """A unique local address (RFC 4193), so that by RFC 6724 clients prefer IPv4 where a name has both."""
    prefixlen6: int = 128
    gateway6: str | None = None
    link_local6: str | None = None
    """The sandbox's link-local address: beside ``address6`` the only one that its neighbour discovery may speak from."""
    listen_ip6: str = "100::56"
    """Of the discard-only prefix (RFC 6666)."""
    listen_port: int = 1
    """Below ip_unprivileged_port_start, so that a workload without capabilities can neither hold nor share it."""
    uplink_device: str | None = None
    """Where marked packets leave the cell, in a cell that has an uplink."""


LO: Final = Link()
VETH: Final = Link(
    "veth",
    "sbx0",
    prefixlen=29,  # all of the continuity prefix, and not the sinkhole behind it (192.0.0.8)
    gateway="192.0.0.1",
    prefixlen6=64,
    gateway6="fd65:6772:6573:73::1",
    link_local6="fe80::2",
    uplink_device="up0",
)
IFACE: Final = replace(VETH, kind="iface")
"""As ``VETH``, over a device that someone else made."""

LINKS: Final[dict[str, Link]] = {link.kind: link for link in (LO, VETH, IFACE)}
