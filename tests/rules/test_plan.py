"""The kernel plan as a value: what it holds, and what the privileged process takes for one."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import pytest

from rules import NetworkPolicy
from rules.plan import LO, AddressSet, Chain, Link, Plan, Rule, build_plan, faults

POLICIES = {
    "full egress": None,
    "names": NetworkPolicy(["api.openai.com", "*.anthropic.com"], ["0.0.0.0/0"]),
    "another resolver": NetworkPolicy(["api.github.com"], ["0.0.0.0/0"], resolver="9.9.9.9"),
    "addresses only": NetworkPolicy(["203.0.113.0/24"], ["0.0.0.0/0"]),
    "nothing": NetworkPolicy([], ["0.0.0.0/0"]),
    "a resolver of IPv6": NetworkPolicy(["api.github.com"], ["0.0.0.0/0"], resolver="2001:4860:4860::8888"),
}
PLANS = {name: build_plan(policy) for name, policy in POLICIES.items()}
PLANS6 = {f"{name}, IPv6": build_plan(policy, family=6) for name, policy in POLICIES.items()}
NAMED = PLANS["names"]
NAMED6 = PLANS6["a resolver of IPv6, IPv6"]
VETH_NAMED = build_plan(
    NetworkPolicy(["api.openai.com", "10.0.0.0/8", "10.0.0.0/8:22"], ["0.0.0.0/0"]), "veth"
)
VETH_DENIED = build_plan(NetworkPolicy(["a.test:443"], ["evil.test", "2001:db8::/32"]), "veth", 6)
FORMS = {"lo": NAMED, "veth": VETH_NAMED, "veth, default allow, IPv6": VETH_DENIED}
LISTENER = {4: "127.86.0.1", 6: "100::56"}
REFUSAL = {4: "icmp-admin-prohibited", 6: "icmp6-adm-prohibited"}


@pytest.fixture(params=PLANS | PLANS6)
def plan(request: pytest.FixtureRequest) -> Plan:
    """One of each kind."""
    return (PLANS | PLANS6)[request.param]


def rules_of(plan: Plan, table: str, name: str) -> tuple[Rule, ...]:
    """Of one chain."""
    return next(chain.rules for chain in plan.chains if (chain.table, chain.name) == (table, name))


def test_a_plan_for_names_and_full_egress_answers_dns() -> None:
    assert {name: plan.resolver for name, plan in PLANS.items()} == {
        "full egress": "8.8.8.8",
        "names": "8.8.8.8",
        "another resolver": "9.9.9.9",
        "addresses only": None,
        "nothing": None,
        "a resolver of IPv6": None,
    }
    assert {name for name, plan in PLANS6.items() if plan.resolver is not None} == {
        "a resolver of IPv6, IPv6"
    }


def test_every_filter_chain_drops_by_policy(plan: Plan) -> None:
    policies = {chain.name: chain.policy for chain in plan.chains if chain.table == "filter"}
    assert policies == {"INPUT": "DROP", "FORWARD": "DROP", "OUTPUT": "DROP"}
    assert rules_of(plan, "filter", "FORWARD") == ()


def test_the_listener_cannot_be_dialled_before_anything_else_is_asked(plan: Plan) -> None:
    told, first = rules_of(plan, "mangle", "PREROUTING")[:2]
    assert first == Rule(
        "DROP", "lo", destination=LISTENER[plan.family], protocol="tcp", dport=LO.listen_port
    )
    assert told == replace(first, target="NFLOG", nflog_group=1)


def test_tcp_that_nothing_exempted_goes_to_the_listener(plan: Plan) -> None:
    last = rules_of(plan, "mangle", "PREROUTING")[-1]
    assert (last.target, last.protocol, last.destination, last.dport) == ("TPROXY", "tcp", None, None)
    assert (last.on_ip, last.on_port) == (LISTENER[plan.family], LO.listen_port)


def test_what_nothing_took_is_refused_at_once(plan: Plan) -> None:
    told, tcp, rest = rules_of(plan, "filter", "INPUT")[-3:]
    assert told == Rule("NFLOG", "lo", nflog_group=1)
    assert tcp == Rule("REJECT", "lo", protocol="tcp", reject_with="tcp-reset")
    assert rest == Rule("REJECT", "lo", reject_with=REFUSAL[plan.family])


def test_every_rule_names_the_links_device(plan: Plan) -> None:
    for chain in plan.chains:
        for rule in chain.rules:
            assert "lo" in (rule.in_interface, rule.out_interface)


def test_an_unknown_link_is_refused() -> None:
    with pytest.raises(ValueError, match="the links are lo, veth, iface"):
        build_plan(None, "tun")  # type: ignore[arg-type]


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a network namespace")
def test_the_text_is_what_iptables_restore_takes(plan: Plan) -> None:
    program = "iptables-legacy-restore" if plan.family == 4 else "ip6tables-legacy-restore"
    argv = ["unshare", "--net", program, "--test"]
    done = subprocess.run(argv, input=str(plan), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# -- what the privileged process takes


def test_what_build_plan_makes_is_taken(plan: Plan) -> None:
    assert faults(plan) == []


def with_chain(plan: Plan, number: int, **changes: Any) -> Plan:
    """``plan`` with one chain changed."""
    chains = list(plan.chains)
    chains[number] = replace(chains[number], **changes)
    return replace(plan, chains=tuple(chains))


def spoilt(plan: Plan) -> Iterator[tuple[str, Plan]]:
    """Every chain of ``plan`` in every way wrong."""
    device = plan.link.device
    for number, chain in enumerate(plan.chains):
        where = str(chain)
        for wide in (Rule("ACCEPT"), Rule("ACCEPT", device), Rule("RETURN", device), Rule("ACCEPT", "eth0")):
            yield f"{where}: {wide} first", with_chain(plan, number, rules=(wide, *chain.rules))
            yield f"{where}: {wide} last", with_chain(plan, number, rules=(*chain.rules, wide))
        yield (
            f"{where}: policy turned",
            with_chain(plan, number, policy="DROP" if chain.policy == "ACCEPT" else "ACCEPT"),
        )
        yield f"{where}: another name", with_chain(plan, number, name="ELSEWHERE")
        yield (
            f"{where}: the other table",
            with_chain(plan, number, table="filter" if chain.table == "mangle" else "mangle"),
        )
        yield (
            f"{where}: left out",
            replace(plan, chains=plan.chains[:number] + plan.chains[number + 1 :]),
        )
        yield f"{where}: twice", replace(plan, chains=(*plan.chains, chain))
        for i in range(len(chain.rules)):
            rest = chain.rules[:i] + chain.rules[i + 1 :]
            yield f"{where}: without rule {i}", with_chain(plan, number, rules=rest)
        if len(chain.rules) > 1:
            yield f"{where}: backwards", with_chain(plan, number, rules=chain.rules[::-1])
    yield "another chain", replace(plan, chains=(*plan.chains, Chain("mangle", "FORWARD", ())))
    yield "chains backwards", replace(plan, chains=plan.chains[::-1])
    yield "no chain", replace(plan, chains=())
    yield "another family", replace(plan, family=6 if plan.family == 4 else 4)
    yield "another uplink", replace(plan, uplink=not plan.uplink)


def deny6(*entries: str) -> Plan:
    """A plan with other entries in its ``deny6``."""
    sets = [replace(one, entries=entries) if one.name == "deny6" else one for one in VETH_DENIED.sets]
    return replace(VETH_DENIED, sets=tuple(sets))


def with_entries(number: int, *entries: str) -> Plan:
    """A plan with other entries in one of its sets: allow4, allow4-port, named4, named4-port."""
    sets = list(VETH_NAMED.sets)
    sets[number] = replace(sets[number], entries=entries)
    return replace(VETH_NAMED, sets=tuple(sets))


def spoilt_sets() -> Iterator[tuple[str, Plan]]:
    """Sets that no policy leads to."""
    for entry in (
        *("0.0.0.0/0", "10.0.0.0/08", "10.0.0.1/8", "10.0.0.1/32", "10.0.0.0/255.0.0.0", "010.0.0.0/8", " 10.0.0.0/8"),
        *("10.0.0.0/8 ", "10.0.0.0/8 nomatch", "10.0.0.0/8\nflush allow4", "", "2001:db8::/32", "x", "\ud800", "10.0.0.0/8,tcp:22"),
    ):  # fmt: skip
        yield f"allow4 {entry!r}", with_entries(0, entry)
    tcp, udp, sctp = (f"10.0.0.0/8,{protocol}:22" for protocol in ("tcp", "udp", "sctp"))
    assert VETH_NAMED.sets[1].entries == (tcp, udp, sctp)
    for entries in (
        *((tcp,), (tcp, udp), (udp, tcp, sctp), (tcp, udp, sctp, tcp), (tcp, udp, "10.0.0.0/8,icmp:22")),
        *(tuple(entry.replace(":22", port) for entry in (tcp, udp, sctp)) for port in (":0", ":65536", ":022", ":-1", "", ":1-9", ": 1")),
    ):  # fmt: skip
        yield f"allow4-port {entries}", with_entries(1, *entries)
    for entries in (
        ("0.0.0.0/1",),
        ("128.0.0.0/1", "0.0.0.0/1"),
        ("10.0.0.0/8",),
        ("0.0.0.0/1", "128.0.0.0/1", "1.1.1.1"),
    ):
        yield f"named4 {entries}", with_entries(2, *entries)
    for entries in (
        ("0.0.0.0/1,tcp:443",),
        ("0.0.0.0/1,tcp:443", "128.0.0.0/1,tcp:80"),
        ("0.0.0.0/1,udp:443", "128.0.0.0/1,udp:443"),
    ):
        yield (
            f"named4-port {entries}",
            replace(
                with_entries(2),
                sets=(*with_entries(2).sets[:3], replace(VETH_NAMED.sets[3], entries=entries)),
            ),
        )
    for entry in (
        "2001:db8::%x/32",
        "2001:db8::1%x",
        "2001:db8::%x\\nflush allow6/32",
        "::/0",
        "10.0.0.0/8",
        "2001:DB8::/32",
    ):
        yield f"deny6 {entry!r}", deny6(entry)
    sets = VETH_NAMED.sets
    yield "no sets", replace(VETH_NAMED, sets=())
    yield "a set twice", replace(VETH_NAMED, sets=(*sets, sets[0]))
    yield "sets backwards", replace(VETH_NAMED, sets=sets[::-1])
    yield "one set more", replace(VETH_NAMED, sets=(*sets, AddressSet("deny4", 4, "hash:net")))
    yield "a set on lo", replace(NAMED, sets=sets[:1])
    changes: dict[str, Any]
    for changes in ({"name": "other"}, {"name": "allow4 x"}, {"family": 6}, {"kind": "hash:net,port"}):
        yield f"a set's {changes}", replace(VETH_NAMED, sets=(replace(sets[0], **changes), *sets[1:]))


def hostile() -> Iterator[tuple[str, Plan]]:
    """What a process that was taken over might ask for."""
    for form, plan in FORMS.items():
        yield from ((f"{form}: {what}", wrong) for what, wrong in spoilt(plan))
    yield from spoilt_sets()
    for text in ("9.9.9.9", None):
        yield f"resolver {text}, rules of another", replace(NAMED, resolver=text)
    for text in (
        "127.0.0.1",
        "169.254.169.254",
        "0.0.0.0",
        "::1",
        "8.8.8.8/0",
        "08.8.8.8",
        "",
        "x",
        "\ud800",
    ):
        yield f"resolver {text!r}", replace(build_plan(NetworkPolicy(["a.test"])), resolver=text)
        yield f"resolver {text!r} throughout", renamed(NAMED, text)
    for text in ("2001:db8::1%x", "2001:db8::1%\nCOMMIT", "2001:db8:0::1", "8.8.8.8"):
        yield f"resolver {text!r} throughout, IPv6", renamed(NAMED6, text)
    for field in fields(Link):
        for value in ("eth0", "127.0.0.1", "8.8.8.8", "junk", "", 0, 1024, -1):
            changes: Any = {field.name: value}
            for form, plan in FORMS.items():
                link = replace(plan.link, **changes)
                yield f"{form}: link.{field.name} {value!r}", replace(plan, link=link)
                if field.name != "kind" and value:
                    throughout = build_plan(POLICIES["names"], link, plan.family)
                    yield f"{form}: link.{field.name} {value!r} throughout", throughout


def renamed(plan: Plan, resolver: str) -> Plan:
    """``plan`` as it would be for ``resolver``, which no policy could have named."""
    chains = tuple(
        replace(
            chain,
            rules=tuple(
                replace(rule, destination=resolver) if rule.destination == plan.resolver else rule
                for rule in chain.rules
            ),
        )
        for chain in plan.chains
    )
    return replace(plan, chains=chains, resolver=resolver)


HOSTILE = dict(hostile())


@pytest.mark.parametrize("what", HOSTILE)
def test_what_build_plan_could_not_make_is_refused(what: str) -> None:
    wrong = faults(HOSTILE[what])
    assert wrong
    assert all(len(line) < 200 for line in wrong)


@pytest.mark.parametrize("field", [field.name for field in fields(Rule)])
def test_a_rule_changed_in_any_field_is_refused(field: str) -> None:
    values = {"target": "ACCEPT", "dport": 54, "on_port": 2, "protocol": "udp"}
    for plan, (number, chain) in ((one, held) for one in FORMS.values() for held in enumerate(one.chains)):
        for i, rule in enumerate(chain.rules):
            for value in (values.get(field, "x"), None):
                if getattr(rule, field) == value:
                    continue
                changes: Any = {field: value}
                changed = replace(rule, **changes)
                rules = (*chain.rules[:i], changed, *chain.rules[i + 1 :])
                assert faults(with_chain(plan, number, rules=rules)), (str(chain), i, value)
