"""What DNS may be asked for, and where a name may lead."""

from ipaddress import ip_address

import pytest

from gateway.decide import Decision, Target, Verdict, compile_policy, decide_query, usable
from gateway.reasons import Reason
from rules.entry import ALL_TRAFFIC
from rules.policy import NetworkPolicy
from tests.gateway.deciding import NAME, OTHER

EVERYTHING = f"deny_out[0] {ALL_TRAFFIC}"
HALVES = ["blocked.example", "0.0.0.0/1", "128.0.0.0/1", "::/0"]
"""Together they leave nothing; the first three leave IPv6."""
PORTED = ["0.0.0.0/1", "128.0.0.0/1", "[::/0]"]


@pytest.mark.parametrize(
    ("allow_out", "deny_out", "host", "verdict", "row", "entry", "reason"),
    [
        ([NAME], [ALL_TRAFFIC], NAME, Verdict.ALLOW, 3, f"allow_out[0] {NAME}", Reason.ALLOWED_NAME),
        (
            [f"{NAME}:8443"],
            [ALL_TRAFFIC],
            NAME,
            Verdict.ALLOW,
            3,
            f"allow_out[0] {NAME}:8443",
            Reason.ALLOWED_NAME,
        ),
        ([NAME], [ALL_TRAFFIC, NAME], NAME, Verdict.ALLOW, 3, f"allow_out[0] {NAME}", Reason.ALLOWED_NAME),
        ([NAME], [ALL_TRAFFIC], OTHER, Verdict.BLOCK, 4, EVERYTHING, Reason.NO_ALLOW_ENTRY),
        ([NAME], [ALL_TRAFFIC, OTHER], OTHER, Verdict.BLOCK, 4, f"deny_out[1] {OTHER}", Reason.DENIED_NAME),
        (["10.0.0.0/8"], [ALL_TRAFFIC], NAME, Verdict.BLOCK, 4, EVERYTHING, Reason.NO_ALLOW_ENTRY),
        (
            [ALL_TRAFFIC],
            [ALL_TRAFFIC],
            NAME,
            Verdict.ALLOW,
            2,
            f"allow_out[0] {ALL_TRAFFIC}",
            Reason.ALLOWED_ADDRESS,
        ),
        ([NAME], HALVES, OTHER, Verdict.BLOCK, 4, "deny_out[1] 0.0.0.0/1", Reason.NO_ALLOW_ENTRY),
        ([NAME], HALVES[:3], OTHER, Verdict.ALLOW, 5, "default", Reason.DEFAULT_ALLOW),
        (
            [NAME],
            [f"{half}:443" for half in PORTED],
            OTHER,
            Verdict.ALLOW,
            5,
            "default",
            Reason.DEFAULT_ALLOW,
        ),
        (
            ["8.8.8.8:53", f"{ALL_TRAFFIC}:443"],
            [ALL_TRAFFIC],
            OTHER,
            Verdict.ALLOW,
            2,
            f"allow_out[1] {ALL_TRAFFIC}:443",
            Reason.ALLOWED_ADDRESS,
        ),
        (
            ["0.0.0.0/1", "128.0.0.0/1:443"],
            [ALL_TRAFFIC],
            OTHER,
            Verdict.ALLOW,
            2,
            "allow_out[0] 0.0.0.0/1",
            Reason.ALLOWED_ADDRESS,
        ),
        (["0.0.0.0/1"], [ALL_TRAFFIC], OTHER, Verdict.BLOCK, 4, EVERYTHING, Reason.NO_ALLOW_ENTRY),
        ([], [OTHER], OTHER, Verdict.ALLOW, 5, "default", Reason.DEFAULT_ALLOW),
        ([], [], OTHER, Verdict.ALLOW, 5, "default", Reason.DEFAULT_ALLOW),
    ],
)
def test_a_query(
    allow_out: list[str],
    deny_out: list[str],
    host: str,
    verdict: Verdict,
    row: int,
    entry: str,
    reason: Reason,
) -> None:
    policy = compile_policy(NetworkPolicy(allow_out, deny_out))
    assert decide_query(policy, host) == Decision(verdict, row, entry, reason, Target.NONE, host)
    assert policy.forwards(host) is (verdict is Verdict.ALLOW)


@pytest.mark.parametrize(
    ("ip", "port", "expected"),
    [
        ("203.0.113.9", None, True),
        ("10.0.0.1", None, True),
        ("10.0.0.1", 443, True),
        ("10.0.0.1", 80, False),
        ("10.0.0.2", None, False),
        ("10.0.0.2", 443, False),
        ("fd00::1", None, True),
        ("fd00::2", None, False),
        ("::ffff:10.0.0.1", None, False),
        ("127.0.0.1", None, False),
        ("169.254.169.254", 443, False),
        ("203.0.113.7", None, False),
        ("2001:db8::9", None, True),
    ],
)
def test_where_a_name_may_lead(ip: str, port: int | None, expected: bool) -> None:
    policy = compile_policy(
        NetworkPolicy([NAME, "10.0.0.1:443", "[fd00::1]:53", "127.0.0.0/8", "169.254.0.0/16"], [ALL_TRAFFIC])
    )
    assert usable(policy, ip_address(ip), frozenset({ip_address("203.0.113.7")}), port) is expected
