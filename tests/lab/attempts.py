"""What a sandbox tries, what it must see, what must be on record, and what may arrive: as data.

``make demo`` shows them; tests run the same table.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.lab.lab import Lab
from tests.lab.places import (
    APEX_IP,
    ATTACKER_IP,
    BLOCKED_IP,
    BLOCKED_IP6,
    GOOD_IP,
    HOSTILE,
    METADATA_IP,
    WILD_IP,
)
from tests.lab.sandboxed import Outcome, egress_run

ALLOW = ("allowed.test", "*.wild.test")
"""The policy of every attempt; without a deny entry, ``egress run`` denies the rest."""
FORBIDDEN = HOSTILE | {BLOCKED_IP, BLOCKED_IP6, APEX_IP}
"""Not one packet may go there, whatever is tried."""

BY_EXACT = {"event": "egress_allowed", "rule": "allow_out[0] allowed.test", "reason": "allowed_name"}
BY_WILDCARD = {"event": "egress_allowed", "rule": "allow_out[1] *.wild.test", "reason": "allowed_name"}
NOT_LISTED = {"event": "egress_blocked", "rule": "deny_out[0] 0.0.0.0/0", "reason": "no_allow_entry"}
UNREADABLE = {"event": "egress_blocked", "rule": "unreadable", "domain": None}

TLS_REFUSED = "TLS alert access_denied"
RESET = "connection reset"


@dataclass(frozen=True)
class Attempt:
    """One try of curl: ``describe`` must say ``seen``, and the one decision must hold ``record``."""

    title: str
    arguments: tuple[str, ...]
    seen: str
    record: Mapping[str, Any] = field(default_factory=dict)
    arrives: str | None = None
    """The only address that a connection may reach; None for nowhere."""
    resolves: str | None = None
    """The only name that a DNS query may leave for."""

    @property
    def command(self) -> list[str]:
        """The command line inside the sandbox."""
        return ["curl", "-sS", "--max-time", "30", "-w", r"\n%{http_code}", *self.arguments]


ATTEMPTS = (
    Attempt(
        "allowed host",
        ("https://allowed.test/",),
        f"200 from {GOOD_IP}",
        {
            **BY_EXACT,
            "domain": "allowed.test",
            "domain_source": "tls_sni",
            "app": "tls",
            "upstream_ip": GOOD_IP,
        },
        arrives=GOOD_IP,
        resolves="allowed.test",
    ),
    Attempt(
        "wildcard host",
        ("https://api.wild.test/",),
        f"200 from {WILD_IP}",
        {**BY_WILDCARD, "domain": "api.wild.test", "domain_source": "tls_sni", "upstream_ip": WILD_IP},
        arrives=WILD_IP,
        resolves="api.wild.test",
    ),
    Attempt(
        "wildcard's apex",
        ("https://wild.test/",),
        TLS_REFUSED,
        {**NOT_LISTED, "domain": "wild.test", "upstream_ip": None},
    ),
    Attempt(
        "blocked host",
        ("https://blocked.test/",),
        TLS_REFUSED,
        {**NOT_LISTED, "domain": "blocked.test", "dest_port": 443, "upstream_ip": None},
    ),
    Attempt(
        "blocked host, plain HTTP",
        ("http://blocked.test/",),
        "403 no_allow_entry",
        {**NOT_LISTED, "domain": "blocked.test", "domain_source": "http_host", "app": "http"},
    ),
    Attempt(
        "blocked raw IP",
        ("--insecure", f"https://{ATTACKER_IP}/"),
        TLS_REFUSED,
        {**UNREADABLE, "reason": "no_name", "dest_ip": ATTACKER_IP, "dest_port": 443},
    ),
    Attempt(
        "blocked raw IP, plain HTTP",
        (f"http://{ATTACKER_IP}/",),
        "403 bad_name",
        {**UNREADABLE, "reason": "bad_name", "dest_ip": ATTACKER_IP, "dest_port": 80},
    ),
    Attempt(
        "metadata address",
        (f"http://{METADATA_IP}/latest/meta-data/",),
        RESET,
        {
            "event": "egress_blocked",
            "rule": "floor",
            "reason": "floor",
            "dest_ip": METADATA_IP,
            "domain": None,
        },
    ),
    Attempt(
        "allowed SNI to the attacker",
        ("--connect-to", f"allowed.test:443:{ATTACKER_IP}:443", "https://allowed.test/"),
        f"200 from {GOOD_IP}",
        {
            **BY_EXACT,
            "domain": "allowed.test",
            "dest_ip": ATTACKER_IP,
            "upstream_ip": GOOD_IP,
            "dest_mismatch": True,
        },
        arrives=GOOD_IP,
        resolves="allowed.test",
    ),
    Attempt(
        "forged Host to the attacker",
        ("--connect-to", f"allowed.test:80:{ATTACKER_IP}:80", "http://allowed.test/"),
        f"200 from {GOOD_IP}",
        {
            **BY_EXACT,
            "domain_source": "http_host",
            "dest_ip": ATTACKER_IP,
            "upstream_ip": GOOD_IP,
            "dest_mismatch": True,
        },
        arrives=GOOD_IP,
        resolves="allowed.test",
    ),
    Attempt(
        "forbidden SNI to an allowed address",
        ("--connect-to", f"blocked.test:443:{GOOD_IP}:443", "https://blocked.test/"),
        TLS_REFUSED,
        {**NOT_LISTED, "domain": "blocked.test", "dest_ip": GOOD_IP},
    ),
    Attempt(
        "forbidden Host to an allowed address",
        ("--connect-to", f"blocked.test:80:{GOOD_IP}:80", "http://blocked.test/"),
        "403 no_allow_entry",
        {**NOT_LISTED, "domain": "blocked.test", "dest_ip": GOOD_IP, "app": "http"},
    ),
)


def describe(outcome: Outcome) -> str:
    """What the client saw, in the words of ``Attempt.seen``."""
    body, _, code = outcome.stdout.rpartition("\n")
    if outcome.status == 0:
        try:
            said = json.loads(body)
        except ValueError:
            said = {}
        word = "from " + said["address"] if "address" in said else said.get("reason", "")
        return f"{code} {word}".strip()
    if "alert access denied" in outcome.stderr:
        return TLS_REFUSED
    if "reset by peer" in outcome.stderr or outcome.status == 7:
        return RESET  # curl's 7: the reset came before curl had looked at its connection
    return f"exit {outcome.status}: {outcome.stderr.strip().splitlines()[-1:] or outcome.notices[-1:]}"


def differences(attempt: Attempt, outcome: Outcome, lab: Lab) -> list[str]:
    """Everything that is not as it must be: seen, on record, and on the far side. Empty if all is well."""
    wrong = []
    if (seen := describe(outcome)) != attempt.seen:
        wrong.append(f"seen: {seen}, not {attempt.seen}")
    if len(outcome.decisions) != 1:
        wrong.append(f"{len(outcome.decisions)} decision records, not 1")
    for record in outcome.decisions[:1]:
        wrong += [
            f"record: {key} is {record.get(key)!r}, not {value!r}"
            for key, value in attempt.record.items()
            if record.get(key) != value
        ]
    return wrong + _strays(attempt, lab)


def _strays(attempt: Attempt, lab: Lab) -> list[str]:
    wrong = []
    reached = [entry["dst"] for entry in lab.far.entries("connect")]
    if reached != [address for address in [attempt.arrives] if address]:
        wrong.append(f"connections arrived at {reached}, not at {attempt.arrives}")
    asked = {entry.get("name") for entry in lab.far.entries("dns")}
    if asked - {attempt.resolves}:
        wrong.append(f"DNS was asked for {asked}")
    if packets := lab.capture.involving(*FORBIDDEN):
        wrong.append(f"{len(packets)} packets where none may go, the first: {packets[0]}")
    if lost := lab.capture.lost():
        wrong.append(f"the capture missed {lost} packets")
    return wrong


def carry_out(
    lab: Lab, attempt: Attempt, *, uid: int | None = None, options: Sequence[str] = ()
) -> tuple[Outcome, list[str]]:
    """Do it in a sandbox of its own; how it went, and what was wrong about that."""
    lab.reset()
    outcome = egress_run(lab, attempt.command, allow=ALLOW, uid=uid, options=options)
    return outcome, differences(attempt, outcome, lab)
