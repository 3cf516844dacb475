"""What netfilter would do with a packet of the sandbox under a plan: rules read one after the other, sets looked into, the mark obeyed by routing."""

from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from rules.plan import Plan
from rules.rule import Rule

IPAddress = IPv4Address | IPv6Address


class Fate(StrEnum):
    """Where a packet ends."""

    DROPPED = "dropped"
    REFUSED = "refused"
    PROXY = "proxy"
    DNS = "dns"
    NEIGHBOUR = "neighbour discovery"
    FORWARDED = "forwarded"


@dataclass(slots=True)
class Packet:
    """The first packet of a flow, as it comes from the sandbox."""

    destination: IPAddress
    protocol: str = "tcp"
    port: int = 0
    source: IPAddress | None = None
    """None is the sandbox's own."""
    icmpv6_type: int | None = None
    hop_limit: int = 64
    routing_header: bool = False
    mark: int = 0
    carried: bool = False
    """A later packet instead, of a connection that the proxy has."""
    crowded: bool = False
    """The first of a flow beside which there are as many as may be."""


class Kernel:
    """A namespace in which a plan was installed."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._own = ip_address(plan.link.address if plan.family == 4 else plan.link.address6)
        self._chains = {str(chain): chain.rules for chain in plan.chains}
        self._sets = {one.name: one for one in plan.sets}
        self._speaking: dict[tuple[str, IPAddress], list[Rule]] = {}

    def walk(self, packet: Packet) -> Fate:
        """The fate of ``packet``."""
        for table in ("raw", "mangle"):
            last = self._through(f"{table} PREROUTING", packet)
            if last is not None and last.target == "DROP":
                return Fate.DROPPED
        if packet.mark & 0xF == 0x1:
            assert self.plan.uplink, "a mark, and no routes behind it"
            out = self._through("filter FORWARD", packet, self.plan.link.uplink_device)
            return Fate.FORWARDED if out is not None and out.target == "ACCEPT" else Fate.DROPPED
        last = self._through("filter INPUT", packet)
        if last is None:
            return Fate.DROPPED
        if last.target == "REJECT":
            assert (last.reject_with == "tcp-reset") == (packet.protocol == "tcp")
            return Fate.REFUSED
        if last.icmpv6_type is not None:
            return Fate.NEIGHBOUR
        return Fate.PROXY if last.mark is not None else Fate.DNS

    def _through(self, where: str, packet: Packet, out: str | None = None) -> Rule | None:
        """The rule that ends the chain for ``packet``."""
        for rule in self._speaking_of(where, packet.destination):
            if not self._matches(rule, packet, out):
                continue
            if rule.target == "NFLOG":
                continue
            if rule.target == "MARK":
                packet.mark = _marked(packet.mark, rule.set_xmark)
                continue
            if rule.target == "TPROXY":
                packet.mark = _marked(packet.mark, rule.tproxy_mark)
            return rule
        return None

    def _speaking_of(self, where: str, ip: IPAddress) -> list[Rule]:
        if (found := self._speaking.get((where, ip))) is None:
            rules = self._chains[where]
            found = [rule for rule in rules if rule.destination is None or in_network(ip, rule.destination)]
            self._speaking[where, ip] = found
        return found

    def _matches(self, rule: Rule, packet: Packet, out: str | None) -> bool:
        """Whether ``rule``, which speaks of the destination, matches."""
        source = packet.source or self._own
        return (
            rule.protocol in (None, packet.protocol)
            and rule.dport in (None, packet.port)
            and rule.in_interface in (None, self.plan.link.device)
            and rule.out_interface in (None, out)
            and rule.icmpv6_type in (None, packet.icmpv6_type)
            and rule.hop_limit in (None, packet.hop_limit)
            and rule.ttl in (None, packet.hop_limit)
            and (rule.routing_header is None or packet.routing_header)
            and (rule.source is None or in_network(source, rule.source))
            and (rule.not_source is None or not in_network(source, rule.not_source))
            and (rule.mark is None or packet.mark & _mark(rule.mark)[1] == _mark(rule.mark)[0])
            and (rule.match_set is None or self._in_set(packet, *rule.match_set.split()))
            and (rule.ctstate is None or "NEW" in rule.ctstate)
            and (rule.socket is None or packet.carried)
            and (rule.flows_above is None or packet.crowded)
            and (rule.rpfilter is None or source != self._own)
        )

    def _in_set(self, packet: Packet, name: str, directions: str) -> bool:
        """As ``-m set`` means it."""
        found = self._sets[name]
        assert directions == found.directions, f"{name} is not asked as its kind is"
        for entry in found.entries:
            network, _, ported = entry.partition(",")
            if ported in ("", f"{packet.protocol}:{packet.port}") and in_network(packet.destination, network):
                return True
        return False


def in_network(ip: IPAddress, text: str) -> bool:
    """As ``-d`` and ``-s`` mean it: the mask may be any."""
    value, mask = _bits(text)
    return int(ip) & mask == value


@cache
def _bits(text: str) -> tuple[int, int]:
    value, _, length = text.partition("/")
    if not length or length.isdigit():
        network = ip_network(text)
        return int(network.network_address), int(network.netmask)
    mask = int(ip_address(length))
    return int(ip_address(value)) & mask, mask


def _marked(mark: int, change: str | None) -> int:
    value, mask = _mark(change)
    return mark & ~mask | value


@cache
def _mark(text: str | None) -> tuple[int, int]:
    assert text is not None
    value, mask = text.split("/")
    return int(value, 16), int(mask, 16)
