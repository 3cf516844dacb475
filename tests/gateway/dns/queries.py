"""Queries as a sandbox may send them: by the octet, since what dnspython would not write is what an attacker does."""

import struct
from typing import Final

from gateway.addresses import AddressKind, classify
from gateway.dns.guard import Guard, Rule
from gateway.flow import IPAddress
from gateway.reasons import Reason

A, NS, CNAME, SOA, TXT, AAAA, OPT, SVCB, HTTPS, IXFR, AXFR, ANY = (
    1,
    2,
    5,
    6,
    16,
    28,
    41,
    64,
    65,
    251,
    252,
    255,
)
ID: Final = 0x1234
RD: Final = 0x0100
ALLOWED: Final = "api.openai.com"
OTHER: Final = "evil.example"
ECH: Final = (
    "ech=AEX+DQBBpQAgACB/RU5hAC5mXe3uOZtNY58Bc8UU1cd4QBxQzqirMlWZeQAEAAEAAQASY2xvdWRmbGFyZS1lY2guY29tAAA="
)
"""A well-formed ECHConfigList (RFC 9849 section 4)."""


def name(text: str) -> bytes:
    """Labels of ``text``, split at dots."""
    return (
        b"".join(bytes((len(label),)) + label.encode("latin-1") for label in text.split(".") if label) + b"\0"
    )


def query(
    host: str | bytes = ALLOWED,
    qtype: int = A,
    *,
    qclass: int = 1,
    flags: int = RD,
    counts: tuple[int, int, int, int] = (1, 0, 0, 0),
    rest: bytes = b"",
    edns: bytes | None = None,
    payload: int = 1232,
    ttl: int = 0,
) -> bytes:
    """One query; ``edns`` is the OPT record's data, None for no such record."""
    labels = name(host) if isinstance(host, str) else host
    if edns is not None:
        counts = (*counts[:3], 1)
        rest += b"\0" + struct.pack("!HHIH", OPT, payload, ttl, len(edns)) + edns
    return struct.pack("!6H", ID, flags, *counts) + labels + struct.pack("!HH", qtype, qclass) + rest


def option(code: int, data: bytes) -> bytes:
    """One EDNS option (RFC 6891 section 6.1.2)."""
    return struct.pack("!HH", code, len(data)) + data


YES: Final = Rule(True, f"allow_out[0] {ALLOWED}", Reason.ALLOWED_NAME)
NO: Final = Rule(False, "deny_out[0] 0.0.0.0/0", Reason.NO_ALLOW_ENTRY)


def rule(host: str) -> Rule:
    """A policy that allows one name, what is below another, and one of a single label."""
    return YES if host in (ALLOWED, "localhost") or host.endswith(".anthropic.com") else NO


def public(ip: IPAddress) -> bool:
    """No address of the floor, and no private one."""
    return classify(ip) is AddressKind.PUBLIC


def guard(mode: str = "guarded", *, forwards_all: bool = False, ipv6: bool = True) -> Guard:
    """Of the policy above."""
    return Guard(mode, rule, public, forwards_all=forwards_all, ipv6=ipv6)
