"""TLS: the server name in the first ClientHello, read in place.

Two walks. The record walk adds up the handshake bytes that the record headers promise, and knows after each header whether the hello
ends in this record, before it, or later. Only a hello that is whole is parsed; it is joined only where records split it.
Walking indexes and never slices: an index out of range raises, a slice would silently shorten.
"""

from typing import Final

from gateway.reasons import Reason
from gateway.sniff.result import NeedMore, Refused, Sniffed
from matcher import canonical

HANDSHAKE: Final = 22  # RFC 8446 section 5.1, ContentType
CLIENT_HELLO: Final = 1  # section 4, HandshakeType
MAX_FRAGMENT: Final = 1 << 14  # section 5.1
MAX_HANDSHAKE: Final = 32 * 1024
MAX_READ: Final = 64 * 1024
SERVER_NAME: Final = 0  # RFC 6066 section 3
HOST_NAME: Final = 0
ALPN: Final = 16  # RFC 7301
ECH: Final = 0xFE0D  # RFC 9849
ESNI: Final = 0xFFCE

_BAD: Final = Refused(Reason.BAD_TLS, "tls")
_LONG: Final = Refused(Reason.TOO_LONG, "tls")


def sniff_tls(data: memoryview) -> Sniffed | NeedMore | Refused:
    """``data`` begins with byte 22. The same answer for every way in which the same bytes arrive."""
    size = len(data)
    at = got = 0
    need = 4  # handshake header; then the whole message
    spans: list[tuple[int, int]] = []
    while True:
        if at + 5 > size:
            if size > at and data[at] != HANDSHAKE:
                return _BAD
            if at >= MAX_READ:
                return _LONG
            return NeedMore(at + 5 - size + max(need - got, 1))
        length = data[at + 3] << 8 | data[at + 4]
        if data[at] != HANDSHAKE or data[at + 1] != 3 or data[at + 2] > 4 or not 0 < length <= MAX_FRAGMENT:
            return _BAD
        start = at + 5
        spans.append((start, start + length))
        at = start + length
        if at > MAX_READ:
            return _LONG
        got += length
        if need == 4 and got >= 4:
            header = _first_four(data, spans, size)
            if header is None:
                return NeedMore(1)
            if header[0] != CLIENT_HELLO:
                return _BAD
            need = 4 + (header[1] << 16 | header[2] << 8 | header[3])
            if need > MAX_HANDSHAKE:
                return _LONG
        if need == 4 and start < size and len(spans) == 1 and data[start] != CLIENT_HELLO:
            return _BAD
        if got >= 4 and got > need:
            return _BAD  # bytes after the hello in its record
        if at > size:
            return NeedMore(at - size + max(need - got, 0))
        if got >= 4 and got == need:
            hello = data[start : start + length] if len(spans) == 1 else _join(data, spans)
            return _parse(hello, at)


def _first_four(data: memoryview, spans: list[tuple[int, int]], size: int) -> bytes | None:
    """The handshake header, if all of it has arrived."""
    out = bytearray()
    for start, end in spans:
        for at in range(start, end):
            if at >= size:
                return None
            out.append(data[at])
            if len(out) == 4:
                return bytes(out)
    return None


def _join(data: memoryview, spans: list[tuple[int, int]]) -> memoryview:
    return memoryview(b"".join([data[start:end] for start, end in spans]))


def _parse(hello: memoryview, consumed: int) -> Sniffed | Refused:
    try:
        return _extensions(hello, consumed)
    except IndexError:
        return _BAD


def _extensions(hello: memoryview, consumed: int) -> Sniffed | Refused:
    """RFC 8446 section 4.1.2. IndexError where a length leads outside."""
    end = len(hello)
    at = 38  # header 4, legacy_version 2, random 32
    session = hello[at]
    at += 1 + session
    suites = hello[at] << 8 | hello[at + 1]
    at += 2 + suites
    methods = hello[at]
    at += 1 + methods
    if hello[4] != 3 or session > 32 or suites < 2 or suites & 1 or not methods or at > end:
        return _BAD
    if at == end:
        return Refused(Reason.NO_NAME, "tls")
    if (hello[at] << 8 | hello[at + 1]) != end - at - 2:
        return _BAD
    at += 2
    seen: set[int] = set()
    name: bytes | None = None
    alpn: tuple[bytes, ...] = ()
    while at < end:
        kind = hello[at] << 8 | hello[at + 1]
        stop = at + 4 + (hello[at + 2] << 8 | hello[at + 3])
        if stop > end or kind in seen:
            return _BAD
        seen.add(kind)
        if kind == SERVER_NAME:
            name = _server_name(hello, at + 4, stop)
            if name is None:
                return _BAD
        elif kind == ALPN:
            protocols = _protocols(hello, at + 4, stop)
            if protocols is None:
                return _BAD
            alpn = protocols
        at = stop
    if ESNI in seen:
        return Refused(Reason.ESNI, "tls")
    if name is None:
        return Refused(Reason.NO_NAME, "tls")
    host = canonical(name, single=True)
    if host is None:
        return Refused(Reason.BAD_NAME, "tls", name[:253])
    return Sniffed("tls", host, None, ECH in seen, consumed, alpn)


def _server_name(hello: memoryview, at: int, stop: int) -> bytes | None:
    """RFC 6066 section 3: a list of exactly one host_name; None for anything else."""
    if stop - at < 6:
        return None
    listed = hello[at] << 8 | hello[at + 1]
    length = hello[at + 3] << 8 | hello[at + 4]
    if hello[at + 2] != HOST_NAME or at + 2 + listed != stop or at + 5 + length != stop:
        return None
    return bytes(hello[at + 5 : stop])


def _protocols(hello: memoryview, at: int, stop: int) -> tuple[bytes, ...] | None:
    """RFC 7301 section 3.1: a list of names of 1 to 255 bytes; None for anything else."""
    if stop - at < 4 or (hello[at] << 8 | hello[at + 1]) != stop - at - 2:
        return None
    at += 2
    names = []
    while at < stop:
        length = hello[at]
        if not length or at + 1 + length > stop:
            return None
        names.append(bytes(hello[at + 1 : at + 1 + length]))
        at += 1 + length
    return tuple(names)
