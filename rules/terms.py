"""What a policy asks of the kernel for one family: the few facts that a plan depends on, and the sets that hold the rest. Pure.

The rules of a plan never grow with its policy. What has entries is in sets, so another policy of the same form is other sets under the same rules.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, collapse_addresses
from typing import Final

from matcher import Pattern
from rules.entry import AddressEntry, Entry
from rules.link import Family
from rules.policy import NetworkPolicy
from rules.rule import AddressSet

_Network = IPv4Network | IPv6Network
Held = tuple[tuple[_Network, int | None], ...]

PORT_PROTOCOLS: Final = ("tcp", "udp", "sctp")
"""What an entry's ports speak of."""
HALVES: Final[dict[Family, tuple[_Network, _Network]]] = {
    4: (IPv4Network("0.0.0.0/1"), IPv4Network("128.0.0.0/1")),
    6: (IPv6Network("::/1"), IPv6Network("8000::/1")),
}
"""All of a family in words that ipset has: it refuses a length of 0."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What one family's rules and sets are made from. Networks ascend, and stand with a port or with None for every one."""

    resolver: str | None = None
    """Whose port 53 the gateway answers; None where the policy gives the sandbox no DNS in this family."""
    allowed: Held = ()
    """IP entries of ``allow_out``."""
    denied: Held | None = None
    """IP entries of ``deny_out``; None where they hold everything, so that no list is needed."""
    named: tuple[int, ...] | None = ()
    """Ports at which a name entry of ``allow_out`` may open a TCP connection that an address would deny; None for every port."""
    refuse_quic: bool = False
    """Whether UDP that carries a name unread must not pass by default."""


def read_terms(policy: NetworkPolicy | None, family: Family) -> Terms:
    """The terms of ``policy``; ``None`` is full egress."""
    wanted = NetworkPolicy() if policy is None else policy
    nothing_left = denies_all(wanted.denied, family)
    names = any(isinstance(entry, Pattern) for entry in wanted.denied)
    return Terms(
        resolver=resolver_of(wanted, family),
        allowed=_held(wanted.allowed, family),
        denied=None if nothing_left else _held(wanted.denied, family, spelt=True),
        named=_named(wanted.allowed),
        refuse_quic=names and not nothing_left,
    )


def resolver_of(policy: NetworkPolicy, family: Family) -> str | None:
    """The resolver's address, if it is one of this family and DNS to it needs no entry (P9: a name entry asks for it, full egress includes it)."""
    return policy.resolver if policy.allows_dns() and policy.resolver_ip.version == family else None


def _held(entries: Iterable[Entry], family: Family, *, spelt: bool = False) -> Held:
    found: dict[tuple[_Network, int | None], None] = {}
    for entry in entries:
        if not isinstance(entry, AddressEntry):
            continue
        for network in entry.spellings() if spelt else entry.networks():
            if network.version != family:
                continue
            parts = (network,) if network.prefixlen else HALVES[family]
            found.update(((part, port), None) for part in parts for port in entry.ports or (None,))
    return tuple(sorted(found, key=_place))


def _place(held: tuple[_Network, int | None]) -> tuple[int, int, int]:
    network, port = held
    return int(network.network_address), network.prefixlen, port or 0


def denies_all(entries: Iterable[Entry], family: Family) -> bool:
    """Whether ``entries`` leave no address of the family, at whatever port: by one that holds them all, or together."""
    return _cover([network for network, port in _held(entries, family) if port is None], family)


def holds_all(entries: Iterable[Entry], family: Family) -> bool:
    """Whether each address of the family is held, at some port at least."""
    return _cover(list({network for network, _ in _held(entries, family)}), family)


def _cover(networks: list[_Network], family: Family) -> bool:
    everything = 1 << (32 if family == 4 else 128)
    if sum(network.num_addresses for network in networks) < everything:
        return False
    return sum(network.num_addresses for network in _collapsed(networks)) == everything


def _collapsed(networks: list[_Network]) -> Iterable[_Network]:
    return collapse_addresses(networks)  # type: ignore[type-var]  # all of one family


def _named(entries: Iterable[Entry]) -> tuple[int, ...] | None:
    ports: set[int] = set()
    for entry in entries:
        if isinstance(entry, Pattern):
            if entry.ports is None:
                return None
            ports.update(entry.ports)
    return tuple(sorted(ports))


# -- the sets


def set_name(what: str, family: Family, *, ports: bool = False) -> str:
    """Of one set: names are a namespace's, so both families' differ."""
    return f"{what}{family}-port" if ports else f"{what}{family}"


def sets_of(terms: Terms, family: Family, *, uplink: bool) -> tuple[AddressSet, ...]:
    """The sets that the rules of a forwarding link name, empty ones too."""
    made = [*_pair("allow", terms.allowed, family)] if uplink else []
    made += _named_sets(terms.named, family)
    if terms.denied is not None:
        made += _pair("deny", terms.denied, family)
    return tuple(made)


def _pair(what: str, held: Held, family: Family) -> Iterable[AddressSet]:
    whole = tuple(_text(network) for network, port in held if port is None)
    ported = tuple(
        f"{_text(network)},{protocol}:{port}"
        for network, port in held
        if port is not None
        for protocol in PORT_PROTOCOLS
    )
    yield AddressSet(set_name(what, family), family, "hash:net", whole)
    yield AddressSet(set_name(what, family, ports=True), family, "hash:net,port", ported)


def _named_sets(named: tuple[int, ...] | None, family: Family) -> Iterable[AddressSet]:
    """Every address, or every address at some ports: whose name might be allowed depends on no address."""
    halves = tuple(map(_text, HALVES[family]))
    ported = tuple(f"{half},tcp:{port}" for half in halves for port in named or ())
    yield AddressSet(set_name("named", family), family, "hash:net", halves if named is None else ())
    yield AddressSet(set_name("named", family, ports=True), family, "hash:net,port", ported)


def _text(network: _Network) -> str:
    """As ipset prints it."""
    return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)


def terms_of(sets: Iterable[AddressSet], family: Family, resolver: str | None, *, refuse_quic: bool) -> Terms:
    """The terms that would have led to ``sets``; of sets that no terms lead to, some others, whose sets are different. ValueError for what cannot be
    read at all."""
    entries = {one.name: one.entries for one in sets}

    def held(what: str) -> Held:
        found: dict[tuple[_Network, int | None], None] = {}
        for text in entries.get(set_name(what, family), ()):
            found[_read_network(text, family), None] = None
        for text in entries.get(set_name(what, family, ports=True), ()):
            found[_read_ported(text, family)] = None
        return tuple(sorted(found, key=_place))

    ports = {_read_ported(text, family)[1] for text in entries.get(set_name("named", family, ports=True), ())}
    return Terms(
        resolver,
        held("allow"),
        held("deny") if set_name("deny", family) in entries else None,
        None if entries.get(set_name("named", family)) else tuple(sorted(port or 0 for port in ports)),
        refuse_quic,
    )


def _read_ported(text: str, family: Family) -> tuple[_Network, int | None]:
    network, _, ported = text.partition(",")
    port = int(ported.partition(":")[2])
    if not 1 <= port <= 65535:
        raise ValueError(f"port {port} is none")
    return _read_network(network, family), port


def _read_network(text: str, family: Family) -> _Network:
    if "%" in text:  # a zone is any text at all
        raise ValueError("a network has no zone")
    network = IPv4Network(text) if family == 4 else IPv6Network(text)
    if not network.prefixlen:
        raise ValueError("ipset knows no length of 0")
    return network
