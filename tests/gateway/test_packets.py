"""NFLOG's messages: whatever the bytes, headers or nothing, and never an exception."""

import random
import struct
from ipaddress import ip_address

import pytest

from gateway.packets import NFULA_PAYLOAD, NFULA_SEQ, NFULNL_MSG_PACKET, Packet, Told, messages, read
from tests.rules.frames import Flow, frame

V4, V6 = ip_address("192.0.0.2"), ip_address("fd65:6772:6573:73::2")
ETHERNET = 14


def packet(ip: str, protocol: str, port: int = 443) -> bytes:
    """From the sandbox."""
    source = V4 if ip_address(ip).version == 4 else V6
    return frame(Flow(ip_address(ip), protocol, port), source, to=bytes(6), by=bytes(6))[ETHERNET:]


def message(payload: bytes, seq: int | None = None, kind: int = NFULNL_MSG_PACKET) -> bytes:
    """As the kernel sends it."""
    body = struct.pack("!BBH", 2, 0, 1)
    for name, value in (
        (NFULA_SEQ, None if seq is None else struct.pack("!I", seq)),
        (NFULA_PAYLOAD, payload),
    ):
        if value is not None:
            body += struct.pack("=HH", 4 + len(value), name) + value + bytes(-len(value) % 4)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


@pytest.mark.parametrize(
    ("ip", "protocol", "ports", "name"),
    [
        ("203.0.113.9", "udp", (40000, 443), "udp"),
        ("203.0.113.9", "tcp", (40000, 443), "tcp"),
        ("203.0.113.9", "sctp", (40000, 443), "sctp"),
        ("203.0.113.9", "icmp", (0, 0), "icmp"),
        ("203.0.113.9", "gre", (0, 0), "gre"),
        ("2001:db8::9", "udp", (40000, 443), "udp"),
        ("2001:db8::9", "icmp", (0, 0), "icmpv6"),
    ],
)
def test_the_headers_of_a_packet(ip: str, protocol: str, ports: tuple[int, int], name: str) -> None:
    source = V4 if "." in ip else V6
    assert read(packet(ip, protocol)) == Packet(source, ports[0], ip_address(ip), ports[1], name)


def test_a_protocol_without_a_name_has_its_number() -> None:
    raw = bytearray(packet("203.0.113.9", "gre"))
    raw[9] = 99
    assert read(bytes(raw)) == Packet(V4, 0, ip_address("203.0.113.9"), 0, "ip_99")


def test_a_later_fragment_has_no_ports() -> None:
    raw = bytearray(packet("203.0.113.9", "udp"))
    raw[7] = 1
    assert read(bytes(raw)) == Packet(V4, 0, ip_address("203.0.113.9"), 0, "udp")


def test_behind_extension_headers() -> None:
    raw = packet("2001:db8::9", "udp")
    options = bytes([44, 0]) + bytes(6)
    fragment = bytes([17, 0, 0, 1]) + bytes(4)
    behind = raw[:6] + bytes([60]) + raw[7:40] + options + fragment + raw[40:]
    assert read(behind) == Packet(V6, 40000, ip_address("2001:db8::9"), 443, "udp")
    later = raw[:6] + bytes([44]) + raw[7:40] + bytes([17, 0, 0, 9]) + bytes(4) + raw[40:]
    assert read(later) == Packet(V6, 0, ip_address("2001:db8::9"), 0, "udp")
    endless = raw[:6] + bytes([60]) + raw[7:40] + (bytes([60, 0]) + bytes(6)) * 20
    assert read(endless) == Packet(V6, 0, ip_address("2001:db8::9"), 0, "ip_60")


@pytest.mark.parametrize("size", range(60))
def test_what_is_cut_off_is_nothing_or_without_ports(size: int) -> None:
    for ip in ("203.0.113.9", "2001:db8::9"):
        whole, cut = read(packet(ip, "udp")), read(packet(ip, "udp")[:size])
        assert whole is not None
        assert cut in (None, whole, whole._replace(source_port=0, dest_port=0))


def test_several_messages_in_one_read() -> None:
    one, two = packet("203.0.113.9", "udp", 1), packet("2001:db8::9", "udp", 2)
    data = message(one, 7) + message(b"", 8, kind=3) + message(two, 9) + message(b"\x00", 10)
    assert list(messages(data)) == [Told(7, read(one)), Told(9, read(two)), Told(10, None)]


@pytest.mark.parametrize(("mark", "limited"), [(0x2, True), (0x12, True), (0x1, False), (0x6, False)])
def test_what_was_one_too_many_is_told_by_its_mark(mark: int, limited: bool) -> None:
    raw = message(packet("203.0.113.9", "udp"), 7)
    attribute = struct.pack("=HHBBBB", 8, 2, 0, 0, 0, mark)
    length = len(raw) + len(attribute)
    (told,) = messages(struct.pack("=I", length) + raw[4:] + attribute)
    assert (told.seq, told.limited) == (7, limited)


def test_no_bytes_raise() -> None:
    rng = random.Random(5)
    seeds = [
        message(packet(ip, protocol), 1)
        for ip in ("203.0.113.9", "2001:db8::9")
        for protocol in ("udp", "tcp", "icmp", "gre")
    ]
    for _ in range(30_000):
        data = bytearray(rng.choice(seeds) + rng.choice(seeds))
        for _ in range(rng.randrange(1, 8)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        for told in messages(bytes(data[: rng.randrange(len(data) + 1)])):
            assert told.packet is None or 0 <= told.packet.dest_port <= 0xFFFF
        read(rng.randbytes(rng.randrange(100)))
