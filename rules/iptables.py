"""The legacy xtables backend, by python-iptables: the only module that imports ``iptc``.

What the library cannot do is measured, not guessed: it caches tables by process, so it must first be touched after the process has entered
its namespace; threads crash it; one process serves one family; a table is written by one ``commit`` and re-read by ``refresh``. Hence: call
``install`` once, in a process forked for it.
"""

import importlib
import os
import sys
from glob import glob
from typing import TYPE_CHECKING, Any

from rules.backend import FirewallError
from rules.plan import Chain, Plan, Rule


def _import_iptc() -> Any:
    """The library, without two detours of its import that cost more than the rest: distutils (setuptools' by now, for one path that sysconfig knows
    too), and ``ldconfig -N -v`` over all libraries of the machine, to find its extensions."""
    missing = object()
    before = sys.modules.get("distutils", missing)
    sys.modules["distutils"] = None  # type: ignore[assignment]  # "not found"
    if places := glob("/usr/lib/*/xtables") + glob("/usr/lib*/xtables"):
        os.environ.setdefault("XTABLES_LIBDIR", places[0])
    try:
        return importlib.import_module("iptc")
    finally:
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
        """Drop first and redirect last: filter's policies stand before mangle sends anything to the listener."""
        table = iptc.Table if plan.family == 4 else iptc.Table6
        for name in ("filter", "mangle"):
            chains = [chain for chain in plan.chains if chain.table == name]
            try:
                self._replace(table(name), chains)
            except (iptc.IPTCError, ValueError) as error:
                raise FirewallError(f"iptables would not take table {name}: {error}") from error

    @staticmethod
    def _replace(table: "iptc.Table", chains: list[Chain]) -> None:
        """One commit, so that the kernel swaps the table whole."""
        table.autocommit = False
        for chain in chains:
            kernel = iptc.Chain(table, chain.name)
            kernel.flush()
            for rule in chain.rules:
                kernel.append_rule(
                    _to_iptc(rule, iptc.Rule6() if isinstance(table, iptc.Table6) else iptc.Rule())
                )
            kernel.set_policy(chain.policy)
        table.commit()
        table.refresh()


def _to_iptc(rule: Rule, out: "iptc.Rule") -> "iptc.Rule":
    """Fill ``out``, which is of the table's family."""
    if rule.in_interface is not None:
        out.in_interface = rule.in_interface
    if rule.out_interface is not None:
        out.out_interface = rule.out_interface
    if rule.destination is not None:
        out.dst = rule.destination
    if rule.protocol is not None:
        out.protocol = rule.protocol
    if rule.dport is not None:
        out.create_match(rule.protocol).dport = str(rule.dport)
    if rule.mark is not None:
        out.create_match("mark").mark = rule.mark
    target = out.create_target(rule.target)
    if rule.reject_with is not None:
        target.reject_with = rule.reject_with
    if rule.on_ip is not None:
        target.on_ip, target.on_port = rule.on_ip, str(rule.on_port)
        target.tproxy_mark = rule.tproxy_mark
    return out
