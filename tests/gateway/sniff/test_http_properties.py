"""The fast reading and the plain one, on what nobody thought of."""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.sniff import NeedMore, Refused, Sniffed, sniff
from tests.gateway.sniff.cursor_http import read_http
from tests.gateway.sniff.head_mutants import FIELDS, HOSTS, REQUESTS, mutants
from tests.gateway.sniff.heads import GET, HOST, head

blank = st.sampled_from((b"", b" ", b"\t", b"  \t"))
text = st.binary(max_size=12) | st.text("aA0:,;@/ \t.%", max_size=12).map(str.encode)
token = st.text("aZ0!#$%&'*+-.^_`|~", min_size=1, max_size=8).map(str.encode)
method = st.sampled_from((b"GET",) * 6 + (b"OPTIONS", b"CONNECT", b"PRI", b"A" * 32, b"A" * 33)) | token
label = st.text("abAB01-_", min_size=1, max_size=6).map(str.encode)
name = st.sampled_from((b"a.test", b"B.Test.", b"localhost")) | st.lists(label, min_size=1, max_size=4).map(
    b".".join
)
name |= st.sampled_from(HOSTS)
port = st.sampled_from((b"",) * 4 + (b":80", b":8080", b":", b":080", b":0", b":65536", b":0x50"))
authority = st.builds(lambda name, port: name + port, name, port)
path = st.text("/a.?#@:\\%*", max_size=10).map(str.encode)
scheme = st.sampled_from((b"http://",) * 5 + (b"HTTP://", b"https://", b"http:/", b"//", b"://"))
version = st.sampled_from((b"HTTP/1.1",) * 8 + (b"HTTP/1.0",) * 2 + (b"HTTP/1.2", b"http/1.1", b""))
telling = st.sampled_from((b"Host", b"Content-Length", b"transfer-encoding", b"Upgrade", b"HTTP2-Settings"))
value = st.sampled_from((b"5", b"chunked", b"Chunked", b"websocket", b"h2c", b"gzip, chunked", b"")) | text
field = st.builds(lambda *parts: b"".join(parts), token | telling, st.just(b":"), blank, value, blank)
line_end = st.sampled_from((b"\r\n",) * 60 + (b"\n", b"\r", b"\r\r\n", b"\n\r", b"\r\n "))


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A head of which every part may be right or wrong; a target that names a host often names the one of Host."""
    host = draw(authority)
    other = draw(st.sampled_from((host, host, host.swapcase(), host + b":80")) | authority)
    rest = draw(path)
    absolute = draw(scheme) + other + draw(st.sampled_from((b"", b"/"))) + rest
    target = draw(st.sampled_from((b"/" + rest, b"/" + rest, absolute, absolute, rest, other)))
    lines = [b" ".join((draw(method), target, draw(version)))]
    lines += draw(st.lists(field | st.sampled_from(FIELDS), max_size=3))
    lines.insert(draw(st.integers(1, len(lines))), b"Host:" + draw(blank) + host + draw(blank))
    return b"".join(line + draw(line_end) for line in (*lines, b""))


def same(data: bytes) -> Sniffed | NeedMore | Refused:
    """One answer from both; of ``NeedMore`` only that it is one."""
    fast, plain = sniff(data), read_http(data)
    if isinstance(fast, NeedMore):
        assert isinstance(plain, NeedMore)
        assert fast.at_least >= 1
    else:
        assert fast == plain
    return fast


def same_for_every_prefix(data: bytes, step: int = 1) -> None:
    """``scanned`` as the session says it: what was there when ``NeedMore`` was the answer."""
    whole = same(data)
    scanned = 0
    for end in range(1, len(data), step):
        seen = same(data[:end])
        assert sniff(data[:end], scanned=scanned) == seen
        if not isinstance(seen, NeedMore):
            assert seen == whole
            return
        assert not isinstance(whole, Sniffed) or end + seen.at_least <= whole.consumed
        assert sniff(data, scanned=end) == whole
        scanned = end


def as_http(data: bytes) -> bytes:
    """Something that is not read as TLS, nor refused before either parser is asked."""
    return b"G" + data if data[:1] == b"\x16" or data[:1] >= b"\x80" else data


@settings(max_examples=400, deadline=None)
@given(requests(), st.binary(max_size=8))
def test_both_say_the_same_of_requests(made: bytes, later: bytes) -> None:
    same_for_every_prefix(made + later, step=5)


@settings(max_examples=200, deadline=None)
@given(st.lists(field | st.sampled_from(FIELDS), max_size=4), st.sampled_from(REQUESTS))
def test_both_say_the_same_of_fields(fields: list[bytes], request: bytes) -> None:
    same_for_every_prefix(head(request, HOST, *fields), step=7)


@settings(max_examples=200, deadline=None)
@given(authority, blank, blank)
def test_both_say_the_same_of_any_host(host: bytes, before: bytes, after: bytes) -> None:
    same(head(GET, b"Host:" + before + host + after))
    same(head(b"GET http://" + host + b"/ HTTP/1.1", b"Host:" + before + host + after))


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=300))
@example(b"")
def test_both_say_the_same_of_any_bytes(data: bytes) -> None:
    same_for_every_prefix(as_http(data), step=17)
    same_for_every_prefix(b"GET " + data, step=17)
    same_for_every_prefix(GET + b"\r\n" + data + b"\r\n" + HOST + b"\r\n\r\n", step=17)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.integers(-3, 300))
def test_no_bytes_raise(data: bytes, scanned: int) -> None:
    for made in (data, b"GET / HTTP/1.1\r\n" + data):
        for buffer in (made, bytearray(made), memoryview(made)):
            assert isinstance(sniff(buffer, scanned=scanned), Sniffed | NeedMore | Refused)


def test_both_say_the_same_of_mutants() -> None:
    kinds = [type(same(data)) for data in mutants(20000, seed=8)]
    assert all(kinds.count(kind) > 500 for kind in (Sniffed, NeedMore, Refused))


def test_mutants_say_the_same_however_they_arrive() -> None:
    for data in mutants(600, seed=10):
        same_for_every_prefix(data, step=3)
