"""Writing records: one JSON object a line, numbered without gaps, appended in batches by the process that owns the files.

Nothing here raises when the disk fails. ``trouble`` says what is wrong; whoever hands over records looks at ``ready`` first, if it would rather
wait than lose some. What is taken all the same is kept as far as there is room, and counted beyond.
"""

import errno
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any, Final

import orjson

from audit import directories
from audit import record as records
from audit.files import file_name, stamp, stamp_of
from audit.listed import Listed
from audit.segment import Closed, NoReservation, Segment
from audit.settings import AuditSettings, Fsync, OnFull

MAX_BUFFERED_BYTES: Final = 4 * 1024 * 1024
"""While the disk takes nothing; what comes beyond is counted as lost."""
TICK_S: Final = 1.0
"""Between syncs, between looks at whether the file is still there, and between tries while something is wrong."""
DAY_NS: Final = 86_400_000_000_000
RECENT: Final = 1024
"""Decisions that are remembered, for the one that a dying sender may just have handed over."""
TRIES: Final = 100
"""At a free name."""
WRITER_BYTES: Final = 8
"""Of chance, that name a writer: in one directory no two are ever alike."""
MAX_UNSEALED: Final = 32
EARLIER_NS: Final = 3_600_000_000_000
"""A file's name says when it was begun, or when its first record was made, if that is not long before."""

_timestamp_of = re.compile(rb'"timestamp":"([0-9T:.Z-]{27})"').search


class AuditLog:
    """One writer's files in an audit directory: ``path`` is the one that is written now. ``write`` buffers, ``flush`` appends."""

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        settings: AuditSettings | None = None,
        sandbox: str | None = None,
        keys: Path | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """Create the directory (0700) if it is not there, and a new file (0600) in it. OSError where that cannot be.

        ``sandbox``: whose records these are, if they are one's; ``keys``: where the manifest's progress is noted; ``clock``: nanoseconds since
        the epoch.
        """
        self.directory = Path(directory)
        self.settings = settings or AuditSettings()
        self.sandbox = sandbox
        self.keys = keys
        directories.make(self.directory)
        self.warnings = list(directories.strangers(self.directory, "the audit directory"))
        self.seq = 0
        self.lost = 0
        self.trouble: OSError | None = None
        self.sealable: list[Closed] = []
        """Closed segments that are still to be signed, oldest first. They stay locked until ``sealed``, so that nobody takes us for dead."""
        self.rescued = 0
        """How often a file was gone and was put back."""
        self._unsaid = 0
        self._buffer = bytearray()
        self._recent: deque[str] = deque(maxlen=RECENT)
        self._together: deque[bytes] = deque(maxlen=2)
        """The lines that were taken last: what a dying sender handed over is among them."""
        self._clock = clock
        self._promised = 0
        self._unsynced = self._closed = False
        self._looked = self._synced = self._tried = time.monotonic()
        self._locks: dict[str, int] = {}
        self._before: str | None = None
        self.writer = f"{os.urandom(WRITER_BYTES).hex()}-0"
        self._day = self._clock() // DAY_NS
        durable = self.settings.durable
        self._listed = Listed(self.directory, keys, self.writer, sandbox, clock, durable=durable)
        self._segment = self._begin(0, 0)
        self._listed.begun(self._segment)

    def __enter__(self) -> "AuditLog":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def path(self) -> Path:
        """The file that is written now."""
        return self._segment.path

    @property
    def unlisted(self) -> OSError | None:
        """Why the manifest does not know of a file that was begun; it is told as soon as that can be."""
        return self._listed.trouble

    @property
    def buffered(self) -> int:
        """Bytes that were taken and are not in the file yet."""
        return len(self._buffer)

    @property
    def ready(self) -> bool:
        """Whether more may be handed over without being lost; always, where the settings would rather lose it than wait."""
        return self.trouble is None or self.settings.on_full is OnFull.DROP

    # -- taking

    def write(self, record: Mapping[str, Any]) -> bool:
        """Take one record: schema, writer and seq are ours, a timestamp is added where there is none. False where it is lost, and counted."""
        if len(self._buffer) > MAX_BUFFERED_BYTES:
            self.count_lost(1)
            return False
        line: dict[str, Any] = {"schema": records.SCHEMA}
        if "timestamp" not in record:
            line["timestamp"] = records.timestamp(self._clock())
        line |= record
        line["schema"] = records.SCHEMA
        line.pop("writer", None)
        line.pop("seq", None)
        line["writer"] = self.writer
        line["seq"] = self.seq
        try:
            self._buffer += orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
        except TypeError:
            self.count_lost(1)
            return False
        self.seq += 1
        if "reason" in line and "flow" in line:
            self._recent.append(line["flow"])
        return True

    def take(self, lines: bytes, count: int) -> bool:
        """As ``write``, of so many lines that have this writer's next numbers already (``audit.brief``)."""
        if len(self._buffer) > MAX_BUFFERED_BYTES:
            self.count_lost(count)
            return False
        self._buffer += lines
        self.seq += count
        self._together.append(lines)
        return True

    def count_lost(self, count: int) -> None:
        """Something could not be recorded: say so in the record as soon as that is possible."""
        self.lost += count
        self._unsaid += count

    def decided(self, flows: Set[str]) -> set[str]:
        """Those of ``flows`` whose decision is among the last that were taken."""
        together = b"".join(self._together)
        return {flow for flow in flows if flow in self._recent or b'"flow":"%b"' % flow.encode() in together}

    # -- the disk

    def promise(self, room: int) -> bool:
        """From now on hold ``room`` bytes of disk for what has been handed over elsewhere and not yet here. False where this file system cannot
        set room aside."""
        self._promised = room
        try:
            self._segment.hold(room)
        except NoReservation:
            self._promised = 0
            return False
        except OSError as error:
            self.trouble = error
        return True

    def flush(self) -> bool:
        """Append what is buffered, and hold the room that was promised. False where the disk does not take it: it stays buffered for next time."""
        self._tried = time.monotonic()
        try:
            self._look()
            self._append()
            if self._unsaid:
                count, self._unsaid = self._unsaid, 0
                self.write(records.lost(self._clock(), count))
                self._append()
            if self.settings.fsync is Fsync.ALWAYS:
                self._sync()
            self._hold(self._segment)
        except OSError as error:
            self.trouble = error
            return False
        self.trouble = None
        return True

    def tick(self) -> None:
        """What is due by time: the sync of ``Fsync.INTERVAL``, the day's end, another try after a failure. Every ``due_in`` seconds."""
        self._listed.tick(TICK_S)
        try:
            if self._unsynced and self.settings.fsync is Fsync.INTERVAL:
                self._sync()
        except OSError as error:
            self._tried, self.trouble = time.monotonic(), error
            return
        self._turn_over_if_due()
        if self.trouble is not None or self._buffer or self._unsaid:
            self.flush()

    def due_in(self) -> float:
        """Seconds until ``tick`` has something to do."""
        if self.trouble is not None:
            return max(0.0, self._tried + TICK_S - time.monotonic())
        until_midnight = (DAY_NS - self._clock() % DAY_NS) / 1e9 + 0.001
        due = min(until_midnight, self._listed.due_in(TICK_S))
        if self._unsynced and self.settings.fsync is Fsync.INTERVAL:
            return min(due, max(0.0, self._synced + TICK_S - time.monotonic()))
        return due

    def _look(self) -> None:
        """Whether the file is still there: who removes it, or its directory, must not make the records vanish unseen."""
        now = time.monotonic()
        if self.trouble is None and now - self._looked < TICK_S:
            return
        self._looked = now
        if not self._segment.misplaced():
            return
        directories.make(self.directory)
        stem = self._segment.path.name.partition("-")[2].partition("-")[0]
        for path in self._names(stem, self._segment.number):
            try:
                lost = self._segment.rescue(path)
            except FileExistsError:
                continue
            break
        else:
            raise _all_taken(path)
        self.rescued += 1
        self.count_lost(lost)
        self._listed.begun(self._segment)

    def _append(self) -> None:
        """All of the buffer, from segment to segment. OSError where the disk takes no more."""
        while self._buffer:
            self._turn_over_if_due()
            room = max(self.settings.max_segment_bytes - self._segment.size, 1)
            lines = self._buffer
            count = self.seq - self._segment.next_seq
            if len(lines) > room:
                end = lines.rfind(b"\n", 0, room) + 1 or lines.index(b"\n") + 1
                lines = lines[:end]
                count = lines.count(b"\n")
            written = self._segment.append(lines, count)
            del self._buffer[:written]
            self._unsynced = True

    def _hold(self, segment: Segment) -> None:
        if self._promised:
            segment.hold(self._promised)

    def _sync(self) -> None:
        if self._unsynced:
            self._segment.sync()
            self._unsynced = False
        self._synced = time.monotonic()

    # -- from segment to segment

    def _turn_over_if_due(self) -> None:
        segment, day = self._segment, self._clock() // DAY_NS
        if not segment.size or (segment.size < self.settings.max_segment_bytes and day == self._day):
            return
        try:
            following = self._begin(segment.number + 1, segment.next_seq)
        except OSError:
            return  # go on in the old one: it takes what the disk takes
        try:
            self._hold(following)
        except (OSError, NoReservation):
            following.discard()
            return
        self._listed.begun(following)  # first: killed in between, nobody would know of it
        self._finish()
        self._segment, self._day = following, day

    def _begin(self, number: int, first_seq: int) -> Segment:
        now = self._clock()
        first = _timestamp_of(self._buffer, 0, 256) if number else None
        start = stamp(now)
        if first and stamp(now - EARLIER_NS) < (said := stamp_of(first[1])) < start:
            start = said
        for path in self._names(start, number):
            try:
                return Segment(path, number, first_seq)
            except FileExistsError:
                continue
        raise _all_taken(path)

    def _names(self, start: str, number: int) -> Iterator[Path]:
        for again in range(TRIES):
            yield self.directory / file_name(start, self.writer, number, again)

    def _finish(self) -> None:
        """Close the segment and put it up for signing."""
        segment = self._segment
        segment.finish(sync=self.settings.durable)
        closed = segment.closed(self.writer, self.sandbox, self._before)
        self._before = closed.sha256
        self._locks[closed.file] = segment.descriptor
        self.sealable.append(closed)
        if len(self.sealable) > MAX_UNSEALED:
            self._let_go([self.sealable[0].file])  # whoever comes next may adopt it

    def sealed(self, files: Iterable[str]) -> None:
        """These are in the manifest now."""
        for file in files:
            self._listed.sealed(file)
        self._let_go(files)

    def _let_go(self, files: Iterable[str]) -> None:
        for file in files:
            if (descriptor := self._locks.pop(file, None)) is not None:
                os.close(descriptor)
        self.sealable = [closed for closed in self.sealable if closed.file in self._locks]

    def finish(self) -> None:
        """Append what is left; the last file is ``sealable`` then. What the disk does not take now is lost, and counted in ``lost``."""
        if self._closed:
            return
        self._closed = True
        self._looked = -TICK_S
        self.flush()
        self.lost += self._buffer.count(b"\n")
        self._buffer.clear()
        if self._segment.misplaced():
            self.lost += self._segment.lines
        self._finish()

    def close(self) -> None:
        """``finish``, and let go of what is not signed. Safe to call twice."""
        self.finish()
        self._let_go(tuple(self._locks))


def _all_taken(path: Path) -> OSError:
    return FileExistsError(errno.EEXIST, f"{TRIES} files have this name", str(path))
