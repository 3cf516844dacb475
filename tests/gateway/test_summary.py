"""The few lines at the end of a run."""

import pytest

from audit.record import lost
from gateway.summary import DISTINCT, SHOWN, Summary
from tests.audit.example import AT_NS, asked, blocked, ended

ALLOWED = blocked() | {"event": "egress_allowed"}


def _lines(*records: dict[str, object], where: str | None = "/audit/a.jsonl") -> list[str]:
    summary = Summary()
    for record in records:
        summary.count(record)
    return list(summary.lines(where))


def test_nothing_happened() -> None:
    assert _lines() == ["0 allowed, 0 blocked; records in /audit/a.jsonl"]


def test_without_audit_no_place_is_named() -> None:
    assert _lines(where=None) == ["0 allowed, 0 blocked"]


def test_decisions_are_counted_and_ends_are_not() -> None:
    assert _lines(ALLOWED, ended(), blocked(), blocked(domain=None), ALLOWED, ended()) == [
        "2 allowed, 2 blocked; records in /audit/a.jsonl",
        "blocked evil.example:443 (no_allow_entry)",
        "blocked 203.0.113.9:443 (no_allow_entry)",
    ]


def test_what_was_refused_most_comes_first_and_the_rest_is_a_number() -> None:
    often = [blocked(domain="often.example")] * 3
    others = [blocked(domain=f"n{number}.example") for number in range(SHOWN + 1)]
    lines = _lines(*others, *often)
    assert lines[1] == "blocked often.example:443 (no_allow_entry), 3 times"
    assert len(lines) == 1 + SHOWN + 1
    assert lines[-1] == "... and 2 other destinations: see the records"
    assert _lines(*others, *often, where=None)[-1] == "... and 2 other destinations"


def test_names_without_end_take_no_memory_and_are_counted() -> None:
    summary = Summary()
    for number in range(DISTINCT + 500):
        summary.count(blocked(domain=f"n{number}.example"))
    summary.count(blocked(domain="n0.example"))
    assert len(summary._refused) == DISTINCT
    lines = list(summary.lines(None))
    assert lines[0] == f"0 allowed, {DISTINCT + 501} blocked"
    assert lines[1].startswith("blocked n0.example:443 (no_allow_entry), 2 times")
    assert lines[-1] == f"... and {DISTINCT - SHOWN} or more other destinations"


def test_an_aggregate_counts_as_many() -> None:
    assert _lines(blocked() | {"count": 40}, blocked()) == [
        "0 allowed, 41 blocked; records in /audit/a.jsonl",
        "blocked evil.example:443 (no_allow_entry), 41 times",
    ]


@pytest.mark.parametrize(("unwritten", "said"), [(0, 3), (4, 7)])
def test_what_could_not_be_written_is_said(unwritten: int, said: int) -> None:
    summary = Summary()
    summary.count(lost(AT_NS, 3))
    summary.unwritten = unwritten
    assert list(summary.lines(None))[-1] == f"{said} records could not be written"


@pytest.mark.parametrize("record", [{}, {"event": None}, {"event": "dns_allowed"}])
def test_other_events_decide_nothing(record: dict[str, object]) -> None:
    assert _lines(record) == _lines()


def test_queries_that_did_not_leave_are_counted_and_the_others_are_not() -> None:
    lines = _lines(asked(), asked() | {"count": 41}, asked(event="dns_allowed"))
    assert lines == ["0 allowed, 0 blocked; records in /audit/a.jsonl", "42 DNS queries kept back"]
