"""HTTP/1: the authority that the first request head names, read strictly (RFC 9112).

What two parsers might read differently is refused: the gateway must never see another host than the server behind it.

No pattern reads a run of bytes twice (runs are possessive, and delimited by what cannot stand in them), so a head takes linear time.
Groups are never possessive: before Python 3.11.5 one that fails halfway loses its place (gh-106052). While a head is incomplete only its
new bytes are looked at. A byte that no head may hold, and a request line that is none, refuse as soon as they are there, so the
answer is the same however the bytes arrive; all other rules are judged when the head is whole, the number of fields before any of them.
"""

import re
from typing import Final, TypeAlias

from gateway.reasons import Reason
from gateway.sniff.result import NeedMore, Refused, Sniffed
from matcher import canonical
from matcher.hostname import MAX_HOSTNAME

MAX_HEAD: Final = 32 * 1024
MAX_METHOD: Final = 32
MAX_FIELDS: Final = 500  # five times what Apache, Envoy, gunicorn and HAProxy take by default
MAX_LINE: Final = 1024  # of a chunk's size and extensions
MAX_AUTHORITY: Final = MAX_HOSTNAME + len(".:65535")
LINE_FEED: Final = 10
CARRIAGE_RETURN: Final = 13
TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"  # RFC 9110 section 5.6.2
TEXT: Final = rb"[\t -~\x80-\xff]"  # what a field value may hold (section 5.5), obs-text included

QUOTED: Final = rb"\"(?:[\t !#-.0-\[\]-~]++|(?<![Hh][Tt][Tt][Pp])/|\\[\t -~])*\""
"""Of a chunk's extension, but for ``HTTP/``: a server that knows no chunks reads the line as a request's, and it must be none to it, however freely
it reads."""

_BEGINNING = re.compile(TOKEN + rb"{1,32}+(?: |\Z)")
_LINES = re.compile(b"(" + TEXT + rb"*+)(?:\r\n" + TEXT + rb"++)*(?:(\r\n\r\n)|\r\n\r?|\r)?")
_IN_A_LINE = re.compile(TEXT + b"++")
_REQUEST_LINE = re.compile(rb"(" + TOKEN + rb"{1,32}+) ([!-~]++) HTTP/1\.([01])(?=\r\n)")
FIELDS: Final = rb"(?:\r\n" + TOKEN + rb"++:" + TEXT + rb"*+){0,%d}" % MAX_FIELDS
_FIELDS = re.compile(FIELDS)
_FRAMING_NAMES: Final = (
    rb"[Cc][Oo][Nn][Tt][Ee][Nn][Tt]-[Ll][Ee][Nn][Gg][Tt][Hh]"
    rb"|[Tt][Rr][Aa][Nn][Ss][Ff][Ee][Rr]-[Ee][Nn][Cc][Oo][Dd][Ii][Nn][Gg]"
)
_ASKING_NAMES: Final = rb"[Uu][Pp][Gg][Rr][Aa][Dd][Ee]|[Hh][Tt][Tt][Pp]2-[Ss][Ee][Tt][Tt][Ii][Nn][Gg][Ss]"
_TELLING = re.compile(rb"\r\n([Hh][Oo][Ss][Tt]|" + _FRAMING_NAMES + b"|" + _ASKING_NAMES + rb"):([^\r]*+)")
FRAMING = re.compile(rb"\r\n(" + _FRAMING_NAMES + rb"):([^\r]*+)")
FRAMING_OR_ASKING = re.compile(rb"\r\n(" + _FRAMING_NAMES + b"|" + _ASKING_NAMES + rb"):([^\r]*+)")
ASKING: Final = frozenset((b"upgrade", b"http2-settings"))
"""Who says one of these may be answered in another protocol."""
_AUTHORITY = re.compile(rb"([^:@,/?#\[\]\s]++)(?::([0-9]{1,5}))?")
_ABSOLUTE = re.compile(rb"http://([^/?#]*+)(?:[/?].*+)?", re.IGNORECASE)

_BAD: Final = Refused(Reason.BAD_HTTP, "http")
_NOT: Final = Refused(Reason.NOT_TLS_NOT_HTTP)
_LONG: Final = Refused(Reason.TOO_LONG, "http")
_EMPTY_LINE: Final = NeedMore(len(b"\r\n\r\n"))

Bytes: TypeAlias = bytes | bytearray | memoryview


def sniff_http(data: Bytes, scanned: int) -> Sniffed | NeedMore | Refused:
    """``data`` begins with anything but a TLS record. Of its first ``scanned`` bytes an earlier call said ``NeedMore``."""
    if scanned <= MAX_METHOD and not _BEGINNING.match(data, 0, MAX_METHOD + 1):
        return _NOT
    size = min(len(data), MAX_HEAD)
    if MAX_METHOD < scanned < size <= MAX_HEAD - 4 and data[scanned - 1] > CARRIAGE_RETURN:
        if _IN_A_LINE.fullmatch(data, scanned, size):
            return _EMPTY_LINE  # a drip: nothing has come but more of the line that was read last
    start = scanned - 4 if 4 < scanned <= size else 0
    if start and data[start] == LINE_FEED:
        start -= 1
    lines = _LINES.match(data, start, size)
    if lines is not None and lines.end() - lines.end(1) >= 2:
        whole = lines.lastindex == 2
        if whole or not _ended_before(data, start):
            request = _REQUEST_LINE.match(data, 0, size)
            if request is None or request[1] in (b"CONNECT", b"PRI"):
                return _BAD
            if whole:
                return _parse(data, request, lines.start(2))
    if lines is None or lines.end() < size:
        return _BAD
    if size == MAX_HEAD:
        return _LONG
    missing = 4 if data[size - 1] > CARRIAGE_RETURN else _missing(bytes(data[max(size - 3, 0) : size]))
    return NeedMore(min(missing, MAX_HEAD - size))  # at MAX_HEAD it is refused, whatever is missing


def _ended_before(data: Bytes, start: int) -> bool:
    """Whether the request line ended before ``start``, and so was judged by an earlier call."""
    return not isinstance(data, memoryview) and data.find(b"\n", 0, start) >= 0


def _missing(tail: bytes) -> int:
    """How many bytes of the empty line that ends a head are not there yet."""
    if tail == b"\r\n\r":
        return 1
    if tail.endswith(b"\r\n"):
        return 2
    return 3 if tail.endswith(b"\r") else 4


def _parse(data: Bytes, request: re.Match[bytes], end: int) -> Sniffed | Refused:
    if not _FIELDS.fullmatch(data, request.end(), end):
        return _LONG if bytes(data[request.end() : end]).count(b"\r\n") > MAX_FIELDS else _BAD
    fields: dict[bytes, bytes] = {}
    for field in _TELLING.finditer(data, request.end(), end):
        name, value = field[1].lower(), field[2].strip(b" ")
        if name in fields or (b"\t" in value and name not in ASKING):
            return (
                _BAD  # each of these may be said once; and a tab about its value is the value's own to nginx
            )
        fields[name] = value
    host = fields.get(b"host")
    if host is None or not _is_framed(fields, request[3]):
        return _BAD
    return _authority(request[1], request[2], host, end + 4)


def _is_framed(fields: dict[bytes, bytes], minor: bytes) -> bool:
    """RFC 9112 section 6.3: one reading of where the body ends, and nothing that another parser may read otherwise."""
    coding = fields.get(b"transfer-encoding")
    length = fields.get(b"content-length")
    if coding is not None:
        return length is None and minor == b"1" and coding.lower() == b"chunked"
    return length is None or (length.isdigit() and len(length) <= 18)


def _authority(method: bytes, target: bytes, host: bytes, consumed: int) -> Sniffed | Refused:
    """Host, and the same again in the target where the target names one (RFC 9112 section 3.2)."""
    named = _split(host)
    if named is None:
        return Refused(Reason.BAD_NAME, "http", host[:253])
    port = named[1]
    if target[:1] != b"/" and not (target == b"*" and method == b"OPTIONS"):
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None:
            return _BAD
        other = _split(absolute[1])
        if other is None or other[0] != named[0] or (other[1] or 80) != (port or 80):
            return _BAD
        port = port or other[1]
    return Sniffed("http", named[0], port, False, consumed)


def _split(authority: bytes) -> tuple[str, int | None] | None:
    """Canonical host and port; None for userinfo, lists, literals and all else that is no hostname."""
    parts = _AUTHORITY.fullmatch(authority) if len(authority) <= MAX_AUTHORITY else None
    if parts is None:
        return None
    host = canonical(parts[1], single=True)
    port = int(parts[2]) if parts[2] else None
    if host is None or (port is not None and not 0 < port < 65536):
        return None
    return host, port
