"""Network settings of the calling process's network namespace: stated for a cell, and, in the host's, remembered and given back."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

SYSCTL_ROOT: Final = Path("/proc/sys/net")

CELL: Final = {
    # A new namespace inherits the host's IPv4 settings: state every one that the wall relies on.
    "ipv4/ip_forward": "0",
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/default/rp_filter": "0",
    "ipv4/conf/lo/rp_filter": "0",
    "ipv4/conf/all/accept_source_route": "0",
    "ipv4/conf/all/accept_redirects": "0",
    "ipv4/conf/all/send_redirects": "0",
    "ipv4/conf/default/accept_redirects": "0",
    "ipv4/conf/default/send_redirects": "0",
    "ipv4/conf/all/route_localnet": "0",
    # The listener's port is safe only while a workload without capabilities cannot bind it.
    "ipv4/ip_unprivileged_port_start": "1024",
    "ipv4/ip_nonlocal_bind": "0",
    # The default limits answer 7 of 40 refusals: the rest would hang instead of failing.
    "ipv4/icmp_ratelimit": "0",
    "ipv4/fwmark_reflect": "0",
    "ipv4/tcp_fwmark_accept": "0",
    # What waits in the queue of a listener that is closed goes to the one that stays.
    "ipv4/tcp_migrate_req": "1",
}
CELL_IF_THERE: Final = {
    # Of a namespace since Linux 6.12; before, the host's, and not ours to set.
    "ipv4/icmp_msgs_per_sec": "100000",
    "ipv4/icmp_msgs_burst": "100000",
}
CELL_IPV6: Final = {
    "ipv6/conf/all/disable_ipv6": "0",
    "ipv6/conf/default/disable_ipv6": "0",
    "ipv6/conf/lo/disable_ipv6": "0",
    "ipv6/conf/all/forwarding": "0",
    "ipv6/conf/all/accept_ra": "0",
    "ipv6/conf/default/accept_ra": "0",
    "ipv6/conf/all/accept_redirects": "0",
    "ipv6/conf/default/accept_redirects": "0",
    "ipv6/conf/all/accept_source_route": "-1",
    "ipv6/conf/lo/accept_dad": "0",
    "ipv6/conf/default/accept_dad": "0",
    "ipv6/conf/default/addr_gen_mode": "1",  # addresses are given, none is made up
    "ipv6/icmp/ratelimit": "0",
    "ipv6/fwmark_reflect": "0",
    "ipv6/ip_nonlocal_bind": "0",
}
NO_IPV6: Final = {"ipv6/conf/all/disable_ipv6": "1", "ipv6/conf/default/disable_ipv6": "1"}


def state_cell(*, ipv6: bool) -> None:
    """What every cell relies on, before it has a device but ``lo``. Without ``ipv6`` there is none: what is not guarded must not exist. OSError."""
    write(CELL)
    write(CELL_IF_THERE, if_there=True)
    if (SYSCTL_ROOT / "ipv6").is_dir():
        write(CELL_IPV6 if ipv6 else NO_IPV6)


def write(values: Mapping[str, str], *, if_there: bool = False) -> None:
    """Names below ``SYSCTL_ROOT``. OSError; with ``if_there``, not for a name that this kernel does not have."""
    for name, value in values.items():
        try:
            (SYSCTL_ROOT / name).write_text(value)
        except FileNotFoundError:
            if not if_there:
                raise


def read(patterns: Iterable[str]) -> dict[str, str]:
    """What matches, with what it holds now."""
    return {
        str(path.relative_to(SYSCTL_ROOT)): path.read_text().strip()
        for pattern in patterns
        for path in SYSCTL_ROOT.glob(pattern)
    }
