"""The kernel plan of one cell, as a value: what ``egress rules show`` prints and what a ``Firewall`` installs.

Pure. What the rules are, and why, is in ``rules.lo`` and ``rules.veth``; here is what a plan consists of, and what the privileged process takes for
one.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from rules import lo, veth
from rules.link import IFACE, LINKS, LO, VETH, Family, Link, LinkKind
from rules.policy import NetworkPolicy
from rules.ranges import FLOOR, is_inside
from rules.rule import INSTALL_ORDER, AddressSet, Chain, Rule
from rules.terms import Terms, read_terms, sets_of, terms_of
from rules.words import FORWARD_MARK, PROXY_MARK

__all__ = [
    "FORWARD_MARK",
    "IFACE",
    "INSTALL_ORDER",
    "LINKS",
    "LO",
    "PROXY_MARK",
    "VETH",
    "AddressSet",
    "Chain",
    "Family",
    "Link",
    "LinkKind",
    "Plan",
    "Rule",
    "build_plan",
    "faults",
    "terms_in",
]


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that iptables and ipset hold for one cell in one family."""

    link: Link
    family: Family
    chains: tuple[Chain, ...]
    resolver: str | None
    """The address whose port 53 the gateway answers for the sandbox; None where the policy gives it no DNS."""
    sets: tuple[AddressSet, ...] = ()
    """What the rules' ``match_set`` names: made before the rules."""
    uplink: bool = False
    """Whether packets of this family leave the cell by ``link.uplink_device``."""

    def __str__(self) -> str:
        """The sets, then the tables: the first for ipset-restore(8), the second for iptables-restore(8)."""
        return self.sets_text() + self.tables_text()

    def sets_text(self) -> str:
        """ipset-save(8) text; empty where there is none."""
        return "".join(map(str, self.sets))

    def tables_text(self) -> str:
        """iptables-save(8) text, in the order in which tables are to be loaded."""
        lines: list[str] = []
        for table in INSTALL_ORDER:
            chains = [chain for chain in self.chains if chain.table == table]
            if not chains:
                continue
            lines.append(f"*{table}")
            lines += [f":{chain.name} {chain.policy} [0:0]" for chain in chains]
            lines += [f"-A {chain.name} {rule}" for chain in chains for rule in chain.rules]
            lines.append("COMMIT")
        return "\n".join(lines) + "\n"


def build_plan(
    policy: NetworkPolicy | None,
    link: Link | LinkKind = "lo",
    family: Family = 4,
    *,
    uplink: bool = False,
) -> Plan:
    """The plan that enforces ``policy`` on ``link`` in one family; ``None`` is full egress, which is still proxied and recorded.

    On ``lo`` the kernel redirects every TCP connection and refuses everything else, whatever the policy: there is no way out of the namespace
    but through the listener, so addresses are decided there, by the same code that reads names. On the others it settles what needs no name.
    ``uplink``: it stands already, and stays whether or not this policy needs it.
    """
    joined = link if isinstance(link, Link) else LINKS.get(link)
    if joined is None:
        raise ValueError(f"link {link!r}: the links are {', '.join(LINKS)}")
    return _assemble(joined, read_terms(policy, family), family, uplink=uplink)


def _assemble(link: Link, terms: Terms, family: Family, *, uplink: bool) -> Plan:
    if link.kind == "lo":
        return Plan(link, family, lo.chains(link, terms.resolver, family), terms.resolver)
    uplink = uplink or veth.needs_uplink(terms)
    sets = sets_of(terms, family, uplink=uplink)
    return Plan(link, family, veth.chains(link, terms, family, uplink=uplink), terms.resolver, sets, uplink)


def faults(plan: Plan) -> list[str]:
    """Why the privileged process must not install ``plan``; empty where it may. Total: any value of the type is judged.

    The asker is not trusted to have used ``build_plan``. What is no plan of a known link for some policy is refused: there is no list of dangerous
    rules to be kept complete. The one thing that is the asker's to choose is what the sets hold.
    """
    if plan.link not in LINKS.values():
        return ["its link is not one that is known"]
    if plan.resolver is not None and not _is_resolver(plan.resolver, plan.family):
        return [
            f"resolver {plan.resolver!r} is no IPv{plan.family} address in its usual spelling, or lies in the floor"
        ]
    if len({str(chain) for chain in plan.chains}) != len(plan.chains):
        return ["a chain is named twice"]
    try:
        ours = _assemble(plan.link, terms_in(plan), plan.family, uplink=plan.uplink)
    except (ValueError, TypeError) as error:
        return [f"its sets cannot be read: {str(error)[:120]!r}"]
    found = [f"{chain} is not as this link has it" for chain in plan.chains if chain not in ours.chains]
    held = {str(chain) for chain in plan.chains}
    found += [f"{chain} is missing" for chain in ours.chains if str(chain) not in held]
    if found or ours == plan:
        return found
    if ours.chains != plan.chains:
        return ["its chains are in another order"]
    return ["its sets are not as a policy makes them"]


def terms_in(plan: Plan) -> Terms:
    """What ``plan`` was made from. ValueError where its sets cannot be read."""
    mangle = next((chain.rules for chain in plan.chains if str(chain) == "mangle PREROUTING"), ())
    refuse_quic = veth.quic_rules(plan.link)[0] in mangle
    return terms_of(plan.sets, plan.family, plan.resolver, refuse_quic=refuse_quic)


def _is_resolver(text: str, family: Family) -> bool:
    try:
        address = IPv4Address(text) if family == 4 else IPv6Address(text)
    except ValueError:
        return False
    # A zone is any text at all.
    return str(address) == text and "%" not in text and not is_inside(address, FLOOR)
