"""What doctor says is left of killed gateways: whoever does as it says has no router of a host by it, in whatever order."""

import os
import subprocess

import pytest
from pyroute2 import IPRoute

from gateway import leftovers
from tests.gateway.netd.hosting import forwards, is_router, raised, state

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a network namespace"),
]


@pytest.mark.parametrize("order", [1, -1])
def test_doing_as_it_says_closes_the_host(cell: int, order: int) -> None:
    before = state()
    raised(cell)
    left, strangers = leftovers.left()
    (stranger,) = strangers
    assert [what for what in left if "device" not in what] == [], "somebody may live who needs the rest"
    with IPRoute() as netlink:
        netlink.link("del", ifname=stranger)
    left, strangers = leftovers.left()
    assert strangers == [] and "before.json" in str(left)
    for command in list(left.values())[::order]:
        subprocess.run(["sh", "-ec", command], check=True, stdout=subprocess.DEVNULL)
        assert is_router() == [], command
    assert forwards() == ["0", "0"]
    assert state()["rules"] == before["rules"] and state()["files"] == []
    assert leftovers.left() == ({}, [])
