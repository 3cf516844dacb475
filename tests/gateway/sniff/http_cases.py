"""Request heads and what must be said of each, written by hand: security C2-C5, C7."""

from gateway.sniff.result import Sniffed
from tests.gateway.sniff.heads import (
    BAD,
    GET,
    HOST,
    LIMIT,
    LONG,
    NEITHER,
    Head,
    bad,
    filled,
    head,
    ignored,
    names,
    no_name,
    waits,
)
from tests.gateway.sniff.http_authorities import ABSOLUTE, HOSTS

VERSIONS = b"""
HTTP/0.9 HTTP/1.2 HTTP/1.9 HTTP/2.0 HTTP/3.0 HTTP/2 HTTP/1 HTTP/1. HTTP/.1 HTTP/ HTTP HTTP/1.10 HTTP/1.01 HTTP/01.1
HTTP/1.1.1 HTTP/1,1 HTTP/11 HTTP/-1.1 HTTP/1.\xb9 HTTP/1.1x http/1.1 Http/1.1 HTTPS/1.1 ICY/1.1 RTSP/1.0 SIP/2.0
""".split()

LONGEST = b"a." * 125 + b"com"

NOT_HTTP = {
    "a space": b" GET / HTTP/1.1",
    "CRLF": b"\r\nGET / HTTP/1.1",
    "two CRLFs": b"\r\n\r\nGET / HTTP/1.1",
    "LF": b"\nGET / HTTP/1.1",
    "CR": b"\rGET / HTTP/1.1",
    "NUL": b"\0GET / HTTP/1.1",
    "a tab": b"\tGET / HTTP/1.1",
    "DEL": b"\x7fGET / HTTP/1.1",
    "a field": HOST,
    "a colon": b":authority: a.test",
    "a quote": b'"GET" / HTTP/1.1',
    "a status line": b"HTTP/1.1 200 OK",
    "no method": b"/ HTTP/1.1",
    "a method of 33 bytes": b"A" * 33 + b" / HTTP/1.1",
    "a method and a tab": b"GET\t/ HTTP/1.1",
    "a method and CRLF": b"GET",
    "a high byte in the method": b"G\xc8T / HTTP/1.1",
    "a slash in the method": b"G/T / HTTP/1.1",
    "SSH": b"SSH-2.0-OpenSSH_9.2",
    "SMTP without a name": b"EHLO",
    "Redis": b"*1\r\n$4\r\nPING",
    "PostgreSQL": b"\0\0\0\x08\x04\xd2\x16\x2f",
    "SOCKS 5": b"\5\1\0",
    "SOCKS 4": b"\4\1\0\x50\x01\x02\x03\x04\0",
    "a TLS alert": b"\x15\3\1\0\2\2\x28",
    "TLS application data": b"\x17\3\3\0\5early",
    "an SSLv2 hello": b"\x80\x2e\1\3\1\0\x15\0\0\0\x10",
    "an SSLv2 hello of three bytes": b"\x2e\0\3\1\3\1",
    "PROXY protocol 2": b"\r\n\r\n\0\r\nQUIT\n",
    "a byte order mark": b"\xef\xbb\xbfGET / HTTP/1.1",
}

FORBIDDEN = {
    "bare LF": b"\n",
    "bare CR": b"\r",
    "NUL": b"\0",
    "VT": b"\x0b",
    "FF": b"\x0c",
    "ESC": b"\x1b",
    "US": b"\x1f",
    "DEL": b"\x7f",
    "CR CR LF": b"\r\r\n",
    "LF CR": b"\n\r",
    "LF LF": b"\n\n",
}

PLACES = {
    "in the target": head(b"GET /@ HTTP/1.1", HOST),
    "after the version": head(b"GET / HTTP/1.1@", HOST),
    "in a field name": head(GET, b"X@Y: z", HOST),
    "in a value": head(GET, b"X: y@z", HOST),
    "in Host": head(GET, b"Host: a.test@b.test"),
    "before Host's value": head(GET, b"Host:@a.test"),
    "after Host's value": head(GET, b"Host: a.test@"),
    "before another Host": head(GET, b"X: y@Host: b.test", HOST),
    "before the empty line": head(GET, HOST, b"X: y@"),
}

LENGTHS_REFUSED = [
    *(
        b"",
        b"5, 5",
        b"5,5",
        b"5,",
        b"5 5",
        b"+5",
        b"-5",
        b"-0",
        b"5.0",
        b"0x5",
        b"5e1",
        b"5_0",
        b"five",
        b"\xb2",
        b"5;a",
    ),
    *(b"9" * 19, b"0" * 19, b"18446744073709551621", b'"5"', b"\t58", b"58\t", b" \t58", b"58 \t "),
]

CODINGS_REFUSED = [
    *(
        b"",
        b"identity",
        b"gzip",
        b"gzip, chunked",
        b"chunked, chunked",
        b"chunked, identity",
        b"chunked,",
        b",chunked",
    ),
    *(
        b"xchunked",
        b"chunkedx",
        b"chun ked",
        b"chunked;a=b",
        b'"chunked"',
        b"chunked\xa0",
        b"chunked\x85",
        b"c",
        b"\tchunked",
        b" \t chunked",
        b"chunked\t",
        b"chunked\t ",
    ),
]

UPGRADES_OTHER = [
    *(
        b"",
        b"h2c",
        b"H2C",
        b"h2",
        b"websocket, h2c",
        b"h2c, websocket",
        b"websocket,",
        b"TLS/1.2",
        b"websocket/13",
        b"\tTLS/1.2, foo/2\t",
    ),
]

USUAL = [
    names("the least that names a host", GET, HOST),
    names(
        "curl",
        b"GET /v1 HTTP/1.1",
        b"Host: api.github.com",
        b"User-Agent: curl/8",
        b"Accept: */*",
        host="api.github.com",
    ),
    names("HTTP/1.0 with Host", b"GET / HTTP/1.0", HOST),
    names("Host is the last field", GET, b"Accept: */*", b"Cookie: a=b; c=d", HOST),
    names("any case of the field name", GET, b"hOsT: a.test"),
    names("upper case host", GET, b"Host: API.OpenAI.COM", host="api.openai.com"),
    names("trailing dot", GET, b"Host: a.test.", host="a.test"),
    names("trailing dot and port", GET, b"Host: a.test.:80", host="a.test", port=80),
    names("single label", GET, b"Host: localhost", host="localhost"),
    names("underscore", GET, b"Host: _dmarc.a_b.test", host="_dmarc.a_b.test"),
    names("a-label", GET, b"Host: xn--bcher-kva.test", host="xn--bcher-kva.test"),
    names("digits first", GET, b"Host: 1password.test", host="1password.test"),
    names("253 bytes", GET, b"Host: " + b"a." * 124 + b"a.com", host="a." * 124 + "a.com"),
    names("a label of 63 bytes", GET, b"Host: " + b"a" * 63 + b".test", host="a" * 63 + ".test"),
    names("no space after the colon", GET, b"Host:a.test"),
    names("blanks about the value", GET, b"Host:    a.test  "),
    names("port", GET, b"Host: a.test:8080", port=8080),
    names("port 1", GET, b"Host: a.test:1", port=1),
    names("port 65535", GET, b"Host: a.test:65535", port=65535),
    names("port with leading zeros", GET, b"Host: a.test:00080", port=80),
    names("empty field value", GET, HOST, b"X:"),
    names("obs-text in another field", GET, HOST, b"X-Name: b\xc3\xbccher \xff"),
    names("tab in another field", GET, HOST, b"X: a\tb"),
    names("colons in another field", GET, HOST, b"X: a:b::c"),
    names("other fields repeated", GET, HOST, b"Accept: a", b"Accept: b"),
    names("every byte of a token", b"!#$%&'*+-.^_`|~09azAZ / HTTP/1.1", HOST, b"!#$%&'*+-.^_`|~09azAZ: x"),
    names("fields that only look like Host", GET, b"Hosts: b.test", b"X-Host: b.test", b"Hos: b.test", HOST),
    names("X-Forwarded-Host is no Host", GET, HOST, b"X-Forwarded-Host: b.test", b"Forwarded: host=b.test"),
    names("a value that reads like a field", GET, b"X: Host: b.test", HOST),
    names("method of one byte", b"A / HTTP/1.1", HOST),
    names("method of 32 bytes", b"A" * 32 + b" / HTTP/1.1", HOST),
    names("lower-case method", b"get / HTTP/1.1", HOST),
    names("path and query", b"POST /a/b?c=d&e=%20;f HTTP/1.1", HOST, b"Content-Length: 3"),
    names("path of two slashes is still a path", b"GET //b.test/ HTTP/1.1", HOST),
    names("a URI in the path", b"GET /http://b.test/ HTTP/1.1", HOST),
    names("a URI in the query", b"GET /?u=http://x@b.test:1/ HTTP/1.1", HOST),
    names("OPTIONS *", b"OPTIONS * HTTP/1.1", HOST),
    names("OPTIONS of a path", b"OPTIONS / HTTP/1.1", HOST),
]

REQUEST_LINES = [  # C2, C4
    bad("CONNECT", b"CONNECT a.test:443 HTTP/1.1", b"Host: a.test:443"),
    bad("CONNECT with a path", b"CONNECT / HTTP/1.1", HOST),
    bad("CONNECT with a URI", b"CONNECT http://a.test/ HTTP/1.1", HOST),
    bad("the preface of HTTP/2", b"PRI * HTTP/2.0", b"", b"SM"),
    bad("PRI as HTTP/1.1", b"PRI / HTTP/1.1", HOST),
    bad("PRI * as HTTP/1.1", b"PRI * HTTP/1.1", HOST),
    bad("HTTP/0.9", b"GET /"),
    bad("HTTP/0.9 with Host", b"GET /", HOST),
    bad("no target", b"GET HTTP/1.1", HOST),
    bad("no target, two spaces", b"GET  HTTP/1.1", HOST),
    bad("nothing after the method", b"GET ", HOST),
    bad("two spaces before the target", b"GET  / HTTP/1.1", HOST),
    bad("two spaces before the version", b"GET /  HTTP/1.1", HOST),
    bad("space after the version", b"GET / HTTP/1.1 ", HOST),
    bad("tab instead of space", b"GET /\tHTTP/1.1", HOST),
    bad("space in the target", b"GET /a b HTTP/1.1", HOST),
    bad("a target with another host behind a space", b"GET http://b.test/ / HTTP/1.1", HOST),
    bad("high byte in the target", b"GET /\xc3\xbc HTTP/1.1", HOST),
    bad("0x80 in the target", b"GET /\x80 HTTP/1.1", HOST),
    *(bad(f"version {version!r}", b"GET / " + version, HOST) for version in VERSIONS),
    bad("version behind a space", b"GET / HTTP 1.1", HOST),
    bad("SMTP", b"EHLO a.test"),
    bad("PROXY protocol", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2"),
    bad("* for another method", b"GET * HTTP/1.1", HOST),
    bad("** for OPTIONS", b"OPTIONS ** HTTP/1.1", HOST),
    bad("lower-case options *", b"options * HTTP/1.1", HOST),
    bad("target without slash", b"GET index.html HTTP/1.1", HOST),
    bad("target is an authority", b"GET a.test HTTP/1.1", HOST),
    bad("target is an authority with port", b"GET a.test:80 HTTP/1.1", HOST),
    bad("target is a query", b"GET ?a HTTP/1.1", HOST),
    bad("target is a fragment", b"GET #a HTTP/1.1", HOST),
    bad("target begins with a backslash", b"GET \\b.test HTTP/1.1", HOST),
    *(ignored(f"begins with {what}", line, HOST) for what, line in NOT_HTTP.items()),
    *(
        Head(f"first byte {byte:#x}", bytes((byte,)) + b"x" * 40, NEITHER)
        for byte in (*range(22), *range(23, 33), *b'"(),/:;<=>?@[\\]{}', 127, 128, 255)
    ),
]

BYTES = [  # C3
    bad("obs-fold", GET, HOST, b" folded"),
    bad("obs-fold by tab", GET, HOST, b"\tfolded"),
    bad("obs-fold of Host", GET, b"Host:", b" a.test"),
    bad("obs-fold that makes a list", GET, HOST, b" , b.test"),
    bad("obs-fold of nothing", GET, HOST, b" "),
    bad("obs-fold of another field", GET, b"X: a", b"  Host: b.test", HOST),
    bad("a fold before the first field", GET, b" Host: b.test", HOST),
    bad("space before the colon of Host", GET, b"Host : a.test"),
    bad("tab before the colon of Host", GET, b"Host\t: a.test"),
    bad("space before the colon of a second Host", GET, HOST, b"Host : b.test"),
    bad("space before the colon of another field", GET, HOST, b"Accept : */*"),
    bad("space before the colon of Transfer-Encoding", GET, HOST, b"Transfer-Encoding : chunked"),
    bad("no colon", GET, HOST, b"Accept"),
    bad("no field name", GET, HOST, b": x"),
    bad("only a colon", GET, HOST, b":"),
    bad("a slash in a field name", GET, HOST, b"a/b: c"),
    bad("a high byte in a field name", GET, HOST, b"H\xf6st: b.test"),
    bad("0x80 after a field name", GET, b"Host\x80: b.test", HOST),
    bad("NBSP before a field name", GET, b"\xa0Host: b.test", HOST),
    bad("a quote in a field name", GET, HOST, b'"Host": b.test'),
    *(
        Head(f"{name} {where}", data.replace(b"@", byte), BAD)
        for name, byte in FORBIDDEN.items()
        for where, data in PLACES.items()
    ),
    Head("bare LF everywhere", b"GET / HTTP/1.1\nHost: a.test\n\n", BAD),
    Head("bare LF ends the request line", b"GET / HTTP/1.1\nHost: a.test\r\n\r\n", BAD),
    Head("bare LF ends the head", b"GET / HTTP/1.1\r\nHost: a.test\r\n\n", BAD),
    Head("LF, then CRLF ends the head", b"GET / HTTP/1.1\r\nHost: a.test\n\r\n", BAD),
    Head("CR instead of the empty line", b"GET / HTTP/1.1\r\nHost: a.test\r\n\rX: y\r\n\r\n", BAD),
    Head("CR CR LF ends the head", b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\r\n", BAD),
    Head("HTTP/0.9 ended by LF", b"GET /\n", BAD),
]

FRAMING = [  # C5
    names("one length", b"POST / HTTP/1.1", HOST, b"Content-Length: 0"),
    names("a length of 18 digits", b"POST / HTTP/1.1", HOST, b"Content-Length: " + b"9" * 18),
    names("a length in HTTP/1.0", b"POST / HTTP/1.0", HOST, b"Content-Length: 5"),
    names("a length with leading zeros", b"POST / HTTP/1.1", HOST, b"Content-Length: 005"),
    names("chunked", b"POST / HTTP/1.1", HOST, b"Transfer-Encoding: chunked"),
    names("Chunked in any case", b"POST / HTTP/1.1", HOST, b"tRANSFER-eNCODING:CHUNKED  "),
    bad("length and coding", b"POST / HTTP/1.1", HOST, b"Content-Length: 5", b"Transfer-Encoding: chunked"),
    bad("coding and length", b"POST / HTTP/1.1", HOST, b"Transfer-Encoding: chunked", b"Content-Length: 5"),
    bad("another coding in a field of any case", b"POST / HTTP/1.1", HOST, b"tRANSFER-eNCODING: gzip"),
    bad("coding in HTTP/1.0", b"POST / HTTP/1.0", HOST, b"Transfer-Encoding: chunked"),
    bad("two equal lengths", b"POST / HTTP/1.1", HOST, b"Content-Length: 5", b"Content-Length: 5"),
    bad("two lengths", b"POST / HTTP/1.1", HOST, b"Content-Length: 5", b"content-length: 6"),
    bad(
        "two codings", b"POST / HTTP/1.1", HOST, b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"
    ),
    bad(
        "identity, then chunked",
        b"POST / HTTP/1.1",
        HOST,
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding: chunked",
    ),
    *(
        bad(f"length {value!r}", b"POST / HTTP/1.1", HOST, b"Content-Length: " + value)
        for value in LENGTHS_REFUSED
    ),
    *(
        bad(f"coding {value!r}", b"POST / HTTP/1.1", HOST, b"Transfer-Encoding: " + value)
        for value in CODINGS_REFUSED
    ),
]

UPGRADES = [  # C4, C6: what they ask for is for who sees the answer (test_requests)
    names(
        "websocket", GET, HOST, b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Version: 13"
    ),
    names("WebSocket in any case", GET, HOST, b"upgrade: WebSocket", b"connection: upgrade"),
    names("Connection without Upgrade", GET, HOST, b"Connection: keep-alive"),
    names(
        "h2c",
        GET,
        HOST,
        b"Connection: Upgrade, HTTP2-Settings",
        b"Upgrade: h2c",
        b"HTTP2-Settings: AAMAAABkAAQ",
    ),
    names(
        "h2c and a body",
        b"POST / HTTP/1.1",
        HOST,
        b"Upgrade: h2c",
        b"HTTP2-Settings: A",
        b"Content-Length: 4",
    ),
    names("HTTP2-Settings alone", GET, HOST, b"http2-settings: AAMAAABkAAQ"),
    names("HTTP2-Settings with websocket", GET, HOST, b"Upgrade: websocket", b"HTTP2-Settings:"),
    bad("two Upgrades", GET, HOST, b"Upgrade: websocket", b"Upgrade: h2c"),
    bad("two equal Upgrades", GET, HOST, b"Upgrade: websocket", b"Upgrade: websocket"),
    bad("two HTTP2-Settings", GET, HOST, b"Upgrade: h2c", b"HTTP2-Settings: A", b"HTTP2-Settings: A"),
    *(names(f"Upgrade {value!r}", GET, HOST, b"Upgrade: " + value) for value in UPGRADES_OTHER),
    names("h2c in HTTP/1.0", b"GET / HTTP/1.0", HOST, b"Upgrade: h2c"),
    bad("h2c, and no Host", GET, b"Upgrade: h2c"),
]

LENGTHS = [  # C7
    Head("a head of 32 KiB", filled(LIMIT, GET, HOST), Sniffed("http", "a.test", None, False, LIMIT)),
    Head("a head of 32 KiB and one byte", filled(LIMIT + 1, GET, HOST), LONG),
    Head("a head of 32 KiB and two bytes", filled(LIMIT + 2, GET, HOST), LONG),
    Head("a head of 32 KiB and four bytes", filled(LIMIT + 4, GET, HOST), LONG),
    Head("a head of 64 KiB", filled(2 * LIMIT, GET, HOST), LONG),
    Head("Host behind 32 KiB", filled(LIMIT, GET, HOST)[:-4] + b"\r\nHost: b.test\r\n\r\n", LONG),
    Head("a second Host just before 32 KiB", filled(LIMIT - 14, GET, HOST)[:-2] + head(b"Host: b.test"), BAD),
    Head("a request line of 32 KiB", b"GET /" + b"a" * (LIMIT - 5), LONG),
    names("a long target in a head of 32 KiB", b"GET /" + b"a" * (LIMIT - 32) + b" HTTP/1.1", HOST),
    Head("a bare LF as byte 32768", filled(LIMIT, GET, HOST)[:-1].replace(b"\r\n\r", b"xxx") + b"\n", BAD),
    Head("a bare LF behind 32 KiB", b"GET /" + b"a" * (LIMIT - 5) + b"\n", LONG),
    names("500 fields", GET, HOST, *[b"a:"] * 499),
    names("500 fields, Host the last", GET, *[b"a:"] * 499, HOST),
    Head("501 fields", head(GET, HOST, *[b"a:"] * 500), LONG),
    Head("501 fields, Host the last", head(GET, *[b"a:"] * 500, HOST), LONG),
    Head("8,000 fields", head(GET, HOST, *[b"a:"] * 8000), LONG),
    bad("500 fields, the last is none", GET, HOST, *[b"a:"] * 498, b"x"),
    Head("501 fields, the last is none", head(GET, HOST, *[b"a:"] * 499, b"x"), LONG),
    Head("501 fields, the first is none", head(GET, b"x", HOST, *[b"a:"] * 499), LONG),
    bad("500 fields, two of them Host", GET, HOST, *[b"a:"] * 498, HOST),
    Head("501 fields, two of them Host", head(GET, HOST, *[b"a:"] * 499, HOST), LONG),
    waits("501 fields of a head that is not whole", head(GET, HOST, *[b"a:"] * 500)[:-2], 2),
    Head("501 fields behind a request line that is none", head(b"GET / HTTP/2.0", *[b"a:"] * 501), BAD),
    names(
        "a host of 253 bytes, a dot and a port",
        GET,
        b"Host: " + LONGEST + b".:00080",
        host=LONGEST.decode(),
        port=80,
    ),
    no_name("a host of 253 bytes, a dot and a port of six digits", LONGEST + b".:000080"),
    no_name("a host of 32,000 bytes", b"a." * 16000 + b"a"),
    bad("a target's host of 30,000 bytes", b"GET http://" + b"a." * 15000 + b"a/ HTTP/1.1", HOST),
    names("a run of blanks in Host", GET, b"Host:" + b" " * 30000 + b"a.test"),
    Head("a bad field in a head of 32 KiB", filled(LIMIT, GET, b"X Y: z"), BAD),
    Head("a bad field in a longer one", filled(LIMIT + 1, GET, b"X Y: z"), LONG),
]

UNFINISHED = [
    waits("method", b"G", 4),
    waits("method of 32 bytes, nothing yet", b"A" * 32, 4),
    waits("method and space", b"GET ", 4),
    waits("half a request line", b"GET / HT", 4),
    waits("request line and CR", GET + b"\r", 3),
    waits("request line", GET + b"\r\n", 2),
    waits("all but the empty line", head(GET, HOST)[:-2], 2),
    waits("all but LF", head(GET, HOST)[:-1], 1),
    waits("all but LF, nothing named", head(GET)[:-1], 1),
    waits("all but the second line's end", head(GET, HOST)[:-3], 3),
    waits("a line that will be refused when the head is whole", GET + b"\r\n Host: a.test\r\n", 2),
    waits("four bytes below 32 KiB", b"GET /" + b"a" * (LIMIT - 9), 4),
    waits("one byte below 32 KiB", b"GET /" + b"a" * (LIMIT - 6), 1),
    Head("a request line refuses before the head is whole", b"GET / HTTP/2.0\r\n", BAD),
    Head("a byte behind the version refuses before the head is whole", b"GET / HTTP/1.1x\r\n", BAD),
    Head("CONNECT refuses before the head is whole", b"CONNECT a.test:443 HTTP/1.1\r\n", BAD),
    Head("a control character refuses at once", b"GET /\0", BAD),
    Head("a bare CR refuses with the byte after it", b"GET / HTTP/1.1\rH", BAD),
]

HEADS = USUAL + REQUEST_LINES + ABSOLUTE + HOSTS + BYTES + FRAMING + UPGRADES + LENGTHS + UNFINISHED
