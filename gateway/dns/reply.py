"""What the sandbox is told: messages of our own making, as the queries are that leave for it. Pure.

Of the resolver's answer the sandbox gets the chain from its question to the records it asked for, and nothing beside it: without addresses that
the gateway would not dial for that name, and without keys of Encrypted Client Hello, which would hide the name it is let out by.

What there is to tell is worked out once an answer (``Telling``), within bounds. A query of its own, and there may be thousands a second, costs the
id, the question as it was spelt, the seconds that are left, and the OPT record.
"""

import struct
from typing import Final, NamedTuple

from gateway.addresses import SINKHOLE
from gateway.dns.data import Keeps, admitted, data_of
from gateway.flow import IPAddress
from gateway.net.message import (
    CNAME,
    HEADER,
    IN,
    NXDOMAIN,
    OPT,
    POINTER,
    QR,
    RECORD,
    SOA,
    TC,
    TYPE_CLASS,
    A,
    Malformed,
    follow,
    read,
    target,
)

SINKHOLE_TTL_S: Final = 5
"""A policy may change; the next query should see it."""
PAYLOAD_BYTES: Final = 1232  # DNS flag day 2020
MIN_PAYLOAD_BYTES: Final = 512  # RFC 6891 section 6.2.3
MAX_TCP_BYTES: Final = 0xFFFF
RA: Final = 0x0080
SERVFAIL: Final = 2
EDE: Final = 15  # RFC 8914: an option's code
OPT_BYTES: Final = 11
POINTED_BYTES: Final = 0x4000  # RFC 1035 section 4.1.4: fourteen bits


class Query(NamedTuple):
    """What an answer has from its query."""

    head: bytes
    """Id and flags."""
    name: bytes
    """Uncompressed, as it is spelt."""
    kind: int
    rdclass: int
    payload: int = -1
    """How long a datagram the client takes; -1 where it has no OPT record."""


class Telling(NamedTuple):
    """What there is to tell of one answer, whoever asks for it in whatever way."""

    rcode: int
    name: bytes = b""
    """That it is about, in lower case; nothing where there are no records."""
    parts: tuple[bytes, ...] = ()
    """All behind the question, cut where TTLs belong; compressed against a question of that length."""
    cuts: tuple[int, ...] = ()
    """Where each set of records ends: a message that has no room for all of them has whole ones."""
    counts: tuple[tuple[int, int], ...] = ()
    """How many records the message has up to there: answers, authority."""
    emptied: bool = False
    """There were records, and none could be handed on."""
    addresses: tuple[IPAddress, ...] = ()
    """That are told."""


FAILURE: Final = Telling(SERVFAIL)


def tell(found: bytes, keeps: Keeps) -> Telling:
    """What the sandbox is told of the resolver's answer ``found``: of its addresses, those that ``keeps`` admits. Malformed where it cannot be read.

    dns.exception.DNSException, ValueError and the like where a service's record cannot be.
    """
    message = read(found)
    if message.rcode not in (0, NXDOMAIN):
        return FAILURE
    if not (message.flags & QR and message.name and message.rdclass == IN):
        raise Malformed("that is no answer to a question")
    chain = follow(message)
    writing = _Writing(message.name)
    for cname in chain.cnames:
        writing.add(cname.owner, CNAME, b"", target(message, cname))
        writing.end()
    addresses: list[IPAddress] = []
    if chain.found:
        told = list(admitted(message, chain, keeps, addresses))
        for data in told:
            writing.add(chain.end, message.kind, data)
        writing.end()
        return writing.telling(message.rcode, not told, addresses)
    for record in message.authority:
        if (record.kind, record.rdclass) == (SOA, IN):
            writing.add(record.owner, SOA, data_of(message, record))
            writing.end(authority=True)
            break
    return writing.telling(message.rcode, False, [])


class _Writing:
    """Puts what follows a question together."""

    def __init__(self, name: bytes) -> None:
        self._name = name.lower()
        self._placed: dict[bytes, int] = {}
        self._size = HEADER.size
        self._compressed(name)
        self._begun = self._size = self._size + len(name) + TYPE_CLASS.size
        self._parts: list[bytes] = []
        self._part = b""
        self._cuts: list[int] = []
        self._counts: list[tuple[int, int]] = []
        self._records = 0

    def add(self, owner: bytes, kind: int, data: bytes, name: bytes = b"") -> None:
        """One record; ``name`` ends its data, compressed."""
        head = self._part + self._compressed(owner)
        self._size += len(head) - len(self._part)
        head += TYPE_CLASS.pack(kind, IN)
        self._size += RECORD.size
        if name:
            data += self._compressed(name)
        self._parts.append(head)
        self._part = len(data).to_bytes(2, "big") + data
        self._size += len(data)
        self._records += 1

    def end(self, *, authority: bool = False) -> None:
        """Of a set of records."""
        before = self._counts[-1][0] if self._counts else 0
        self._cuts.append(self._size - self._begun)
        self._counts.append((before, self._records - before) if authority else (self._records, 0))

    def telling(self, rcode: int, emptied: bool, addresses: list[IPAddress]) -> Telling:
        parts = (*self._parts, self._part) if self._parts else ()
        return Telling(
            rcode, self._name, parts, tuple(self._cuts), tuple(self._counts), emptied, tuple(addresses)
        )

    def _compressed(self, name: bytes) -> bytes:
        """RFC 1035 section 4.1.4, for a name that begins where the message ends; others may point to it from now on."""
        at = 0
        while name[at]:
            rest = name[at:].lower()
            place = self._placed.get(rest)
            if place is not None:
                return name[:at] + (POINTER << 8 | place).to_bytes(2, "big")
            if self._size + at < POINTED_BYTES:
                self._placed[rest] = self._size + at
            at += 1 + name[at]
        return name


def say(query: Query, told: Telling, ttl_s: int, *, tcp: bool) -> bytes:
    """The answer to ``query``, good for ``ttl_s`` seconds. Truncated where it does not fit what the client can take."""
    if told.name != query.name.lower() and told.name:
        told = FAILURE
    body = ttl_s.to_bytes(4, "big").join(told.parts)
    room = _room(query, tcp=tcp) - HEADER.size - len(query.name) - TYPE_CLASS.size
    if query.payload >= 0:
        room -= OPT_BYTES
    answers, authority = told.counts[-1] if told.counts else (0, 0)
    flags = 0
    if len(body) > room:
        flags, answers, authority, end = TC, 0, 0, 0
        for cut, counts in zip(told.cuts, told.counts, strict=True):
            if cut <= room:
                (answers, authority), end = counts, cut
        body = body[:end]
    return _message(query, told.rcode, flags=flags, body=body, answers=answers, authority=authority)


def nothing(query: Query, rcode: int = 0) -> bytes:
    """An answer without records."""
    return _message(query, rcode)


def sinkhole(query: Query) -> bytes:
    """For a name that is not allowed: an address to connect to and be refused at, under that name."""
    if query.kind != A:
        return _message(query, 0)
    owner = (POINTER << 8 | HEADER.size).to_bytes(2, "big") if len(query.name) > 1 else query.name
    record = owner + RECORD.pack(A, IN, SINKHOLE_TTL_S, 4) + SINKHOLE.packed
    return _message(query, 0, body=record, answers=1)


def error(query: Query, rcode: int, code: int, text: str) -> bytes:
    """An error with an Extended DNS Error (RFC 8914), for those who can read one."""
    why = code.to_bytes(2, "big") + text.encode()
    return _message(query, rcode, options=struct.pack("!HH", EDE, len(why)) + why)


def _message(
    query: Query,
    rcode: int,
    *,
    flags: int = 0,
    body: bytes = b"",
    answers: int = 0,
    authority: int = 0,
    options: bytes = b"",
) -> bytes:
    """The query's id, RD and question, and what goes with them."""
    ident, asked = struct.unpack("!HH", query.head)
    flags |= QR | asked & 0x7900 | RA | rcode  # opcode, RD
    with_opt = query.payload >= 0
    head = HEADER.pack(ident, flags, 1, answers, authority, int(with_opt))
    question = query.name + TYPE_CLASS.pack(query.kind, query.rdclass)
    opt = b"\0" + RECORD.pack(OPT, PAYLOAD_BYTES, 0, len(options)) + options if with_opt else b""
    return head + question + body + opt


def _room(query: Query, *, tcp: bool) -> int:
    if tcp:
        return MAX_TCP_BYTES
    return min(max(query.payload, MIN_PAYLOAD_BYTES), PAYLOAD_BYTES)
