"""A file of records looked at line by line: where its numbers break off, where a line is none, what it weighs."""

import os
from dataclasses import dataclass
from typing import IO, Final

import orjson

from audit.segment import MARK_BYTES, Digest

READ_BYTES: Final = 1024 * 1024
MAX_LINE_BYTES: Final = 64 * 1024
"""Far beyond any record: a file without line ends takes no memory."""


@dataclass(slots=True)
class Lines:
    """What ``scan`` saw. ``next_seq``: the number after the last whole line before anything wrong."""

    next_seq: int
    missing: int | None = None
    then: int | None = None
    """What came in place of ``missing``."""
    bad: int | None = None
    """The number that a line should have had which is no record of its writer."""
    torn: int = 0
    """Bytes after the last line end, or of a last line that a crash left half written."""
    within: tuple[int, int] = (0, 0)
    """The first and the last number in the range that was asked for."""


def digest_of(file: IO[bytes]) -> Digest:
    """Of all of it, from its start."""
    file.seek(0)
    digest = Digest()
    while data := file.read(READ_BYTES):
        digest.update(data)
    return digest


def scan(file: IO[bytes], writer: str, first_seq: int, begin: int = 0, end: int = 0) -> Lines:
    """Read from its start to the first line that is out of order; ``begin`` and ``end`` in bytes are the range for ``within``.

    What is written meanwhile is not looked at: a line of a live writer is read whole or as the last.
    """
    file.seek(0)
    size = os.fstat(file.fileno()).st_size
    lines = Lines(first_seq)
    at, first, last = 0, None, first_seq
    while line := file.readline(min(MAX_LINE_BYTES, size - at)):
        expected = lines.next_seq
        whole = line.endswith(b"\n")
        seq = _seq_of(line, writer) if whole else None
        if seq is None:
            if _ends_here(file, line, size - at - len(line)):
                lines.torn = len(line)
            else:
                lines.bad = expected
            break
        if seq != expected:
            lines.missing, lines.then = expected, seq
            break
        if begin < at + len(line) and at < end:
            first, last = expected if first is None else first, expected
        at += len(line)
        lines.next_seq += 1
    lines.within = (last if first is None else first, last)
    return lines


def begins_with(file: IO[bytes], writer: str) -> int:
    """The number that its first line says; 0 where that is no record of ``writer``."""
    file.seek(0)
    return _seq_of(file.readline(MAX_LINE_BYTES), writer) or 0


def _ends_here(file: IO[bytes], line: bytes, left: int) -> bool:
    """Whether ``line`` is all that there is: torn, or zeros where the disk had not been written when the power went."""
    rest = file.read(min(READ_BYTES, left))
    if not rest:
        return not line.endswith(b"\n")
    return not line.strip(b"\0") and not rest.strip(b"\0")


def _seq_of(line: bytes, writer: str) -> int | None:
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(record, dict) or record.get("writer") != writer or type(record.get("seq")) is not int:
        return None
    return int(record["seq"])


def differs_at(digest: Digest, marks: list[str], size: int) -> tuple[int, int]:
    """The first range of bytes in which a file is not what it was, from the marks of both."""
    for index, (now, then) in enumerate(zip(digest.marks, marks, strict=False)):
        if now != then:
            return index * MARK_BYTES, (index + 1) * MARK_BYTES
    same = min(len(digest.marks), len(marks)) * MARK_BYTES
    return same, max(size, digest.size)
