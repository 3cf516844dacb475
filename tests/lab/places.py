"""The map of the lab's internet: addresses, names, ports."""

from enum import IntEnum
from typing import Final

# -- the veth pair between the two namespaces
HOST_IP: Final = "198.18.255.1"
NET_IP: Final = "198.18.255.2"
HOST_IP6: Final = "2001:db8:ffff::1"
NET_IP6: Final = "2001:db8:ffff::2"

# -- origins
GOOD_IP: Final = "198.18.0.10"
WILD_IP: Final = "198.18.0.11"
APEX_IP: Final = "198.18.0.12"
OTHER_IP: Final = "198.18.0.13"
"""A second address of ``two.test``."""
BLOCKED_IP: Final = "198.18.0.20"
DNS_IP: Final = "8.8.8.8"

# -- where nothing may arrive
ATTACKER_IP: Final = "203.0.113.66"
METADATA_IP: Final = "169.254.169.254"
METADATA_ALIBABA_IP: Final = "100.100.100.200"
METADATA_ORACLE_IP: Final = "192.0.0.192"
METADATA_AZURE_IP: Final = "168.63.129.16"
DECOY_IP: Final = "10.66.0.1"
"""A private address with a server on it, as an operator's own network would have."""
DECOY_IP_2: Final = "192.168.66.1"
BLACKHOLE_IP: Final = "203.0.113.99"
"""Routed to ``net`` and dropped there: a SYN is never answered."""

GOOD_IP6: Final = "2001:db8::10"
WILD_IP6: Final = "2001:db8::11"
BLOCKED_IP6: Final = "2001:db8::20"
ATTACKER_IP6: Final = "2001:db8:bad::66"
DNS_IP6: Final = "2001:4860:4860::8888"

SERVED: Final = (
    *(GOOD_IP, WILD_IP, APEX_IP, OTHER_IP, BLOCKED_IP, DNS_IP, ATTACKER_IP),
    *(METADATA_IP, METADATA_ALIBABA_IP, METADATA_ORACLE_IP, METADATA_AZURE_IP, DECOY_IP, DECOY_IP_2),
    *(GOOD_IP6, WILD_IP6, BLOCKED_IP6, ATTACKER_IP6, DNS_IP6),
)
"""What ``net`` holds on its ``lo``. Every service listens on all of them."""

HOSTILE: Final = frozenset(
    (
        ATTACKER_IP,
        METADATA_IP,
        METADATA_ALIBABA_IP,
        METADATA_ORACLE_IP,
        METADATA_AZURE_IP,
        DECOY_IP,
        DECOY_IP_2,
        ATTACKER_IP6,
    )
)
"""Addresses whose TLS certificate never carries a name of the zone, and that a test may count packets to."""

DNS_SERVERS: Final = frozenset((DNS_IP, DNS_IP6))


class Port(IntEnum):
    """What listens where, on every address of ``net``."""

    ECHO = 7
    BANNER = 22
    """Speaks first (``SSH-2.0-lab``), then echoes."""
    DNS = 53
    """DNS on the DNS servers; elsewhere it only logs."""
    HTTP = 80
    HTTPS = 443
    BYTES = 7001
    """Reads ``N\\n``, sends N bytes of ``payload``, closes."""
    UPLOAD = 7002
    """Reads until the client half-closes, answers ``sha256 count\\n``, closes."""
    CLOSES_FIRST = 7003
    """Sends ``bye\\n``, shuts its write side, reads until the client's end, logs what it got."""
    SLOW = 7004
    """Reads ``COUNT INTERVAL_MS\\n``, sends COUNT single bytes of ``payload`` that far apart, closes."""
    RESETS = 7005
    """Resets as soon as the first bytes arrive."""
    RESETS_AT_ONCE = 7006
    """Resets when accepted."""
    SILENT = 7007
    """Accepts, reads, never answers and never closes."""
    DISCARD = 7009
    """Reads until the end, answers nothing, closes."""
    NEVER_READS = 7010
    """Accepts, and neither reads nor answers: what a client sends stays in the kernel's queues."""
    HTTP_ALT = 8080
    HTTPS_ALT = 8443
    CLOSED = 9999
    """Nobody listens: the kernel resets."""


TLS_PORTS: Final = frozenset((Port.HTTPS, Port.HTTPS_ALT))
HTTP_PORTS: Final = frozenset((Port.HTTP, Port.HTTP_ALT)) | TLS_PORTS

ZONE: Final[dict[str, dict[str, list[str]]]] = {
    "allowed.test": {"A": [GOOD_IP], "AAAA": [GOOD_IP6]},
    "api.good.test": {"A": [GOOD_IP], "AAAA": [GOOD_IP6]},
    "two.test": {"A": [GOOD_IP, OTHER_IP]},
    "wild.test": {"A": [APEX_IP]},
    "*.wild.test": {"A": [WILD_IP], "AAAA": [WILD_IP6]},
    "alias.test": {"CNAME": ["allowed.test."]},
    "blocked.test": {"A": [BLOCKED_IP], "AAAA": [BLOCKED_IP6]},
    "evil.test": {"A": [ATTACKER_IP], "AAAA": [ATTACKER_IP6]},
    "private.test": {"A": [DECOY_IP]},
    "metadata.test": {"A": [METADATA_IP]},
    "loopback.test": {"A": ["127.0.0.1"], "AAAA": ["::1"]},
    "mixed.test": {"A": [METADATA_IP, DECOY_IP, GOOD_IP]},
    "blackhole.test": {"A": [BLACKHOLE_IP]},
    "only6.test": {"AAAA": [GOOD_IP6]},
}
"""What DNS answers until a test says otherwise: name, record type, record data as text."""
