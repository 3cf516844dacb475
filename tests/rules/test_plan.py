"""The kernel plan as a value: what it holds, and what the privileged process takes for one."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import pytest

from rules import NetworkPolicy
from rules.plan import LO, Chain, Link, Plan, Rule, build_plan, faults

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
    first = rules_of(plan, "mangle", "PREROUTING")[0]
    assert first == Rule(
        "DROP", "lo", destination=LISTENER[plan.family], protocol="tcp", dport=LO.listen_port
    )


def test_tcp_that_nothing_exempted_goes_to_the_listener(plan: Plan) -> None:
    last = rules_of(plan, "mangle", "PREROUTING")[-1]
    assert (last.target, last.protocol, last.destination, last.dport) == ("TPROXY", "tcp", None, None)
    assert (last.on_ip, last.on_port) == (LISTENER[plan.family], LO.listen_port)


def test_what_nothing_took_is_refused_at_once(plan: Plan) -> None:
    tcp, rest = rules_of(plan, "filter", "INPUT")[-2:]
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


def hostile() -> Iterator[tuple[str, Plan]]:
    """What a process that was taken over might ask for."""
    for number, chain in enumerate(NAMED.chains):
        where = f"{chain.table} {chain.name}"
        for wide in (Rule("ACCEPT"), Rule("ACCEPT", "lo"), Rule("RETURN", "lo"), Rule("ACCEPT", "eth0")):
            yield f"{where}: {wide} first", with_chain(NAMED, number, rules=(wide, *chain.rules))
            yield f"{where}: {wide} last", with_chain(NAMED, number, rules=(*chain.rules, wide))
        yield (
            f"{where}: policy turned",
            with_chain(NAMED, number, policy="DROP" if chain.policy == "ACCEPT" else "ACCEPT"),
        )
        yield f"{where}: another name", with_chain(NAMED, number, name="POSTROUTING")
        yield (
            f"{where}: the other table",
            with_chain(NAMED, number, table="filter" if number == 0 else "mangle"),
        )
        yield (
            f"{where}: left out",
            replace(NAMED, chains=NAMED.chains[:number] + NAMED.chains[number + 1 :]),
        )
        yield f"{where}: twice", replace(NAMED, chains=(*NAMED.chains, chain))
        for i in range(len(chain.rules)):
            rest = chain.rules[:i] + chain.rules[i + 1 :]
            yield f"{where}: without rule {i}", with_chain(NAMED, number, rules=rest)
        if len(chain.rules) > 1:
            yield f"{where}: backwards", with_chain(NAMED, number, rules=chain.rules[::-1])
    yield "another chain", replace(NAMED, chains=(*NAMED.chains, Chain("mangle", "FORWARD", ())))
    yield "chains backwards", replace(NAMED, chains=NAMED.chains[::-1])
    yield "no chain", replace(NAMED, chains=())
    yield "another family", replace(NAMED, family=6)
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
        yield f"resolver {text!r} throughout", renamed(text)
    for field in fields(Link):
        for value in ("eth0", "127.0.0.1", "8.8.8.8", "junk", "", 0, 1024, -1):
            changes: Any = {field.name: value}
            link = replace(LO, **changes)
            yield f"link.{field.name} {value!r}", replace(NAMED, link=link)
            if field.name != "kind":
                yield f"link.{field.name} {value!r} throughout", build_plan(POLICIES["names"], link)


def renamed(resolver: str) -> Plan:
    """The plan as it would be for ``resolver``, which no policy could have named."""
    chains = tuple(
        replace(
            chain,
            rules=tuple(
                replace(rule, destination=resolver) if rule.destination == "8.8.8.8" else rule
                for rule in chain.rules
            ),
        )
        for chain in NAMED.chains
    )
    return replace(NAMED, chains=chains, resolver=resolver)


HOSTILE = dict(hostile())


@pytest.mark.parametrize("what", HOSTILE)
def test_what_build_plan_could_not_make_is_refused(what: str) -> None:
    wrong = faults(HOSTILE[what])
    assert wrong
    assert all(len(line) < 200 for line in wrong)


@pytest.mark.parametrize("field", [field.name for field in fields(Rule)])
def test_a_rule_changed_in_any_field_is_refused(field: str) -> None:
    values = {"target": "ACCEPT", "dport": 54, "on_port": 2, "protocol": "udp"}
    for number, chain in enumerate(NAMED.chains):
        for i, rule in enumerate(chain.rules):
            for value in (values.get(field, "x"), None):
                if getattr(rule, field) == value:
                    continue
                changes: Any = {field: value}
                changed = replace(rule, **changes)
                rules = (*chain.rules[:i], changed, *chain.rules[i + 1 :])
                assert faults(with_chain(NAMED, number, rules=rules)), (chain.name, i, value)
