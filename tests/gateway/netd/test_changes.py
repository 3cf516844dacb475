"""Changes to the host's tables are told of: they are looked at at once, and nobody wakes where there are none."""

import contextlib
import errno
import os
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from gateway.errors import SetupError
from gateway.netd import changes, variants, watch
from gateway.netd.changes import Changes
from gateway.netd.generation import is_told_of
from gateway.netd.server import Netd
from gateway.netd.watch import Watch
from rules.link import Family
from tests.gateway.netd.hosting import EMPTY, FAMILIES, awaited, flush, ip, is_router, raised, rules, uplinked

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a network namespace"),
]
NEVER_MS = 10**8
IDLE_S = 3


def change(name: str = "own") -> None:
    """A chain more."""
    subprocess.run(["iptables-nft", "-N", name], check=True)


@pytest.fixture
def ends(on_host: None) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Netd's end of the channel, and its asker's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def told(ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch) -> Iterator[Changes]:
    """Just after a look that is enough as long as nothing is told of. Nothing but that, or a request, ends a wait."""
    monkeypatch.setattr(changes, "PAUSE_MS", 0)
    monkeypatch.setattr(changes, "SLOW_PAUSE_MS", NEVER_MS)
    made = Changes(ends[0])
    made.looked(settled=True)
    yield made
    made.close()
    made.close()


def heard(of: Changes) -> int:
    """The error that its socket fails with, or 0 where it has a message."""
    assert of._told is not None
    try:
        of._told.recv(1, socket.MSG_DONTWAIT)
    except OSError as error:
        return error.errno or 0
    return 0


def test_after_a_change_a_look_is_due_once(told: Changes) -> None:
    change()
    assert told.due()
    assert heard(told) == errno.EAGAIN
    change("other")
    told.looked(settled=True)
    assert told.due(), "it came while somebody looked"


def test_a_request_goes_first(told: Changes, ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    change()
    theirs.send(b"x")
    for settled in (True, False):
        told.looked(settled=settled)
        assert not told.due()
    told.looked(settled=True)
    ours.recv(1)
    assert told.due()
    theirs.close()
    assert not told.due(), "and its end"


def test_where_more_came_than_there_is_room_for_it_is_a_change_too(
    told: Changes, ends: tuple[socket.socket, socket.socket]
) -> None:
    beside = Changes(ends[0])
    for number in range(40):
        change(f"own-{number}")
    assert heard(beside) == errno.ENOBUFS
    assert told.due()
    assert heard(told) == errno.EAGAIN
    change()
    assert told.due(), "the next is told of again"
    beside.close()


def test_that_there_is_no_room_is_one_by_itself(told: Changes) -> None:
    """Where a message would end no wait."""
    assert told._told is not None
    told._all.modify(told._told, 0)
    for number in range(40):
        change(f"own-{number}")
    assert told.due()


def test_what_is_left_unread_is_another(told: Changes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "MOST_READS", 1)
    change()  # a table, a chain, the generation: more than one message
    change("other")
    assert told.due()
    told.looked(settled=True)
    assert told.due()


def test_no_look_before_a_second_has_passed_since_the_last(
    told: Changes, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, waits = [100.0], list[float]()
    monkeypatch.setattr(changes, "PAUSE_MS", 1000)
    monkeypatch.setattr(changes, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(told, "_requests", SimpleNamespace(poll=waits.append))
    told.looked(settled=True)
    change()
    now[0] += 0.25
    assert told.due()
    told.looked(settled=False)
    now[0] += 0.5
    assert told.due()
    told.looked(settled=True)
    change("other")
    now[0] += 20
    assert told.due()
    assert waits == [750, 500, 0]


def test_where_nothing_is_told_of_a_look_comes_all_the_same(
    told: Changes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "SLOW_PAUSE_MS", 1)
    assert told.due()


def test_where_nobody_may_be_told_every_second_is_looked(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "PAUSE_MS", 0)
    monkeypatch.setattr(changes, "SLOW_PAUSE_MS", NEVER_MS)
    monkeypatch.setattr(changes, "NFNLGRP_NFTABLES", 1 << 20)
    before = os.listdir("/proc/self/fd")
    made = Changes(ends[0])
    assert os.listdir("/proc/self/fd") == before
    made.looked(settled=True)
    assert made.due()
    made.close()


@pytest.mark.parametrize(("variant", "settles"), [("nft", True), ("legacy", False)])
def test_a_look_is_enough_where_all_is_in_order_and_every_change_is_told_of(
    cell: int, monkeypatch: pytest.MonkeyPatch, variant: str, settles: bool
) -> None:
    monkeypatch.setattr(watch, "MOST_SHARE", float("inf"))
    monkeypatch.setattr(variants, "to_use", lambda _: variant)
    one, other, seen = Watch(), Watch(), list[bool]()
    assert not one.settled

    def look(by: Watch) -> None:
        by.look(FAMILIES)
        seen.append(by.settled)

    raised(cell)
    for by in (one, other, one):
        look(by)
    subprocess.run([f"iptables-{variant}-restore"], input=EMPTY, text=True, check=True)
    for by in (one, one, other):
        look(by)
    assert seen == [settles, settles, settles, False, settles, settles]


def test_it_is_not_while_nobody_may_look(cell: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "MOST_SHARE", 1e-9)
    monkeypatch.setattr(variants, "to_use", lambda _: "nft")
    raised(cell)
    one, other = Watch(), Watch()
    for by in (one, other):
        by.look(FAMILIES)
        assert by.settled
    change()
    for by in (one, other):
        assert by.look(FAMILIES) == []
        assert not by.settled


def test_it_is_not_where_it_cannot_be_told(cell: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variants, "to_use", lambda _: "nft")
    raised(cell)
    one = Watch()
    one.look(FAMILIES)
    assert one.settled

    def generation(_: Family) -> str:
        raise OSError("no")

    monkeypatch.setattr(watch, "generation", generation)
    with pytest.raises(OSError, match="no"):
        one.look(FAMILIES)
    assert not one.settled


@pytest.mark.parametrize(
    ("generation", "told"), [("ab ", True), ("ab cd", False), (" ", False), (" cd", False)]
)
def test_of_legacy_tables_nothing_is_told(generation: str, told: bool) -> None:
    assert is_told_of(generation) is told


Start = Callable[[str], tuple[Netd, int, Path]]


@pytest.fixture
def start(on_host: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Start]:
    """A netd with an uplink, on a host that uses the tables named; its sandbox; in the file, a line for each look: whether it was enough."""
    path, looked = tmp_path / "looks", Changes.looked

    def noted(self: Changes, *, settled: bool) -> None:
        looked(self, settled=settled)
        with path.open("a") as file:
            file.write(f"{self._settled}\n")

    monkeypatch.setattr(Changes, "looked", noted)
    monkeypatch.setattr(changes, "SLOW_PAUSE_MS", NEVER_MS)
    monkeypatch.setattr(watch, "MOST_SHARE", float("inf"))
    with contextlib.ExitStack() as undo:

        def go(variant: str) -> tuple[Netd, int, Path]:
            monkeypatch.setattr(variants, "to_use", lambda _: variant)
            netd = Netd()
            descriptors = netd.open_cell(*uplinked())
            for descriptor in descriptors.values():
                undo.callback(os.close, descriptor)
            undo.callback(netd.close)
            awaited(lambda: path.exists() and path.read_text().count("\n") > 1)
            return netd, descriptors["netns"], path

        yield go


def reload() -> None:
    """A table after the other, each a change."""
    subprocess.run(["iptables-nft-restore"], input=EMPTY, text=True, check=True)


@pytest.mark.parametrize("taken_away", [flush, reload], ids=["flush ruleset", "iptables-nft-restore"])
def test_what_is_flushed_comes_back_because_it_is_told_of(
    start: Start, taken_away: Callable[[], None]
) -> None:
    *_, looks = start("nft")
    before, seen = [rules(family) for family in FAMILIES], looks.read_text()
    assert seen.split() == ["False", "True"], "when it began, and then nothing had to be put back"
    assert before[0] and before[1]
    taken_away()
    awaited(lambda: [rules(family) for family in FAMILIES] == before and is_router() == [])
    awaited(lambda: "True" in looks.read_text().removeprefix(seen))
    own = looks.read_text().removeprefix(seen).split()
    if taken_away is flush:
        assert own == ["False", "True"], "what netd changes itself is looked at once more, and that is all"
    assert own[0] == "False" and own[-1] == "True"


def test_nobody_wakes_where_nothing_changes(start: Start) -> None:
    netd, _, looks = start("nft")
    before, since = 0, time.monotonic()

    def sleeps() -> bool:
        """It has not woken since it was last asked."""
        nonlocal before, since
        last, before = before, wakes(netd.pid)
        if last != before:
            since = time.monotonic()
        return time.monotonic() - since > IDLE_S

    awaited(sleeps)
    assert looks.read_text().split() == ["False", "True"]


def sockets(netd: Netd) -> int:
    """That it holds, once it is done with all that went before: it answers one after the other."""
    with Path(os.devnull).open() as nothing, pytest.raises(SetupError, match="no cell"):
        netd.close_cell(nothing.fileno())
    places = Path(f"/proc/{netd.pid}/fd").iterdir()
    return sum(os.readlink(place).startswith("socket:") for place in places)


def wakes(pid: int) -> int:
    """How often a process has gone to sleep."""
    said = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^voluntary_ctxt_switches:\t(\d+)$", said, re.MULTILINE)
    if found is None:
        pytest.skip("this kernel does not say how often a process goes to sleep")
    return int(found[1])


def test_where_no_uplink_stands_any_more_nothing_is_heard(start: Start) -> None:
    netd, sandbox, _ = start("nft")
    assert sockets(netd) == 2
    netd.close_cell(sandbox)
    assert sockets(netd) == 1


def test_legacy_tables_are_looked_at_every_second(start: Start) -> None:
    *_, looks = start("legacy")
    before = [rules(family) for family in FAMILIES]
    awaited(lambda: looks.read_text().count("\n") > 3)
    subprocess.run(["iptables-legacy-restore", "-w"], input=EMPTY, text=True, check=True)
    awaited(lambda: [rules(family) for family in FAMILIES] == before)
    assert "True" not in looks.read_text()


def test_uplinks_that_are_cut_are_looked_at_every_second(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stuck, real = tmp_path / "stuck", variants.saved

    def saved(variant: str, family: Family) -> dict[str, list[str]]:
        if stuck.exists():
            raise variants.HostError("no room")
        return real(variant, family)

    monkeypatch.setattr(variants, "saved", saved)
    *_, looks = start("nft")
    stuck.touch()
    change()
    awaited(lambda: looks.read_text().count("\n") > 4)
    assert "state DOWN" in ip("-o link show type veth")
    assert looks.read_text().split()[2:5] == ["False"] * 3
    stuck.unlink()
    awaited(lambda: looks.read_text().endswith("True\n"))
    awaited(lambda: "state UP" in ip("-o link show type veth"))
