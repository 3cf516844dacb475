"""Records on their way from the process that decides to the process that keeps them: a pipe, so that what was sent outlives the sender.

A line of at most PIPE_BUF bytes enters the pipe whole or not at all, so a sender that is killed tears none.
"""

import os
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import orjson

from audit.log import AuditLog
from audit.record import MAX_LINE_BYTES, Record

MAX_BACKLOG: Final = 4096
"""Records that wait in the sender while the pipe is full."""
READ_BYTES: Final = 256 * 1024


def open_pipe() -> tuple[int, int]:
    """Read end and write end, both non-blocking."""
    return os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)


class Feed:
    """The sender's side."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._backlog: deque[bytes] = deque()
        self.lost = 0

    def send(self, record: Record) -> bool:
        """Hand one record over. False where it could not be taken: it is counted, and the count is sent when there is room."""
        line = orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
        self.flush()
        if len(line) <= MAX_LINE_BYTES and not self._backlog and self._write(line):
            return True
        if len(line) <= MAX_LINE_BYTES and len(self._backlog) < MAX_BACKLOG:
            self._backlog.append(line)
            return True
        self.lost += 1
        return False

    def flush(self) -> None:
        """Send what waits, as far as the pipe takes it."""
        while self._backlog and self._write(self._backlog[0]):
            self._backlog.popleft()
        if self.lost and not self._backlog:
            line = orjson.dumps({"event": "audit_lost", "count": self.lost}, option=orjson.OPT_APPEND_NEWLINE)
            if self._write(line):
                self.lost = 0

    def _write(self, line: bytes) -> bool:
        try:
            return os.write(self._descriptor, line) == len(line)
        except OSError:
            return False


class Intake:
    """The keeper's side: the lines of a sender that is not trusted, into a log whose numbering the sender cannot touch."""

    def __init__(
        self, descriptor: int, log: AuditLog | None, count: Callable[[Record], object] | None = None
    ) -> None:
        """``log=None`` keeps nothing (audit is off); ``count`` sees each record that was taken."""
        self._descriptor = descriptor
        self._log = log
        self._count = count
        self._rest = b""

    def drain(self) -> int:
        """Take in all there is now; the number of records."""
        taken = 0
        while True:
            try:
                chunk = os.read(self._descriptor, READ_BYTES)
            except BlockingIOError:
                return taken
            if not chunk:
                return taken
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            if len(self._rest) > MAX_LINE_BYTES:
                self._rest = b""
                lines.append(b"")
            for line in lines:
                self._take(line)
                taken += 1

    def _take(self, line: bytes) -> None:
        try:
            record: Any = orjson.loads(line)
        except orjson.JSONDecodeError:
            record = None
        if not isinstance(record, dict):
            if self._log is not None:
                self._log.count_lost(1)
            return
        if self._log is not None:
            self._log.write(record)
        if self._count is not None:
            self._count(record)

    def close(self) -> None:
        """Close the read end."""
        os.close(self._descriptor)
