"""A flood of packets that the kernel refuses: few lines, every packet counted, and nobody else is the worse for it."""

import os
import signal
import time
from collections import Counter
from ipaddress import ip_address

import pytest

from gateway.netd.nflog import NETLINK_NETFILTER
from gateway.sums import AGGREGATE_S
from tests.lab.lab import Lab
from tests.lab.places import ATTACKER_IP, GOOD_IP
from tests.lab.sandboxed import egress_run
from tests.netns.puppet import sleeps
from tests.netns.wall.standing import BY, OWN, TO, Standing
from tests.rules.frames import Flow, frame

pytestmark = pytest.mark.root

PACKETS = int(os.environ.get("FLOOD_PACKETS", "100000"))
"""1,000,000 in full."""
PORTS = 1000


def counted(sandbox: Standing) -> Counter[str]:
    """Attempts on record by event, lost ones among them."""
    found: Counter[str] = Counter()
    for record in sandbox.records():
        if record.get("layer") == "kernel" or record["event"] == "audit_lost":
            found[record["event"]] += record.get("count", 1)
    return found


def waiting(sandbox: Standing) -> int:
    """Bytes that the kernel has told and nobody has read: proc(5), net/netlink."""
    lines = sandbox.in_cell("cat /proc/net/netlink").splitlines()[1:]
    return sum(int(line.split()[4]) for line in lines if line.split()[1] == str(NETLINK_NETFILTER))


@pytest.mark.timeout(180)
def test_each_packet_of_a_flood_is_counted(lab: Lab) -> None:
    frames = [
        frame(Flow(ip_address(ATTACKER_IP), "udp", port), OWN[4], to=TO, by=BY)
        for port in range(1, PORTS + 1)
    ]
    with Standing(lab, allow=["allowed.test"], deny=["0.0.0.0/0"]) as sandbox:
        lab.capture.clear()
        started = time.monotonic()
        for _ in range(PACKETS // PORTS):
            sandbox.raw(frames)
        sent_s = time.monotonic() - started
        neighbour = egress_run(
            lab, ["curl", "-sS", "-m", "30", "https://allowed.test/"], allow=["allowed.test"]
        )
        assert (neighbour.status, GOOD_IP in neighbour.stdout) == (0, True), neighbour
        assert lab.capture.packets(to=ATTACKER_IP) == []
        sandbox.end()
        found = counted(sandbox)
        lines = len(sandbox.records())
        flood = sum(record.get("count", 1) for record in sandbox.records() if record.get("reason") == "flood")
    print(f"{PACKETS:,} in {sent_s:.1f} s: {found}, {flood:,} of them not told apart, in {lines:,} lines")
    assert found == {"egress_blocked": PACKETS}
    assert lines < 2500


@pytest.mark.timeout(180)
def test_what_a_worker_had_counted_and_not_written_when_it_died_is_counted_as_lost(lab: Lab) -> None:
    frames = [
        frame(Flow(ip_address(ATTACKER_IP), "udp", port), OWN[4], to=TO, by=BY) for port in range(1, 1501)
    ]
    sent, least, counted_s = 0, 1000, AGGREGATE_S
    with Standing(lab, allow=["allowed.test"], deny=["0.0.0.0/0"]) as sandbox:
        worker = sandbox.pid_of("worker")
        while counted_s > AGGREGATE_S - 1:  # so old, a sum may have been written
            os.kill(worker, signal.SIGCONT)
            sandbox.await_records(sent)
            began = time.monotonic()
            sandbox.raw(frames)
            sent += len(frames)
            sandbox.await_records(least)  # the others wait for their sum
            least = sent + 1
            give_up = time.monotonic() + 30
            while waiting(sandbox) or not sleeps(worker):  # or it could have counted none of them yet
                assert time.monotonic() < give_up
                time.sleep(0.01)
            os.kill(worker, signal.SIGSTOP)
            counted_s = time.monotonic() - began
        sandbox.kill("worker")
        sandbox.end()
        found = counted(sandbox)
    assert found.total() == sent
    assert found["audit_lost"] > 0
