"""Records on their way from the process that decides to the process that keeps them: a pipe, so that what was sent outlives the sender.

A line of at most PIPE_BUF bytes enters the pipe whole or not at all, so a sender that is killed tears none.
"""

import fcntl
import os
import struct
import termios
import time
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

import orjson

from audit.brief import ALLOWED_MARK, CLOSED_MARK, FORM_MARK, Forms
from audit.claim import record_of
from audit.dates import Dates
from audit.log import AuditLog
from audit.record import MAX_LINE_BYTES, Event, Record, lost

MAX_BACKLOG: Final = 4096
"""Records that wait in the sender while the pipe is full."""
PIPE_BYTES: Final = 256 * 1024
"""Four thousand brief lines (``audit.brief``), or six hundred whole ones."""
PIECE_BYTES: Final = 4096
"""What an intake takes at once where it gives way: a fifth of a millisecond's work."""
POLITE_S: Final = 0.02
"""How long it may take to give way: beside processes that never wait, one time may cost as much, and the keeper has more to see to."""
TOGETHER: Final = 256
"""Lines that are kept at once, at the most."""
_INT: Final = struct.Struct("=i")
_write: Final = os.write


def open_pipe(size: int | None = None) -> tuple[int, int]:
    """Read end and write end, both non-blocking, with room for a burst, or for ``size`` bytes. Each has flags of its own: whoever has only the write
    end may make itself wait, and nobody else."""
    ends = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, PIPE_BYTES if size is None else size)
    except OSError:
        pass  # this user has many pipes already (pipe(7), pipe-user-pages-soft): the usual size works as well
    return ends


def open_answer() -> tuple[int, int]:
    """The sender's end and the keeper's of what tells the sender how many are kept: eight bytes at a time, which it reads as an eventfd(2)'s.

    A real one has one set of flags for both, and a sender that was taken over could make the keeper wait. These ends have their own: the keeper never
    waits. The sender's is open both ways, for it sees no end then when the keeper is gone.
    """
    read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.open(f"/proc/self/fd/{read_end}", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC), write_end
    finally:
        os.close(read_end)


class _Waiting(NamedTuple):
    line: bytes
    sent: Callable[[], object] | None
    records: int
    """That it stands for, where nothing is called when it is sent."""


class Feed:
    """The sender's side."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        # An empty line ends whatever a sender before this one may have left in the pipe.
        self._backlog: deque[_Waiting] = deque([_Waiting(b"\n", None, 0)])
        self._nobodys = 0
        self._pending: list[bytes] = []
        self.lost = 0
        self.sent = 0
        """Records in the pipe so far: the number of the last one."""
        self.flush()

    @property
    def waiting(self) -> bool:
        """Whether something is still to be sent: ``flush`` when there may be room."""
        return bool(self._backlog or self.lost)

    @property
    def backlog(self) -> int:
        """Records that wait for room in the pipe."""
        return len(self._backlog)

    @property
    def unsent(self) -> int:
        """Records that would be lost with this process, and that nobody else knows of: nothing is called when they are sent."""
        return self._nobodys + self.lost + len(self._pending)

    def offer(self, record: Record) -> bool:
        """Put one record into the pipe now, or leave it alone. True: it outlives this process."""
        line = _line(record)
        return line is not None and self.put(line)

    def put(self, line: bytes) -> bool:
        """As ``offer``, of a record that is a line already; with what was to come ``later``."""
        pending = self._pending
        if pending and not self._backlog and len(line) + sum(map(len, pending)) <= MAX_LINE_BYTES:
            if self._write(b"".join((*pending, line)), len(pending) + 1):
                pending.clear()
                return True
        if self._backlog or pending or self.lost:
            self.flush()
        return not self._backlog and len(line) <= MAX_LINE_BYTES and self._write(line)

    def later(self, line: bytes) -> None:
        """Take one record that may wait for the next ``flush``, or whatever is sent before it."""
        self._pending.append(line)

    def send(self, record: Record, sent: Callable[[], object] | None = None) -> bool:
        """Take one record; ``sent`` is called once it is in the pipe. False where it could not be taken: it is counted, and the count is sent."""
        line = _line(record)
        self.flush()
        if line is not None and not self._backlog and self._write(line):
            if sent is not None:
                sent()
            return True
        if line is not None and len(self._backlog) < MAX_BACKLOG:
            count = 0 if sent is not None else _count(record)
            self._backlog.append(_Waiting(line, sent, count))
            self._nobodys += count
            return True
        self.lost += _count(record)
        return False

    def flush(self) -> None:
        """Send what waits, as far as the pipe takes it."""
        if self._pending:
            self._send_pending()
        while self._backlog and self._write(self._backlog[0].line):
            done = self._backlog.popleft()
            self._nobodys -= done.records
            if done.sent is not None:
                done.sent()
        if self.lost and not self._backlog:
            line = _line(lost(time.time_ns(), self.lost))
            if line is not None and self._write(line):
                self.lost = 0

    def _send_pending(self) -> None:
        """As many lines at once as enter the pipe whole or not at all; those that do not wait their turn."""
        pending, self._pending = self._pending, []
        at = 0
        while at < len(pending) and not self._backlog:
            end, size = at, 0
            while end < len(pending) and (size := size + len(pending[end])) <= MAX_LINE_BYTES:
                end += 1
            end = max(end, at + 1)
            if not self._write(b"".join(pending[at:end]), end - at):
                break
            at = end
        room = max(0, MAX_BACKLOG - len(self._backlog))
        self._backlog.extend(_Waiting(line, None, 1) for line in pending[at : at + room])
        self._nobodys += min(len(pending) - at, room)
        self.lost += max(0, len(pending) - at - room)

    def _write(self, lines: bytes, records: int = 1) -> bool:
        try:
            if _write(self._descriptor, lines) != len(lines):
                return False
        except OSError:
            return False
        if len(lines) > 1:
            self.sent += records
        return True


def _count(record: Record) -> int:
    """How many it stands for."""
    count: int = record.get("count", 1)
    return count


def _line(record: Record) -> bytes | None:
    """The record as a line; None where it is too long for one write, or no JSON."""
    try:
        line = orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:
        return None
    return line if len(line) <= MAX_LINE_BYTES else None


class Intake:
    """The keeper's side: the lines of one sender, which is not trusted, into a log whose numbering it cannot touch."""

    def __init__(
        self,
        descriptor: int,
        log: AuditLog | None,
        count: Callable[[Record], object] | None = None,
        *,
        sandbox: str,
    ) -> None:
        """``log=None`` keeps nothing (audit is off); ``count`` sees each record that was taken; of those of allowed connections no more than how
        many began. All are records of ``sandbox``."""
        self._descriptor = descriptor
        self._log = log
        self._count = count
        self._sandbox = sandbox
        self._dates = Dates()
        self._forms = Forms(sandbox, "" if log is None else log.writer, self._dates)
        self._rest = b""
        self.lines = 0
        """Taken in so far, in the order in which they were sent; those that were refused among them."""
        self._pipe_bytes = fcntl.fcntl(descriptor, fcntl.F_GETPIPE_SZ)

    @property
    def pipe_bytes(self) -> int:
        """What the pipe had room for at first: whoever has an end of it can change that."""
        return self._pipe_bytes

    def waiting(self) -> int:
        """Bytes in the pipe."""
        return int(_INT.unpack(fcntl.ioctl(self._descriptor, termios.FIONREAD, bytes(_INT.size)))[0])

    def pause(self) -> None:
        """Nothing is taken in until the next ``drain``, since it could not be kept."""
        self._dates.pause()

    def drain(self, give_way: Callable[[], object] | None = None) -> int:
        """Take in what there is now, a pipe's fill at the most, so that no sender can hold the keeper here; the number of records. ``give_way``: call
        it after every ``PIECE_BYTES``, and leave the rest for another time after ``POLITE_S``."""
        return self._read(self._pipe_bytes, give_way)

    def finish(self) -> int:
        """Take in all that a sender left that is gone, however large it had made the pipe, and half a line as one; the number of records."""
        taken = self._read(self.waiting(), None)
        rest, self._rest = self._rest, b""
        return taken + self._take([rest])

    def _read(self, room: int, give_way: Callable[[], object] | None) -> int:
        """At most ``room`` bytes."""
        taken = 0
        self._dates.look()
        give_up = time.monotonic() + POLITE_S
        piece = self._pipe_bytes if give_way is None else PIECE_BYTES
        while room > 0:
            try:
                chunk = os.read(self._descriptor, min(room, piece))
            except BlockingIOError:
                break
            if not chunk:
                break
            room -= len(chunk)
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            if len(self._rest) > MAX_LINE_BYTES:
                lines.append(self._rest)
                self._rest = b""
            taken += self._take(lines)
            if give_way is not None:
                give_way()
                if time.monotonic() >= give_up:
                    break
        return taken

    def _take(self, lines: list[bytes]) -> int:
        """Of allowed connections, as almost all are, many at once."""
        taken = allowed = 0
        kept: list[bytes] = []
        seq = 0 if self._log is None else self._log.seq
        for line in lines:
            if not line:
                continue
            self.lines += 1
            mark = line[0]
            if mark == ALLOWED_MARK or mark == CLOSED_MARK:
                brief = self._forms.kept(line, seq)
                if brief is not None:
                    kept.append(brief)
                    seq += 1
                    allowed += mark == ALLOWED_MARK
                    if len(kept) < TOGETHER:
                        continue
            else:
                brief = None
            taken += self._keep(kept)
            if brief is None:
                taken += self._take_whole(line, mark)
            seq = 0 if self._log is None else self._log.seq
        if allowed and self._count is not None:
            self._count({"event": Event.ALLOWED, "count": allowed})
        return taken + self._keep(kept)

    def _keep(self, lines: list[bytes]) -> int:
        """``lines``, which are numbered, and emptied by this; how many."""
        count = len(lines)
        if count and self._log is not None:
            self._log.take(b"".join(lines), count)
        lines.clear()
        return count

    def _take_whole(self, line: bytes, mark: int) -> bool:
        """A record with all that is in it, or what is none."""
        record = self._forms.define(line) if mark == FORM_MARK else record_of(line, self._sandbox)
        if record is None:
            if self._log is not None:
                self._log.count_lost(1)
            return False
        record["timestamp"] = self._dates.dated(record["timestamp"].encode()).decode()
        if self._log is not None:
            self._log.write(record)
        if self._count is not None:
            self._count(record)
        return True

    def close(self) -> None:
        """Close the read end."""
        os.close(self._descriptor)
