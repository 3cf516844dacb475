"""Every hello of ``tls_cases`` in every way it can travel: the answer written there, and no other."""

import random

import pytest

from gateway.reasons import Reason
from gateway.sniff import NeedMore, Refused, Sniffed, sniff
from tests.gateway.sniff.arrivals import looks, one_answer
from tests.gateway.sniff.cursor_tls import read_tls
from tests.gateway.sniff.hellos import hello, pieces, record, records, server_name, usual, vector
from tests.gateway.sniff.tls_cases import HOSTNAMES, LONG, MESSAGES, TOO_BIG, WIRES, Message, Wire

MOST_RECORDS = 2048
LONG_WAY = 32768 + 5 * MOST_RECORDS
SMALL = hello(server_name(b"x.test"))

STRUCTURE = (
    MESSAGES[: -len(HOSTNAMES)] + HOSTNAMES[::9]
)  # a name is judged after the records are joined: some are enough


def _sizes(handshake: bytes, sizes: str) -> int | list[int]:
    if sizes != "random":
        return int(sizes)
    chance = random.Random(handshake)
    return [chance.choice((1, 2, 3, 5, 63, 64, 65, 700)) for _ in range(400)] + [16384]


@pytest.mark.parametrize("case", MESSAGES, ids=lambda case: case.id)
def test_a_message_in_as_few_records_as_it_takes(case: Message) -> None:
    data = records(case.handshake)
    assert one_answer(data) == case.expected(len(data))
    assert read_tls(data) == case.expected(len(data))


@pytest.mark.parametrize("sizes", ["1", "2", "16", "511", "random"])
@pytest.mark.parametrize("case", STRUCTURE, ids=lambda case: case.id)
def test_a_message_recorded_anew(case: Message, sizes: str) -> None:
    data = records(case.handshake, _sizes(case.handshake, sizes))
    expected = case.expected(len(data))
    if len(data) - len(case.handshake) > 5 * MOST_RECORDS:
        expected = Refused(Reason.TOO_LONG, "tls")
    assert one_answer(data) == expected
    assert read_tls(data) == expected


@pytest.mark.parametrize("case", WIRES, ids=lambda case: case.id)
def test_records(case: Wire) -> None:
    assert one_answer(case.data) == case.answer
    assert read_tls(case.data) == case.answer


def test_case_ids_are_unique() -> None:
    ids = [case.id for case in MESSAGES] + [case.id for case in WIRES]
    assert len(set(ids)) == len(ids)


def test_a_hello_cut_short_inside_shows_no_name() -> None:
    """Every length of the record and of the message fits: only what lies inside is missing."""
    body = SMALL[4:]
    without_extensions = 2 + 32 + 33 + 10 + 2
    for end in range(len(body)):
        data = record(b"\1" + vector(3, body[:end]))
        reason = Reason.NO_NAME if end == without_extensions else Reason.BAD_TLS
        assert sniff(data) == Refused(reason, "tls"), end
        assert sniff(data + record(body[end:])) == Refused(reason, "tls"), f"{end}, the rest behind it"


def test_a_hello_that_claims_more_is_waited_for() -> None:
    data = record(hello(server_name(b"x.test"), claim=len(SMALL) - 3))
    assert sniff(data) == NeedMore(6)  # one byte, in one more record


@pytest.mark.parametrize(
    ("seen", "at_least"),
    [
        (b"\x16", 8),
        (b"\x16\3\1", 6),
        (record(SMALL)[:5], len(SMALL)),
        (record(SMALL)[:8], len(SMALL) - 3),
        (record(SMALL)[:9], len(SMALL) - 4),
        (record(SMALL)[:-1], 1),
        (records(SMALL, (1, 500))[:6], 8),
        (records(SMALL, (1, 500))[:8], 6),
        (records(SMALL, (4, 500))[:9], 5 + len(SMALL) - 4),
        (records(SMALL, (4, 500))[:14], len(SMALL) - 4),
        (records(SMALL, (10, 500))[:10], 5 + 5 + len(SMALL) - 10),
    ],
)
def test_how_long_a_reader_may_sleep(seen: bytes, at_least: int) -> None:
    assert sniff(seen) == NeedMore(at_least)


@pytest.mark.parametrize(
    ("least", "size"),
    [
        (least, size)
        for least in (0, 517, 1800, 2048, 6000, 32768)
        for size in (1, 2, 3, 16, 511, 16384)
        if least <= size * MOST_RECORDS
    ],
)
def test_a_drip_wakes_the_reader_64_times_at_most(least: int, size: int) -> None:
    data = records(usual(least=least), size)
    count, seen = looks(data)
    assert isinstance(seen, Sniffed) and seen.consumed == len(data)
    assert count <= 64


def test_one_record_wakes_the_reader_three_times() -> None:
    assert looks(records(usual(least=1800)))[0] == 3


@pytest.mark.parametrize("case", TOO_BIG, ids=lambda case: case.id)
def test_too_long_is_known_by_the_header(case: Message) -> None:
    data = records(case.handshake)
    assert isinstance(sniff(data[:8]), NeedMore)
    assert sniff(data[:9]) == Refused(LONG, "tls")


def test_too_many_records_are_known_by_the_header_of_the_last_that_is_read() -> None:
    data = records(usual(least=2049), 1)
    last_header = 6 * (MOST_RECORDS - 1) + 5
    assert sniff(data[: last_header - 1]) == NeedMore(1 + 2)
    assert sniff(data[:last_header]) == Refused(Reason.TOO_LONG, "tls")


def test_what_can_be_no_hello_is_refused_at_the_first_byte_that_shows_it() -> None:
    refused = Refused(Reason.BAD_TLS, "tls")
    first = record(SMALL[:20])
    assert sniff(first + b"\x15") == refused  # an alert in the middle
    assert sniff(record(SMALL, version=b"\2\0")[:5]) == refused
    assert sniff(record(b"\2" + SMALL[1:])[:6]) == refused  # a ServerHello
    assert sniff(record(SMALL + b"\0")[:9]) == refused  # ends before its record does
    assert sniff(first + record(SMALL[20:] + b"\0")[:5]) == refused


def test_no_wait_leads_beyond_42_kib() -> None:
    """Whatever a client promises: up to the refusal or the name it never pays to read more than that."""
    chance = random.Random(7)
    for size in (2048, 2049, 20000, 32768):
        for sizes in ([1], [2], [16], [1] * 2000 + [9000], [chance.choice((1, 2, 9)) for _ in range(20000)]):
            data = records(hello(server_name(b"x.test"), claim=size - 4), sizes) + records(bytes(size), sizes)
            for end in (*range(1, LONG_WAY, 1989), *range(LONG_WAY - 20, LONG_WAY)):
                seen = sniff(data[:end])
                assert not isinstance(seen, NeedMore) or end + seen.at_least <= LONG_WAY
            assert not isinstance(sniff(data[:LONG_WAY]), NeedMore)


def test_a_bytearray_may_grow_after_a_look() -> None:
    buffer = bytearray()
    for piece in pieces(records(usual(), 100), 7):
        buffer += piece  # a view that was kept would raise BufferError here
        seen = sniff(buffer)
    assert isinstance(seen, Sniffed)
    assert buffer == records(usual(), 100)


def test_scanned_changes_no_answer() -> None:
    data = records(usual(), 50)
    for scanned in (-1, 0, 1, len(data), len(data) + 1, 1 << 40):
        assert sniff(data, scanned=scanned) == sniff(data)
