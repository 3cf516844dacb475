"""The records, as mappings in the order of the published format. Pure: time comes in as nanoseconds."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

SCHEMA: Final = "egress/v1"
MAX_RAW_NAME: Final = 253
MAX_LINE_BYTES: Final = 4096
"""PIPE_BUF (limits.h): a line up to this length goes into a pipe whole or not at all."""

Record = dict[str, Any]


class Event(StrEnum):
    """What a record tells of."""

    __hash__ = str.__hash__  # an enum's own is written in Python, and each connection asks for some

    ALLOWED = "egress_allowed"
    BLOCKED = "egress_blocked"
    CLOSED = "egress_closed"
    DNS_ALLOWED = "dns_allowed"
    DNS_BLOCKED = "dns_blocked"
    LOST = "audit_lost"
    PRUNED = "audit_pruned"


class EndedBy(StrEnum):
    """Who or what ended an allowed connection."""

    __hash__ = str.__hash__  # an enum's own is written in Python, and each connection asks for some

    CLIENT = "client"
    UPSTREAM = "upstream"
    POLICY = "policy"
    LIMIT = "limit"
    TIMEOUT = "timeout"
    SHUTDOWN = "shutdown"
    ERROR = "error"


class Phase(StrEnum):
    """How far a connection had come."""

    __hash__ = str.__hash__  # an enum's own is written in Python, and each connection asks for some

    SNIFF = "sniff"
    DECIDE = "decide"
    RESOLVE = "resolve"
    CONNECT = "connect"
    RELAY = "relay"


class Cause(StrEnum):
    """Why files of records were removed."""

    AGE = "age"
    SHARE = "share"


class _Second:
    """The last that was put into words, as most are asked for many times."""

    __slots__ = ("worded",)

    def __init__(self) -> None:
        self.worded = (-1, b"")


_second: Final = _Second()
_THREE: Final = [b"%03d" % number for number in range(1000)]
_THREE_Z: Final = [digits + b"Z" for digits in _THREE]
"""Three digits. No format with a width on the path: compiled, that is a call of str.format."""


def timestamp(ns: int) -> str:
    """RFC 3339, UTC, microseconds, from nanoseconds since the epoch."""
    return moment(ns).decode()


def moment(ns: int) -> bytes:
    """``timestamp``, as a line has it."""
    us = ns // 1000
    seconds, us = us // 1_000_000, us % 1_000_000
    second, text = _second.worded
    if second != seconds:
        text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.").encode()
        _second.worded = (seconds, text)
    return b"%b%b%b" % (text, _THREE[us // 1000], _THREE_Z[us % 1000])


def printable(raw: bytes) -> str:
    """A name that is no hostname, escaped so that it can harm neither a terminal nor a log reader; no escape is cut in two."""
    shown: list[str] = []
    room = MAX_RAW_NAME
    for byte in raw[:MAX_RAW_NAME]:
        text = chr(byte) if 0x20 <= byte < 0x7F and byte != 0x5C else f"\\x{byte:02x}"
        room -= len(text)
        if room < 0:
            break
        shown.append(text)
    return "".join(shown)


def decision(
    ns: int,
    event: Event,
    *,
    sandbox: str,
    flow: str,
    source: tuple[str, int],
    dest: tuple[str | None, int],
    rule: str,
    reason: str,
    domain: str | None = None,
    domain_source: str | None = None,
    domain_raw: bytes = b"",
    upstream_ip: str | None = None,
    proto: str = "tcp",
    app: str | None = None,
    layer: str = "proxy",
    generation: int = 1,
    ech: bool = False,
    dest_mismatch: bool = False,
) -> Record:
    """``egress_allowed`` or ``egress_blocked``: one an attempt, when it is decided. Where a refusal stands for several, add ``count``, and ``dest``
    is None where they went to several places."""
    record: Record = {
        "schema": SCHEMA,
        "timestamp": timestamp(ns),
        "event": event,
        "sandbox": sandbox,
        "src_ip": source[0],
        "src_port": source[1],
        "domain": domain,
        "domain_source": domain_source,
        "dest_ip": dest[0],
        "dest_port": dest[1],
        "upstream_ip": upstream_ip,
        "proto": proto,
        "app": app,
        "layer": layer,
        "rule": rule[:1024],
        "reason": reason,
        "flow": flow,
        "generation": generation,
    }
    if domain_raw:
        record["domain_raw"] = printable(domain_raw)
    if ech:
        record["ech"] = True
    if dest_mismatch:
        record["dest_mismatch"] = True
    return record


def closed(
    ns: int,
    *,
    decided: Record,
    upstream_ip: str | None,
    domain: str | None = None,
    bytes_up: int,
    bytes_down: int,
    duration_ms: float,
    ended_by: EndedBy,
    phase: Phase,
) -> Record:
    """``egress_closed``: how the allowed connection that ``decided`` tells of ended. ``domain``: the name it showed, where none decided."""
    record = {
        name: decided[name]
        for name in (
            "schema",
            "timestamp",
            "event",
            "sandbox",
            "src_ip",
            "src_port",
            "domain",
            "dest_ip",
            "dest_port",
        )
    }
    record |= {
        "timestamp": timestamp(ns),
        "event": Event.CLOSED,
        "domain": decided["domain"] or domain,
        "upstream_ip": upstream_ip,
        "proto": decided["proto"],
        "flow": decided["flow"],
        "generation": decided["generation"],
        "bytes_up": bytes_up,
        "bytes_down": bytes_down,
        "duration_ms": round(duration_ms, 3),
        "ended_by": ended_by,
        "phase": phase,
    }
    return record


def query(
    ns: int,
    event: Event,
    *,
    sandbox: str,
    source: tuple[str, int],
    dest: tuple[str, int],
    proto: str,
    domain: str | None,
    qtype: str | None,
    rule: str,
    reason: str,
    domain_raw: bytes = b"",
    generation: int = 1,
) -> Record:
    """``dns_allowed`` or ``dns_blocked``: one a query. Where it stands for several that were decided alike, add ``count``."""
    record: Record = {
        "schema": SCHEMA,
        "timestamp": timestamp(ns),
        "event": event,
        "sandbox": sandbox,
        "src_ip": source[0],
        "src_port": source[1],
        "domain": domain,
        "qtype": qtype,
        "dest_ip": dest[0],
        "dest_port": dest[1],
        "proto": proto,
        "layer": "dns",
        "rule": rule[:1024],
        "reason": reason,
        "generation": generation,
    }
    if domain_raw:
        record["domain_raw"] = printable(domain_raw)
    return record


def lost(ns: int, count: int, sandbox: str | None = None) -> Record:
    """``audit_lost``: how many records could not be written."""
    return {
        "schema": SCHEMA,
        "timestamp": timestamp(ns),
        "event": Event.LOST,
        "sandbox": sandbox,
        "count": count,
    }


def pruned(
    ns: int, *, sandbox: str | None, cause: Cause, files: int, size: int, records: int, ended_ns: int
) -> Record:
    """``audit_pruned``: files that were removed, as too old or as more than their sandbox's share. ``ended_ns``: when the last was closed."""
    return {
        "schema": SCHEMA,
        "timestamp": timestamp(ns),
        "event": Event.PRUNED,
        "sandbox": sandbox,
        "cause": cause,
        "files": files,
        "bytes": size,
        "records": records,
        "until": timestamp(ended_ns),
    }
