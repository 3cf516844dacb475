"""Every protocol to every kind of destination, in both families and behind both backends: what the policy allows arrives, nothing else does, whoever
is refused hears of it at once, and each attempt is on record."""

import sys
import time
from collections import Counter
from ipaddress import ip_address, ip_network
from itertools import product

import pytest

from gateway.addresses import AddressKind, classify
from gateway.decide import Verdict, compile_policy, settle
from gateway.flow import Endpoint
from gateway.flow import Flow as Attempted
from rules import NetworkPolicy
from rules.floor import UNROUTED
from rules.link import VETH
from tests.lab.lab import ROOT, Lab
from tests.lab.places import (
    ATTACKER_IP,
    ATTACKER_IP6,
    BLOCKED_IP,
    BLOCKED_IP6,
    DNS_IP,
    GOOD_IP,
    GOOD_IP6,
    HOST_IP,
    HOST_IP6,
    NET_IP,
    NET_IP6,
)
from tests.lab.sandboxed import egress_run
from tests.netns.wall.standing import Standing
from tests.rules.frames import Flow, Seen
from tests.rules.test_cell import QUIET
from tests.rules.test_veth import PLACES

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

FORGET = """
from gateway.netd.conntrack import forget
for family in (4, 6):
    forget(family, lambda protocol, dest, port: False)
"""
KINDS = [
    *(("tcp", port) for port in (1, 22, 53, 443)),
    *(("udp", port) for port in (1, 22, 53, 443)),
    ("sctp", 443),
    ("icmp", 0),
    ("gre", 0),
]
OWN = {
    str(ip_address(text))
    for text in (VETH.address, str(VETH.gateway), VETH.address6, str(VETH.gateway6), VETH.listen_ip6)
}
SILENT = [*QUIET, *map(ip_network, UNROUTED)]
"""What is dropped, besides what nobody can answer to."""
GROUPS = [
    ("239.1.2.3", 9),
    ("239.255.255.250", 1900),
    ("224.0.0.251", 5353),
    ("ff05::1:3", 5355),
    ("ff05::c", 1900),
    ("ff0e::1234", 9),
]
HOSTS = [HOST_IP, HOST_IP6, "127.86.0.1"]
POLICIES = {
    "an address, a network, an address at a port": (
        [GOOD_IP, f"{BLOCKED_IP}:443", "203.0.113.0/24", GOOD_IP6, f"[{BLOCKED_IP6}]:443", "2001:db8:bad::/48", "allowed.test:443"],
        ["0.0.0.0/0", "::/0"],
    ),
    "a network that holds the host, and all else denied": (["198.18.0.0/15", "2001:db8::/32"], ["0.0.0.0/0", "::/0"]),
    "everything but a network, and in it an address": (
        [ATTACKER_IP, ATTACKER_IP6], ["203.0.113.0/24", "2001:db8:bad::/48"],
    ),
    "everything but an address in a network": (["203.0.113.0/24", "2001:db8:bad::/48"], [ATTACKER_IP, ATTACKER_IP6, "203.0.112.0/23"]),
    "everything": ([], []),
}  # fmt: skip


def destinations() -> list[str]:
    """Of the plan's own tests, and the lab's: the host and what stands on it."""
    return [*dict.fromkeys([*map(str, PLACES), GOOD_IP, BLOCKED_IP, ATTACKER_IP, *HOSTS, GOOD_IP6, BLOCKED_IP6, ATTACKER_IP6])]  # fmt: skip


def leaves(policy: NetworkPolicy, flow: Flow) -> bool:
    """Whether the first packet itself goes out: the decision's own words, without a rule."""
    if str(flow.destination) in {HOST_IP, HOST_IP6} | OWN:
        return False
    if flow.destination.version == 6 and flow.destination.ipv4_mapped is not None:  # on no wire
        return False
    proto = flow.protocol if flow.protocol in ("tcp", "udp", "sctp") else "icmp"
    attempt = Attempted(
        "0", "s", Endpoint(ip_address("192.0.0.2"), 1), Endpoint(flow.destination, flow.port), proto
    )
    if classify(flow.destination) is AddressKind.FLOOR:
        return False
    if (
        flow.port == 53
        and flow.protocol in ("tcp", "udp")
        and str(flow.destination) == str(policy.resolver_ip)
        and policy.allows_dns()
    ):
        return False
    settled = settle(compile_policy(policy), attempt)
    if settled is None or settled.verdict is not Verdict.ALLOW:
        return False
    return flow.protocol != "tcp" or settled.row == 2


@pytest.mark.parametrize("backend", ["legacy", "nft"])
@pytest.mark.parametrize("title", POLICIES)
def test_what_is_allowed_arrives_and_nothing_else(lab: Lab, title: str, backend: str) -> None:
    allow, deny = POLICIES[title]
    policy = NetworkPolicy(allow, deny, resolver=DNS_IP)
    flows = [Flow(ip_address(ip), *kind) for ip, kind in product(destinations(), KINDS)]
    meant = {flow for flow in flows if leaves(policy, flow)}
    assert meant and len(meant) < len(flows)
    # What has no ports has one flow to a place behind one address, and the host remembers the one before's for a while.
    lab.run([sys.executable, "-c", FORGET], cwd=ROOT).check_returncode()
    with Standing(lab, allow=allow, deny=deny, options=["--firewall", backend]) as sandbox:
        lab.capture.clear()
        back = sandbox.send(flows)
        give_up = time.monotonic() + 20
        while not meant <= (arrived := attempts_at_the_far_side(lab)) or unanswered(
            policy, flows, meant, back
        ):
            if time.monotonic() > give_up:
                break
            back |= sandbox.send([])
        assert {flow for flow in arrived if flow not in meant} == set()
        assert {flow for flow in meant if flow not in arrived} == set()
        assert unanswered(policy, flows, meant, back) == []
        told = sandbox.await_records(1)
        sandbox.flush()
        lab.capture.clear()
        sandbox.send(flows, sport=40001)
        assert attempts_at_the_far_side(lab) == set()
    assert told


def attempts_at_the_far_side(lab: Lab) -> set[Flow]:
    """What came from the sandbox: of the host, nothing else sends there now but its resolver's questions, which are none of these."""
    return {
        Flow(ip_address(packet.dst), packet.proto.replace("icmp6", "icmp"), packet.dport)
        for packet in lab.capture.packets()
        if packet.src in (HOST_IP, HOST_IP6)
        and packet.dst not in (NET_IP, NET_IP6)
        and not packet.dst.startswith(("ff02:", "fe80:"))  # the host's own neighbour discovery
        and packet.proto in ("tcp", "udp", "sctp", "icmp", "icmp6", "gre")
        if not (packet.dst in (HOST_IP, HOST_IP6) or (packet.proto == "tcp" and "S" not in packet.flags))
    }


def unanswered(policy: NetworkPolicy, flows: list[Flow], meant: set[Flow], back: set[Seen]) -> list[str]:
    """Refusals of which the sandbox heard nothing."""
    heard = {(seen.what, seen.flow) for seen in back}
    missing = []
    for flow in flows:
        ip = str(flow.destination)
        if flow in meant or ip in {HOST_IP, HOST_IP6} | OWN or any(flow.destination in net for net in SILENT):
            continue
        if (flow.protocol, flow.port, ip) == ("udp", 53, str(policy.resolver_ip)):
            continue
        words = ("reset", "syn-ack") if flow.protocol == "tcp" else ("prohibited",)
        if not any((word, flow) in heard for word in words):
            missing.append(str(flow))
    return missing


@pytest.mark.parametrize("link", ["veth", "lo"])
def test_what_routing_would_drop_is_on_record(lab: Lab, link: str) -> None:
    """Groups that nobody joined; on ``lo``, a source that is not the sandbox's, in whose name the gateway answers nobody."""
    script = f"""
import socket
for dest, port in {GROUPS!r}:
    sock = socket.socket(socket.AF_INET6 if ":" in dest else socket.AF_INET, socket.SOCK_DGRAM)
    sock.sendto(b"x", (dest, port))
for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM) if {link!r} == "lo" else ():
    sock = socket.socket(socket.AF_INET, kind)
    sock.bind(("1.2.3.4", 0))
    sock.settimeout(0.5)
    try:
        sock.connect(("{BLOCKED_IP}", 443))
        sock.send(b"x")
    except TimeoutError:
        pass
"""
    outcome = egress_run(
        lab, ["/usr/bin/python3", "-c", script], allow=["allowed.test"], options=["--link", link]
    )
    assert (outcome.status, outcome.stderr) == (0, ""), outcome
    found = {(one["dest_ip"], one["dest_port"], one["proto"], one["reason"]) for one in outcome.decisions}
    forged = (
        {(BLOCKED_IP, 443, proto, "forged_source") for proto in ("udp", "tcp")} if link == "lo" else set()
    )
    assert found == {(*group, "udp", "floor") for group in GROUPS} | forged
    assert {record["layer"] for record in outcome.decisions} == {"kernel"}


def test_each_refusal_is_one_record_or_one_of_a_sum(lab: Lab) -> None:
    """The sums agree with what was sent."""
    places = (BLOCKED_IP, "203.0.113.9", "169.254.169.254", BLOCKED_IP6, "fd00:ec2::254")
    kinds = (("udp", 443), ("icmp", 0), ("sctp", 5), ("gre", 0), ("tcp", 443))
    refused = [Flow(ip_address(ip), *kind) for ip, kind in product(places, kinds)]
    allowed = [Flow(ip_address(ip), "udp", 9) for ip in (GOOD_IP, GOOD_IP6)]
    with Standing(lab, allow=[GOOD_IP, GOOD_IP6, "allowed.test:80"], deny=["0.0.0.0/0", "::/0"]) as sandbox:
        sandbox.send(refused)
        for sport in range(40001, 40100):
            sandbox.send(refused[:20], sport=sport, heard_s=0.01)
        for _ in range(3):  # the same flow, not answered: one record
            sandbox.send(allowed)
        sandbox.process.stdin.close()  # type: ignore[union-attr]
        sandbox.process.wait(20)
        records = [record for record in sandbox.records() if record.get("layer") == "kernel"]
    counted: Counter[tuple[str, str | None]] = Counter()
    for record in records:
        counted[record["event"], record["reason"]] += record.get("count", 1)
    assert counted["egress_allowed", "allowed_address"] == len(allowed)
    blocked = sum(count for (event, _), count in counted.items() if event == "egress_blocked")
    assert blocked == len(refused) + 99 * 20, counted
    assert {record["dest_ip"] for record in records if record["reason"] == "floor" and record["dest_ip"]} == {
        "169.254.169.254",
        "fd00:ec2::254",
    }
