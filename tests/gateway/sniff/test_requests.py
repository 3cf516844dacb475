"""Every request on a connection, in every way that it can arrive."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.sniff import Forbidden, NeedMore, Refused, Requests, Sniffed, requests, sniff, watch
from gateway.sniff.answers import MAX_ANSWER
from gateway.sniff.http import MAX_HEAD, sniff_http
from gateway.sniff.requests import FIRST_LOOK, MAX_HELD

HOST, PORT = "allowed.test", 80
GET = b"GET / HTTP/1.1\r\nHost: allowed.test\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: allowed.test\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"POST /b HTTP/1.1\r\nHost: allowed.test\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n1;a=b\r\nx\r\n00a\r\n0123456789\r\n0\r\n\r\n"
)
TRAILED = CHUNKED[:-2] + b"Checksum: abc\r\nOther:\r\n\r\n"
EVIL = b"GET /stolen HTTP/1.1\r\nHost: evil.test\r\n\r\n"
SOCKET = b"GET /ws HTTP/1.1\r\nHost: allowed.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
TO_H2C = b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA\r\nUpgrade: h2c\r\n"
TO_TLS = b"Upgrade: TLS/1.2\r\nConnection: Upgrade\r\n"
OK = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 2\r\n\r\nok"
SWITCHES = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"


def asking(request: bytes, fields: bytes = TO_H2C) -> bytes:
    """The same, with what asks for another protocol."""
    line, _, rest = request.partition(b"\r\n")
    return line + b"\r\n" + fields + rest


def run(data: bytes, cuts: list[int]) -> tuple[bytes, bool]:
    """What passes of ``data`` in pieces, and whether it was ended."""
    watching = Requests(HOST, PORT)
    passed, before = b"", 0
    try:
        for cut in [*sorted(cut for cut in cuts if cut < len(data)), len(data)]:
            passed += watching.up(data[before:cut])
            before = cut
    except Forbidden:
        return passed, True
    return passed, False


GOOD = {
    "one": GET,
    "two": GET * 2,
    "a thousand": GET * 1000,
    "a body": POST + GET,
    "an empty body": POST.replace(b"5\r\n\r\nhello", b"0\r\n\r\n") + GET,
    "chunks": CHUNKED + POST + GET,
    "trailers": TRAILED + CHUNKED + GET,
    "500 trailers": CHUNKED[:-2] + b"A: b\r\n" * 500 + b"\r\n" + GET,
    "its own port": GET.replace(b"allowed.test", b"allowed.test:80") + GET,
    "another case": GET + GET.replace(b"allowed.test", b"ALLOWED.test"),
    "absolute form": GET + GET.replace(b"GET /", b"GET http://allowed.test/"),
    "HTTP/1.0": GET.replace(b"1.1", b"1.0") + GET,
    "absolute form with its port": GET + GET.replace(b"GET /", b"GET http://allowed.test:80/"),
    "extensions of chunks": CHUNKED.replace(
        b"\r\n5\r\n", b'\r\n5;a="b;c\t/ d\\"";x;y="";chunk-signature=ad80c7\r\n'
    ),
    "h2c": asking(GET),
    "h2c and a body": asking(POST),
    "TLS and chunks": asking(CHUNKED, TO_TLS),
    "websocket and trailers": asking(TRAILED, b"Upgrade: websocket\r\n"),
}


@pytest.mark.parametrize("data", GOOD.values(), ids=GOOD)
def test_requests_to_the_same_host_pass_unchanged(data: bytes) -> None:
    assert run(data, []) == (data, False)
    assert run(data, list(range(1, len(data)))) == (data, False)
    for at in range(1, min(len(data), 400)):
        assert run(data, [at]) == (data, False)


BAD = {
    "another host": EVIL,
    "another host's subdomain": GET.replace(b"allowed.test", b"a.allowed.test"),
    "another port": GET.replace(b"allowed.test", b"allowed.test:8080"),
    "no host": GET.replace(b"Host: allowed.test\r\n", b""),
    "two hosts": GET.replace(b"\r\n\r\n", b"\r\nHost: allowed.test\r\n\r\n"),
    "absolute form of another": GET.replace(b"GET /", b"GET http://evil.test/"),
    "CONNECT": GET.replace(b"GET /", b"CONNECT evil.test:443"),
    "h2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "an empty line first": b"\r\n" + GET,
    "TLS": b"\x16\x03\x01\x00\x05hello",
    "length and coding": CHUNKED.replace(b"Transfer", b"Content-Length: 5\r\nTransfer"),
    "two lengths": POST.replace(b"Content-Length: 5", b"Content-Length: 5\r\nContent-Length: 5"),
    "a list of lengths": POST.replace(b": 5", b": 5, 5"),
    "a negative length": POST.replace(b": 5", b": -5"),
    "a signed length": POST.replace(b": 5", b": +5"),
    "coding with a twist": CHUNKED.replace(b": chunked", b": chunked, identity"),
    "a websocket before the last is answered": SOCKET,
    "h2c before the last is answered": asking(GET),
    "h2 settings before the last is answered": asking(GET, b"HTTP2-Settings: AA\r\n"),
    "a tab before the host": GET.replace(b"Host: ", b"Host:\t"),
    "a tab behind the host": GET.replace(b"test\r\n", b"test\t\r\n"),
    "a tab before the coding": CHUNKED.replace(b": chunked", b":\tchunked"),
    "a tab before the length": POST.replace(b": 5", b":\t5"),
    "absolute form, another port": GET.replace(b"GET /", b"GET http://allowed.test:8080/"),
    "a folded line": GET.replace(b"\r\n\r\n", b"\r\nA: b\r\n c\r\n\r\n"),
    "bare line feeds": GET.replace(b"\r\n", b"\n"),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
@pytest.mark.parametrize("before", [GET, POST, CHUNKED, TRAILED], ids=["get", "post", "chunked", "trailers"])
def test_not_one_byte_of_a_request_that_may_not_pass_does(before: bytes, data: bytes) -> None:
    """Whatever came first, and however it arrives."""
    whole = before + data
    passed, ended = run(whole, [])
    assert ended
    passed, ended = run(whole, [len(before)])
    assert (passed, ended) == (before, True)
    passed, ended = run(whole, list(range(1, len(whole))))
    assert (passed, ended) == (before, True)
    for at in range(1, len(whole)):
        passed, ended = run(whole, [at])
        assert ended and before.startswith(passed)


ODD_CHUNKS = {
    "no digit": b"\r\nhello\r\n",
    "0x": b"0x5\r\nhello\r\n",
    "a sign": b"+5\r\nhello\r\n",
    "a space first": b" 5\r\nhello\r\n",
    "a space and more": b"5 5\r\nhello\r\n",
    "bare line feed": b"5\nhello\r\n",
    "bare carriage return": b"5\rhello\r\n",
    "control in the extension": b"5;\x00\r\nhello\r\n",
    "a request line for an extension": b"18;x / HTTP/1.1\r\n" + EVIL[:0x18] + b"\r\n",
    "a request line in a quoted one": b'5;x=" / HTTP/1.1"\r\nhello\r\n',
    "half a request line in a quoted one": b'5;x="a / http/1.1"\r\nhello\r\n',
    "an extension without a name": b"5;\r\nhello\r\n",
    "an extension of nothing": b"5;a=\r\nhello\r\n",
    "two names": b"5;a b\r\nhello\r\n",
    "two values": b"5;a=b=c\r\nhello\r\n",
    "a quote without end": b'5;a="b\r\nhello\r\n',
    "something behind a quote": b'5;a="b"c\r\nhello\r\n',
    "a blank at the end": b"5;a=b \r\nhello\r\n",
    "a high byte in the extension": b'5;a="\xff"\r\nhello\r\n',
    "too many digits": b"000000005\r\nhello\r\n",
    "more than 32 bits": b"100000005\r\nhello\r\n0\r\n\r\n",
    "more than 31 bits": b"80000000\r\nhello\r\n0\r\n\r\n",
    "a space before an extension": b"5 ;a=b\r\nhello\r\n0\r\n\r\n",
    "a tab before an extension": b"5\t;a=b\r\nhello\r\n0\r\n\r\n",
    "a space before a name": b"5; a=b\r\nhello\r\n0\r\n\r\n",
    "a space before =": b"5;a =b\r\nhello\r\n0\r\n\r\n",
    "a space behind =": b'5;a= "b"\r\nhello\r\n0\r\n\r\n',
    "a space between extensions": b"5;a ;b\r\nhello\r\n0\r\n\r\n",
    "a line without end": b"5;" + b"a" * 2000,
    "too long by one": b"5\r\nhello!\r\n",
    "too short by one": b"5\r\nhell\r\n0\r\n\r\n",
    "line feed behind": b"5\r\nhello\n0\r\n\r\n",
    "Host as a trailer": b"0\r\nHost: evil.test\r\n\r\n",
    "a length as a trailer": b"0\r\nContent-Length: 5\r\n\r\n",
    "a folded trailer": b"0\r\nA: b\r\n c\r\n\r\n",
    "a trailer that is none": b"0\r\nGET / HTTP/1.1\r\n\r\n",
    "trailers without end": b"0\r\n" + b"A: b\r\n" * 6000,
}


@pytest.mark.parametrize("chunks", ODD_CHUNKS.values(), ids=ODD_CHUNKS)
def test_odd_chunks_end_it_before_the_next_request(chunks: bytes) -> None:
    head = CHUNKED[: CHUNKED.index(b"\r\n\r\n") + 4]
    data = head + chunks + EVIL
    for cuts in ([], [len(head)], list(range(1, len(data)))):
        passed, ended = run(data, cuts)
        assert ended
        assert b"evil" not in passed and b"stolen" not in passed


def test_the_longest_chunk() -> None:
    head = CHUNKED[: CHUNKED.index(b"\r\n\r\n") + 4] + b"7fffffff\r\n"
    watching = Requests(HOST, PORT)
    assert watching.up(head) == head
    assert watching.ahead == 0x7FFFFFFF


def test_a_trailer_too_many_ends_it() -> None:
    many = CHUNKED[:-2] + b"A: b\r\n" * 501 + b"\r\n"
    assert run(many, []) == (b"", True)
    assert run(many, [len(CHUNKED) - 2]) == (CHUNKED[:-2], True)


def test_a_websocket_is_opaque_once_the_server_has_switched() -> None:
    watching = Requests(HOST, PORT)
    assert watching.up(SOCKET + b"early") == SOCKET
    assert not watching.settled
    assert watching.down(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 10") == b""
    assert watching.down(b"1 Switching Protocols\r\n") == b"early"
    assert watching.settled is True


def test_a_server_that_does_not_switch_gets_requests_only() -> None:
    watching = Requests(HOST, PORT)
    assert watching.up(SOCKET + GET) == SOCKET
    assert watching.down(b"HTTP/1.1 200 OK\r\n") == GET
    assert not watching.settled
    with pytest.raises(Forbidden):
        watching.up(EVIL)


def test_what_was_said_to_early_to_a_server_that_does_not_switch_is_judged() -> None:
    watching = Requests(HOST, PORT)
    assert watching.up(SOCKET + EVIL) == SOCKET
    with pytest.raises(Forbidden):
        watching.down(b"HTTP/1.1 426 Upgrade Required\r\n")


@pytest.mark.parametrize(
    "answer", [b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/2.0 101 no\r\n\r\n", b"HTTP/1.1  101 x\r\n"]
)
def test_an_answer_that_is_none_ends_it(answer: bytes) -> None:
    watching = Requests(HOST, PORT)
    watching.up(SOCKET)
    with pytest.raises(Forbidden):
        watching.down(answer)


def test_an_interim_answer_is_awaited_whole() -> None:
    watching = Requests(HOST, PORT)
    watching.up(SOCKET + b"early")
    assert watching.down(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n") == b""
    assert watching.down(b"Link: y\r\n") == b""
    assert not watching.settled
    assert watching.down(b"\r\nHTTP/1.1 101 Switching Protocols\r\n") == b"early"


def test_an_interim_answer_is_bounded() -> None:
    watching = Requests(HOST, PORT)
    watching.up(SOCKET)
    answer = b"HTTP/1.1 103 Early Hints\r\nLink: "
    assert watching.down(answer + b"x" * (MAX_ANSWER - len(answer))) == b""
    with pytest.raises(Forbidden):
        watching.down(b"x")


def test_a_watch_begins_with_the_requests_that_were_read_with_the_first() -> None:
    first = POST + GET + GET[:20]
    seen = sniff(first)
    assert isinstance(seen, Sniffed)
    watching, passes = watch(seen, first, PORT)
    assert isinstance(watching, Requests)
    assert passes == POST + GET
    assert watching.up(GET[20:]) == GET
    with pytest.raises(Forbidden):
        watching.up(EVIL)


@pytest.mark.parametrize(("first", "port"), [(GET + EVIL, PORT), (GET.replace(b"test\r", b"test:80\r"), 81)])
def test_a_watch_never_begins_where_the_first_bytes_name_something_else(first: bytes, port: int) -> None:
    seen = sniff(first)
    assert isinstance(seen, Sniffed)
    with pytest.raises(Forbidden):
        watch(seen, first, port)


def test_what_the_server_says_is_of_no_interest_otherwise() -> None:
    watching = Requests(HOST, PORT)
    watching.up(GET)
    assert watching.down(b"\x00" * 100_000) == b""


PARTS = st.sampled_from(
    [*GOOD.values(), *BAD.values(), EVIL, b"0\r\n\r\n", b"5\r\n", b"\r\n", b"x", b":", b" "]
)


@given(st.lists(PARTS, max_size=4).map(b"".join), st.lists(st.integers(1, 500), max_size=5))
def test_the_answer_is_the_same_however_it_arrives(data: bytes, cuts: list[int]) -> None:
    whole, ended = run(data, [])
    passed, ended_in_pieces = run(data, cuts)
    bytewise, ended_bytewise = run(data, list(range(1, min(len(data), 3000))))
    assert ended == ended_in_pieces == ended_bytewise
    if not ended:
        assert whole == passed == bytewise
    assert data.startswith(bytewise) and bytewise.startswith(passed)
    assert (
        b"/stolen" not in bytewise
        or b"evil.test" not in bytewise.partition(b"/stolen")[2][:40]
        or _in_body(data)
    )


def _in_body(data: bytes) -> bool:
    """Bytes of a body may say what they like."""
    return b"Content-Length: 5" in data or b"chunked" in data


def test_what_is_held_for_a_switch_is_bounded() -> None:
    watching = Requests(HOST, PORT)
    watching.up(SOCKET)
    assert watching.up(bytes(MAX_HELD)) == b""
    with pytest.raises(Forbidden):
        watching.up(b"x")


# -- heads are looked at by a slice


class Whole(Requests):
    """Looks at all that a head may be at once, as it was before a slice was enough."""

    __slots__ = ()

    def up(self, chunk: bytes) -> bytes:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(requests, "FIRST_LOOK", MAX_HEAD)
            return super().up(chunk)


def steps(watching: Requests, data: bytes, cuts: list[int]) -> list[object]:
    """What passes of each piece, and what is known then; up to the one that ends it."""
    said: list[object] = []
    before = 0
    for cut in [*sorted({cut for cut in cuts if cut < len(data)}), len(data)]:
        try:
            passed = watching.up(data[before:cut])
        except Forbidden:
            return [*said, "ended"]
        said.append((passed, watching._held, watching._scanned, watching._state, watching.ahead))
        before = cut
    return said


def head_of(size: int, host: str = HOST) -> bytes:
    """A head of so many bytes."""
    head = f"GET / HTTP/1.1\r\nHost: {host}\r\nX: ".encode()
    return head + b"x" * (size - len(head) - 4) + b"\r\n\r\n"


EDGES = [at + by for at in (FIRST_LOOK, 2 * FIRST_LOOK, MAX_HEAD) for by in range(-5, 6)]
HEADS = st.one_of(
    st.sampled_from([*GOOD.values(), *BAD.values(), EVIL]).filter(lambda data: len(data) < 4000),
    st.builds(
        head_of,
        st.one_of(st.sampled_from(EDGES), st.integers(100, 5000)),
        st.sampled_from([HOST, "evil.test"]),
    ),
    st.builds(lambda size: head_of(size)[:-2] + b"\x01\r\n\r\n", st.sampled_from(EDGES)),
    st.builds(lambda number: GET[:-2] + b"a:\r\n" * number + b"\r\n", st.integers(400, 600)),
)


@given(
    st.lists(HEADS, min_size=1, max_size=4).map(b"".join),
    st.lists(st.one_of(st.integers(1, 40_000), st.sampled_from(EDGES)), max_size=6),
)
def test_a_head_is_read_as_if_all_of_it_was_looked_at_at_once(data: bytes, cuts: list[int]) -> None:
    assert steps(Requests(HOST, PORT), data, cuts) == steps(Whole(HOST, PORT), data, cuts)


@pytest.mark.parametrize("size", EDGES)
def test_heads_as_long_as_a_look_and_longer(size: int) -> None:
    data = head_of(size) + GET
    ends = size > MAX_HEAD
    for cuts in ([], [size - 1], [FIRST_LOOK], [1, FIRST_LOOK - 1], [size - 4]):
        assert run(data, cuts) == (b"" if ends else data, ends)


def test_what_follows_a_head_is_not_copied_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []

    def counting(data: bytes, scanned: int) -> Sniffed | NeedMore | Refused:
        looks.append(len(data))
        return sniff_http(data, scanned)

    monkeypatch.setattr(requests, "sniff_http", counting)
    data = GET * 1000
    assert run(data, []) == (data, False)
    assert (len(looks), max(looks)) == (1000, FIRST_LOOK)


# -- what a watch says is ahead


def test_what_is_ahead_passes_without_a_look() -> None:
    watching = Requests(HOST, PORT)
    for data, ahead in [
        (POST[:-5], 5),
        (b"he", 3),
        (b"llo", 0),
        (CHUNKED[: CHUNKED.index(b"hello")], 5),
        (b"hell", 1),
        (b"o", 0),
        (b"\r\n0\r\n\r\n", 0),
        (GET, 0),
        (GET[:-1], 0),
    ]:
        watching.up(data)
        assert watching.ahead == ahead


def test_many_interim_answers_at_once() -> None:
    watching = Requests(HOST, PORT)
    watching.up(SOCKET + b"early")
    interim = b"HTTP/1.1 100 \r\n\r\n"
    assert watching.down(interim * 3000 + interim[:5]) == b""
    assert watching._answers._held == interim[:5]
    assert watching.down(interim[5:] + b"HTTP/1.1 101 \r\n") == b"early"


# -- who asks for another protocol

OTHERS = {
    "h2c": TO_H2C,
    "TLS": TO_TLS,
    "a list": b"Upgrade: websocket, h2c\r\n",
    "nothing": b"Upgrade:\r\n",
    "nobody knows": b"Upgrade: foo/1\r\n",
    "h2 settings alone": b"HTTP2-Settings: AA\r\n",
    "websocket and h2 settings": b"Upgrade: websocket\r\nHTTP2-Settings: AA\r\n",
}
ASKED = [asking(request, fields) for request in (GET, POST, CHUNKED, TRAILED) for fields in OTHERS.values()]
CHUNKED_OK = b"HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n3;a=b\r\nabc\r\n1\r\nx\r\n0\r\n\r\n"
TRAILED_OK = CHUNKED_OK[:-2] + b"Checksum: abc\r\n\r\n"
CONTINUES = b"HTTP/1.1 100 Continue\r\n\r\n"


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@pytest.mark.parametrize("asked", ASKED, ids=[f"{name}-{at}" for at in range(4) for name in OTHERS])
@pytest.mark.parametrize("size", [1, 2, 7, 10_000])
def test_a_server_that_does_not_heed_it_gets_one_request_after_another(asked: bytes, size: int) -> None:
    """As often as the client likes (Java asks with each request), however all of it arrives."""
    watching = Requests(HOST, PORT)
    for answer in (OK, CHUNKED_OK, TRAILED_OK, CONTINUES + OK, OK.replace(b"200 OK", b"404")):
        assert b"".join(watching.up(piece) for piece in pieces(asked, size)) == asked
        assert not b"".join(watching.down(piece) for piece in pieces(answer, size))
        assert watching.up(GET) == GET
        assert watching.down(OK) == b""
    assert not watching.settled
    with pytest.raises(Forbidden):
        watching.up(EVIL)


@pytest.mark.parametrize("asked", ASKED, ids=[f"{name}-{at}" for at in range(4) for name in OTHERS])
@pytest.mark.parametrize("before", [b"", CONTINUES, OK], ids=["at once", "interim", "later"])
def test_a_server_that_switches_to_what_cannot_be_read_is_left(asked: bytes, before: bytes) -> None:
    """With nothing of what was said too early, in whichever pieces the answer comes."""
    for size in (1, 5, 1000):
        watching = Requests(HOST, PORT)
        if before == OK:
            watching.up(GET)
            watching.down(OK)
        assert watching.up(asked) == asked
        assert watching.up(b"PRI * HTTP/2.0\r\n") == b""
        passed = b""
        with pytest.raises(Forbidden):
            for piece in pieces(before.replace(OK, b"") + SWITCHES, size):
                passed += watching.down(piece)
        assert not passed and not watching.settled


def test_what_follows_waits_for_the_answer_and_is_read_then() -> None:
    for asked in ASKED:
        watching = Requests(HOST, PORT)
        assert watching.up(asked + GET) == asked
        assert watching.down(CONTINUES) == b""
        assert watching.down(OK) == GET
        watching = Requests(HOST, PORT)
        assert watching.up(asked + EVIL) == asked
        with pytest.raises(Forbidden):
            watching.down(OK)


@pytest.mark.parametrize("fields", [TO_H2C, b"Upgrade: websocket\r\n"], ids=["h2c", "websocket"])
@pytest.mark.parametrize("request_", [POST, CHUNKED], ids=["length", "chunked"])
def test_a_switch_before_the_request_is_whole_ends_it(request_: bytes, fields: bytes) -> None:
    """Not even a websocket begins in the middle of a request (RFC 9110 section 7.8)."""
    asked = asking(request_, fields)
    for end in range(asked.index(b"\r\n\r\n") + 4, len(asked)):
        watching = Requests(HOST, PORT)
        watching.up(asked[:end])
        with pytest.raises(Forbidden):
            watching.down(SWITCHES)


@pytest.mark.parametrize("request_", [POST, CHUNKED, TRAILED], ids=["length", "chunked", "trailers"])
def test_an_answer_before_the_request_is_whole(request_: bytes) -> None:
    """A server may refuse a body, or ask for it; the rest is framed as it was, and the next request is read."""
    asked = asking(request_)
    for end in range(asked.index(b"\r\n\r\n") + 4, len(asked)):
        watching = Requests(HOST, PORT)
        passed = watching.up(asked[:end])
        assert watching.down(CONTINUES) == b""
        assert watching.down(OK) == b""
        assert passed + watching.up(asked[end:] + GET) == asked + GET
        with pytest.raises(Forbidden):
            watching.up(EVIL)


def test_a_websocket_later_on_a_connection() -> None:
    watching = Requests(HOST, PORT)
    for request, answer in ((POST, OK), (asking(GET), CHUNKED_OK), (SOCKET, OK)):
        assert watching.up(request) == request
        assert watching.down(answer) == b""
    assert watching.up(SOCKET + b"early") == SOCKET
    assert watching.down(SWITCHES + b"late") == b"early"
    assert watching.settled


def test_a_websocket_that_was_asked_for_with_a_body() -> None:
    asked = asking(POST, b"Upgrade: websocket\r\n")
    watching = Requests(HOST, PORT)
    assert watching.up(asked + b"early") == asked
    assert watching.down(SWITCHES) == b"early"
    assert watching.settled


@pytest.mark.parametrize("asked", [SOCKET, asking(GET)], ids=["websocket", "h2c"])
def test_the_body_of_an_earlier_answer_is_no_answer(asked: bytes) -> None:
    """Who asks while one is still coming is not answered by it, whatever it holds."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(SWITCHES), SWITCHES)
    for end in range(len(answer)):
        watching = Requests(HOST, PORT)
        watching.up(GET)
        watching.down(answer[:end])
        with pytest.raises(Forbidden):
            watching.up(asked)


@pytest.mark.parametrize("method", [b"GET", b"OPTIONS", b"HEAD"])
def test_apache_asks_with_these_methods(method: bytes) -> None:
    asked = asking(GET.replace(b"GET", method), TO_TLS)
    answer = OK.removesuffix(b"ok") if method == b"HEAD" else OK
    watching = Requests(HOST, PORT)
    for request, answered in ((POST, OK), (asked, answer), (asked, answer), (POST, OK), (asked, answer)):
        assert watching.up(request) == request
        assert watching.down(answered) == b""


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 200 OK\r\n\r\n", OK + b"x", OK.replace(b"\r\n", b"\n"), SWITCHES, b"x" * 13]
)
def test_where_answers_cannot_be_told_apart_nobody_may_ask(answer: bytes) -> None:
    """All else goes on."""
    watching = Requests(HOST, PORT)
    watching.up(GET)
    assert watching.down(answer) == b""
    assert watching.up(POST + GET) == POST + GET
    assert watching.down(OK) == b""
    with pytest.raises(Forbidden):
        watching.up(asking(GET))


def test_who_sends_requests_without_waiting_may_not_ask_any_more() -> None:
    watching = Requests(HOST, PORT)
    watching.up(GET + GET)
    watching.down(OK + OK)
    with pytest.raises(Forbidden):
        watching.up(SOCKET)
