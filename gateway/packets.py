"""What the kernel tells of a packet (NFLOG): netlink messages in, headers out. Pure and total: no bytes raise.

The packets are the workload's, and so is every byte of them.
"""

import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple

from gateway.flow import IPAddress

# linux/netfilter/nfnetlink_log.h
NFULNL_MSG_PACKET: Final = 4 << 8 | 0
NFULA_MARK: Final = 2
NFULA_PAYLOAD: Final = 9
NFULA_SEQ: Final = 12
LIMITED: Final = 0x2
"""The low bits of the mark (``rules.words.LIMIT_MARK``) of what was one too many."""
PROTOCOLS: Final = {
    1: "icmp",
    2: "igmp",
    4: "ipip",
    6: "tcp",
    17: "udp",
    33: "dccp",
    41: "ipv6",
    47: "gre",
    50: "esp",
    51: "ah",
    58: "icmpv6",
    132: "sctp",
    136: "udplite",
}
"""IANA's assigned numbers that have a use here; others are ``ip_N``."""
WITH_PORTS: Final = frozenset((6, 17, 33, 132, 136))
EXTENSIONS: Final = frozenset((0, 43, 60, 135, 139, 140))
"""IPv6 extension headers of the common form (RFC 6564)."""
FRAGMENT: Final = 44
MAX_EXTENSIONS: Final = 8
_HEAD = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_U32 = struct.Struct("!I")
_PORTS = struct.Struct("!HH")


class Packet(NamedTuple):
    """The headers of one packet. Ports are 0 where it has none, or where they are not in it."""

    source: IPAddress
    source_port: int
    dest: IPAddress
    dest_port: int
    proto: str


class Told(NamedTuple):
    """One message."""

    seq: int | None
    """Of the group, from 0, modulo 2**32: a gap is what the kernel could not tell."""
    packet: Packet | None
    """None where there is no IP header to be read."""
    limited: bool = False
    """Whether it was refused because the sandbox has as many flows as it may have."""


def messages(data: bytes) -> Iterator[Told]:
    """Every packet message of one read; what is not one is passed over."""
    at, end = 0, len(data)
    while at + 16 <= end:
        length, kind, _, _, _ = _HEAD.unpack_from(data, at)
        if length < 16 or at + length > end:
            return
        if kind == NFULNL_MSG_PACKET:
            yield _told(data, at + 20, at + length)
        at += length + 3 & ~3


def _told(data: bytes, at: int, end: int) -> Told:
    seq = packet = None
    limited = False
    while at + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < 4 or at + length > end:
            break
        kind &= 0x3FFF
        if kind == NFULA_SEQ and length == 8:
            (seq,) = _U32.unpack_from(data, at + 4)
        elif kind == NFULA_MARK and length == 8:
            limited = _U32.unpack_from(data, at + 4)[0] & 0xF == LIMITED
        elif kind == NFULA_PAYLOAD:
            packet = read(data[at + 4 : at + length])
        at += length + 3 & ~3
    return Told(seq, packet, limited)


def read(data: bytes) -> Packet | None:
    """The headers at the beginning of an IP packet, of which the end may be missing."""
    if not data:
        return None
    if data[0] >> 4 == 4 and len(data) >= 20:
        later = (data[6] & 0x1F) << 8 | data[7]
        return _packet(
            IPv4Address(data[12:16]), IPv4Address(data[16:20]), data[9], data, (data[0] & 15) * 4, later
        )
    if data[0] >> 4 == 6 and len(data) >= 40:
        number, at, later = _after_extensions(data)
        return _packet(IPv6Address(data[8:24]), IPv6Address(data[24:40]), number, data, at, later)
    return None


def _after_extensions(data: bytes) -> tuple[int, int, int]:
    """The upper protocol, where it begins, and the fragment's offset."""
    number, at, later = data[6], 40, 0
    for _ in range(MAX_EXTENSIONS):
        if at + 8 > len(data):
            break
        if number == FRAGMENT:
            later = (data[at + 2] << 8 | data[at + 3]) >> 3
            number, at = data[at], at + 8
        elif number in EXTENSIONS:
            number, at = data[at], at + 8 * (data[at + 1] + 1)
        else:
            break
    return number, at, later


def _packet(source: IPAddress, dest: IPAddress, number: int, data: bytes, at: int, later: int) -> Packet:
    ports = (0, 0)
    if number in WITH_PORTS and not later and at + 4 <= len(data):
        ports = _PORTS.unpack_from(data, at)
    return Packet(source, ports[0], dest, ports[1], PROTOCOLS.get(number, f"ip_{number}"))
