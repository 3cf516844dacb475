"""Queries on record: each, or their number."""

import asyncio
from ipaddress import ip_address

import pytest

from audit.claim import rebuilt
from gateway.dns.guard import BAD_NAME, BAD_QUERY, UNASKED, Question, Rule
from gateway.dns.records import QueryRecords
from gateway.flow import Endpoint
from gateway.sums import APART
from tests.gateway.dns.front import Sink
from tests.gateway.dns.queries import NO, YES

CLIENT = Endpoint(ip_address("192.0.0.2"), 41234)
RESOLVER = Endpoint(ip_address("8.8.8.8"), 53)
EVIL = Question("evil.example", b"", 1)
BURST = 500


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def _made() -> tuple[Sink, QueryRecords, Clock]:
    sink, clock = Sink(), Clock()
    return sink, QueryRecords(sink, "agent-1", RESOLVER, clock), clock


@pytest.mark.parametrize(
    ("rule", "question", "expected"),
    [
        (
            NO,
            EVIL,
            {
                "event": "dns_blocked",
                "domain": "evil.example",
                "qtype": "A",
                "rule": NO.entry,
                "reason": "no_allow_entry",
            },
        ),
        (
            YES,
            EVIL,
            {"event": "dns_allowed", "domain": "evil.example", "rule": YES.entry, "reason": "allowed_name"},
        ),
        (
            BAD_NAME,
            Question(None, b"a b\xff", 65),
            {
                "domain": None,
                "domain_raw": r"a b\xff",
                "qtype": "HTTPS",
                "rule": "unreadable",
                "reason": "bad_name",
            },
        ),
        (BAD_QUERY, UNASKED, {"domain": None, "qtype": None, "rule": "unreadable", "reason": "bad_query"}),
        (NO, Question("evil.example", b"", 65280), {"qtype": "TYPE65280"}),
        (NO, Question("evil.example", b"", 65535), {"qtype": "TYPE65535"}),
    ],
)
def test_one_query_is_one_line_that_the_keeper_takes(
    rule: Rule, question: Question, expected: dict[str, object]
) -> None:
    sink, records, _ = _made()
    records.note(rule, question, CLIENT, "udp")
    (record,) = sink.records
    assert expected.items() <= record.items()
    assert (record["src_ip"], record["src_port"], record["dest_ip"], record["dest_port"]) == (
        "192.0.0.2",
        41234,
        "8.8.8.8",
        53,
    )
    assert (record["proto"], record["layer"], record["sandbox"]) == ("udp", "dns", "agent-1")
    assert rebuilt(record, "agent-1") == record


async def test_a_flood_is_counted() -> None:
    sink, records, _ = _made()
    for _ in range(BURST + 1000):
        records.note(NO, EVIL, CLIENT, "udp")
    assert (len(sink.records), sink.held) == (BURST, 1000)
    records.flush()
    (total,) = sink.records[BURST:]
    assert (total["count"], total["domain"], total["qtype"]) == (1000, "evil.example", "A")
    assert rebuilt(total, "agent-1") == total
    records.flush()
    assert (len(sink.records), sink.held) == (BURST + 1, 0)


async def test_names_without_number_become_one_line_without_a_name() -> None:
    sink, records, _ = _made()
    for number in range(BURST + 3000):
        question = (
            Question(None, b"bad %d" % number, 1)
            if number % 3 == 0
            else Question(f"n{number}.example", b"", 1)
        )
        records.note(NO if number % 2 else BAD_NAME, question, CLIENT, "udp")
    records.flush()
    beyond = sink.records[BURST:]
    assert sum(record.get("count", 1) for record in beyond) == 3000
    assert len(beyond) <= APART + 2
    nameless = [record for record in beyond if record["domain"] is None]
    assert {(record["rule"], record["qtype"]) for record in nameless} == {
        (rule, qtype) for rule in (NO.entry, "unreadable") for qtype in ("A", None)
    }
    assert all(rebuilt(record, "agent-1") == record for record in beyond)


async def test_what_is_ones_own_is_not_said_of_many() -> None:
    """The first one's port, and its name as it was sent."""
    sink, records, _ = _made()
    for number in range(BURST + 2 * APART):
        records.note(BAD_NAME, Question(None, b"secret %d" % number, 1), CLIENT, "udp")
        records.note(NO, EVIL, CLIENT, "udp")
    records.flush()
    sums = [record for record in sink.records if "count" in record]
    assert {record["domain"] for record in sums} == {None, EVIL.name}
    assert {record["src_port"] for record in sums} == {0}
    assert not any("domain_raw" in record for record in sums)
    assert all(rebuilt(record, "agent-1") == record for record in sums)


async def test_sums_are_written_by_themselves_and_a_sum_of_one_is_a_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.sums.AGGREGATE_S", 0.05)
    sink, records, clock = _made()
    for _ in range(BURST + 1):
        records.note(NO, EVIL, CLIENT, "udp")
    await asyncio.sleep(0.15)
    assert len(sink.records) == BURST + 1
    assert "count" not in sink.records[-1]
    clock.now += 1
    for _ in range(6):
        records.note(NO, EVIL, CLIENT, "udp")
    assert len(sink.records) == BURST + 6, "with time, lines of their own again"
    await asyncio.sleep(0.15)
    assert len(sink.records) == BURST + 7


async def test_long_names_fill_the_budget_sooner() -> None:
    sink, records, _ = _made()
    for number in range(400):
        records.note(NO, Question(f"{number:050}." + "a." * 90 + "example", b"", 16), CLIENT, "udp")
    assert len(sink.records) < 150
    records.flush()
    assert sum(record.get("count", 1) for record in sink.records) == 400


def test_what_is_about_to_leave_is_taken_at_once_or_not_at_all() -> None:
    sink, records, _ = _made()
    assert records.offer(YES, EVIL, CLIENT, "tcp")
    sink.full = True
    assert not records.offer(YES, EVIL, CLIENT, "tcp")
    assert len(sink.records) == 1
