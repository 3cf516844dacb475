"""The name that a connection shows where none was needed to decide it: noted as it passes, and nothing more.

Whoever speaks first, nothing waits for anything: what comes of the client goes on at once, and is looked at on its way.
"""

from typing import Final

from gateway.sniff.http import sniff_http
from gateway.sniff.result import NeedMore, Sniffed
from gateway.sniff.tls import HANDSHAKE, sniff_tls

MAX_HELD: Final = 16 * 1024


class Naming:
    """Watches one connection from its first byte."""

    __slots__ = ("_held", "host", "settled")

    def __init__(self) -> None:
        self._held = b""
        self.host: str | None = None
        """Canonical; None while there is none, and where none is shown."""
        self.settled = False

    @property
    def ahead(self) -> int:
        """None: it looks at all until it has seen enough."""
        return 0

    def up(self, chunk: bytes) -> bytes:
        """All of it passes."""
        held = self._held + chunk
        seen = sniff_tls(held) if held[0] == HANDSHAKE else sniff_http(held, len(self._held))
        if isinstance(seen, Sniffed):
            self.host = seen.host
        self.settled = not isinstance(seen, NeedMore) or len(held) > MAX_HELD
        self._held = b"" if self.settled else held
        return chunk

    def down(self, chunk: bytes) -> bytes:
        """Of no interest, and nothing of the client's waits for it."""
        return b""
