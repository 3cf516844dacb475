"""What leaves for a query, and what the sandbox is told: by hand, octet for octet where an octet could carry something out."""

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.addresses import SINKHOLE
from gateway.dns import guard as module
from gateway.dns.guard import MAX_QUERY_BYTES, Question, hostname, question_end, read_question
from gateway.reasons import Reason
from matcher import canonical
from tests.gateway.dns import queries as q
from tests.gateway.dns.queries import (
    AAAA,
    ALLOWED,
    HTTPS,
    NO,
    OTHER,
    RD,
    SVCB,
    TXT,
    YES,
    A,
    guard,
    name,
    option,
    query,
)

GUARD = guard()
STRICT = guard("strict")
MODES = [GUARD, STRICT]


def leaves(ruling: module.Ruling) -> bool:
    assert not (ruling.answer and (ruling.query or ruling.forward))
    return bool(ruling.query or ruling.forward)


def _answer(wire: bytes, by: module.Guard = GUARD) -> dns.message.Message:
    ruling = by.judge(wire)
    assert not leaves(ruling), "nothing may leave"
    assert ruling.answer != b""
    assert ruling.answer[:2] == wire[:2]
    return dns.message.from_wire(ruling.answer)


# -- what is passed on


@pytest.mark.parametrize("qtype", [A, AAAA, q.NS, q.CNAME, q.SOA, TXT, SVCB, HTTPS, 12, 15, 33, 43, 48, 257])
@pytest.mark.parametrize("by", MODES)
@pytest.mark.parametrize("host", [ALLOWED, "a.anthropic.com", "a.b.c.anthropic.com", "localhost"])
def test_a_name_that_the_policy_allows_is_asked_in_our_own_words(
    by: module.Guard, host: str, qtype: int
) -> None:
    ruling = by.judge(query(host, qtype))
    assert (ruling.rule, ruling.question) == (YES, Question(host, b"", qtype))
    assert ruling.query is not None
    assert (ruling.forward, ruling.answer) == (b"", b"")


@pytest.mark.parametrize(
    "sent",
    [
        query("aPi.OPENai.CoM"),
        query(flags=0),
        query(flags=RD | 0x0040),  # Z
        query(flags=RD | 0x0020),  # AD
        query(flags=RD | 0x0010),  # CD
        query(flags=RD | 0x0400),  # AA
        query(flags=RD | 0x0200),  # TC
        query(flags=RD | 0x0080),  # RA
        query(flags=RD | 0x000F),  # RCODE
        query(edns=b""),
        query(edns=option(12, bytes(200))),  # padding
        query(edns=option(10, b"secret!!")),  # cookie
        query(edns=option(8, b"\0\1\x20\0\x0a\0\0\2")),  # client subnet
        query(edns=option(65001, b"exfiltrated")),  # private use
        query(edns=b"", ttl=0x8000),  # DO
        query(edns=b"", ttl=0x7FFF),  # Z
        query(edns=b"", ttl=0xFF000000),  # extended RCODE
        query(edns=b"", payload=4096),
        query(edns=b"", payload=65535),
        query(edns=b"", payload=1231),
        query(edns=b"", payload=700),
        query(edns=b"", payload=0),
        query(counts=(1, 0, 0, 1), rest=name("exfiltrated.example") + b"\0\x10\0\1\0\0\0\0\0\5\4data"),
    ],
)
def test_of_a_query_only_name_and_type_count(sent: bytes) -> None:
    """What leaves for them is spelt by the resolver: see test_server."""
    ruling = GUARD.judge(sent)
    assert ruling.query is not None
    assert (ruling.question, ruling.forward) == (Question(ALLOWED, b"", A), b"")


def test_a_name_that_is_compressed_is_passed_on_in_full() -> None:
    # A pointer may only point backwards, so into the header: these octets must spell a name there.
    header = b"\3api\6open" + b"xx"
    assert not leaves(GUARD.judge(header[:2] + b"\1\0\0\1\0\0\0\0\0\0" + b"\3api\xc0\x00\0\1\0\1"))
    # The id and flags as labels: id 0x0161 is the label "a", flags 0x0000 the root.
    wire = b"\1a\0\0\0\1\0\0\0\0\0\0" + b"\1b\xc0\x00" + b"\0\1\0\1"
    by = module.Guard(
        "guarded", lambda host: YES if host == "b.a" else NO, q.public, forwards_all=False, ipv6=True
    )
    assert (by.judge(wire).question, leaves(by.judge(wire))) == (Question("b.a", b"", A), True)


@pytest.mark.parametrize(
    "labels",
    [
        b"\xc0\x0c",
        b"\3api\xc0\x0c",
        b"\3api\xc0\x10",
        b"\xc0\xff",
        b"\xc0",
        b"\3api\xc0\x14",
        b"\x80a\0",
        b"\x40a\0",
    ],
)
def test_a_pointer_that_goes_nowhere_is_no_name(labels: bytes) -> None:
    assert not leaves(GUARD.judge(query(labels)))


# -- what is answered here


@pytest.mark.parametrize(
    "host",
    [
        OTHER,
        "openai.com",
        "x.api.openai.com",
        "evilapi.openai.com",
        "anthropic.com",
        "xanthropic.com",
        "com",
        "localhos",
    ],
)
def test_another_name_gets_the_sinkhole(host: str) -> None:
    answer = _answer(query(host))
    assert answer.rcode() == dns.rcode.NOERROR
    (rrset,) = answer.answer
    assert rrset.to_text() == f"{host}. 5 IN A {SINKHOLE}"
    assert (
        answer.flags & (dns.flags.QR | dns.flags.RA | dns.flags.RD)
        == dns.flags.QR | dns.flags.RA | dns.flags.RD
    )
    assert not answer.flags & dns.flags.AA


@pytest.mark.parametrize("qtype", [AAAA, TXT, HTTPS, SVCB, q.NS, q.SOA, q.CNAME, 999, 65280])
def test_another_name_has_nothing_but_the_sinkhole(qtype: int) -> None:
    answer = _answer(query(OTHER, qtype))
    assert (answer.rcode(), answer.answer, answer.authority) == (dns.rcode.NOERROR, [], [])
    assert read_question(GUARD.judge(query(OTHER, qtype)).answer).kind == qtype


@pytest.mark.parametrize("qtype", [A, AAAA, TXT])
def test_strict_says_that_there_is_no_such_name_and_why(qtype: int) -> None:
    answer = _answer(query(OTHER, qtype, edns=b""), STRICT)
    assert (answer.rcode(), answer.answer) == (dns.rcode.NXDOMAIN, [])
    (error,) = answer.options
    assert isinstance(error, dns.edns.EDEOption)
    assert error.code == dns.edns.EDECode.BLOCKED
    assert "policy" in str(error.text)
    assert _answer(query(OTHER, qtype), STRICT).edns == -1, "no option to who cannot read one"


def test_the_spelling_of_a_name_comes_back_as_it_was_sent() -> None:
    wire = query("eViL.exAMPle")
    assert GUARD.judge(wire).answer[12 : question_end(wire)] == wire[12 : question_end(wire)]


def test_an_answer_is_no_longer_than_a_datagram_and_little_longer_than_the_question() -> None:
    longest = query(".".join(["a" * 49] * 5), edns=option(12, b"please pad"))
    for by in MODES:
        assert len(by.judge(longest).answer) < len(longest) + 80 < 512


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        (b"\7api.ope\4nai\3com\0", "a dot inside a label"),
        (b"\x0eapi.openai.com\0", "all in one label"),
        (b"\3api\6openai\4com.\0", "a dot at the end of a label"),
        (b"\3api\6openai\4com\0\0", "a NUL"),
        (b"\4api\0\6openai\3com\0", "a NUL"),
        (b"\3a\\i\6openai\3com\0", "a backslash"),
        (b"\3\xe1pi\6openai\3com\0", "an octet above 127"),
        (b"\0", "the root"),
        (b"\1*\x09anthropic\3com\0", "a star"),
        (b"\1 \x09anthropic\3com\0", "a blank"),
        (b"\2-a\x09anthropic\3com\0", "a hyphen first"),
        (
            b"\x3f"
            + b"a" * 63
            + b"\x3f"
            + b"a" * 63
            + b"\x3f"
            + b"a" * 63
            + b"\x32"
            + b"a" * 50
            + b"\x09anthropic\3com\0",
            "too long",
        ),
    ],
)
@pytest.mark.parametrize("by", MODES)
def test_what_is_no_hostname_is_never_passed_on(by: module.Guard, labels: bytes, why: str) -> None:
    ruling = by.judge(query(labels))
    assert (leaves(ruling), bool(ruling.answer)) == (False, True), why
    assert (ruling.rule.allowed, ruling.question.name) == (False, None)
    assert ruling.rule.reason in (Reason.BAD_NAME, Reason.BAD_QUERY)
    assert ruling.question.raw or ruling.rule.reason is Reason.BAD_QUERY


# -- what is refused


@pytest.mark.parametrize("host", [ALLOWED, OTHER])
@pytest.mark.parametrize("by", MODES)
@pytest.mark.parametrize(
    ("change", "rcode"),
    [
        ({"qtype": q.ANY}, "REFUSED"),
        ({"qtype": q.AXFR}, "REFUSED"),
        ({"qtype": q.IXFR}, "REFUSED"),
        ({"qtype": q.OPT}, "REFUSED"),
        ({"qtype": 249}, "REFUSED"),  # TKEY
        ({"qtype": 250}, "REFUSED"),  # TSIG
        ({"qtype": 128}, "REFUSED"),
        ({"qclass": 3}, "REFUSED"),  # CH
        ({"qclass": 4}, "REFUSED"),  # HS
        ({"qclass": 254}, "REFUSED"),  # NONE
        ({"qclass": 255}, "REFUSED"),  # q.ANY
        ({"qclass": 0x8001}, "REFUSED"),  # mDNS's unicast bit
        ({"counts": (0, 0, 0, 0)}, "REFUSED"),
        ({"counts": (2, 0, 0, 0)}, "REFUSED"),
        ({"counts": (2, 0, 0, 0), "rest": name(ALLOWED) + b"\0\1\0\1"}, "REFUSED"),
        ({"counts": (2, 0, 0, 0), "rest": b"\xc0\x0c\0\1\0\1"}, "REFUSED"),
        ({"counts": (65535, 0, 0, 0)}, "REFUSED"),
        ({"flags": RD | 1 << 11}, "NOTIMP"),  # IQUERY
        ({"flags": RD | 2 << 11}, "NOTIMP"),  # STATUS
        ({"flags": RD | 4 << 11}, "NOTIMP"),  # NOTIFY
        ({"flags": RD | 5 << 11}, "NOTIMP"),  # UPDATE
        ({"flags": RD | 15 << 11}, "NOTIMP"),
        ({"counts": (1, 1, 0, 0), "rest": b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4abcd"}, "FORMERR"),
        ({"counts": (1, 0, 1, 0), "rest": b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4abcd"}, "FORMERR"),
        ({"counts": (1, 0, 0, 2), "edns": None, "rest": (b"\0\0\x29\4\0\0\0\0\0\0\0") * 2}, "FORMERR"),
        ({"counts": (1, 0, 0, 1)}, "FORMERR"),
        ({"rest": b"exfiltrated"}, "FORMERR"),
        ({"edns": b"", "ttl": 0x00010000}, None),  # EDNS version 1: asked anew as version 0
        ({"edns": option(10, b"x")[:-1]}, "FORMERR"),
        ({"edns": option(12, bytes(MAX_QUERY_BYTES))}, "FORMERR"),
    ],
)
def test_what_no_client_needs_is_refused(
    host: str, by: module.Guard, change: dict[str, object], rcode: str | None
) -> None:
    wire = query(host, **change)  # type: ignore[arg-type]
    ruling = by.judge(wire)
    if rcode is None:
        assert leaves(ruling) is (host == ALLOWED)
        return
    assert not leaves(ruling)
    assert ruling.rule == module.BAD_QUERY
    answer = dns.message.from_wire(ruling.answer)
    assert len(ruling.answer) == 12 or ruling.answer[12 : question_end(wire)] == wire[12 : question_end(wire)]
    assert dns.rcode.to_text(answer.rcode()) == rcode
    assert answer.id == q.ID
    assert ruling.answer[2] & 0xF9 == 0x80 | wire[2] & 0x79
    assert not answer.answer


def test_strict_says_why_a_question_is_never_asked() -> None:
    (error,) = _answer(query(ALLOWED, q.ANY, edns=b""), STRICT).options
    assert isinstance(error, dns.edns.EDEOption)
    assert error.code == dns.edns.EDECode.PROHIBITED


@pytest.mark.parametrize("mode", ["guarded", "strict"])
def test_without_ipv6_no_name_has_an_address_of_it(mode: str) -> None:
    by = guard(mode, ipv6=False)
    answer = _answer(query(ALLOWED, AAAA), by)
    assert (answer.rcode(), answer.answer) == (dns.rcode.NOERROR, [])
    assert by.judge(query(ALLOWED, AAAA)).rule == YES
    assert leaves(by.judge(query(ALLOWED, A)))


@pytest.mark.parametrize("qtype", [0, 110, 111, 999, 65280, 65534])
def test_a_type_that_means_nothing_is_not_passed_on(qtype: int) -> None:
    ruling = GUARD.judge(query(ALLOWED, qtype))
    assert (leaves(ruling), ruling.answer[3] & 15) == (False, dns.rcode.REFUSED)


@pytest.mark.parametrize("by", [*MODES, guard("passthrough"), guard(forwards_all=True)])
@pytest.mark.parametrize(
    "wire",
    [b"", b"\0", query()[:11], query(flags=RD | 0x8000), query(flags=0xFFFF), bytes((0, 0, 0x80)) + bytes(9)],
)
def test_what_is_no_query_at_all_is_dropped_in_every_mode(by: module.Guard, wire: bytes) -> None:
    assert by.judge(wire) == (module.BAD_QUERY, module.UNASKED, None, b"", b"")


@pytest.mark.parametrize(
    "by", [guard("passthrough"), guard("guarded", forwards_all=True), guard("strict", forwards_all=True)]
)
@pytest.mark.parametrize(
    "wire",
    [query(OTHER), query(OTHER, q.ANY), query("MiXed.example", edns=option(65001, b"x")), query() + b"junk"],
)
def test_passthrough_and_default_allow_pass_everything_on_as_it_is(by: module.Guard, wire: bytes) -> None:
    ruling = by.judge(wire)
    assert (ruling.query, ruling.forward, ruling.answer) == (None, wire, b"")
    assert ruling.rule.allowed
    assert ruling.question.name in (OTHER, "mixed.example", ALLOWED)


# -- whatever comes


def _cut(wire: bytes, edits: list[tuple[int, int]], end: int) -> bytes:
    changed = bytearray(wire)
    for at, value in edits:
        changed[at % len(changed)] = value
    return bytes(changed[: end or None])


SEEDS = [
    query(),
    query(OTHER),
    query(edns=option(12, b"pad")),
    query("a.anthropic.com", HTTPS),
    query(b"\3api\xc0\x00"),
    query(counts=(1, 0, 0, 1), rest=b"\0\0\xfa\0\xff\0\0\0\0\0\x10" + bytes(16)),
]
ANY_QUERY = st.binary(max_size=100) | st.builds(
    _cut,
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 100), st.integers(0, 255)), max_size=4),
    st.integers(0, 60),
)


@given(wire=ANY_QUERY, by=st.sampled_from(MODES))
def test_whatever_is_sent_only_our_own_words_for_an_allowed_name_leave(wire: bytes, by: module.Guard) -> None:
    ruling = by.judge(wire)
    leaving = leaves(ruling)
    assert ruling.forward == b""
    if ruling.answer:
        assert ruling.answer[:2] == wire[:2]
        assert ruling.answer[2] & 0x80
        assert len(ruling.answer) <= len(wire) + 100
    if not leaving:
        return
    assert ruling.rule == YES
    text = ruling.question.name
    assert text is not None and canonical(text, single=True) == text
    assert text == ALLOWED or text == "localhost" or text.endswith(".anthropic.com")
    assert ruling.question.kind in module.ASKABLE


@given(
    labels=st.lists(
        st.binary(min_size=1, max_size=20) | st.sampled_from([b"api", b"openai", b"com", b"anthropic"]),
        max_size=5,
    )
)
def test_names_are_compared_label_by_label(labels: list[bytes]) -> None:
    found = hostname(labels)
    if found is not None:
        assert [label.lower() for label in labels] == [label.encode() for label in found.split(".")]


class Reads(bytes):
    """Octets that count how often one of them is looked at."""

    looked_at = 0

    def __getitem__(self, at):  # type: ignore[no-untyped-def]
        self.looked_at += 1
        return super().__getitem__(at)


@pytest.mark.parametrize("labels", [b"\1a" * 32700, b"\1a" * 127 + b"\1a"])
def test_a_name_is_read_no_further_than_it_may_be_long(labels: bytes) -> None:
    """Of 64 KiB over TCP, thousands of which are judged in a row, each would hold the loop for milliseconds."""
    wire = Reads(query(labels + b"\0"))
    assert question_end(wire) == 12
    assert wire.looked_at < 600
    for by in MODES:
        assert (by.judge(wire).rule, by.judge(wire).question) == (module.BAD_QUERY, module.UNASKED)


def test_the_longest_name_is_read() -> None:
    wire = query(b"\1a" * 127 + b"\0", TXT)
    assert read_question(wire).kind == TXT
    assert question_end(wire) == len(wire)


@given(st.binary(max_size=80))
def test_where_a_question_ends_is_within_the_message(wire: bytes) -> None:
    assert question_end(wire) == 12 or 17 <= question_end(wire) <= len(wire)


@given(st.binary(min_size=12, max_size=300) | ANY_QUERY.filter(lambda wire: len(wire) >= 12))
def test_what_is_asked_is_read_from_anything(wire: bytes) -> None:
    question = read_question(wire)
    assert 0 <= question.kind <= 0xFFFF
    assert question.name is None or canonical(question.name, single=True) == question.name
    assert len(question.raw) <= 254
    assert not (question.name and question.raw)
