"""Messages by the octet, against dnspython, which reads all of them; and how much of one is read."""

import struct

import dns.exception
import dns.message
import dns.name
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.net.message import (
    HEADER,
    MAX_POINTERS,
    MOST_RECORDS,
    QR,
    Malformed,
    denied_for_s,
    follow,
    labels,
    name_at,
    packed,
    read,
)
from tests.gateway.dns_server import Asked, reply

NAME = "api.openai.com"
HEAD = HEADER.pack(0x1234, 0x0100, 1, 0, 0, 0)
QUESTION = packed(NAME) + b"\0\1\0\1"
RECORDS = [
    f"{NAME}. 60 IN CNAME a.example.",
    "a.example. 7 IN CNAME B.example.",
    "b.example. 5 IN A 203.0.113.9",
    "b.example. 9 IN A 203.0.113.8",
    f"{NAME}. 60 IN TXT x",
    "b.example. 60 CH TXT x",
]
ANSWER = reply(Asked(HEAD + QUESTION, False), *RECORDS)


def _addresses(wire: bytes) -> list[str]:
    message = read(wire)
    return [".".join(map(str, message.wire[one.at : one.at + one.size])) for one in follow(message).found]


def test_the_chain_from_the_question() -> None:
    message = read(ANSWER)
    chain = follow(message)
    assert (message.name, message.kind, message.rdclass) == (packed(NAME), 1, 1)
    assert (chain.end, chain.ttl_s) == (packed("b.example"), 5)
    assert sorted(_addresses(ANSWER)) == ["203.0.113.8", "203.0.113.9"]
    assert [one.owner for one in chain.cnames] == [packed(NAME), packed("a.example")]


def test_every_shorter_message_is_none() -> None:
    for end in range(len(ANSWER)):
        with pytest.raises(Malformed):
            read(ANSWER[:end])
    with pytest.raises(Malformed):
        read(ANSWER + b"\0")


@given(
    edits=st.lists(st.tuples(st.integers(2, 300), st.integers(0, 255)), max_size=4),
    end=st.none() | st.integers(0, 300),
    more=st.binary(max_size=4),
)
def test_whatever_it_holds_it_is_read_or_is_malformed(
    edits: list[tuple[int, int]], end: int | None, more: bytes
) -> None:
    changed = bytearray(ANSWER)
    for at, value in edits:
        changed[at % len(changed)] = value
    wire = bytes(changed[:end]) + more
    try:
        message = read(wire)
        found = (
            _addresses(wire) if message.flags & QR and message.kind == 1 and message.rdclass == 1 else None
        )
    except Malformed:
        return
    for one in (*message.answer, *message.authority):
        assert 12 < one.at <= one.at + one.size <= len(wire)
        assert one.owner == one.owner.lower()
    try:
        plain = dns.message.from_wire(wire)
        chain = plain.resolve_chaining() if isinstance(plain, dns.message.QueryMessage) else None
    except (dns.exception.DNSException, ValueError, KeyError, struct.error):
        return  # it reads what we do not
    if found is not None and chain is not None and message.rcode in (0, 3):
        records = list(chain.answer) if chain.answer is not None else []
        assert list(dict.fromkeys(found)) == [record.to_text() for record in records]


@given(st.binary(max_size=60), st.integers(0, 59))
def test_a_name_is_what_dnspython_takes_it_for(wire: bytes, at: int) -> None:
    try:
        expected = dns.name.from_wire(wire, at) if at < len(wire) else None
    except dns.exception.DNSException:
        expected = None
    if expected is None:
        with pytest.raises(Malformed):
            name_at(wire, at)
        return
    name, size = expected
    assert name_at(wire, at) == (name.to_wire(), at + size)
    assert (*labels(name.to_wire() or b""), b"") == name.labels


@pytest.mark.parametrize(
    ("sizes", "good"),
    [([63, 63, 63, 61], True), ([63, 63, 63, 62], False), ([1] * 127, True), ([1] * 128, False)],
)
def test_a_name_has_255_octets_at_the_most(sizes: list[int], good: bool) -> None:
    wire = b"".join(bytes((size,)) + b"x" * size for size in sizes) + b"\0"
    first = 1 + sizes[0]
    for begun in (wire, wire[first:] + wire[:first] + struct.pack("!H", 0xC000)):
        at = 0 if begun is wire else len(wire) - first
        if good:
            assert name_at(begun, at)[0] == wire
        else:
            with pytest.raises(Malformed):
                name_at(begun, at)
    text = ".".join("x" * size for size in sizes)
    if good:
        assert packed(text) == wire
    else:
        with pytest.raises(Malformed):
            packed(text)


@pytest.mark.parametrize("text", ["", ".", "a.", "a..b", "x" * 64, "\xe9.example"])
def test_what_is_no_name_is_not_packed(text: str) -> None:
    with pytest.raises(ValueError, match=r"name|codec"):
        packed(text)


def test_pointers_in_a_row_are_followed_so_far() -> None:
    wire = bytearray(b"\0")
    places = [0]
    for _ in range(MAX_POINTERS + 1):
        places.append(len(wire))
        wire += b"\1a" + struct.pack("!H", 0xC000 | places[-2])
    assert len(name_at(bytes(wire), places[MAX_POINTERS])[0]) == 2 * MAX_POINTERS + 1
    with pytest.raises(Malformed):
        name_at(bytes(wire), places[-1])


def test_so_many_records_are_read_and_the_rest_is_nobodys() -> None:
    records = [f"{NAME}. 60 IN A 203.{n // 250}.{n % 250}.1" for n in range(4000)]
    wire = bytearray(reply(Asked(HEAD + QUESTION, False), *records[:100]))
    assert len(read(bytes(wire)).answer) == 100
    record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4abcd"
    long = HEADER.pack(1, 0x8180, 1, 4000, 0, 0) + QUESTION + record * 4000
    assert len(read(long).answer) == MOST_RECORDS
    assert len(read(long[:-1] + b"rubbish").answer) == MOST_RECORDS


@pytest.mark.parametrize(("soa", "kept"), [("openai.com", 40), (NAME, 40), (".", 40), ("a.example", None)])
def test_how_long_nothing_is_there(soa: str, kept: int | None) -> None:
    answer = dns.message.from_wire(reply(Asked(HEAD + QUESTION, False), rcode=3))
    owner = soa if soa == "." else soa + "."
    answer.authority.append(dns.rrset.from_text(owner, 60, "IN", "SOA", "a.example. b.example. 1 2 3 4 40"))
    message = read(answer.to_wire())
    assert denied_for_s(message, follow(message)) == kept
