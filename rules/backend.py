"""What every firewall backend does: ``rules.iptables`` for legacy tables, ``rules.restore`` for nf_tables; ``rules.choose`` picks one."""

from typing import Literal, Protocol

from rules.plan import Plan

Backend = Literal["legacy", "nft"]


class Firewall(Protocol):
    """Installs plans in the network namespace of the calling process."""

    def install(self, plan: Plan) -> None:
        """Replace each set and each table that ``plan`` names, whole and in one step each, what drops before what redirects or forwards. Twice is
        once. OSError or FirewallError where the kernel refuses."""


class FirewallError(Exception):
    """The kernel, or what stands in front of it, would not take a rule. The message says which."""
