"""A name that the policy allows, and an answer to it that is hostile, slow or false: it reaches nothing that is forbidden."""

import json
import time
from typing import Any

import pytest

from tests.lab.lab import Lab
from tests.lab.places import ATTACKER_IP, DECOY_IP, GOOD_IP, HOST_IP, HOST_IP6, METADATA_IP, Port
from tests.lab.sandboxed import Record, egress_run
from tests.netns.hello import client_hello, get
from tests.netns.puppet import Puppet

pytestmark = pytest.mark.root

NAME = "rebind.test"
ALLOW = [NAME, "fine.test", "slow.test"]
SINKHOLE = "192.0.0.8"

FORBIDDEN = {
    "loopback.test": ("A", "127.0.0.1"),
    "metadata.test": ("A", METADATA_IP),
    "private.test": ("A", DECOY_IP),
    "the-hosts-own.test": ("A", HOST_IP),
    "this-network.test": ("A", "0.0.0.0"),
    "shared.test": ("A", "100.64.0.1"),
    "the-sinkhole.test": ("A", SINKHOLE),
    "loopback6.test": ("AAAA", "::1"),
    "mapped.test": ("AAAA", f"::ffff:{METADATA_IP}"),
    "mapped-private.test": ("AAAA", f"::ffff:{DECOY_IP}"),
    "nat64.test": ("AAAA", "64:ff9b::a9fe:a9fe"),
    "6to4.test": ("AAAA", "2002:a9fe:a9fe::1"),
    "unique-local.test": ("AAAA", "fd00::1"),
    "the-hosts-own6.test": ("AAAA", HOST_IP6),
}


def _connections(lab: Lab) -> list[str]:
    """Where a SYN was sent to."""
    return [packet.dst for packet in lab.capture.packets(proto="tcp") if packet.flags == "S"]


def _sent_by(puppet: Puppet, host: str = NAME, number: int = 1, ip: str = GOOD_IP) -> None:
    puppet.connect(ip, Port.HTTPS, number)
    puppet.send(client_hello(host), number)


def _refused(puppet: Puppet, count: int = 1) -> Record:
    record = puppet.await_decisions(count)[-1]
    assert (record["event"], record["domain"], record["upstream_ip"]) == ("egress_blocked", NAME, None)
    return record


# -- where a name may not lead


def test_a_forbidden_answer_is_refused_and_not_told(lab: Lab) -> None:
    for name, (kind, address) in FORBIDDEN.items():
        lab.zone.put(name, {kind: [address]})
    with Puppet(lab, allow=[*FORBIDDEN]) as puppet:
        for number, (name, (_, address)) in enumerate(FORBIDDEN.items()):
            _sent_by(puppet, name, number, address if address == DECOY_IP else GOOD_IP)
        decided = puppet.await_decisions(len(FORBIDDEN))
    made = {
        record["domain"]: (record["event"], record["reason"], record["upstream_ip"]) for record in decided
    }
    assert made == dict.fromkeys(FORBIDDEN, ("egress_blocked", "forbidden_answer", None))
    assert len(decided) == len(FORBIDDEN)
    questions = [word for name, (kind, _) in FORBIDDEN.items() for word in (name, kind)]
    outcome = egress_run(lab, ["dig", "+short", *questions], allow=[*FORBIDDEN])
    assert outcome.stdout == "", "nor does the sandbox hear of it"
    found: dict[str, list[tuple[str, str]]] = {}
    for record in outcome.records:
        found.setdefault(record["domain"], []).append((record["event"], record["reason"]))
    told = [("dns_allowed", "allowed_name"), ("dns_blocked", "forbidden_answer")]
    assert found == dict.fromkeys(FORBIDDEN, told)
    assert _connections(lab) == []
    assert lab.capture.lost() == 0


def test_among_others_it_is_passed_over(lab: Lab) -> None:
    names = {"metadata.test": METADATA_IP, "private.test": DECOY_IP, "host.test": HOST_IP}
    for name, first in names.items():
        lab.zone.put(name, {"A": [first, "127.0.0.1", GOOD_IP], "AAAA": [f"::ffff:{first}"]})
    script = f"for name in {' '.join(names)}; do curl -sS -w '\\n' http://$name/; done"
    outcome = egress_run(lab, ["sh", "-c", script], allow=[*names])
    pages = [line for line in outcome.stdout.splitlines() if line]
    assert [json.loads(page)["address"] for page in pages] == [GOOD_IP] * len(names)
    questions = [word for name in names for word in (name, "A", name, "AAAA")]
    told = egress_run(lab, ["dig", "+short", *questions], allow=[*names])
    assert told.stdout.split() == [GOOD_IP] * len(names)
    with Puppet(lab, allow=[*names]) as puppet:
        for number, (name, first) in enumerate(names.items()):
            puppet.connect(first if first == DECOY_IP else GOOD_IP, 80, number)
            puppet.send(get(name), number)
            assert b"200 OK" in puppet.receive_all(number)
    assert set(_connections(lab)) == {GOOD_IP}


def test_a_private_address_is_reached_where_an_entry_allows_it_too(lab: Lab) -> None:
    lab.zone.put(NAME, {"A": [DECOY_IP, "10.99.0.1"]})
    allow = [*ALLOW, f"{DECOY_IP}:80"]
    told = egress_run(lab, ["dig", "+short", NAME], allow=allow)
    assert told.stdout.split() == [DECOY_IP]
    outcome = egress_run(lab, ["curl", "-sS", f"http://{NAME}/"], allow=allow)
    assert json.loads(outcome.stdout)["address"] == DECOY_IP
    with Puppet(lab, allow=allow) as puppet:
        _sent_by(puppet)
        assert _refused(puppet)["reason"] == "forbidden_answer", "at another port it is not"
    assert _connections(lab) == [DECOY_IP]


@pytest.mark.timeout(60)
def test_good_and_bad_in_turn_reach_the_good_one_alone(lab: Lab) -> None:
    """With a TTL of 0, which is kept for five seconds."""
    good: dict[str, Any] = {"A": [GOOD_IP], "ttl": 0}
    hosts = {"metadata.test": METADATA_IP, "private.test": DECOY_IP, "host.test": HOST_IP}
    for host, bad in hosts.items():
        lab.zone.put(host, good, {"A": [bad], "ttl": 0}, good, {"A": [bad], "ttl": 0})
    once = "curl -sS --max-time 4 http://$host/ || echo none"
    each = f"for pause in 0 2.6 2.6 2.6 2.6; do sleep $pause; {once}; done > $host"
    script = f"for host in {' '.join(hosts)}; do ({each}) & done; wait; tail -n +1 {' '.join(hosts)}"
    outcome = egress_run(lab, ["sh", "-c", script], allow=[*hosts], timeout=50)
    told = outcome.stdout.split("==> ")[1:]
    assert len(told) == len(hosts), outcome
    for one in told:
        lines = [line for line in one.splitlines()[1:] if line]
        seen = ["none" if line == "none" else json.loads(line)["address"] for line in lines]
        assert set(seen) == {GOOD_IP, "none"}, outcome
        assert seen[:2] == [GOOD_IP] * 2, "what was told is what is dialled"
    assert set(_connections(lab)) == {GOOD_IP}


def test_between_the_clients_question_and_the_gateways_there_is_no_other_answer(lab: Lab) -> None:
    lab.zone.put(NAME, {"A": [GOOD_IP], "ttl": 0}, {"A": [ATTACKER_IP], "ttl": 0})
    outcome = egress_run(lab, ["curl", "-sS", "-4", f"http://{NAME}/"], allow=ALLOW)
    assert json.loads(outcome.stdout)["address"] == GOOD_IP
    assert _connections(lab) == [GOOD_IP]
    assert [entry["answer"] for entry in lab.far.entries("dns", type="A")] == [[GOOD_IP]]


# -- chains


def test_a_cname_gains_nothing(lab: Lab) -> None:
    lab.zone.put("inner.test", {"A": [METADATA_IP]})
    lab.zone.put(NAME, {"CNAME": ["inner.test."]})
    lab.zone.put("outside.test", {"CNAME": ["fine.test."]})
    lab.zone.put("fine.test", {"A": [GOOD_IP]})
    with Puppet(lab, allow=ALLOW) as puppet:
        _sent_by(puppet)
        assert _refused(puppet)["reason"] == "forbidden_answer"
        _sent_by(puppet, "inner.test", 2)
        record = puppet.await_decisions(2)[1]
        assert (record["domain"], record["reason"]) == ("inner.test", "no_allow_entry")
    lab.far.mark()
    outcome = egress_run(lab, ["dig", "+short", "outside.test", "inner.test"], allow=ALLOW)
    assert outcome.stdout.split() == [SINKHOLE] * 2, (
        "a name that is not allowed leads nowhere, whatever it is an alias of"
    )
    assert lab.far.entries("dns") == []
    assert _connections(lab) == []


def test_records_that_nobody_asked_for_are_neither_told_nor_kept(lab: Lab) -> None:
    extra = [f"fine.test. A {ATTACKER_IP}", f"evil.test. A {ATTACKER_IP}"]
    lab.zone.put(NAME, {"A": [GOOD_IP], "extra": extra})
    lab.zone.put("fine.test", {"A": [GOOD_IP]})
    script = f"dig +noall +answer {NAME}; curl -sS http://fine.test/"
    outcome = egress_run(lab, ["sh", "-c", script], allow=ALLOW)
    assert ATTACKER_IP not in outcome.stdout
    assert outcome.stdout.count(GOOD_IP) == 2, outcome
    assert set(_connections(lab)) == {GOOD_IP}


# -- slow, dead, lying


LIES = ["id", "question", "source", "garbage"]


@pytest.mark.timeout(60)
def test_only_the_flows_that_need_the_answer_wait_for_it(lab: Lab) -> None:
    late: dict[str, dict[str, Any]] = {
        "dead.test": {"drop": True},
        "slow.test": {"A": [GOOD_IP], "delay_s": 9},
        "lies.test": {"drop": True, "lies": LIES},
    }
    for name, step in late.items():
        lab.zone.put(name, step)
    lab.zone.put("fine.test", {"A": [GOOD_IP]})
    with Puppet(lab, allow=[*late, "fine.test", f"{GOOD_IP}:7"]) as puppet:
        began = time.monotonic()
        for number, name in enumerate([*late] * 3):
            _sent_by(puppet, name, number)
        for name in late:
            lab.far.wait("dns", name=name)
        for number in range(10, 20):
            puppet.connect(GOOD_IP, 80, number)
            puppet.send(get("fine.test"), number)
            assert b"200 OK" in puppet.receive_all(number)
        meanwhile = puppet.await_decisions(10)
        puppet.connect(GOOD_IP, Port.ECHO, 30)
        puppet.send(b"x", 30)
        assert puppet.do("receive", id=30) == b"x".hex()
        decisions = puppet.await_decisions(20, 30)
        assert time.monotonic() - began > 4
    assert {record["domain"] for record in meanwhile} == {"fine.test"}, "the others went on"
    found = sorted((record["domain"], record["reason"]) for record in decisions if record["domain"] in late)
    assert found == sorted((name, "resolve_timeout") for name in [*late] * 3)
    for name in late:
        assert len(lab.far.entries("dns", name=name, type="A")) <= 4, "three flows, one question"
    assert set(_connections(lab)) == {GOOD_IP}


@pytest.mark.timeout(40)
def test_a_dead_resolver_holds_up_no_query_for_another_name(lab: Lab) -> None:
    lab.zone.put("slow.test", {"drop": True})
    lab.zone.put("fine.test", {"A": [GOOD_IP]})
    others = "dig +short fine.test; dig +short evil.test; cat slow"
    script = f"dig +tries=1 +timeout=9 slow.test > slow & {others}; echo; wait; grep status slow"
    outcome = egress_run(lab, ["sh", "-c", script], allow=ALLOW)
    assert outcome.stdout.split("\n")[:3] == [GOOD_IP, SINKHOLE, ""], "answered before the slow one was"
    assert "status: SERVFAIL" in outcome.stdout


def test_a_lie_before_the_answer_is_passed_over(lab: Lab) -> None:
    names = [f"{lie}.test" for lie in LIES]
    for name, lie in zip(names, LIES, strict=True):
        lab.zone.put(name, {"A": [GOOD_IP], "lies": [lie]})
    script = f"for name in {' '.join(names)}; do dig +short $name; curl -sS http://$name/; done"
    outcome = egress_run(lab, ["sh", "-c", script], allow=names)
    assert ATTACKER_IP not in outcome.stdout
    assert outcome.stdout.count(GOOD_IP) == 2 * len(names), outcome
    assert set(_connections(lab)) == {GOOD_IP}
