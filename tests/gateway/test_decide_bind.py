"""A name is a claim until it is bound to addresses of its own; and what must hold for every policy."""

from ipaddress import IPv4Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import ALL_TRAFFIC, NetworkPolicy
from gateway.addresses import AddressKind, classify
from gateway.decide import (
    Decision,
    Target,
    Verdict,
    bind,
    compile_policy,
    decide,
    refuse,
    settle,
    unresolved,
)
from gateway.flow import Flow, IPAddress
from gateway.reasons import Reason
from gateway.sniff.result import Refused, Sniffed
from tests.gateway.deciding import NAME, OTHER, flow_to, said, tls

ALLOWLIST = compile_policy(
    NetworkPolicy(["api.openai.com", "10.1.0.0/16:443", "169.254.0.0/16"], [ALL_TRAFFIC])
)


def _bound(*answers: str, asked: str = "203.0.113.9", local: frozenset[IPAddress] = frozenset()) -> Decision:
    flow = flow_to(asked)
    decided = decide(ALLOWLIST, flow, tls(NAME), local)
    assert decided.target is Target.BOUND
    return bind(ALLOWLIST, decided, flow, [ip_address(answer) for answer in answers], local)


@pytest.mark.parametrize(
    ("answers", "chosen"),
    [
        (
            ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "2001:db8::1"],
            ["192.0.2.1", "192.0.2.2", "2001:db8::1"],
        ),
        (
            ["2001:db8::1", "2001:db8::2", "2001:db8::3", "192.0.2.1"],
            ["2001:db8::1", "2001:db8::2", "192.0.2.1"],
        ),
        (["192.0.2.1", "2001:db8::1", "192.0.2.2", "2001:db8::2"], ["192.0.2.1", "2001:db8::1", "192.0.2.2"]),
        (["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"], ["192.0.2.1", "192.0.2.2", "192.0.2.3"]),
    ],
)
def test_one_of_the_places_is_the_other_familys(answers: list[str], chosen: list[str]) -> None:
    assert [str(ip) for ip in _bound(*answers).addresses] == chosen


@pytest.mark.parametrize(
    ("answers", "addresses", "mismatch"),
    [
        (["203.0.113.9"], ["203.0.113.9"], False),
        (["198.51.100.1", "203.0.113.9"], ["203.0.113.9", "198.51.100.1"], False),
        (["198.51.100.1", "198.51.100.2"], ["198.51.100.1", "198.51.100.2"], True),
        (["198.51.100.1"] * 3 + ["198.51.100.2"], ["198.51.100.1", "198.51.100.2"], True),
        (["9.9.9.1", "9.9.9.2", "9.9.9.3", "9.9.9.4"], ["9.9.9.1", "9.9.9.2", "9.9.9.3"], True),
        (["9.9.9.1", "9.9.9.2", "9.9.9.3", "203.0.113.9"], ["203.0.113.9", "9.9.9.1", "9.9.9.2"], False),
        (["10.0.0.1", "127.0.0.1", "198.51.100.1"], ["198.51.100.1"], True),
        (["10.1.0.1"], ["10.1.0.1"], True),
        (["2001:db8::1", "64:ff9b::a9fe:a9fe"], ["2001:db8::1"], True),
        (["::ffff:203.0.113.9"], ["203.0.113.9"], False),
    ],
)
def test_the_addresses_that_a_name_may_be_reached_at(
    answers: list[str], addresses: list[str], mismatch: bool
) -> None:
    bound = _bound(*answers)
    assert bound.verdict is Verdict.ALLOW
    assert [str(ip) for ip in bound.addresses] == addresses
    assert bound.dest_mismatch is mismatch


@pytest.mark.parametrize(
    "answers",
    [
        ["10.0.0.1"],
        ["127.0.0.1", "::1"],
        ["169.254.169.254"],  # an IP entry holds it, and still
        ["192.168.0.1", "fd00::1"],
        ["::ffff:10.0.0.1"],
        ["64:ff9b::7f00:1"],
        ["203.0.113.77"],
    ],
)
def test_no_answer_that_may_be_dialled(answers: list[str]) -> None:
    bound = _bound(*answers, local=frozenset({IPv4Address("203.0.113.77")}))
    assert bound == Decision(
        Verdict.BLOCK, 3, "allow_out[0] api.openai.com", Reason.FORBIDDEN_ANSWER, host=NAME
    )


def test_an_ip_entry_for_another_port_does_not_open_a_private_answer() -> None:
    policy = compile_policy(NetworkPolicy(["api.openai.com", "10.1.0.0/16:8443"], [ALL_TRAFFIC]))
    flow = flow_to("203.0.113.9")
    bound = bind(policy, decide(policy, flow, tls(NAME)), flow, [ip_address("10.1.0.1")])
    assert bound.reason is Reason.FORBIDDEN_ANSWER


def test_no_answer_at_all() -> None:
    assert _bound().reason is Reason.RESOLVE_FAILED
    assert _bound().verdict is Verdict.BLOCK


def test_binding_leaves_every_other_decision_alone() -> None:
    flow = flow_to("203.0.113.9")
    for decided in (said("5", "", None), said("4*", "", None), said("2", "x", None)):
        assert bind(ALLOWLIST, decided, flow, [ip_address("9.9.9.9")]) == decided


def test_unresolved_and_refuse() -> None:
    decided = decide(ALLOWLIST, flow_to("203.0.113.9"), tls(NAME))
    late = unresolved(decided, Reason.RESOLVE_TIMEOUT)
    shown = "allow_out[0] api.openai.com"
    assert late == Decision(Verdict.BLOCK, 3, shown, Reason.RESOLVE_TIMEOUT, Target.NONE, NAME)
    assert refuse(Reason.LIMIT) == Decision(Verdict.BLOCK, 0, "limit", Reason.LIMIT)


# What holds for every policy.

_NAMES = st.sampled_from(
    [NAME, OTHER, "openai.com", "a.b.evil.example", "localhost", "", "a..b", "\0", "x" * 300]
)
_ADDRESSES = st.sampled_from(
    [
        "203.0.113.9",
        "203.0.113.200",
        "10.1.2.3",
        "169.254.169.254",
        "2001:db8::9",
        "fd00::1",
        "::ffff:10.1.2.3",
        "8.8.8.8",
    ]
).map(ip_address)
_ENTRIES = st.sampled_from(
    ["0.0.0.0/0", "::/0", "0.0.0.0/0:443", "203.0.113.0/24", "203.0.113.9:443", "10.0.0.0/8", "[2001:db8::/32]:443",
     "api.openai.com", "*.openai.com:443", "*.evil.example", "~.*:443", "localhost", "evil.example:80"]
)  # fmt: skip
_LISTS = st.lists(_ENTRIES, max_size=4)
_POLICIES = st.none() | st.builds(NetworkPolicy, _LISTS, _LISTS, ech=st.sampled_from(["allow", "refuse"]))
_FLOWS = st.builds(flow_to, _ADDRESSES, st.sampled_from([80, 443, 853, 22]), st.sampled_from(["tcp", "udp"]))
_SEEN = (
    st.none()
    | st.builds(Refused, st.sampled_from(Reason))
    | st.builds(Sniffed, st.just("tls"), _NAMES, ech=st.booleans())
    | st.builds(Sniffed, st.just("http"), _NAMES, st.none() | st.sampled_from([80, 443]))
)


@given(_POLICIES, _FLOWS, _SEEN)
def test_what_is_settled_stays_settled(
    policy: NetworkPolicy | None, flow: Flow, seen: Sniffed | Refused | None
) -> None:
    compiled = compile_policy(policy)
    settled, decided = settle(compiled, flow), decide(compiled, flow, seen)
    if settled is not None:
        assert (decided.verdict, decided.target) == (settled.verdict, settled.target)
    elif not isinstance(seen, Sniffed):
        assert decided.verdict is Verdict.BLOCK
    if classify(flow.dest.ip) is AddressKind.FLOOR:
        assert decided.row == 1
    assert (decided.verdict is Verdict.ALLOW) == (decided.target is not Target.NONE)
    assert decided.row in range(1, 6)


@given(_POLICIES, _FLOWS, _SEEN, st.lists(_ADDRESSES | st.ip_addresses(), max_size=6))
def test_what_is_bound_may_be_dialled(
    policy: NetworkPolicy | None, flow: Flow, seen: Sniffed | Refused | None, answers: list[IPAddress]
) -> None:
    compiled = compile_policy(policy)
    decided = decide(compiled, flow, seen)
    bound = bind(compiled, decided, flow, answers)
    if decided.target is not Target.BOUND:
        assert bound == decided
    elif bound.verdict is Verdict.ALLOW:
        assert 1 <= len(bound.addresses) <= 3
        for ip in bound.addresses:
            kind = classify(ip)
            assert kind is not AddressKind.FLOOR
            opened = settle(compiled, flow_to(ip, flow.dest.port))
            assert kind is AddressKind.PUBLIC or (opened is not None and opened.row == 2)
    else:
        assert bound.addresses == ()


@given(_LISTS, st.lists(_ENTRIES, max_size=4), _FLOWS, _SEEN, _ENTRIES)
def test_another_allow_entry_never_blocks(
    allow_out: list[str], deny_out: list[str], flow: Flow, seen: Sniffed, entry: str
) -> None:
    before = decide(compile_policy(NetworkPolicy(allow_out, deny_out)), flow, seen)
    after = decide(compile_policy(NetworkPolicy([*allow_out, entry], deny_out)), flow, seen)
    if before.verdict is Verdict.ALLOW:
        assert after.verdict is Verdict.ALLOW
