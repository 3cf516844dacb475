"""Which parser reads: told by the first byte, never by the port."""

import pytest

from gateway.reasons import Reason
from gateway.sniff import NeedMore, Refused, Sniffed, sniff
from tests.gateway.sniff.hellos import hello, record, server_name, vector

GET = b"GET / HTTP/1.1\r\nHost: x.test\r\n\r\n"
SSLV2_INSIDE = b"\1\3\1" + b"\0\6\0\0\0\x10" + b"\1\0\x80\0\0\x2f" + bytes(16)  # RFC 5246 appendix E.2


@pytest.mark.parametrize("buffer", [bytes, bytearray, memoryview])
def test_nothing_is_no_answer_yet(buffer: type[bytes] | type[bytearray] | type[memoryview]) -> None:
    assert sniff(buffer(b"")) == NeedMore(1)


@pytest.mark.parametrize("buffer", [bytes, bytearray, memoryview])
def test_tls_and_http_are_told_by_the_first_byte(
    buffer: type[bytes] | type[bytearray] | type[memoryview],
) -> None:
    tls = sniff(buffer(record(hello(server_name(b"x.test")))))
    http = sniff(buffer(GET))
    assert isinstance(tls, Sniffed) and (tls.app, tls.host) == ("tls", "x.test")
    assert isinstance(http, Sniffed) and (http.app, http.host, http.consumed) == ("http", "x.test", len(GET))


def test_an_sslv2_hello_is_refused_at_its_first_byte() -> None:
    data = vector(2, SSLV2_INSIDE, 0x8000 | len(SSLV2_INSIDE))
    refused = Refused(Reason.NOT_TLS_NOT_HTTP)
    assert {sniff(data[:end]) for end in range(1, len(data) + 1)} == {refused}


def test_a_first_byte_that_no_message_begins_with_is_refused_at_once() -> None:
    for first in {*range(0x21), *range(0x7F, 0x100)} - {22}:
        seen = sniff(bytes((first,)) + record(hello(server_name(b"x.test")))[1:])
        assert isinstance(seen, Refused), first
        assert seen.app != "tls"


def test_a_negative_scanned_is_nothing_scanned() -> None:
    assert sniff(GET, scanned=-5) == sniff(GET)
