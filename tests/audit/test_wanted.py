"""Questions: times as people write them, and which records they want."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import orjson
import pytest

from audit.wanted import moment, wanted
from tests.audit.example import blocked

NOW_NS = 1_795_417_200 * 10**9  # 2026-11-23T07:00:00Z


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("1h", "2026-11-23T06:00:00.000000Z"),
        ("90s", "2026-11-23T06:58:30.000000Z"),
        ("7d", "2026-11-16T07:00:00.000000Z"),
        ("2w", "2026-11-09T07:00:00.000000Z"),
        ("999999999d", "1970-01-01T00:00:00.000000Z"),
        ("2026-11-23", "2026-11-23T00:00:00.000000Z"),
        ("2026-11-23 07:15", "2026-11-23T07:15:00.000000Z"),
        ("2026-11-23T07:15:02.5Z", "2026-11-23T07:15:02.500000Z"),
        ("2026-11-23T07:15:02+02:00", "2026-11-23T05:15:02.000000Z"),
        (datetime(2026, 11, 23, 7, tzinfo=UTC), "2026-11-23T07:00:00.000000Z"),
        (datetime(2026, 11, 23, 7, tzinfo=timezone(timedelta(hours=-1))), "2026-11-23T08:00:00.000000Z"),
        (datetime(2026, 11, 23, 7), "2026-11-23T07:00:00.000000Z"),
        ("0900-01-01", "0900-01-01T00:00:00.000000Z"),
        ("0001-01-01T00:00+01:00", "0001-01-01T00:00:00.000000Z"),
        ("9999-12-31T23:59-01:00", "9999-12-31T23:59:59.999999Z"),
    ],
)
def test_a_time_as_it_is_written(text: str | datetime, meant: str) -> None:
    assert moment(text, NOW_NS) == meant


@pytest.mark.parametrize("text", ["", "h", "1", "1y", "-1h", "yesterday", "2026-13-01", "\u0661h"])
def test_what_is_no_time_is_said_with_the_forms_there_are(text: str) -> None:
    with pytest.raises(ValueError, match="write 1h"):
        moment(text, NOW_NS)


def test_everything_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(ValueError, match=r"since.*; until.*; domain.*; ip.*; event"):
        wanted(since="x", until="y", domain="bücher.example", ip="z", event="egress")


RECORD = blocked() | {"domain": "a.evil.example", "dest_ip": "203.0.113.9", "upstream_ip": None}


@pytest.mark.parametrize(
    ("question", "matches"),
    [
        ({}, True),
        ({"sandbox": "agent-1"}, True),
        ({"sandbox": "agent"}, False),
        ({"event": "egress_blocked"}, True),
        ({"event": "egress_allowed"}, False),
        ({"domain": "a.evil.example"}, True),
        ({"domain": "A.EVIL.example"}, True),
        ({"domain": "A.EVIL.example."}, True),
        ({"domain": "*.EVIL.example."}, True),
        ({"domain": "a.evil.example.."}, False),
        ({"domain": "evil.example"}, False),
        ({"domain": "*.evil.example"}, True),
        ({"domain": "?.evil.*"}, True),
        ({"domain": "*.evil"}, False),
        ({"ip": "203.0.113.9"}, True),
        ({"ip": "203.0.113.0/24"}, True),
        ({"ip": "203.0.113.5/24"}, True),
        ({"ip": "203.0.114.0/24"}, False),
        ({"ip": "10.0.0.2"}, True),
        ({"ip": "::/0"}, False),
        ({"rule": "deny_out[0]"}, True),
        ({"rule": "deny_out[*] 0.0.0.0/0"}, True),
        ({"rule": "0.0.0.0"}, True),
        ({"rule": "deny_out[1]"}, False),
        ({"reason": "no_allow_entry"}, True),
        ({"reason": "no_allow"}, False),
    ],
)
def test_which_records_a_question_wants(question: dict[str, Any], matches: bool) -> None:
    asked = wanted(**question)
    line = orjson.dumps(RECORD)
    assert asked.test()(RECORD) is matches
    assert not matches or all(needle in line for needle in asked.needles())
    assert asked.test()({}) is (question == {})
    assert asked.test()({"domain": 7, "dest_ip": [], "rule": None}) is (question == {})
