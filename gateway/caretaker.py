"""When closed files of records are signed and old ones removed, and what is said of it. The work is a child's (``audit.apart``)."""

import os
import selectors
import signal
import time
from collections.abc import Callable
from typing import Final

from audit.apart import Upkeep
from audit.log import AuditLog
from audit.record import pruned
from audit.upkeep import Job

UPKEEP_S: Final = 3600.0
RETRY_S: Final = 60.0
"""After one that failed: what could not be signed now is not tried again at the next record."""
CLOCK_STEP_S: Final = 600.0
FINISH_S: Final = 10.0
"""How long the process that signs is waited for at the end."""


class Caretaker:
    """Of the directory that ``log`` writes to; ``say`` gets a line where there is trouble."""

    def __init__(self, log: AuditLog, selector: selectors.BaseSelector, say: Callable[[str], object]) -> None:
        self._log = log
        self._selector = selector
        self._say = say
        self._upkeep: Upkeep | None = None
        self._due = time.monotonic() + UPKEEP_S
        self._not_before = 0.0
        self._clock_ahead: float | None = None
        self._last: Upkeep | None = None

    def due_in(self) -> float:
        """Seconds until ``tick`` has something to do; less than none where it had."""
        return self._due - time.monotonic()

    def tick(self) -> None:
        """What is due by time."""
        if self.due_in() <= 0:
            self.start()

    def look(self) -> None:
        """After something was written: a file may be closed by it."""
        if self._log.sealable and self._upkeep is None and time.monotonic() >= self._not_before:
            self.start()

    def start(self) -> None:
        """Now, unless it is under way."""
        self._due = time.monotonic() + UPKEEP_S
        if self._upkeep is not None:
            return
        try:
            self._upkeep = Upkeep()
        except OSError as error:
            self._say(f"records are not signed: {error.strerror}")
            self._put_off()
            return
        self._upkeep.start(self._job(prune=self._steady()))
        self._selector.register(self._upkeep.fileno(), selectors.EVENT_READ, self._ended)

    def prepare_to_close(self) -> None:
        """Start what signs the last segment: it gets ready while the worker drains."""
        if self._last is None:
            try:
                self._last = Upkeep(early=True)
            except OSError as error:
                self._say(f"records are not signed: {error.strerror}")

    def finish(self) -> None:
        """Wait for what is under way."""
        if self._upkeep is not None:
            self._selector.unregister(self._upkeep.fileno())
            upkeep, self._upkeep = self._upkeep, None
            if _ends(upkeep):
                self._heed(upkeep)

    def sign_the_last(self) -> None:
        """The file that was closed just now, by what ``prepare_to_close`` started."""
        if self._last is not None:
            upkeep, self._last = self._last, None
            upkeep.start(self._job(prune=False))
            if _ends(upkeep):
                self._heed(upkeep)

    def _steady(self) -> bool:
        """Whether the clock went on as it should since the last time: one that was set must not make old what is new. If it stays, it is believed."""
        ahead = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        before, self._clock_ahead = self._clock_ahead, ahead
        return before is None or abs(ahead - before) < CLOCK_STEP_S

    def _job(self, *, prune: bool) -> Job:
        log = self._log
        return Job(log.directory, log.keys, log.settings, time.time_ns(), list(log.sealable), prune)

    def _ended(self) -> None:
        if self._upkeep is None:
            return
        self._selector.unregister(self._upkeep.fileno())
        upkeep, self._upkeep = self._upkeep, None
        self._heed(upkeep)
        self._log.flush()

    def _heed(self, upkeep: Upkeep) -> None:
        report = upkeep.finish()
        self._log.sealed(report.sealed)
        for one in report.pruned:
            self._log.write(
                pruned(
                    time.time_ns(),
                    sandbox=one.sandbox,
                    cause=one.cause,
                    files=one.files,
                    size=one.size,
                    records=one.records,
                    ended_ns=one.ended_ns,
                )
            )
        if report.trouble is not None:
            self._say(report.trouble)
            self._put_off()

    def _put_off(self) -> None:
        """To sign is tried again in a while, and then though nothing is written."""
        self._not_before = time.monotonic() + RETRY_S
        if self._log.sealable:
            self._due = min(self._due, self._not_before)


def _ends(upkeep: Upkeep) -> bool:
    """Whether it ends within ``FINISH_S``; ended by force if not: whoever comes next signs what it did not."""
    with selectors.DefaultSelector() as selector:
        selector.register(upkeep.fileno(), selectors.EVENT_READ)
        if selector.select(FINISH_S):
            return True
    os.kill(upkeep.pid, signal.SIGKILL)
    upkeep.finish()
    return False
