"""One file of records while it is written: whole lines appended, digested as they go, and room held for what was promised.

The digest is of what was handed to write(2), not of what the file holds later: whoever changes the file meanwhile is found out as well.
"""

import ctypes
import errno
import hashlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from audit.locks import lock_within

MARK_BYTES: Final = 64 * 1024
"""Every so many bytes the digest so far is noted, to tell where an edit is."""
MARK_DIGITS: Final = 16
HOLD_STEP_BYTES: Final = 1024 * 1024
COPY_BYTES: Final = 1024 * 1024
NEW_PATIENCE_S: Final = 0.25
"""For the lock of a file that was made just now: who looks at the directory may have it for a moment."""
FALLOC_FL_KEEP_SIZE: Final = 1  # linux/falloc.h
NO_FALLOCATE: Final = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}

_timestamp_of = re.compile(rb'"timestamp":"([^"]{27})"').search
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class NoReservation(Exception):
    """This file system cannot set room aside."""


@dataclass(frozen=True, slots=True)
class Closed:
    """A segment that is written to no more, as the manifest has it. ``next_seq`` is the number after its last."""

    file: str
    writer: str
    segment: int
    sandbox: str | None
    first_seq: int
    next_seq: int
    begun: str | None
    ended: str | None
    size: int
    sha256: str
    marks: list[str]
    before: str | None
    """``sha256`` of the same writer's segment before; None for its first."""
    torn: int = 0
    """Bytes after the last whole line: of a writer that died."""


@dataclass(slots=True)
class Digest:
    """SHA-256 of a file so far, and how it stood at every mark."""

    size: int = 0
    marks: list[str] = field(default_factory=list)
    _hash: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Take more of the file."""
        view = memoryview(data)
        at = 0
        while at < len(view):
            step = min(len(view) - at, MARK_BYTES - self.size % MARK_BYTES)
            self._hash.update(view[at : at + step])
            self.size += step
            at += step
            if self.size % MARK_BYTES == 0:
                self.marks.append(self._hash.copy().hexdigest()[:MARK_DIGITS])
        view.release()

    def hexdigest(self) -> str:
        """Of all of it."""
        return self._hash.hexdigest()


class Segment:
    """The file that one writer appends to now. Its lock (flock(2)) says that the writer lives: whoever prunes or adopts leaves it alone."""

    def __init__(self, path: Path, number: int, first_seq: int) -> None:
        """Create the file, 0600. OSError; FileExistsError where the name is taken, a symbolic link included."""
        self.path = path
        self.number = number
        self.descriptor = _create(path)
        self.first_seq = self.next_seq = first_seq
        self.begun: str | None = None
        self.ended: str | None = None
        self.lost = 0
        """Lines that were written, and were not in the file any more when it was put back."""
        self._held = 0
        self._digest = Digest()

    @property
    def size(self) -> int:
        """Bytes of whole lines that were written."""
        return self._digest.size

    @property
    def lines(self) -> int:
        """That are in the file, as far as we know."""
        return self.next_seq - self.first_seq - self.lost

    def append(self, lines: bytes | bytearray, count: int) -> int:
        """Write so many whole lines; the bytes of those that the disk took. OSError where it took none, and nothing of one is left."""
        written = os.write(self.descriptor, lines)
        if written < len(lines):
            whole = lines.rfind(b"\n", 0, written) + 1
            os.ftruncate(self.descriptor, os.fstat(self.descriptor).st_size - written + whole)
            self._held = 0  # a shorter file may have lost what was set aside behind it
            if not whole:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written = whole
            count = lines.count(b"\n", 0, written)
        taken = memoryview(lines)[:written]
        self._digest.update(taken)
        taken.release()
        self.next_seq += count
        self._note_times(lines, written)
        return written

    def _note_times(self, lines: bytes | bytearray, end: int) -> None:
        if self.begun is None and (first := _timestamp_of(lines, 0, end)):
            self.begun = first[1].decode("ascii", "replace")
        if last := _timestamp_of(lines, lines.rfind(b"\n", 0, end - 1) + 1, end):
            self.ended = max(self.ended or "", last[1].decode("ascii", "replace"))

    def hold(self, room: int) -> None:
        """Set aside ``room`` bytes behind what is written, which no one else can take. OSError where the disk has not so much; NoReservation."""
        if self._held - self.size >= room:
            return
        end = os.fstat(self.descriptor).st_size  # not ``size``, where somebody cut it
        for wanted in (room + HOLD_STEP_BYTES, room):
            if _libc.fallocate(self.descriptor, FALLOC_FL_KEEP_SIZE, end, wanted) == 0:
                self._held = self.size + wanted
                return
            number = ctypes.get_errno()
        if number in NO_FALLOCATE:
            raise NoReservation
        raise OSError(number, os.strerror(number))

    def sync(self) -> None:
        """All of it on the disk. OSError."""
        os.fdatasync(self.descriptor)

    def misplaced(self) -> bool:
        """Whether the file is no longer where it was made: removed, moved, or its directory was."""
        try:
            there, here = os.stat(self.path, follow_symlinks=False), os.fstat(self.descriptor)
        except OSError:
            return True
        return (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino)

    def rescue(self, path: Path) -> int:
        """Put what was written where it belongs again: a copy, written to from now on. How many lines are not in it: somebody cut them off, or they
        cannot be read. OSError; FileExistsError where that name is taken."""
        descriptor = _create(path)
        try:
            lines = self._copy_to(descriptor)
            os.fdatasync(descriptor)
        except OSError:
            os.close(descriptor)
            path.unlink()
            raise
        os.close(self.descriptor)
        self.path, self.descriptor = path, descriptor
        self._held = 0
        lost = max(0, self.lines - lines)
        self.lost += lost
        return lost

    def _copy_to(self, descriptor: int) -> int:
        """What can be had of it; the number of its lines. They are all that is in the copy: another can follow."""
        at = lines = end = 0
        while at < self.size and (part := self._part(at)):
            lines += part.count(b"\n")
            if (last := part.rfind(b"\n")) >= 0:
                end = at + last + 1
            while part:
                written = os.write(descriptor, part)
                part = part[written:]
                at += written
        if end < at:
            os.ftruncate(descriptor, end)
        return lines

    def _part(self, at: int) -> bytes:
        try:
            return os.pread(self.descriptor, min(COPY_BYTES, self.size - at), at)
        except OSError:
            return b""

    def discard(self) -> None:
        """As if it had never been made."""
        os.close(self.descriptor)
        self.path.unlink(missing_ok=True)

    def finish(self, *, sync: bool) -> None:
        """Give back what was set aside; the lock stays as long as the descriptor is open. What cannot be done is left."""
        try:
            # Not to ``size``: where somebody cut it, it is not for us to make it longer.
            os.ftruncate(self.descriptor, os.fstat(self.descriptor).st_size)
            if sync:
                self.sync()
        except OSError:
            pass  # its lines are in the file; what is left over behind them is only room

    def closed(self, writer: str, sandbox: str | None, before: str | None) -> Closed:
        """What the manifest is to say of it."""
        return Closed(
            self.path.name,
            writer,
            self.number,
            sandbox,
            self.first_seq,
            self.next_seq,
            self.begun,
            self.ended,
            self.size,
            self._digest.hexdigest(),
            self._digest.marks,
            before,
        )


def _create(path: Path) -> int:
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o600)
    try:
        lock_within(descriptor, NEW_PATIENCE_S)
    except OSError:
        os.close(descriptor)
        path.unlink(missing_ok=True)
        raise
    return descriptor
