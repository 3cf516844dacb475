"""Targets and Hosts, and what must be said of each, written by hand: security A3 and C2, and the grammar of hostnames."""

from gateway.reasons import Reason
from gateway.sniff.result import Refused
from tests.gateway.sniff.heads import (
    GET,
    HOST,
    Head,
    bad,
    head,
    names,
    no_name,
)

AGREE = b"""
http://a.test/                  a.test          -
http://a.test                   a.test          -
http://a.test?q                 a.test          -
HTTP://A.TEST./                 a.test          -
hTTp://a.test/http://b.test@x   a.test          -
http://a.test/?x=@b.test:1#     a.test          -
http://a.test:80/               a.test          80
http://a.test:080               a.test          80
http://a.test/                  a.test:80       80
http://a.test:080/              a.test:80       80
http://a.test:8080/             A.test.:8080    8080
"""

DIFFER = b"""
http://b.test/ http://a.test.b.test/ http://xa.test/ http://test/ http://a.test../ http://a.test:8080/ http://a.test:/
http://a.test:0/ http://a.test:65536/ http://a.test:80:80/ http://u@a.test/ http://u:p@a.test/ http://a.test@b.test/
http://a.test:80@b.test/ http://b.test\\@a.test/ http://a.test\\/ http://a.test#/ http://a.test#@b.test/
http://a.test,b.test/ http://a.test;b.test/ http:/// http:// http:/a.test/ http:a.test http//a.test/ http:////a.test/
https://a.test/ ws://a.test/ ftp://a.test/ ://a.test/ xhttp://a.test/ http:\\\\a.test/ http://%61.test/ http://a.test%00/
http://[::1]/ http://127.0.0.1/
""".split()

LITERALS_AND_OTHERS = b"""
. .. a..test .a.test a.test.. -a.test a-.test a.test- *.test a.test,b.test a.test;b.test a.test, u@a.test a.test@b.test
u:p@a.test a.test:80@b.test @a.test a.test@ a.test/ a.test/b.test a.test?b a.test#b.test a.test\\b.test http://a.test
//a.test a.test: a.test:0 a.test:00000 a.test:65536 a.test:99999 a.test:100000 a.test:000080 a.test:-80 a.test:+80
a.test:8O a.test:80:80 a.test:http :80 : a.test:80. a.test:0x50 a.test:1_0 127.0.0.1 127.0.0.1:80 127.1 127.0.0.1.
0177.0.0.1 0x7f.0.0.1 0x7f.1 0x7f000001 2130706433 0 017700000001 127.0.0.0x1 1.2.3.4.5 999.999.999.999 169.254.169.254
a.1 a.test.0x a.0xff [::1] [::1]:80 [::ffff:127.0.0.1] [fe80::1%25eth0] [fe80::1%eth0] ::1 ::1:80 fe80::1%eth0 [v1.a]
[a.test] [127.0.0.1] [::1 ::1] [] a.test[::1] 2001:db8::1 a%2etest a.test%00.b.test $(id).test a!b.test 'a.test'
"a.test" <a.test> {a}.test unix:/run/x.sock
""".split()

NO_HOSTNAMES = [
    *LITERALS_AND_OTHERS,
    *(b"", b"a.test, b.test", b"a.test b.test", b"a.test: 80", b"a.test :80"),
    *(b"b\xc3\xbccher.test", b"a.test\xff", b"\x80", b"\xe2\x84\xaaa.test", b"a\xadb.test", b"\x85"),
    *(b"a.test\xa0", b"\xa0a.test", b"a.test:\xb2"),
    *(b"a" * 64 + b".test", b"a." * 124 + b"ab.com", b"a" * 300, b"\xc3" * 400),
]

ABSOLUTE = [  # C2
    *(
        names(
            f"absolute {target.decode()}, {host.decode()}",
            b"GET " + target + b" HTTP/1.1",
            b"Host: " + host,
            port=None if port == b"-" else int(port),
        )
        for target, host, port in (line.split() for line in AGREE.strip().splitlines())
    ),
    *(bad(f"absolute {target!r}, a.test", b"GET " + target + b" HTTP/1.1", HOST) for target in DIFFER),
    bad("absolute, port in Host alone", b"GET http://a.test/ HTTP/1.1", b"Host: a.test:8080"),
    bad("absolute, other port in Host", b"GET http://a.test:81/ HTTP/1.1", b"Host: a.test:80"),
    bad("absolute, no Host", b"GET http://a.test/ HTTP/1.1"),
    bad("absolute in HTTP/1.0, no Host", b"GET http://a.test/ HTTP/1.0"),
    names("absolute OPTIONS", b"OPTIONS http://a.test HTTP/1.1", HOST),
    Head(
        "absolute, Host is an address",
        head(b"GET http://a.test/ HTTP/1.1", b"Host: 127.0.0.1"),
        Refused(Reason.BAD_NAME, "http", b"127.0.0.1"),
    ),
]

HOSTS = [  # C2, A3
    bad("no Host", GET),
    bad("no Host in HTTP/1.0", b"GET / HTTP/1.0"),
    bad("no Host among other fields", GET, b"Accept: */*", b"X-Host: a.test"),
    bad("two Hosts", GET, HOST, b"Host: b.test"),
    bad("two equal Hosts", GET, HOST, HOST),
    bad("two Hosts, one of them empty", GET, HOST, b"Host:"),
    bad("two Hosts in two cases", GET, HOST, b"hOST: b.test"),
    bad("two Hosts, far apart", GET, HOST, *(b"X: y" for _ in range(50)), b"Host: b.test"),
    bad("three Hosts", GET, b"Host: b.test", HOST, b"Host: c.test"),
    *(no_name(f"Host {host!r}", host) for host in NO_HOSTNAMES),
    Head("empty Host without a space", head(GET, b"Host:"), Refused(Reason.BAD_NAME, "http")),
    Head("Host of blanks", head(GET, b"Host:   "), Refused(Reason.BAD_NAME, "http")),
    *(
        bad(f"a tab: {host!r}", GET, b"Host:" + host)
        for host in (
            b"\ta.test",
            b" \ta.test",
            b" a.test\t",
            b" a.test \t ",
            b" a.test\tb.test",
            b"\t",
            b" \t ",
        )
    ),
]
