"""What netd has made and not yet taken down: cells, and the uplinks of those that have one."""

import os
from typing import NamedTuple

from gateway.netd.cells import clear, open_cell
from gateway.netd.host import Lifeline, lower_uplinks
from gateway.netd.requests import Answer, CellClosed, CellOpened, Failed, OpenCell


class _Cell(NamedTuple):
    sandbox: int
    """Descriptor of the namespace in which commands run."""
    owner: str
    """Of its uplink; empty where it has none."""


class Held:
    """The cells of one netd process, by the inode of the sandbox's namespace."""

    def __init__(self) -> None:
        self._cells: dict[int, _Cell] = {}
        self._lifeline: Lifeline | None = None
        self._opened = 0

    def open(self, request: OpenCell) -> tuple[Answer, list[int]]:
        """What ``open_cell`` says and gives; OSError as it does."""
        owner = self._owner() if any(plan and plan.uplink for plan in (request.plan, request.plan6)) else ""
        answer, descriptors = open_cell(request.plan, request.plan6, request.firewall, owner)
        if isinstance(answer, CellOpened):
            sandbox = os.dup(descriptors[answer.descriptors.index("netns")])
            self._cells[os.fstat(sandbox).st_ino] = _Cell(sandbox, owner)
        elif owner:
            lower_uplinks(owner)
        return answer, descriptors

    def close(self, sandbox: int) -> Answer:
        """Take down the cell whose sandbox's namespace ``sandbox`` is a descriptor of."""
        cell = self._cells.pop(os.fstat(sandbox).st_ino, None)
        if cell is None:
            return Failed("that is no cell of this process's")
        self._take_down([cell])
        return CellClosed()

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
        clear([cell.sandbox for cell in cells])
        for cell in cells:
            os.close(cell.sandbox)
            if cell.owner:
                lower_uplinks(cell.owner)

    def _owner(self) -> str:
        if self._lifeline is None:
            self._lifeline = Lifeline()
        self._opened += 1
        return f"{self._lifeline.name}.{self._opened}"
