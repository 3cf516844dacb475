"""Every head of ``http_cases`` in every way it can arrive: the answer written there, and no other."""

import pytest

from gateway.sniff import NeedMore, Refused, Sniffed, sniff
from tests.gateway.sniff.arrivals import looks, one_answer
from tests.gateway.sniff.cursor_http import read_http
from tests.gateway.sniff.heads import head, usual
from tests.gateway.sniff.http_cases import CASES, READ, Case, filled

each = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
read = pytest.mark.parametrize("case", READ, ids=lambda case: case.id)


@each
def test_however_it_arrives(case: Case) -> None:
    assert one_answer(case.data) == case.expected()


@each
def test_the_plain_reading_says_the_same(case: Case) -> None:
    if case.data[0] < 0x80:
        assert read_http(case.data) == case.expected()


@read
def test_no_proper_prefix_of_a_head_is_answered(case: Case) -> None:
    consumed = len(case.data) - case.rest
    step = max(1, consumed // 400)
    assert all(isinstance(sniff(case.data[:end]), NeedMore) for end in range(1, consumed, step))
    assert isinstance(sniff(case.data[: consumed - 1]), NeedMore)


def test_case_ids_are_unique() -> None:
    ids = [case.id for case in CASES]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    ("seen", "at_least"),
    [
        (b"", 1),
        (b"G", 4),
        (b"GET / HTTP/1.1", 4),
        (b"GET / HTTP/1.1\r", 3),
        (b"GET / HTTP/1.1\r\n", 2),
        (b"GET / HTTP/1.1\r\n\r", 1),
        (b"GET / HTTP/1.1\r\nHost: x.test\r", 3),
        (b"GET / HTTP/1.1\r\nHost: x.test\r\n", 2),
        (b"GET / HTTP/1.1\r\nHost: x.test\r\n\r", 1),
        (b"GET / HTTP/1.1\r\nHost: x.test\r\nX: \t", 4),
    ],
)
def test_how_long_a_reader_may_sleep(seen: bytes, at_least: int) -> None:
    assert sniff(seen) == NeedMore(at_least)


@read
def test_a_reader_that_sleeps_as_told_reads_the_same(case: Case) -> None:
    data = case.data[: len(case.data) - case.rest]
    assert looks(data)[1] == case.expected()


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5, 7, 1000])
def test_looks_in_any_steps_see_the_end(step: int) -> None:
    """``scanned`` says what an earlier look saw, wherever that look ended."""
    data = usual(b"X: y", least=900)
    for first in range(1, step + 1):
        scanned, end = 0, first
        while isinstance(seen := sniff(data[:end], scanned=scanned), NeedMore):
            scanned, end = end, end + step
        assert isinstance(seen, Sniffed) and seen.consumed == len(data)


def test_what_was_scanned_is_not_read_again() -> None:
    """A drip is linear: what an earlier look passed is not looked at, so a lie about it is not noticed before the head is whole."""
    data = b"GET /" + b"\0" * 100 + b" HTTP/1.1"
    assert isinstance(sniff(data), Refused)
    assert sniff(data, scanned=len(data)) == NeedMore(4)
    assert isinstance(sniff(data + b"\r\nHost: x.test\r\n\r\n", scanned=len(data)), Refused)


def test_a_lie_about_what_was_scanned_never_names_another_host() -> None:
    data = head() + head(host=b"other.test")
    for scanned in range(-2, len(data) + 2):
        seen = sniff(data, scanned=scanned)
        assert not isinstance(seen, Sniffed) or seen == sniff(head())


def test_scanned_beyond_the_data_is_no_promise() -> None:
    for scanned in (-1, len(head()), len(head()) + 1, 1 << 40):
        assert sniff(head(), scanned=scanned) == sniff(head())


def test_a_bytearray_may_grow_after_a_look() -> None:
    buffer = bytearray()
    for byte in head(b"Content-Length: 5"):
        buffer.append(byte)  # a view that was kept would raise BufferError here
        seen = sniff(buffer, scanned=len(buffer) - 1)
    assert isinstance(seen, Sniffed)


def test_no_wait_leads_beyond_32_kib() -> None:
    data = filled(33000)
    for end in (*range(1, 32760, 97), *range(32760, 32769)):
        seen = sniff(data[:end])
        assert isinstance(seen, Refused) == (end == 32768)
