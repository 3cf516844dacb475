"""DNS messages by the octet (RFC 1035 section 4): as much of one as is needed, since what it costs to read is for its sender to choose. Pure.

Walked once, front to back: ``MOST_RECORDS`` records and no more, of ``MOST_BYTES`` octets, names uncompressed as they are met, data left where it
is. What a message holds beyond that is not looked at; one that ends there is whole to the octet, or no message.
"""

import socket
import struct
from typing import Final, NamedTuple

from gateway.flow import IPAddress, met

MIN_BYTES: Final = 12
HEADER: Final = struct.Struct("!6H")
TYPE_CLASS: Final = struct.Struct("!HH")
RECORD: Final = struct.Struct("!HHIH")  # type, class, TTL, length of the data
QR: Final = 0x8000
TC: Final = 0x0200
A, CNAME, SOA, AAAA, OPT, IN = 1, 5, 6, 28, 41, 1
NXDOMAIN: Final = 3
MAX_NAME_BYTES: Final = 255
POINTER: Final = 0xC0
MAX_POINTERS: Final = 32
"""In one name. Each shares what another name ends with; those who write messages use a few."""
MOST_RECORDS: Final = 128
MOST_BYTES: Final = 32 * 1024
"""No further record is read behind them."""
MAX_CHAIN: Final = 16
MAX_TTL_S: Final = 0x7FFFFFFF  # RFC 2181 section 8: what is longer is zero
ADDRESS_BYTES: Final = {A: 4, AAAA: 16}
SOA_NUMBERS_BYTES: Final = 20


class Malformed(ValueError):
    """That is no message, or none that says anything."""


class Record(NamedTuple):
    """One resource record: where it is."""

    owner: bytes
    """Uncompressed, in lower case."""
    kind: int
    rdclass: int
    ttl_s: int
    at: int
    """Where its data begins; ``size`` octets of it."""
    size: int


class Message(NamedTuple):
    """What was read of one."""

    wire: bytes
    flags: int
    rcode: int
    """RFC 6891 section 6.1.3: all twelve bits."""
    name: bytes
    """That is asked for, as it is spelt; nothing where there is no question."""
    kind: int
    rdclass: int
    answer: list[Record]
    authority: list[Record]


class Chain(NamedTuple):
    """What a message answers to its question."""

    cnames: list[Record]
    """The first of each name on the way."""
    end: bytes
    """The name that they lead to, as an ``owner``."""
    found: list[Record]
    """What was asked for, of that name."""
    ttl_s: int
    """The smallest of them."""


def read(wire: bytes, *, sections: bool = True) -> Message:
    """The message ``wire``; without ``sections``, what comes before them. Malformed."""
    try:
        return _read(wire, sections=sections)
    except (struct.error, IndexError):
        raise Malformed("it ends early") from None


def _read(wire: bytes, *, sections: bool) -> Message:
    _, flags, questions, *counts = HEADER.unpack_from(wire)
    if questions > 1:
        raise Malformed("several questions")
    name, kind, rdclass, at = b"", 0, 0, MIN_BYTES
    if questions:
        name, at = name_at(wire, at)
        kind, rdclass = TYPE_CLASS.unpack_from(wire, at)
        at += TYPE_CLASS.size
    found: tuple[list[Record], list[Record], list[Record]] = ([], [], [])
    rcode = flags & 0xF
    if sections:
        left, owners = MOST_RECORDS, dict[int, bytes]()
        for section, count in zip(found, counts, strict=True):
            for _ in range(count):
                if not left or at > MOST_BYTES:
                    left = 0
                    break
                record = _record_at(wire, at, owners)
                at = record.at + record.size
                section.append(record)
                left -= 1
        if left and at != len(wire):
            raise Malformed("octets behind its end")
        for record in found[2]:
            if record.kind == OPT:
                rcode |= record.ttl_s >> 24 << 4
    return Message(wire, flags, rcode, name, kind, rdclass, found[0], found[1])


def _record_at(wire: bytes, at: int, owners: dict[int, bytes]) -> Record:
    """The record that begins there. ``owners``: names that were pointed at before."""
    target = -1
    if wire[at] >= POINTER:
        target = (wire[at] & ~POINTER) << 8 | wire[at + 1]
    owner = owners.get(target)
    if owner is not None:
        at += 2
    else:
        name, at = name_at(wire, at)
        owner = name.lower()
        if target >= 0:
            owners[target] = owner
    kind, rdclass, ttl_s, size = RECORD.unpack_from(wire, at)
    at += RECORD.size
    if at + size > len(wire) or (rdclass == IN and ADDRESS_BYTES.get(kind, size) != size):
        raise Malformed("a record's length")
    if kind != OPT and ttl_s > MAX_TTL_S:
        ttl_s = 0
    return Record(owner, kind, rdclass, ttl_s, at, size)


def name_at(wire: bytes, at: int) -> tuple[bytes, int]:
    """The name there, uncompressed and as it is spelt, and where it ends. Malformed."""
    pieces: list[bytes] = []
    end = pointers = size = 0
    lowest = begun = at
    try:
        while octet := wire[at]:
            if octet < 0x40:
                at += 1 + octet
                continue
            if octet < POINTER:
                raise Malformed("a label of no known kind")
            pieces.append(wire[begun:at])
            size += at - begun
            target = (octet & ~POINTER) << 8 | wire[at + 1]
            pointers += 1
            if target >= lowest or pointers > MAX_POINTERS or size > MAX_NAME_BYTES:
                raise Malformed("a pointer that leads nowhere")
            end = end or at + 2
            lowest = begun = at = target
    except IndexError:
        raise Malformed("a name that does not end") from None
    pieces.append(wire[begun : at + 1])
    if size + at + 1 - begun > MAX_NAME_BYTES:
        raise Malformed("too long a name")
    return b"".join(pieces), end or at + 1


def labels(name: bytes) -> list[bytes]:
    """Of an uncompressed name, without the root's."""
    found, at = [], 0
    while size := name[at]:
        found.append(name[at + 1 : at + 1 + size])
        at += 1 + size
    return found


def packed(name: str) -> bytes:
    """A name as messages have it. Malformed where it is none: UnicodeEncodeError is a ValueError too."""
    parts = name.encode("ascii").split(b".")
    if not all(0 < len(part) < 64 for part in parts):
        raise Malformed(f"{name!r} is no name")
    made = b"".join(bytes((len(part),)) + part for part in parts) + b"\0"
    if len(made) > MAX_NAME_BYTES:
        raise Malformed(f"{name!r} is too long a name")
    return made


def follow(message: Message) -> Chain:
    """From the question to the records that were asked for. Malformed where the chain has no end, or an answer denies itself."""
    by_owner: dict[tuple[bytes, int], list[Record]] = {}
    for record in message.answer:
        if record.rdclass == IN:
            by_owner.setdefault((record.owner, record.kind), []).append(record)
    name, ttl_s = message.name.lower(), MAX_TTL_S
    cnames: list[Record] = []
    while not (found := by_owner.get((name, message.kind), [])):
        aliases = by_owner.get((name, CNAME), [])
        if not aliases:
            break
        if len(cnames) == MAX_CHAIN - 1:
            raise Malformed("a chain without end")
        cnames.append(aliases[0])
        ttl_s = min(ttl_s, *(alias.ttl_s for alias in aliases))
        name = target(message, aliases[0]).lower()
    if found and message.rcode == NXDOMAIN:
        raise Malformed("an answer that denies itself")
    return Chain(cnames, name, found, min([ttl_s, *(record.ttl_s for record in found)]))


def target(message: Message, cname: Record) -> bytes:
    """Where a CNAME leads, as it is spelt. Malformed."""
    name, end = name_at(message.wire, cname.at)
    if end != cname.at + cname.size:
        raise Malformed("a record's length")
    return name


def denied_for_s(message: Message, chain: Chain) -> int | None:
    """How long it holds that a name, or its data, is not there (RFC 2308 section 5); None where no zone says so."""
    for record in message.authority:
        if (
            (record.kind, record.rdclass) == (SOA, IN)
            and record.size > SOA_NUMBERS_BYTES
            and _below(chain.end, record.owner)
        ):
            end = record.at + record.size
            return min(chain.ttl_s, record.ttl_s, int.from_bytes(message.wire[end - 4 : end], "big"))
    return None


def address_of(data: bytes) -> IPAddress:
    """Of the data of an A or AAAA record."""
    return met(socket.inet_ntop(socket.AF_INET if len(data) == 4 else socket.AF_INET6, data))


def _below(name: bytes, zone: bytes) -> bool:
    """Whether ``name`` is ``zone``, or lies in it."""
    at = 0
    while len(name) - at > len(zone):
        at += 1 + name[at]
    return name[at:] == zone
