"""What kind of address a destination is: in the floor, private, or public. Pure and total, from a table of
our own.

The standard library's ``is_private`` and ``is_global`` differ between Python versions, and miss metadata
services, NAT64, 6to4 and the like. Here an IPv6 address that carries an IPv4 address is of the worst kind
among itself and what it carries.
"""

from bisect import bisect_right
from collections.abc import Container, Iterable, Iterator
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Final

from gateway.flow import IPAddress
from rules.ranges import EMBEDDINGS, FLOOR, PRIVATE, Range
from rules.ranges import SINKHOLE as SINKHOLE


class AddressKind(StrEnum):
    """What a policy may do with an address. ``explain`` gives the finer word."""

    FLOOR = "floor"
    """Nothing can allow it."""
    PRIVATE = "private"
    """A name leads here only where an IP entry allows the address too."""
    PUBLIC = "public"


_Read = tuple[AddressKind, str]

_PUBLIC: Final[_Read] = (AddressKind.PUBLIC, "public")
_LOCAL: Final[_Read] = (AddressKind.FLOOR, "local")
_UNREADABLE: Final[_Read] = (AddressKind.FLOOR, "unreadable")


class _Table:
    """One family's ranges as sorted, disjoint intervals: one binary search answers for an address."""

    __slots__ = ("reads", "starts")

    def __init__(self, version: int, bits: int) -> None:
        # Widest first, the floor last: whatever is painted later covers what was there.
        painted = [(0, (1 << bits) - 1, _PUBLIC)]
        for kind, ranges in ((AddressKind.PRIVATE, PRIVATE), (AddressKind.FLOOR, FLOOR)):
            for network, word in sorted(_networks(version, ranges), key=lambda pair: pair[0].prefixlen):
                painted = list(_paint(painted, network, (kind, word)))
        self.starts = [first for first, _, _ in painted]
        self.reads = [read for _, _, read in painted]

    def read(self, number: int) -> _Read:
        return self.reads[bisect_right(self.starts, number) - 1]


def _networks(version: int, ranges: Iterable[Range]) -> Iterator[tuple[IPv4Network | IPv6Network, str]]:
    for text, word in ranges:
        network = ip_network(text)
        if network.version == version:
            yield network, word


def _paint(
    intervals: Iterable[tuple[int, int, _Read]], network: IPv4Network | IPv6Network, read: _Read
) -> Iterator[tuple[int, int, _Read]]:
    """The intervals with ``network`` cut out of them and put in as one of its own."""
    low, high = int(network.network_address), int(network.broadcast_address)
    for first, last, below in intervals:
        if first < low:
            yield first, min(last, low - 1), below
        if first <= low <= last:
            yield low, high, read
        if last > high:
            yield max(first, high + 1), last, below


_V4: Final = _Table(4, 32)
_V6: Final = _Table(6, 128)
_EMBEDDINGS: Final = tuple(
    (128 - network.prefixlen, int(network.network_address) >> (128 - network.prefixlen), shift, inverted)
    for network, shift, inverted in ((IPv6Network(e.network), e.shift, e.inverted) for e in EMBEDDINGS)
)
_EMBEDDING_HEADS: Final = frozenset(int(IPv6Network(e.network).network_address) >> 112 for e in EMBEDDINGS)
"""The first 16 bits of everything that may carry an IPv4 address: most addresses are done after one look."""


def classify(ip: IPAddress | str, local: Container[IPAddress] = frozenset()) -> AddressKind:
    """Return the kind of ``ip``; ``local`` holds the addresses of the host and the gateway, which are in the
    floor.

    Total: what is no address at all is in the floor.
    """
    return _classify(ip, local)[0]


def explain(ip: IPAddress | str, local: Container[IPAddress] = frozenset()) -> str:
    """Return the finer word for ``ip`` under its kind: ``metadata``, ``loopback``, ``local``, ``unique
    local``, ..."""
    return _classify(ip, local)[1]


def unmapped(ip: IPAddress) -> IPAddress:
    """Return the IPv4 address that a v4-mapped ``ip`` is to every socket, else ``ip`` itself without its
    zone."""
    if ip.version == 4:
        return ip
    number = int(ip)
    if number >> 32 == 0xFFFF:
        return IPv4Address(number & 0xFFFFFFFF)
    return IPv6Address(number) if ip.scope_id is not None else ip


def embedded(ip: IPv6Address) -> tuple[IPv4Address, ...]:
    """Return every IPv4 address that ``ip`` may carry by its form, see ``rules.ranges.EMBEDDINGS``."""
    return tuple(map(IPv4Address, _embedded(int(ip))))


def _classify(ip: IPAddress | str, local: Container[IPAddress]) -> _Read:
    if isinstance(ip, IPv4Address):
        read = _V4.read(int(ip))
        return read if read[0] is AddressKind.FLOOR or ip not in local else _LOCAL
    if isinstance(ip, IPv6Address):
        return _classify_v6(ip, local)
    parsed = _parse(ip)
    return _UNREADABLE if parsed is None else _classify(parsed, local)


def _classify_v6(ip: IPv6Address, local: Container[IPAddress]) -> _Read:
    number = int(ip)
    worst = _V6.read(number)
    if worst[0] is not AddressKind.FLOOR and (IPv6Address(number) if ip.scope_id else ip) in local:
        return _LOCAL
    if number >> 112 in _EMBEDDING_HEADS:
        for carried in _embedded(number):
            read = _classify(IPv4Address(carried), local)
            if _RANK[read[0]] > _RANK[worst[0]]:
                worst = read
    return worst


_RANK: Final = {AddressKind.PUBLIC: 0, AddressKind.PRIVATE: 1, AddressKind.FLOOR: 2}


def _embedded(number: int) -> Iterator[int]:
    for below, network, shift, inverted in _EMBEDDINGS:
        if number >> below != network:
            continue
        carried = number >> shift & 0xFFFFFFFF
        # Not at the end of the address: RFC 6052 puts a suffix of zeros behind it, and no translator passes
        # on 0.0.0.0/8.
        if shift == 24 and (number & 0xFFFFFF or carried < 1 << 24):
            continue
        yield carried ^ 0xFFFFFFFF if inverted else carried


def _parse(text: object) -> IPAddress | None:
    if not isinstance(text, str):
        return None
    try:
        return IPv6Address(text) if ":" in text else IPv4Address(text)
    except ValueError:
        return None
