"""The legacy xtables backend, by python-iptables: the only module that imports ``iptc``.

What the library cannot do is measured, not guessed: it caches tables by process, so it must first be touched after the process has entered
its namespace; threads crash it; one process serves one family; a table is written by one ``commit`` and re-read by ``refresh``. Hence: call
``install`` once, in a process forked for it.
"""

import ctypes.util
import importlib
import os
import sys
from glob import glob
from typing import TYPE_CHECKING, Any, Final

from rules.backend import FirewallError
from rules.plan import Plan
from rules.rule import INSTALL_ORDER, Chain, Rule
from rules.sets import install_sets

OWN: Final = "xtwrapper"
"""In the name of the library that python-iptables brings itself."""


def _import_iptc() -> Any:
    """The library, without three detours of its import that cost more than the rest: distutils (setuptools' by now, for one path that sysconfig knows
    too), ``ldconfig -N -v`` over all libraries of the machine, to find its extensions, and a compiler, to find a library that lies beside it."""
    find = ctypes.util.find_library
    ctypes.util.find_library = lambda name: None if OWN in name else find(name)
    missing = object()
    before = sys.modules.get("distutils", missing)
    sys.modules["distutils"] = None  # type: ignore[assignment]  # "not found"
    if places := glob("/usr/lib/*/xtables") + glob("/usr/lib*/xtables"):
        os.environ.setdefault("XTABLES_LIBDIR", places[0])
    try:
        return importlib.import_module("iptc")
    finally:
        ctypes.util.find_library = find
        del sys.modules["distutils"]
        if before is not missing:
            sys.modules["distutils"] = before  # type: ignore[assignment]


if TYPE_CHECKING:
    import iptc  # noqa: TID251 - the one place
else:
    iptc = _import_iptc()


class Iptables:
    """A ``Firewall`` over the tables of the calling process's network namespace."""

    def install(self, plan: Plan) -> None:
        """Sets before the rules that name them; what drops before what redirects or forwards."""
        install_sets(plan.sets)
        kinds = (iptc.Table, iptc.Rule) if plan.family == 4 else (iptc.Table6, iptc.Rule6)
        for name in INSTALL_ORDER:
            chains = [chain for chain in plan.chains if chain.table == name]
            if not chains:
                continue
            try:
                self._replace(kinds[0](name), chains, kinds[1])
            except (iptc.IPTCError, iptc.XTablesError, ValueError) as error:
                raise FirewallError(f"iptables would not take table {name}: {error}") from error

    @staticmethod
    def _replace(table: "iptc.Table", chains: list[Chain], kind: "type[iptc.Rule]") -> None:
        """One commit, so that the kernel swaps the table whole."""
        table.autocommit = False
        for chain in chains:
            kernel = iptc.Chain(table, chain.name)
            kernel.flush()
            for rule in chain.rules:
                kernel.append_rule(_to_iptc(rule, kind()))
            kernel.set_policy(chain.policy)
        table.commit()
        table.refresh()


def _to_iptc(rule: Rule, out: "iptc.Rule") -> "iptc.Rule":
    """Fill ``out``, which is of the table's family."""
    _set_interfaces(rule, out)
    if rule.source is not None:
        out.src = rule.source
    if rule.not_source is not None:
        out.src = f"!{rule.not_source}"
    if rule.destination is not None:
        out.dst = rule.destination
    if rule.protocol is not None:
        out.protocol = rule.protocol
    _add_matches(rule, out)
    target = out.create_target(rule.target)
    if rule.reject_with is not None:
        target.reject_with = rule.reject_with
    if rule.on_ip is not None:
        target.on_ip, target.on_port = rule.on_ip, str(rule.on_port)
        target.tproxy_mark = rule.tproxy_mark
    if rule.set_xmark is not None:
        target.set_xmark = rule.set_xmark
    if rule.nflog_group is not None:  # never with a prefix: the library then corrupts memory
        target.nflog_group = str(rule.nflog_group)
    return out


def _set_interfaces(rule: Rule, out: "iptc.Rule") -> None:
    """For IPv6 the library compares one bit of each letter, and would take up0 for sbx0: the masks are written here."""
    if rule.in_interface is not None:
        out.in_interface = rule.in_interface
    if rule.out_interface is not None:
        out.out_interface = rule.out_interface
    if isinstance(out, iptc.Rule6):
        match = out.entry.ipv6
        match.iniface_mask, match.outiface_mask = (
            b"" if name is None else b"\xff" * (len(name) + 1)
            for name in (rule.in_interface, rule.out_interface)
        )


def _add_matches(rule: Rule, out: "iptc.Rule") -> None:
    if rule.dport is not None:
        out.create_match(rule.protocol).dport = str(rule.dport)
    if rule.icmpv6_type is not None:
        out.create_match("icmp6").icmpv6_type = str(rule.icmpv6_type)
    if rule.routing_header is not None:
        out.create_match("rt")
    if rule.ttl is not None:
        out.create_match("ttl").ttl_eq = str(rule.ttl)
    if rule.hop_limit is not None:
        out.create_match("hl").hl_eq = str(rule.hop_limit)
    if rule.limit_per_s is not None:
        limit = out.create_match("limit")
        limit.limit, limit.limit_burst = f"{rule.limit_per_s}/sec", str(rule.limit_per_s)
    if rule.match_set is not None:
        out.create_match("set").match_set = rule.match_set.split()
    if rule.mark is not None:
        out.create_match("mark").mark = rule.mark
    if rule.ctstate is not None:
        conntrack = out.create_match("conntrack")
        conntrack.ctstate = rule.ctstate
        if rule.not_ctstatus is not None:
            conntrack.ctstatus = f"!{rule.not_ctstatus}"
    if rule.flows_above is not None:
        flows = out.create_match("connlimit")
        flows.connlimit_above, flows.connlimit_mask = str(rule.flows_above), "0"
    if rule.socket is not None:
        setattr(out.create_match("socket"), rule.socket, "")
    if rule.rpfilter is not None:
        out.create_match("rpfilter").invert = ""
