"""HTTP/1: the authority that the first request head names, read strictly (RFC 9112).

What two parsers might read differently is refused: the gateway must never see another host than the server behind it.
"""

import re
from typing import Final

from gateway.reasons import Reason
from gateway.sniff.result import NeedMore, Refused, Sniffed
from matcher import canonical

MAX_HEAD: Final = 32 * 1024
TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"  # RFC 9110 section 5.6.2

_BEGINNING = re.compile(TOKEN + rb"{1,32}(?: |\Z)")
_REQUEST_LINE = re.compile(b"(" + TOKEN + rb"{1,32}) ([!-~]+) HTTP/1\.([01])")
_FIELD = re.compile(
    b"(" + TOKEN + rb"+):[ \t]*((?:[!-~\x80-\xff](?:[ \t!-~\x80-\xff]*[!-~\x80-\xff])?)?)[ \t]*"
)
_AUTHORITY = re.compile(rb"([^:@,/?#\[\]\s]+)(?::([0-9]{1,5}))?")
_ABSOLUTE = re.compile(rb"http://([^/?#]*)(?:[/?].*)?", re.IGNORECASE)

_BAD: Final = Refused(Reason.BAD_HTTP, "http")
_NOT: Final = Refused(Reason.NOT_TLS_NOT_HTTP)
_LONG: Final = Refused(Reason.TOO_LONG, "http")


def sniff_http(data: bytes | bytearray, scanned: int) -> Sniffed | NeedMore | Refused:
    """``data`` begins with anything but a TLS record. ``scanned`` bytes of it were seen before."""
    if not _BEGINNING.match(data, 0, 33):
        return _NOT
    end = data.find(b"\r\n\r\n", max(scanned - 3, 0), MAX_HEAD)
    if end < 0:
        if len(data) >= MAX_HEAD:
            return _LONG
        return NeedMore(1)
    return _parse(bytes(data[:end]), end + 4)


def _parse(head: bytes, consumed: int) -> Sniffed | Refused:
    first, *lines = head.split(b"\r\n")
    request = _REQUEST_LINE.fullmatch(first)
    if request is None or request[1] in (b"CONNECT", b"PRI"):
        return _BAD
    fields: dict[bytes, list[bytes]] = {}
    for line in lines:
        field = _FIELD.fullmatch(line)
        if field is None:
            return _BAD
        fields.setdefault(field[1].lower(), []).append(field[2])
    if not _is_framed(fields, request[3]) or not _may_upgrade(fields):
        return _BAD
    hosts = fields.get(b"host", [])
    if len(hosts) != 1:
        return _BAD
    return _authority(request[1], request[2], hosts[0], consumed)


def _is_framed(fields: dict[bytes, list[bytes]], minor: bytes) -> bool:
    """RFC 9112 section 6.3: one reading of where the body ends, and nothing that another parser may read otherwise."""
    coding = fields.get(b"transfer-encoding")
    lengths = fields.get(b"content-length")
    if coding is not None:
        return lengths is None and minor == b"1" and len(coding) == 1 and coding[0].lower() == b"chunked"
    return lengths is None or (len(lengths) == 1 and lengths[0].isdigit() and len(lengths[0]) <= 18)


def _may_upgrade(fields: dict[bytes, list[bytes]]) -> bool:
    """Only to websocket: after h2c nothing could be read any more."""
    upgrade = fields.get(b"upgrade")
    return b"http2-settings" not in fields and (
        upgrade is None or (len(upgrade) == 1 and upgrade[0].lower() == b"websocket")
    )


def _authority(method: bytes, target: bytes, host: bytes, consumed: int) -> Sniffed | Refused:
    """Host, and the same again in the target where the target names one (RFC 9112 section 3.2)."""
    named = _split(host)
    if named is None:
        return Refused(Reason.BAD_NAME, "http", host[:253])
    if target[:1] != b"/" and not (target == b"*" and method == b"OPTIONS"):
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None:
            return _BAD
        other = _split(absolute[1])
        if other is None or other[0] != named[0] or (other[1] or 80) != (named[1] or 80):
            return _BAD
    return Sniffed("http", named[0], named[1], False, consumed)


def _split(authority: bytes) -> tuple[str, int | None] | None:
    """Canonical host and port; None for userinfo, lists, literals and all else that is no hostname."""
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None:
        return None
    host = canonical(parts[1], single=True)
    port = int(parts[2]) if parts[2] else None
    if host is None or (port is not None and not 0 < port < 65536):
        return None
    return host, port
