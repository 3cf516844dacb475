"""A name that the policy allows, and an answer to it that is hostile, slow or false: it reaches nothing that is forbidden."""

import json
import subprocess
import time
from typing import Any

import pytest

from tests.lab.lab import Lab
from tests.lab.places import ATTACKER_IP, DECOY_IP, GOOD_IP, HOST_IP, HOST_IP6, METADATA_IP, Port
from tests.lab.sandboxed import Record, egress_argv, egress_run, new_audit_dir
from tests.netns.hello import client_hello, get
from tests.netns.puppet import Puppet
from tests.netns.test_run import wait_for

pytestmark = pytest.mark.root

NAME = "rebind.test"
ALLOW = [NAME, "fine.test"]
SINKHOLE = "192.0.0.8"
DIG = ["dig", "+tries=1", "+timeout=30", "+short"]
"""Whose output is the answers, however late they come."""

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
    """Where to, one a connection: a SYN that was not answered in time is sent again."""
    syns = [packet for packet in lab.capture.packets(proto="tcp") if packet.flags == "S"]
    return [dst for dst, _ in dict.fromkeys((packet.dst, packet.sport) for packet in syns)]


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
    outcome = egress_run(lab, [*DIG, *questions], allow=[*FORBIDDEN])
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
    told = egress_run(lab, [*DIG, *questions], allow=[*names])
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
    told = egress_run(lab, [*DIG, NAME], allow=allow)
    assert told.stdout.split() == [DECOY_IP]
    outcome = egress_run(lab, ["curl", "-sS", f"http://{NAME}/"], allow=allow)
    assert json.loads(outcome.stdout)["address"] == DECOY_IP
    with Puppet(lab, allow=allow) as puppet:
        _sent_by(puppet)
        assert _refused(puppet)["reason"] == "forbidden_answer", "at another port it is not"
    assert _connections(lab) == [DECOY_IP]


@pytest.mark.timeout(90)
def test_good_and_bad_in_turn_reach_the_good_one_alone(lab: Lab) -> None:
    """With a TTL of 0, which is kept for five seconds."""
    good: dict[str, Any] = {"A": [GOOD_IP], "ttl": 0}
    hosts = {"metadata.test": METADATA_IP, "private.test": DECOY_IP, "host.test": HOST_IP}
    script = "while read host; do curl -sSf --max-time 30 http://$host/ || echo none; done"
    argv = egress_argv(new_audit_dir(lab), ["sh", "-c", script], allow=[*hosts])
    kept = []
    with lab.popen(argv, stdin=subprocess.PIPE) as process:

        def seen(host: str) -> str:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(f"{host}\n")
            process.stdin.flush()
            line = process.stdout.readline()
            address: str = "none" if line == "none\n" else json.loads(line)["address"]
            assert address in (GOOD_IP, "none")
            return address

        for host, bad in hosts.items():
            lab.zone.put(host, good)
            assert seen(host) == GOOD_IP
            lab.zone.put(host, {"A": [bad], "ttl": 0})
            lab.far.mark()
            kept.append(seen(host) == GOOD_IP)
            assert kept[-1] is not bool(lab.far.entries("dns", name=host, type="A")), (
                "what was told is what is dialled"
            )
        assert any(kept), "all of them are late only where it is not kept"
        for host in hosts:
            wait_for(lambda: seen(host) == "none", 30, pause_s=0.5)  # noqa: B023 - called at once
            lab.zone.put(host, good)
        for host in hosts:
            wait_for(lambda: seen(host) == GOOD_IP, 30, pause_s=0.5)  # noqa: B023 - called at once
        process.communicate(timeout=30)
    assert set(_connections(lab)) == {GOOD_IP}


def test_between_the_clients_question_and_the_gateways_there_is_no_other_answer(lab: Lab) -> None:
    """Of several names, for it is kept only so long: whoever is late for one of them is not for all."""
    names = [f"{number}.rebind.test" for number in range(3)]
    for name in names:
        lab.zone.put(name, {"A": [GOOD_IP], "ttl": 0}, {"A": [ATTACKER_IP], "ttl": 0})
    script = f"for name in {' '.join(names)}; do curl -sS -4 http://$name/; done"
    outcome = egress_run(lab, ["sh", "-c", script], allow=["*.rebind.test"])
    dialled = [json.loads(line)["address"] for line in outcome.stdout.splitlines()]
    told = [[entry["answer"] for entry in lab.far.entries("dns", name=name, type="A")] for name in names]
    assert dialled == [answers[-1][0] for answers in told]
    assert dialled == _connections(lab)
    assert [[GOOD_IP]] in told


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
    outcome = egress_run(lab, [*DIG, "outside.test", "inner.test"], allow=ALLOW)
    assert outcome.stdout.split() == [SINKHOLE] * 2, (
        "a name that is not allowed leads nowhere, whatever it is an alias of"
    )
    # Of the other family of that name a question may have been under way.
    assert {entry["name"] for entry in lab.far.entries("dns")} <= {NAME}
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
LATE: dict[str, dict[str, Any]] = {
    "dead": {"drop": True},
    "slow": {"A": [GOOD_IP], "delay_s": 9},
    "lies": {"drop": True, "lies": LIES},
}
TURNS = 3
"""The late ones give up after 4.5 s. A turn in which the machine held the others up till then says nothing."""


@pytest.mark.timeout(90)
def test_only_the_flows_that_need_the_answer_wait_for_it(lab: Lab) -> None:
    late = {f"{kind}-{turn}.test": step for turn in range(TURNS) for kind, step in LATE.items()}
    for name, step in late.items():
        lab.zone.put(name, step)
    lab.zone.put("*.fine.test", {"A": [GOOD_IP]})
    with Puppet(lab, allow=[*late, "*.fine.test", f"{GOOD_IP}:7"]) as puppet:
        for turn in range(TURNS):
            names, fine = [f"{kind}-{turn}.test" for kind in LATE], f"{turn}.fine.test"
            before, began = len(puppet.decisions()), time.monotonic()
            for number, name in enumerate(names * 3):
                _sent_by(puppet, name, number)
            for name in names:
                lab.far.wait("dns", name=name)
            for number in range(10, 20):
                puppet.connect(GOOD_IP, 80, number)
                puppet.send(get(fine), number)
                assert b"200 OK" in puppet.receive_all(number)
            meanwhile = puppet.await_decisions(before + 10)[before:]
            in_time = time.monotonic() - began < 4
            puppet.connect(GOOD_IP, Port.ECHO, 30)
            puppet.send(b"x", 30)
            assert puppet.do("receive", id=30) == b"x".hex()
            decisions = puppet.await_decisions(before + 20)[before:]
            assert time.monotonic() - began > 4
            if in_time:
                break
    assert in_time
    assert {record["domain"] for record in meanwhile} == {fine}, "the others went on"
    found = sorted((record["domain"], record["reason"]) for record in decisions if record["domain"] in names)
    assert found == sorted((name, "resolve_timeout") for name in names * 3)
    for name in names:
        assert len(lab.far.entries("dns", name=name, type="A")) <= 4, "three flows, one question"
    assert set(_connections(lab)) == {GOOD_IP}


@pytest.mark.timeout(90)
def test_a_dead_resolver_holds_up_no_query_for_another_name(lab: Lab) -> None:
    lab.zone.put("*.slow.test", {"drop": True})
    lab.zone.put("*.fine.test", {"A": [GOOD_IP]})
    dig = " ".join(DIG)
    script = f"""
for turn in $(seq {TURNS}); do
    dig +tries=1 +timeout=30 $turn.slow.test > slow-$turn &
    {dig} $turn.fine.test; {dig} evil.test
    if [ ! -s slow-$turn ]; then echo first; wait; grep status slow-$turn; break; fi
    wait
done
"""
    outcome = egress_run(lab, ["sh", "-c", script], allow=["*.slow.test", "*.fine.test"])
    others, _, slow = outcome.stdout.partition("first\n")
    assert others.split()[-2:] == [GOOD_IP, SINKHOLE]
    assert "status: SERVFAIL" in slow, "answered before the slow one was"


def test_a_lie_before_the_answer_is_passed_over(lab: Lab) -> None:
    names = [f"{lie}.test" for lie in LIES]
    for name, lie in zip(names, LIES, strict=True):
        lab.zone.put(name, {"A": [GOOD_IP], "lies": [lie]})
    script = f"for name in {' '.join(names)}; do dig +short $name; curl -sS http://$name/; done"
    outcome = egress_run(lab, ["sh", "-c", script], allow=names)
    assert ATTACKER_IP not in outcome.stdout
    assert outcome.stdout.count(GOOD_IP) == 2 * len(names), outcome
    assert set(_connections(lab)) == {GOOD_IP}
