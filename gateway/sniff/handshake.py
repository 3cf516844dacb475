"""TLS after the first hello: until the server has answered, the client may not name anything else.

A server that wants another key share asks for a second ClientHello (HelloRetryRequest, RFC 8446 section 4.1.4), and one that is not strict
may take a second one unasked. So no handshake record of the client passes before the server's first record; if that is a HelloRetryRequest,
the next handshake message must be one hello with the same name. Nothing later is looked at: what follows may be encrypted, and an encrypted
Finished may well begin like a hello.

A server that answers no TLS may have taken the hello for something else (disguise.py), and would so take what follows: nothing does.
"""

from typing import Final

from gateway.sniff.disguise import names_a_host
from gateway.sniff.result import Forbidden, NeedMore, Sniffed
from gateway.sniff.tls import HANDSHAKE, sniff_tls

CHANGE_CIPHER_SPEC: Final = 20  # RFC 8446 section 5.1
ALERT: Final = 21
APPLICATION_DATA: Final = 23
MAJOR_VERSION: Final = 3
LENGTHS: Final = {CHANGE_CIPHER_SPEC: 1, ALERT: 2}
"""In the clear: a record of free bytes would be a line of whatever the server reads."""
CHANGE: Final = 1
SERVER_HELLO: Final = 2
EARLY_DATA: Final = 42  # section 4.2
RETRY_RANDOM: Final = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
"""Section 4.1.3: SHA-256 of "HelloRetryRequest"."""
RANDOM_ENDS: Final = 4 + 2 + 32
MAX_RECORD: Final = (1 << 14) + 256  # RFC 8446 section 5.2
MAX_HELD: Final = 5 + MAX_RECORD
"""Before the server has answered: early data passes record by record, and a client that means well waits with the rest."""
MAX_ANSWER: Final = 8 * 1024
"""More records than a server could put its first 38 bytes of handshake into and mean well."""


class Handshake:
    """Watches one connection whose first hello named ``host``."""

    __slots__ = (
        "_answer",
        "_early_data",
        "_foreign",
        "_held",
        "_hello",
        "_host",
        "_retried",
        "_worth",
        "settled",
    )

    def __init__(self, host: str, hello: bytes) -> None:
        """``hello``: the first flight up to the end of the hello, which has passed."""
        self._host = host
        self._hello = hello
        self._early_data: bool | None = None
        self._held = b""
        self._answer = b""
        self._retried = False
        self._foreign = False
        """The server's answer is no TLS."""
        self._worth = 0  # bytes held below which another look at a second hello tells nothing new
        self.settled = False

    @property
    def ahead(self) -> int:
        """None: it looks at all until it has seen enough."""
        return 0

    def up(self, chunk: bytes) -> bytes:
        """What may pass of the client's bytes so far. Forbidden ends the connection."""
        if self._foreign:
            raise Forbidden
        self._held += chunk
        passes = self._release() if len(self._held) >= self._worth else b""
        if len(self._held) > MAX_HELD and not self._retried:  # then sniff_tls says how long a hello may be
            raise Forbidden
        return passes

    def down(self, chunk: bytes) -> bytes:
        """Look at the server's bytes; what may pass of the client's now."""
        if self._retried or self.settled or self._foreign:
            return b""
        answer = self._answer = self._answer + chunk
        if not CHANGE_CIPHER_SPEC <= answer[0] <= APPLICATION_DATA or answer[1:2] not in (b"", b"\3"):
            self._foreign, self._answer = True, b""
            return b""
        retried = self._is_retry()
        if retried is None:
            return b""
        self._answer = b""
        if not retried:
            return self._settle()
        self._retried = True
        return self._release()

    def _is_retry(self) -> bool | None:
        """Whether the server's first message is a HelloRetryRequest; None while that cannot be told."""
        message, at, data = b"", 0, self._answer
        while len(message) < RANDOM_ENDS:
            if len(data) > at + 1 and data[at] != HANDSHAKE:
                return False
            if len(data) < at + 5:
                return None if at < MAX_ANSWER else False
            length = data[at + 3] << 8 | data[at + 4]
            message += data[at + 5 : at + 5 + length]
            if message[:1] not in (b"", bytes((SERVER_HELLO,))):
                return False
            at += 5 + length
            if at > len(data):
                break
        if len(message) < RANDOM_ENDS:
            return None
        return message[6:RANDOM_ENDS] == RETRY_RANDOM

    def _release(self) -> bytes:
        held, at = self._held, 0
        while len(held) >= at + 5:
            kind = held[at]
            if kind == HANDSHAKE:
                if not self._retried:
                    break
                seen = sniff_tls(held[at:])
                if isinstance(seen, NeedMore):
                    self._worth = len(held) - at + seen.at_least
                    break
                if not isinstance(seen, Sniffed) or seen.host != self._host:
                    raise Forbidden
                return self._settle()
            length = held[at + 3] << 8 | held[at + 4]
            if kind == APPLICATION_DATA:
                fits = length <= MAX_RECORD and self._early()
            else:
                fits = length == LENGTHS.get(kind)
            if not fits or held[at + 1] != MAJOR_VERSION:
                raise Forbidden
            end = at + 5 + length
            if end > len(held):
                break
            if kind == CHANGE_CIPHER_SPEC and held[at + 5] != CHANGE:
                raise Forbidden
            if kind == APPLICATION_DATA and names_a_host(held[at:end], 5 + length):
                raise Forbidden
            at = end
        self._held = held[at:]
        return held[:at]

    def _early(self) -> bool:
        if self._early_data is None:
            self._early_data = offers_early_data(self._hello)
        return self._early_data

    def _settle(self) -> bytes:
        """Nothing is looked at any more: all that is held passes."""
        held, self._held, self._hello = self._held, b"", b""
        self.settled = True
        return held


def offers_early_data(hello: bytes) -> bool:
    """Whether a ClientHello that was sniffed, in its records, has the early_data extension."""
    at, message = 0, b""
    while at < len(hello):
        end = at + 5 + (hello[at + 3] << 8 | hello[at + 4])
        message += hello[at + 5 : end]
        at = end
    at = 38  # as in sniff_tls, which has vouched for every length
    at += 1 + message[at]
    at += 2 + (message[at] << 8 | message[at + 1])
    at += 1 + message[at] + 2
    while at < len(message):
        if (message[at] << 8 | message[at + 1]) == EARLY_DATA:
            return True
        at += 4 + (message[at + 2] << 8 | message[at + 3])
    return False
