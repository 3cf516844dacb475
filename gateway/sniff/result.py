"""What a sniffer says of the bytes it was shown: one of three values, never an exception."""

from typing import Literal, NamedTuple

from gateway.reasons import Reason


class Forbidden(Exception):
    """A later message of a connection names something else, or cannot be read: nothing more of it may pass."""


class Sniffed(NamedTuple):
    """The first message is whole, and names its destination."""

    app: Literal["tls", "http"]
    host: str
    """Canonical: see ``matcher.canonical``."""
    port: int | None = None
    """The port that HTTP's Host or absolute target names; None where none is named, and for TLS."""
    ech: bool = False
    """The hello carries encrypted_client_hello (0xfe0d): ``host`` is the outer name."""
    consumed: int = 0
    """Bytes of ``data`` up to the end of the first message (record headers included)."""
    alpn: tuple[bytes, ...] = ()
    """RFC 7301 protocol names in the order offered."""


class NeedMore(NamedTuple):
    """So far this could still become a name."""

    at_least: int
    """How many more bytes at the least before another look is worth it (fit for SO_RCVLOWAT); 1 or more."""


class Refused(NamedTuple):
    """No continuation of these bytes can ever be a name that the gateway trusts."""

    reason: Reason
    app: Literal["tls", "http"] | None = None
    """What the bytes began as, so that the refusal can be said in the client's protocol."""
    raw: bytes = b""
    """The name as it was sent, where one was read and is not a hostname (253 bytes at most)."""
