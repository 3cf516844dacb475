"""Request heads and what must be said of each, written by hand: security C2-C5, C7, A3, A4, and what is no HTTP at all."""

from typing import NamedTuple

from gateway.reasons import Reason
from gateway.sniff.result import Refused, Sniffed
from tests.gateway.sniff.heads import head, usual


class Case(NamedTuple):
    id: str
    data: bytes
    answer: str | Reason
    """The host, or why there is none."""
    port: int | None = None
    raw: bytes = b""
    rest: int = 0
    """Bytes of ``data`` behind the head."""

    def expected(self) -> Sniffed | Refused:
        if isinstance(self.answer, Reason):
            return Refused(self.answer, None if self.answer is NOT else "http", self.raw)
        return Sniffed("http", self.answer, self.port, False, len(self.data) - self.rest)


BAD, NAME, LONG, NOT = Reason.BAD_HTTP, Reason.BAD_NAME, Reason.TOO_LONG, Reason.NOT_TLS_NOT_HTTP


def request(line: bytes) -> bytes:
    return head(request=line)


def field(line: bytes) -> bytes:
    return head(line)


def filled(size: int) -> bytes:
    """A head of ``size`` bytes."""
    return head(b"X: " + b"x" * (size - len(head(b"X: "))))


READ = [
    Case("usual", usual(), "api.openai.com"),
    Case("smallest", b"A / HTTP/1.1\r\nhost:a\r\n\r\n", "a"),
    Case("http-1.0", request(b"GET / HTTP/1.0"), "x.test"),
    Case("any-method", request(b"!#$%&'*+-.^_`|~09aZ / HTTP/1.1"), "x.test"),
    Case("method-of-32-bytes", request(b"M" * 32 + b" / HTTP/1.1"), "x.test"),
    Case("target-with-colons", request(b"GET /a:b//c?d=http://e.test#f HTTP/1.1"), "x.test"),
    Case("two-slashes", request(b"GET //other.test/ HTTP/1.1"), "x.test"),  # still a path: RFC 9112 3.2.1
    Case("asterisk", request(b"OPTIONS * HTTP/1.1"), "x.test"),
    Case("host-last", head(b"A: b", b"Host: x.test", host=None), "x.test"),
    Case("host-in-any-case", head(b"hOsT: X.tEsT", host=None), "x.test"),
    Case("host-without-space", head(b"Host:x.test", host=None), "x.test"),
    Case("host-between-spaces-and-tabs", head(b"Host: \t x.test\t \t", host=None), "x.test"),
    Case("host-with-trailing-dot", head(host=b"x.test."), "x.test"),
    Case("host-of-one-label", head(host=b"localhost"), "localhost"),
    Case("host-with-underscore", head(host=b"a_b.x.test"), "a_b.x.test"),
    Case("host-of-253-bytes", head(host=b"a." * 124 + b"atest"), "a." * 124 + "atest"),
    Case("port", head(host=b"x.test:8080"), "x.test", 8080),
    Case("port-80", head(host=b"x.test:80"), "x.test", 80),
    Case("port-1", head(host=b"x.test:1"), "x.test", 1),
    Case("port-65535", head(host=b"x.test.:65535"), "x.test", 65535),
    Case("port-with-zeros", head(host=b"x.test:00080"), "x.test", 80),
    Case("absolute", request(b"GET http://x.test/ HTTP/1.1"), "x.test"),
    Case("absolute-in-upper-case", request(b"GET HTTP://X.TEST./ HTTP/1.1"), "x.test"),
    Case("absolute-without-path", request(b"GET http://x.test HTTP/1.1"), "x.test"),
    Case("absolute-with-query-alone", request(b"GET http://x.test?y HTTP/1.1"), "x.test"),
    Case("absolute-with-default-port", request(b"GET http://x.test:80/ HTTP/1.1"), "x.test"),
    Case(
        "absolute-and-host-with-one-port",
        head(request=b"GET http://x.test:81/ HTTP/1.1", host=b"x.test:81"),
        "x.test",
        81,
    ),
    Case(
        "absolute-without-default-port",
        head(request=b"GET http://x.test/ HTTP/1.1", host=b"x.test:80"),
        "x.test",
        80,
    ),
    Case("obs-text-in-another-field", field(b"X: \x80\xff"), "x.test"),
    Case("empty-field", field(b"X:"), "x.test"),
    Case(
        "fields-that-only-look-like-host", head(b"Hosts: a", b"X-Host: b", b"Hos: c", b"Host-: d"), "x.test"
    ),
    Case("host-inside-another-value", field(b"X: Host: other.test"), "x.test"),
    Case("content-length", field(b"Content-Length: 0") + b"", "x.test"),
    Case("content-length-of-18-digits", field(b"Content-Length: " + b"9" * 18), "x.test"),
    Case("body-behind", field(b"Content-Length: 5") + b"abc\0\n", "x.test", rest=5),
    Case("chunked", field(b"Transfer-Encoding: Chunked"), "x.test"),
    Case(
        "second-request-behind",
        head() + head(host=b"other.test"),
        "x.test",
        rest=len(head(host=b"other.test")),
    ),
    Case("websocket", head(b"Connection: Upgrade", b"Upgrade: WebSocket"), "x.test"),
    Case("8000-fields", head(*[b"a:"] * 8000), "x.test"),
    Case("16-KiB", usual(least=16384), "api.openai.com"),
    Case("32-KiB", filled(32768), "x.test"),
]

C2_AUTHORITY = [
    Case("no-host", head(host=None), BAD),
    Case("no-fields", b"GET / HTTP/1.1\r\n\r\n", BAD),
    Case("no-host-in-1.0", head(request=b"GET / HTTP/1.0", host=None), BAD),
    Case("two-hosts", head(b"Host: other.test"), BAD),
    Case("two-hosts-in-other-case", head(b"HOST: other.test"), BAD),
    Case("same-host-twice", head(b"Host: x.test"), BAD),
    Case("second-host-empty", head(b"Host:"), BAD),
    Case("absolute-without-host", head(request=b"GET http://x.test/ HTTP/1.1", host=None), BAD),
    Case("absolute-differs", request(b"GET http://other.test/ HTTP/1.1"), BAD),
    Case("absolute-of-a-subdomain", request(b"GET http://a.x.test/ HTTP/1.1"), BAD),
    Case("absolute-port-differs", request(b"GET http://x.test:81/ HTTP/1.1"), BAD),
    Case("host-port-differs", head(request=b"GET http://x.test/ HTTP/1.1", host=b"x.test:81"), BAD),
    Case("absolute-userinfo", request(b"GET http://x.test@other.test/ HTTP/1.1"), BAD),
    Case("absolute-userinfo-of-the-host", request(b"GET http://other.test@x.test/ HTTP/1.1"), BAD),
    Case("absolute-fragment", request(b"GET http://x.test#@other.test/ HTTP/1.1"), BAD),
    Case("absolute-backslash", request(b"GET http://x.test\\@other.test/ HTTP/1.1"), BAD),
    Case("absolute-empty", request(b"GET http:// HTTP/1.1"), BAD),
    Case("absolute-no-authority", request(b"GET http:///x.test/ HTTP/1.1"), BAD),
    Case("absolute-one-slash", request(b"GET http:/x.test/ HTTP/1.1"), BAD),
    Case("absolute-https", request(b"GET https://x.test/ HTTP/1.1"), BAD),
    Case("absolute-other-scheme", request(b"GET ws://x.test/ HTTP/1.1"), BAD),
    Case("absolute-port-0", head(request=b"GET http://x.test:0/ HTTP/1.1", host=b"x.test"), BAD),
    Case("absolute-port-empty", request(b"GET http://x.test:/ HTTP/1.1"), BAD),
    Case("target-a-name", request(b"GET x.test HTTP/1.1"), BAD),
    Case("target-an-authority", request(b"GET x.test:80 HTTP/1.1"), BAD),
    Case("asterisk-with-get", request(b"GET * HTTP/1.1"), BAD),
    Case("asterisk-and-more", request(b"OPTIONS *x HTTP/1.1"), BAD),
]

HOSTS = [
    *(
        b"",
        b".",
        b"x..test",
        b".x.test",
        b"x.test..",
        b"-x.test",
        b"x-.test",
        b"x.-test",
        b"a." * 125 + b"test",
    ),
    *(b"a" * 64 + b".test", b"1.2.3.4", b"127.1", b"2130706433", b"0x7f.1", b"0x7f000001", b"x.0x7f", b"x.1"),
    *(b"[::1]", b"[::1]:80", b"::1", b"[x.test]", b"*.x.test", b"x.test, other.test", b"x.test,other.test"),
    *(b"x.test other.test", b"x.test\tother.test", b"user@x.test", b"x.test@other.test", b"user:1@x.test"),
    *(b"x.test/", b"x.test/y", b"/x.test", b"x.test\\other.test", b"x.test?", b"x.test#y", b"x.test;y"),
    *(
        b"x.test%00",
        b"x%2etest",
        b"x\xc3\xa9.test",
        b"\xe2\x84\xaaelvin.test",
        b"x.te\xc2\xadst",
        b'"x.test"',
    ),
    *(
        b"http://x.test",
        b"x.test:",
        b"x.test:0",
        b"x.test:00000",
        b"x.test:65536",
        b"x.test:080080",
        b"x.test:-1",
    ),
    *(
        b"x.test:+80",
        b"x.test:8 0",
        b"x.test: 80",
        b"x.test :80",
        b"x.test:80:80",
        b"x.test:http",
        b":80",
        b":",
    ),
    *(b"x.test:80.", b"x.test:8\xb2", b"a" * 3000),
]
"""None of them is a hostname, with a port or without."""

C3_BYTES = [
    Case("folded", head(b"X: a", b" b"), BAD),
    Case("folded-by-tab", head(b"X: a", b"\tb"), BAD),
    Case("folded-host", head(b"Host:", b" x.test", host=None), BAD),
    Case("first-field-folded", b"GET / HTTP/1.1\r\n Host: x.test\r\n\r\n", BAD),
    Case("space-before-colon", head(b"Host : x.test", host=None), BAD),
    Case("tab-before-colon", field(b"X\t: y"), BAD),
    Case("space-in-name", field(b"X Y: z"), BAD),
    Case("no-colon", field(b"X"), BAD),
    Case("no-name", field(b": y"), BAD),
    Case("high-byte-in-name", field(b"\x80: y"), BAD),
    Case("bracket-in-name", field(b"X[]: y"), BAD),
    Case("bare-lf-ends-a-line", b"GET / HTTP/1.1\r\nX: y\nHost: x.test\r\n\r\n", BAD),
    Case("bare-lf-ends-the-request-line", b"GET / HTTP/1.1\nHost: x.test\r\n\r\n", BAD),
    Case("bare-lf-everywhere", b"GET / HTTP/1.1\nHost: x.test\n\n", BAD),
    Case("bare-lf-ends-the-head", b"GET / HTTP/1.1\r\nHost: x.test\r\n\n", BAD),
    Case("bare-cr-in-a-value", field(b"X: a\rHost: other.test"), BAD),
    Case("two-crs", field(b"X: a\r"), BAD),
    Case("cr-at-the-end", b"GET / HTTP/1.1\r\nHost: x.test\r\r\n\r\n", BAD),
    Case("lf-cr", b"GET / HTTP/1.1\n\rHost: x.test\n\r\n\r", BAD),
    *(
        Case(f"{byte:#04x}-in-{where}", data.replace(b"!!", bytes((byte,))), answer)
        for byte in (*range(9), 11, 12, *range(14, 32), 0x7F)
        for where, data, answer in (
            ("method", b"GE!!T / HTTP/1.1\r\nHost: x.test\r\n\r\n", NOT),
            ("target", request(b"GET /!! HTTP/1.1"), BAD),
            ("name", field(b"X!!: y"), BAD),
            ("value", field(b"X: y!!z"), BAD),
            ("host", head(host=b"x!!.test"), BAD),
            ("end-of-host", head(host=b"x.test!!"), BAD),
        )
    ),
    Case("high-byte-in-target", request(b"GET /\x80 HTTP/1.1"), BAD),
    Case("high-byte-in-version", request(b"GET / HTTP/1.\xb9"), BAD),
    Case("tab-for-space", request(b"GET\t/ HTTP/1.1"), NOT),
    Case("tab-before-version", request(b"GET /\tHTTP/1.1"), BAD),
    Case("two-spaces-before-target", request(b"GET  / HTTP/1.1"), BAD),
    Case("two-spaces-before-version", request(b"GET /  HTTP/1.1"), BAD),
    Case("space-behind-version", request(b"GET / HTTP/1.1 "), BAD),
    Case("space-in-target", request(b"GET /a b HTTP/1.1"), BAD),
]

C4_FORMS = [
    Case("connect", request(b"CONNECT x.test:443 HTTP/1.1"), BAD),
    Case("connect-with-path", request(b"CONNECT / HTTP/1.1"), BAD),
    Case("connect-in-lower-case", request(b"connect x.test:443 HTTP/1.1"), BAD),
    Case("preface-of-http-2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", BAD),
    Case("pri", request(b"PRI / HTTP/1.1"), BAD),
    Case("upgrade-h2c", head(b"Connection: Upgrade", b"Upgrade: h2c"), BAD),
    Case("upgrade-list", field(b"Upgrade: websocket, h2c"), BAD),
    Case("upgrade-twice", head(b"Upgrade: websocket", b"Upgrade: websocket"), BAD),
    Case("upgrade-empty", field(b"Upgrade:"), BAD),
    Case("upgrade-tls", field(b"Upgrade: TLS/1.0"), BAD),
    Case("http2-settings", field(b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"), BAD),
    Case("http-0.9", b"GET /\r\n", BAD),
    Case("http-0.9-with-host", request(b"GET /"), BAD),
    Case("no-target", request(b"GET HTTP/1.1"), BAD),
    *(
        Case(f"version-{version.decode()}", request(b"GET / " + version), BAD)
        for version in (b"HTTP/0.9", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/2", b"HTTP/3", b"HTTP/11", b"HTTP/1.10")
    ),
    *(
        Case(f"version-{version.decode()}", request(b"GET / " + version), BAD)
        for version in (
            b"HTTP/01.1",
            b"HTTP/1.",
            b"HTTP/1",
            b"http/1.1",
            b"ICY/1.1",
            b"HTTP 1.1",
            b"RTSP/1.0",
        )
    ),
]

C5_FRAMING = [
    Case("length-and-coding", head(b"Content-Length: 5", b"Transfer-Encoding: chunked"), BAD),
    Case("coding-and-length", head(b"Transfer-Encoding: chunked", b"content-length: 5"), BAD),
    Case("two-lengths", head(b"Content-Length: 5", b"Content-Length: 6"), BAD),
    Case("same-length-twice", head(b"Content-Length: 5", b"Content-Length: 5"), BAD),
    *(
        Case(f"length-{number}", field(b"Content-Length: " + value), BAD)
        for number, value in enumerate(
            (b"", b"+5", b"-5", b"0x5", b"5, 5", b"5 5", b"5.0", b"5;", b"five", b"\xb2", b"1" * 19, b'"5"')
        )
    ),
    *(
        Case(f"coding-{number}", field(b"Transfer-Encoding: " + value), BAD)
        for number, value in enumerate(
            (
                *(b"", b"gzip", b"gzip, chunked", b"chunked, chunked", b"chunked, identity", b"identity"),
                *(b"xchunked", b"chunked;q=1", b"chunked,", b",chunked", b'"chunked"', b"chunke\xe4"),
                *(b"chunked gzip", b"chunked\x0b", b"chunked\0"),
            )
        )
    ),
    Case("two-codings", head(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"), BAD),
    Case("coding-in-1.0", head(b"Transfer-Encoding: chunked", request=b"GET / HTTP/1.0"), BAD),
]

C7_LENGTH = [
    Case("32-KiB-and-one", filled(32769), LONG),
    Case("no-end", b"GET / HTTP/1.1\r\nX: " + b"x" * 40000, LONG),
    Case("no-end-of-the-request-line", b"GET /" + b"x" * 40000, LONG),
    Case("end-cut-by-the-limit", filled(32769)[:32768], LONG),
    Case("bad-byte-within-the-limit", filled(32767)[:-4] + b"\0" + b"x" * 9, BAD),
    Case("bad-byte-beyond-the-limit", filled(40000)[:32768] + b"\0", LONG),
    Case("70-KiB", filled(70000), LONG),
]

NO_HTTP = [
    Case("empty-line-first", b"\r\n" + head(), NOT),
    Case("space-first", b" " + head(), NOT),
    Case("method-of-33-bytes", b"M" * 33 + b" / HTTP/1.1\r\nHost: x.test\r\n\r\n", NOT),
    Case("ssh", b"SSH-2.0-OpenSSH_9.2\r\n", NOT),
    Case("smtp", b"EHLO x.test\r\n", BAD),  # begins as a request may
    Case("redis", b"*1\r\n$4\r\nPING\r\n", NOT),
    Case("postgres", b"\0\0\0\x08\x04\xd2\x16\x2f", NOT),
    Case("socks5", b"\5\1\0", NOT),
    Case("socks4", b"\4\1\0\x50\x01\x02\x03\x04\0", NOT),
    Case("tls-alert", b"\x15\3\1\0\2\2\x28", NOT),
    Case("tls-application-data", b"\x17\3\3\0\5early", NOT),
    Case("sslv2-hello", b"\x80\x2e\1\3\1\0\x15\0\0\0\x10", NOT),
    Case("sslv2-hello-of-three-bytes", b"\x2e\0\3\1\3\1", NOT),
    Case("proxy-protocol", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", BAD),
    Case("proxy-protocol-2", b"\r\n\r\n\0\r\nQUIT\n", NOT),
    Case("byte-order-mark", b"\xef\xbb\xbf" + head(), NOT),
    *(
        Case(f"first-byte-{byte:#04x}", bytes((byte,)) + head(), NOT)
        for byte in (*range(22), *range(23, 33), *b'"(),/:;<=>?@[\\]{}', *range(0x7F, 256, 11))
    ),
]

CASES = (
    READ
    + C2_AUTHORITY
    + [Case(f"host-{at}", head(host=host), NAME, raw=host[:253]) for at, host in enumerate(HOSTS)]
    + C3_BYTES
    + C4_FORMS
    + C5_FRAMING
    + C7_LENGTH
    + NO_HTTP
)
