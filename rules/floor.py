"""The floor as the kernel is told of it: destinations for ``-d``, of one family, every spelling of the IPv4 ranges in IPv6 included.

``gateway.addresses`` reads the same tables for the proxy. There an address that carries another is taken apart; here every carried range becomes
a pattern of bits, which netfilter takes as it is: a mask need not be a prefix.
"""

from collections.abc import Iterator
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Final, NamedTuple

from rules.link import Family
from rules.ranges import EMBEDDINGS, FLOOR, Embedding

MAPPED = "::ffff:0:0/96"
"""IPv4-mapped: an IPv4 address in a program's hands, and on no wire (RFC 4291 section 2.5.5.2). The kernel refuses it whole."""

UNROUTED: Final = frozenset(("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4", "fe80::/10", "ff00::/8"))
"""Of the floor, what the kernel's routing drops so that INPUT never sees it: destinations that it calls martian, groups that nobody joined, and what
IPv6 knows as another link's."""
MULTICAST: Final[dict[Family, str]] = {4: "224.0.0.0/4", 6: "ff00::/8"}


class Bits(NamedTuple):
    """Addresses that have the bits of ``value`` wherever ``mask`` has one."""

    value: int
    mask: int

    def holds(self, other: "Bits") -> bool:
        """Whether every address of ``other`` is one of these."""
        return self.mask & other.mask == self.mask and other.value & self.mask == self.value


@cache
def floor(family: Family) -> tuple[str, ...]:
    """Every destination in the floor, in the spelling of iptables-save, the ranges first."""
    patterns = list(dict.fromkeys(_patterns(family)))
    needed = [one for one in patterns if not any(other != one and other.holds(one) for other in patterns)]
    return tuple(_spell(one, family) for one in needed)


def _patterns(family: Family) -> Iterator[Bits]:
    networks = [ip_network(text) for text, _ in FLOOR]
    yield from (_bits(network) for network in networks if network.version == family)
    if family == 6:
        yield _bits(IPv6Network(MAPPED))
        carried = [network for network in networks if isinstance(network, IPv4Network)]
        for embedding in EMBEDDINGS:
            yield from (one for network in carried if (one := _embedded(embedding, network)) is not None)


def _bits(network: IPv4Network | IPv6Network) -> Bits:
    return Bits(int(network.network_address), int(network.netmask))


def _embedded(embedding: Embedding, carried: IPv4Network) -> Bits | None:
    """The IPv6 addresses that carry an address of ``carried``; None where no address does."""
    outer, inner = _bits(IPv6Network(embedding.network)), _bits(carried)
    value = ~inner.value & inner.mask if embedding.inverted else inner.value
    mask = inner.mask << embedding.shift
    if embedding.shift == 24:  # as ``gateway.addresses`` reads it: zeros behind, and nothing of 0.0.0.0/8
        if carried.network_address == IPv4Address(0):
            return None
        mask |= 0xFFFFFF
    return Bits(outer.value | value << embedding.shift, outer.mask | mask)


def _spell(bits: Bits, family: Family) -> str:
    width = 32 if family == 4 else 128
    ones = bits.mask.bit_count()
    prefix = bits.mask == ((1 << ones) - 1) << (width - ones)
    if family == 4:
        return f"{IPv4Address(bits.value)}/{ones if prefix else IPv4Address(bits.mask)}"
    return f"{IPv6Address(bits.value)}/{ones if prefix else IPv6Address(bits.mask)}"
