"""The plan of a cell whose sandbox is joined by a device (``veth``, ``iface``): docs/wall.md has the why of every rule. Pure.

Everything that enters the cell is local, by a route, and a packet leaves only by a mark, into a routing table of its own. ``mangle PREROUTING``
goes through the rows of the decision in their order, and gives each packet one of three ends: TPROXY hands it to the proxy; MARK and ACCEPT send it
on; ACCEPT without a mark leaves it to ``filter INPUT``, where the gateway's DNS takes what is its own and everything else is refused at once. What
would not come as far as that is told of and dropped.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final, NamedTuple

from rules.floor import UNROUTED, floor
from rules.link import Family, Link
from rules.policy import DNS_PORT, QUIC_PORTS
from rules.ranges import SINKHOLE
from rules.rule import Chain, Rule, recorded
from rules.terms import Terms, set_name
from rules.words import ALLOWED_GROUP, FORWARD_MARK, LIMIT_MARK, PROXY_MARK, spell

NEIGHBOUR_DISCOVERY: Final = (135, 136)
"""Solicitation and advertisement (RFC 4861 sections 4.3 and 4.4)."""
LINK_ICMPV6: Final = (130, 131, 132, 133, 134, 135, 136, 137, 143)
"""What a host says to its own link and no router passes on: multicast listeners (RFC 2710, RFC 3810); solicitations and advertisements of routers and
neighbours, redirects (RFC 4861). No attempt to reach anything: it is on no record."""
UNFORWARDED: Final = 255
"""The hop limit of what no router passed on (RFC 4861 section 11.2)."""
NEIGHBOURS_PER_S: Final = 20
MAX_FLOWS: Final = 4096
"""That leave the cell at once, in one family: the ports of the host's address, and the room of its conntrack, are everybody's."""


class _Cell(NamedTuple):
    """What the chains of one family are made from."""

    link: Link
    family: Family
    terms: Terms
    uplink: str | None
    """The device, where there is one."""

    @property
    def from_sandbox(self) -> Rule:
        """What every rule about the sandbox's packets begins with."""
        return Rule("ACCEPT", self.link.device)


def chains(link: Link, terms: Terms, family: Family, *, uplink: bool) -> tuple[Chain, ...]:
    """Everything that iptables holds for it in one family."""
    cell = _Cell(link, family, terms, link.uplink_device if uplink else None)
    made = [
        Chain("filter", "INPUT", tuple(_admit(cell)), "DROP"),
        Chain("filter", "FORWARD", tuple(_forward(cell)), "DROP"),
        Chain("filter", "OUTPUT", tuple(_answer(cell)), "DROP"),
        Chain("raw", "PREROUTING", tuple(_believe(cell))),
        Chain("mangle", "PREROUTING", tuple(_decide(cell))),
    ]
    if cell.uplink is not None:
        made.insert(4, Chain("nat", "POSTROUTING", (Rule("MASQUERADE", out_interface=cell.uplink),)))
    return tuple(made)


def needs_uplink(terms: Terms) -> bool:
    """Whether anything of this family is to be forwarded: what an IP entry allows, or whatever is not TCP under default allow."""
    return bool(terms.allowed) or terms.denied is not None


def quic_rules(link: Link) -> list[Rule]:
    """What refuses names that nobody can read."""
    return [Rule("ACCEPT", link.device, protocol="udp", dport=port) for port in sorted(QUIC_PORTS)]


def _believe(cell: _Cell) -> Iterator[Rule]:
    """raw PREROUTING: only the sandbox's own addresses are believed, before conntrack or a neighbour table has seen anything."""
    rule, link = cell.from_sandbox, cell.link
    if cell.family == 6:
        for kind in NEIGHBOUR_DISCOVERY:
            for source in (link.address6, link.link_local6):
                yield replace(
                    rule,
                    source=source,
                    protocol="icmpv6",
                    icmpv6_type=kind,
                    hop_limit=UNFORWARDED,
                    limit_per_s=NEIGHBOURS_PER_S,
                )
        for kind in LINK_ICMPV6:
            yield replace(rule, target="DROP", protocol="icmpv6", icmpv6_type=kind)
    forged = replace(rule, target="DROP", rpfilter="invert")
    yield recorded(forged)
    yield forged


def _decide(cell: _Cell) -> Iterator[Rule]:
    """mangle PREROUTING: the rows of the decision."""
    rule, terms = cell.from_sandbox, cell.terms
    words = spell(cell.link, cell.family)
    if cell.family == 6:
        # It says where else the packet is to go, and the kernel drops those that arrive, behind INPUT.
        routed = replace(rule, target="DROP", routing_header=True)
        yield recorded(routed)
        yield routed
        for kind in NEIGHBOUR_DISCOVERY:
            yield replace(rule, protocol="icmpv6", icmpv6_type=kind)
    other = replace(rule, target="DROP", not_source=words.address)
    yield recorded(other)
    yield other
    # Row 1. Where the listener listens is as little to be dialled as the cell itself.
    own = [words.gateway, words.address, *([words.listen_ip] if cell.family == 6 else [])]
    for destination in (*floor(cell.family), *own):
        yield from _out_of_reach(replace(rule, destination=destination))
    # Before row 2: an entry that allows the resolver's address must not open a way around the gateway's DNS.
    if terms.resolver is not None:
        yield from _to_resolver(cell, terms.resolver)
    yield from _allow(cell)
    yield from _name(cell)
    if terms.denied is not None:
        yield from _deny(cell)


def _out_of_reach(rule: Rule) -> Iterator[Rule]:
    """What nothing can allow is INPUT's to refuse, where it gets there."""
    if rule.destination not in UNROUTED:
        yield rule
        return
    dropped = replace(rule, target="DROP")
    yield recorded(dropped)
    yield dropped


def _to_resolver(cell: _Cell, resolver: str) -> Iterator[Rule]:
    rule = replace(cell.from_sandbox, destination=resolver, dport=DNS_PORT)
    yield replace(rule, protocol="udp")
    yield replace(rule, protocol="tcp")


def _matching(cell: _Cell, what: str) -> tuple[Rule, Rule]:
    """Rules that match an entry of a pair of sets: one without ports, one with."""
    rule, family = cell.from_sandbox, cell.family
    return (
        replace(rule, match_set=f"{set_name(what, family)} dst"),
        replace(rule, match_set=f"{set_name(what, family, ports=True)} dst,dst"),
    )


def _allow(cell: _Cell) -> Iterator[Rule]:
    """Row 2."""
    if cell.uplink is None:
        return
    # A policy that now allows the address too must not take a connection from the proxy that carries it: the kernel would find its socket, and INPUT
    # not the proxy's mark. By TPROXY, which makes of a SYN that meets what is left of one (TIME_WAIT) the proxy's next.
    yield replace(_redirection(cell), socket="transparent")
    for rule in _matching(cell, "allow"):
        yield replace(rule, target="MARK", set_xmark=FORWARD_MARK)
    yield _expiring(cell)
    yield replace(cell.from_sandbox, mark=FORWARD_MARK)


def _expiring(cell: _Cell) -> Rule:
    """Of what leaves: what goes no further than this hop. Routing answers it before FORWARD can tell of it."""
    leaving = replace(cell.from_sandbox, mark=FORWARD_MARK)
    return recorded(replace(leaving, ttl=1) if cell.family == 4 else replace(leaving, hop_limit=1))


def _name(cell: _Cell) -> Iterator[Rule]:
    """Row 3: TCP at a port where a name could allow it is the proxy's, whatever row 4 says of the address."""
    tproxy = _redirection(cell)
    for rule in _matching(cell, "named"):
        yield replace(tproxy, match_set=rule.match_set)
    if cell.family == 4:  # where guarded DNS sent a name: the client is refused in its own protocol
        yield replace(tproxy, destination=f"{SINKHOLE}/32")


def _deny(cell: _Cell) -> Iterator[Rule]:
    """Rows 4 and 5 under default allow. Where everything is denied there is nothing left to say: what came so far is refused."""
    yield from _matching(cell, "deny")
    if cell.terms.refuse_quic:
        yield from quic_rules(cell.link)
    yield _redirection(cell)
    yield replace(cell.from_sandbox, target="MARK", set_xmark=FORWARD_MARK)
    yield _expiring(cell)


def _redirection(cell: _Cell) -> Rule:
    link = cell.link
    return replace(
        cell.from_sandbox,
        target="TPROXY",
        protocol="tcp",
        on_ip=spell(link, cell.family).listen_ip,
        on_port=link.listen_port,
        tproxy_mark=PROXY_MARK,
    )


def _admit(cell: _Cell) -> Iterator[Rule]:
    """filter INPUT: what was redirected, the gateway's DNS, and a refusal for everything else of the sandbox's."""
    rule = cell.from_sandbox
    yield from _neighbours(cell, rule)
    if cell.uplink is not None:
        yield from _neighbours(cell, Rule("ACCEPT", cell.uplink))
    yield replace(rule, protocol="tcp", mark=PROXY_MARK)
    if cell.terms.resolver is not None:
        yield from _to_resolver(cell, cell.terms.resolver)
    yield recorded(rule)
    yield replace(rule, target="REJECT", protocol="tcp", reject_with="tcp-reset")
    yield replace(rule, target="REJECT", reject_with=spell(cell.link, cell.family).reject_with)


def _forward(cell: _Cell) -> Iterator[Rule]:
    """filter FORWARD: out what is marked, in what answers it."""
    device, uplink = cell.link.device, cell.uplink
    if uplink is None:
        return
    # What conntrack cannot follow would leave with the sandbox's own address.
    invalid = Rule("DROP", device, uplink, ctstate="INVALID")
    yield recorded(invalid)
    yield invalid
    # NEW is a flow until it is answered; confirmed it is once its first packet has left. Those that have go on, however many there are.
    first = Rule("MARK", device, uplink, ctstate="NEW", not_ctstatus="CONFIRMED")
    yield replace(first, flows_above=MAX_FLOWS, set_xmark=LIMIT_MARK)
    too_many = Rule("DROP", device, uplink, mark=LIMIT_MARK)
    yield recorded(too_many)
    yield too_many
    leaving = Rule("ACCEPT", device, uplink, mark=FORWARD_MARK)
    yield recorded(replace(first, target="NFLOG", mark=FORWARD_MARK), ALLOWED_GROUP)
    yield leaving
    yield Rule("ACCEPT", uplink, device, ctstate="RELATED,ESTABLISHED")


def _answer(cell: _Cell) -> Iterator[Rule]:
    """filter OUTPUT: to the sandbox, to itself, and to its neighbour on the uplink."""
    yield Rule("ACCEPT", out_interface=cell.link.device)
    yield Rule("ACCEPT", out_interface="lo")
    if cell.uplink is not None:
        yield from _neighbours(cell, Rule("ACCEPT", out_interface=cell.uplink))


def _neighbours(cell: _Cell, rule: Rule) -> Iterator[Rule]:
    """Neighbour discovery, in whichever direction ``rule`` says."""
    if cell.family == 6:
        for kind in NEIGHBOUR_DISCOVERY:
            yield replace(rule, protocol="icmpv6", icmpv6_type=kind, hop_limit=UNFORWARDED)
