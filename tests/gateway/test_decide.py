"""The decision table, with every expectation written out by hand."""

from ipaddress import IPv4Address, IPv6Address
from typing import Final

import pytest

from gateway import ALL_TRAFFIC, NetworkPolicy
from gateway.decide import (
    Decision,
    Target,
    Verdict,
    compile_policy,
    decide,
    denied_by_address,
    settle,
)
from gateway.flow import IPAddress
from gateway.reasons import Reason
from gateway.sniff.result import Refused, Sniffed
from tests.gateway.deciding import NAME, OTHER, UNREADABLE, flow_to, said, tls

# One line: where the entry stands and of what form it is; whether its port fits the one dialled; the default.
# Then whether a name is needed, and the outcome for a client that shows the entry's name, another name, or
# none that can be read.
#
#   1    block  row 1, floor                          3B   allow  row 3, the entry, at the name's
#   2    allow  row 2, the entry, at the address      3A   allow  row 3, the entry, at the address asked
#   4i   block  row 4, the entry, as an address       4n   block  row 4, the entry, as a name
#   4*   block  row 4, ALL_TRAFFIC                    4?   block  row 4, unreadable
#   5    allow  row 5, default
TABLE: Final = """
allow ip        fits  deny   | at once | 2   2   2
allow ip        not   deny   | at once | 4*  4*  4*
allow ip        fits  allow  | at once | 2   2   2
allow ip        not   allow  | at once | 5   5   5
allow cidr      fits  deny   | at once | 2   2   2
allow cidr      not   deny   | at once | 4*  4*  4*
allow cidr      fits  allow  | at once | 2   2   2
allow cidr      not   allow  | at once | 5   5   5
allow exact     fits  deny   | by name | 3B  4*  4?
allow exact     not   deny   | at once | 4*  4*  4*
allow exact     fits  allow  | at once | 3A  5   5
allow exact     not   allow  | at once | 5   5   5
allow wildcard  fits  deny   | by name | 3B  4*  4?
allow wildcard  not   deny   | at once | 4*  4*  4*
allow wildcard  fits  allow  | at once | 3A  5   5
allow wildcard  not   allow  | at once | 5   5   5
allow regex     fits  deny   | by name | 3B  4*  4?
allow regex     not   deny   | at once | 4*  4*  4*
allow regex     fits  allow  | at once | 3A  5   5
allow regex     not   allow  | at once | 5   5   5
deny  ip        fits  deny   | at once | 4i  4i  4i
deny  ip        not   deny   | at once | 4*  4*  4*
deny  ip        fits  allow  | at once | 4i  4i  4i
deny  ip        not   allow  | at once | 5   5   5
deny  cidr      fits  deny   | at once | 4i  4i  4i
deny  cidr      not   deny   | at once | 4*  4*  4*
deny  cidr      fits  allow  | at once | 4i  4i  4i
deny  cidr      not   allow  | at once | 5   5   5
deny  exact     fits  deny   | at once | 4*  4*  4*
deny  exact     not   deny   | at once | 4*  4*  4*
deny  exact     fits  allow  | by name | 4n  5   4?
deny  exact     not   allow  | at once | 5   5   5
deny  wildcard  fits  deny   | at once | 4*  4*  4*
deny  wildcard  not   deny   | at once | 4*  4*  4*
deny  wildcard  fits  allow  | by name | 4n  5   4?
deny  wildcard  not   allow  | at once | 5   5   5
deny  regex     fits  deny   | at once | 4*  4*  4*
deny  regex     not   deny   | at once | 4*  4*  4*
deny  regex     fits  allow  | by name | 4n  5   4?
deny  regex     not   allow  | at once | 5   5   5
none  none      fits  deny   | at once | 4*  4*  4*
none  none      fits  allow  | at once | 5   5   5
"""

# Entries without ports are the same with "fits", whatever is dialled; the floor is the same with everything.

ASKED: Final[dict[int, IPAddress]] = {4: IPv4Address("203.0.113.9"), 6: IPv6Address("2001:db8::9")}
FLOOR: Final[dict[int, IPAddress]] = {4: IPv4Address("169.254.169.254"), 6: IPv6Address("fd00:ec2::254")}
ENTRIES: Final = {
    ("ip", 4): "203.0.113.9:443",
    ("ip", 6): "[2001:db8::9]:443",
    ("cidr", 4): "203.0.113.0/24:443",
    ("cidr", 6): "[2001:db8::/32]:443",
    ("exact", 4): "api.openai.com:443",
    ("exact", 6): "api.openai.com:443",
    ("wildcard", 4): "*.openai.com:443",
    ("wildcard", 6): "*.openai.com:443",
    ("regex", 4): r"~api\.[a-z]+\.com:443",
    ("regex", 6): r"~api\.[a-z]+\.com:443",
}


def _cases() -> list[tuple[str, str, int, str, str, int, str, str]]:
    cases = []
    for line in TABLE.strip().splitlines():
        who, way, outcomes = (part.strip() for part in line.split("|"))
        place, form, fits, default = who.split()
        for seen, code in zip(("entry's", "other", "unreadable"), outcomes.split(), strict=True):
            for version in (4, 6):
                cases.append(
                    (place, form, 443 if fits == "fits" else 8443, default, way, version, seen, code)
                )
    return cases


def _policy(place: str, form: str, default: str, version: int) -> tuple[NetworkPolicy, str]:
    """A policy of one entry and its default, and how a record would show the entry."""
    deny_out = [ALL_TRAFFIC] if default == "deny" else []
    entry = ENTRIES.get((form, version))
    if entry is None:
        return NetworkPolicy(deny_out=deny_out), "none"
    if place == "allow":
        return NetworkPolicy([entry], deny_out), f"allow_out[0] {entry}"
    return NetworkPolicy([], [*deny_out, entry]), f"deny_out[{len(deny_out)}] {entry}"


@pytest.mark.parametrize(("place", "form", "port", "default", "way", "version", "seen", "code"), _cases())
def test_the_table(
    place: str, form: str, port: int, default: str, way: str, version: int, seen: str, code: str
) -> None:
    policy, shown = _policy(place, form, default, version)
    compiled, flow = compile_policy(policy), flow_to(ASKED[version], port)
    views: dict[str, Sniffed | Refused] = {
        "entry's": tls(NAME),
        "other": tls(OTHER),
        "unreadable": UNREADABLE,
    }
    sniffed = views[seen]
    name = sniffed.host if isinstance(sniffed, Sniffed) else None
    decided = decide(compiled, flow, sniffed)
    expected = said(code, shown, name)
    assert decided._replace(host=None) == expected._replace(host=None)
    assert decided.host in ({None, name} if way == "at once" else {name})
    assert (settle(compiled, flow) is None) == (way == "by name")


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("default", ["allow", "deny"])
@pytest.mark.parametrize("form", ["ip", "cidr", "exact", "wildcard", "regex", "everything"])
@pytest.mark.parametrize("seen", [tls(NAME), tls(OTHER), UNREADABLE, None])
def test_nothing_allows_the_floor(
    form: str, default: str, version: int, seen: Sniffed | Refused | None
) -> None:
    ip = FLOOR[version]
    entry = {"ip": str(ip), "cidr": f"{ip}/{ip.max_prefixlen}", "everything": ALL_TRAFFIC}.get(form)
    deny_out = [ALL_TRAFFIC] if default == "deny" else []
    compiled = compile_policy(NetworkPolicy([entry or ENTRIES[form, version]], deny_out))
    assert settle(compiled, flow_to(ip)) == decide(compiled, flow_to(ip), seen) == said("1", "", None)


@pytest.mark.parametrize("version", [4, 6])
def test_an_address_of_the_host_is_in_the_floor(version: int) -> None:
    ip = ASKED[version]
    compiled = compile_policy(NetworkPolicy([ALL_TRAFFIC]))
    assert settle(compiled, flow_to(ip), frozenset({ip})) == said("1", "", None)
    assert settle(compiled, flow_to(ip)) == said("2", "allow_out[0] 0.0.0.0/0", None)


@pytest.mark.parametrize("version", [4, 6])
def test_no_policy_is_full_egress(version: int) -> None:
    compiled = compile_policy(None)
    assert settle(compiled, flow_to(ASKED[version])) == said("5", "", None)
    assert settle(compiled, flow_to(FLOOR[version])) == said("1", "", None)


# Both lists speak: an allow beats a deny, whatever their order or length.

BOTH: Final = [
    # allow_out, deny_out; outcome for NAME, OTHER, unreadable at 203.0.113.9:443
    (["203.0.113.0/24"], ["203.0.113.9"], "2 2 2", "allow_out[0] 203.0.113.0/24"),
    (["api.openai.com"], ["api.openai.com"], "3B 5 4?", "allow_out[0] api.openai.com"),
    (["api.openai.com"], ["*.openai.com"], "3B 5 4?", "allow_out[0] api.openai.com"),
    (["*.openai.com"], ["api.openai.com"], "3B 5 4?", "allow_out[0] *.openai.com"),
    (["api.openai.com"], ["evil.example"], "3A 4n 4?", ""),
    (["api.openai.com:8443"], ["api.openai.com"], "4n 5 4?", "deny_out[0] api.openai.com"),
    (["api.openai.com"], ["203.0.113.0/24"], "3B 4i 4?", ""),
    (["api.openai.com"], ["198.51.100.0/24"], "3A 5 5", "allow_out[0] api.openai.com"),
    (["api.openai.com"], ["0.0.0.0/0", "evil.example"], "3B 4n 4?", ""),
    (["other.test"], ["0.0.0.0/0"], "4* 4* 4?", ""),
    (["api.openai.com:443"], ["0.0.0.0/0:443"], "3B 4+ 4?", "allow_out[0] api.openai.com:443"),
]


@pytest.mark.parametrize(("allow_out", "deny_out", "codes", "shown"), BOTH)
def test_both_lists(allow_out: list[str], deny_out: list[str], codes: str, shown: str) -> None:
    compiled = compile_policy(NetworkPolicy(allow_out, deny_out))
    views: tuple[Sniffed | Refused, ...] = (tls(NAME), tls(OTHER), UNREADABLE)
    for code, seen in zip(codes.split(), views, strict=True):
        entry = {"3A": f"allow_out[0] {allow_out[0]}", "3B": f"allow_out[0] {allow_out[0]}"}.get(code, shown)
        if code == "4i" or (code == "4n" and not shown):
            entry = f"deny_out[{len(deny_out) - 1}] {deny_out[-1]}"
        expected = said(code.replace("+", "*"), entry, None)
        if code == "4+":
            expected = expected._replace(entry="deny_out[0] 0.0.0.0/0:443")
        assert decide(compiled, flow_to("203.0.113.9"), seen)._replace(host=None) == expected


@pytest.mark.parametrize(
    ("deny_out", "port", "code", "shown"),
    [
        ([], 443, "5", ""),
        ([ALL_TRAFFIC], 53, "4*", ""),
        (["203.0.113.0/24"], 53, "4i", "deny_out[0] 203.0.113.0/24"),
        (["198.51.100.0/24", "evil.example"], 443, "4n", "deny_out[1] evil.example"),
        (["evil.example"], 853, "4n", "deny_out[0] evil.example"),
        (["evil.example"], 53, "5", ""),
        (["evil.example:80"], 443, "4n", "deny_out[0] evil.example:80"),
    ],
)
def test_udp_never_has_a_name(deny_out: list[str], port: int, code: str, shown: str) -> None:
    flow = flow_to("203.0.113.9", port, "udp")
    for allow_out in ([], ["api.openai.com"]):
        compiled = compile_policy(NetworkPolicy(allow_out, deny_out))
        assert settle(compiled, flow) == said(code, shown, None)
        assert decide(compiled, flow, None) == said(code, shown, None)
    allowed = compile_policy(NetworkPolicy(["203.0.113.9"], deny_out))
    assert settle(allowed, flow) == said("2", "allow_out[0] 203.0.113.9", None)


@pytest.mark.parametrize(("proto", "code"), [("udp", "4n"), ("sctp", "5"), ("icmp", "5")])
def test_only_udp_is_taken_for_quic(proto: str, code: str) -> None:
    compiled = compile_policy(NetworkPolicy([], ["evil.example"]))
    shown = "deny_out[0] evil.example" if code == "4n" else ""
    assert settle(compiled, flow_to("203.0.113.9", 443, proto)) == said(code, shown, None)


LISTED = NetworkPolicy(["api.openai.com", "localhost"], [ALL_TRAFFIC])


@pytest.mark.parametrize(
    "reason", [Reason.NO_NAME, Reason.BAD_HTTP, Reason.NO_HELLO, Reason.ESNI, Reason.TOO_LONG]
)
def test_an_unreadable_name_blocks_for_its_own_reason(reason: Reason) -> None:
    decided = decide(compile_policy(LISTED), flow_to("203.0.113.9"), Refused(reason))
    assert decided == Decision(Verdict.BLOCK, 4, "unreadable", reason)


def test_nothing_seen_blocks_where_a_name_is_needed() -> None:
    decided = decide(compile_policy(LISTED), flow_to("203.0.113.9"), None)
    assert decided == Decision(Verdict.BLOCK, 4, "unreadable", Reason.NO_HELLO)


@pytest.mark.parametrize(("named", "blocked"), [(None, False), (80, False), (443, True), (8080, True)])
def test_a_host_that_names_another_port(named: int | None, blocked: bool) -> None:
    seen = Sniffed("http", NAME, named)
    decided = decide(compile_policy(LISTED), flow_to("203.0.113.9", 80), seen)
    assert (decided.reason is Reason.PORT_MISMATCH) == blocked == (decided.verdict is Verdict.BLOCK)


@pytest.mark.parametrize(
    ("ech", "mode", "allowed"), [(False, "refuse", True), (True, "refuse", False), (True, "allow", True)]
)
def test_ech(ech: bool, mode: str, allowed: bool) -> None:
    for policy in (
        NetworkPolicy(["api.openai.com"], [ALL_TRAFFIC], ech=mode),
        NetworkPolicy([], ["evil.example"], ech=mode),
    ):
        decided = decide(compile_policy(policy), flow_to("203.0.113.9"), tls(NAME, ech=ech))
        assert (decided.verdict is Verdict.ALLOW) == allowed
        assert (decided.reason is Reason.ECH) == (not allowed)
        other = decide(compile_policy(policy), flow_to("203.0.113.9"), tls(OTHER, ech=ech))
        assert other.verdict is Verdict.BLOCK
        assert other.reason is not Reason.ECH


def test_a_single_label_passes_only_as_the_policy_names_it() -> None:
    listed, unlisted = tls("localhost"), tls("router")
    assert decide(compile_policy(LISTED), flow_to("203.0.113.9"), listed).target is Target.BOUND
    assert decide(compile_policy(LISTED), flow_to("203.0.113.9"), unlisted).verdict is Verdict.BLOCK
    denied = compile_policy(NetworkPolicy([], ["evil.example", "localhost"]))
    assert decide(denied, flow_to("203.0.113.9"), listed).reason is Reason.DENIED_NAME
    assert decide(denied, flow_to("203.0.113.9"), unlisted).reason is Reason.BAD_NAME


def test_all_traffic_is_both_families_and_the_other_is_ipv6_alone() -> None:
    both, six = (compile_policy(NetworkPolicy([], [entry])) for entry in ("0.0.0.0/0", "::/0"))
    assert [settle(both, flow_to(ASKED[v])) for v in (4, 6)] == [said("4*", "", None)] * 2
    six_denied = Decision(Verdict.BLOCK, 4, "deny_out[0] ::/0", Reason.NO_ALLOW_ENTRY)
    assert [settle(six, flow_to(ASKED[v])) for v in (4, 6)] == [said("5", "", None), six_denied]
    allowed = compile_policy(NetworkPolicy([ALL_TRAFFIC], [ALL_TRAFFIC]))
    assert [settle(allowed, flow_to(ASKED[v])) for v in (4, 6)] == [
        said("2", "allow_out[0] 0.0.0.0/0", None)
    ] * 2


def test_the_narrowest_entry_whose_ports_fit_then_the_earlier() -> None:
    deny_out = ["203.0.113.0/24", "203.0.113.9:80", "0.0.0.0/0", "203.0.113.0/24:443", "203.0.113.8/31:443"]
    compiled = compile_policy(NetworkPolicy([], deny_out))
    found = {port: decide(compiled, flow_to("203.0.113.9", port), None).entry for port in (80, 443, 22)}
    assert found == {
        80: "deny_out[1] 203.0.113.9:80",
        443: "deny_out[4] 203.0.113.8/31:443",
        22: "deny_out[0] 203.0.113.0/24",
    }


def test_a_mapped_address_is_the_address_it_maps() -> None:
    # A socket that is given ::ffff:203.0.113.9 dials 203.0.113.9: one destination, one decision.
    denied = compile_policy(NetworkPolicy([], ["203.0.113.9"]))
    assert settle(denied, flow_to("::ffff:203.0.113.9")) == said("4i", "deny_out[0] 203.0.113.9", None)
    allowed = compile_policy(NetworkPolicy(["203.0.113.9"], [ALL_TRAFFIC]))
    assert settle(allowed, flow_to("::ffff:203.0.113.9")) == said("2", "allow_out[0] 203.0.113.9", None)


def test_denied_by_address() -> None:
    compiled = compile_policy(NetworkPolicy(["api.openai.com"], ["203.0.113.0/24"]))
    assert denied_by_address(compiled, flow_to("203.0.113.9")) == said(
        "4i", "deny_out[0] 203.0.113.0/24", None
    )
    assert denied_by_address(compiled, flow_to("198.51.100.1")) is None


@pytest.mark.parametrize(
    ("allow_out", "deny_out", "forwarded"),
    [
        ([], [], (True, True)),
        (["api.openai.com"], [], (True, True)),
        (["api.openai.com"], ["10.0.0.0/8"], (True, True)),
        (["api.openai.com:8443"], [ALL_TRAFFIC], (True, False)),
        ([ALL_TRAFFIC], [ALL_TRAFFIC], (True, True)),
        (["10.0.0.0/8"], [ALL_TRAFFIC], (False, False)),
    ],
)
def test_the_names_that_dns_forwards(
    allow_out: list[str], deny_out: list[str], forwarded: tuple[bool, bool]
) -> None:
    compiled = compile_policy(NetworkPolicy(allow_out, deny_out))
    assert (compiled.forwards(NAME), compiled.forwards(OTHER)) == forwarded
