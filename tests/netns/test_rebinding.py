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
    "loopback": ("A", "127.0.0.1"),
    "metadata": ("A", METADATA_IP),
    "private": ("A", DECOY_IP),
    "the host's own": ("A", HOST_IP),
    "this network": ("A", "0.0.0.0"),
    "shared": ("A", "100.64.0.1"),
    "the sinkhole": ("A", SINKHOLE),
    "loopback6": ("AAAA", "::1"),
    "mapped": ("AAAA", f"::ffff:{METADATA_IP}"),
    "mapped private": ("AAAA", f"::ffff:{DECOY_IP}"),
    "NAT64": ("AAAA", "64:ff9b::a9fe:a9fe"),
    "6to4": ("AAAA", "2002:a9fe:a9fe::1"),
    "unique local": ("AAAA", "fd00::1"),
    "the host's own6": ("AAAA", HOST_IP6),
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


@pytest.mark.parametrize("what", FORBIDDEN)
def test_a_forbidden_answer_is_refused_and_not_told(lab: Lab, what: str) -> None:
    kind, address = FORBIDDEN[what]
    lab.zone.put(NAME, {kind: [address]})
    with Puppet(lab, allow=ALLOW) as puppet:
        _sent_by(puppet, ip=address if what == "private" else GOOD_IP)
        assert _refused(puppet)["reason"] == "forbidden_answer"
    outcome = egress_run(lab, ["dig", "+short", NAME, kind], allow=ALLOW)
    assert outcome.stdout == "", "nor does the sandbox hear of it"
    found = [(record["event"], record["reason"]) for record in outcome.records]
    assert found == [("dns_allowed", "allowed_name"), ("dns_blocked", "forbidden_answer")]
    assert _connections(lab) == []
    assert lab.capture.lost() == 0


@pytest.mark.parametrize("first", [METADATA_IP, DECOY_IP, HOST_IP])
def test_among_others_it_is_passed_over(lab: Lab, first: str) -> None:
    lab.zone.put(NAME, {"A": [first, "127.0.0.1", GOOD_IP], "AAAA": [f"::ffff:{first}"]})
    outcome = egress_run(lab, ["curl", "-sS", f"http://{NAME}/"], allow=ALLOW)
    assert json.loads(outcome.stdout)["address"] == GOOD_IP
    told = egress_run(lab, ["dig", "+short", NAME, "A", NAME, "AAAA"], allow=ALLOW)
    assert told.stdout.split() == [GOOD_IP]
    with Puppet(lab, allow=ALLOW) as puppet:
        puppet.connect(first, 80) if first == DECOY_IP else puppet.connect(GOOD_IP, 80)
        puppet.send(get(NAME))
        assert b"200 OK" in puppet.receive_all()
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
    once = "curl -sS --max-time 4 http://$host/ || echo none; sleep 2.6"
    each = f"for n in 1 2 3 4 5 6; do {once}; done > $host"
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


@pytest.mark.timeout(40)
@pytest.mark.parametrize("step", [{"drop": True}, {"A": [GOOD_IP], "delay_s": 9}], ids=["dead", "slow"])
def test_only_the_flows_that_need_the_answer_wait_for_it(lab: Lab, step: dict[str, Any]) -> None:
    lab.zone.put(NAME, step)
    lab.zone.put("fine.test", {"A": [GOOD_IP]})
    with Puppet(lab, allow=[*ALLOW, f"{GOOD_IP}:7"]) as puppet:
        began = time.monotonic()
        for number in (1, 2, 3):
            _sent_by(puppet, number=number)
        lab.far.wait("dns", name=NAME)
        for number in range(10, 20):
            puppet.connect(GOOD_IP, 80, number)
            puppet.send(get("fine.test"), number)
            assert b"200 OK" in puppet.receive_all(number)
        puppet.connect(GOOD_IP, Port.ECHO, 30)
        puppet.send(b"x", 30)
        assert puppet.do("receive", id=30) == b"x".hex()
        assert time.monotonic() - began < 2, "the others went on meanwhile"
        decisions = puppet.await_decisions(14, 8)
        assert 4 < time.monotonic() - began < 6.5
    late = [record for record in decisions if record["domain"] == NAME]
    assert [(record["event"], record["reason"]) for record in late] == [
        ("egress_blocked", "resolve_timeout")
    ] * 3
    assert len(lab.far.entries("dns", name=NAME, type="A")) <= 4, "three flows, one question"


@pytest.mark.timeout(40)
def test_a_dead_resolver_holds_up_no_query_for_another_name(lab: Lab) -> None:
    lab.zone.put("slow.test", {"drop": True})
    lab.zone.put("fine.test", {"A": [GOOD_IP]})
    others = "dig +short fine.test; dig +short evil.test; cat slow"
    script = f"dig +tries=1 +timeout=9 slow.test > slow & {others}; echo; wait; grep status slow"
    outcome = egress_run(lab, ["sh", "-c", script], allow=ALLOW)
    assert outcome.stdout.split("\n")[:3] == [GOOD_IP, SINKHOLE, ""], "answered before the slow one was"
    assert "status: SERVFAIL" in outcome.stdout


LIES = ["id", "question", "source", "garbage"]


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_before_the_answer_is_passed_over(lab: Lab, lie: str) -> None:
    lab.zone.put(NAME, {"A": [GOOD_IP], "lies": [lie]})
    outcome = egress_run(lab, ["sh", "-c", f"dig +short {NAME}; curl -sS http://{NAME}/"], allow=ALLOW)
    assert ATTACKER_IP not in outcome.stdout
    assert outcome.stdout.count(GOOD_IP) == 2, outcome
    assert set(_connections(lab)) == {GOOD_IP}


@pytest.mark.timeout(40)
def test_lies_alone_are_no_answer(lab: Lab) -> None:
    lab.zone.put(NAME, {"drop": True, "lies": LIES})
    with Puppet(lab, allow=ALLOW) as puppet:
        _sent_by(puppet)
        assert _refused(puppet)["reason"] == "resolve_timeout"
    assert _connections(lab) == []
