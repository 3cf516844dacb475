"""TLS: the server name in the first ClientHello, read in place.

Two walks. The record walk adds up the handshake bytes that the record headers promise, and knows after each header whether the hello
ends in this record, before it, or later. Only a hello that is whole is parsed; it is joined only where records split it.
Walking indexes and never slices: an index out of range raises, a slice would silently shorten.

Every rule of the records is judged in the order of the bytes, so the answer is the same however they arrive. A look walks all records
anew; but a reader that sleeps as long as it is told looks three times at a drip, and some 40 times where every record holds one byte.
What is counted is capped (records, extensions, bytes of protocol names), far above what clients send, for a turn of a loop costs more
than a byte: bench/micro/test_sniff.py holds the dearest inputs within the caps.
"""

import re
from bisect import bisect_left
from functools import lru_cache
from itertools import accumulate
from operator import itemgetter
from struct import Struct
from struct import error as StructError
from typing import Final, TypeAlias

from gateway.reasons import Reason
from gateway.sniff.disguise import names_a_host
from gateway.sniff.result import NeedMore, Refused, Sniffed
from matcher import MAX_HOSTNAME, canonical

HANDSHAKE: Final = 22  # RFC 8446 section 5.1, ContentType
CLIENT_HELLO: Final = 1  # section 4, HandshakeType
MAX_FRAGMENT: Final = 1 << 14  # section 5.1
MAX_HANDSHAKE: Final = 32 * 1024
MAX_RECORDS: Final = 2048  # a post-quantum hello in records of one byte, or MAX_HANDSHAKE in records of 16
MAX_EXTENSIONS: Final = 256  # IANA knows fewer than 100: what a walk may cost ends here
MAX_ALPN: Final = 1024  # bytes of the list; a client's is shorter than 100
HANDSHAKE_3: Final = HANDSHAKE << 8 | 3  # and the major of every version, legacy_record_version
RECORD_HEADER: Final = 5
MAX_SHAPES: Final = 64  # that are remembered
MAX_NAMES: Final = 32  # of each that are
MAX_SHAPE: Final = 4096  # bytes of such a hello: post-quantum ones have about 1,800
CHANGING: Final = frozenset({21, 35, 41, 44, 51, 0xFE0D})
"""Extensions that a client fills anew: padding, session_ticket, pre_shared_key, cookie, key_share, encrypted_client_hello."""
SHORT: Final = 255  # bytes of a record's body: what the last byte of its length can say
MESSAGE_HEADER: Final = 4
SERVER_NAME: Final = 0  # RFC 6066 section 3
HOST_NAME: Final = 0
ALPN: Final = 16  # RFC 7301
ECH: Final = 0xFE0D  # RFC 9849
ESNI: Final = 0xFFCE

_BAD: Final = Refused(Reason.BAD_TLS, "tls")
_LONG: Final = Refused(Reason.TOO_LONG, "tls")
_both_headers: Final = Struct(">HBHI").unpack_from
_record_header: Final = Struct(">HBH").unpack_from
_new_tuple: Final = tuple.__new__  # what NeedMore() calls: without the detour a drip takes a sixth less
_behind_length: Final = itemgetter(slice(1, None))
_two_numbers: Final = Struct(">HH").unpack_from  # raises where it would read outside, as an index does

_WALK: Final = range(MAX_EXTENSIONS)

_BODIES: Final = b"|".join(b"%b.{%d}" % (re.escape(bytes((size,))), size) for size in range(1, SHORT + 1))
_RECORDS = re.compile(rb"\x16\x03[\x00-\x04]\x00(" + _BODIES + b")|.++", re.DOTALL)
"""Finds the last length byte and the body of each short record, one right behind the other, then all else at once as an empty one.

The length leads each alternative, for one that begins with another byte is passed over without being tried.
"""

Bytes: TypeAlias = bytes | bytearray | memoryview


def sniff_tls(data: Bytes) -> Sniffed | NeedMore | Refused:
    """``data`` begins with byte 22. The same answer for every way in which the same bytes arrive."""
    size = len(data)
    seen = _as_before(data, size)
    if seen is not None:
        return seen
    if size >= RECORD_HEADER + MESSAGE_HEADER:
        headers: tuple[int, int, int, int] = _both_headers(data)
        kind_and_major, minor, length, message = headers
        if kind_and_major == HANDSHAKE_3 and minor <= 4 and length <= MAX_FRAGMENT:
            if message == CLIENT_HELLO << 24 | length - MESSAGE_HEADER:
                end = RECORD_HEADER + length
                if end > size:
                    return _new_tuple(NeedMore, (end - size,))
                seen = _as_before(data, end) if end < size else None
                return seen or _remembered(
                    data, end, _vouched(data, end, _parse(data, RECORD_HEADER, end, end))
                )
    return _walk(data, size)


class _Part:
    """Of a hello: the bytes from ``begin`` to ``stop``."""

    __slots__ = ("begin", "said", "stop")

    def __init__(self, data: Bytes, begin: int, stop: int) -> None:
        self.begin = begin
        self.stop = stop
        self.said = bytes(data[begin:stop])


class _Shape:
    """All of a hello but its random bytes, keys, tickets and the name: what decides how it is read is in the rest."""

    __slots__ = ("alpn", "begin", "ech", "fixed", "seen", "stop")

    def __init__(self, fixed: list[_Part], begin: int, stop: int, seen: Sniffed) -> None:
        """``fixed``: the rest; the name is between ``begin`` and ``stop``."""
        self.fixed = fixed
        self.begin = begin
        self.stop = stop
        self.ech = seen.ech
        self.alpn = seen.alpn
        self.seen: dict[bytes, Sniffed] = {}
        """By name. The same is seen again then, and whoever has judged it may know it by that."""


_shapes: Final[dict[int, _Shape]] = {}
"""By length: a client's hellos differ in random bytes, keys and names, and are read in a tenth of the time where the rest is as it was before."""


def _as_before(data: Bytes, end: int) -> Sniffed | Refused | None:
    """What ``data`` up to ``end`` shows, if all of that but the name is as in one that was read before."""
    shape = _shapes.get(end)
    if shape is None:
        return None
    said = data if isinstance(data, bytes) else bytes(data)
    for part in shape.fixed:
        if said[part.begin : part.stop] != part.said:
            return None
    name = said[shape.begin : shape.stop]
    seen = shape.seen.get(name)
    if seen is None and (host := _hostname(name)) is not None:
        if len(shape.seen) >= MAX_NAMES:
            shape.seen.clear()
        seen = shape.seen[name] = Sniffed("tls", host, None, shape.ech, end, shape.alpn)
    return _BAD if seen is not None and names_a_host(said, end) else seen


def _vouched(data: Bytes, end: int, seen: Sniffed | Refused) -> Sniffed | Refused:
    """``seen``, if nobody can take the hello that is ``data`` up to ``end`` for a request to another host."""
    return _BAD if isinstance(seen, Sniffed) and names_a_host(bytes(data), end) else seen


def _remembered(data: Bytes, end: int, seen: Sniffed | Refused) -> Sniffed | Refused:
    """``seen``, which is what the hello that is ``data`` up to ``end`` was read as."""
    if isinstance(seen, Sniffed) and end <= MAX_SHAPE and end not in _shapes:
        if len(_shapes) >= MAX_SHAPES:
            _shapes.clear()
        _shapes[end] = _shape(data, end, seen)
    return seen


def _shape(data: Bytes, end: int, seen: Sniffed) -> _Shape:
    """Of a hello in one record, whose lengths have been found right."""
    at = RECORD_HEADER + MESSAGE_HEADER + 2  # legacy_version, then random
    fixed = [_Part(data, 0, at)]
    at += 32
    session: int = data[at]
    fixed.append(_Part(data, at, at + 1))
    last = at = at + 1 + session
    for size in (2, 1):  # cipher_suites, legacy_compression_methods
        at += size + int.from_bytes(data[at : at + size], "big")
    at += 2  # the length of the extensions
    begin = stop = 0
    while at < end:
        kind, length = _two_numbers(data, at)
        at += 4
        skip = 0
        if kind == SERVER_NAME:
            begin, stop = at + 5, at + length
            skip = 5
        if kind == SERVER_NAME or kind in CHANGING:
            fixed.append(_Part(data, last, at + skip))
            last = at + length
        at += length
    fixed.append(_Part(data, last, end))
    return _Shape(fixed, begin, stop, seen)


@lru_cache(maxsize=1024)
def _hostname(name: bytes) -> str | None:
    return canonical(name, single=True)


def _walk(data: Bytes, size: int) -> Sniffed | NeedMore | Refused:
    """What ``sniff_tls`` says of a hello that is not the one record that most clients send."""
    at = got = 0  # end of the last record promised on the wire; handshake bytes promised up to there
    need = MESSAGE_HEADER  # then, once that can be read, the whole message
    bodies: list[Bytes] = []  # of the records before this one
    while at + RECORD_HEADER <= size:
        kind_and_major, minor, length = _record_header(data, at)
        if kind_and_major != HANDSHAKE_3 or minor > 4 or not 0 < length <= MAX_FRAGMENT:
            return _BAD
        start = at + RECORD_HEADER
        at = start + length
        got += length
        if need == MESSAGE_HEADER:
            if got == length and start < size and data[start] != CLIENT_HELLO:
                return _BAD
            if got >= MESSAGE_HEADER:
                header = b"".join([*bodies, data[start:at]])[:MESSAGE_HEADER]
                if len(header) < MESSAGE_HEADER:
                    return NeedMore(at - size)
                need = MESSAGE_HEADER + (header[1] << 16 | header[2] << 8 | header[3])
                if need > MAX_HANDSHAKE:
                    return _LONG
        if got >= need:
            if got > need:
                return _BAD  # bytes after the hello in its record
            if at > size:
                return NeedMore(at - size)
            return _vouched(data, at, _parse(b"".join([*bodies, data[start:at]]), 0, need, at))
        if at - got >= MAX_RECORDS * RECORD_HEADER:
            return _LONG  # what is missing takes one more record at least
        bodies.append(data[start:at])
        if length <= SHORT and need > MESSAGE_HEADER and at + RECORD_HEADER < size:
            count, body = _short_records(data, at, need - got, MAX_RECORDS - 1 - (at - got) // RECORD_HEADER)
            bodies.append(body)
            got += len(body)
            at += count * RECORD_HEADER + len(body)
    if at < size and data[at] != HANDSHAKE:
        return _BAD
    return NeedMore(at + RECORD_HEADER + need - got - size)


def _short_records(data: Bytes, at: int, need: int, most: int) -> tuple[int, bytes]:
    """How many short records follow each other from ``at``, and their bodies joined, as far as they decide nothing.

    That is while they add up to less than ``need`` bytes, and ``most`` records at the most: no more is looked at than would hold either
    in records of one byte, so of longer ones only some are found, and the caller comes again.
    """
    found = _RECORDS.findall(data, at, at + min(need, most) * (RECORD_HEADER + 1))
    if found and not found[-1]:
        found.pop()  # what follows them
    bodies = list(map(_behind_length, found))
    joined = b"".join(bodies)
    count, total = len(bodies), len(joined)
    if total == need:
        count, total = count - 1, total - len(bodies[-1])
    elif total > need:
        ends = list(accumulate(map(len, bodies)))
        count = bisect_left(ends, need)
        total = ends[count - 1] if count else 0
    return count, joined[:total]


def _parse(data: Bytes, at: int, end: int, consumed: int) -> Sniffed | Refused:
    try:
        return _hello(data, at, end, consumed)
    except (IndexError, StructError):
        return _BAD


def _hello(data: Bytes, at: int, end: int, consumed: int) -> Sniffed | Refused:
    """RFC 8446 section 4.1.2, between ``at`` and ``end``. IndexError or StructError where a length leads outside of ``data``."""
    major = data[at + 4]
    at += 38  # header 4, legacy_version 2, random 32
    session = data[at]
    at += 1 + session
    suites = data[at] << 8 | data[at + 1]
    at += 2 + suites
    methods = data[at]
    at += 1 + methods
    if major != 3 or session > 32 or suites < 2 or suites & 1 or not methods or at > end:
        return _BAD
    if at == end:
        return Refused(Reason.NO_NAME, "tls")
    if (data[at] << 8 | data[at + 1]) != end - at - 2:
        return _BAD
    at += 2
    seen: set[int] = set()
    add = seen.add
    name: bytes | None = None
    alpn: tuple[bytes, ...] = ()
    for _ in _WALK:
        if at >= end:
            break
        kind, length = _two_numbers(data, at)
        if kind in seen:
            return _BAD
        add(kind)
        at += 4
        if kind == SERVER_NAME:
            name = _server_name(data, at, at + length)
            if name is None:
                return _BAD
        elif kind == ALPN:
            protocols = _protocols(data, at, at + length)
            if protocols is None:
                return _BAD
            alpn = protocols
        at += length
    if at != end:  # one leads outside, or there are too many
        return _BAD
    if ESNI in seen:
        return Refused(Reason.ESNI, "tls")
    if name is None:
        return Refused(Reason.NO_NAME, "tls")
    host = _hostname(name) if len(name) <= MAX_HOSTNAME + 1 else None
    if host is None:
        return Refused(Reason.BAD_NAME, "tls", name[:253])
    return _new_tuple(Sniffed, ("tls", host, None, ECH in seen, consumed, alpn))


def _server_name(data: Bytes, at: int, stop: int) -> bytes | None:
    """RFC 6066 section 3: a list of exactly one host_name; None for anything else."""
    if stop - at < 6:
        return None
    listed = data[at] << 8 | data[at + 1]
    length = data[at + 3] << 8 | data[at + 4]
    if data[at + 2] != HOST_NAME or at + 2 + listed != stop or at + 5 + length != stop:
        return None
    return bytes(data[at + 5 : stop])


def _protocols(data: Bytes, at: int, stop: int) -> tuple[bytes, ...] | None:
    """RFC 7301 section 3.1: a list of names of 1 to 255 bytes; None for anything else."""
    if not 4 <= stop - at <= 2 + MAX_ALPN or (data[at] << 8 | data[at + 1]) != stop - at - 2:
        return None
    listed = bytes(data[at + 2 : stop])  # copied once, and not name by name
    size = stop - at - 2
    begin = 0
    names = []
    while begin < size:
        end = begin + 1 + listed[begin]
        if end == begin + 1 or end > size:
            return None
        names.append(listed[begin + 1 : end])
        begin = end
    return tuple(names)
