"""Links inside a cell: devices, addresses and routes. Each function runs in a process that has already entered the cell's namespace."""

import errno
from dataclasses import dataclass
from socket import AF_INET, AF_INET6
from typing import Any, Final

from pyroute2 import IPRoute, NetlinkError

from gateway.netd import sysctls
from rules.link import Family, Link
from rules.words import FORWARD_MARK

LOOPBACK_INDEX: Final = 1
"""``lo`` is the first device of every network namespace."""
# linux/rtnetlink.h, linux/if_addr.h, linux/neighbour.h, linux/if_addr.h
RT_TABLE_MAIN: Final = 254
RT_TABLE_LOCAL: Final = 255
RTNH_F_ONLINK: Final = 4
IFA_F_NODAD: Final = 0x02
IFA_F_NOPREFIXROUTE: Final = 0x200
NUD_PERMANENT: Final = 0x80
UPLINK_TABLE: Final = 100
SANDBOX_DEVICE: Final = "eth0"
# Locally administered, the same in every cell: nobody else is on any of these wires.
OF_CELL, OF_SANDBOX, OF_UPLINK, OF_HOST = (f"02:65:67:72:00:0{end}" for end in (1, 2, 3, 4))
FAMILIES: Final[dict[Family, int]] = {4: AF_INET, 6: AF_INET6}
_MARK, _MASK = (int(word, 16) for word in FORWARD_MARK.split("/"))


@dataclass(frozen=True, slots=True)
class Way:
    """How one family leaves the cell: the uplink's own address, and where it sends to, which nobody needs to have."""

    address: str
    gateway: str


def raise_lo(link: Link, *, ipv6: bool) -> None:
    """Bring ``lo`` up so that every address is local to the cell: the workload's packets go nowhere but to the gateway's sockets.

    The route names ``src`` because the kernel would otherwise take the destination as the source, and such connections hang.
    OSError, or pyroute2's NetlinkError, where the kernel refuses.
    """
    sysctls.state_cell(ipv6=ipv6)
    with IPRoute() as netlink:
        netlink.link("set", index=LOOPBACK_INDEX, state="up")
        netlink.addr("add", index=LOOPBACK_INDEX, address=link.address, prefixlen=32)
        _everything_local(netlink, 4, prefsrc=link.address)
        if ipv6:
            netlink.addr("add", index=LOOPBACK_INDEX, address=link.address6, prefixlen=128, flags=IFA_F_NODAD)
            _everything_local(netlink, 6, prefsrc=link.address6)


def make_link(link: Link, sandbox: int) -> None:
    """The pair whose other end, ``eth0``, is in the namespace that ``sandbox`` is a descriptor of; both ends down. OSError or NetlinkError."""
    with IPRoute() as netlink:
        peer = {"ifname": SANDBOX_DEVICE, "address": OF_SANDBOX, "net_ns_fd": sandbox}
        netlink.link("add", ifname=link.device, kind="veth", address=OF_CELL, peer=peer)


def route_cell(link: Link, ways: dict[Family, Way], *, ipv6: bool) -> None:
    """The routing of docs/wall.md, then the devices up, the sandbox's first: until then nothing of it comes in. OSError or NetlinkError.

    Every address is local to what comes in; the uplink's routes are in a table that only marked packets are looked up in.
    """
    # Else the cell answers for every address, the sandbox's own too.
    sysctls.write({f"ipv4/conf/{link.device}/arp_ignore": "1"})
    with IPRoute() as netlink:
        device = _index(netlink, link.device)
        netlink.link("set", index=LOOPBACK_INDEX, state="up")
        netlink.link("set", index=device, state="up")
        netlink.addr("add", index=device, address=link.gateway, prefixlen=link.prefixlen)
        netlink.neigh("add", dst=link.address, lladdr=OF_SANDBOX, ifindex=device, state=NUD_PERMANENT)
        if ipv6:
            netlink.addr(
                "add", index=device, address=link.gateway6, prefixlen=link.prefixlen6, flags=IFA_F_NODAD
            )
            netlink.neigh(
                "add",
                dst=link.address6,
                lladdr=OF_SANDBOX,
                ifindex=device,
                state=NUD_PERMANENT,
                family=AF_INET6,
            )
        for family in (4, 6) if ipv6 else (4,):
            _everything_local(netlink, family)
            _only_door(netlink, family)
    open_ways(link, ways)


def open_ways(link: Link, ways: dict[Family, Way]) -> None:
    """The uplink's half of it: for families that do not leave by it yet. OSError or NetlinkError."""
    if not ways:
        return
    with IPRoute() as netlink:
        uplink = _index(netlink, str(link.uplink_device))
        netlink.link("set", index=uplink, state="up")
        for family, way in ways.items():
            _way_on(netlink, uplink, family, way)
            _marked_door(netlink, family, str(link.uplink_device))
    sysctls.write(_forwarding(link, ways))


def equip_sandbox(link: Link, *, ipv6: bool) -> None:
    """Inside the sandbox's own namespace: its device, its addresses, its way to the cell. OSError or NetlinkError."""
    sysctls.write({"ipv4/ip_unprivileged_port_start": "1024"})
    if sysctls.SYSCTL_ROOT.joinpath("ipv6").is_dir():
        sysctls.write({"ipv6/conf/eth0/addr_gen_mode": "1"} if ipv6 else sysctls.NO_IPV6)
    with IPRoute() as netlink:
        device = _index(netlink, SANDBOX_DEVICE)
        netlink.link("set", index=LOOPBACK_INDEX, state="up")
        netlink.link("set", index=device, state="up")
        # Nobody but the cell is a neighbour: what else is in the link's network is asked of it as everything is, and so is on record.
        netlink.addr("add", index=device, address=link.address, prefixlen=32)
        netlink.neigh("add", dst=link.gateway, lladdr=OF_CELL, ifindex=device, state=NUD_PERMANENT)
        netlink.route("add", dst=link.gateway, oif=device, scope="link")
        netlink.route("add", dst="0.0.0.0/0", gateway=link.gateway)
        if ipv6:
            for address, length in ((link.address6, 128), (link.link_local6, 64)):
                netlink.addr("add", index=device, address=address, prefixlen=length, flags=IFA_F_NODAD)
            netlink.neigh(
                "add",
                dst=link.gateway6,
                lladdr=OF_CELL,
                ifindex=device,
                state=NUD_PERMANENT,
                family=AF_INET6,
            )
            netlink.route("add", family=AF_INET6, dst=f"{link.gateway6}/128", oif=device)
            netlink.route("add", family=AF_INET6, dst="::/0", gateway=link.gateway6)


def _way_on(netlink: IPRoute, uplink: int, family: Family, way: Way) -> None:
    """Addresses without a route of their own, and the default route behind the mark. Twice is once."""
    netlink.addr(
        "replace",
        index=uplink,
        address=way.address,
        prefixlen=32 if family == 4 else 128,
        flags=IFA_F_NODAD | IFA_F_NOPREFIXROUTE,
    )
    netlink.neigh(
        "replace",
        dst=way.gateway,
        lladdr=OF_HOST,
        ifindex=uplink,
        state=NUD_PERMANENT,
        family=FAMILIES[family],
    )
    kind, everything = FAMILIES[family], "0.0.0.0/0" if family == 4 else "::/0"
    # For IPv4 no gateway is local, and here every address is: but for this one, so long as the kernel looks.
    beside = {"table": RT_TABLE_LOCAL, "dst": way.gateway, "oif": uplink, "scope": "link"}
    if family == 4:
        netlink.route("replace", **beside)
    netlink.route(
        "replace",
        family=kind,
        table=UPLINK_TABLE,
        dst=everything,
        gateway=way.gateway,
        oif=uplink,
        flags=RTNH_F_ONLINK,
    )
    if family == 4:
        netlink.route("del", **beside)


def _everything_local(netlink: IPRoute, family: Family, **more: Any) -> None:
    if family == 4:
        more["scope"] = "host"
    netlink.route(
        "add",
        family=FAMILIES[family],
        type="local",
        table=RT_TABLE_LOCAL,
        dst="0.0.0.0/0" if family == 4 else "::/0",
        oif=LOOPBACK_INDEX,
        **more,
    )


def _marked_door(netlink: IPRoute, family: Family, uplink: str) -> None:
    """Marked packets to the uplink's table, what comes in by it to what the cell is joined to. Twice is once."""
    kind = FAMILIES[family]
    for rule in (
        {"priority": 10, "fwmark": _MARK, "fwmask": _MASK, "table": UPLINK_TABLE},
        {"priority": 15, "iifname": uplink, "table": RT_TABLE_MAIN},
    ):
        try:
            netlink.rule("add", family=kind, **rule)
        except NetlinkError as error:
            if error.code != errno.EEXIST:
                raise


def _only_door(netlink: IPRoute, family: Family) -> None:
    """What the cell itself sends by what it is joined to; everything else is local."""
    kind = FAMILIES[family]
    netlink.rule("add", family=kind, priority=20, iifname="lo", table=RT_TABLE_MAIN)
    netlink.rule("add", family=kind, priority=30, table=RT_TABLE_LOCAL)
    netlink.rule("del", family=kind, priority=0, table=RT_TABLE_LOCAL)
    netlink.rule("del", family=kind, priority=32766, table=RT_TABLE_MAIN)
    if family == 4:
        netlink.rule("del", family=kind, priority=32767, table=253)


def _forwarding(link: Link, ways: dict[Family, Way]) -> dict[str, str]:
    made: dict[str, str] = {}
    if 4 in ways:
        made = {f"ipv4/conf/{device}/forwarding": "1" for device in (link.device, link.uplink_device)}
        # Every address is local here, and so would be the source of every answer: a martian.
        made[f"ipv4/conf/{link.uplink_device}/accept_local"] = "1"
    if 6 in ways:
        made["ipv6/conf/all/forwarding"] = "1"
    return made


def _index(netlink: IPRoute, name: str) -> int:
    found = netlink.link_lookup(ifname=name)
    if not found:
        raise OSError(f"there is no device {name}")
    return int(found[0])
