"""The published example of a record, and what made it."""

from typing import Any, Final

from audit.record import EndedBy, Event, Phase, Record, closed, decision, query

PUBLISHED: Final = (
    '{"schema":"egress/v1","timestamp":"2026-11-23T07:15:02.123456Z","event":"egress_blocked","sandbox":"agent-1",'
    '"src_ip":"10.0.0.2","src_port":41234,"domain":"evil.example","domain_source":"tls_sni","dest_ip":"203.0.113.9",'
    '"dest_port":443,"upstream_ip":null,"proto":"tcp","app":"tls","layer":"proxy","rule":"deny_out[0] 0.0.0.0/0",'
    '"reason":"no_allow_entry","flow":"5f2c-18f3","generation":3,"writer":"b7e1-0","seq":1042}'
)

AT_NS: Final = 1_795_418_102_123_456_789
"""2026-11-23T07:15:02.123456789Z"""


def blocked(**other: Any) -> Record:
    """The published record, without what its writer adds."""
    arguments: dict[str, Any] = {
        "sandbox": "agent-1",
        "flow": "5f2c-18f3",
        "source": ("10.0.0.2", 41234),
        "dest": ("203.0.113.9", 443),
        "rule": "deny_out[0] 0.0.0.0/0",
        "reason": "no_allow_entry",
        "domain": "evil.example",
        "domain_source": "tls_sni",
        "app": "tls",
        "generation": 3,
    }
    arguments |= other
    return decision(AT_NS, Event.BLOCKED, **arguments)


def ended(**other: Any) -> Record:
    """The end of a connection that was allowed."""
    arguments: dict[str, Any] = {
        "decided": blocked() | {"event": Event.ALLOWED},
        "upstream_ip": "203.0.113.9",
        "bytes_up": 517,
        "bytes_down": 4096,
        "duration_ms": 12.3456789,
        "ended_by": EndedBy.CLIENT,
        "phase": Phase.RELAY,
    }
    arguments |= other
    return closed(AT_NS, **arguments)


def asked(**other: Any) -> Record:
    """A query that was answered by the gateway itself."""
    arguments: dict[str, Any] = {
        "event": Event.DNS_BLOCKED,
        "sandbox": "agent-1",
        "source": ("10.0.0.2", 41234),
        "dest": ("8.8.8.8", 53),
        "proto": "udp",
        "domain": "evil.example",
        "qtype": "A",
        "rule": "deny_out[0] 0.0.0.0/0",
        "reason": "no_allow_entry",
    }
    arguments |= other
    return query(AT_NS, **arguments)
