"""HTTP/1 after the first head: every request of a connection is framed, and must name what the first one named.

Sans-IO, in the client's direction. A head passes when it is whole and was read; a body passes as it comes, as far as its own framing says
(RFC 9112 sections 6 and 7). What another parser might frame otherwise ends the connection, for the rest could be a request that nobody here
has read.

A request may ask for another protocol (RFC 9110 section 7.8): hardly any server heeds it, and clients ask with each request (Java's h2c, Apache
HttpClient's TLS). What follows such a request waits for the status of its answer. Where that is 101, nothing is looked at any more if websocket
was asked for, and for all else the connection ends: it could not be read. Any other, and the next request is read as ever.
"""

import re
from typing import Final

from gateway.sniff.answers import SWITCHED, Answers
from gateway.sniff.http import (
    ASKING,
    FRAMING_OR_ASKING,
    MAX_HEAD,
    MAX_LINE,
    QUOTED,
    TOKEN,
    sniff_http,
)
from gateway.sniff.result import Forbidden, NeedMore, Sniffed
from gateway.sniff.trailers import trailers_end

FIRST_LOOK: Final = 2048
"""Most heads are whole in so little: what follows one is not copied for it."""
MAX_HELD: Final = 16 * 1024
"""What came too early is looked at all at once if the server does not switch: one read of a first message. Clients wait (RFC 6455 section 4.1)."""
MAX_CHUNK: Final = 0x7FFFFFFF
"""Servers add a size up in 32 bits, signed (JDK's): they would see a small chunk, and a request behind it."""
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8}+)(?:;" + TOKEN + rb"++(?:=(?:" + TOKEN + rb"++|" + QUOTED + rb"))?)*")
"""RFC 9112 section 7.1: a chunk's size and its extensions, without the blanks that it calls bad: to some servers they make the line no chunk's."""

HEAD: Final = "head"
LENGTH: Final = "length"
CHUNK: Final = "chunk"
CHUNK_END: Final = "chunk end"
SIZE: Final = "size"
TRAILERS: Final = "trailers"
SWITCHING: Final = "switching"


class Requests:
    """Watches one connection whose first request named ``host``, and perhaps ``port``."""

    __slots__ = (
        "_answers",
        "_held",
        "_host",
        "_left",
        "_next",
        "_port",
        "_scanned",
        "_state",
        "_websocket",
        "settled",
    )

    def __init__(self, host: str, port: int) -> None:
        """``port``: the one that was dialled, which each request that names one must name."""
        self._host = host
        self._port = port
        self._state = HEAD
        self._next = HEAD
        """The state after this request: SWITCHING where it asked for another protocol, and is not answered yet."""
        self._websocket = False
        """What it asked for."""
        self._left = 0
        self._held = b""
        self._scanned = 0
        self._answers = Answers()
        self.settled = False

    @property
    def ahead(self) -> int:
        """How many of the client's next bytes are a body's, and pass without a look."""
        return self._left

    def up(self, chunk: bytes) -> bytes:
        """What may pass of the client's bytes so far. Forbidden ends the connection."""
        held = self._held + chunk if self._held else chunk
        at = 0
        while at < len(held):
            step = self._STEPS[self._state](self, held, at)
            if step == at:
                break
            at = step
        self._held = held[at:]
        return held[:at]

    def down(self, chunk: bytes) -> bytes:
        """Look at the server's bytes; what may pass of the client's now."""
        status = self._answers.down(chunk)
        if self._next != SWITCHING:
            return b""
        if status == SWITCHED:
            if not self._websocket or self._state != SWITCHING:
                raise Forbidden  # to what cannot be read, or in the middle of the request
            self.settled = True
            held, self._held, self._next = self._held, b"", HEAD
            return held
        if status:
            self._next = HEAD
            if self._state == SWITCHING:
                self._state = HEAD
                return self.up(b"")
        elif self._answers.lost:
            raise Forbidden  # no answer that could be told from another
        return b""

    def _head(self, held: bytes, at: int) -> int:
        scanned = 0 if at else self._scanned
        rest = held[at : at + (FIRST_LOOK if scanned < FIRST_LOOK else MAX_HEAD)]
        seen = sniff_http(rest, scanned)
        if isinstance(seen, NeedMore) and len(held) - at > len(rest):
            scanned, rest = len(rest), held[at : at + MAX_HEAD]
            seen = sniff_http(rest, scanned)
        if isinstance(seen, NeedMore):
            self._scanned = len(rest)
            return at
        if not isinstance(seen, Sniffed) or seen.host != self._host or seen.port not in (None, self._port):
            raise Forbidden
        self._scanned = 0
        told = FRAMING_OR_ASKING.findall(rest, 0, seen.consumed)
        if told:
            self._read(told)
        self._answers.expect(rest[:5] == b"HEAD ")
        if self._state != SIZE:
            self._state = LENGTH if self._left else self._next
        return at + seen.consumed

    def _read(self, told: list[tuple[bytes, bytes]]) -> None:
        """What a head says of the request's body, and of what may follow it: each once, and as it must be."""
        fields = {name.lower(): value.strip(b" \t").lower() for name, value in told}
        if b"transfer-encoding" in fields:
            self._state = SIZE
        self._left = int(fields.get(b"content-length", b"0"))
        if not ASKING.isdisjoint(fields):
            if not self._answers.complete:
                raise Forbidden  # whose answer the next one is could not be told
            self._next = SWITCHING
            self._websocket = fields.get(b"upgrade") == b"websocket" and b"http2-settings" not in fields

    def _length(self, held: bytes, at: int) -> int:
        taken = min(self._left, len(held) - at)
        self._left -= taken
        if not self._left:
            self._state = self._next if self._state == LENGTH else CHUNK_END
        return at + taken

    def _size(self, held: bytes, at: int) -> int:
        end = held.find(b"\r\n", at, at + MAX_LINE)
        if end < 0:
            if len(held) - at >= MAX_LINE or b"\n" in held[at:]:
                raise Forbidden
            return at
        size = _SIZE.fullmatch(held, at, end)
        if size is None:
            raise Forbidden
        self._left = int(size[1], 16)
        if self._left > MAX_CHUNK:
            raise Forbidden
        self._state = CHUNK if self._left else TRAILERS
        return end + 2

    def _chunk_end(self, held: bytes, at: int) -> int:
        if held[at : at + 2] == b"\r\n":
            self._state = SIZE
            return at + 2
        if held[at:] != b"\r":
            raise Forbidden
        return at

    def _trailers(self, held: bytes, at: int) -> int:
        end = trailers_end(held, at)
        if end < 0:
            raise Forbidden
        if end > at:
            self._state = self._next
        return end

    def _switching(self, held: bytes, at: int) -> int:
        """What the client says next depends on the server's answer."""
        if len(held) - at > MAX_HELD:
            raise Forbidden
        return at

    _STEPS: Final = {
        HEAD: _head,
        LENGTH: _length,
        CHUNK: _length,
        CHUNK_END: _chunk_end,
        SIZE: _size,
        TRAILERS: _trailers,
        SWITCHING: _switching,
    }
