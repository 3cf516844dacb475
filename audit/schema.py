"""The published form of every record, as JSON Schema (draft 2020-12). Pure."""

from typing import Any, Final

from audit.record import SCHEMA, Cause, EndedBy, Event, Phase

Schema = dict[str, Any]

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_TIMESTAMP: Final = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$"}
_ADDRESS: Final = {"type": "string", "pattern": "^[0-9a-f:.]{2,45}$"}
_PORT: Final = {"type": "integer", "minimum": 0, "maximum": 65535}
_COUNT: Final = {"type": "integer", "minimum": 1}
_NUMBER: Final = {"type": "integer", "minimum": 0}
_WORD: Final = {"type": "string", "pattern": "^[a-z0-9_]{1,32}$"}
_NAME: Final = {"type": ["string", "null"], "maxLength": 253}
_TEXT: Final = {"type": "string", "maxLength": 1024}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


FIELDS: Final[dict[str, Schema]] = {
    "schema": {"const": SCHEMA},
    "timestamp": _TIMESTAMP,
    "event": {"enum": [str(event) for event in Event]},
    "sandbox": {"type": ["string", "null"], "maxLength": 128},
    "src_ip": _ADDRESS,
    "src_port": _PORT,
    "domain": _NAME,
    "domain_source": {"enum": ["tls_sni", "http_host", "dns", None]},
    "qtype": _or_null({"type": "string", "pattern": "^[A-Z0-9-]{1,24}$"}),
    "dest_ip": _or_null(_ADDRESS),
    "dest_port": _PORT,
    "upstream_ip": _or_null(_ADDRESS),
    "proto": _WORD,
    "app": _or_null(_WORD),
    "layer": {"enum": ["proxy", "kernel", "dns"]},
    "rule": _TEXT,
    "reason": _WORD,
    "flow": {"type": "string", "pattern": "^[0-9a-f-]{1,64}$"},
    "generation": _NUMBER,
    "domain_raw": {"type": "string", "maxLength": 253},
    "ech": {"const": True},
    "dest_mismatch": {"const": True},
    "bytes_up": _NUMBER,
    "bytes_down": _NUMBER,
    "duration_ms": {"type": "number", "minimum": 0},
    "ended_by": {"enum": [str(word) for word in EndedBy]},
    "phase": {"enum": [str(word) for word in Phase]},
    "count": _COUNT,
    "cause": {"enum": [str(word) for word in Cause]},
    "files": _COUNT,
    "bytes": _NUMBER,
    "records": _NUMBER,
    "until": _TIMESTAMP,
    "writer": {"type": "string", "pattern": "^[0-9a-f]+-[0-9a-f]+$"},
    "seq": _NUMBER,
}

_WHO: Final = ("src_ip", "src_port")
_DECISION: Final = (
    *(*_WHO, "domain", "domain_source", "dest_ip", "dest_port", "upstream_ip", "proto", "app", "layer"),
    *("rule", "reason", "flow", "generation"),
)
_QUERY: Final = (
    *(*_WHO, "domain", "qtype", "dest_ip", "dest_port", "proto", "layer", "rule", "reason", "generation"),
)
_CLOSED: Final = (
    *(*_WHO, "domain", "dest_ip", "dest_port", "upstream_ip", "proto", "flow", "generation"),
    *("bytes_up", "bytes_down", "duration_ms", "ended_by", "phase"),
)
_OF_DECISION: Final = ("domain_raw", "ech", "dest_mismatch")
REQUIRED: Final[dict[Event, tuple[str, ...]]] = {
    Event.ALLOWED: _DECISION,
    Event.BLOCKED: _DECISION,
    Event.CLOSED: _CLOSED,
    Event.DNS_ALLOWED: _QUERY,
    Event.DNS_BLOCKED: _QUERY,
    Event.LOST: ("count",),
    Event.PRUNED: ("cause", "files", "bytes", "records", "until"),
}
OPTIONAL: Final[dict[Event, tuple[str, ...]]] = {
    Event.ALLOWED: _OF_DECISION,
    Event.BLOCKED: (*_OF_DECISION, "count"),
    Event.DNS_ALLOWED: ("domain_raw", "count"),
    Event.DNS_BLOCKED: ("domain_raw", "count"),
}
COMMON: Final = ("schema", "timestamp", "event", "sandbox", "writer", "seq")


def json_schema() -> Schema:
    """Of one line. A reader must pass over fields and events that it does not know: within ``egress/v1`` they may be added; this schema is of this
    version, and knows them all."""
    return {
        "$schema": _DIALECT,
        "$id": f"urn:{SCHEMA.replace('/', ':')}:record",
        "title": f"One line of egress-*.jsonl ({SCHEMA})",
        "oneOf": [{"$ref": f"#/$defs/{event}"} for event in Event],
        "$defs": {str(event): _of(event) for event in Event},
    }


def _of(event: Event) -> Schema:
    required, optional = REQUIRED[event], OPTIONAL.get(event, ())
    properties = {name: FIELDS[name] for name in (*COMMON, *required, *optional)}
    properties["event"] = {"const": str(event)}
    if event is not Event.BLOCKED:
        for name in ("dest_ip",):
            if name in properties:
                properties[name] = _ADDRESS
    return {
        "type": "object",
        "properties": properties,
        "required": [*COMMON, *required],
        "additionalProperties": False,
    }
