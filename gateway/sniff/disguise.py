"""What passes of a client before a TLS server has answered, read as a request of HTTP: could it name a host?

A port may speak cleartext, and a server that takes any bytes for a method (JDK's, WEBrick, most of Python's) finds in a ClientHello what the
client wrote for random bytes, keys or padding. It is the allowed name's own server, so only what chooses among its hosts matters: a Host field,
or a target in absolute form, which is the second word of all. Neither needs a version (HTTP/0.9), nor an empty line where the client half-closes.
In a hello that means well they stand by chance once in a billion.

Both hold a colon, and a hello holds few: what is about each is looked at, and all the rest only where they are many.
"""

import re
from typing import Final

MAX_COLONS: Final = 32
"""A post-quantum hello has about six."""
BLANKS: Final = b"\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0"
"""Whatever anybody tells lines and words apart by: Python's str.splitlines() and str.split() know the most."""
RECORD_HEADER: Final = 5
COLON: Final = 0x3A
SLASH: Final = 0x2F

_WALK: Final = range(MAX_COLONS)
_ENDS_HOST: Final = bytes(byte in BLANKS + b"sStT" for byte in range(256))
"""By byte: whether the last two before a Host field's colon may be that."""
_HOST = re.compile(rb"host(?<=[%b]host)[%b]*+:" % (BLANKS, BLANKS))
_TARGET = re.compile(
    rb"(?:[^ ]*+ ++|[^\t-\r ]*+[\t-\r ]++|[^%b]*+[%b]++)[A-Za-z][A-Za-z0-9+.\-]*+://[!-~]{3}"
    % (BLANKS, BLANKS)
)


def names_a_host(data: bytes, end: int) -> bool:
    """Of ``data`` up to ``end``, a hello or a record with its header."""
    if COLON not in data:
        return False  # a fifth of what find() takes, and most hellos of today
    at = data.find(b":", RECORD_HEADER, end)
    for _ in _WALK:
        if at < 0:
            return False
        if _ENDS_HOST[data[at - 1]] and _ENDS_HOST[data[at - 2]]:
            break
        if at + 1 < end and data[at + 1] == SLASH:
            break
        at = data.find(b":", at + 1, end)
    text = data[:end]
    return _TARGET.match(text) is not None or _HOST.search(text.lower()) is not None
