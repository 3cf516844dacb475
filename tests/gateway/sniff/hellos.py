"""ClientHellos built by hand, right and wrong, and the records they travel in.

Every length field can be made to lie: a ``Vector`` says how long it claims to be. Nothing here is shared with the parsers.
"""

from collections.abc import Iterable, Iterator
from itertools import chain, repeat
from typing import NamedTuple

SERVER_NAME, STATUS_REQUEST, GROUPS, ALPN, PADDING, TICKET, VERSIONS, KEY_SHARE = 0, 5, 10, 16, 21, 35, 43, 51
EARLY_DATA, PRE_SHARED_KEY = 42, 41
ECH, ESNI, GREASE = 0xFE0D, 0xFFCE, 0x1A1A


def vector(width: int, body: bytes, claim: int | None = None) -> bytes:
    """``body`` after its length in ``width`` bytes; ``claim`` is written instead of the length, where given."""
    return (len(body) if claim is None else claim).to_bytes(width, "big") + body


class Extension(NamedTuple):
    kind: int
    body: bytes = b""
    claim: int | None = None

    def encode(self) -> bytes:
        return self.kind.to_bytes(2, "big") + vector(2, self.body, self.claim)


def entry(name: bytes, kind: int = 0, claim: int | None = None) -> bytes:
    """One ServerName of RFC 6066 section 3."""
    return bytes((kind,)) + vector(2, name, claim)


def server_name(*names: bytes, claim: int | None = None) -> Extension:
    return Extension(SERVER_NAME, vector(2, b"".join(map(entry, names)), claim))


def alpn(*protocols: bytes, claim: int | None = None) -> Extension:
    return Extension(ALPN, vector(2, b"".join(vector(1, name) for name in protocols), claim))


def ech(inner: int = 64) -> Extension:
    """An outer encrypted_client_hello of RFC 9849 section 5, with a payload that nobody can open."""
    return Extension(ECH, b"\0" + b"\0\1\0\1" + b"\x2a" + vector(2, bytes(32)) + vector(2, bytes(inner)))


def padding(size: int) -> Extension:
    return Extension(PADDING, bytes(size))


def hello(
    *extensions: Extension,
    version: bytes = b"\3\3",
    random: bytes = bytes(range(32)),
    session: bytes = bytes(32),
    suites: bytes = b"\x13\1\x13\2\xc0\x2b\xc0\x2f",
    methods: bytes = b"\0",
    block: bytes | None = None,
    session_claim: int | None = None,
    suites_claim: int | None = None,
    methods_claim: int | None = None,
    block_claim: int | None = None,
    claim: int | None = None,
    after: bytes = b"",
    kind: int = 1,
) -> bytes:
    """A ClientHello with its handshake header. ``block=b""`` leaves the extensions out altogether, their length too."""
    inside = (
        version
        + random
        + vector(1, session, session_claim)
        + vector(2, suites, suites_claim)
        + vector(1, methods, methods_claim)
        + (vector(2, b"".join(e.encode() for e in extensions), block_claim) if block is None else block)
        + after
    )
    return bytes((kind,)) + vector(3, inside, claim)


def usual(*extra: Extension, name: bytes = b"api.openai.com", least: int = 0) -> bytes:
    """What a client of today sends, ``extra`` before the padding that fills the message up to ``least`` bytes."""
    extensions = (
        Extension(GREASE),
        server_name(name),
        Extension(GROUPS, vector(2, b"\x11\xec\0\x1d\0\x17")),
        Extension(TICKET),
        alpn(b"h2", b"http/1.1"),
        Extension(STATUS_REQUEST, b"\1\0\0\0\0"),
        Extension(VERSIONS, vector(1, b"\3\4\3\3")),
        Extension(KEY_SHARE, vector(2, b"\0\x1d" + vector(2, bytes(range(32))))),
        *extra,
    )
    missing = least - len(hello(*extensions)) - 4
    return hello(*extensions, padding(missing)) if missing > 0 else hello(*extensions)


def record(body: bytes, kind: int = 22, version: bytes = b"\3\1", claim: int | None = None) -> bytes:
    return bytes((kind,)) + version + vector(2, body, claim)


def records(handshake: bytes, sizes: int | Iterable[int] = 1 << 14) -> bytes:
    """``handshake`` in records of ``sizes`` bytes each; the last size of a list holds for all that is left."""
    return b"".join(map(record, pieces(handshake, sizes)))


def pieces(handshake: bytes, sizes: int | Iterable[int]) -> Iterator[bytes]:
    listed = [sizes] if isinstance(sizes, int) else list(sizes)
    at = 0
    for size in chain(listed, repeat(listed[-1])):
        if at >= len(handshake):
            return
        yield handshake[at : at + size]
        at += size


def unrecord(data: bytes) -> tuple[bytes, bytes] | None:
    """The handshake bytes of all whole leading type-22 records of ``data``, and what follows them; None where there are none."""
    handshake = b""
    at = 0
    while len(data) >= at + 5 and data[at] == 22:
        end = at + 5 + int.from_bytes(data[at + 3 : at + 5], "big")
        if end > len(data):
            break
        handshake += data[at + 5 : end]
        at = end
    return (handshake, data[at:]) if handshake else None
