"""The processes that netd has do its work."""

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import NoReturn

import pytest
from pyroute2 import NetlinkError

from gateway.netd import cells, held
from gateway.netd.held import Held
from gateway.netd.requests import Failed, OpenCell, PlansSwapped
from gateway.netd.variants import HostError
from rules import NetworkPolicy
from rules.backend import FirewallError
from rules.plan import build_plan
from tests.gateway.netd.hosting import given_up_when


def test_one_that_does_not_end_is_ended_with_what_it_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whoever asked is told that nothing was done: nothing may be done afterwards."""
    number = tmp_path / "pid"
    given_up_when(monkeypatch, lambda: True, number.exists)

    def hang() -> dict[str, int]:
        with subprocess.Popen(["sleep", "60"]) as running:
            (tmp_path / "whole").write_text(str(running.pid))
            (tmp_path / "whole").rename(number)
            time.sleep(60)
        return {}

    answer, descriptors = cells.in_child(hang, PlansSwapped)
    assert isinstance(answer, Failed) and f"by signal {int(signal.SIGKILL)}" in answer.message
    assert descriptors == []
    running = Path(f"/proc/{number.read_text()}/stat")
    give_up = time.monotonic() + 10
    while _runs(running) and time.monotonic() < give_up:
        time.sleep(0.01)
    assert not _runs(running)


def test_what_was_made_comes_back_by_name() -> None:
    answer, descriptors = cells.in_child(lambda: {"null": os.open(os.devnull, os.O_RDONLY)}, PlansSwapped)
    assert answer == PlansSwapped(("null",))
    assert os.read(descriptors[0], 1) == b""
    os.close(descriptors[0])


@pytest.mark.parametrize(
    ("error", "uid", "admin", "privilege"),
    [
        (PermissionError(1, "Operation not permitted"), 0, True, True),
        (NetlinkError(1, "Operation not permitted"), 0, True, True),
        (NetlinkError(13, "Permission denied"), 1000, True, True),
        (NetlinkError(17, "File exists"), 0, True, False),
        (FirewallError("ipset would not take the sets: Operation not permitted"), 0, False, True),
        (HostError("iptables-nft-save: Permission denied (you must be root)"), 0, False, True),
        (RuntimeError("FirewallError: of the other family"), 0, False, True),
        (FirewallError("ipset is not installed"), 0, True, False),
        (OSError(28, "No space left on device"), 1000, False, False),
        (SystemExit(1), 0, True, False),
    ],
)
def test_a_privilege_that_is_missing_is_told_from_everything_else(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, uid: int, admin: bool, privilege: bool
) -> None:
    monkeypatch.setattr(cells, "has_net_admin", lambda: admin)
    monkeypatch.setattr(os, "geteuid", lambda: uid)

    def fail() -> NoReturn:
        raise error

    answer, _ = cells.in_child(fail, PlansSwapped)
    assert isinstance(answer, Failed)
    assert answer.privilege is privilege and (str(error) in answer.message or repr(error) in answer.message)


UPLINK = OpenCell(build_plan(NetworkPolicy(["203.0.113.0/24"], ["0.0.0.0/0"]), "veth"))


def test_the_hosts_state_that_may_not_be_touched_is_a_missing_privilege(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse() -> NoReturn:
        raise PermissionError(13, "Permission denied", "/run/egress/lock")

    monkeypatch.setattr(held, "Lifeline", refuse)
    answer, descriptors = Held().open(UPLINK)
    assert isinstance(answer, Failed) and answer.privilege and "/run/egress/lock" in answer.message
    assert descriptors == []


@pytest.mark.parametrize(
    ("failed", "shown"),
    [
        (Failed("ipset: not permitted", privilege=True), Failed("ipset: not permitted", privilege=True)),
        (Failed("odd"), Failed("odd; and its uplink could not be taken away: not permitted either")),
    ],
)
def test_an_uplink_that_cannot_be_taken_away_does_not_hide_why(
    monkeypatch: pytest.MonkeyPatch, failed: Failed, shown: Failed
) -> None:
    def refuse(_: str) -> NoReturn:
        raise HostError("not permitted either")

    monkeypatch.setattr(Held, "_owner", lambda _: "egress-netd 1-x.1")
    monkeypatch.setattr(held, "open_cell", lambda *_: (failed, []))
    monkeypatch.setattr(held, "lower_uplinks", refuse)
    assert Held().open(UPLINK) == (shown, [])


def _runs(stat: Path) -> bool:
    try:
        return stat.read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False
