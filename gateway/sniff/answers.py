"""HTTP/1 answers, counted: is all there that the server owes, and what status is it that begins?

Where a request asks for another protocol, what may follow it hangs on the status of its own answer, and bytes that the client has influenced
(the body of an earlier answer) must never be taken for that. So answers are framed from the first on (RFC 9112 section 6.3), as strictly as
requests, and nothing is ever held up for it: where one cannot be told from the next, and where a request goes out before the last is
answered, they are lost for good, and it is for who asks then to refuse.

Of a long body each buffer is one comparison; of a chunked one, a pattern a chunk.
"""

import re
from typing import Final

from gateway.sniff.http import FIELDS, FRAMING, MAX_LINE, QUOTED, TEXT, TOKEN
from gateway.sniff.trailers import trailers_end

MAX_ANSWER: Final = 64 * 1024
"""Of one head."""
MAX_STEPS: Final = 4096
"""Heads and chunks in one buffer of 64 KiB: three milliseconds."""
STATUS_SIZE: Final = 13
SWITCHED: Final = b"101"
INTERIM: Final = 0x31
"""The first digit of 1xx."""

_HEAD = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: " + TEXT + rb"*+)?(" + FIELDS + rb")\r\n\r\n")
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})[ \r]")
_VALUE: Final = rb"=[ \t]*+(?:" + TOKEN + rb"++|" + QUOTED + rb")"
_EXTENSION: Final = rb"[ \t]*+;[ \t]*+" + TOKEN + rb"++(?:[ \t]*+" + _VALUE + rb")?"
_CHUNK = re.compile(rb"\r\n([0-9A-Fa-f]{1,15}+)(?:" + _EXTENSION + rb")*[ \t]*+\r\n")
"""Blanks included: whoever wrote them into its own answer means the size before them, and some pad it."""
_BODILESS: Final = frozenset((b"204", b"304"))  # RFC 9110 sections 15.3.5 and 15.4.5

NONE: Final = "none"
HEAD: Final = "head"
SIZE: Final = "size"
LAST: Final = "last"
LOST: Final = "lost"


class Answers:
    """Of one connection, to requests that come one after another."""

    __slots__ = ("_bodiless", "_held", "_left", "_state")

    def __init__(self) -> None:
        self._state = NONE
        self._left = 0
        """Bytes of a body, or a chunk, that are still to come."""
        self._held = b""
        self._bodiless = False

    @property
    def complete(self) -> bool:
        """The server owes nothing: what it says next answers the next request."""
        return self._state == NONE and not self._left

    @property
    def lost(self) -> bool:
        """Nobody can say any more where one ends."""
        return self._state == LOST

    def expect(self, bodiless: bool) -> None:
        """A request goes out; ``bodiless``: HEAD, whose answer is a head alone."""
        if self._state == NONE and not self._left:
            self._state, self._bodiless = HEAD, bodiless
        else:
            self._lose(b"")

    def down(self, chunk: bytes) -> bytes:
        """Look at the server's bytes. The status of a final answer, 101 included, where its head is among them."""
        size, at = len(chunk), self._left
        if size < at or self._state == LOST:
            self._left = max(at - size, 0)
            return b""
        said = self._held + chunk if self._held else chunk
        size = len(said)
        final, steps = b"", 0
        while at < size:
            before, state = at, self._state
            steps += 1
            if state == HEAD:
                status, at = self._head(said, at)
                final = final or status
            elif state == SIZE:
                at = self._size(said, at)
            elif state == LAST:
                at = self._last(said, at)
            else:
                at = self._lose(said)  # more than is owed
            if at == before:
                break
            if steps == MAX_STEPS:
                at = self._lose(said)
        self._left, self._held = max(at - size, 0), said[at:]
        return final

    def _lose(self, said: bytes) -> int:
        self._state, self._left, self._held = LOST, 0, b""
        return len(said)

    def _head(self, said: bytes, at: int) -> tuple[bytes, int]:
        """Its status if that is final, and where what follows begins; beyond the end, where a body is still to come."""
        before = len(self._held) - 3
        head = _HEAD.match(said, at) if before <= 0 or said.find(b"\r\n\r\n", max(at, before)) >= 0 else None
        if head is None:
            return self._status(said, at)
        minor, status, _ = head.groups()
        end = head.end()
        if status == SWITCHED:
            return status, self._lose(said)
        if status[0] == INTERIM:
            return b"", end
        if self._bodiless or status in _BODILESS:
            self._state = NONE
            return status, end
        framing = FRAMING.findall(said, head.start(3), end)
        if len(framing) == 1:
            name, value = framing[0]
            value = value.strip(b" \t")
            if name[0] in b"Cc":
                if value.isdigit() and len(value) <= 18:
                    self._state = NONE
                    return status, end + int(value)
            elif value.lower() == b"chunked" and minor == b"1":
                self._state = SIZE
                return status, end - 2  # each size stands between two line ends
        return status, self._lose(said)  # it ends with the connection

    def _status(self, said: bytes, at: int) -> tuple[bytes, int]:
        """Of a head that is not whole, or none: its status if that is there, and final."""
        seen = _STATUS.match(said, at)
        held = len(said) - at
        if held >= STATUS_SIZE if seen is None else held > MAX_ANSWER or said.find(b"\r\n\r\n", at) >= 0:
            at = self._lose(said)
        final = seen is not None and (seen[1][0] != INTERIM or seen[1] == SWITCHED)
        return seen[1] if seen and final else b"", at

    def _size(self, said: bytes, at: int) -> int:
        chunk = _CHUNK.match(said, at, at + MAX_LINE)
        if chunk is None:
            whole = said.find(b"\r\n", at + 2, at + MAX_LINE) >= 0 or len(said) - at >= MAX_LINE
            return self._lose(said) if whole else at
        size = int(chunk[1], 16)
        if not size:
            self._state = LAST
        return chunk.end() + size

    def _last(self, said: bytes, at: int) -> int:
        end = trailers_end(said, at)
        if end < 0:
            return self._lose(said)
        if end > at:
            self._state = NONE
        return end
