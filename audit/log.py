"""Writing records: one JSON object a line, numbered without gaps, appended in batches by the process that owns the file."""

import os
import re
import stat
import time
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any, Final

import orjson

from audit import record as records
from audit.files import file_name

MAX_BUFFERED_BYTES: Final = 4 * 1024 * 1024
"""While the disk takes nothing; what comes beyond is counted as lost."""

_flow_of = re.compile(rb'"flow":"([^"]*)"').search


class AuditLog:
    """One writer's file in an audit directory. ``write`` buffers, ``flush`` appends; neither raises when the disk fails."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        """Create the directory (0700) if it is not there, and a new file (0600) in it. OSError where that cannot be."""
        self.directory = Path(directory)
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.warnings = list(self._open_to_others())
        self.seq = 0
        self.lost = 0
        self._unsaid = 0
        self._buffer = bytearray()
        start = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        while True:
            self.writer = f"{os.urandom(4).hex()}-0"
            self.path = self.directory / file_name(start, self.writer)
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            try:
                self._descriptor = os.open(self.path, flags, 0o600)
            except FileExistsError:
                continue
            break

    def __enter__(self) -> "AuditLog":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _open_to_others(self) -> Iterator[str]:
        status = self.directory.stat()
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            yield f"others can write to the audit directory {self.directory}: chmod go-w {self.directory}"
        if status.st_uid not in (0, os.geteuid()):
            yield f"the audit directory {self.directory} belongs to uid {status.st_uid}, who can change what is in it"

    def write(self, record: Mapping[str, Any]) -> None:
        """Take one record: schema, writer and seq are ours, a timestamp is added where there is none. What is no JSON counts as lost."""
        if len(self._buffer) > MAX_BUFFERED_BYTES:
            self.count_lost(1)
            return
        line: dict[str, Any] = {"schema": records.SCHEMA}
        if "timestamp" not in record:
            line["timestamp"] = records.timestamp(time.time_ns())
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
            return
        self.seq += 1

    def count_lost(self, count: int) -> None:
        """Something could not be recorded: say so in the record as soon as that is possible."""
        self.lost += count
        self._unsaid += count

    def flush(self) -> None:
        """Append what is buffered. What the disk does not take stays buffered for the next time."""
        if self._append() and self._unsaid:
            count, self._unsaid = self._unsaid, 0
            self.write(records.lost(time.time_ns(), count))
            self._append()

    def _append(self) -> bool:
        """Whether the disk took everything. What it took of a line is not written again: the rest follows when it can."""
        while self._buffer:
            try:
                written = os.write(self._descriptor, self._buffer)
            except OSError:
                return False
            del self._buffer[:written]
        return True

    def decided(self, flows: Set[str]) -> set[str]:
        """Those of ``flows`` whose decision has been taken already. Reads the whole file: for the aftermath of a crash only."""
        found: set[str] = set()

        def note(line: bytes) -> None:
            flow = _flow_of(line)
            if flow and b'"reason":' in line and (name := flow[1].decode("ascii", "replace")) in flows:
                found.add(name)

        last = b""
        try:
            with open(os.dup(self._descriptor), "rb") as file:  # not by its path, which may be gone
                file.seek(0)
                for last in file:
                    note(last)
        except OSError:
            pass  # then a decision may be written twice, which is better than never
        torn = b"" if last.endswith(b"\n") else last
        for line in (torn + self._buffer).splitlines():
            note(line)
        return found

    def close(self) -> None:
        """Append what is left and close the file; what the disk does not take now is lost, and counted in ``lost``. Safe to call twice."""
        if self._descriptor < 0:
            return
        self.flush()
        self.lost += self._buffer.count(b"\n")
        self._buffer.clear()
        os.close(self._descriptor)
        self._descriptor = -1
