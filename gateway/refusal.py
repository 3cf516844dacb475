"""What a refused client is told, in its own protocol. Pure: the same decision is always said the same way."""

import json
from typing import Final, Literal

from gateway.decide import Decision
from gateway.sniff.result import Refused, Sniffed

TLS_ACCESS_DENIED: Final = bytes((21, 3, 3, 0, 2, 2, 49))
"""RFC 8446 section 6: an alert record, fatal, access_denied."""

_HEAD: Final = (
    "HTTP/1.1 403 Forbidden\r\n"
    "Content-Type: application/json\r\n"
    "Content-Length: {length}\r\n"
    "Cache-Control: no-store\r\n"
    "Connection: close\r\n"
    "\r\n"
)


def refusal(seen: Sniffed | Refused | None, decision: Decision) -> bytes:
    """The bytes to send before closing; empty where the client's protocol has no word for it, and a reset must do."""
    app: Literal["tls", "http"] | None = seen.app if seen is not None else None
    if app == "tls":
        return TLS_ACCESS_DENIED
    if app == "http":
        return _forbidden(decision)
    return b""


def _forbidden(decision: Decision) -> bytes:
    """RFC 9110 section 15.5.4, with a body for the person who reads the log of the workload."""
    asked = decision.host or "a readable host name"
    body = {
        "error": "egress_blocked",
        "host": decision.host,
        "rule": decision.entry,
        "reason": str(decision.reason),
        "mend": f"ask whoever runs this sandbox to add {asked} to allow_out",
    }
    text = json.dumps(body).encode() + b"\n"
    return _HEAD.format(length=len(text)).encode() + text
