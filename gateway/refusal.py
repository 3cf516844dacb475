"""What a refused client is told, in its own protocol. Pure: the same decision is always said the same way."""

import json
from typing import Final, Literal

from gateway.decide import Decision
from gateway.reasons import Reason
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
    body = {
        "error": "egress_blocked",
        "host": decision.host,
        "rule": decision.entry,
        "reason": str(decision.reason),
        "mend": _mend(decision),
    }
    text = json.dumps(body).encode() + b"\n"
    return _HEAD.format(length=len(text)).encode() + text


def _mend(decision: Decision) -> str:
    """What would help, and nothing that would not."""
    match decision.reason:
        case Reason.NO_ALLOW_ENTRY | Reason.DENIED_ADDRESS | Reason.DENIED_NAME if decision.host:
            return f"ask whoever runs this sandbox to add {decision.host} to allow_out"
        case Reason.RESOLVE_FAILED | Reason.RESOLVE_TIMEOUT:
            return "the name may be reached, but has no address in DNS now: try again later"
        case Reason.FORBIDDEN_ANSWER:
            return "the name leads to private or reserved addresses only: a private one needs an IP entry in allow_out too"
        case Reason.PORT_MISMATCH:
            return "the port in Host must be the port that is connected to"
        case _ if decision.entry == "unreadable":
            return "send one well-formed HTTP/1.1 request whose Host is a host name"
        case _:
            return "try again later"
