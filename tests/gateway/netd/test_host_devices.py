"""Whose a device is, and what becomes of one that was only half made; and that netd's asker says what could not be taken away."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import IPRoute

from gateway.errors import SetupError
from gateway.netd import host, variants
from gateway.netd.held import Held
from gateway.netd.host import Before
from gateway.netd.links import OF_HOST
from gateway.netd.server import Netd
from gateway.netd.variants import HostError
from rules import NetworkPolicy
from rules.link import Family
from rules.plan import build_plan
from tests.gateway.netd.hosting import OWNER, given_up_when, ip, is_router, raised, state, uplinked

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a network namespace"),
]


@pytest.mark.parametrize("name", ["egress-lan", "egress-1", "egress-2x"])
@pytest.mark.parametrize("alias", ["", "the lab's"])
def test_a_device_of_somebody_elses_keeps_nothing_open(cell: int, name: str, alias: str) -> None:
    ip(f"link add {name} type veth peer name theirs")
    if alias:
        with IPRoute() as netlink:
            netlink.link("set", index=netlink.link_lookup(ifname=name)[0], ifalias=alias)
    before = state()
    raised(cell)
    host.lower_uplinks(OWNER)
    assert state() == before


def test_one_that_is_called_as_ours_but_says_so_by_nothing_else_is_not_ours(cell: int) -> None:
    with IPRoute() as netlink:
        netlink.link("add", ifname="egress-x", kind="veth", peer={"ifname": "theirs"}, address=OF_HOST)
        netlink.link("set", index=netlink.link_lookup(ifname="egress-x")[0], ifalias=OWNER)
        assert host.uplinks(netlink) == []


def test_an_address_that_is_the_hosts_or_is_routed_is_not_given(
    cell: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the ends of VPN tunnels are numbered. A route of the whole of what is link-local, as many hosts have it, is in nobody's way."""
    monkeypatch.setattr(host, "Before", lambda: Before(last=0))
    ip("link add vpn type veth peer name theirs")
    ip("link set vpn up")
    ip("link set theirs up")
    ip("addr add 169.254.64.1/30 dev vpn")
    ip("route add 169.254.64.4/31 dev vpn")
    ip("route add 169.254.0.0/16 dev vpn")
    ip("route add unreachable default")
    raised(cell)
    assert "egress-6@" in ip("-o link")
    assert "dev egress-6" in ip("route get 169.254.64.6")


class Deadly(IPRoute):  # type: ignore[misc]
    """Whoever would say whose a device is by this is killed."""

    def __getattribute__(self, name: str) -> Any:
        if name == "link_lookup":  # between making it and saying so
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getattribute__(name)


def half_made(cell: int, owner: str) -> None:
    """Somebody is killed between making the device and saying whose it is."""
    pid = os.fork()
    if pid == 0:
        try:
            vars(host)["IPRoute"] = Deadly
            raised(cell, owner)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def test_one_that_was_half_made_goes_with_the_attempt(cell: int) -> None:
    before = state()
    half_made(cell, OWNER)
    assert "egress-" in str(state()["devices"])
    host.lower_uplinks(OWNER)
    assert state() == before
    assert "up0" not in ip("-o link", cell)


def test_one_that_was_half_made_is_not_in_the_next_ones_way(cell: int) -> None:
    before = state()
    half_made(cell, OWNER)
    raised(cell, f"{OWNER}1")
    assert ip("-o link", cell).count("up0") == 1
    host.lower_uplinks(f"{OWNER}1")
    assert state() == before


def test_a_swap_that_was_cut_short_is_not_in_the_next_ones_way(
    on_host: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By its time being up, between making the device and saying whose it is."""
    before = state()
    stuck, hangs = tmp_path / "stuck", tmp_path / "hangs"
    given_up_when(monkeypatch, stuck.exists, hangs.exists)

    class Stuck(IPRoute):  # type: ignore[misc]
        def __getattribute__(self, name: str) -> Any:
            if name == "link_lookup" and stuck.exists():
                hangs.touch()
                time.sleep(60)
            return super().__getattribute__(name)

    monkeypatch.setattr(host, "IPRoute", Stuck)
    netd = Netd()
    try:
        names = NetworkPolicy(["a.test"], ["0.0.0.0/0", "::/0"])
        made = netd.open_cell(build_plan(names, "veth"), build_plan(names, "veth", 6))
        stuck.touch()
        with pytest.raises(SetupError, match="ended by signal 9"):
            netd.swap_plans(made["netns"], *uplinked())
        assert state() == before | {"files": state()["files"]}
        stuck.unlink()
        assert netd.swap_plans(made["netns"], *uplinked()) == {}
        assert "egress-" in str(state()["devices"])
        for descriptor in made.values():
            os.close(descriptor)
    finally:
        netd.close()
    assert state() == before


def test_a_device_that_went_meanwhile_is_gone(cell: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel takes it away when it comes to taking its cell away."""
    before = state()
    raised(cell)
    listed = host.uplinks

    def and_gone(netlink: IPRoute) -> list[tuple[int, str, str]]:
        found = listed(netlink)
        for index, _, _ in found:
            netlink.link("del", index=index)
        return found

    monkeypatch.setattr(host, "uplinks", and_gone)
    host.lower_uplinks(OWNER)
    assert state() == before


# -- netd says so


def opened(netd: Netd) -> None:
    """A cell with an uplink, whose descriptors are closed again."""
    for descriptor in netd.open_cell(*uplinked()).values():
        os.close(descriptor)


def test_what_netd_cannot_take_away_its_asker_says(on_host: None, monkeypatch: pytest.MonkeyPatch) -> None:
    before = state()
    said: list[str] = []
    with monkeypatch.context() as patched:
        failing_save(patched)
        netd = Netd()
        opened(netd)
        netd.close(said.append)
    (line,) = said
    assert line.startswith(
        "netd ended with status 1 (HostError: IPv6: ip6tables-nft-save: no room); devices, "
    )
    assert "the next start with an uplink takes them away" in line
    assert is_router() == []
    netd = Netd()
    opened(netd)
    netd.close(said.append)
    assert len(said) == 1
    assert state() == before


def failing_save(monkeypatch: pytest.MonkeyPatch) -> None:
    """At netd's end IPv6's rules cannot be read."""
    real, end = variants.saved, Held.close_all

    def saved(variant: str, family: Family) -> dict[str, list[str]]:
        if family == 6:
            raise HostError("ip6tables-nft-save: no room")
        return real(variant, family)

    def close_all(self: Held) -> None:
        monkeypatch.setattr(variants, "saved", saved)
        end(self)

    monkeypatch.setattr(Held, "close_all", close_all)
