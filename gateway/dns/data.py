"""Data of records, as the sandbox is told of it: names in full, for they may be compressed, and of addresses, and hints of them, those that may be
dialled. Pure.
"""

import struct
from collections.abc import Callable, Iterator
from typing import Final

import dns.rdata
import dns.rdataclass
import dns.rdatatype
from dns.rdtypes.svcbbase import ParamKey

from gateway.addresses import unmapped
from gateway.flow import IPAddress
from gateway.net.answers import MAX_ADDRESSES
from gateway.net.message import (
    AAAA,
    SOA,
    SOA_NUMBERS_BYTES,
    A,
    Chain,
    Malformed,
    Message,
    Record,
    address_of,
    name_at,
)

MAX_SERVICES_BYTES: Final = 4096
"""Of SVCB and HTTPS records, which are dear to check. A zone has a few, of a hundred octets each, or some hundreds with keys."""
HINTS: Final = {4: 4, 6: 16}
"""RFC 9460 section 7.3: ipv4hint and ipv6hint, and how long an address is."""
PARAM: Final = struct.Struct("!HH")  # RFC 9460 section 2.2
SERVICES: Final = (int(dns.rdatatype.SVCB), int(dns.rdatatype.HTTPS))
NAMES_WITHIN: Final = {
    2: (0, 1),  # NS
    3: (0, 1),  # MD
    4: (0, 1),  # MF
    5: (0, 1),  # CNAME
    6: (0, 2),  # SOA
    7: (0, 1),  # MB
    8: (0, 1),  # MG
    9: (0, 1),  # MR
    12: (0, 1),  # PTR
    14: (0, 2),  # MINFO
    15: (2, 1),  # MX
    17: (0, 2),  # RP
    18: (2, 1),  # AFSDB
    21: (2, 1),  # RT
    24: (18, 1),  # SIG
    26: (2, 2),  # PX
    30: (0, 1),  # NXT
    33: (6, 1),  # SRV
    36: (2, 1),  # KX
    39: (0, 1),  # DNAME
    46: (18, 1),  # RRSIG
}
"""Types whose data may hold compressed names (RFC 3597 section 4): how many octets come before them, and how many names."""
NAPTR: Final = 35
"""Another one: three strings come before its name (RFC 3403 section 4.1)."""

# Before a worker gives up the right to read its own installation: see gateway.net.resolve.
for _kind in (dns.rdatatype.SVCB, dns.rdatatype.HTTPS):
    dns.rdata.get_rdata_class(dns.rdataclass.IN, _kind)  # type: ignore[no-untyped-call]

Keeps = Callable[[IPAddress], bool]


def admitted(message: Message, chain: Chain, keeps: Keeps, addresses: list[IPAddress]) -> Iterator[bytes]:
    """The data of each record that may be told, once; ``addresses`` get those among them."""
    seen: set[bytes] = set()
    left = MAX_SERVICES_BYTES
    hints = _Hints(keeps)
    for record in chain.found:
        data = data_of(message, record)
        if data in seen:
            continue
        seen.add(data)
        if record.kind in (A, AAAA):
            if len(seen) > MAX_ADDRESSES:
                return
            address = address_of(data)
            if not keeps(unmapped(address)):
                continue
            addresses.append(address)
        elif record.kind in SERVICES:
            left -= len(data)
            service = _service(data, record.kind, hints) if left >= 0 else None
            if service is None:
                continue
            data = service
        yield data


def data_of(message: Message, record: Record) -> bytes:
    """The data of ``record``, with its names in full. Malformed."""
    wire, at, end = message.wire, record.at, record.at + record.size
    before, names = NAMES_WITHIN.get(record.kind, (0, 0))
    if record.kind == NAPTR:
        before, names = _naptr_name(wire, at, end) - at, 1
    if not names:
        return wire[at:end]
    made = wire[at : at + before]
    at += before
    for _ in range(names):
        name, at = name_at(wire, at)
        made += name
    if at > end or (record.kind == SOA and end - at != SOA_NUMBERS_BYTES):
        raise Malformed("a record's length")
    return made + wire[at:end]


def _naptr_name(wire: bytes, at: int, end: int) -> int:
    at += 4
    for _ in range(3):
        if at >= end:
            raise Malformed("a record's length")
        at += 1 + wire[at]
    return at


class _Hints:
    """Of those of one answer: no more are looked at than addresses would be."""

    def __init__(self, keeps: Keeps) -> None:
        self._keeps = keeps
        self._left = MAX_ADDRESSES

    def kept(self, value: bytes, size: int) -> bytes:
        """Of the addresses of ``size`` octets in ``value``, those that are kept."""
        addresses = [value[at : at + size] for at in range(0, min(len(value), self._left * size), size)]
        self._left -= len(addresses)
        return b"".join(one for one in addresses if self._keeps(unmapped(address_of(one))))


def _service(data: bytes, kind: int, hints: _Hints) -> bytes | None:
    """The record without keys, and without addresses that are not kept; None where it says that nobody can use what is left. RFC 9460 section 2.2."""
    _, at = name_at(data, 2)
    made, mandatory, left = data[:at], b"", set[int]()
    while at < len(data):
        key, size = PARAM.unpack_from(data, at)
        at += PARAM.size
        value = data[at : at + size]
        if len(value) != size:
            raise Malformed("a parameter's length")
        at += size
        if key in HINTS:
            value = hints.kept(value, HINTS[key])
        if key == ParamKey.ECH or (key in HINTS and not value):
            continue
        if key == ParamKey.MANDATORY:
            mandatory = value
        left.add(key)
        made += PARAM.pack(key, len(value)) + value
    if any(int.from_bytes(mandatory[n : n + 2], "big") not in left for n in range(0, len(mandatory), 2)):
        return None
    dns.rdata.from_wire(dns.rdataclass.IN, dns.rdatatype.RdataType(kind), made, 0, len(made))  # or it raises
    return made
