"""The address ranges that a policy cannot speak for: one table, from which the proxy classifies and the
kernel plan is built.

Each range stands with the word that explains it. IPv6 spellings of the IPv4 ranges are not listed:
``EMBEDDINGS`` says where an IPv6 address carries an IPv4 address, and whoever asks looks there too. Sources:
the IANA special-purpose address registries (RFC 6890) and the metadata services' own documentation.
"""

from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Final, NamedTuple


class Range(NamedTuple):
    """A network in CIDR form, and what it is."""

    network: str
    word: str


FLOOR: Final = (
    Range("0.0.0.0/8", "this network"),  # RFC 791 section 3.2; Linux connects 0.0.0.0 to itself
    Range("127.0.0.0/8", "loopback"),  # RFC 1122 section 3.2.1.3
    Range("169.254.0.0/16", "link-local"),  # RFC 3927; 169.254.169.254 is metadata on most clouds
    Range("100.100.100.200/32", "metadata"),  # Alibaba Cloud
    Range("192.0.0.192/32", "metadata"),  # Oracle Cloud Classic
    Range("168.63.129.16/32", "metadata"),  # Azure's host
    Range("224.0.0.0/4", "multicast"),  # RFC 5771
    Range("240.0.0.0/4", "reserved"),  # RFC 1112 section 4
    Range("255.255.255.255/32", "broadcast"),  # RFC 919 section 7
    Range("::/128", "unspecified"),  # RFC 4291 section 2.5.2; Linux connects it to itself
    Range("::1/128", "loopback"),  # RFC 4291 section 2.5.3
    Range("fe80::/10", "link-local"),  # RFC 4291 section 2.5.6
    Range("fd00:ec2::/32", "metadata"),  # AWS: 254 is its metadata, 253 DNS, 123 time, 23 EKS Pod Identity
    Range("fd20:ce::254/128", "metadata"),  # Google Cloud
    Range("fd00:42::42/128", "metadata"),  # Scaleway
    Range("fd00:a9fe:a9fe::1/128", "metadata"),  # Akamai (Linode)
    Range("fd00:c1::a9fe:a9fe/128", "metadata"),  # Oracle Cloud
    Range("fd00:100::100:200/128", "metadata"),  # Alibaba Cloud
    Range("ff00::/8", "multicast"),  # RFC 4291 section 2.7
)
"""Nothing can allow these (docs/policy.md)."""

PRIVATE: Final = (
    Range("10.0.0.0/8", "private"),  # RFC 1918
    Range("172.16.0.0/12", "private"),  # RFC 1918
    Range("192.168.0.0/16", "private"),  # RFC 1918
    Range("100.64.0.0/10", "shared"),  # RFC 6598
    Range("192.0.0.0/24", "protocol"),  # RFC 6890 section 2.2.2
    Range("fc00::/7", "unique local"),  # RFC 4193
    Range("fec0::/10", "site-local"),  # RFC 3879
)
"""A name may lead here only where an IP entry allows the address too. The floor wins where both hold one."""

SINKHOLE: Final = IPv4Address("192.0.0.8")
"""RFC 7600's dummy address, which nobody has: where guarded DNS sends every name that the policy does not
allow."""


class Embedding(NamedTuple):
    """Where the addresses of an IPv6 network carry an IPv4 address."""

    network: str
    shift: int
    """Bits to the right of the 32 that carry it."""
    inverted: bool = False
    """Whether those bits are stored complemented."""


EMBEDDINGS: Final = (
    Embedding("::ffff:0:0/96", 0),  # IPv4-mapped, RFC 4291 section 2.5.5.2
    Embedding("::/96", 0),  # IPv4-compatible, RFC 4291 section 2.5.5.1
    Embedding("64:ff9b::/96", 0),  # NAT64, RFC 6052 section 2.1
    # NAT64 for local use, RFC 8215, with any prefix length of RFC 6052 section 2.2. What a /48 or a /56
    # carries ends in 32 zero bits, which the first of these two reads as 0.0.0.0: in the floor, whatever it
    # meant.
    Embedding("64:ff9b:1::/48", 0),
    Embedding("64:ff9b:1::/48", 24),
    Embedding("2002::/16", 80),  # 6to4, RFC 3056 section 2
    Embedding("2001::/32", 64),  # Teredo's server, RFC 4380 section 4
    Embedding("2001::/32", 0, inverted=True),  # Teredo's client
)


def is_inside(ip: IPv4Address | IPv6Address, ranges: tuple[Range, ...]) -> bool:
    """Whether a range holds ``ip`` as it is spelt. For a few questions at load; the path asks
    ``gateway.addresses``."""
    return any(ip in ip_network(text) for text, _ in ranges)
