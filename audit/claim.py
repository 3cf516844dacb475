"""What a sender that is not trusted may put on record: lines of the published events, in their order, and nothing else.

The process that decides reads what a workload sends. If it is taken over it may still write what it likes into its own pipe: so a line is rebuilt
here field by field. Whose record it is, the schema and the numbering are the keeper's to say, never the sender's.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

from audit.record import MAX_LINE_BYTES, MAX_RAW_NAME, SCHEMA, Cause, EndedBy, Event, Phase, Record

MAX_RULE: Final = 1024
MAX_COUNT: Final = 2**53
"""Beyond it a JSON number is no longer exact for every reader (RFC 8259 section 6)."""

Check = Callable[[Any], bool]

_timestamp = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII).fullmatch
_address = re.compile(r"[0-9a-f:.]{2,45}").fullmatch
_word = re.compile(r"[a-z0-9_]{1,32}").fullmatch
_qtype = re.compile(r"[A-Z0-9-]{1,24}").fullmatch
_flow = re.compile(r"[0-9a-f-]{1,64}").fullmatch


def _text(most: int) -> Check:
    return lambda value: isinstance(value, str) and len(value) <= most and value.isprintable()


def _like(matches: Callable[[str], object]) -> Check:
    return lambda value: isinstance(value, str) and bool(matches(value))


def _number(least: int, most: int) -> Check:
    return lambda value: type(value) is int and least <= value <= most


def _either(*values: object) -> Check:
    return lambda value: (value is None or isinstance(value, str)) and value in values


def _or_null(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _true(value: object) -> bool:
    return value is True


def _duration(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value < MAX_COUNT  # type: ignore[operator]  # a number by then


_PORT = _number(0, 0xFFFF)
_NAME = _or_null(_text(MAX_RAW_NAME))
_ADDRESS = _like(_address)
_BYTES = _number(0, MAX_COUNT)

_WHO: Final[dict[str, Check]] = {"src_ip": _ADDRESS, "src_port": _PORT}
_WHERE: Final[dict[str, Check]] = {
    "dest_ip": _ADDRESS,
    "dest_port": _PORT,
    "upstream_ip": _or_null(_ADDRESS),
    "proto": _like(_word),
}
_DECISION: Final[dict[str, Check]] = {
    **_WHO,
    "domain": _NAME,
    "domain_source": _either(None, "tls_sni", "http_host", "dns"),
    **_WHERE,
    "app": _or_null(_like(_word)),
    "layer": _either("proxy", "kernel", "dns"),
    "rule": _text(MAX_RULE),
    "reason": _like(_word),
    "flow": _like(_flow),
    "generation": _number(0, MAX_COUNT),
}
_CLOSED: Final[dict[str, Check]] = {
    **_WHO,
    "domain": _NAME,
    **_WHERE,
    "flow": _like(_flow),
    "generation": _number(0, MAX_COUNT),
    "bytes_up": _BYTES,
    "bytes_down": _BYTES,
    "duration_ms": _duration,
    "ended_by": _either(*EndedBy),
    "phase": _either(*Phase),
}
_QUERY: Final[dict[str, Check]] = {
    **_WHO,
    "domain": _NAME,
    "qtype": _or_null(_like(_qtype)),
    "dest_ip": _ADDRESS,
    "dest_port": _PORT,
    "proto": _like(_word),
    "layer": _either("dns"),
    "rule": _text(MAX_RULE),
    "reason": _like(_word),
    "generation": _number(0, MAX_COUNT),
}
REQUIRED: Final[Mapping[str, Mapping[str, Check]]] = {
    Event.ALLOWED: _DECISION,
    Event.BLOCKED: {**_DECISION, "dest_ip": _or_null(_ADDRESS)},
    Event.CLOSED: _CLOSED,
    Event.DNS_ALLOWED: _QUERY,
    Event.DNS_BLOCKED: _QUERY,
    Event.LOST: {"count": _number(1, MAX_COUNT)},
    Event.PRUNED: {
        "cause": _either(*Cause),
        "files": _number(1, MAX_COUNT),
        "bytes": _BYTES,
        "records": _BYTES,
        "until": _like(_timestamp),
    },
}
"""The fields of each event after schema, timestamp, event and sandbox, in the order of the published format."""

_OF_DECISION: Final[dict[str, Check]] = {
    "domain_raw": _text(MAX_RAW_NAME),
    "ech": _true,
    "dest_mismatch": _true,
}
_OF_QUERY: Final[dict[str, Check]] = {"domain_raw": _text(MAX_RAW_NAME), "count": _number(1, MAX_COUNT)}
OPTIONAL: Final[Mapping[str, Mapping[str, Check]]] = {
    Event.ALLOWED: _OF_DECISION,
    Event.BLOCKED: {**_OF_DECISION, "count": _number(1, MAX_COUNT)},
    Event.DNS_ALLOWED: _OF_QUERY,
    Event.DNS_BLOCKED: _OF_QUERY,
}
"""Those that an event has only where there is something to say."""

KEEPERS_OWN: Final = frozenset((Event.PRUNED,))
"""What no sender may say."""
_SET_BY_KEEPER: Final = frozenset(("schema", "sandbox", "writer", "seq"))
_COMMON: Final = frozenset(("timestamp", "event"))


def record_of(line: bytes, sandbox: str) -> Record | None:
    """The record that ``line`` holds, as one of ``sandbox``; None where it holds none. No bytes raise."""
    if len(line) > MAX_LINE_BYTES:
        return None
    try:
        claim = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return rebuilt(claim, sandbox) if isinstance(claim, dict) else None


def rebuilt(claim: Mapping[str, Any], sandbox: str) -> Record | None:
    """``claim`` in the published form, under ``sandbox``; None where a field is missing, foreign, or not of its kind."""
    event, moment = claim.get("event"), claim.get("timestamp")
    required = REQUIRED.get(event) if isinstance(event, str) and event not in KEEPERS_OWN else None
    if required is None or not (isinstance(moment, str) and _timestamp(moment)):
        return None
    optional = OPTIONAL.get(str(event), {})
    record: Record = {"schema": SCHEMA, "timestamp": moment, "event": str(event), "sandbox": sandbox}
    for name, check in required.items():
        if name not in claim or not check(claim[name]):
            return None
        record[name] = claim[name]
    for name, check in optional.items():
        if name in claim:
            if not check(claim[name]):
                return None
            record[name] = claim[name]
    foreign = claim.keys() - record.keys() - _SET_BY_KEEPER - _COMMON
    return None if foreign else record
