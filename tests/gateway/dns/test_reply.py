"""What of the resolver's answer the sandbox gets: the chain to what it asked for, without what it must not have."""

from collections.abc import Sequence
from ipaddress import ip_address
from typing import NamedTuple

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dns.data import MAX_SERVICES_BYTES
from gateway.dns.guard import read_query
from gateway.dns.reply import PAYLOAD_BYTES, say, tell
from gateway.flow import IPAddress
from gateway.net.answers import MAX_ADDRESSES
from gateway.net.message import RECORD, Malformed
from tests.gateway.dns.plain import plain_reply
from tests.gateway.dns.queries import AAAA, ALLOWED, ECH, HTTPS, SVCB, TXT, A, guard, name, public, query

TTL_S = 42


class Reply(NamedTuple):
    """What the sandbox gets."""

    wire: bytes
    emptied: bool


GOOD = f"{ALLOWED}. 60 IN A 203.0.113.9"
SOA = f"{ALLOWED}. 900 IN SOA a.example. b.example. 1 2 3 4 900"


def _found(
    qtype: int,
    records: Sequence[str],
    *,
    authority: Sequence[str] = (),
    additional: Sequence[str] = (),
    rcode: int = 0,
) -> bytes:
    """The resolver's answer."""
    message = dns.message.make_response(
        dns.message.from_wire(query(ALLOWED, qtype)), recursion_available=True
    )
    for section, lines in (
        (message.answer, records),
        (message.authority, authority),
        (message.additional, additional),
    ):
        for line in lines:
            owner, ttl, rdclass, rdtype, data = line.split(maxsplit=4)
            rrset = message.find_rrset(
                section,
                dns.name.from_text(owner),
                dns.rdataclass.from_text(rdclass),
                dns.rdatatype.from_text(rdtype),
                create=True,
            )
            rrset.update_ttl(int(ttl))
            rrset.add(dns.rdata.from_text(rrset.rdclass, rrset.rdtype, data))
    message.set_rcode(dns.rcode.Rcode(rcode))
    return message.to_wire(max_size=65535)


def _reply(wire: bytes, found: bytes, *, tcp: bool = False) -> Reply:
    told = tell(found, public)
    return Reply(say(read_query(wire), told, TTL_S, tcp=tcp), told.emptied)


def _lines(made: Reply) -> list[str]:
    message = dns.message.from_wire(made.wire)
    assert message.additional == []
    return [line for rrset in (*message.answer, *message.authority) for line in rrset.to_text().split("\n")]


BAD_A = [
    "127.0.0.1",
    "0.0.0.0",
    "169.254.169.254",
    "10.0.0.1",
    "192.0.0.8",
    "192.0.0.192",
    "100.64.0.1",
    "224.0.0.1",
]
BAD_AAAA = [
    "::1",
    "::",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "fe80::1",
    "fd00::1",
    "2002:7f00:1::1",
]


@pytest.mark.parametrize(("kind", "bad"), [("A", ip) for ip in BAD_A] + [("AAAA", ip) for ip in BAD_AAAA])
def test_an_address_that_is_never_dialled_is_never_told(kind: str, bad: str) -> None:
    good = "203.0.113.9" if kind == "A" else "2001:db8::9"
    qtype = A if kind == "A" else AAAA
    lines = [f"{ALLOWED}. 60 IN {kind} {ip}" for ip in (bad, good)]
    assert _lines(_reply(query(ALLOWED, qtype), _found(qtype, lines))) == [
        f"{ALLOWED}. {TTL_S} IN {kind} {good}"
    ]
    emptied = _reply(query(ALLOWED, qtype), _found(qtype, lines[:1]))
    assert (emptied.emptied, _lines(emptied)) == (True, [])
    assert dns.message.from_wire(emptied.wire).rcode() == dns.rcode.NOERROR


def test_nothing_found_is_not_emptied() -> None:
    for rcode in (0, 3):
        made = _reply(query(), _found(A, [], authority=[SOA], rcode=rcode))
        assert not made.emptied
        assert dns.message.from_wire(made.wire).rcode() == rcode
        assert _lines(made) == [SOA.replace("900", str(TTL_S), 1)]


def test_the_chain_alone_is_handed_on() -> None:
    found = _found(
        A,
        [
            f"{ALLOWED}. 60 IN CNAME a.example.",
            "a.example. 7 IN CNAME b.example.",
            "b.example. 5 IN A 203.0.113.9",
            "evil.example. 60 IN A 203.0.113.66",
            f"{ALLOWED}. 60 IN TXT x",
        ],
        authority=["example. 60 IN NS ns.example."],
        additional=["ns.example. 60 IN A 203.0.113.66"],
    )
    assert _lines(_reply(query(), found)) == [
        f"{ALLOWED}. {TTL_S} IN CNAME a.example.",
        f"a.example. {TTL_S} IN CNAME b.example.",
        f"b.example. {TTL_S} IN A 203.0.113.9",
    ]


@pytest.mark.parametrize("rcode", [1, 2, 4, 5, 9, 16, 23])
def test_an_error_is_a_failure_whatever_it_holds(rcode: int) -> None:
    made = dns.message.from_wire(_reply(query(), _found(A, [GOOD], rcode=rcode)).wire)
    assert (made.rcode(), made.answer) == (dns.rcode.SERVFAIL, [])


@pytest.mark.parametrize(
    ("edns", "payload", "tcp", "room"),
    [
        (None, 0, False, 512),
        (b"", 0, False, 512),
        (b"", 700, False, 700),
        (b"", 1232, False, PAYLOAD_BYTES),
        (b"", 65535, False, PAYLOAD_BYTES),
        (None, 0, True, 65535),
    ],
)
def test_an_answer_fits_what_its_client_takes(edns: bytes | None, payload: int, tcp: bool, room: int) -> None:
    found = _found(TXT, [f"{ALLOWED}. 60 IN TXT {number:0200}" for number in range(100)])
    wire = query(ALLOWED, TXT, edns=edns, payload=payload)
    made = dns.message.from_wire(_reply(wire, found, tcp=tcp).wire)
    assert len(_reply(wire, found, tcp=tcp).wire) <= room
    assert bool(made.flags & dns.flags.TC) is not tcp
    assert (made.edns >= 0) is (edns is not None)
    assert made.id == 0x1234
    if tcp:
        assert len(made.answer[0]) == 100


@pytest.mark.parametrize("qtype", [HTTPS, SVCB])
@pytest.mark.parametrize(
    ("data", "left"),
    [
        (f"1 . alpn=h2,h3 ipv4hint=203.0.113.9 {ECH}", '1 . alpn="h2,h3" ipv4hint="203.0.113.9"'),
        ("1 . ipv4hint=10.0.0.1,203.0.113.9,127.0.0.1", '1 . ipv4hint="203.0.113.9"'),
        ("1 . ipv4hint=10.0.0.1 port=8443", '1 . port="8443"'),
        ("1 . ipv6hint=::1,2001:db8::9", '1 . ipv6hint="2001:db8::9"'),
        ("1 . ipv6hint=::ffff:a9fe:a9fe,64:ff9b::a9fe:a9fe", "1 ."),
        ("1 . mandatory=ipv4hint ipv4hint=10.0.0.1", None),
        (f"1 . mandatory=ech {ECH}", None),
        ("1 . mandatory=alpn alpn=h2 ipv4hint=10.0.0.1", '1 . mandatory="alpn" alpn="h2"'),
        ("0 b.example.", "0 b.example."),
    ],
)
def test_service_records_lose_keys_and_hints_that_would_not_be_dialled(
    qtype: int, data: str, left: str | None
) -> None:
    kind = "HTTPS" if qtype == HTTPS else "SVCB"
    made = _reply(query(ALLOWED, qtype), _found(qtype, [f"{ALLOWED}. 60 IN {kind} {data}"]))
    assert _lines(made) == ([] if left is None else [f"{ALLOWED}. {TTL_S} IN {kind} {left}"])
    assert made.emptied is (left is None)


def test_several_service_records() -> None:
    lines = [
        f"{ALLOWED}. 60 IN HTTPS {data}"
        for data in (f"1 . mandatory=ech {ECH}", f"2 b.example. port=8443 {ECH}")
    ]
    assert _lines(_reply(query(ALLOWED, HTTPS), _found(HTTPS, lines))) == [
        f'{ALLOWED}. {TTL_S} IN HTTPS 2 b.example. port="8443"'
    ]


GUARD = guard()
SEEDS = [
    (query(), _found(A, [GOOD, f"{ALLOWED}. 60 IN A 10.0.0.1"])),
    (query(ALLOWED, HTTPS), _found(HTTPS, [f"{ALLOWED}. 60 IN HTTPS 1 . alpn=h2 ipv4hint=10.0.0.1 {ECH}"])),
    (query(edns=b""), _found(A, [f"{ALLOWED}. 60 IN CNAME a.example.", "a.example. 60 IN A 127.0.0.1"])),
    (query(ALLOWED, AAAA), _found(AAAA, [f"{ALLOWED}. 60 IN AAAA ::1"], authority=[SOA])),
]


@given(
    seed=st.sampled_from(SEEDS),
    edits=st.lists(st.tuples(st.integers(2, 300), st.integers(0, 255)), max_size=4),
    end=st.none() | st.integers(0, 200),
    tcp=st.booleans(),
)
def test_whatever_the_resolver_says_nothing_raises_and_nothing_forbidden_is_told(
    seed: tuple[bytes, bytes], edits: list[tuple[int, int]], end: int | None, tcp: bool
) -> None:
    wire, found = seed
    changed = bytearray(found)
    for at, value in edits:
        changed[at % len(changed)] = value
    asked = GUARD.judge(wire).query
    assert asked is not None
    made = dns.message.from_wire(say(asked, GUARD.telling(bytes(changed[:end])), TTL_S, tcp=tcp))
    assert made.id == 0x1234
    assert made.question == dns.message.from_wire(wire).question
    for rrset in made.answer:
        assert "ech=" not in rrset.to_text()
        for record in rrset:
            if rrset.rdtype in (A, AAAA):
                assert public(ip_address(record.to_text()))


# -- against the plain one


HOSTS = [ALLOWED, "a.example", "b.a.example", "c.openai.com"]
DATA = {
    "A": ["203.0.113.9", "203.0.113.8", "10.0.0.1", "8.8.8.8"],
    "AAAA": ["2001:db8::9", "::1", "::ffff:10.0.0.1", "2606:4700::1"],
    "CNAME": [f"{host}." for host in HOSTS],
    "TXT": ["x", '"a b" "c"', "y" * 200],
    "MX": ["10 a.example.", "20 mail.openai.com."],
    "SRV": ["1 2 443 a.example."],
    "NS": ["ns.openai.com.", "b.a.example."],
    "PTR": ["a.example."],
    "SOA": ["ns.a.example. root.a.example. 1 2 3 4 900"],
    "NAPTR": ['100 50 "s" "http" "" a.example.'],
    "CAA": ['0 issue "ca.example"'],
}
LINES = st.builds(
    lambda host, ttl, kind, number: f"{host}. {ttl} IN {kind} {DATA[kind][number % len(DATA[kind])]}",
    st.sampled_from(HOSTS),
    st.integers(0, 2**31 - 1),
    st.sampled_from([*DATA, "A", "CNAME"]),
    st.integers(0, 10),
)


def _sorted(rrsets: list[dns.rrset.RRset]) -> list[list[str]]:
    """dnspython shuffles records where it writes them."""
    return [sorted(rrset.to_text().lower().split("\n")) for rrset in rrsets]


@given(
    lines=st.lists(LINES, max_size=12),
    authority=st.lists(LINES, max_size=2),
    qtype=st.sampled_from(list(DATA)),
    rcode=st.sampled_from([0, 0, 0, 3, 2, 16]),
    payload=st.sampled_from([None, 0, 512, 600, 1232, 4096]),
    tcp=st.booleans(),
)
def test_it_says_what_the_plain_one_says(
    lines: list[str], authority: list[str], qtype: str, rcode: int, payload: int | None, tcp: bool
) -> None:
    kind = int(dns.rdatatype.from_text(qtype))
    found = _found(kind, lines, authority=authority, rcode=rcode)
    wire = query("aPi.openAI.com", kind, edns=None if payload is None else b"", payload=payload or 0)
    try:
        expected = plain_reply(wire, found, TTL_S, public, tcp=tcp)
    except (dns.message.ChainTooLong, dns.message.AnswerForNXDOMAIN):
        with pytest.raises(Malformed):
            tell(found, public)
        return
    said = _reply(wire, found, tcp=tcp).wire
    made = dns.message.from_wire(said)
    assert (made.id, made.flags, made.rcode()) == (expected.id, expected.flags, expected.rcode())
    assert (made.edns, made.payload) == (expected.edns, expected.payload)
    assert made.question[0].name.labels == (b"aPi", b"openAI", b"com", b"")
    for ours, plain in ((made.answer, expected.answer), (made.authority[:1], expected.authority[:1])):
        assert _sorted(ours) == _sorted(plain)


@pytest.mark.parametrize("kind", [3, 4])
def test_compressed_names_of_forgotten_types_are_told_in_full(kind: int) -> None:
    """MD and MF of RFC 1035, which RFC 3597 section 4 counts among those; dnspython does not know them."""
    record = b"\xc0\x0c" + RECORD.pack(kind, 1, 60, 5) + b"\2mx\xc0\x0c"
    found = query(ALLOWED, kind, flags=0x8180, counts=(1, 1, 0, 0), rest=record)
    said = _reply(query(ALLOWED, kind), found).wire
    assert said.endswith(b"\2mx" + name(ALLOWED))


def test_of_many_addresses_a_client_is_told_the_first() -> None:
    texts = [f"203.0.{n // 250}.{n % 250 + 1}" for n in range(2000)]
    message = dns.message.make_response(dns.message.from_wire(query()), recursion_available=True)
    message.answer.append(dns.rrset.from_text(f"{ALLOWED}.", 60, "IN", "A", *texts))
    found = message.to_wire(max_size=65535)
    order = [record.address for record in dns.message.from_wire(found).answer[0]]
    told = dns.message.from_wire(_reply(query(edns=b""), found, tcp=True).wire)
    assert [record.address for record in told.answer[0]] == order[:MAX_ADDRESSES]


def test_of_services_no_more_is_read_than_a_zone_has() -> None:
    hints = ",".join(f"203.0.113.{last}" for last in range(1, 201))
    lines = [f"{ALLOWED}. 60 IN HTTPS {n} . ipv4hint={hints}" for n in range(1, 30)]
    looked_at = []

    def keeps(ip: IPAddress) -> bool:
        looked_at.append(ip)
        return True

    told = tell(_found(HTTPS, lines), keeps)
    assert len(looked_at) == MAX_ADDRESSES
    assert told.counts == ((MAX_SERVICES_BYTES // 807, 0),)


def test_names_that_are_not_the_questions_are_a_failure() -> None:
    other = tell(_found(A, [GOOD]), public)
    made = dns.message.from_wire(say(read_query(query("a.anthropic.com")), other, TTL_S, tcp=True))
    assert (made.rcode(), made.answer) == (dns.rcode.SERVFAIL, [])
