"""What the kernel is told, as values, and their text: iptables rules and chains in the words of iptables-save(8), sets in those of ipset(8).

Pure. A backend gives these to the kernel; nothing here says what they are for.
"""

from dataclasses import dataclass, replace
from typing import Final, Literal

from rules.link import Family
from rules.words import REFUSED_GROUP

SetKind = Literal["hash:net", "hash:net,port"]
Table = Literal["raw", "mangle", "nat", "filter"]

INSTALL_ORDER: Final[tuple[Table, ...]] = ("filter", "raw", "nat", "mangle")
"""What drops stands before anything redirects or forwards."""
MAX_SET_ENTRIES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class AddressSet:
    """An ipset: networks of one family, or networks with protocol and port."""

    name: str
    family: Family
    kind: SetKind
    entries: tuple[str, ...] = ()
    """``203.0.113.0/24``, a host without a length; ``203.0.113.0/24,tcp:443``. ipset knows no ``/0``: everything is two halves."""

    @property
    def directions(self) -> str:
        """What ``-m set`` compares: the destination's address, and its port where entries have one."""
        return "dst" if self.kind == "hash:net" else "dst,dst"

    @property
    def create(self) -> str:
        """The line that makes it."""
        inet = "inet" if self.family == 4 else "inet6"
        return f"create {self.name} {self.kind} family {inet} hashsize 1024 maxelem {MAX_SET_ENTRIES}"

    def __str__(self) -> str:
        """ipset-restore text."""
        return "\n".join([self.create, *(f"add {self.name} {entry}" for entry in self.entries)]) + "\n"


@dataclass(frozen=True, slots=True)
class Rule:
    """One iptables rule. None means "any"; ``target`` is a name of iptables-extensions(8)."""

    target: Literal["ACCEPT", "DROP", "RETURN", "REJECT", "TPROXY", "MARK", "MASQUERADE", "NFLOG"]
    in_interface: str | None = None
    out_interface: str | None = None
    source: str | None = None
    not_source: str | None = None
    destination: str | None = None
    """An address or a network; the mask may be spelt as an address, and then need not be a prefix."""
    protocol: Literal["tcp", "udp", "icmpv6"] | None = None
    dport: int | None = None
    icmpv6_type: int | None = None
    routing_header: Literal[True] | None = None
    """Only IPv6 with one (RFC 8200 section 4.4)."""
    ttl: int | None = None
    """IPv4's hop limit."""
    hop_limit: int | None = None
    limit_per_s: int | None = None
    """So many a second, and as many at once."""
    match_set: str | None = None
    """An ipset's name, and what is compared with it: ``allow4 dst``."""
    mark: str | None = None
    ctstate: str | None = None
    not_ctstatus: str | None = None
    """With ``ctstate`` only."""
    flows_above: int | None = None
    """Only where that rule has met more flows that live, whoever's they are."""
    socket: Literal["transparent"] | None = None
    """Only where a socket of that kind is at it already."""
    rpfilter: Literal["invert"] | None = None
    """Only what the reverse path filter would drop."""
    reject_with: str | None = None
    on_ip: str | None = None
    on_port: int | None = None
    tproxy_mark: str | None = None
    set_xmark: str | None = None
    nflog_group: int | None = None

    def __str__(self) -> str:
        words = [
            (self.in_interface, "-i {}"),
            (self.out_interface, "-o {}"),
            (self.source, "-s {}"),
            (self.not_source, "! -s {}"),
            (self.destination, "-d {}"),
            (self.protocol, "-p {}"),
            (self.dport, "-m {0.protocol} --dport {0.dport}"),
            (self.icmpv6_type, "-m icmp6 --icmpv6-type {}"),
            (self.routing_header, "-m rt"),
            (self.ttl, "-m ttl --ttl-eq {}"),
            (self.hop_limit, "-m hl --hl-eq {}"),
            (self.limit_per_s, "-m limit --limit {0.limit_per_s}/sec --limit-burst {0.limit_per_s}"),
            (self.match_set, "-m set --match-set {}"),
            (self.mark, "-m mark --mark {}"),
            (self.ctstate, "-m conntrack --ctstate {}"),
            (self.not_ctstatus, "! --ctstatus {}"),
            (self.flows_above, "-m connlimit --connlimit-above {} --connlimit-mask 0 --connlimit-saddr"),
            (self.socket, "-m socket --{}"),
            (self.rpfilter, "-m rpfilter --{}"),
            (self.target, "-j {}"),
            (self.reject_with, "--reject-with {}"),
            (self.on_port, "--on-port {}"),
            (self.on_ip, "--on-ip {}"),
            (self.tproxy_mark, "--tproxy-mark {}"),
            (self.set_xmark, "--set-xmark {}"),
            (self.nflog_group, "--nflog-group {}"),
        ]
        return " ".join(
            text.format(self if "{0." in text else value) for value, text in words if value is not None
        )


def recorded(rule: Rule, group: int = REFUSED_GROUP) -> Rule:
    """What stands before ``rule``, so that each packet it takes is told of."""
    return replace(rule, target="NFLOG", reject_with=None, nflog_group=group)


@dataclass(frozen=True, slots=True)
class Chain:
    """A built-in chain, whole: installing a plan replaces what the chain held."""

    table: Table
    name: str
    rules: tuple[Rule, ...]
    policy: Literal["ACCEPT", "DROP"] = "ACCEPT"

    def __str__(self) -> str:
        return f"{self.table} {self.name}"
