"""What a field may hold, beside regular expressions that say the same."""

import re
from collections.abc import Callable

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit import fields

ADDRESS = rb"[0-9a-f:.]{2,45}"
COUNT = rb"0|[1-9][0-9]{0,14}"
SAYS: dict[Callable[[bytes], bool], bytes] = {
    fields.is_moment: rb"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z",
    fields.is_address: ADDRESS,
    fields.is_quoted_address: rb'null|"' + ADDRESS + rb'"',
    fields.is_count: COUNT,
    fields.is_port: rb"0|[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]",
    fields.is_flow: rb"[0-9a-f-]{1,64}",
    fields.is_milliseconds: rb"(?:0|[1-9][0-9]{0,11})\.(?:0|[0-9]{0,2}[1-9])",
}
EDGES = [
    *(b"", b"0", b"00", b"01", b"-1", b"+1", b" 1", b"1_0", b"\xb2", b"\xd9\xa1", b"1\n", b"\n", b"\0"),
    *(b"65535", b"65536", b"9" * 5, b"9" * 15, b"9" * 16, b"1" + b"0" * 15),
    *(b"null", b'"', b'""', b'"1"', b'"::"', b'::', b'"::', b'::"', b"a" * 45, b"a" * 46, b'"' + b"a" * 46 + b'"'),
    *(b"a" * 64, b"a" * 65, b"ab-1f", b"AB", b"g"),
    *(b"1.5", b"1.50", b"1.0", b"1.00", b"0.001", b"1.0001", b"1.", b".5", b"1.5.5", b"01.5", b"9" * 12 + b".5", b"9" * 13 + b".5"),
    *(b"2026-11-28T15:42:11.123456Z", b"2026-11-28T15:42:11.123456z", b"2026-11-28 15:42:11.123456Z", b"2026-11-28T15:42:11.12345Z"),
]  # fmt: skip


def agree(field: bytes) -> None:
    for holds, pattern in SAYS.items():
        assert holds(field) is (re.fullmatch(pattern, field) is not None), (holds, field)


@pytest.mark.parametrize("field", EDGES)
def test_at_the_edges(field: bytes) -> None:
    agree(field)
    assert any(holds(b"12.5") for holds in SAYS), "they do say yes"


@given(st.text('0123456789abcdefgTZ:.-+"nul \n', max_size=48))
def test_of_characters_that_matter(text: str) -> None:
    agree(text.encode())


@given(st.binary(max_size=70))
def test_of_any_bytes(field: bytes) -> None:
    agree(field)


@given(st.one_of([st.from_regex(pattern, fullmatch=True) for pattern in SAYS.values()]))
def test_of_what_they_are_for(field: bytes) -> None:
    agree(field)


@given(st.integers(0, 10**15 - 1), st.integers(0, 2**40))
def test_numbers_are_those_of_json(number: int, us: int) -> None:
    assert fields.is_count(orjson.dumps(number))
    assert fields.is_milliseconds(orjson.dumps(us / 1000))
