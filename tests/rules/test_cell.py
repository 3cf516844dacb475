"""The kernel does with real packets what tests/rules/walking.py reads in the rules, behind either backend; and nothing leaves once they are gone."""

import os
import time
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from itertools import product

import pytest

from rules import ALL_TRAFFIC, NetworkPolicy
from rules.backend import Backend
from rules.plan import build_plan
from rules.veth import MAX_FLOWS
from rules.words import ALLOWED_GROUP
from tests.rules.cell import OWN, UPLINK, UPLINK6, Cell
from tests.rules.frames import ACK, FIN, SPORT, Flow, IPAddress, Seen
from tests.rules.test_veth import PLACES, POLICIES
from tests.rules.walking import Fate, Kernel, Packet

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(60),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a network namespace"),
]

KINDS = [("tcp", 22), ("tcp", 53), ("tcp", 443), ("udp", 22), ("udp", 53), ("udp", 443), ("sctp", 443), ("icmp", 0), ("gre", 0)]  # fmt: skip
FLOWS = [Flow(ip, *kind) for ip, kind in product(PLACES, KINDS)]
QUIET = [ip_network(text) for text in ("192.0.0.7/32", "255.255.255.255/32", "::/127", "::ffff:0:0/96")]
"""In the name of these the kernel answers nothing, or not to everything: broadcast, what is no source on a wire."""
UNSEEN = {ip_address("::1"), ip_address("ff00::")}
"""Dropped by the kernel as it takes them from the device, before any rule: another's loopback, a group of no scope."""


@pytest.fixture
def cell() -> Iterator[Cell]:
    """With links and routes, and no rule."""
    with Cell() as made:
        yield made


def answered(flow: Flow, fate: Fate) -> str | None:
    """What the sandbox is to see."""
    if fate is Fate.REFUSED:
        return "reset" if flow.protocol == "tcp" else "prohibited"
    return "syn-ack" if flow.protocol == "tcp" and fate in (Fate.PROXY, Fate.DNS) else None


@pytest.mark.parametrize("backend", ["legacy", "nft"])
@pytest.mark.parametrize(
    "name",
    [
        "names at ports",
        "addresses and names",
        "the resolver's address too",
        "everything at a port",
        "denied network, a name at a port",
        "denied names",
        "full egress",
    ],
)
def test_packets_meet_the_fate_that_the_rules_say(cell: Cell, name: str, backend: Backend) -> None:
    policy = POLICIES[name]
    cell.install(policy, backend)
    kernels = {4: Kernel(build_plan(policy, "veth", 4)), 6: Kernel(build_plan(policy, "veth", 6))}
    fates = {flow: kernels[flow.destination.version].walk(Packet(*flow)) for flow in FLOWS}
    back, arrived = cell.send(FLOWS)

    own = {4: UPLINK, 6: UPLINK6}
    meant = {Seen("packet", own[flow.destination.version], flow) for flow, fate in fates.items() if fate is Fate.FORWARDED}  # fmt: skip
    stray = [f"{seen} arrived" for seen in arrived - meant]
    lost = [f"{seen} did not arrive" for seen in meant - arrived]
    assert [*sorted(stray), *sorted(lost)] == []

    refused = {flow for flow, fate in fates.items() if fate in (Fate.REFUSED, Fate.DROPPED)}
    on_record = cell.told()
    assert sorted(set(on_record) - refused) == []
    assert sorted(flow for flow in refused - set(on_record) if flow.destination not in UNSEEN) == []
    assert set(on_record.values()) == {1}
    assert set(cell.told(ALLOWED_GROUP)) == {seen.flow for seen in meant}

    told = {flow: seen.what for seen in back if seen.what != "packet" for flow in [seen.flow]}
    wrong = []
    for flow, fate in fates.items():
        due = answered(flow, fate)
        if any(flow.destination in network for network in QUIET) and flow not in told:
            continue
        if told.get(flow) != due:
            wrong.append(f"{flow}: {told.get(flow)}, not {due}")
    assert wrong == []


@pytest.mark.parametrize(
    ("four", "six"),
    [("192.0.0.3", "fd65:6772:6573:73::3"), ("8.8.8.8", "2001:db8::5"), ("192.0.0.1", "fe80::2"), ("127.0.0.1", "::1")],
)  # fmt: skip
def test_from_another_address_nothing_leaves_and_nothing_answers(cell: Cell, four: str, six: str) -> None:
    cell.install(None, "legacy")
    assert cell.send(FLOWS, {4: ip_address(four), 6: ip_address(six)}) == (set(), set())


@pytest.mark.parametrize("backend", ["legacy", "nft"])
@pytest.mark.parametrize(
    ("own", "uplink", "far"), [(OWN[4], UPLINK, "198.51.100.1"), (OWN[6], UPLINK6, "2001:db8:2::1")]
)
def test_answers_come_in_and_nothing_else_does(
    cell: Cell, own: IPAddress, uplink: IPAddress, far: str, backend: Backend
) -> None:
    cell.install(None, backend)
    asked, other = ip_address(far), ip_address(far) + 1
    unasked = [
        (Flow(to, protocol, port), source, 443)
        for to, source, protocol, port in product(
            (uplink, own), (asked, other), ("udp", "tcp", "icmp"), (SPORT, 22)
        )
    ]
    assert cell.answer(unasked) == set()
    _, arrived = cell.send([Flow(asked, "udp", 443)])
    assert arrived == {Seen("packet", uplink, Flow(asked, "udp", 443))}
    answers = cell.answer(unasked)
    assert answers == {Seen("packet", asked, Flow(own, "udp", SPORT))}


BOTH = pytest.mark.parametrize("far", ["198.51.100.1", "2001:db8:2::1"])
BACKENDS = pytest.mark.parametrize("backend", ["legacy", "nft"])


@BACKENDS
@BOTH
def test_a_policy_that_allows_more_ends_no_connection(cell: Cell, far: str, backend: Backend) -> None:
    """It goes on by the proxy, which has it, and so does the next one from its port, which the kernel remembers; every other one leaves."""
    names, to = ["a.test", "203.0.113.9", "2001:db8:1::9"], Flow(ip_address(far), "tcp", 443)
    cell.install(NetworkPolicy(names, [ALL_TRAFFIC]), backend)
    ours, theirs = cell.connect(to, 50001)
    assert cell.say(to, 50001, (ours, theirs), b"hello") == [("packet", ours + 5)]
    carried, _ = cell.listeners[to.destination.version].accept()
    half_open = cell.connect(to, 50002)  # the gateway has not taken it yet
    cell.set_rules(NetworkPolicy([*names, far], [ALL_TRAFFIC]), backend)

    assert cell.say(to, 50001, (ours + 5, theirs), b"again") == [("packet", ours + 10)]
    with carried:
        carried.setblocking(False)
        assert carried.recv(99) == b"helloagain"
    fin = (ours + 10, theirs + 1)  # its own, of which there is no answer to be waited for
    assert ("reset", ours + 10) not in cell.say(to, 50001, fin, b"", FIN | ACK)
    assert cell.say(to, 50002, half_open, b"hello") == [("packet", half_open[0] + 5)]
    assert cell.told() == {}
    assert cell.send_from(to, [50003]) == 1
    ours, theirs = cell.connect(to, 50001)
    assert cell.say(to, 50001, (ours, theirs), b"hello") == [("packet", ours + 5)]
    assert cell.told() == {}


@BACKENDS
@BOTH
def test_so_many_flows_leave_and_no_more(cell: Cell, far: str, backend: Backend) -> None:
    cell.install(NetworkPolicy([far], [ALL_TRAFFIC]), backend)
    cell.expire_after(udp_s=60)
    to = Flow(ip_address(far), "udp", 9)
    assert cell.send_from(to, range(1024, 1024 + MAX_FLOWS + 100)) == MAX_FLOWS
    assert cell.told(ALLOWED_GROUP) == {to: MAX_FLOWS}
    assert cell.told() == {to: 100}
    # Those that have left go on, as often as they like.
    assert cell.send_from(to, [*range(1024, 1124)] * 10) == 1000
    assert cell.told() == cell.told(ALLOWED_GROUP) == {}
    # Where some have ended, as many may begin.
    cell.expire_after(udp_s=1)
    assert cell.send_from(to, range(1024, 1124)) == 100
    time.sleep(1.5)
    assert cell.send_from(to, range(60000, 60050)) > 0


TABLES = ("raw", "mangle", "nat", "filter")


@pytest.mark.parametrize("tables", [*((table,) for table in TABLES), TABLES], ids="+".join)
@pytest.mark.parametrize("name", ["full egress", "addresses and names"])
def test_with_tables_flushed_nothing_leaves_that_was_not_allowed(
    cell: Cell, name: str, tables: tuple[str, ...]
) -> None:
    cell.install(POLICIES[name], "legacy")
    allowed = {seen.flow for seen in cell.send(FLOWS)[1]}
    assert allowed
    cell.flush(*tables)
    left = {seen.flow for seen in cell.send(FLOWS)[1]}
    assert left <= allowed
    assert "mangle" not in tables or not left
