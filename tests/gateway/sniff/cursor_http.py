"""The same question as ``gateway.sniff.http``, answered the plain way: the specification that the fast reading is compared with.

Nothing is shared with the fast reading but the result types. The head is cut into lines; what is there is judged in the order in which
a client sends it. No pattern is matched: bytes are looked up in sets, and cut at the delimiters that the RFC names.
"""

from gateway.reasons import Reason
from gateway.sniff.result import NeedMore, Refused, Sniffed
from tests.gateway.sniff.cursor_tls import hostname

LIMIT_HEAD = 32768
LIMIT_METHOD = 32
LIMIT_FIELDS = 500

BAD = Refused(Reason.BAD_HTTP, "http")
LONG = Refused(Reason.TOO_LONG, "http")
NEITHER = Refused(Reason.NOT_TLS_NOT_HTTP)

DIGITS = frozenset(b"0123456789")
LETTERS = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
TCHAR = frozenset(b"!#$%&'*+-.^_`|~") | DIGITS | LETTERS  # RFC 9110 section 5.6.2
VCHAR = frozenset(range(0x21, 0x7F))
OBS_TEXT = frozenset(range(0x80, 0x100))
LINE = VCHAR | OBS_TEXT | frozenset(b" \t")  # what no rule of RFC 9112 section 2.2 forbids everywhere


def read_http(data: bytes) -> Sniffed | NeedMore | Refused:
    """``at_least`` is always 1: how long to wait is not part of the specification."""
    if not data:
        return NeedMore(1)
    if not begins_with_method(data):
        return NEITHER
    head = data[:LIMIT_HEAD]
    lines: list[bytes] = []
    while b"\n" in head:
        line, _, head = head.partition(b"\n")
        if line[-1:] != b"\r" or not LINE.issuperset(line[:-1]):
            return BAD  # a bare LF or CR (RFC 9112 section 2.2), or a control character
        if line == b"\r":
            return read_head(lines, sum(len(line) + 2 for line in lines) + 2)
        lines.append(line[:-1])
        if read_request_line(lines[0]) is None:
            return BAD
    if not LINE.issuperset(head.removesuffix(b"\r")):
        return BAD
    return LONG if len(data) >= LIMIT_HEAD else NeedMore(1)


def begins_with_method(data: bytes) -> bool:
    """A token and a space, or so far only the token. No empty line before it is skipped."""
    method, space, _ = data[: LIMIT_METHOD + 1].partition(b" ")
    return TCHAR.issuperset(method) and len(method) <= LIMIT_METHOD and (method != b"" or not space)


def read_request_line(line: bytes) -> tuple[bytes, bytes, bytes] | None:
    """Method, target and version (RFC 9112 section 3): exactly two spaces, and a version that the gateway speaks."""
    parts = line.split(b" ")
    if len(parts) != 3:
        return None
    method, target, version = parts
    if not target or not VCHAR.issuperset(target) or version not in (b"HTTP/1.0", b"HTTP/1.1"):
        return None
    if method in (b"CONNECT", b"PRI"):
        return None
    return method, target, version


def read_head(lines: list[bytes], consumed: int) -> Sniffed | Refused:
    """All lines before the empty one, each without its CRLF."""
    if len(lines) > 1 + LIMIT_FIELDS:
        return LONG
    request = read_request_line(lines[0])
    fields = read_fields(lines[1:])
    if request is None or fields is None:
        return BAD
    method, target, version = request
    if has_tabs(fields) or not frames_one_body(fields, version) or not asks_for_one_protocol(fields):
        return BAD
    hosts = fields.get(b"host", [])
    if len(hosts) != 1:  # RFC 9112 section 3.2; of HTTP/1.0 too
        return BAD
    named = read_authority(hosts[0])
    if named is None:
        return Refused(Reason.BAD_NAME, "http", hosts[0][:253])
    other = read_target(method, target, named)
    if other is None or (other[0], other[1] or 80) != (named[0], named[1] or 80):
        return BAD
    return Sniffed("http", named[0], named[1] or other[1], False, consumed)


def read_fields(lines: list[bytes]) -> dict[bytes, list[bytes]] | None:
    """Field values by lower-case name (RFC 9112 section 5). A folded line begins with a space, so its name is no token."""
    fields: dict[bytes, list[bytes]] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not name or not TCHAR.issuperset(name):
            return None
        fields.setdefault(name.lower(), []).append(value.strip(b" "))
    return fields


def frames_one_body(fields: dict[bytes, list[bytes]], version: bytes) -> bool:
    """RFC 9112 section 6: nothing, one length, or one coding that is chunked."""
    lengths = fields.get(b"content-length", [])
    codings = fields.get(b"transfer-encoding", [])
    if len(lengths) + len(codings) > 1:
        return False
    if any(not length or len(length) > 18 or not DIGITS.issuperset(length) for length in lengths):
        return False
    return all(coding.lower() == b"chunked" and version == b"HTTP/1.1" for coding in codings)


def has_tabs(fields: dict[bytes, list[bytes]]) -> bool:
    """Where who strips blanks alone reads another value than who strips tabs too (RFC 9110 section 5.5 has both)."""
    names = (b"host", b"content-length", b"transfer-encoding")
    return any(b"\t" in value for name in names for value in fields.get(name, []))


def asks_for_one_protocol(fields: dict[bytes, list[bytes]]) -> bool:
    """Whatever it is: that is for who sees the answer."""
    return len(fields.get(b"upgrade", [])) <= 1 and len(fields.get(b"http2-settings", [])) <= 1


def read_authority(text: bytes) -> tuple[str, int | None] | None:
    """RFC 3986 section 3.2 without userinfo, without literals, and with digits after the colon if there is one."""
    name, colon, digits = text.partition(b":")
    host = hostname(name)
    if host is None:
        return None
    if not colon:
        return host, None
    if not 1 <= len(digits) <= 5 or not DIGITS.issuperset(digits) or int(digits) not in range(1, 65536):
        return None
    return host, int(digits)


def read_target(method: bytes, target: bytes, named: tuple[str, int | None]) -> tuple[str, int | None] | None:
    """RFC 9112 section 3.2: what a URI of http names; what Host names where it is a path, or ``*`` for OPTIONS."""
    if target.startswith(b"/") or (target == b"*" and method == b"OPTIONS"):
        return named
    if target[:7].lower() != b"http://":
        return None
    rest = target[7:]
    end = min((at for at in (rest.find(mark) for mark in (b"/", b"?", b"#")) if at >= 0), default=len(rest))
    if rest[end : end + 1] == b"#":
        return None  # no fragment is ever sent
    return read_authority(rest[:end])
