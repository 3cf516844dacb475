"""Reading records back, merged over files in time order: streaming, and without looking at what lies before the time that is asked for."""

import heapq
import os
import re
import stat
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson

from audit.files import PATTERN, first_name
from audit.record import Record
from audit.sources import MAX_LINE_BYTES, Sources
from audit.wanted import Moment, Wanted, spelt, wanted

_start = re.compile(r"egress-(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z-", re.ASCII).match
_stamps = re.compile(rb'"timestamp": ?"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)"').findall
SLACK_S: Final = 300
"""By so much a line may be later in its file than its time says: a record waits for the disk, and clocks are set."""
HALVED_BYTES: Final = 256 * 1024
"""What is left is read from its beginning."""
MAX_DEPTH: Final = 64
"""Of lists and objects in one another: what reads JSON (orjson) goes deeper than what writes and shows it."""


class Tally:
    """What a reading passed over."""

    def __init__(self) -> None:
        self.torn = 0
        """Lines that are no record: a crash's last."""
        self.opened = 0
        """Files that were."""
        self.refused: set[Path] = set()
        """Files that may not be read by whoever asks."""


def read(
    directory: str | os.PathLike[str],
    *,
    since: Moment | None = None,
    until: Moment | None = None,
    sandbox: str | None = None,
    event: str | None = None,
    domain: str | None = None,
    ip: str | None = None,
    rule: str | None = None,
    reason: str | None = None,
) -> Iterator[Record]:
    """Every whole record in ``directory`` that is asked for, oldest first; a torn line (a crash's last) is passed over.

    ``since`` (included) and ``until``: ``datetime``, ISO 8601 text, or ``1h``, ``7d`` ago. ``domain``, ``rule``: patterns with ``*`` and ``?``.
    ``ip``: an address or a network. Files are merged by timestamp; within one file its own order stands. ValueError for what is no question,
    PermissionError where a file may not be read: no answer is one that lacks what nobody is told of.
    """
    asked = wanted(
        since=since,
        until=until,
        sandbox=sandbox,
        event=event,
        domain=domain,
        ip=ip,
        rule=rule,
        reason=reason,
    )
    return read_wanted(directory, asked)


def read_wanted(
    directory: str | os.PathLike[str], asked: Wanted, tally: Tally | None = None
) -> Iterator[Record]:
    """As ``read``; ``tally`` counts on, also the files that may not be read, which are passed over then."""
    paths = sorted(Path(directory).glob(PATTERN))
    if asked.until is not None:
        latest = _shifted(asked.until, SLACK_S)
        paths = [path for path in paths if _earliest(path) <= latest]
    return _merged(paths, asked, tally)


def _merged(paths: list[Path], asked: Wanted, tally: Tally | None) -> Iterator[Record]:
    """A file is opened when its turn comes, and not all that overlap stay open: a directory may hold more files than a process may open."""
    waiting, sources = deque(paths), Sources()
    heads: list[tuple[str, int, Record, Iterator[Record]]] = []
    turn = 0
    while waiting or heads:
        while waiting and (not heads or _earliest(waiting[0]) <= heads[0][0]):
            path = waiting.popleft()
            records = _records(sources, path, asked, tally or Tally())
            _push(heads, turn, records if tally is None else _readable(records, path, tally))
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


def _readable(records: Iterator[Record], path: Path, tally: Tally) -> Iterator[Record]:
    """None of a file that somebody else may read: in a directory of several users each finds his own."""
    try:
        yield from records
    except PermissionError:
        tally.refused.add(path)


def _records(sources: Sources, path: Path, asked: Wanted, tally: Tally) -> Iterator[Record]:
    since, until = asked.since, asked.until

    def seek(file: BinaryIO) -> bool:
        tally.opened += 1
        return since is None or _seek(file, _shifted(since, -SLACK_S))

    needles, test = asked.needles(), asked.test()
    for line in chain.from_iterable(sources.stretches(path, seek)):
        if any(needle not in line for needle in needles):
            continue
        record = parsed(line)
        if record is None:
            tally.torn += 1
            continue
        moment = str(record.get("timestamp", ""))
        # To the end of the file even beyond ``until``: a clock that was wrong for a moment must hide no line.
        if (since is None or moment >= since) and (until is None or moment < until) and test(record):
            yield record


def parsed(line: bytes) -> Record | None:
    """The record that a line holds, if it holds one."""
    try:
        record: Any = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(record, dict) or (
        line.count(b"[") + line.count(b"{") > MAX_DEPTH and _too_deep(record)
    ):
        return None
    return record


def _too_deep(record: Record) -> bool:
    layer: list[Any] = [record]
    for _ in range(MAX_DEPTH):
        inner = (value.values() if isinstance(value, dict) else value for value in layer)
        layer = [value for values in inner for value in values if isinstance(value, (dict, list))]
        if not layer:
            return False
    return True


def _seek(file: BinaryIO, since: str) -> bool:
    """Go to a line before which nothing is as late as ``since``; False where nothing in the file is.

    No single line is believed: one whose date is wrong would hide all the others. A file ends before ``since`` where the kernel says when it was
    written last, and its end agrees.
    """
    status = os.fstat(file.fileno())
    written_before = status.st_mtime < datetime.fromisoformat(since).timestamp()
    if written_before and _all_before(file, max(status.st_size - MAX_LINE_BYTES, 0), since):
        return False
    low, high = 0, status.st_size
    while high - low > HALVED_BYTES:
        middle = (low + high) // 2
        file.seek(middle)
        file.readline(MAX_LINE_BYTES)  # the rest of a line
        here = file.tell()
        if _all_before(file, here, since):
            low = here
        else:
            high = middle
    file.seek(low)
    return True


def _all_before(file: BinaryIO, at: int, since: str) -> bool:
    """Whether all that is dated there, as much as the longest line and a hundred or more of the usual ones, is from before ``since``."""
    file.seek(at)
    found = _stamps(file.read(MAX_LINE_BYTES))
    return bool(found) and max(found) < since.encode()


def _shifted(stamp: str, seconds: int) -> str:
    try:
        return spelt(datetime.fromisoformat(stamp) + timedelta(seconds=seconds))
    except OverflowError:
        return stamp


class Follower:
    """What is written to a directory from now on: new files, files that are turned over, files that go and are put back."""

    def __init__(
        self, directory: Path, matches: Callable[[Record], bool], tally: Tally | None = None
    ) -> None:
        """Nothing that is there already. ``tally`` counts on, the files that may not be read."""
        self._directory = directory
        self._matches = matches
        self._tally = tally or Tally()
        self._known: dict[tuple[int, int, str], int] = {}
        """By the name, too: the next file may get a removed one's number."""
        self._places: dict[str, int] = {}
        """How far each was read, by the name that it was begun under."""
        self._look(lambda path, status, before: status.st_size)

    def poll(self) -> list[Record]:
        """What has come since the last time, oldest first. Costs a stat a file."""
        found: list[Record] = []

        def take(path: Path, status: os.stat_result, before: int) -> int:
            if status.st_size <= before:
                return min(before, status.st_size)
            with path.open("rb") as file:
                file.seek(before)
                while line := file.readline(MAX_LINE_BYTES):
                    if not line.endswith(b"\n") and len(line) < MAX_LINE_BYTES:
                        break  # it is being written
                    before += len(line)
                    record = parsed(line)
                    if record is not None and self._matches(record):
                        found.append(record)
            return before

        self._look(take)
        return sorted(found, key=lambda record: str(record.get("timestamp", "")))

    def _look(self, act: Callable[[Path, os.stat_result, int], int]) -> None:
        known: dict[tuple[int, int, str], int] = {}
        for path in sorted(self._directory.glob(PATTERN)):
            try:
                status = path.lstat()
                if not stat.S_ISREG(status.st_mode):
                    continue
                place = first_name(path.name)
                identity = (status.st_dev, status.st_ino, place)
                before = self._known.get(identity)
                reached = self._places.get(place, 0)
                if before is None:
                    before = _same_so_far(path, reached)
                known[identity] = act(path, status, before)
                self._places[place] = max(reached, known[identity])
            except FileNotFoundError:
                continue
            except PermissionError:
                self._tally.refused.add(path)
        self._known = known


def _same_so_far(path: Path, before: int) -> int:
    """A file in the place of one that was read as far as ``before``: its writer put back a copy, unless no line ends there."""
    if before:
        with path.open("rb") as file:
            file.seek(before - 1)
            if file.read(1) == b"\n":
                return before
    return 0


def newest(directory: Path, asked: Wanted, count: int, tally: Tally | None = None) -> list[Record]:
    """The last ``count`` that are asked for, oldest first: looked for in the last hour, then in the last day, then in everything. ``tally`` as
    in ``read_wanted``."""
    windows = [None] if asked.since is not None else ["1h", "1d", None]
    found: deque[Record] = deque(maxlen=count)
    for window in windows:
        since = asked.since if window is None else wanted(since=window).since
        found.clear()
        found.extend(read_wanted(directory, replace(asked, since=since), tally))
        if len(found) == count:
            break
    return list(found)
