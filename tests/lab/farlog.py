"""What arrived on the far side: JSON lines, written by the origin process, read by tests.

``what`` is one of ``connect`` (accepted TCP), ``first`` (first bytes, hex), ``request`` (HTTP), ``end``
(TCP over, with counts), ``udp``, ``dns`` (``again``: whether it is the same query once more). Every entry has
``src``, ``sport``, ``dst``, ``dport``; TCP entries have ``conn``, a number of the accepted socket.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Entry = dict[str, Any]


class FarLogWriter:
    """Appends one line an entry, unbuffered: what a client has seen happen is on file."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def write(self, what: str, **fields: object) -> None:
        """Add an entry. Values must be what JSON takes."""
        os.write(self._fd, json.dumps({"at": time.time(), "what": what, **fields}).encode() + b"\n")

    def close(self) -> None:
        """No more entries."""
        os.close(self._fd)


class FarLog:
    """Reads what was logged after the last ``mark``."""

    def __init__(self, path: Path, settle: Callable[[], None]) -> None:
        """``settle`` returns when the writing side has taken in all that had arrived when it was called."""
        self._path = path
        self._start = 0
        self._settle = settle

    def mark(self) -> None:
        """Forget everything so far."""
        self._settle()
        self._start += len(self._whole_lines())

    def entries(self, what: str | None = None, **fields: object) -> list[Entry]:
        """Entries in order of arrival, those alone whose ``what`` and fields are equal to the ones given."""
        self._settle()
        found: list[Entry] = []
        for line in self._whole_lines().splitlines():
            entry: Entry = json.loads(line)
            if what is not None and entry["what"] != what:
                continue
            if all(entry.get(key) == value for key, value in fields.items()):
                found.append(entry)
        return found

    def _whole_lines(self) -> bytes:
        """Since the mark. Who reads while it is written may come in the middle of one: the kernel lets a file grow page by page."""
        with self._path.open("rb") as file:
            file.seek(self._start)
            data = file.read()
        return data[: data.rfind(b"\n") + 1]

    def wait(self, what: str, timeout_s: float = 15.0, **fields: object) -> Entry:
        """The first such entry, once it is there. TimeoutError names what came instead."""
        give_up = time.monotonic() + timeout_s
        while not (found := self.entries(what, **fields)):
            if time.monotonic() > give_up:
                raise TimeoutError(f"no {what} {fields} on the far side; there: {self.entries()}")
            time.sleep(0.02)
        return found[0]
