"""The kernel plan of one cell, as a value: what ``egress rules show`` prints and what a ``Firewall`` installs.

Pure. A packet of the sandbox meets ``mangle PREROUTING`` first. There it is either redirected (TPROXY, which marks it)
or left alone; what was left alone lands in ``filter INPUT``, whose last rules refuse it at once, from the address that
was dialled. So "refuse" needs no rule of its own: it is what happens to everything that nothing else took.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Literal, NamedTuple

from rules.policy import NetworkPolicy
from rules.ranges import FLOOR, is_inside

LinkKind = Literal["lo"]

PROXY_MARK: Final = "0x4/0xf"
"""Set by TPROXY on every packet that it gives to the listener; a workload cannot set marks (CAP_NET_ADMIN)."""


@dataclass(frozen=True, slots=True)
class Link:
    """What a sandbox is joined by, and the addresses that belong to the link itself."""

    kind: LinkKind = "lo"
    device: str = "lo"
    address: str = "192.0.0.2"
    """The sandbox's own address: of RFC 7335's continuity prefix, which no host on any network has, and not in the floor."""
    listen_ip: str = "127.86.0.1"
    """Where TPROXY hands connections over: a loopback address that no workload uses by habit."""
    address6: str = "fd65:6772:6573:73::2"
    """A unique local address (RFC 4193), so that by RFC 6724 clients prefer IPv4 where a name has both."""
    listen_ip6: str = "100::56"
    """Of the discard-only prefix (RFC 6666)."""
    listen_port: int = 1
    """Below ip_unprivileged_port_start, so that a workload without capabilities can neither hold nor share it."""


LO: Final = Link()

Family = Literal[4, 6]


class _Family(NamedTuple):
    """What one address family calls the same things."""

    address: str
    listen_ip: str
    loopback: str
    reject_with: str


def _spell(link: Link, family: Family) -> _Family:
    if family == 4:
        return _Family(link.address, link.listen_ip, "127.0.0.0/8", "icmp-admin-prohibited")
    return _Family(link.address6, link.listen_ip6, "::1/128", "icmp6-adm-prohibited")


@dataclass(frozen=True, slots=True)
class Rule:
    """One iptables rule. None means "any"; ``target`` is a name of iptables-extensions(8)."""

    target: Literal["ACCEPT", "DROP", "RETURN", "REJECT", "TPROXY"]
    in_interface: str | None = None
    out_interface: str | None = None
    destination: str | None = None
    protocol: Literal["tcp", "udp"] | None = None
    dport: int | None = None
    mark: str | None = None
    reject_with: str | None = None
    on_ip: str | None = None
    on_port: int | None = None
    tproxy_mark: str | None = None

    def __str__(self) -> str:
        words = [
            (self.in_interface, "-i {}"),
            (self.out_interface, "-o {}"),
            (self.destination, "-d {}"),
            (self.protocol, "-p {}"),
            (self.dport, "-m {0.protocol} --dport {0.dport}"),
            (self.mark, "-m mark --mark {}"),
            (self.target, "-j {}"),
            (self.reject_with, "--reject-with {}"),
            (self.on_port, "--on-port {}"),
            (self.on_ip, "--on-ip {}"),
            (self.tproxy_mark, "--tproxy-mark {}"),
        ]
        return " ".join(
            text.format(self if "{0." in text else value) for value, text in words if value is not None
        )


@dataclass(frozen=True, slots=True)
class Chain:
    """A built-in chain, whole: installing a plan replaces what the chain held."""

    table: Literal["mangle", "filter"]
    name: str
    rules: tuple[Rule, ...]
    policy: Literal["ACCEPT", "DROP"] = "ACCEPT"


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that iptables holds for one cell in one family."""

    link: Link
    family: Family
    chains: tuple[Chain, ...]
    resolver: str | None
    """The address whose port 53 the gateway answers for the sandbox; None where the policy gives it no DNS."""

    def __str__(self) -> str:
        """iptables-save(8) text."""
        lines: list[str] = []
        for table in dict.fromkeys(chain.table for chain in self.chains):
            chains = [chain for chain in self.chains if chain.table == table]
            lines.append(f"*{table}")
            lines += [f":{chain.name} {chain.policy} [0:0]" for chain in chains]
            lines += [f"-A {chain.name} {rule}" for chain in chains for rule in chain.rules]
            lines.append("COMMIT")
        return "\n".join(lines) + "\n"


def build_plan(policy: NetworkPolicy | None, link: Link | LinkKind = "lo", family: Family = 4) -> Plan:
    """The plan that enforces ``policy`` on ``link`` in one family; ``None`` is full egress, which is still proxied and recorded.

    On ``lo`` the kernel redirects every TCP connection and refuses everything else, whatever the policy: there is no way out of the namespace
    but through the listener, so addresses are decided there, by the same code that reads names.
    """
    joined = LO if link == "lo" else link
    if not isinstance(joined, Link):
        raise ValueError(f"link {link!r}: the only link yet is 'lo'")
    return _assemble(joined, _resolver(policy, family), family)


def _assemble(link: Link, resolver: str | None, family: Family) -> Plan:
    words = _spell(link, family)
    mangle = Chain("mangle", "PREROUTING", tuple(_redirect(link, words, resolver)))
    accept = Chain("filter", "INPUT", tuple(_admit(link, words, resolver)), "DROP")
    forward = Chain("filter", "FORWARD", (), "DROP")
    output = Chain("filter", "OUTPUT", (Rule("ACCEPT", out_interface=link.device),), "DROP")
    return Plan(link, family, (mangle, accept, forward, output), resolver)


def _resolver(policy: NetworkPolicy | None, family: Family) -> str | None:
    """The resolver's address, if it is one of this family and DNS to it needs no entry (P9: a name entry asks for it, full egress includes it)."""
    wanted = NetworkPolicy() if policy is None else policy
    return wanted.resolver if wanted.allows_dns() and wanted.resolver_ip.version == family else None


def _redirect(link: Link, words: _Family, resolver: str | None) -> Iterator[Rule]:
    lo = link.device
    # A direct dial of the listener would arrive with the listener's own address as the "original" destination.
    yield Rule("DROP", lo, destination=words.listen_ip, protocol="tcp", dport=link.listen_port)
    yield Rule("RETURN", lo, destination=words.loopback)
    yield Rule("RETURN", lo, destination=words.address)
    if resolver is not None:
        yield Rule("RETURN", lo, destination=resolver, protocol="tcp", dport=53)
    yield Rule(
        "TPROXY",
        lo,
        protocol="tcp",
        on_ip=words.listen_ip,
        on_port=link.listen_port,
        tproxy_mark=PROXY_MARK,
    )


def _admit(link: Link, words: _Family, resolver: str | None) -> Iterator[Rule]:
    lo = link.device
    yield Rule("ACCEPT", lo, destination=words.loopback)
    yield Rule("ACCEPT", lo, destination=words.address)
    yield Rule("ACCEPT", lo, protocol="tcp", mark=PROXY_MARK)
    if resolver is not None:
        yield Rule("ACCEPT", lo, destination=resolver, protocol="udp", dport=53)
        yield Rule("ACCEPT", lo, destination=resolver, protocol="tcp", dport=53)
    yield Rule("REJECT", lo, protocol="tcp", reject_with="tcp-reset")
    yield Rule("REJECT", lo, reject_with=words.reject_with)


def faults(plan: Plan) -> list[str]:
    """Why the privileged process must not install ``plan``; empty where it may. Total: any value of the type is judged.

    The asker is not trusted to have used ``build_plan``. What is no plan of a known link for some resolver is refused: there is no list of
    dangerous rules to be kept complete.
    """
    if plan.link != LO:
        return ["its link is not one that is known"]
    if plan.resolver is not None and not _is_resolver(plan.resolver, plan.family):
        return [
            f"resolver {plan.resolver!r} is no IPv{plan.family} address in its usual spelling, or lies in the floor"
        ]
    if len({(chain.table, chain.name) for chain in plan.chains}) != len(plan.chains):
        return ["a chain is named twice"]
    ours, theirs = _assemble(plan.link, plan.resolver, plan.family).chains, plan.chains
    found = [f"{_where(chain)} is not as this link has it" for chain in theirs if chain not in ours]
    held = [_where(chain) for chain in theirs]
    found += [f"{_where(chain)} is missing" for chain in ours if _where(chain) not in held]
    return found or ([] if ours == theirs else ["its chains are in another order"])


def _is_resolver(text: str, family: Family) -> bool:
    try:
        address = IPv4Address(text) if family == 4 else IPv6Address(text)
    except ValueError:
        return False
    return str(address) == text and not is_inside(address, FLOOR)


def _where(chain: Chain) -> str:
    return f"{chain.table} {chain.name}"
