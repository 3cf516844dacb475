"""Which backend can work here: asked of the kernel, table by table, in the namespace that the rules are for."""

import ctypes
import os
import socket
from collections.abc import Iterable
from typing import Final

from rules.backend import Backend, Firewall, FirewallError
from rules.plan import Family, Plan
from rules.restore import Restore, missing_program
from rules.rule import Table

SO_GET_INFO: Final = 64  # IPT_SO_GET_INFO and IP6T_SO_GET_INFO, linux/netfilter_ipv4/ip_tables.h
GETINFO_BYTES: Final = 84  # struct ipt_getinfo; its first 32 are the table's name
LEVELS: Final[dict[Family, tuple[int, int]]] = {
    4: (socket.AF_INET, socket.SOL_IP),
    6: (socket.AF_INET6, socket.IPPROTO_IPV6),
}


def choose(plans: Iterable[Plan], forced: Backend | None = None) -> Firewall:
    """The backend for ``plans`` in the network namespace of the calling process, which is to be theirs: asking for a table may make it, empty.

    Legacy tables where the kernel has them, for they are what the wall was measured on; else nf_tables. ``forced`` is not asked about.
    FirewallError where neither can be.
    """
    if forced == "nft":
        return Restore()
    obstacle = None if forced else _no_legacy(plans)
    if obstacle is None:
        from rules.iptables import Iptables

        return Iptables()
    if (program := missing_program()) is not None:
        raise FirewallError(f"{obstacle}, and {program} is not installed: apt-get install iptables")
    return Restore()


def _no_legacy(plans: Iterable[Plan]) -> str | None:
    """Why legacy tables cannot hold ``plans``."""
    needed = {(plan.family, chain.table) for plan in plans for chain in plan.chains}
    for family, table in sorted(needed):
        if (error := _table_error(family, table)) is not None:
            return f"this kernel has no legacy IPv{family} table {table} ({error})"
    return None


def _table_error(family: Family, table: Table) -> str | None:
    """What the kernel answers instead of a legacy table, as iptables-legacy asks for it."""
    libc = ctypes.CDLL(None, use_errno=True)
    domain, level = LEVELS[family]
    info = ctypes.create_string_buffer(table.encode(), GETINFO_BYTES)
    length = ctypes.c_uint32(GETINFO_BYTES)
    with socket.socket(domain, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW) as sock:
        failed = libc.getsockopt(sock.fileno(), level, SO_GET_INFO, info, ctypes.byref(length))
    return os.strerror(ctypes.get_errno()) if failed else None
