"""Request heads built by hand, right and wrong, and the answers they ask for. Nothing here is shared with the parsers."""

from typing import NamedTuple

from gateway.reasons import Reason
from gateway.sniff.result import NeedMore, Refused, Sniffed

GET = b"GET / HTTP/1.1"
HOST = b"Host: a.test"
LIMIT = 32768

BAD = Refused(Reason.BAD_HTTP, "http")
LONG = Refused(Reason.TOO_LONG, "http")
NEITHER = Refused(Reason.NOT_TLS_NOT_HTTP)


class Head(NamedTuple):
    id: str
    data: bytes
    answer: Sniffed | NeedMore | Refused
    """``at_least`` of a ``NeedMore`` is exact."""


def head(*lines: bytes) -> bytes:
    return b"\r\n".join((*lines, b"", b""))


def names(id: str, *lines: bytes, host: str = "a.test", port: int | None = None) -> Head:
    """A whole head that names ``host``, and no byte after it."""
    data = head(*lines)
    return Head(id, data, Sniffed("http", host, port, False, len(data)))


def bad(id: str, *lines: bytes) -> Head:
    return Head(id, head(*lines), BAD)


def ignored(id: str, *lines: bytes) -> Head:
    """Neither TLS nor HTTP."""
    return Head(id, head(*lines), NEITHER)


def no_name(id: str, host: bytes) -> Head:
    return Head(id, head(GET, b"Host: " + host), Refused(Reason.BAD_NAME, "http", host[:253]))


def waits(id: str, data: bytes, at_least: int) -> Head:
    return Head(id, data, NeedMore(at_least))


def filled(size: int, *lines: bytes) -> bytes:
    """A head of exactly ``size`` bytes, by one long field at its end."""
    missing = size - len(head(*lines, b"X: "))
    return head(*lines, b"X: " + b"x" * missing)
