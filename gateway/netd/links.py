"""Links inside a cell: addresses, routes and sysctls. Runs in a process that has already entered the cell's namespace."""

from pathlib import Path
from socket import AF_INET6
from typing import Final

from pyroute2 import IPRoute

from rules.plan import Link

LOOPBACK_INDEX: Final = 1
"""``lo`` is the first device of every network namespace."""
RT_TABLE_LOCAL: Final = 255  # linux/rtnetlink.h
IFA_F_NODAD: Final = 0x02  # linux/if_addr.h
SYSCTL_ROOT: Final = Path("/proc/sys/net")

LO_SYSCTLS: Final = {
    # A new namespace inherits the host's IPv4 settings: state every one that the wall relies on.
    "ipv4/ip_forward": "0",
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/lo/rp_filter": "0",
    "ipv4/conf/all/accept_source_route": "0",
    "ipv4/conf/all/accept_redirects": "0",
    "ipv4/conf/all/send_redirects": "0",
    "ipv4/conf/all/route_localnet": "0",
    # The listener's port is safe only while a workload without capabilities cannot bind it.
    "ipv4/ip_unprivileged_port_start": "1024",
    "ipv4/ip_nonlocal_bind": "0",
    # The default limits answer 7 of 40 refusals: the rest would hang instead of failing.
    "ipv4/icmp_ratelimit": "0",
    "ipv4/fwmark_reflect": "0",
    "ipv4/tcp_fwmark_accept": "0",
}
IPV6_SYSCTLS: Final = {
    "ipv6/conf/all/disable_ipv6": "0",
    "ipv6/conf/lo/disable_ipv6": "0",
    "ipv6/conf/all/forwarding": "0",
    "ipv6/conf/all/accept_ra": "0",
    "ipv6/conf/all/accept_redirects": "0",
    "ipv6/conf/all/accept_source_route": "-1",
    "ipv6/conf/lo/accept_dad": "0",
    "ipv6/icmp/ratelimit": "0",
    "ipv6/fwmark_reflect": "0",
    "ipv6/ip_nonlocal_bind": "0",
}
NO_IPV6_SYSCTLS: Final = {"ipv6/conf/all/disable_ipv6": "1", "ipv6/conf/default/disable_ipv6": "1"}


def raise_lo(link: Link, *, ipv6: bool) -> None:
    """Bring ``lo`` up so that every address is local to the cell: the workload's packets go nowhere but to the gateway's sockets.

    The route names ``src`` because the kernel would otherwise take the destination as the source, and such connections hang.
    Without ``ipv6`` there is none: what is not guarded must not exist. OSError, or pyroute2's NetlinkError, where the kernel refuses.
    """
    _set(LO_SYSCTLS)
    if (SYSCTL_ROOT / "ipv6").is_dir():
        _set(IPV6_SYSCTLS if ipv6 else NO_IPV6_SYSCTLS)
    with IPRoute() as netlink:
        netlink.link("set", index=LOOPBACK_INDEX, state="up")
        netlink.addr("add", index=LOOPBACK_INDEX, address=link.address, prefixlen=32)
        netlink.route(
            "add",
            type="local",
            table=RT_TABLE_LOCAL,
            scope="host",
            dst="0.0.0.0/0",
            oif=LOOPBACK_INDEX,
            prefsrc=link.address,
        )
        if ipv6:
            netlink.addr("add", index=LOOPBACK_INDEX, address=link.address6, prefixlen=128, flags=IFA_F_NODAD)
            netlink.route(
                "add",
                family=AF_INET6,
                type="local",
                table=RT_TABLE_LOCAL,
                dst="::/0",
                oif=LOOPBACK_INDEX,
                prefsrc=link.address6,
            )


def _set(values: dict[str, str]) -> None:
    for name, value in values.items():
        (SYSCTL_ROOT / name).write_text(value)
