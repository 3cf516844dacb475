"""When what a sender says now can have been, by the clock of the process that keeps it. Readers go by dates, so a sender is not believed its own."""

import time
from datetime import datetime
from typing import Final

from audit.record import moment

SLACK_S: Final = 240.0
"""Clocks are set, and processes stopped for a while: a date that is no further off stands. Less than what readers allow for."""
SECOND_BYTES: Final = len(b"2026-11-28T15:42:11.")


class Dates:
    """Of one sender's records, which are taken in from time to time."""

    __slots__ = ("_earliest", "_latest", "_now_ns", "_paused", "_second", "_went_on")

    def __init__(self) -> None:
        self._paused: float | None = None
        self._went_on: float | None = None
        self.look()

    def pause(self) -> None:
        """None is taken in before the next ``look``: those that come in the minutes after it may have waited since now."""
        self._paused = time.time()
        self._went_on = None

    def look(self) -> None:
        """What time it is: for those that are taken in now."""
        self._now_ns = time.time_ns()
        now = self._now_ns / 1e9
        self._earliest, self._latest = now - SLACK_S, now + SLACK_S
        self._second = b""
        if self._paused is not None:
            if self._went_on is None:
                self._went_on = now
            if now <= self._went_on + SLACK_S:
                self._earliest = min(self._earliest, self._paused - SLACK_S)
            else:
                self._paused = None

    def dated(self, said: bytes) -> bytes:
        """``said``, which has the form of a moment; the moment at which it is taken in, where it cannot have been then."""
        second = said[:SECOND_BYTES]
        if second != self._second:
            if not self._can_be(said):
                return moment(self._now_ns)
            self._second = second  # as most are
        return said

    def _can_be(self, said: bytes) -> bool:
        try:
            at = datetime.fromisoformat(said.decode()).timestamp()
        except ValueError:
            return False
        return self._earliest <= at <= self._latest
