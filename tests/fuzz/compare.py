"""The error contract of both sniffers, as one check of any bytes: what the fuzzer asserts of every mutant.

No exception; the plain reading says the same; so does every way of arriving; no proper prefix yields a name; nothing behind the end
changes the answer; and an answer comes within 64 KiB.
"""

from collections.abc import Callable
from time import perf_counter_ns

from gateway.sniff import NeedMore, Refused, Sniffed, sniff
from tests.gateway.sniff.cursor_http import read_http
from tests.gateway.sniff.cursor_tls import read_tls

MOST_READ = 65536
LATER = (b"\r\n\r\nGET / HTTP/1.1\r\nHost: other.test\r\n\r\n", b"\x16\x03\x01\x00\x02\x01\x00", b"\0")

Answer = Sniffed | NeedMore | Refused
Reader = Callable[[bytes], Answer]


class Finding(AssertionError):
    """The sniffer broke its contract; the bytes are in the text."""


def as_tls(data: bytes) -> bytes:
    """The nearest input that is read as TLS."""
    return b"\x16" + data[1:]


def as_http(data: bytes) -> bytes:
    """The nearest input that is read as HTTP."""
    return data if data and data[0] < 0x80 and data[0] != 0x16 else b"G" + data[1:]


KINDS: dict[str, tuple[Callable[[bytes], bytes], Reader]] = {
    "tls": (as_tls, read_tls),
    "http": (as_http, read_http),
}


def check(data: bytes, read: Reader) -> tuple[Answer, int]:
    """The answer, and the nanoseconds that the first look took. Raises ``Finding``."""
    try:
        began = perf_counter_ns()
        whole = sniff(data)
        took = perf_counter_ns() - began
        agree(data, whole, read(data))
        bounded(data, whole)
        final(data, whole)
        however_it_arrives(data, whole)
    except Exception as error:
        raise Finding(f"{type(error).__name__}: {error}\n{data!r}") from error
    return whole, took


def agree(data: bytes, fast: Answer, plain: Answer) -> None:
    """Of ``NeedMore`` only that it is one: how long to wait is not part of the specification."""
    if type(fast) is not type(plain) or (fast != plain and not isinstance(fast, NeedMore)):
        raise AssertionError(f"fast says {fast}, plain says {plain}")
    if sniff(memoryview(data)) != fast or sniff(bytearray(data)) != fast:
        raise AssertionError("another answer for another type of buffer")


def bounded(data: bytes, answer: Answer) -> None:
    match answer:
        case NeedMore(at_least):
            if at_least < 1 or len(data) + at_least > MOST_READ:
                raise AssertionError(f"waits for {at_least} after {len(data)}")
        case Sniffed():
            if not 0 < answer.consumed <= min(len(data), MOST_READ):
                raise AssertionError(f"read {answer.consumed} of {len(data)}")
        case Refused():
            if len(answer.raw) > 253:
                raise AssertionError("keeps more of a name than 253 bytes")


def final(data: bytes, answer: Answer) -> None:
    """An answer is one for every continuation, and of a name not one byte is superfluous."""
    if isinstance(answer, NeedMore):
        return
    for later in LATER:
        if sniff(data + later) != answer:
            raise AssertionError(f"another answer when followed by {later!r}")
    if isinstance(answer, Sniffed) and sniff(data[: answer.consumed]) != answer:
        raise AssertionError("a name that needs bytes behind its message")


def however_it_arrives(data: bytes, whole: Answer) -> None:
    """At prefixes all over ``data``, and just before the end: nothing yet, or the final answer, which is no name."""
    length = whole.consumed if isinstance(whole, Sniffed) else len(data)
    step = max(1, length // 8)
    scanned = 0
    for end in (*range(1, length - 2, step), *range(max(length - 2, 1), length)):
        seen = sniff(data[:end], scanned=scanned)
        if isinstance(seen, Sniffed):
            raise AssertionError(f"{end} bytes of {length} yield a name")
        if isinstance(seen, Refused):
            if seen != whole:
                raise AssertionError(f"after {end} bytes {seen}, then {whole}")
            return
        if isinstance(whole, Sniffed) and end + seen.at_least > length:
            raise AssertionError(f"after {end} bytes waits for {seen.at_least}, of {length}")
        if sniff(data, scanned=end) != whole:
            raise AssertionError(f"another answer when {end} bytes were seen before")
        scanned = end
