"""Ethernet frames of the first packet of a flow, made by hand so that any destination can be tried, and read again on the other side."""

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

IPAddress = IPv4Address | IPv6Address

PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "gre": 47, "icmpv6": 58, "sctp": 132}
NAMES = {number: name for name, number in PROTOCOLS.items()}
SPORT = 40000
FIN, SYN, ACK, SYN_ACK, RST = 0x01, 0x02, 0x10, 0x12, 0x14


class Flow(NamedTuple):
    """Where a packet was sent."""

    destination: IPAddress
    protocol: str
    port: int


class Seen(NamedTuple):
    """A packet on a wire. ``what``: ``packet``, or of an answer ``syn-ack``, ``reset``, ``prohibited``, and then ``flow`` is what it answers."""

    what: str
    source: IPAddress
    flow: Flow


def frame(flow: Flow, source: IPAddress, sport: int = SPORT, *, to: bytes, by: bytes) -> bytes:
    """The first packet of ``flow``."""
    number = PROTOCOLS[flow.protocol]
    if flow.protocol == "icmp" and flow.destination.version == 6:
        number = PROTOCOLS["icmpv6"]
    pseudo = _pseudo(source, flow.destination, number)
    return to + by + _packet(flow, source, number, _BODIES[number](sport, flow.port, pseudo))


def segment(
    flow: Flow, source: IPAddress, sport: int, numbers: tuple[int, int], flags: int, data: bytes = b"",
    *, to: bytes, by: bytes,
) -> bytes:  # fmt: skip
    """One of TCP's; ``numbers``: its own, and what it acknowledges."""
    head = struct.pack("!HHIIBBHHH", sport, flow.port, *numbers, 0x50, flags, 8192, 0, 0)
    body = _summed(head + data, 16, _pseudo(source, flow.destination, PROTOCOLS["tcp"]))
    return to + by + _packet(flow, source, PROTOCOLS["tcp"], body)


def numbers(raw: bytes) -> tuple[int, int]:
    """Those of a segment in a frame."""
    _, _, body = _read_ip(raw[14:])
    first, second = struct.unpack_from("!II", body, 4)
    return first, second


def dport(raw: bytes) -> int | None:
    """To which port a segment in a frame goes; None where it is none."""
    if raw[12:14] not in (b"\x08\x00", b"\x86\xdd"):
        return None
    _, flow, body = _read_ip(raw[14:])
    return int.from_bytes(body[2:4], "big") if flow.protocol == "tcp" else None


def _packet(flow: Flow, source: IPAddress, number: int, body: bytes) -> bytes:
    """With what Ethernet calls it."""
    if flow.destination.version == 4:
        head = struct.pack(
            "!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 1, 0, 64, number, 0, source.packed, flow.destination.packed
        )  # fmt: skip
        head = head[:10] + checksum(head) + head[12:]
        return b"\x08\x00" + head + body
    head = struct.pack(
        "!IHBB16s16s", 0x60000000, len(body), number, 64, source.packed, flow.destination.packed
    )
    return b"\x86\xdd" + head + body


def checksum(data: bytes) -> bytes:
    """RFC 1071."""
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)


def _pseudo(source: IPAddress, destination: IPAddress, number: int) -> bytes:
    """But for the length, which is added where it is known; both families' sum alike."""
    return source.packed + destination.packed + struct.pack("!H", number)


def _summed(head: bytes, at: int, pseudo: bytes) -> bytes:
    return head[:at] + checksum(pseudo + struct.pack("!H", len(head)) + head) + head[at + 2 :]


def _tcp(sport: int, port: int, pseudo: bytes) -> bytes:
    return _summed(struct.pack("!HHIIBBHHH", sport, port, 7, 0, 0x50, SYN, 8192, 0, 0), 16, pseudo)


def _udp(sport: int, port: int, pseudo: bytes) -> bytes:
    return _summed(struct.pack("!HHHH", sport, port, 12, 0) + b"ping", 6, pseudo)


def _sctp(sport: int, port: int, pseudo: bytes) -> bytes:
    """An INIT chunk (RFC 9260 section 3.3.2)."""
    chunk = struct.pack("!BBHIIHHI", 1, 0, 20, 7, 8192, 1, 1, 7)
    head = struct.pack("!HHII", sport, port, 0, 0)
    return head[:8] + struct.pack("<I", _crc32c(head + chunk)) + chunk


def _crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def _echo(sport: int, port: int, pseudo: bytes) -> bytes:
    head = struct.pack("!BBHHH", 8, 0, 0, 7, 1)
    return head[:2] + checksum(head) + head[4:]


def _echo6(sport: int, port: int, pseudo: bytes) -> bytes:
    return _summed(struct.pack("!BBHHH", 128, 0, 0, 7, 1), 2, pseudo)


def _gre(sport: int, port: int, pseudo: bytes) -> bytes:
    # As long as conntrack wants it: a shorter one is INVALID, and dropped for that.
    return struct.pack("!HH", 0, 0x0800) + bytes(20)


_BODIES = {1: _echo, 6: _tcp, 17: _udp, 47: _gre, 58: _echo6, 132: _sctp}


def read(raw: bytes) -> Seen | None:
    """What a frame is; None for what is not IP, and for answers of other kinds."""
    kind = raw[12:14]
    if kind not in (b"\x08\x00", b"\x86\xdd"):
        return None
    source, flow, body = _read_ip(raw[14:])
    if flow.protocol == "tcp" and body[13] & 0x3F in (RST, SYN_ACK):
        what = "reset" if body[13] & 0x3F == RST else "syn-ack"
        return Seen(what, source, Flow(source, "tcp", int.from_bytes(body[:2], "big")))
    if flow.protocol == "icmp" and body[:2] in (b"\x03\x0d", b"\x01\x01"):
        return Seen("prohibited", source, _read_ip(body[8:])[1])
    return Seen("packet", source, flow)


def _read_ip(raw: bytes) -> tuple[IPAddress, Flow, bytes]:
    if raw[0] >> 4 == 4:
        number, source, destination, body = raw[9], raw[12:16], raw[16:20], raw[20:]
    else:
        number, source, destination, body = raw[6], raw[8:24], raw[24:40], raw[40:]
    protocol = NAMES.get(number, str(number)).replace("icmpv6", "icmp")
    port = int.from_bytes(body[2:4], "big") if protocol in ("tcp", "udp", "sctp") else 0
    return ip_address(source), Flow(ip_address(destination), protocol, port), body
