"""Bytes in, a value out: what name do the first bytes of a connection show? Never raises."""

from gateway.reasons import Reason
from gateway.sniff.http import sniff_http
from gateway.sniff.result import NeedMore, Refused, Sniffed
from gateway.sniff.tls import HANDSHAKE, sniff_tls

__all__ = ["NeedMore", "Refused", "Sniffed", "sniff"]


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
