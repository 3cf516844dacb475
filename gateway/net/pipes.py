"""Pipes for splicing, borrowed and given back: making one costs more than a short transfer, and a user has room for few large ones (pipe(7))."""

import fcntl
import os
from typing import Final

MOST: Final = 64
"""Of a process at once. Who gets none goes on copying."""
LARGE: Final = 8
"""So many of them; the others are small. All together a quarter of what an ordinary user may have (pipe-user-pages-soft)."""
LARGE_BYTES: Final = 1024 * 1024
SMALL_BYTES: Final = 128 * 1024
LEAST_BYTES: Final = 64 * 1024
"""What a user gets who has as many pages as he may is less (two pages each), and then copying is the cheaper way."""

_spare: list["Pipe"] = []
_lent = 0


class Pipe:
    """Both ends, and how many bytes lie in it."""

    __slots__ = ("held", "read_end", "size", "write_end")

    def __init__(self, size: int) -> None:
        """``size``: the bytes that it should have room for; ``self.size``: those that it has."""
        self.read_end, self.write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            self.size = fcntl.fcntl(self.write_end, fcntl.F_SETPIPE_SZ, size)
        except OSError:
            self.size = fcntl.fcntl(self.write_end, fcntl.F_GETPIPE_SZ)
        self.held = 0

    def close(self) -> None:
        os.close(self.read_end)
        os.close(self.write_end)


def take() -> Pipe | None:
    """An empty pipe, or None where there are enough, or no more descriptors, or no room for one of use."""
    global _lent
    if _lent >= MOST:
        return None
    try:
        pipe = _spare.pop() if _spare else Pipe(LARGE_BYTES if _lent < LARGE else SMALL_BYTES)
    except OSError:
        return None
    if pipe.size < LEAST_BYTES:
        pipe.close()
        return None
    _lent += 1
    return pipe


def put_back(pipe: Pipe) -> None:
    """For the next; one in which bytes were left is closed."""
    global _lent
    _lent -= 1
    if pipe.held:
        pipe.close()
    elif pipe.size < LARGE_BYTES:
        _spare.insert(0, pipe)  # the large ones are lent first
    else:
        _spare.append(pipe)
