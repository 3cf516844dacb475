"""Every head of ``http_cases`` in every way it can arrive: the answer written there, and no other."""

import random
from collections.abc import Iterator

import pytest

from gateway.sniff import NeedMore, Refused, Sniffed, sniff
from tests.gateway.sniff.arrivals import looks, prefixes
from tests.gateway.sniff.cursor_http import read_http
from tests.gateway.sniff.heads import BAD, GET, HOST, LIMIT, LONG, NEITHER, Head, filled, head
from tests.gateway.sniff.http_cases import HEADS

Answer = Sniffed | NeedMore | Refused

LATER = (
    b"\r\n",
    b"\n",
    b"\0",
    b"\x16\x03\x01",
    b"Host: b.test\r\n\r\n",
    b" folded\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: b.test\r\n\r\n",
    b"x" * 70000,
)
"""What may follow the head, and must not change what was said of it."""

DECIDED = [case for case in HEADS if not isinstance(case.answer, NeedMore)]


def arrive(data: bytes, ends: Iterator[int] | list[int]) -> Answer:
    """Look at each prefix as the session does: of one growing buffer, with what the last look saw, until there is an answer."""
    scanned = 0
    seen: Answer = NeedMore(1)
    for end in ends:
        seen = sniff(data[:end], scanned=scanned)
        if not isinstance(seen, NeedMore):
            return seen
        assert seen.at_least >= 1
        assert end + seen.at_least <= LIMIT, "waits for more than is ever read"
        scanned = end
    return seen


def one_answer(data: bytes) -> Answer:
    """The answer to ``data``: whole, byte by byte, at every split, in three pieces and in every type of buffer."""
    whole = sniff(data)
    assert arrive(data, list(range(1, len(data) + 1))) == whole, "byte by byte"
    for end in prefixes(len(data)):
        assert arrive(data, [end, len(data)]) == whole, f"split after {end}"
    chance = random.Random(data)
    for _ in range(20):
        ends = sorted(chance.randrange(1, len(data) + 1) for _ in range(3))
        assert arrive(data, [*ends, len(data)]) == whole, f"split at {ends}"
    for buffer in (bytearray(data), memoryview(data), memoryview(bytearray(data))):
        assert sniff(buffer) == whole, type(buffer)
        assert bytes(buffer) == data, "the buffer was changed"
    return whole


def no_prefix_tells(data: bytes, whole: Answer) -> None:
    """A proper prefix of a head names nothing; a refusal is final; and nobody waits for more than is missing."""
    decided = False
    length = whole.consumed if isinstance(whole, Sniffed) else len(data)
    for end in prefixes(length):
        seen = sniff(data[:end])
        assert not isinstance(seen, Sniffed), f"{end} bytes: a proper prefix yields a name"
        if isinstance(seen, NeedMore):
            assert not decided, f"{end} bytes: undecided again"
            assert not isinstance(whole, Sniffed) or end + seen.at_least <= length, (
                f"{end} bytes: waits too long"
            )
        else:
            assert seen == whole, f"{end} bytes: another answer"
            decided = True


@pytest.mark.parametrize("case", HEADS, ids=lambda case: case.id)
def test_a_head_however_it_arrives(case: Head) -> None:
    assert one_answer(case.data) == case.answer
    no_prefix_tells(case.data, case.answer)


@pytest.mark.parametrize("case", DECIDED, ids=lambda case: case.id)
def test_what_follows_changes_nothing(case: Head) -> None:
    for later in LATER:
        assert sniff(case.data + later) == case.answer, f"followed by {later[:20]!r}"
        assert sniff(bytearray(case.data + later)) == case.answer, f"followed by {later[:20]!r}"


@pytest.mark.parametrize("case", HEADS, ids=lambda case: case.id)
def test_the_plain_reading_says_the_same(case: Head) -> None:
    seen = read_http(case.data)
    assert seen == case.answer or (isinstance(seen, NeedMore) and isinstance(case.answer, NeedMore))


def test_case_ids_are_unique() -> None:
    assert len({case.id for case in HEADS}) == len(HEADS)


def test_nothing_is_waited_for() -> None:
    assert sniff(b"") == NeedMore(1)


@pytest.mark.parametrize("forbidden", [*range(9), *range(10, 32), 127])
def test_a_control_character_refuses_anywhere_in_a_head(forbidden: int) -> None:
    """CR and LF where they are not CRLF; tab alone is allowed, in a value."""
    plain = head(GET, b"Accept: x", HOST)
    for at in range(forbidden == 22, len(plain)):  # what begins with 22 is TLS
        expected = NEITHER if at < 4 else BAD
        if forbidden == 13 and plain[at : at + 1] == b"\r":
            continue
        if forbidden == 10 and plain[at : at + 1] == b"\n":
            continue
        assert sniff(plain[:at] + bytes((forbidden,)) + plain[at + 1 :]) == expected, f"instead of byte {at}"


def test_a_byte_above_0x7f_refuses_in_all_but_other_values() -> None:
    plain = head(GET, b"Accept: x", HOST)
    for byte in range(0x80, 0x100):
        for at in range(1, len(plain)):
            if plain[at : at + 1] not in (b"\r", b"\n"):
                seen = sniff(plain[:at] + bytes((byte,)) + plain[at + 1 :])
                assert isinstance(seen, Sniffed) == (plain[at - 1 : at + 2] in (b": x", b" x\r")), (byte, at)


def test_a_tab_is_a_blank_in_values_only_and_not_in_those_that_decide() -> None:
    plain = head(GET, b"Accept: x", HOST)
    for at in range(len(plain)):
        seen = sniff(plain[:at] + b"\t" + plain[at:])
        in_accept = plain.index(b"Accept:") + 7 <= at <= plain.index(b"\r\nHost")
        assert isinstance(seen, Sniffed) == in_accept, at
        assert seen == BAD or not plain.index(b"Host:") < at <= len(plain) - 4, at


@pytest.mark.parametrize("field", [b"Host", b"Content-Length", b"Transfer-Encoding"])
def test_a_tab_about_a_value_that_decides_is_refused(field: bytes) -> None:
    """nginx keeps it: the host would be another one, the length none, the coding unknown."""
    value = {b"Host": b"a.test", b"Content-Length": b"58"}.get(field, b"chunked")
    host = () if field == b"Host" else (HOST,)
    assert isinstance(sniff(head(GET, *host, field + b": " + value + b" ")), Sniffed)
    for about in (b":\t%b", b": \t%b", b":\t %b", b": %b\t", b":%b \t", b": %b\t "):
        assert sniff(head(GET, *host, field + about.replace(b"%b", value))) == BAD


@pytest.mark.parametrize("taken", range(1, 5))
def test_a_head_without_its_end_names_nothing(taken: int) -> None:
    assert sniff(head(GET, HOST)[:-taken]) == NeedMore(taken)


def test_a_reader_that_sleeps_as_told_sees_the_head_when_it_is_whole() -> None:
    for case in HEADS:
        if isinstance(case.answer, Sniffed):
            assert looks(case.data)[1] == case.answer


def test_a_head_wakes_a_sleeper_once_a_few_bytes() -> None:
    """Four bytes are missing at the least wherever no line has ended."""
    data = filled(2000, GET, HOST)
    assert looks(data)[0] <= 2000 / 4 + 10


@pytest.mark.parametrize("size", range(LIMIT - 3, LIMIT + 4))
def test_32_kib_are_read_and_no_more(size: int) -> None:
    data = filled(size, GET, HOST)
    expected = Sniffed("http", "a.test", None, False, size) if size <= LIMIT else LONG
    assert sniff(data) == expected
    assert arrive(data, list(range(LIMIT - 40, size + 1))) == expected
    for end in range(LIMIT, size):
        assert sniff(data[:end]) == LONG


def test_a_bytearray_may_grow_after_a_look() -> None:
    data = head(GET, b"X: y", HOST)
    buffer = bytearray()
    seen: Answer = NeedMore(1)
    for at in range(len(data)):
        buffer += data[at : at + 1]  # a view that was kept would raise BufferError here
        seen = sniff(buffer, scanned=at)
    assert isinstance(seen, Sniffed)
    buffer += data
    for refused in (head(GET, HOST, HOST), head(b"GET / HTTP/2.0"), head(GET, b" x")):
        buffer[:] = refused
        assert isinstance(sniff(buffer), Refused)
        buffer += b"x"
    assert buffer.endswith(b"x")


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5, 7, 1000])
def test_looks_in_any_steps_see_the_end(step: int) -> None:
    data = filled(900, GET, HOST, b"X: y")
    for first in range(1, step + 1):
        assert arrive(data, list(range(first, len(data) + step, step))) == sniff(data)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize(
    "line", [GET, b"GET / HTTP/2.0", b"CONNECT a.test:1 HTTP/1.1", b"GET /" + b"a" * 60 + b" HTTP/1.1"]
)
def test_a_request_line_is_judged_when_it_ends_however_the_head_drips(line: bytes, kind: type) -> None:
    data = head(line, b"X: y", HOST, b"Y: z")
    for step in range(1, 9):
        answers = []
        for end in range(step, len(data) + step, step):
            answers.append(sniff(kind(data[:end]), scanned=end - step))
            if not isinstance(answers[-1], NeedMore):
                break
        assert answers[-1] == sniff(data)
        if sniff(data) == BAD:
            assert len(answers) == -(-(len(line) + 2) // step), "not with the line feed that ends it"


def test_what_was_scanned_is_not_read_again() -> None:
    """A drip is linear. So a lie about what was seen goes unnoticed while the head is incomplete, and no longer."""
    data = b"GET /" + b"\0" * 100 + b" HTTP/1.1"
    assert sniff(data) == BAD
    assert sniff(data, scanned=len(data)) == NeedMore(4)
    assert sniff(data + b"\r\nHost: a.test\r\n\r\n", scanned=len(data)) == BAD


def test_a_lie_about_what_was_scanned_never_names_another_host() -> None:
    data = head(GET, HOST) + head(GET, b"Host: b.test")
    for scanned in range(-2, len(data) + 2):
        seen = sniff(data, scanned=scanned)
        assert not isinstance(seen, Sniffed) or seen == sniff(head(GET, HOST))


@pytest.mark.parametrize("scanned", [-1, 0, 1, 3, 4, 5, 40, 1 << 40])
def test_scanned_changes_nothing_where_the_end_is_there_to_see(scanned: int) -> None:
    data = head(GET, b"X: y", b"Accept: */*", HOST)
    assert sniff(data, scanned=scanned) == sniff(data)
