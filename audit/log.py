"""Writing records: one JSON object a line, numbered without gaps, appended in batches by the process that owns the file."""

import os
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import orjson

from audit import record as records
from audit.files import file_name

MAX_BUFFERED_BYTES: Final = 4 * 1024 * 1024
"""While the disk takes nothing; what comes beyond is counted as lost."""


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

    def _open_to_others(self) -> list[str]:
        mode = self.directory.stat().st_mode
        if mode & (stat.S_IWGRP | stat.S_IWOTH):
            return [f"others can write to the audit directory {self.directory}: chmod go-w {self.directory}"]
        return []

    def write(self, record: Mapping[str, Any]) -> None:
        """Take one record; schema and timestamp are added where they are missing, writer and seq always."""
        if len(self._buffer) > MAX_BUFFERED_BYTES:
            self.count_lost(1)
            return
        line: dict[str, Any] = {"schema": records.SCHEMA}
        if "timestamp" not in record:
            line["timestamp"] = records.timestamp(time.time_ns())
        line |= record
        line.pop("writer", None)
        line.pop("seq", None)
        line["writer"] = self.writer
        line["seq"] = self.seq
        self._buffer += orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
        self.seq += 1

    def count_lost(self, count: int) -> None:
        """Something could not be recorded: say so in the record as soon as that is possible."""
        self.lost += count
        self._unsaid += count

    def flush(self) -> None:
        """Append what is buffered. What the disk does not take stays buffered for the next time."""
        if self._unsaid and len(self._buffer) <= MAX_BUFFERED_BYTES:
            count, self._unsaid = self._unsaid, 0
            self.write(records.lost(time.time_ns(), count))
        while self._buffer:
            try:
                written = os.write(self._descriptor, self._buffer)
            except OSError:
                return
            del self._buffer[:written]

    def has_flow(self, flow: str) -> bool:
        """Whether a decision of ``flow`` is in the file already. Reads the whole file: for the aftermath of a crash only."""
        self.flush()
        wanted = f'"flow":"{flow}"'.encode()
        with open(self.path, "rb") as file:
            return any(wanted in line and b'"reason":' in line for line in file)

    def close(self) -> None:
        """Append what is left and close the file. Safe to call twice."""
        if self._descriptor < 0:
            return
        self.flush()
        os.close(self._descriptor)
        self._descriptor = -1
