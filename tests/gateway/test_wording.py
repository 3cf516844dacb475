"""What is written of a connection by itself, not once for many."""

from pathlib import Path

import orjson
import pytest

from audit.brief import FORMS
from gateway.decide import Decision, compile_policy
from gateway.flow import Endpoint, Flow, met
from gateway.net.sockets import destination
from gateway.rulings import Rulings
from gateway.sniff.result import Sniffed
from gateway.wording import milliseconds
from rules import ALL_TRAFFIC, NetworkPolicy
from tests.gateway.journal_desk import Desk


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0.0"),
        (999, "0.0"),
        (1_000, "0.001"),
        (10_000, "0.01"),
        (1_500_000, "1.5"),
        (2_000_000, "2.0"),
        (86_400_123_456_789, "86400123.456"),
    ],
)
def test_milliseconds_are_written_as_json_writes_them(ns: int, text: str) -> None:
    assert milliseconds(ns) == text.encode() == orjson.dumps(ns // 1000 / 1000)


@pytest.mark.parametrize("others", [1, FORMS // 2, FORMS // 2 + 1, FORMS - 1, FORMS, FORMS + 1, 2 * FORMS])
def test_a_wording_that_the_keeper_has_forgotten_is_worded_anew(tmp_path: Path, others: int) -> None:
    """One decision may have many wordings, one after the other: by destination where none is named, by what was shown where one is."""
    desk = Desk(tmp_path, slots=8)
    rulings = Rulings(
        compile_policy(NetworkPolicy(allow_out=["203.0.113.9", "a.example.com"], deny_out=[ALL_TRAFFIC])),
        frozenset(),
    )
    named = destination(("203.0.113.10", 443))
    count = 0

    def connect(dest: Endpoint, seen: Sniffed | None) -> None:
        nonlocal count
        count += 1
        flow = Flow(f"ab-{count:x}", "agent-1", Endpoint(met("10.0.0.2"), 40000), dest, "tcp")
        attempt = desk.open(flow)
        made: Decision | None = rulings.settle(flow)
        if made is None:
            made = rulings.bind(rulings.decide(flow, seen), flow, (dest.ip,))
        assert attempt.offered(made, seen)
        attempt.__exit__(None, None, None)
        if count % 50 == 0:
            desk.keep()

    for _ in range(2):
        connect(destination(("203.0.113.9", 443)), None)
        for number in range(others):
            connect(named, Sniffed(("tls", "http")[number % 2], "a.example.com"))
    records = desk.records()
    assert {record["event"] for record in records} == {"egress_allowed", "egress_closed"}
    decided = [record for record in records if record["event"] == "egress_allowed"]
    assert {record["flow"] for record in decided} == {f"ab-{number:x}" for number in range(1, count + 1)}
    assert {record["dest_ip"] for record in decided if record["domain"] is None} == {"203.0.113.9"}
    desk.close()
