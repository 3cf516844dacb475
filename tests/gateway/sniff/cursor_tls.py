"""The same question as ``gateway.sniff.tls``, answered the plain way: the specification that the fast walk is compared with.

Nothing is shared with the fast walk but the three result types. All records are collected first; then every rule that the bytes
break notes at which byte that was known, and the whole hello notes where it ends. The earliest note is the answer: so the answer
cannot depend on how the bytes arrived. Only then is the message read, with a cursor that owns every length (RFC 8446 section 3.4).
"""

from typing import NamedTuple

from gateway.reasons import Reason
from gateway.sniff.result import NeedMore, Refused, Sniffed

LIMIT_HANDSHAKE = 32768
LIMIT_RECORD = 16384
LIMIT_RECORDS = 2048
LIMIT_EXTENSIONS = 256
LIMIT_ALPN = 1024

BAD = Refused(Reason.BAD_TLS, "tls")
LONG = Refused(Reason.TOO_LONG, "tls")

LETTERS = b"abcdefghijklmnopqrstuvwxyz"
DIGITS = b"0123456789"
BLANKS = b"\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0"
SCHEME = LETTERS + LETTERS.upper() + DIGITS + b"+.-"
LABEL_BYTES = LETTERS + LETTERS.upper() + DIGITS + b"_-"


class Malformed(Exception):
    """A length that leads outside, or a value that the RFC does not allow."""


class Record(NamedTuple):
    header_end: int
    end: int
    """Where the record ends on the wire, whether or not so much has arrived."""
    body: bytes


class Note(NamedTuple):
    known_at: int
    """How many bytes of the connection it takes to know this."""
    answer: Sniffed | Refused


class Cursor:
    """Reads the presentation language of RFC 8446 section 3: what is not there cannot be taken."""

    def __init__(self, data: bytes) -> None:
        self.rest = data

    def take(self, count: int) -> bytes:
        if count > len(self.rest):
            raise Malformed
        taken, self.rest = self.rest[:count], self.rest[count:]
        return taken

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "big")

    def vector(self, width: int, least: int = 0, most: int = 1 << 24) -> bytes:
        """A variable-length vector, ``opaque x<least..most>``, its length written in ``width`` bytes."""
        body = self.take(self.number(width))
        if not least <= len(body) <= most:
            raise Malformed
        return body

    def finish(self) -> None:
        if self.rest:
            raise Malformed


def read_tls(data: bytes) -> Sniffed | NeedMore | Refused:
    """``data`` begins with byte 22. ``at_least`` is always 1: how long to wait is not part of the specification."""
    records, notes = collect(data)
    message = b"".join(record.body for record in records)
    if message and message[0] != 1:  # HandshakeType client_hello
        notes.append(Note(wire_offset(records, 0) + 1, BAD))
    if len(message) >= 4:
        size = 4 + int.from_bytes(message[1:4], "big")
        sized_at = wire_offset(records, 3) + 1
        if size > LIMIT_HANDSHAKE:
            notes.append(Note(sized_at, LONG))
        notes += layout(records, message, size, sized_at)
    notes = [note for note in notes if note.known_at <= len(data)]
    if not notes:
        return NeedMore(1)
    answer = min(notes, key=lambda note: note.known_at).answer
    return BAD if isinstance(answer, Sniffed) and reads_as_request(data[: answer.consumed]) else answer


def reads_as_request(wire: bytes) -> bool:
    """Whether one who takes these bytes for HTTP may find a host in them: a field of that name, or a second word in absolute form."""
    for blanks in (b" ", b"\t\n\v\f\r ", BLANKS):
        _, *words = spaced(wire, blanks).split(b" ")
        word = next(filter(None, words), b"")
        scheme, mark, rest = word.partition(b"://")
        if (
            mark
            and chr(scheme[0] if scheme else 0).isalpha()
            and not scheme.strip(SCHEME)
            and visible(rest[:3]) == 3
        ):
            return True
    fields = spaced(wire.lower(), BLANKS).split(b" host")[1:]
    return any(field.lstrip(b" ").startswith(b":") for field in fields)


def spaced(text: bytes, blanks: bytes) -> bytes:
    for blank in blanks:
        text = text.replace(bytes((blank,)), b" ")
    return text


def visible(text: bytes) -> int:
    return sum(0x21 <= byte <= 0x7E for byte in text)


def collect(data: bytes) -> tuple[list[Record], list[Note]]:
    """Every record header that has arrived whole (RFC 8446 section 5.1), up to the first that is none."""
    records: list[Record] = []
    at = 0
    while at < len(data):
        if data[at] != 22:  # ContentType handshake
            return records, [Note(at + 1, BAD)]
        header = Cursor(data[at + 1 : at + 5])
        try:
            major, minor, length = header.number(1), header.number(1), header.number(2)
        except Malformed:
            break
        if major != 3 or minor not in range(5) or length not in range(1, LIMIT_RECORD + 1):
            return records, [Note(at + 5, BAD)]
        records.append(Record(at + 5, at + 5 + length, data[at + 5 : at + 5 + length]))
        at += 5 + length
    return records, []


def wire_offset(records: list[Record], index: int) -> int:
    """Where byte ``index`` of the handshake lies on the wire."""
    for record in records:
        if index < len(record.body):
            return record.header_end + index
        index -= len(record.body)
    raise AssertionError("asked for a byte that has not arrived")


def layout(records: list[Record], message: bytes, size: int, sized_at: int) -> list[Note]:
    """How the records must lie about a hello of ``size`` bytes: it ends where a record ends, and no later than the last record that is read."""
    notes = []
    promised = 0
    for number, record in enumerate(records, 1):
        promised += record.end - record.header_end
        known_at = max(record.header_end, sized_at)
        missing = size - promised
        if missing < 0:
            notes.append(Note(known_at, BAD))
        elif missing and number >= LIMIT_RECORDS:
            notes.append(Note(known_at, LONG))
        elif not missing and len(message) >= size:
            notes.append(Note(record.end, read_hello(message[:size], record.end)))
    return notes


def read_hello(message: bytes, consumed: int) -> Sniffed | Refused:
    try:
        extensions = read_extensions(message)
        if len(dict(extensions)) != len(extensions) or len(extensions) > LIMIT_EXTENSIONS:
            raise Malformed  # RFC 8446 section 4.2: one of a type
        found = dict(extensions)
        name = read_server_name(found[0]) if 0 in found else None
        alpn = read_alpn(found[16]) if 16 in found else ()
    except Malformed:
        return BAD
    if 0xFFCE in found:
        return Refused(Reason.ESNI, "tls")
    if name is None:
        return Refused(Reason.NO_NAME, "tls")
    host = hostname(name)
    if host is None:
        return Refused(Reason.BAD_NAME, "tls", name[:253])
    return Sniffed("tls", host, None, 0xFE0D in found, consumed, alpn)


def read_extensions(message: bytes) -> list[tuple[int, bytes]]:
    """RFC 8446 section 4.1.2; no extensions at all is RFC 5246 section 7.4.1.2."""
    handshake = Cursor(message)
    handshake.take(1)
    hello = Cursor(handshake.vector(3))
    handshake.finish()
    if hello.number(1) != 3:  # legacy_version, its minor as it likes
        raise Malformed
    hello.take(1 + 32)  # and random
    hello.vector(1, 0, 32)  # legacy_session_id
    if len(hello.vector(2, 2)) % 2:  # cipher_suites
        raise Malformed
    hello.vector(1, 1)  # legacy_compression_methods
    if not hello.rest:
        return []
    block = Cursor(hello.vector(2))
    hello.finish()
    extensions = []
    while block.rest:
        extensions.append((block.number(2), block.vector(2)))
    return extensions


def read_server_name(body: bytes) -> bytes:
    """RFC 6066 section 3, with exactly one name and that a host_name."""
    extension = Cursor(body)
    names = Cursor(extension.vector(2, 1))
    extension.finish()
    if names.number(1) != 0:
        raise Malformed
    name = names.vector(2, 1)
    names.finish()
    return name


def read_alpn(body: bytes) -> tuple[bytes, ...]:
    """RFC 7301 section 3.1."""
    extension = Cursor(body)
    protocols = Cursor(extension.vector(2, 2, LIMIT_ALPN))
    extension.finish()
    names = []
    while protocols.rest:
        names.append(protocols.vector(1, 1))
    return tuple(names)


def hostname(raw: bytes) -> str | None:
    """The grammar of docs/policy.md by splitting, where ``matcher.canonical`` matches a regex."""
    name = raw.removesuffix(b".")
    labels = name.split(b".")
    if len(name) > 253 or not all(is_label(label) for label in labels):
        return None
    last = labels[-1].lower()
    if last.startswith(b"0x") or all(byte in DIGITS for byte in last):
        return None
    return name.decode("ascii").lower()


def is_label(label: bytes) -> bool:
    edges = label[:1] + label[-1:]
    return 1 <= len(label) <= 63 and all(byte in LABEL_BYTES for byte in label) and b"-" not in edges
