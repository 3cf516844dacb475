"""Pipes for splicing, borrowed and given back: making one costs more than a short transfer, and a user has room for few large ones (pipe(7))."""

import fcntl
import os
from typing import Final

PIPE_BYTES: Final = 256 * 1024
MOST: Final = 64
"""Of a process at once: with ``PIPE_BYTES`` a quarter of what an ordinary user may have (pipe-user-pages-soft). Who gets none goes on copying."""

_spare: list["Pipe"] = []
_lent = 0


class Pipe:
    """Both ends, and how many bytes lie in it."""

    __slots__ = ("held", "read_end", "size", "write_end")

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            self.size = fcntl.fcntl(self.write_end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        except OSError:
            self.size = fcntl.fcntl(self.write_end, fcntl.F_GETPIPE_SZ)
        self.held = 0

    def close(self) -> None:
        os.close(self.read_end)
        os.close(self.write_end)


def take() -> Pipe | None:
    """An empty pipe, or None where there are enough, or no more descriptors."""
    global _lent
    if _lent >= MOST:
        return None
    try:
        pipe = _spare.pop() if _spare else Pipe()
    except OSError:
        return None
    _lent += 1
    return pipe


def put_back(pipe: Pipe) -> None:
    """For the next; one in which bytes were left is closed."""
    global _lent
    _lent -= 1
    if pipe.held:
        pipe.close()
    else:
        _spare.append(pipe)
