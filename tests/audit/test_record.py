"""The published form of a record, to the byte."""

import json
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.record import (
    MAX_LINE_BYTES,
    MAX_RAW_NAME,
    EndedBy,
    Event,
    Phase,
    lost,
    printable,
    timestamp,
)
from tests.audit.example import AT_NS, PUBLISHED, blocked, ended


def test_the_published_example_is_what_is_made_field_by_field() -> None:
    made = blocked() | {"writer": "b7e1-0", "seq": 1042}
    assert orjson.dumps(made).decode() == PUBLISHED
    assert list(json.loads(PUBLISHED)) == list(made)


def test_what_is_not_so_has_no_field() -> None:
    assert {"ech", "dest_mismatch", "domain_raw"}.isdisjoint(blocked())


def test_what_is_so_has_one_after_the_others() -> None:
    made = blocked(ech=True, dest_mismatch=True, domain_raw=b"a\x00b", domain=None, domain_source=None)
    assert list(made)[-4:] == ["generation", "domain_raw", "ech", "dest_mismatch"]
    assert (made["ech"], made["dest_mismatch"], made["domain_raw"]) == (True, True, "a\\x00b")
    assert (made["domain"], made["domain_source"]) == (None, None)


def test_the_end_of_a_connection() -> None:
    assert orjson.dumps(ended()).decode() == (
        '{"schema":"egress/v1","timestamp":"2026-11-23T07:15:02.123456Z","event":"egress_closed","sandbox":"agent-1",'
        '"src_ip":"10.0.0.2","src_port":41234,"domain":"evil.example","dest_ip":"203.0.113.9","dest_port":443,'
        '"upstream_ip":"203.0.113.9","proto":"tcp","flow":"5f2c-18f3","generation":3,"bytes_up":517,"bytes_down":4096,'
        '"duration_ms":12.346,"ended_by":"client","phase":"relay"}'
    )


def test_what_could_not_be_written() -> None:
    assert lost(AT_NS, 7, "agent-1") == {
        "schema": "egress/v1",
        "timestamp": "2026-11-23T07:15:02.123456Z",
        "event": "audit_lost",
        "sandbox": "agent-1",
        "count": 7,
    }


def test_the_published_words() -> None:
    egress = {"egress_allowed", "egress_blocked", "egress_closed"}
    assert set(Event) == egress | {"dns_allowed", "dns_blocked", "audit_lost", "audit_pruned"}
    assert set(EndedBy) == {"client", "upstream", "policy", "limit", "timeout", "shutdown", "error"}
    assert set(Phase) == {"sniff", "decide", "resolve", "connect", "relay"}


@pytest.mark.parametrize(
    ("ns", "shown"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (999, "1970-01-01T00:00:00.000000Z"),
        (1000, "1970-01-01T00:00:00.000001Z"),
        (999_999_999, "1970-01-01T00:00:00.999999Z"),
        (1_000_000_000, "1970-01-01T00:00:01.000000Z"),
        (951_782_400_000_000_000, "2000-02-29T00:00:00.000000Z"),
        (AT_NS, "2026-11-23T07:15:02.123456Z"),
    ],
)
def test_a_time(ns: int, shown: str) -> None:
    assert timestamp(ns) == shown


@given(st.lists(st.integers(0, 4_000_000_000 * 10**9), min_size=2, max_size=20))
def test_times_sort_as_text_and_lose_nothing_above_a_microsecond(moments: list[int]) -> None:
    shown = [timestamp(ns) for ns in sorted(moments)]
    assert shown == sorted(shown)
    for ns, text in zip(sorted(moments), shown, strict=True):
        read = datetime.fromisoformat(text)
        assert read.tzinfo == UTC
        whole = int(
            datetime(
                read.year, read.month, read.day, read.hour, read.minute, read.second, tzinfo=UTC
            ).timestamp()
        )
        assert whole * 10**6 + read.microsecond == ns // 1000


@given(st.binary(max_size=2000))
def test_no_name_carries_a_control_byte_or_more_than_253_characters(raw: bytes) -> None:
    shown = printable(raw)
    assert len(shown) <= MAX_RAW_NAME
    assert shown.isascii()
    assert shown.isprintable()


@given(st.binary(max_size=MAX_RAW_NAME // 4))
def test_an_escaped_name_can_be_read_back(raw: bytes) -> None:
    assert printable(raw).encode().decode("unicode_escape").encode("latin-1") == raw


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"api.openai.com", "api.openai.com"),
        (b"\x1b[2Jx", "\\x1b[2Jx"),
        (b"a\nb\r", "a\\x0ab\\x0d"),
        (b"\\x00", "\\x5cx00"),
        (b"\x7f\x80\xff", "\\x7f\\x80\\xff"),
        (b'"', '"'),
        (b"a" * 300, "a" * 253),
        (b"a" * 249 + b"\n" + b"b", "a" * 249 + "\\x0a"),
        (b"a" * 250 + b"\n" + b"b", "a" * 250),
    ],
)
def test_a_name_that_is_none(raw: bytes, shown: str) -> None:
    assert printable(raw) == shown


@given(
    raw=st.binary(max_size=4000),
    rule=st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=4000),
    flags=st.booleans(),
)
def test_no_record_is_longer_than_a_pipe_takes_at_once(raw: bytes, rule: str, flags: bool) -> None:
    arguments: dict[str, Any] = {"domain": "a." * 126 + "a", "ech": flags, "dest_mismatch": flags}
    record = blocked(domain_raw=raw, rule=rule, sandbox="s" * 64, **arguments)
    assert len(orjson.dumps(record)) < MAX_LINE_BYTES
