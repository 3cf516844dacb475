"""ClientHellos and what must be said of each, written by hand: security B1-B5, B7, B8, and the grammar of hostnames.

``MESSAGES`` are handshake messages: records may cut them anywhere. ``WIRES`` are about the records themselves.
"""

from typing import NamedTuple

from gateway.reasons import Reason
from gateway.sniff.result import Refused, Sniffed
from tests.gateway.sniff.hellos import (
    ALPN,
    ECH,
    ESNI,
    GREASE,
    KEY_SHARE,
    SERVER_NAME,
    Extension,
    alpn,
    ech,
    entry,
    hello,
    padding,
    record,
    records,
    server_name,
    usual,
    vector,
)


class Message(NamedTuple):
    id: str
    handshake: bytes
    answer: str | Reason
    """The host, or why there is none."""
    alpn: tuple[bytes, ...] = ()
    ech: bool = False
    raw: bytes = b""

    def expected(self, consumed: int) -> Sniffed | Refused:
        if isinstance(self.answer, Reason):
            return Refused(self.answer, "tls", self.raw)
        return Sniffed("tls", self.answer, None, self.ech, consumed, self.alpn)


class Wire(NamedTuple):
    id: str
    data: bytes
    answer: Sniffed | Refused


BAD, LONG, NO_NAME, ESNI_SEEN = Reason.BAD_TLS, Reason.TOO_LONG, Reason.NO_NAME, Reason.ESNI
SNI = server_name(b"x.test")
MANY = tuple(Extension(0x4000 + kind) for kind in range(256))
HYBRID_SHARE = Extension(KEY_SHARE, vector(2, b"\x11\xec" + vector(2, bytes(1216))))  # X25519MLKEM768


def sni(body: bytes, claim: int | None = None) -> Extension:
    return Extension(SERVER_NAME, body, claim)


READ = [
    Message("usual", usual(), "api.openai.com", (b"h2", b"http/1.1")),
    Message("smallest", hello(server_name(b"a"), session=b"", suites=b"\0\1"), "a"),
    Message("legacy-version-3.0", hello(SNI, version=b"\3\0"), "x.test"),
    Message("legacy-version-3.255", hello(SNI, version=b"\3\xff"), "x.test"),
    Message("deflate-offered", hello(SNI, methods=b"\1\0"), "x.test"),
    Message("name-first", hello(SNI, Extension(GREASE), alpn(b"h2")), "x.test", (b"h2",)),
    Message("name-last", hello(padding(9), alpn(b"h2"), SNI), "x.test", (b"h2",)),
    Message("alpn-of-one-byte", hello(alpn(b"x"), SNI), "x.test", (b"x",)),
    Message("alpn-any-bytes", hello(alpn(b"\0\xff", b"a" * 255), SNI), "x.test", (b"\0\xff", b"a" * 255)),
    Message("alpn-of-1024-bytes", hello(alpn(*[b"abc"] * 256), SNI), "x.test", (b"abc",) * 256),
    Message("256-extensions", hello(SNI, *MANY[:255]), "x.test"),
    Message(
        "post-quantum", usual(HYBRID_SHARE._replace(kind=0x3333)), "api.openai.com", (b"h2", b"http/1.1")
    ),
    Message("16-KiB", usual(least=16384), "api.openai.com", (b"h2", b"http/1.1")),
    Message("32-KiB", usual(least=32768), "api.openai.com", (b"h2", b"http/1.1")),
    Message("ech-outer-name", hello(ech(), SNI), "x.test", ech=True),
    Message("ech-after-name", hello(SNI, ech(300)), "x.test", ech=True),
    Message("ech-empty", hello(SNI, Extension(ECH)), "x.test", ech=True),
    Message("withdrawn-ech-is-unknown", hello(SNI, Extension(0xFE0C)), "x.test"),
]

NAMELESS = [
    Message("no-extensions", hello(block=b""), NO_NAME),
    Message("empty-extensions", hello(), NO_NAME),
    Message("no-server-name", hello(alpn(b"h2"), padding(20)), NO_NAME),
    Message("ech-without-outer-name", hello(ech()), NO_NAME),
    Message("esni", hello(SNI, Extension(ESNI, bytes(80))), ESNI_SEEN),
    Message("esni-empty-before-name", hello(Extension(ESNI), SNI), ESNI_SEEN),
    Message("esni-alone", hello(Extension(ESNI)), ESNI_SEEN),
    Message("esni-and-ech", hello(ech(), SNI, Extension(ESNI)), ESNI_SEEN),
    Message("esni-and-no-hostname", hello(server_name(b"1.2.3.4"), Extension(ESNI)), ESNI_SEEN),
]

BROKEN_NAME = [
    Message("sni-empty", hello(sni(b"")), BAD),
    Message("sni-empty-list", hello(sni(b"\0\0")), BAD),
    Message("sni-empty-name", hello(server_name(b"")), BAD),
    Message("sni-type-alone", hello(sni(vector(2, b"\0"))), BAD),
    Message("sni-type-and-half-a-length", hello(sni(vector(2, b"\0\0"))), BAD),
    Message("sni-twice", hello(SNI, server_name(b"y.test")), BAD),
    Message("sni-twice-the-same", hello(SNI, SNI), BAD),
    Message("sni-twice-apart", hello(SNI, alpn(b"h2"), padding(3), server_name(b"y.test")), BAD),
    Message("sni-empty-then-good", hello(sni(b""), SNI), BAD),
    Message("two-names", hello(server_name(b"x.test", b"y.test")), BAD),
    Message("two-names-the-same", hello(server_name(b"x.test", b"x.test")), BAD),
    Message("other-name-type", hello(sni(vector(2, entry(b"x.test", kind=1)))), BAD),
    Message("name-type-255", hello(sni(vector(2, entry(b"x.test", kind=255)))), BAD),
    Message("other-type-then-name", hello(sni(vector(2, entry(b"y", kind=1) + entry(b"x.test")))), BAD),
    Message("name-then-other-type", hello(sni(vector(2, entry(b"x.test") + entry(b"y", kind=1)))), BAD),
    Message("byte-after-name", hello(sni(vector(2, entry(b"x.test") + b"\0"))), BAD),
    Message("byte-after-list", hello(sni(vector(2, entry(b"x.test")) + b"\0")), BAD),
    Message("list-claims-less", hello(server_name(b"x.test", claim=8)), BAD),
    Message("list-claims-more", hello(server_name(b"x.test", claim=10)), BAD),
    Message("list-claims-all", hello(server_name(b"x.test", claim=0xFFFF)), BAD),
    Message("name-claims-less", hello(sni(vector(2, entry(b"x.test", claim=5)))), BAD),
    Message("name-claims-more", hello(sni(vector(2, entry(b"x.test", claim=7))), padding(9)), BAD),
    Message("name-claims-all", hello(sni(vector(2, entry(b"x.test", claim=0xFFFF)))), BAD),
    Message("name-and-list-claim-into-next", hello(sni(b"\0\x0d\0\0\x0ax.test"), padding(4)), BAD),
    Message("sni-claims-less", hello(sni(SNI.body, claim=10)), BAD),
    Message("sni-claims-more", hello(sni(SNI.body, claim=12)), BAD),
    Message("sni-claims-next-too", hello(sni(SNI.body, claim=15), padding(0)), BAD),
]

BROKEN_HELLO = [
    Message("server-hello", hello(SNI, kind=2), BAD),
    Message("hello-request", hello(SNI, kind=0), BAD),
    Message("empty-hello", b"\1\0\0\0", BAD),
    Message("version-and-random-only", b"\1\0\0\x22" + b"\3\3" + bytes(32), BAD),
    Message("version-2", hello(SNI, version=b"\2\3"), BAD),
    Message("version-4", hello(SNI, version=b"\4\3"), BAD),
    Message("dtls-version", hello(SNI, version=b"\xfe\xfd"), BAD),
    Message("session-of-33", hello(SNI, session=bytes(33)), BAD),
    Message("session-claims-all", hello(SNI, session_claim=255), BAD),
    Message("session-claims-less", hello(SNI, session_claim=31), BAD),
    Message("no-suites", hello(SNI, suites=b""), BAD),
    Message("odd-suites", hello(SNI, suites=b"\x13\1\x13"), BAD),
    Message("one-byte-of-suites", hello(SNI, suites=b"\x13"), BAD),
    Message("suites-claim-all", hello(SNI, suites_claim=0xFFFF), BAD),
    Message("no-methods", hello(SNI, methods=b""), BAD),
    Message("methods-claim-all", hello(SNI, methods_claim=255), BAD),
    Message("methods-claim-one-more-than-all", hello(block=b"", methods_claim=2), BAD),
    Message("half-a-block-length", hello(block=b"\0"), BAD),
    Message("block-claims-less", hello(SNI, padding(4), block_claim=22), BAD),
    Message("block-claims-name-only", hello(SNI, padding(0), block_claim=15), BAD),
    Message("block-claims-more", hello(SNI, block_claim=16), BAD),
    Message("block-claims-all", hello(SNI, block_claim=0xFFFF), BAD),
    Message("byte-after-block", hello(SNI, after=b"\0"), BAD),
    Message("byte-after-empty-block", hello(after=b"\0"), BAD),
    Message("second-block", hello(SNI, after=vector(2, server_name(b"y.test").encode())), BAD),
    Message("one-byte-extension", hello(block=vector(2, SNI.encode() + b"\0")), BAD),
    Message("two-byte-extension", hello(block=vector(2, SNI.encode() + b"\0\x10")), BAD),
    Message("three-byte-extension", hello(block=vector(2, SNI.encode() + b"\0\x10\0")), BAD),
    Message("last-extension-claims-more", hello(SNI, Extension(GREASE, b"ab", claim=3)), BAD),
    Message("last-extension-claims-all", hello(SNI, Extension(GREASE, b"ab", claim=0xFFFF)), BAD),
    Message("last-extension-claims-less", hello(SNI, Extension(GREASE, b"ab", claim=1)), BAD),
    Message("unknown-twice", hello(SNI, Extension(GREASE), Extension(GREASE)), BAD),
    Message("ech-twice", hello(SNI, ech(), ech()), BAD),
    Message("esni-twice", hello(SNI, Extension(ESNI), Extension(ESNI)), BAD),
    Message("alpn-twice", hello(SNI, alpn(b"h2"), alpn(b"h2")), BAD),
    Message("twice-without-name", hello(padding(0), padding(0)), BAD),
    Message("alpn-empty", hello(SNI, Extension(ALPN)), BAD),
    Message("alpn-empty-list", hello(SNI, alpn()), BAD),
    Message("alpn-empty-protocol", hello(SNI, alpn(b"")), BAD),
    Message("alpn-second-protocol-empty", hello(SNI, alpn(b"h2", b"")), BAD),
    Message("alpn-list-claims-less", hello(SNI, alpn(b"h2", claim=2)), BAD),
    Message("alpn-list-claims-more", hello(SNI, alpn(b"h2", claim=4)), BAD),
    Message("alpn-protocol-claims-more", hello(SNI, Extension(ALPN, b"\0\3\3h2"), padding(1)), BAD),
    Message("alpn-protocol-claims-less", hello(SNI, Extension(ALPN, b"\0\3\1h2")), BAD),
    Message("alpn-broken-before-name", hello(Extension(ALPN, b"\0"), SNI), BAD),
    Message("alpn-of-1025-bytes", hello(SNI, alpn(*[b"abc"] * 255, b"abcd")), BAD),
    Message("257-extensions", hello(SNI, *MANY), BAD),
]

TOO_BIG = [
    Message("32-KiB-and-one", usual(least=32769), LONG),
    Message("claims-16-MiB", hello(SNI, claim=0xFFFFFF), LONG),
    Message("claims-32-KiB-and-one", hello(SNI, claim=32768 - 3), LONG),
]

L63 = b"a" * 63
LONGEST = b".".join((L63, L63, L63, b"a" * 61))

NAMES = [
    (b"API.OpenAI.com", "api.openai.com"),
    (b"api.openai.com.", "api.openai.com"),
    (b"localhost", "localhost"),
    (b"_acme.x.test", "_acme.x.test"),
    (b"x_.test", "x_.test"),
    (b"xn--bcher-kva.test", "xn--bcher-kva.test"),
    (b"a--b.test", "a--b.test"),
    (b"1.2.3.4.test", "1.2.3.4.test"),
    (b"0x7f.test", "0x7f.test"),
    (b"x.1e4", "x.1e4"),
    (b"x.t0x", "x.t0x"),
    (L63 + b".test", "a" * 63 + ".test"),
    (LONGEST, LONGEST.decode()),
    (LONGEST + b".", LONGEST.decode()),
]

NO_HOSTNAMES = [
    *(
        b"1.2.3.4",
        b"127.1",
        b"2130706433",
        b"0x7f.1",
        b"0x7f000001",
        b"127.0.0.0x1",
        b"x.0X1",
        b"x.0x",
        b"x.1",
    ),
    *(b"1.2.3.4.", b"0177.0.0.01", b"::1", b"[::1]", b"[1.2.3.4]", b"fe80::1%eth0", b"::ffff:1.2.3.4"),
    *(
        b".",
        b"..",
        b".x.test",
        b"x..test",
        b"x.test..",
        b"-x.test",
        b"x-.test",
        b"x.-test",
        b"x.test-",
        b"-",
        b"x.-",
    ),
    *(
        b"x.test\0",
        b"\0",
        b"x\0.test",
        b"good.test\0.evil.test",
        b"evil.test\0good.test",
        b"x.test\n",
        b"x.test\r\n",
    ),
    *(
        b" x.test",
        b"x.test ",
        b"x test",
        b"\tx.test",
        b"x.test:443",
        b"u@x.test",
        b"https://x.test",
        b"x.test/",
        b"*.x.test",
    ),
    *(
        b"x,test",
        b"x.test,y.test",
        b"x\\.test",
        b"x%2etest",
        b"x.test#",
        b"x.test?",
        b"x;test",
        b"'x.test'",
        b"(x.test)",
    ),
    *(
        "bücher.test".encode(),
        "bücher.test".encode("latin-1"),
        b"x.test\x80",
        b"\xff",
        "x\N{IDEOGRAPHIC FULL STOP}test".encode(),
    ),
    *(
        "\N{KELVIN SIGN}.test".encode(),
        "x\N{SOFT HYPHEN}.test".encode(),
        "\N{BOM}x.test".encode(),
        b"x\x7f.test",
    ),
    *(b"a" * 64 + b".test", b"x." + b"a" * 64, LONGEST + b"a", LONGEST + b"a.", b"a." * 500, b"a" * 5000),
]

HOSTNAMES = [
    *(Message(f"name-{at}", hello(server_name(name)), host) for at, (name, host) in enumerate(NAMES)),
    *(
        Message(f"no-name-{at}", hello(server_name(name)), Reason.BAD_NAME, raw=name[:253])
        for at, name in enumerate(NO_HOSTNAMES)
    ),
]

MESSAGES = READ + NAMELESS + BROKEN_NAME + BROKEN_HELLO + TOO_BIG + HOSTNAMES

SMALL = hello(SNI)
CUT = len(SMALL) // 2
BAD_WIRE, LONG_WIRE = Refused(BAD, "tls"), Refused(LONG, "tls")


def named(consumed: int, host: str = "x.test") -> Sniffed:
    return Sniffed("tls", host, consumed=consumed)


def cut(between: bytes) -> bytes:
    return record(SMALL[:CUT]) + between + record(SMALL[CUT:])


def sized(size: int) -> bytes:
    """A hello of exactly ``size`` bytes."""
    return hello(SNI, padding(size - len(SMALL) - 4))


WHOLE = record(SMALL)
OTHER = hello(server_name(b"other.test"))

WIRES = [
    *(
        Wire(f"record-version-3.{minor}", record(SMALL, version=bytes((3, minor))), named(len(WHOLE)))
        for minor in range(5)
    ),
    *(
        Wire(f"record-version-{major}.{minor}", record(SMALL, version=bytes((major, minor))), BAD_WIRE)
        for major, minor in ((3, 5), (3, 255), (2, 0), (2, 1), (4, 0), (0, 2), (0xFE, 0xFD))
    ),
    Wire(
        "versions-differ", record(SMALL[:CUT]) + record(SMALL[CUT:], version=b"\3\3"), named(len(WHOLE) + 5)
    ),
    Wire("second-record-version-2", record(SMALL[:CUT]) + record(SMALL[CUT:], version=b"\2\3"), BAD_WIRE),
    Wire("empty-record-first", record(b"") + WHOLE, BAD_WIRE),
    Wire("empty-record-between", cut(record(b"")), BAD_WIRE),
    Wire("empty-record-after", WHOLE + record(b""), named(len(WHOLE))),
    Wire("record-of-16385", record(sized(16385)), BAD_WIRE),
    Wire("record-of-16384", record(sized(16384)), named(16389)),
    Wire("record-claims-all", record(SMALL, claim=0xFFFF), BAD_WIRE),
    *(
        Wire(f"type-{kind}-between", cut(record(b"\1", kind=kind)), BAD_WIRE)
        for kind in (0, 20, 21, 23, 24, 25, 71, 255)
    ),
    *(
        Wire(f"type-{kind}-goes-on", record(SMALL[:CUT]) + record(SMALL[CUT:], kind=kind), BAD_WIRE)
        for kind in (20, 21, 23)
    ),
    *(
        Wire(
            f"sixth-of-many-short-{word}", records(SMALL[:40], 8) + broken + records(SMALL[40:], 8), BAD_WIRE
        )
        for word, broken in (
            ("version-3.5", record(SMALL[40:41], version=b"\3\5")),
            ("version-2.3", record(SMALL[40:41], version=b"\2\3")),
            ("type-23", record(SMALL[40:41], kind=23)),
            ("empty", record(b"")),
        )
    ),
    Wire("byte-after-hello", record(SMALL + b"\0"), BAD_WIRE),
    Wire("bytes-after-hello", record(SMALL + bytes(2000)), BAD_WIRE),
    Wire("hello-after-hello", record(SMALL + OTHER), BAD_WIRE),
    Wire("hello-after-hello-split", record(SMALL[:CUT]) + record(SMALL[CUT:] + OTHER), BAD_WIRE),
    Wire("byte-after-hello-split", records(SMALL + b"\0", (1, 1, 500)), BAD_WIRE),
    Wire("hello-claims-less", record(hello(SNI, claim=len(SMALL) - 5)), BAD_WIRE),
    Wire("hello-claims-nothing", record(hello(SNI, claim=0)), BAD_WIRE),
    Wire("hello-claims-nothing-alone", record(b"\1\0\0\0"), BAD_WIRE),
    Wire("byte-after-empty-hello", records(b"\1\0\0\0\0", (2, 3)), BAD_WIRE),
    Wire("second-hello-in-its-own-record", WHOLE + record(OTHER), named(len(WHOLE))),
    Wire("header-over-four-records", records(SMALL, (1, 1, 1, 1, 500)), named(len(WHOLE) + 20)),
    Wire("not-a-hello-over-two-records", records(hello(SNI, kind=2), (1, 500)), BAD_WIRE),
    Wire("not-a-hello-and-too-long", record(hello(SNI, kind=2, claim=0xFFFFFF)), BAD_WIRE),
    Wire("2048-records-of-1", records(sized(2048), 1), named(12288)),
    Wire("2049-records-of-1", records(sized(2049), 1), LONG_WIRE),
    Wire("2048-records-of-2", records(sized(4096), 2), named(14336)),
    Wire("2049-records-of-2", records(sized(4097), 2), LONG_WIRE),
    Wire("2048-records-of-16", records(sized(32768), 16), named(43008)),
    Wire("2048-records-the-first-large", records(sized(10000), (7953, 1)), named(20240)),
    Wire("2049-records-the-first-large", records(sized(10000), (7952, 1)), LONG_WIRE),
    Wire("2048-records-the-last-large", records(sized(10000), (*[1] * 2047, 9000)), named(20240)),
    Wire("2049-records-the-last-large", records(sized(10000), (*[1] * 2048, 9000)), LONG_WIRE),
    Wire("2048-records-and-a-byte-more", records(sized(2048) + b"\0", (*[1] * 2047, 2)), BAD_WIRE),
    Wire("2048-records-the-last-broken", records(sized(2048)[:-1], 1) + record(b""), BAD_WIRE),
]
