"""What a record is in other words: JSON Schema, OCSF, sums, the page."""

import re
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from audit.claim import OPTIONAL, REQUIRED
from audit.ocsf import to_ocsf
from audit.page import page
from audit.record import Cause, Event, Record, lost, pruned
from audit.schema import FIELDS, json_schema
from audit.schema import OPTIONAL as SCHEMA_OPTIONAL
from audit.schema import REQUIRED as SCHEMA_REQUIRED
from audit.stats import DISTINCT, OTHERS, add_up
from tests.audit.example import AT_NS, asked, blocked, ended

VALIDATOR = Draft202012Validator(json_schema())
KEPT = {"writer": "b7e1-0", "seq": 1042}
RECORDS: dict[str, Record] = {
    "allowed": blocked() | {"event": Event.ALLOWED, "upstream_ip": "203.0.113.9"} | KEPT,
    "blocked": blocked() | KEPT,
    "closed": ended() | KEPT,
    "asked": asked() | KEPT,
    "a sum": blocked() | {"count": 3, "dest_ip": None, "dest_port": 0} | KEPT,
    "lost": lost(AT_NS, 7, "agent-1") | KEPT,
    "pruned": pruned(AT_NS, sandbox=None, cause=Cause.AGE, files=1, size=2, records=3, ended_ns=AT_NS) | KEPT,
}


def test_the_schema_is_a_schema_and_says_what_the_keeper_takes() -> None:
    Draft202012Validator.check_schema(json_schema())
    for event in Event:
        assert tuple(REQUIRED[event]) == SCHEMA_REQUIRED[event]
        assert tuple(OPTIONAL.get(event, ())) == SCHEMA_OPTIONAL.get(event, ())


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_every_kind_of_record_is_of_the_schema(record: Record) -> None:
    assert list(VALIDATOR.iter_errors(record)) == []


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_what_is_missing_foreign_or_of_another_kind_is_not(record: Record) -> None:
    optional = {name for names in SCHEMA_OPTIONAL.values() for name in names}
    for name in record:
        spoilt = {key: value for key, value in record.items() if key != name}
        assert VALIDATOR.is_valid(spoilt) is (
            name in optional and name not in SCHEMA_REQUIRED[record["event"]]
        ), name
        assert not VALIDATOR.is_valid(record | {name: {"an": "object"}}), name
    assert not VALIDATOR.is_valid(record | {"body": "x"})


def test_each_field_is_used() -> None:
    used = {name for event in Event for name in (*SCHEMA_REQUIRED[event], *SCHEMA_OPTIONAL.get(event, ()))}
    assert set(FIELDS) == used | {"schema", "timestamp", "event", "sandbox", "writer", "seq"}


def test_a_refusal_in_ocsf() -> None:
    made = to_ocsf(RECORDS["blocked"])
    assert made == {
        "class_uid": 4001,
        "class_name": "Network Activity",
        "category_uid": 4,
        "category_name": "Network Activity",
        "activity_id": 5,
        "activity_name": "Refuse",
        "type_uid": 400105,
        "severity_id": 1,
        "severity": "Informational",
        "time": 1795418102123,
        "metadata": {
            "version": "1.3.0",
            "product": {"name": "egress-gateway", "vendor_name": "egress-gateway"},
            "profiles": ["security_control"],
            "uid": "b7e1-0-1042",
            "original_time": "2026-11-23T07:15:02.123456Z",
            "sequence": 1042,
        },
        "connection_info": {
            "direction_id": 2,
            "direction": "Outbound",
            "protocol_name": "tcp",
            "protocol_num": 6,
            "uid": "5f2c-18f3",
        },
        "src_endpoint": {"ip": "10.0.0.2", "port": 41234, "instance_uid": "agent-1"},
        "dst_endpoint": {"ip": "203.0.113.9", "port": 443, "hostname": "evil.example"},
        "action_id": 2,
        "action": "Denied",
        "disposition_id": 2,
        "disposition": "Blocked",
        "status_id": 2,
        "status": "Failure",
        "status_detail": "no_allow_entry",
        "firewall_rule": {"name": "deny_out[0] 0.0.0.0/0"},
        "unmapped": {
            "schema": "egress/v1",
            "reason": "no_allow_entry",
            "rule": "deny_out[0] 0.0.0.0/0",
            "layer": "proxy",
            "app": "tls",
            "domain_source": "tls_sni",
            "generation": 3,
        },
    }


def test_the_others_in_ocsf() -> None:
    made = {title: to_ocsf(record) for title, record in RECORDS.items()}
    assert {title: one["type_uid"] for title, one in made.items()} == {
        "allowed": 400101,
        "blocked": 400105,
        "closed": 400102,
        "asked": 400301,
        "a sum": 400105,
        "lost": 99,
        "pruned": 99,
    }
    assert (made["allowed"]["action_id"], made["allowed"]["disposition_id"]) == (1, 1)
    closed = made["closed"]
    record = RECORDS["closed"]
    assert closed["traffic"]["bytes"] == record["bytes_up"] + record["bytes_down"]
    assert closed["end_time"] - closed["start_time"] == closed["duration"] == round(record["duration_ms"])
    assert "action_id" not in closed
    assert made["asked"]["query"]["hostname"] == RECORDS["asked"]["domain"]
    assert made["a sum"]["count"] == 3
    assert "ip" not in made["a sum"]["dst_endpoint"]
    assert made["lost"]["count"] == 7
    assert made["pruned"]["unmapped"]["cause"] == "age"


def test_sums_are_of_attempts_and_not_of_lines() -> None:
    stats = add_up(RECORDS.values())
    assert stats.records == len(RECORDS)
    assert stats.events["egress_blocked"] == 1 + 3
    assert stats.blocked == {"evil.example": 1 + 3}
    assert stats.lost == 7
    assert stats.sandboxes["agent-1"] == {"allowed": 1, "blocked": 4}
    assert stats.hours == {"2026-11-23T07": {"allowed": 1, "blocked": 4}}
    assert (stats.bytes_up, stats.bytes_down) == (
        RECORDS["closed"]["bytes_up"],
        RECORDS["closed"]["bytes_down"],
    )


def test_names_without_end_are_counted_together() -> None:
    record = RECORDS["blocked"]
    stats = add_up(record | {"domain": f"{number}.test"} for number in range(DISTINCT + 5))
    assert len(stats.blocked) == DISTINCT + 1
    assert stats.blocked[OTHERS] == 5


HOSTILE = "</title><script>alert(1)</script><img src=x onerror=alert(1)>\"'&"


def test_the_page_shows_names_as_text_and_loads_nothing() -> None:
    records: list[dict[str, Any]] = [
        record | {"domain": HOSTILE, "sandbox": HOSTILE, "rule": HOSTILE, "reason": HOSTILE}
        for record in RECORDS.values()
    ]
    records.append(RECORDS["blocked"] | {"timestamp": HOSTILE})
    made = page(add_up(records), HOSTILE)
    assert "<script" not in made and "<img" not in made and "onerror=alert(1)&gt;" in made
    assert not re.search(r"<[^>]*\b(src|href)\s*=|url\(|@import|https?:", made)
    assert "default-src 'none'" in made
    assert made.count("<svg") <= 1


def test_the_page_of_nothing() -> None:
    assert "no records" in page(add_up([]))
