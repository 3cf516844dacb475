"""What every firewall backend does. There is one behind it today (``rules.iptables``); the words are those that a second needs too."""

from typing import Protocol

from rules.plan import Plan


class Firewall(Protocol):
    """Installs plans in the network namespace of the calling process."""

    def install(self, plan: Plan) -> None:
        """Replace each table that ``plan`` names, whole and in one step a table. OSError or FirewallError where the kernel refuses."""


class FirewallError(Exception):
    """The kernel, or the library in front of it, would not take a rule. The message says which."""
