"""Each accepted socket leaves exactly one decision, whoever dies, and whenever."""

import os
import signal
import time

import pytest

from tests.lab.lab import Lab
from tests.lab.places import ATTACKER_IP, BLACKHOLE_IP, GOOD_IP, HOSTILE, Port
from tests.netns.hello import client_hello, get
from tests.netns.puppet import Failure, Puppet, await_taken, descriptors

pytestmark = pytest.mark.root

HELLO = client_hello("allowed.test")
ALLOW = (
    "allowed.test",
    "mute.test",
    "blackhole.test",
    "slow.test",
    GOOD_IP + ":7001,7002,7003,7004,7005,7006,7007,7010,9999",
)


LO = ["--link", "lo"]
"""Where the proxy carries what an IP entry allows, too."""


def reach(lab: Lab, puppet: Puppet, stage: str, number: int = 1) -> None:
    """Bring a socket, as many as ``number`` with it, to a stage of its way, and leave it there."""
    worker = puppet.worker
    held = descriptors(worker)
    if stage == "silent":
        puppet.connect(GOOD_IP, Port.HTTPS, number)
    elif stage == "sniff":
        puppet.connect(GOOD_IP, Port.HTTPS, number)
        puppet.send(HELLO[:100], number)
    elif stage == "resolve":
        lab.zone.put("mute.test", {"drop": True})
        puppet.connect(GOOD_IP, Port.HTTPS, number)
        puppet.send(client_hello("mute.test"), number)
        lab.far.wait("dns", name="mute.test")
    elif stage == "connect":
        puppet.connect(BLACKHOLE_IP, Port.HTTPS, number)
        puppet.send(client_hello("blackhole.test"), number)
        puppet.await_decisions(number)
    elif stage == "relay":
        lab.far.mark()
        puppet.connect(GOOD_IP, Port.SILENT, number)
        puppet.send(b"carried", number)
        puppet.await_decisions(number)
        lab.far.wait("first", dport=Port.SILENT)
    await_taken(worker, held)  # or it would be another's, where that one is killed


UNDECIDED = ("silent", "sniff", "resolve")
DECIDED = ("connect", "relay")


@pytest.mark.parametrize("stage", [*UNDECIDED, *DECIDED])
def test_the_client_ends_at_each_stage(lab: Lab, stage: str) -> None:
    ends = ("close", "reset")
    with Puppet(lab, allow=ALLOW, options=LO) as puppet:
        for number, _ in enumerate(ends, 1):
            reach(lab, puppet, stage, number)
        for number, end in enumerate(ends, 1):
            puppet.do(end, id=number)
        puppet.await_decisions(len(ends))
    decided = puppet.decisions()
    assert len({record["flow"] for record in decided}) == len(decided) == len(ends)
    assert {record["event"] for record in decided} == {
        "egress_allowed" if stage in DECIDED else "egress_blocked"
    }
    if stage in ("silent", "sniff"):
        assert {record["reason"] for record in decided} == {"client_closed"}
    closed = sorted(found["flow"] for found in puppet.records() if found["event"] == "egress_closed")
    assert closed == (sorted(record["flow"] for record in decided) if stage in DECIDED else [])
    assert not lab.capture.involving(*HOSTILE)


@pytest.mark.parametrize("stage", [*UNDECIDED, *DECIDED])
def test_the_worker_is_killed_at_each_stage(lab: Lab, stage: str) -> None:
    with Puppet(lab, allow=ALLOW, options=LO) as puppet:
        reach(lab, puppet, stage)
        puppet.kill_worker()
        (record,) = puppet.await_decisions(1)
        if stage in DECIDED:
            assert record["event"] == "egress_allowed"
        else:
            assert (record["event"], record["reason"]) == ("egress_blocked", "worker_died")
            assert (record["dest_ip"], record["dest_port"]) == (GOOD_IP, 443)
        with pytest.raises(Failure, match="ConnectionResetError"):
            puppet.do("receive", id=1)
            puppet.do("receive", id=1)
            raise Failure("ConnectionResetError, or an end: the far side of a killed process is closed")
        puppet.connect(GOOD_IP, Port.HTTP, 2)
        puppet.send(get("allowed.test"), 2)
        assert b"200 OK" in puppet.receive_all(2), "its successor serves"
        puppet.await_decisions(2)
    assert len({found["flow"] for found in puppet.decisions()}) == len(puppet.decisions()) == 2


@pytest.mark.parametrize("stage", [*UNDECIDED, *DECIDED])
def test_the_command_is_killed_at_each_stage(lab: Lab, stage: str) -> None:
    with Puppet(lab, allow=ALLOW, options=LO) as puppet:
        reach(lab, puppet, stage)
        puppet.process.send_signal(signal.SIGTERM)
        puppet.process.wait(30)
    assert puppet.process.returncode == 128 + signal.SIGTERM
    assert len(puppet.decisions()) == 1


@pytest.mark.parametrize("stage", [*UNDECIDED, *DECIDED])
def test_connections_wait_while_a_worker_is_replaced(lab: Lab, stage: str) -> None:
    """What the kernel had queued when a worker died is served by its successor, and counted once."""
    with Puppet(lab, allow=ALLOW, options=LO) as puppet:
        reach(lab, puppet, stage)
        os.kill(puppet.worker, signal.SIGSTOP)
        for number in range(2, 12):
            puppet.connect(GOOD_IP, Port.HTTP, number)
            puppet.send(get("allowed.test"), number)
        puppet.kill_worker()
        for number in range(2, 12):
            assert b"200 OK" in puppet.receive_all(number)
        puppet.await_decisions(11)
    assert len({found["flow"] for found in puppet.decisions()}) == len(puppet.decisions()) == 11


@pytest.mark.parametrize(
    ("port", "phases"),
    [(Port.CLOSED, {"connect"}), (Port.RESETS_AT_ONCE, {"connect", "relay"}), (Port.RESETS, {"relay"})],
)
def test_the_upstream_dies(lab: Lab, port: Port, phases: set[str]) -> None:
    with Puppet(lab, allow=ALLOW, options=LO) as puppet:
        with pytest.raises(Failure, match=r"ConnectionResetError|BrokenPipeError"):
            puppet.connect(GOOD_IP, port)  # which may meet the reset already
            puppet.send(b"hello")
            puppet.do("receive", id=1)
        closed = puppet.await_closed()
    assert closed["ended_by"] == "upstream" and closed["phase"] in phases
    assert [record["event"] for record in puppet.decisions()] == ["egress_allowed"]


@pytest.mark.timeout(60)
def test_each_deadline_ends_what_waits_for_it(lab: Lab) -> None:
    """One that nobody answers, and what is undecided: silent, begun, without an answer to its name, and one that drips."""
    with Puppet(lab, allow=ALLOW, options=LO) as puppet:
        reach(lab, puppet, "connect")
        began = time.monotonic()
        for number, stage in enumerate(UNDECIDED, 2):
            reach(lab, puppet, stage, number)
        puppet.connect(GOOD_IP, Port.HTTPS, 9)
        with pytest.raises(Failure):  # one deadline, however it drips
            for at in range(len(HELLO)):
                puppet.send(HELLO[at : at + 1], 9)
                time.sleep(0.1)
        assert time.monotonic() - began > 4
        puppet.await_decisions(5, 30)
        with pytest.raises(Failure, match="ConnectionResetError"):
            puppet.do("receive", id=1, timeout=30)
        closed = puppet.await_closed()
    assert (closed["ended_by"], closed["phase"]) == ("timeout", "connect")
    found = [(record["event"], record["domain"], record["reason"]) for record in puppet.decisions()]
    assert found[0] == ("egress_allowed", "blackhole.test", "allowed_name")
    late = [("egress_blocked", None, "no_hello")] * 3 + [("egress_blocked", "mute.test", "resolve_timeout")]
    assert sorted(found[1:], key=str) == sorted(late, key=str)


def test_a_blocked_attempt_sends_nothing_to_anybody(lab: Lab) -> None:
    """Not even a SYN, and not a DNS query."""
    with Puppet(lab, allow=["allowed.test"]) as puppet:
        for number, (ip, first) in enumerate(
            [
                (ATTACKER_IP, client_hello("evil.test")),
                (ATTACKER_IP, client_hello(None)),
                (ATTACKER_IP, get("evil.test")),
                (ATTACKER_IP, b"SSH-2.0-OpenSSH_9.2\r\n"),
                (ATTACKER_IP, b"\x16\x03\x01\x00\x00"),
                (GOOD_IP, get("allowed.test", lines="Host: evil.test\r\n")),
            ]
        ):
            puppet.connect(ip, 443, number)
            puppet.send(first, number)
            puppet.await_decisions(number + 1)
    assert {record["event"] for record in puppet.decisions()} == {"egress_blocked"}
    assert not lab.capture.beyond()


def test_hundreds_of_connections_leave_one_decision_each(lab: Lab) -> None:
    """Half of them end badly."""
    with Puppet(lab, allow=["allowed.test"]) as puppet:
        for number in range(250):
            puppet.connect(GOOD_IP, Port.HTTP, number)
            puppet.send(get("allowed.test" if number % 2 else "evil.test"), number)
            if number % 5 == 0:
                puppet.do("reset", id=number)
        puppet.await_decisions(250, 15)
    flows = [record["flow"] for record in puppet.decisions()]
    assert len(flows) == len(set(flows)) == 250
    assert [record["seq"] for record in puppet.records()] == list(range(len(puppet.records())))
