"""Other plans in a cell that stands: all of them or none, and never a state in between that is wider than both."""

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import pytest

import rules.sets
from gateway.errors import SetupError
from gateway.netd import conntrack
from gateway.netd.server import Netd
from gateway.netd.swap import _together
from rules import ALL_TRAFFIC, NetworkPolicy
from rules.backend import Backend
from rules.passing import Passing
from rules.plan import Plan, build_plan, terms_in

root = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a network namespace"),
]
OLD = NetworkPolicy(["198.18.0.1", "a.test"], ["198.18.0.0/24:443", "198.18.0.0/16:80"])
NEW = NetworkPolicy(["198.18.0.2:443"], ["198.18.0.0/24"])
CLOSED = NetworkPolicy(["198.18.0.0/28"], [ALL_TRAFFIC])


def plan_of(policy: NetworkPolicy) -> Plan:
    """As a cell with an uplink has it."""
    return build_plan(policy, "veth", uplink=True)


def fate(
    policy_of_rules: Plan, sets: dict[str, tuple[str, ...]], address: str, protocol: int, port: int
) -> bool:
    """Whether packets are forwarded by these rules over those sets."""
    from dataclasses import replace

    held = tuple(replace(one, entries=sets[one.name]) for one in policy_of_rules.sets)
    terms = terms_in(replace(policy_of_rules, sets=held))
    return Passing(terms).holds(protocol, bytes(map(int, address.split("."))), port)


@pytest.mark.parametrize(("before", "after"), [(OLD, NEW), (NEW, OLD), (OLD, CLOSED), (CLOSED, NEW)])
def test_every_state_in_between_decides_as_one_of_both(before: NetworkPolicy, after: NetworkPolicy) -> None:
    old, new = plan_of(before), plan_of(after)
    grown = {one.name: one.entries for one in _together(old, new).sets}
    first = {one.name: one.entries for one in old.sets}
    last = {one.name: one.entries for one in new.sets}
    states = []
    growing = dict(first)
    for name, entries in grown.items():
        growing[name] = entries
        states.append((old, dict(growing)))
    states.append((new, dict(growing)))
    for name, entries in last.items():
        growing[name] = entries
        states.append((new, dict(growing)))
    addresses = [f"198.18.{third}.{fourth}" for third, fourth in product((0, 1), (1, 2, 3, 99))]
    for address, protocol, port in product([*addresses, "192.0.2.1"], (6, 17, 1), (80, 443, 9)):
        by = {fate(plan, dict(sets), address, protocol, port) for plan, sets in ((old, first), (new, last))}
        for plan, sets in states:
            assert fate(plan, sets, address, protocol, port) in by, (address, protocol, port)


def held(cell: int) -> dict[str, str]:
    """What the kernel has in the cell, by whom one asks."""
    found = {}
    for program in ("iptables-legacy-save", "ip6tables-legacy-save", "iptables-nft-save", "ipset save"):
        argv = ["nsenter", f"--net=/proc/{os.getpid()}/fd/{cell}", *program.split()]
        text = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        found[program] = "\n".join(
            sorted(re.split(r" \[| initval ", line)[0] for line in text.splitlines() if line[0] != "#")
        )
    return found


@pytest.fixture
def netd() -> Iterator[Netd]:
    """A process of its own."""
    started = Netd()
    yield started
    started.close()


NAMES = NetworkPolicy(["api.openai.com"], [ALL_TRAFFIC])
PORTS = NetworkPolicy(["api.openai.com:443", "api.github.com:22"], [ALL_TRAFFIC])
NOTHING = NetworkPolicy([], [ALL_TRAFFIC])


@pytest.mark.parametrize("firewall", ["legacy", "nft"])
class TestInTheKernel:
    """Plans without an uplink, so that nothing outside of the cell is touched."""

    pytestmark = root

    def test_another_and_back(self, netd: Netd, firewall: Backend) -> None:
        plans = [
            (build_plan(policy, "veth"), build_plan(policy, "veth", 6)) for policy in (NAMES, PORTS, NOTHING)
        ]
        cell = netd.open_cell(*plans[0], firewall=firewall)
        expected = [held(cell["cell"])]
        for pair in plans[1:]:
            fresh = netd.open_cell(*pair, firewall=firewall)
            expected.append(held(fresh["cell"]))
            for descriptor in fresh.values():
                os.close(descriptor)
        assert expected[0] != expected[1] != expected[2]
        for index in (1, 2, 0, 0, 2, 1):
            assert netd.swap_plans(cell["netns"], *plans[index], firewall=firewall) == {}
            assert held(cell["cell"]) == expected[index]
        for descriptor in cell.values():
            os.close(descriptor)

    def test_a_resolver_that_was_not_asked_before_gets_its_sockets_once(
        self, netd: Netd, firewall: Backend
    ) -> None:
        cell = netd.open_cell(build_plan(NOTHING, "veth"), firewall=firewall)
        assert "dns_udp" not in cell
        for policy, opened in ((NAMES, ["dns_udp", "dns_tcp"]), (NOTHING, []), (NAMES, [])):
            got = netd.swap_plans(cell["netns"], build_plan(policy, "veth"), firewall=firewall)
            assert list(got) == opened
            cell |= got
        for descriptor in cell.values():
            os.close(descriptor)

    def test_what_fails_in_the_middle_leaves_what_was(
        self, firewall: Backend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(_: object) -> None:
            raise OSError("as if the kernel would not")

        monkeypatch.setattr(
            rules.sets, "destroy_sets", refuse
        )  # the last step but one, in netd's own processes too
        netd = Netd()
        cell = netd.open_cell(build_plan(NAMES, "veth"), firewall=firewall)
        before = held(cell["cell"])
        with pytest.raises(SetupError, match="as if the kernel would not"):
            netd.swap_plans(cell["netns"], build_plan(PORTS, "veth"), firewall=firewall)
        assert held(cell["cell"]) == before
        for descriptor in cell.values():
            os.close(descriptor)
        netd.close()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a network namespace")
def test_what_began_under_plans_that_were_taken_back_is_forgotten(
    on_host: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = tmp_path / "asked"

    def forget(family: int, stays: Callable[[int, bytes, int], bool]) -> None:
        by_new = stays(17, bytes([198, 18, 0, 2]), 443)
        with asked.open("a") as file:
            file.write("new " if by_new else "old ")
        if by_new:
            raise OSError("as if the kernel would not")

    monkeypatch.setattr(conntrack, "forget", forget)
    netd = Netd()
    cell = netd.open_cell(plan_of(NetworkPolicy(["198.18.0.1"], [ALL_TRAFFIC])))
    with pytest.raises(SetupError, match="could not be replaced: as if the kernel would not"):
        netd.swap_plans(cell["netns"], plan_of(NetworkPolicy(["198.18.0.2"], [ALL_TRAFFIC])))
    assert asked.read_text() == "new old "
    for descriptor in cell.values():
        os.close(descriptor)
    netd.close()


class TestRefusals:
    """Nothing changes by what is no plan of this cell."""

    pytestmark = root

    def test_another_link_or_family(self, netd: Netd) -> None:
        cell = netd.open_cell(build_plan(NAMES, "veth"))
        before = held(cell["cell"])
        with pytest.raises(SetupError, match="not the cell's"):
            netd.swap_plans(cell["netns"], build_plan(NAMES, "lo"))
        with pytest.raises(SetupError, match="not the cell's"):
            netd.swap_plans(cell["netns"], build_plan(NAMES, "veth"), build_plan(NAMES, "veth", 6))
        with pytest.raises(SetupError, match="no cell of this process"):
            netd.swap_plans(cell["cell"], build_plan(NAMES, "veth"))
        assert held(cell["cell"]) == before
        for descriptor in cell.values():
            os.close(descriptor)
