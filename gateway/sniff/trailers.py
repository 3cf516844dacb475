"""Trailers of a chunked body (RFC 9112 section 7.1.2): where they end, in either direction."""

import re
from typing import Final

from gateway.sniff.http import MAX_FIELDS, TEXT, TOKEN

MAX_TRAILERS: Final = 32 * 1024
_TRAILER = re.compile(rb"(" + TOKEN + rb"++):" + TEXT + rb"*+")
_NEVER: Final = frozenset(
    (b"host", b"content-length", b"transfer-encoding", b"upgrade", b"connection")
)  # RFC 9110 section 6.5.1


def trailers_end(data: bytes, at: int) -> int:
    """Behind the empty line that ends those at ``at``, the line behind the last chunk; ``at`` itself while that is not there, -1 if they are none."""
    if data[at : at + 2] == b"\r\n":
        return at + 2
    end = data.find(b"\r\n\r\n", at, at + MAX_TRAILERS)
    if end < 0:
        return -1 if len(data) - at >= MAX_TRAILERS else at
    lines = data[at:end].split(b"\r\n")
    if len(lines) > MAX_FIELDS:
        return -1
    for line in lines:
        field = _TRAILER.fullmatch(line)
        if field is None or field[1].lower() in _NEVER:
            return -1
    return end + 4
