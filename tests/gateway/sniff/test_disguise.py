"""A ClientHello that a server of cleartext HTTP takes for a request: real ones find another host in it, and it is refused."""

import http.server
import random
import socket
import wsgiref.simple_server
from collections.abc import Callable
from typing import Any

import pytest

from gateway.reasons import Reason
from gateway.sniff import Forbidden, Handshake, NeedMore, Refused, Sniffed, sniff, tls
from gateway.sniff.disguise import MAX_COLONS, names_a_host
from tests.gateway.sniff.cursor_tls import read_tls, reads_as_request
from tests.gateway.sniff.hellos import EARLY_DATA, PADDING, Extension, hello, record, records, server_name

ALLOWED = server_name(b"allowed.test")
LINE = b" /a HTTP/1.1\r\nX: "
BAD = Refused(Reason.BAD_TLS, "tls")


def disguised(padding: bytes, chance: bytes = LINE, *extra: Extension) -> bytes:
    """A hello that allowed.test would take, with free text where a client has random bytes and padding."""
    return records(hello(ALLOWED, *extra, Extension(PADDING, padding), random=chance.ljust(32, b"r")))


class Anything(http.server.BaseHTTPRequestHandler):
    """Takes whatever stands for a method, as many a framework on it does; its host is where werkzeug would find one."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def __getattr__(self, name: str) -> Callable[[], None]:
        if not name.startswith("do_"):
            raise AttributeError(name)
        return self.answer

    def answer(self) -> None:
        scheme, _, rest = self.path.partition("://")
        host = rest.split("/")[0] if scheme.isalpha() and rest else self.headers.get("Host")
        self.wfile.write(f"{{{host}}}".encode())
        self.close_connection = True


def by_http_server(data: bytes) -> bytes:
    near, far = socket.socketpair()
    with near, far:
        far.sendall(data)
        far.shutdown(socket.SHUT_WR)
        Anything(near, ("", 0), None)  # type: ignore[arg-type]
        near.shutdown(socket.SHUT_WR)
        return far.makefile("rb").read()


def by_wsgiref(data: bytes) -> bytes:
    def app(environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
        start("200 OK", [])
        return [f"{{{environ.get('HTTP_HOST')}}}".encode()]

    class Quiet(wsgiref.simple_server.WSGIRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    server = wsgiref.simple_server.WSGIServer(("", 0), Quiet, bind_and_activate=False)
    server.base_environ = {}
    server.set_app(app)
    near, far = socket.socketpair()
    with near, far, server.socket:
        far.sendall(data)
        far.shutdown(socket.SHUT_WR)
        Quiet(near, ("", 0), server)
        near.shutdown(socket.SHUT_WR)
        return far.makefile("rb").read()


TAKEN = {
    "a host": disguised(b"z" * 40 + b"\r\nHost: evil.test\r\n\r\n"),
    "line feeds": disguised(b"zz\nhOsT:evil.test\n\n"),
    "a bare carriage return": disguised(b"zz\rHost: evil.test\r\n\r\n"),
    "without an end": disguised(b"zz\r\nHost: evil.test"),
    "absolute form": disguised(b"", b" x://evil.test/ HTTP/1.0\r\n\r\n"),
    "absolute form behind a tab": disguised(b"", b"\t\xa0http://evil.test HTTP/1.1\n\n"),
}
"""What servers that run here do take."""


@pytest.mark.parametrize("data", TAKEN.values(), ids=TAKEN)
def test_what_a_server_takes_for_a_request_to_another_host_is_refused(data: bytes) -> None:
    assert b"{evil.test" in by_http_server(data)
    if b"Host" in data:
        assert b"{evil.test" in by_wsgiref(data)
    assert sniff(data) == read_tls(data) == BAD


REFUSED = {
    **TAKEN,
    "blanks before the colon": disguised(b"zz\r\nHost \t: evil.test\r\n\r\n"),
    "a blank before it": disguised(b"zz\r\n\tHost: evil.test\r\n\r\n"),
    "a line of Unicode": disguised(b"zz\x85Host: evil.test\r\n\r\n"),
    "behind many colons": disguised(b":" * 5000 + b"\nHost: evil.test\r\n\r\n"),
    "behind hosts": disguised(b"\nhost" * 500 + b"\nHost:evil.test\r\n\r\n"),
    "at the very end": disguised(b"\nhost:"),
    "in the random bytes": disguised(b"", b"\nHost: evil.test\n"),
    "absolute form behind a blank of Unicode": disguised(b"", b"\x85http://evil.test HTTP/1."),
    "absolute form, no version": disguised(b"", b"\f\xa0\n ftp+x://evil.test\r\n"),
    "absolute form behind a space": disguised(b"", b"\x85\xa0 x://evil.test/"),
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("size", [1 << 14, 300], ids=["one record", "several"])
def test_it_is_refused_however_it_comes(data: bytes, size: int) -> None:
    tls._shapes.clear()
    message = data[5:]
    wire = records(message, [len(message) - 60, 60] if size == 300 else size)
    split = wire != data
    assert sniff(wire) == read_tls(wire)
    assert sniff(wire) == BAD or split, "a header between its parts makes it another text"
    for cut in range(1, len(data), 97):
        assert isinstance(sniff(data[:cut]), NeedMore)
    for more in (b"\x14\x03\x03\x00\x01\x01", b"GET"):
        assert sniff(data + more) == sniff(memoryview(data + more)) == sniff(bytearray(data)) == BAD


def test_a_shape_that_is_remembered_vouches_for_no_text() -> None:
    """Random bytes and padding are no part of it."""
    tls._shapes.clear()
    data = TAKEN["a host"]
    plain = data.replace(b"Host", b"Hose")
    assert isinstance(sniff(plain), Sniffed) and tls._shapes
    assert sniff(data) == BAD
    assert isinstance(sniff(plain), Sniffed)


PASSES = {
    "no colon": b"\r\nHost evil.test",
    "another field": b"\r\nX-Host: evil.test\r\nGhost: x",
    "a host of nothing": b"\r\nHostess: x",
    "a URL": b"GET http://evil.test/ HTTP/1.1",
    "many colons": b":" * 3000,
    "colons and slashes": b"://" * 1000,
}


@pytest.mark.parametrize("text", PASSES.values(), ids=PASSES)
def test_other_text_is_of_no_matter(text: bytes) -> None:
    """Nobody would read a host in it, where the first word of it all is the method."""
    data = disguised(text, b"\x20\x09")
    assert isinstance(sniff(data), Sniffed)
    assert sniff(data) == read_tls(data)


@pytest.mark.parametrize("name", [b"host.test", b"ghost.test", b"localhost.test", b"a.host"])
def test_a_name_may_hold_the_word(name: bytes) -> None:
    data = records(hello(server_name(name), Extension(PADDING, b":" * 99)))
    seen = sniff(data)
    assert isinstance(seen, Sniffed) and seen.host == name.decode()


def test_ordinary_bytes_are_looked_at_by_their_colons_alone() -> None:
    """And what that says is what the plain reading of all of them says, at the edge of how many are worth it too."""
    chance = random.Random(5)
    parts = [b":", b"\n", b"Host", b"hOSt", b" ", b"\x85", b"st:", b"/", b"://", b"x", b"\x16", b"abc"]
    found = 0
    for _ in range(5000):
        text = b"".join(chance.choices(parts, k=chance.randrange(1, 2 * MAX_COLONS)))
        data = b"\x16\x03\x01\x02\x00" + text
        said = names_a_host(data + b"\nHost:", len(data))
        assert said == reads_as_request(data), data
        found += said
    assert 500 < found < 4500


# -- what follows the hello


def test_early_data_may_be_no_request_either() -> None:
    first = disguised(b"", b"r", Extension(EARLY_DATA))
    good = record(b"early data: " * 9, 23, b"\3\3")
    for evil in (b"\r\nHost: evil.test\r\n\r\n", b"word http://evil.test/ HTTP/1.1\r\n\r\n"):
        watching = Handshake("allowed.test", first)
        assert watching.up(good) == good
        data = record(evil, 23, b"\3\3")
        passed = watching.up(data[:-1])
        with pytest.raises(Forbidden):
            passed += watching.up(data[-1:])
        assert passed == b""


def test_the_pipes_of_this_test_are_servers() -> None:
    """The oracle itself: an ordinary request is answered for its host."""
    plain = b"GET / HTTP/1.1\r\nHost: allowed.test\r\n\r\n"
    assert by_http_server(plain) == b"{allowed.test}"
    assert by_wsgiref(plain).endswith(b"{allowed.test}")
