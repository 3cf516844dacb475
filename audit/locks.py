"""Locks (flock(2)) that are waited for, but not for ever: whoever may open a file can hold its lock for as long as he likes."""

import errno
import fcntl
import time
from typing import Final

PATIENCE_S: Final = 2.0
"""Longer than anybody of ours holds one; short enough for a loop that carries connections."""
POLL_S: Final = 0.01


def lock_within(descriptor: int, patience_s: float = PATIENCE_S) -> None:
    """Have it for ourselves; TimeoutError where another holds it for longer, OSError where it cannot be locked."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise TimeoutError(errno.ETIMEDOUT, "another process holds its lock") from None
        time.sleep(POLL_S)
