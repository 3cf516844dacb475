"""Bytes in, a value out: what name do the first bytes of a connection show, and do later ones keep to it?"""

from gateway.reasons import Reason
from gateway.sniff.handshake import Handshake
from gateway.sniff.http import sniff_http
from gateway.sniff.naming import Naming
from gateway.sniff.requests import Requests
from gateway.sniff.result import Forbidden, NeedMore, Refused, Sniffed
from gateway.sniff.tls import HANDSHAKE, sniff_tls

__all__ = [
    "HANDSHAKE",
    "Forbidden",
    "Handshake",
    "Naming",
    "NeedMore",
    "Refused",
    "Requests",
    "Sniffed",
    "sniff",
    "watch",
]


def sniff(data: bytes | bytearray | memoryview, *, scanned: int = 0) -> Sniffed | NeedMore | Refused:
    """Read the name that ``data`` shows: all bytes of the connection so far, of which an earlier call saw ``scanned``.

    Classified by the bytes, not by the port. Total: no input raises. ``Refused`` is final for every continuation.
    """
    if not data:
        return NeedMore(1)
    if data[0] == HANDSHAKE:
        return sniff_tls(data)
    if data[0] & 0x80:
        return Refused(Reason.NOT_TLS_NOT_HTTP)  # an SSLv2 hello, or nothing we know
    return sniff_http(data, scanned)


def watch(seen: Sniffed, first: bytes, port: int) -> tuple[Handshake | Requests, bytes]:
    """Who looks at the rest of a connection that began with ``first`` and was dialled at ``port``, and what of ``first`` may pass.

    Forbidden where ``first`` itself holds more than its first message, and what follows names something else.
    """
    if seen.app == "http":
        requests = Requests(seen.host, port)
        return requests, requests.up(first)
    if len(first) == seen.consumed:
        return Handshake(seen.host, first), first
    hello = first[: seen.consumed]
    handshake = Handshake(seen.host, hello)
    return handshake, hello + handshake.up(first[seen.consumed :])
