"""What one policy allowed, judged by another."""

from ipaddress import ip_address

import pytest

from gateway.decide import bind, compile_policy, decide
from gateway.hindsight import still_allowed
from gateway.sniff.result import Sniffed
from rules import ALL_TRAFFIC, NetworkPolicy
from tests.gateway.deciding import NAME, flow_to, tls

ASKED, ELSEWHERE, PRIVATE = "203.0.113.9", "198.51.100.7", "10.1.2.3"


def after(
    old: NetworkPolicy | None,
    new: NetworkPolicy | None,
    answers: list[str],
    seen: Sniffed | None = tls(NAME),  # noqa: B008 - a value
    *,
    connected: bool = True,
) -> bool:
    flow, before = flow_to(ASKED), compile_policy(old)
    made = bind(before, decide(before, flow, seen), flow, [ip_address(answer) for answer in answers])
    upstream = made.addresses[0] if connected and made.addresses else None
    return still_allowed(compile_policy(new), flow, seen, made, upstream, frozenset())


BY_NAME = NetworkPolicy([NAME], [ALL_TRAFFIC])


@pytest.mark.parametrize("connected", [False, True])
@pytest.mark.parametrize(
    ("new", "answers", "stays"),
    [
        (BY_NAME, [ASKED], True),
        (NetworkPolicy(["api.github.com"], [ALL_TRAFFIC]), [ASKED], False),
        (NetworkPolicy([ASKED], [ALL_TRAFFIC]), [ASKED], True),
        # What the name led to is not what the new policy lets be dialled.
        (NetworkPolicy([ASKED], [ALL_TRAFFIC]), [ELSEWHERE], False),
        (NetworkPolicy([ASKED, ELSEWHERE], [ALL_TRAFFIC]), [ELSEWHERE], True),
        (NetworkPolicy([ASKED, NAME], [ALL_TRAFFIC]), [ELSEWHERE], True),
        (NetworkPolicy([], [f"{ELSEWHERE}:443"]), [ELSEWHERE], False),
        (NetworkPolicy([], [f"{ELSEWHERE}:80"]), [ELSEWHERE], True),
        (NetworkPolicy([NAME], [ELSEWHERE]), [ELSEWHERE], True),
        (None, [ELSEWHERE], True),
    ],
)
def test_where_a_name_led(
    new: NetworkPolicy | None, answers: list[str], connected: bool, stays: bool
) -> None:
    assert after(BY_NAME, new, answers, connected=connected) is stays


def test_a_private_address_needs_its_entry_still() -> None:
    both = NetworkPolicy([NAME, PRIVATE], [ALL_TRAFFIC])
    assert after(both, both, [PRIVATE])
    assert not after(both, BY_NAME, [PRIVATE])
    assert not after(both, NetworkPolicy([ASKED, NAME], [ALL_TRAFFIC]), [PRIVATE])


def test_what_was_not_bound_is_not_taken_for_it() -> None:
    assert not after(None, BY_NAME, [], tls(NAME))
    assert not after(None, BY_NAME, [], None)
    assert after(None, NetworkPolicy([ASKED], [ALL_TRAFFIC]), [], None)
