"""How much of something one sandbox may have in a time: token buckets. Pure but for the clock it is given."""

import time
from collections.abc import Callable
from typing import Final


class Bucket:
    """Holds up to ``most`` tokens, full at first, and gains ``per_s``."""

    __slots__ = ("_at", "_held", "_most", "_per_s")

    def __init__(self, per_s: float, most: float, now: float) -> None:
        self._per_s = per_s
        self._most = most
        self._held = most
        self._at = now

    def holds(self, tokens: float, now: float) -> bool:
        """Whether there are so many."""
        self._held = min(self._most, self._held + max(now - self._at, 0.0) * self._per_s)
        self._at = now
        return self._held >= tokens

    def take(self, tokens: float) -> None:
        """Take what ``holds`` said was there."""
        self._held -= tokens


class Budget:
    """For queries: how many, and how many octets of names."""

    def __init__(
        self,
        queries: tuple[float, float],
        name_bytes: tuple[float, float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Each as so many a second, and so many at once."""
        self._clock = clock
        self._queries = Bucket(*queries, clock())
        self._name_bytes = Bucket(*name_bytes, clock())

    def admits(self, size: int) -> bool:
        """Take one query with a name of ``size`` octets out of it; False, and nothing taken, where there is no room."""
        now = self._clock()
        if not (self._queries.holds(1, now) and self._name_bytes.holds(size, now)):
            return False
        self._queries.take(1)
        self._name_bytes.take(size)
        return True


ASKED: Final = ((20.0, 2000.0), (2048.0, 128 * 1024.0))
"""Questions that leave for allowed names: what an allowed wildcard's own server can be told by names alone stays below 2 KiB a second."""
RECORDED: Final = ((5.0, 500.0), (512.0, 32 * 1024.0))
"""Queries that get a line of their own although nothing left for them."""
