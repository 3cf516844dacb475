"""Policies as values: made whole or not at all, shown canonical, and the same again from what is shown."""

import copy
import pickle
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import ALL_TRAFFIC, AuditConfig, NetworkPolicy, PolicyError, SecurityPolicy
from rules import without_internet
from rules.document import dump_policy, parse_policy


def test_all_traffic() -> None:
    assert ALL_TRAFFIC == "0.0.0.0/0"


def test_entries_are_kept_canonical_and_in_order() -> None:
    policy = NetworkPolicy(["API.OpenAI.com.", "10.0.0.0/8:8443,443"], (ALL_TRAFFIC,))
    assert policy.allow_out == ("api.openai.com", "10.0.0.0/8:443,8443")
    assert policy.deny_out == ("0.0.0.0/0",)
    assert (policy.dns, policy.resolver, policy.ech) == ("guarded", "8.8.8.8", "allow")


def test_it_is_a_value() -> None:
    policy = NetworkPolicy(["api.openai.com"], dns="strict", resolver="2001:DB8::1", ech="refuse")
    assert policy == NetworkPolicy(
        ["API.openai.com"], None, dns="strict", resolver="2001:db8::1", ech="refuse"
    )
    assert policy != NetworkPolicy(["api.openai.com"])
    assert len({policy, copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))}) == 1  # noqa: S301
    with pytest.raises(FrozenInstanceError):
        policy.dns = "guarded"  # type: ignore[misc]
    with pytest.raises(TypeError):
        NetworkPolicy([], [], "strict")  # type: ignore[call-arg]


def test_the_whole_of_security() -> None:
    assert SecurityPolicy() == SecurityPolicy(network=None, audit=AuditConfig(enabled=True))
    assert SecurityPolicy().to_dict() == {"network": None, "audit": {"enabled": True}}
    policy = SecurityPolicy(NetworkPolicy(["api.openai.com"], [ALL_TRAFFIC]), AuditConfig(enabled=False))
    assert policy.to_dict() == {
        "network": {
            "allow_out": ["api.openai.com"],
            "deny_out": ["0.0.0.0/0"],
            "dns": "guarded",
            "resolver": "8.8.8.8",
            "ech": "allow",
        },
        "audit": {"enabled": False},
    }
    assert SecurityPolicy.from_dict(policy.to_dict()) == policy
    assert SecurityPolicy.from_dict({}) == SecurityPolicy()
    assert str(policy.resolver_ip) == str(SecurityPolicy().resolver_ip) == "8.8.8.8"


TEN_MISTAKES: dict[str, Any] = {
    "network": {
        "allow_out": ["https://api.openai.com/v1", "*", 443, "~(?=x)x", "10.0.0.1/8", "api.openai.com"],
        "deny_out": "0.0.0.0/0",
        "dns": "off",
        "resolver": "dns.google",
        "alow_out": [],
    },
    "audit": {"enabled": "yes"},
}

TEN_ERRORS = [
    ("network: unknown key 'alow_out'; ", "the keys here are allow_out, deny_out, dns, resolver, ech"),
    ("allow_out[0] 'https://api.openai.com/v1': ", "write api.openai.com"),
    ("allow_out[1] '*': ", "for everything write 0.0.0.0/0 (ALL_TRAFFIC)"),
    ("allow_out[2] '443': ", "put it in quotes, as 'api.openai.com'"),
    ("allow_out[3] '~(?=x)x': RE2 refuses it: ", "no look-around and no back-references"),
    ("allow_out[4] '10.0.0.1/8': ", "write 10.0.0.0/8 for the network, 10.0.0.1 for the one address"),
    ("deny_out: '0.0.0.0/0' is no list; ", "write a list of entries, as ['0.0.0.0/0']"),
    ("dns: 'off' ", "write guarded, strict or passthrough"),
    ("resolver: 'dns.google' ", "write the address of a DNS server, as 8.8.8.8"),
    ("audit.enabled: 'yes' ", "write true or false"),
]


def test_ten_mistakes_are_ten_errors_each_with_its_mend() -> None:
    with pytest.raises(PolicyError) as caught:
        SecurityPolicy.from_dict(TEN_MISTAKES)
    assert len(caught.value.errors) == 10
    for error, (begin, end) in zip(caught.value.errors, TEN_ERRORS, strict=True):
        assert error.startswith(begin)
        assert error.endswith(end)
        assert len(error.splitlines()) == 1


def test_the_error_is_the_same_after_a_journey() -> None:
    error = PolicyError(["one; mend", "two; mend"])
    assert pickle.loads(pickle.dumps(error)).errors == error.errors  # noqa: S301
    assert str(error) == "one; mend\ntwo; mend"
    assert isinstance(error, ValueError)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ([], "policy: '[]' is no mapping; write the keys network, audit under it"),
        ({"deny_out": []}, "policy: unknown key 'deny_out'; move it under network: network: {deny_out: ...}"),
        ({1: 2}, "policy: unknown key '1'; the keys here are network, audit"),
        (
            {"network": []},
            "network: '[]' is no mapping; write the keys allow_out, deny_out, dns, resolver, ech under it",
        ),
        ({"network": {"deny_out": None}}, "network.deny_out: has no value; write one, or drop the key"),
        ({"audit": {"enabled": 1}}, "audit.enabled: '1' is neither true nor false; write true or false"),
        ({"audit": {"on": True}}, "audit: unknown key 'on'; the keys here are enabled"),
        (
            {"network": {"resolver": "127.0.0.1"}},
            (
                "resolver: '127.0.0.1' lies in the floor, where nothing is ever reached; "
                "write the address of a DNS server, as 8.8.8.8"
            ),
        ),
    ],
)
def test_what_is_no_policy(data: Any, error: str) -> None:
    with pytest.raises(PolicyError) as caught:
        SecurityPolicy.from_dict(data)
    assert caught.value.errors == [error]


@pytest.mark.parametrize(
    "resolver", ["8.8.8.8:53", "fe80::1%eth0", "::ffff:8.8.8.8", "", "localhost", None, 8]
)
def test_a_resolver_is_a_plain_address(resolver: Any) -> None:
    with pytest.raises(PolicyError):
        NetworkPolicy(resolver=resolver)


@pytest.mark.parametrize("given_list", ["api.openai.com", {"api.openai.com"}, 7, b"x", {"a.b": 1}])
def test_a_list_is_a_list(given_list: Any) -> None:
    with pytest.raises(PolicyError, match="is no list"):
        NetworkPolicy(allow_out=given_list)


def test_untyped_callers() -> None:
    with pytest.raises(PolicyError) as caught:
        SecurityPolicy(network={"allow_out": []}, audit=False)  # type: ignore[arg-type]
    assert [error.split(":")[0] for error in caught.value.errors] == ["network", "audit"]


def test_a_huge_value_is_shown_short() -> None:
    nested: list[Any] = []
    for _ in range(60):
        nested = [nested, nested]  # as YAML aliases can: 2**60 items, if anyone counts
    with pytest.raises(PolicyError) as caught:
        NetworkPolicy(allow_out=[nested])  # type: ignore[list-item]
    assert len(caught.value.errors[0]) < 300


WARNINGS = [
    ({}, []),
    ({"allow_out": ["api.openai.com"], "deny_out": [ALL_TRAFFIC]}, []),
    ({"allow_out": ["api.openai.com"], "deny_out": ["10.0.0.0/8"]}, []),
    ({"allow_out": ["api.openai.com"]}, ["allow_out without deny_out allows everything"]),
    ({"dns": "passthrough"}, ["dns: passthrough is an open channel"]),
    (
        {"allow_out": ["*.s3.amazonaws.com", "*.github.io:443", "*.github.com"], "deny_out": [ALL_TRAFFIC]},
        ["allow_out[0] '*.s3.amazonaws.com': anyone may", "allow_out[1] '*.github.io:443': anyone may"],
    ),
    ({"allow_out": ["169.254.169.254", "::1"], "deny_out": [ALL_TRAFFIC]}, ["allow_out[0]", "allow_out[1]"]),
    (
        {"deny_out": ["0.0.0.0", "::", "10.0.0.0/8", "0.0.0.0/8"]},
        ["deny_out[0] 0.0.0.0: one", "deny_out[1] ::: one"],
    ),
]


@pytest.mark.parametrize(("given_policy", "begins"), WARNINGS)
def test_warnings(given_policy: dict[str, Any], begins: list[str]) -> None:
    policy = NetworkPolicy(**given_policy)
    assert len(policy.warnings) == len(begins)
    assert all(line.startswith(begin) for line, begin in zip(policy.warnings, begins, strict=True))
    assert SecurityPolicy(policy).warnings == policy.warnings
    assert SecurityPolicy().warnings == ()


@pytest.mark.parametrize(
    ("allow_out", "deny_out", "allowed"),
    [
        ([], [], True),
        ([], [ALL_TRAFFIC], False),
        (["api.openai.com"], [ALL_TRAFFIC], True),
        (["*.openai.com:443"], [ALL_TRAFFIC], True),
        (["10.0.0.0/8"], [ALL_TRAFFIC], False),
        (["8.8.8.8:53"], [ALL_TRAFFIC], True),
        (["8.8.8.8:443"], [ALL_TRAFFIC], False),
        ([], ["8.8.0.0/16"], False),
        ([], ["8.8.0.0/16:443"], True),
        ([], ["evil.example"], True),
    ],
)
def test_dns_to_the_resolver(allow_out: list[str], deny_out: list[str], allowed: bool) -> None:
    assert NetworkPolicy(allow_out, deny_out).allows_dns() is allowed


def test_without_internet() -> None:
    nothing = SecurityPolicy(NetworkPolicy(deny_out=[ALL_TRAFFIC]))
    assert without_internet() == without_internet(SecurityPolicy()) == nothing
    strict = SecurityPolicy(NetworkPolicy(deny_out=["10.0.0.0/8"], dns="strict"), AuditConfig(enabled=False))
    assert without_internet(strict) == SecurityPolicy(
        NetworkPolicy(deny_out=[ALL_TRAFFIC, "10.0.0.0/8"], dns="strict"), AuditConfig(enabled=False)
    )
    with pytest.raises(PolicyError) as caught:
        without_internet(SecurityPolicy(NetworkPolicy(["api.openai.com", "1.1.1.1"])))
    assert [error.split(":")[0] for error in caught.value.errors] == [
        "allow_out[0] 'api.openai.com'",
        "allow_out[1] '1.1.1.1'",
    ]


# parse(show(policy)) == policy

_PORTS = st.lists(st.integers(1, 65535), min_size=1, max_size=3).map(lambda ports: ",".join(map(str, ports)))
_LABEL = st.from_regex(r"\A[A-Za-z0-9_]([A-Za-z0-9_-]{0,8}[A-Za-z0-9_])?\Z")
_HOST = st.builds(lambda labels: ".".join([*labels, "Example"]), st.lists(_LABEL, max_size=3))
_NAMED = st.builds("{}{}".format, st.sampled_from(["", "*."]), _HOST) | st.sampled_from(
    [r"~.*\.openai\.com", r"~a:1", r"~[^:]+", "~x{1,3}", "b\u00fccher.example", r"~'\"\\"]
)


def _network(ip: Any, length: int) -> tuple[str, int]:
    kept = min(length, ip.max_prefixlen)
    number = int(ip) >> (ip.max_prefixlen - kept) << (ip.max_prefixlen - kept)
    return f"{type(ip)(number)}/{kept}", ip.version


_NETWORK = st.builds(_network, st.ip_addresses(), st.integers(0, 128)).filter(
    lambda pair: not pair[0].startswith("::ffff:")
)


def _with_ports(network: tuple[str, int], ports: str) -> str:
    text, version = network
    return f"[{text}]:{ports}" if version == 6 else f"{text}:{ports}"


_ENTRY = (
    _NAMED
    | st.builds("{}:{}".format, _NAMED, _PORTS)
    | _NETWORK.map(lambda pair: pair[0])
    | st.builds(_with_ports, _NETWORK, _PORTS)
)
_POLICY = st.builds(
    SecurityPolicy,
    st.none()
    | st.builds(
        NetworkPolicy,
        st.lists(_ENTRY, max_size=5),
        st.lists(_ENTRY, max_size=5),
        dns=st.sampled_from(["guarded", "strict", "passthrough"]),
        resolver=st.sampled_from(["8.8.8.8", "2001:db8::53", "10.0.0.2"]),
        ech=st.sampled_from(["allow", "refuse"]),
    ),
    st.builds(AuditConfig, st.booleans()),
)


@given(_POLICY)
def test_what_is_shown_is_read_as_the_same(policy: SecurityPolicy) -> None:
    assert SecurityPolicy.from_dict(policy.to_dict()) == policy
    assert parse_policy(dump_policy(policy)) == policy
    again = SecurityPolicy.from_dict(policy.to_dict())
    assert again.to_dict() == policy.to_dict()


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["network", "allow_out"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text() | st.sampled_from(["network", "audit", "allow_out", "dns", "enabled"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(_JSON)
def test_any_data_is_a_policy_or_a_policy_error(data: Any) -> None:
    try:
        SecurityPolicy.from_dict(data)
    except PolicyError as error:
        assert error.errors
        assert all(len(line.splitlines()) == 1 for line in error.errors)
