"""The JSON Schema of policy files, generated from the policy's own words. ``rules/policy.schema.json`` is its
output.

A schema cannot say the whole grammar of an entry: an editor learns here which keys there are and what they
take, and ``egress policy validate`` says the rest.
"""

from typing import Any, Final

from rules.entry import ALL_TRAFFIC
from rules.policy import DEFAULT_RESOLVER, DNS_MODES, ECH_MODES

_ENTRY_TEXT: Final = (
    "A name (api.openai.com), a wildcard (*.openai.com), an RE2 regular expression (~PATTERN), an address or a network; "
    f"ports behind a colon (:443,8443), IPv6 then in brackets. {ALL_TRAFFIC} is everything, of both families."
)


def policy_schema() -> dict[str, Any]:
    """Return the schema as plain data (JSON Schema 2020-12)."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "egress policy",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "network": {
                "description": "What may leave. null or absent: everything, still recorded.",
                "anyOf": [{"type": "null"}, {"$ref": "#/$defs/network"}],
            },
            "audit": {"$ref": "#/$defs/audit"},
        },
        "$defs": {"network": _network(), "audit": _audit(), "entry": _entry()},
    }


def _network() -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "allow_out": _entries("What may leave. An allow beats a deny, whatever their order."),
            "deny_out": _entries(
                f"What may not. [{ALL_TRAFFIC!r}] makes allow_out the list of all that may."
            ),
            "dns": {
                "description": "What DNS answers for names that the policy does not allow.",
                "enum": list(DNS_MODES),
                "default": DNS_MODES[0],
            },
            "resolver": {
                "description": "The address of the DNS server.",
                "type": "string",
                "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}],
                "default": DEFAULT_RESOLVER,
            },
            "ech": {
                "description": "Whether a hello with Encrypted Client Hello may pass by its outer name.",
                "enum": list(ECH_MODES),
                "default": ECH_MODES[0],
            },
        },
    }


def _entries(text: str) -> dict[str, Any]:
    return {"description": text, "type": "array", "items": {"$ref": "#/$defs/entry"}, "default": []}


def _entry() -> dict[str, Any]:
    return {"description": _ENTRY_TEXT, "type": "string", "minLength": 1}


def _audit() -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "enabled": {"description": "Whether attempts are recorded.", "type": "boolean", "default": True}
        },
    }
