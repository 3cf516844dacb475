"""What netd has made and not yet taken down: cells, and the uplinks of those that have one."""

import contextlib
import os
from typing import NamedTuple

from pyroute2 import NetlinkError

from gateway.netd.cells import clear, in_child, open_cell, wrong_with
from gateway.netd.host import Lifeline, cut_uplinks, lower_uplinks, raise_uplink
from gateway.netd.requests import (
    Answer,
    CellClosed,
    CellOpened,
    Failed,
    OpenCell,
    PlansSwapped,
    SwapPlans,
)
from gateway.netd.swap import Standing, restore, swap
from gateway.netd.watch import Watch
from rules.link import Family
from rules.plan import Plan


class _Cell(NamedTuple):
    """``spaces`` are descriptors: ``netns``, in which commands run, ``cell``, where that is another, and ``userns``, where there is one."""

    spaces: dict[str, int]
    plans: tuple[Plan, ...]
    dns: bool
    owner: str
    """Of its uplink; empty where it has none."""

    @property
    def forwarded(self) -> list[Family]:
        return [plan.family for plan in self.plans if plan.uplink]


class Held:
    """The cells of one netd process, by the inode of the sandbox's namespace."""

    def __init__(self) -> None:
        self._cells: dict[int, _Cell] = {}
        self._lifeline: Lifeline | None = None
        self._opened = 0
        self._watch = Watch()
        self._cut = False
        """Whether uplinks are, for nobody knows what the host's rules are."""

    def open(self, request: OpenCell) -> tuple[Answer, list[int]]:
        """What ``open_cell`` says and gives; OSError as it does."""
        plans = _plans(request)
        try:
            owner = self._owner() if any(plan.uplink for plan in plans) else ""
        except PermissionError as error:
            return _not_ours(error), []
        answer, descriptors = open_cell(request.plan, request.plan6, request.firewall, owner)
        if isinstance(answer, CellOpened):
            found = dict(zip(answer.descriptors, descriptors, strict=True))
            spaces: dict[str, int] = {
                name: os.dup(found[name]) for name in ("netns", "cell", "userns") if name in found
            }
            self._cells[os.fstat(spaces["netns"]).st_ino] = _Cell(spaces, plans, "dns_udp" in found, owner)
        elif owner:
            answer = _lowered(answer, owner)
        return answer, descriptors

    def swap(self, request: SwapPlans, sandbox: int) -> tuple[Answer, list[int]]:
        """Put other plans in force in the cell whose sandbox's namespace ``sandbox`` is a descriptor of; OSError if this process can fork no more."""
        inode = os.fstat(sandbox).st_ino
        cell = self._cells.get(inode)
        if cell is None:
            return Failed("that is no cell of this process's"), []
        plans = _plans(request)
        wrong = wrong_with(request.plan, request.plan6)
        if [(plan.link, plan.family) for plan in plans] != [(plan.link, plan.family) for plan in cell.plans]:
            wrong.append("its link or its families are not the cell's")
        if wrong:
            return Failed("refused plan: " + "; ".join(wrong)), []
        try:
            owner = cell.owner or (self._owner() if any(plan.uplink for plan in plans) else "")
        except PermissionError as error:
            return _not_ours(error), []
        spaces = cell.spaces
        inside = spaces.get("cell", spaces["netns"])
        standing = Standing(inside, spaces.get("userns"), cell.plans, cell.dns, owner)
        answer, descriptors = in_child(lambda: swap(standing, plans, request.firewall), PlansSwapped)
        if isinstance(answer, PlansSwapped):
            self._cells[inode] = _Cell(spaces, plans, cell.dns or "dns_udp" in answer.descriptors, owner)
            return answer, descriptors
        again, _ = in_child(lambda: restore(standing, request.firewall), PlansSwapped)
        if owner != cell.owner:
            answer = _lowered(answer, owner)
        if isinstance(again, Failed):
            said = f"{_said(answer)}; and what was in force could not be restored: {again.message}"
            return Failed(said, in_doubt=True), []
        return answer, descriptors

    def close(self, sandbox: int) -> Answer:
        """Take down the cell whose sandbox's namespace ``sandbox`` is a descriptor of."""
        cell = self._cells.pop(os.fstat(sandbox).st_ino, None)
        if cell is None:
            return Failed("that is no cell of this process's")
        self._take_down([cell])
        return CellClosed()

    def forwards(self) -> bool:
        """Whether there is something to look after."""
        return any(cell.forwarded for cell in self._cells.values())

    @property
    def settled(self) -> bool:
        """Whether the last look leaves nothing to be done until the kernel tells of a change."""
        return self._watch.settled and not self._cut

    def look_after(self) -> str:
        """Have the host's half be as it was made, or let nothing pass by the uplinks until it is; what to say of it."""
        cells = [cell for cell in self._cells.values() if cell.forwarded]
        try:
            gone = self._watch.look({family: None for cell in cells for family in cell.forwarded})
            for cell in cells if self._cut else ():
                device = str(cell.plans[0].link.uplink_device)
                raise_uplink(cell.spaces["cell"], device, cell.forwarded, cell.owner)
        except Exception as error:  # OSError, HostError, NetlinkError
            for cell in cells:
                with contextlib.suppress(NetlinkError):
                    cut_uplinks(cell.owner)
            said = "" if self._cut else f"the uplink is cut until this host's rules can be seen to: {error}"
            self._cut = True
            return said
        families = " and ".join(f"IPv{family}" for family in gone)
        said = f"somebody has changed this host's rules of {families}: those of the uplink are in force again"
        again = "the uplink is open again" if self._cut else ""
        self._cut = False
        return "; ".join(filter(None, (families and said, again)))

    def close_all(self) -> None:
        """The asker is gone, or done."""
        cells = list(self._cells.values())
        self._cells.clear()
        try:
            self._take_down(cells)
        finally:
            if self._lifeline is not None:
                self._lifeline.close()

    def _take_down(self, cells: list[_Cell]) -> None:
        clear([cell.spaces["netns"] for cell in cells])
        for cell in cells:
            for descriptor in cell.spaces.values():
                os.close(descriptor)
            if cell.owner:
                lower_uplinks(cell.owner)

    def _owner(self) -> str:
        if self._lifeline is None:
            self._lifeline = Lifeline()
        self._opened += 1
        return f"{self._lifeline.name}.{self._opened}"


def _plans(request: OpenCell | SwapPlans) -> tuple[Plan, ...]:
    return (request.plan,) if request.plan6 is None else (request.plan, request.plan6)


def _not_ours(error: PermissionError) -> Failed:
    return Failed(f"the host's half of a way out: {error}", privilege=True)


def _lowered(answer: Answer, owner: str) -> Answer:
    """``answer``, with what was made of the uplink taken away: that this could not be either must not hide why."""
    try:
        lower_uplinks(owner)
    except Exception as error:  # OSError, HostError, NetlinkError
        if isinstance(answer, Failed) and answer.privilege:
            return answer  # who may make nothing has made nothing
        return Failed(f"{_said(answer)}; and its uplink could not be taken away: {error}")
    return answer


def _said(answer: Answer) -> str:
    return answer.message if isinstance(answer, Failed) else str(answer)
