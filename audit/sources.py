"""Files of records that are read side by side, a line at a time: more of them than a process may open.

As many as there is room for stay open, so that one that is removed meanwhile is read to its end. Of those beyond, only where they were left off and
some lines ahead are held, and they are opened again for the next.
"""

import errno
import os
import resource
import stat
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

MAX_LINE_BYTES: Final = 64 * 1024
READ_BYTES: Final = 64 * 1024
"""Of each file that stays open: there may be many."""
AHEAD_BYTES: Final = 8 * 1024
"""Of each that does not: there may be very many."""
MAX_OPEN: Final = 256

Seek = Callable[[BinaryIO], bool]
"""Goes to where reading begins; False where nothing in the file is asked for."""


class Sources:
    """The files of one reading."""

    def __init__(self) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        try:
            taken = len(os.listdir("/proc/self/fd"))
        except OSError:
            taken = 0
        self._room = max(0, min(MAX_OPEN, (soft - taken) // 2))

    def stretches(self, path: Path, seek: Seek) -> Iterator[Iterable[bytes]]:
        """Lines with their ends, so many at a time; one that is too long to be a record comes in pieces. Each stretch is to be used up before the
        next. Nothing of what is gone or no regular file. OSError."""
        if self._room <= 0:
            yield from _piecemeal(path, seek)
            return
        self._room -= 1
        try:
            file = _opened(path, READ_BYTES)
            if file is None:
                return
            with file:
                if seek(file):
                    yield iter(partial(file.readline, MAX_LINE_BYTES), b"")
        finally:
            self._room += 1


def _opened(path: Path, buffering: int) -> BinaryIO | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            return None  # removed since the directory was listed, or a link that leads nowhere
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # a FIFO would never end
        os.close(descriptor)
        return None
    return open(descriptor, "rb", buffering=buffering)


def _piecemeal(path: Path, seek: Seek) -> Iterator[list[bytes]]:
    at: int | None = None
    while True:
        file = _opened(path, AHEAD_BYTES)
        if file is None:
            return
        with file:
            if at is not None:
                file.seek(at)
            elif not seek(file):
                return
            else:
                at = file.tell()
            ahead = _ahead(file)
        if not ahead:
            return
        at += sum(map(len, ahead))
        yield ahead


def _ahead(file: BinaryIO) -> list[bytes]:
    lines, size = [], 0
    while size < AHEAD_BYTES and (line := file.readline(MAX_LINE_BYTES)):
        lines.append(line)
        size += len(line)
    return lines
