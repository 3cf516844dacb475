"""What comes to the address that DNS gives for names it keeps back: refused under the name it shows, or as what it is."""

import pytest

from gateway.addresses import SINKHOLE
from gateway.decide import CompiledPolicy, Target, Verdict, compile_policy, decide, settle
from gateway.reasons import Reason
from gateway.sniff.result import Refused, Sniffed
from rules.policy import NetworkPolicy
from tests.gateway.deciding import NAME, OTHER, flow_to, said, tls

DENY = ["0.0.0.0/0"]


def _policy(*allowed: str) -> CompiledPolicy:
    return compile_policy(NetworkPolicy(allow_out=list(allowed), deny_out=DENY))


@pytest.mark.parametrize("entry", [NAME, f"{NAME}:8443", "8.8.8.8:53"])
@pytest.mark.parametrize("dest", [SINKHOLE, f"::ffff:{SINKHOLE}"])
@pytest.mark.parametrize("port", [22, 80, 443])
def test_the_name_is_read_whatever_the_port(entry: str, dest: str, port: int) -> None:
    policy, flow = _policy(entry), flow_to(dest, port)
    assert settle(policy, flow) is None
    for seen in (tls(OTHER), Sniffed("http", OTHER)):
        assert decide(policy, flow, seen) == said("4*", "", None)._replace(host=OTHER)


def test_an_allowed_name_is_bound_as_anywhere() -> None:
    decision = decide(_policy(NAME), flow_to(SINKHOLE), tls(NAME))
    assert (decision.verdict, decision.target) == (Verdict.ALLOW, Target.BOUND)


SPEECHLESS = [
    None,
    *map(Refused, (Reason.NO_HELLO, Reason.CLIENT_CLOSED, Reason.NOT_TLS_NOT_HTTP, Reason.TOO_LONG)),
]


@pytest.mark.parametrize("seen", SPEECHLESS)
def test_what_shows_no_name_is_said_to_be_for_the_sinkhole(seen: Refused | None) -> None:
    decision = decide(_policy(NAME), flow_to(SINKHOLE), seen)
    assert (decision.verdict, decision.entry, decision.reason) == (
        Verdict.BLOCK,
        "unreadable",
        Reason.SINKHOLE,
    )
    elsewhere = decide(_policy(NAME), flow_to("192.0.0.9"), seen)
    assert (elsewhere.verdict, elsewhere.reason) == (
        Verdict.BLOCK,
        Reason.NO_HELLO if seen is None else seen.reason,
    )


@pytest.mark.parametrize(
    "seen", [Refused(Reason.BAD_TLS, "tls"), Refused(Reason.NO_NAME, "tls"), Refused(Reason.BAD_HTTP, "http")]
)
def test_a_fault_of_tls_or_http_keeps_its_own_word(seen: Refused) -> None:
    assert decide(_policy(NAME), flow_to(SINKHOLE), seen).reason is seen.reason


def test_an_entry_for_the_address_itself_counts() -> None:
    assert settle(_policy(NAME, str(SINKHOLE)), flow_to(SINKHOLE)) == said(
        "2", f"allow_out[1] {SINKHOLE}", None
    )


def test_it_is_no_special_address_where_nothing_is_denied_it_nor_for_udp() -> None:
    assert settle(compile_policy(None), flow_to(SINKHOLE)) == said("5", "", None)
    assert settle(_policy(NAME), flow_to(SINKHOLE, proto="udp")) == said("4*", "", None)
