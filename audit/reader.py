"""Reading records back, merged over files in time order."""

import heapq
import os
import re
import stat
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import orjson

from audit.files import PATTERN
from audit.record import Record

_start = re.compile(r"egress-(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z-", re.ASCII).match


def read(
    directory: str | os.PathLike[str],
    *,
    sandbox: str | None = None,
    event: str | None = None,
    domain: str | None = None,
) -> Iterator[Record]:
    """Every whole record in ``directory`` that has the given values, oldest first. A torn line (a crash's last) is passed over.

    Files are merged by timestamp; within one file its own order stands.
    """
    wanted = {
        name: value
        for name, value in (("sandbox", sandbox), ("event", event), ("domain", domain))
        if value is not None
    }
    for record in _merged(sorted(Path(directory).glob(PATTERN))):
        if all(record.get(name) == value for name, value in wanted.items()):
            yield record


def _merged(paths: list[Path]) -> Iterator[Record]:
    """A file is opened when its turn comes: a directory may hold more files than a process may open."""
    waiting = deque(paths)
    heads: list[tuple[str, int, Record, Iterator[Record]]] = []
    turn = 0
    while waiting or heads:
        while waiting and (not heads or _earliest(waiting[0]) <= heads[0][0]):
            _push(heads, turn, _records(waiting.popleft()))
            turn += 1
        if heads:
            _, order, record, rest = heapq.heappop(heads)
            yield record
            _push(heads, order, rest)


def _push(
    heads: list[tuple[str, int, Record, Iterator[Record]]], turn: int, records: Iterator[Record]
) -> None:
    record = next(records, None)
    if record is not None:
        heapq.heappush(heads, (str(record.get("timestamp", "")), turn, record, records))


def _earliest(path: Path) -> str:
    """What no timestamp in ``path`` is before: its name says when it was begun."""
    begun = _start(path.name)
    return "{}-{}-{}T{}:{}:{}".format(*begun.groups()) if begun else ""


def _records(path: Path) -> Iterator[Record]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # removed since the directory was listed
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # a FIFO would never end
        os.close(descriptor)
        return
    with open(descriptor, "rb") as file:
        for line in file:
            try:
                record = orjson.loads(line)
            except orjson.JSONDecodeError:
                continue
            if isinstance(record, dict):
                yield record
