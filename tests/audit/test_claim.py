"""A sender that was taken over writes what it likes, and puts nothing on record but what a record may be."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.claim import REQUIRED, rebuilt, record_of
from audit.record import MAX_LINE_BYTES, Cause, EndedBy, Event, Phase, Record, lost, pruned
from gateway.reasons import Reason
from tests.audit.example import AT_NS, asked, blocked, ended

HONEST = [
    blocked(),
    blocked() | {"event": "egress_allowed", "upstream_ip": "203.0.113.9"},
    blocked(domain=None, domain_source=None, domain_raw=b"\xff\n", app=None),
    blocked(ech=True, dest_mismatch=True),
    blocked(source=("2001:db8::2", 1), dest=("::ffff:203.0.113.9", 65535)),
    ended(),
    ended(upstream_ip=None, duration_ms=0, bytes_up=0, bytes_down=2**40),
    lost(AT_NS, 12, "agent-1"),
    asked(),
    asked(event=Event.DNS_ALLOWED, source=("2001:db8::2", 1), proto="tcp"),
    asked(domain=None, domain_raw=b"a b", qtype=None) | {"count": 12345},
]
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("record", HONEST)
def test_what_is_honestly_made_passes_as_it_is_and_in_its_order(record: Record) -> None:
    taken = record_of(orjson.dumps(record), "agent-1")
    assert taken is not None
    assert list(taken.items()) == list(record.items())


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_passes(reason: Reason) -> None:
    assert rebuilt(blocked(reason=str(reason)), "agent-1") is not None


@pytest.mark.parametrize("ended_by", EndedBy)
@pytest.mark.parametrize("phase", Phase)
def test_every_end_passes(ended_by: EndedBy, phase: Phase) -> None:
    assert rebuilt(ended(ended_by=ended_by, phase=phase), "agent-1") is not None


def test_every_event_has_its_fields() -> None:
    assert set(REQUIRED) == set(Event)


def test_what_only_the_keeper_says_is_no_senders_to_say() -> None:
    made = pruned(AT_NS, sandbox="agent-1", cause=Cause.AGE, files=1, size=2, records=3, ended_ns=AT_NS)
    assert set(made) - {"schema", "timestamp", "event", "sandbox"} == set(REQUIRED[Event.PRUNED])
    assert rebuilt(made, "agent-1") is None


@pytest.mark.parametrize("record", HONEST)
def test_whose_record_it_is_the_schema_and_the_numbering_are_not_the_senders(record: Record) -> None:
    forged = {"writer": "b7e1-0", "seq": 5, **record, "schema": "egress/v9", "sandbox": "someone-else"}
    taken = rebuilt(forged, "agent-1")
    assert taken is not None
    assert (taken["sandbox"], taken["schema"]) == ("agent-1", "egress/v1")
    assert {"writer", "seq"}.isdisjoint(taken)


@pytest.mark.parametrize(
    "changed",
    [
        {"event": "policy_applied"},
        {"event": "egress_closed"},
        {"event": None},
        {"event": ["egress_blocked"]},
        {"timestamp": "yesterday"},
        {"timestamp": "2026-11-23T07:15:02.123456Z\n"},
        {"timestamp": "२026-11-23T07:15:02.123456Z"},
        {"timestamp": 1},
        {"src_ip": "10.0.0.2\x1b[2J"},
        {"src_ip": None},
        {"src_port": -1},
        {"src_port": 65536},
        {"src_port": True},
        {"src_port": 443.0},
        {"dest_port": "443"},
        {"domain": "x" * 254},
        {"domain": "a\nb"},
        {"domain": "a\u202eb"},
        {"domain": {}},
        {"domain_source": "guessed"},
        {"domain_source": []},
        {"upstream_ip": ""},
        {"app": "TLS"},
        {"layer": "moon"},
        {"rule": "x" * 1025},
        {"rule": "\x07"},
        {"reason": "because I say so"},
        {"reason": ""},
        {"flow": "x" * 10},
        {"flow": "5f2c\n"},
        {"generation": -1},
        {"generation": 2**60},
        {"ech": False},
        {"ech": 1},
        {"dest_mismatch": "true"},
        {"domain_raw": "\x00"},
        {"count": 0},
        {"surprise": 1},
        {"bytes_up": 1},
    ],
)
def test_a_field_that_is_not_of_its_kind_spoils_the_line(changed: dict[str, Any]) -> None:
    assert rebuilt(blocked(), "agent-1") is not None
    assert rebuilt(blocked() | changed, "agent-1") is None


@pytest.mark.parametrize(
    "changed",
    [
        {"bytes_up": -1},
        {"bytes_down": 1.5},
        {"duration_ms": -0.1},
        {"duration_ms": 1e300},
        {"duration_ms": True},
        {"duration_ms": "1"},
        {"ended_by": "nobody"},
        {"ended_by": {}},
        {"phase": None},
        {"ech": True},
        {"rule": "floor"},
    ],
)
def test_an_end_that_is_not_of_its_kind_spoils_the_line(changed: dict[str, Any]) -> None:
    assert rebuilt(ended() | changed, "agent-1") is None


@pytest.mark.parametrize("count", [0, -1, 2**60, 1.0, True, None, "1"])
def test_a_count_of_lost_records_is_a_number_of_records(count: Any) -> None:
    assert rebuilt(lost(AT_NS, 1) | {"count": count}, "agent-1") is None


@pytest.mark.parametrize("record", HONEST)
def test_a_missing_field_spoils_the_line(record: Record) -> None:
    optional = {"schema", "sandbox", "domain_raw", "ech", "dest_mismatch"}
    optional |= {"count"} if record["event"] != Event.LOST else set()
    for name in record.keys() - optional:
        assert rebuilt({key: value for key, value in record.items() if key != name}, "agent-1") is None, name


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"null",
        b"[]",
        b"7",
        b'"egress_blocked"',
        b"{",
        b"{}",
        b"\xff\xfe",
        b"[" * 4000,
        b'{"a":' * 600 + b"1" + b"}" * 600,
        orjson.dumps(blocked())[:-1],
        orjson.dumps(blocked()) + b"x",
        orjson.dumps(blocked()) + b" " * MAX_LINE_BYTES,
        json.dumps(blocked() | {"rule": "\ud800"}).encode(),
        json.dumps(blocked() | {"src_port": 10**30}).encode(),
        json.dumps(blocked() | {"src_port": float("nan")}).encode(),
    ],
)
def test_a_line_that_is_no_record(line: bytes) -> None:
    assert record_of(line, "agent-1") is None


@given(st.binary(max_size=300) | ANY_JSON.map(orjson.dumps))
def test_no_line_raises(line: bytes) -> None:
    record_of(line, "agent-1")


@given(
    record=st.sampled_from(HONEST),
    changed=st.dictionaries(
        st.sampled_from(sorted({name for known in HONEST for name in known} | {"seq", "writer", "x"})),
        ANY_JSON,
    ),
)
def test_whatever_passes_can_be_written_and_shown(record: Record, changed: dict[str, Any]) -> None:
    taken = rebuilt(record | changed, "agent-1")
    if taken is not None:
        assert taken["sandbox"] == "agent-1"
        line = orjson.dumps(taken)
        assert len(line) < MAX_LINE_BYTES * 2
        assert all(str(value).isprintable() for value in taken.values())
        assert not {"seq", "writer", "x"} & taken.keys()


@pytest.mark.parametrize(
    "changed",
    [
        {"qtype": "a"},
        {"qtype": ""},
        {"qtype": 1},
        {"qtype": "X" * 25},
        {"layer": "proxy"},
        {"count": 0},
        {"count": True},
        {"domain": "x" * 254},
        {"flow": "5f2c-18f3"},
        {"ech": True},
        {"upstream_ip": None},
        {"dest_port": None},
    ],
)
def test_a_query_has_its_own_fields(changed: dict[str, Any]) -> None:
    assert rebuilt(asked(), "agent-1") is not None
    assert rebuilt(asked() | changed, "agent-1") is None
