"""Request heads with something wrong, put together and overwritten: seeded, so that a failure comes back."""

import random
from collections.abc import Iterator
from pathlib import Path

from tests.gateway.sniff.heads import head
from tests.gateway.sniff.http_cases import HEADS

REQUESTS = (
    b"GET / HTTP/1.1",
    b"GET / HTTP/1.0",
    b"POST /x?y=z#f HTTP/1.1",
    b"OPTIONS * HTTP/1.1",
    b"GET * HTTP/1.1",
    b"GET http://x.test/ HTTP/1.1",
    b"GET HTTP://X.test:80?q HTTP/1.1",
    b"GET http://x.test:8080/ HTTP/1.1",
    b"GET http://other.test/ HTTP/1.1",
    b"GET http://x.test@other.test/ HTTP/1.1",
    b"GET http://x.test#@other.test/ HTTP/1.1",
    b"GET http://other.test\\@x.test/ HTTP/1.1",
    b"GET https://x.test/ HTTP/1.1",
    b"GET //other.test/ HTTP/1.1",
    b"GET x.test HTTP/1.1",
    b"CONNECT x.test:443 HTTP/1.1",
    b"connect x.test:443 HTTP/1.1",
    b"PRI * HTTP/2.0",
    b"GET / HTTP/2.0",
    b"GET / HTTP/1.2",
    b"GET / http/1.1",
    b"GET / HTTP/1.1 ",
    b"GET  / HTTP/1.1",
    b"GET /\tHTTP/1.1",
    b"GET /",
    b"GET",
    b"GET / HTTP/01.1",
    b"M-SEARCH /\xff HTTP/1.1",
)

HOSTS = (
    *(
        b"x.test",
        b"X.TEST",
        b"x.test.",
        b"x.test:80",
        b"x.test:8080",
        b"x.test:0",
        b"x.test:",
        b"x.test:65536",
    ),
    *(b"", b"localhost", b"1.2.3.4", b"[::1]", b"0x7f.1", b"a.test, b.test", b"a.test b.test", b"a.test\tb"),
    *(
        b"user@x.test",
        b"x.test/y",
        b"x.test\\y",
        b"x.test?y",
        b"x.test#y",
        b"x..test",
        b".x.test",
        b"-x.test",
    ),
    *(
        b"x_y.test",
        b"x\xc3\xa9.test",
        b"xn--bcher-kva.test",
        b"*.test",
        b"x.test:80:80",
        b"x%2etest",
        b"x.test;",
    ),
)

FIELDS = (
    *(b"Host: x.test", b"hOsT: other.test", b"Host : x.test", b"Host", b" Host: other.test", b"\tfolded"),
    *(b"Host:", b"Host:x.test", b"Host:\tx.test\t ", b"X-Host: other.test", b"Hostx: y", b"Host\t: y"),
    *(b"Content-Length: 5", b"content-length: 5", b"Content-Length: +5", b"Content-Length: 5, 5"),
    *(b"Content-Length: 0x5", b"Content-Length:", b"Content-Length: 1" + b"0" * 18, b"Content_Length: 7"),
    *(b"Transfer-Encoding: chunked", b"Transfer-Encoding: CHUNKED", b"transfer-encoding: gzip, chunked"),
    *(b"Transfer-Encoding: identity", b"Transfer-Encoding:\x0bchunked", b"Transfer-Encoding : chunked"),
    *(b"Upgrade: websocket", b"Upgrade: WebSocket", b"Upgrade: h2c", b"Upgrade: websocket, h2c", b"Upgrade:"),
    *(
        b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA",
        b"Connection: Upgrade",
        b"Connection: Host",
        b"",
        b":",
        b": v",
    ),
    *(b"X: \x80\xff", b"X: \0", b"X: a\rb", b"X: a\nHost: other.test", b"X: a\r\rHost: other.test", b"X(: y"),
    *(b"X: a\n\nGET / HTTP/1.1\r\nHost: other.test", b"X: a\x7f", b"\x80: y", b"Expect: 100-continue"),
)

ODD = b"\0\t\n\r :,@/\\.#?[]%;=+-_aH0\x0b\x0c\x1f\x7f\x80\xa0\xff"


SEEDS = [case.data for case in HEADS if len(case.data) < 2000] + [
    *(path.read_bytes() for path in sorted((Path(__file__).parent / "http_corpus").glob("*.bin"))),
    head(b"POST / HTTP/1.1", b"Host: x.test", b"Content-Length: 3") + b"abc",
    head(b"GET / HTTP/1.1", b"Host: x.test") + head(b"GET / HTTP/1.1", b"Host: other.test"),
]


def mutants(count: int, seed: int) -> Iterator[bytes]:
    """``count`` inputs of the sniffer, the same for the same ``seed``."""
    chance = random.Random(seed)
    for number in range(count):
        data = built(chance) if number % 2 else overwritten(chance.choice(SEEDS), chance)
        if chance.random() < 0.3:
            data = overwritten(data, chance)
        if data and chance.random() < 0.05:
            data = data[: chance.randrange(1, len(data) + 1)]
        yield data if data and data[0] < 0x80 and data[0] != 22 else b"G" + data


def built(chance: random.Random) -> bytes:
    """Lines put together: mostly one right Host, and one or two of everything else that matters."""
    request = chance.choice(REQUESTS) if chance.random() < 0.5 else REQUESTS[0]
    host = chance.choice((b"x.test", b"x.test", chance.choice(HOSTS)))
    fields = [chance.choice(FIELDS) for _ in range(chance.choice((0, 1, 1, 2, 3)))]
    if chance.random() < 0.9:
        fields.insert(chance.randrange(len(fields) + 1), b"Host:" + chance.choice((b"", b" ", b"\t ")) + host)
    end = b"\r\n" if chance.random() < 0.9 else chance.choice((b"\n", b"\r", b"\r\r\n", b"\n\r"))
    return b"\r\n".join([request, *fields]) + end + chance.choice((b"\r\n", b"\r\n", b"\r\n", b"\n", end))


def overwritten(data: bytes, chance: random.Random) -> bytes:
    """A few bytes or lines changed, put in, doubled or left out."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4)) if data else 0):
        at = chance.randrange(len(changed) + 1)
        match chance.randrange(6):
            case 0:
                changed.insert(at, chance.choice(ODD))
            case 1:
                del changed[at : at + chance.choice((1, 1, 2))]
            case 2:
                changed[at : at + 1] = bytes((chance.choice((chance.choice(ODD), chance.randrange(256))),))
            case 3:
                lines = bytes(changed).split(b"\r\n")
                lines.insert(chance.randrange(len(lines)), chance.choice((*lines, *FIELDS)))
                changed[:] = b"\r\n".join(lines)
            case 4:
                lines = bytes(changed).split(b"\r\n")
                del lines[chance.randrange(len(lines))]
                changed[:] = b"\r\n".join(lines)
            case _:
                end = chance.choice((b"\r\n", b"\r\n\r\n", b": ", b"Host: "))
                changed[:] = bytes(changed).replace(end, chance.choice((end[:1], end[1:], end * 2)), 1)
    return bytes(changed)
