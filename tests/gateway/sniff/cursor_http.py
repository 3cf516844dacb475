"""The same question as ``gateway.sniff.http``, answered the plain way: the specification that the fast patterns are compared with.

Nothing is shared with the fast reading but the three result types. Bytes are read one by one, without a regular expression; what is
known is said at the byte that makes it known, so the answer cannot depend on how the bytes arrived.
"""

from gateway.reasons import Reason
from gateway.sniff.result import NeedMore, Refused, Sniffed
from tests.gateway.sniff.cursor_tls import DIGITS, LETTERS, hostname

LIMIT_HEAD = 32768
LIMIT_METHOD = 32
LIMIT_LENGTH_DIGITS = 18

NOT = Refused(Reason.NOT_TLS_NOT_HTTP)
BAD = Refused(Reason.BAD_HTTP, "http")
LONG = Refused(Reason.TOO_LONG, "http")

TAB, LF, CR, SPACE, DELETE = 0x09, 0x0A, 0x0D, 0x20, 0x7F
TCHAR = frozenset(b"!#$%&'*+-.^_`|~" + DIGITS + LETTERS + LETTERS.upper())  # RFC 9110 section 5.6.2


class Malformed(Exception):
    """A head that is not passed on, or that is none."""


class BadName(Exception):
    """Host is not a hostname; ``args[0]`` is what it is."""


def read_http(data: bytes) -> Sniffed | NeedMore | Refused:
    """``data`` begins with neither byte 22 nor a byte above 0x7f."""
    lines: list[bytes] = []
    line = bytearray()
    in_method = True
    previous = 0
    for at, byte in enumerate(data[:LIMIT_HEAD]):
        if in_method:
            if byte == SPACE and at > 0:
                in_method = False
            elif byte not in TCHAR or at >= LIMIT_METHOD:
                return NOT
        if byte == LF:
            if previous != CR:
                return BAD
            lines.append(bytes(line))
            if len(lines) == 1 and not is_request_line(lines[0]):
                return BAD
            if not line:
                return judge(lines[:-1], at + 1)
            line.clear()
        elif previous == CR:
            return BAD
        elif is_text(byte):
            line.append(byte)
        elif byte != CR:
            return BAD
        previous = byte
    if len(data) >= LIMIT_HEAD:
        return LONG
    return NeedMore(missing(data))


def missing(data: bytes) -> int:
    """The fewest bytes that can end the head (RFC 9112 section 2.1: an empty line)."""
    return next(count for count in range(1, 5) if (data + b"\r\n\r\n"[4 - count :]).endswith(b"\r\n\r\n"))


def is_text(byte: int) -> bool:
    """RFC 9110 section 5.5: what may stand in a field value; so in a line at all."""
    return byte == TAB or (byte >= SPACE and byte != DELETE)


def is_request_line(line: bytes) -> bool:
    """RFC 9112 section 3, without the two methods after which no request could be read any more."""
    parts = line.split(b" ")
    if len(parts) != 3:
        return False
    method, target, version = parts
    return (
        method not in (b"CONNECT", b"PRI")
        and target != b""
        and all(SPACE < byte < DELETE for byte in target)
        and version in (b"HTTP/1.0", b"HTTP/1.1")
    )


def judge(lines: list[bytes], consumed: int) -> Sniffed | Refused:
    method, target, version = lines[0].split(b" ")
    try:
        fields = [read_field(line) for line in lines[1:]]
        check_framing(fields, version)
        check_upgrade(fields)
        (host,) = values(fields, b"host")
        name, port = authority(host)
        check_target(method, target, name, port)
    except BadName as bad:
        return Refused(Reason.BAD_NAME, "http", bad.args[0][:253])
    except (Malformed, ValueError):
        return BAD
    return Sniffed("http", name, port, False, consumed)


def read_field(line: bytes) -> tuple[bytes, bytes]:
    """RFC 9112 section 5: no space before the colon, no folding."""
    name, colon, value = line.partition(b":")
    if not colon or not name or not all(byte in TCHAR for byte in name):
        raise Malformed
    return name.lower(), value.strip(b" \t")


def values(fields: list[tuple[bytes, bytes]], wanted: bytes) -> list[bytes]:
    return [value for name, value in fields if name == wanted]


def check_framing(fields: list[tuple[bytes, bytes]], version: bytes) -> None:
    """RFC 9112 section 6: Content-Length or Transfer-Encoding, once, or neither."""
    codings = values(fields, b"transfer-encoding")
    lengths = values(fields, b"content-length")
    if len(codings) + len(lengths) > 1:
        raise Malformed
    if codings and (version == b"HTTP/1.0" or codings[0].lower() != b"chunked"):
        raise Malformed
    if lengths and not is_number(lengths[0], LIMIT_LENGTH_DIGITS):
        raise Malformed


def is_number(text: bytes, most_digits: int) -> bool:
    return 1 <= len(text) <= most_digits and all(byte in DIGITS for byte in text)


def check_upgrade(fields: list[tuple[bytes, bytes]]) -> None:
    upgrades = values(fields, b"upgrade")
    if values(fields, b"http2-settings") or [u.lower() for u in upgrades] not in ([], [b"websocket"]):
        raise Malformed


def authority(text: bytes) -> tuple[str, int | None]:
    """RFC 3986 section 3.2 as far as the gateway goes: a hostname, and a port if there is a colon."""
    host, colon, digits = text.partition(b":")
    name = hostname(host)
    if name is None:
        raise BadName(text)
    if not colon:
        return name, None
    if not is_number(digits, 5) or not 1 <= int(digits) <= 65535:
        raise BadName(text)
    return name, int(digits)


def check_target(method: bytes, target: bytes, name: str, port: int | None) -> None:
    """RFC 9112 section 3.2: origin-form, asterisk-form, or an absolute-form that says the same as Host."""
    if target.startswith(b"/") or (method == b"OPTIONS" and target == b"*"):
        return
    scheme, rest = target[:7], target[7:]
    if scheme.lower() != b"http://":
        raise Malformed
    end = next((at for at, byte in enumerate(rest) if byte in b"/?#"), len(rest))
    if rest[end : end + 1] == b"#":
        raise Malformed
    try:
        other, other_port = authority(rest[:end])
    except BadName:
        raise Malformed from None
    if other != name or (other_port or 80) != (port or 80):
        raise Malformed
