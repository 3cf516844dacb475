"""Turns on the processor: short while a gateway has little to do, so that it gets one at once, the kernel's usual ones while it is busy.

Each sandbox has a gateway of its own, and the kernel divides the processor among them fairly; but a turn is some 3 ms, and who wakes up waits for
the end of another's. Since Linux 6.12 a process may ask for shorter ones (sched(7)): it then goes before one that has long turns, for no more of the
processor. So the gateway of a sandbox that floods it keeps no other waiting, and one that is asked for now and then answers at once. Whoever keeps
the records takes longer ones: nobody waits for an answer of its, and a worker that wakes up goes before it.
"""

import asyncio
import ctypes
import os
import platform
import signal
import struct
import time
from typing import Final

SHORT_NS: Final = 100_000
"""The least that the kernel gives."""
USUAL_NS: Final = 3_000_000
LONG_NS: Final = 10_000_000
LOOK_S: Final = 0.5
BUSY: Final = 0.25
"""The part of the processor above which a process is busy."""
SCHED_SETATTR: Final = {"x86_64": 314, "aarch64": 274}  # unistd.h
SCHED_OTHER: Final = 0
RESET_ON_FORK: Final = 0x40000000
"""Of what sched_getscheduler(2) says."""
FLAG_RESET_ON_FORK: Final = 1
"""Children have the kernel's usual turns (sched(7))."""

_libc = ctypes.CDLL(None, use_errno=True)


def take_turns_of(nanoseconds: int, *, alone: bool = False) -> bool:
    """Ask for them, which needs no privilege. ``alone``: not for what this process forks. False where they are not to be had: an older kernel takes
    no notice."""
    number = SCHED_SETATTR.get(platform.machine())
    if number is None or os.sched_getscheduler(0) & ~RESET_ON_FORK != SCHED_OTHER:
        return False
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    # struct sched_attr: size, policy, flags, nice, priority, runtime, deadline, period
    if alone and nice < 0:
        return False  # what it forks would lose the precedence that somebody gave it
    flags = FLAG_RESET_ON_FORK if alone else 0
    attributes = struct.pack("=IIQiIQQQ", 48, SCHED_OTHER, flags, nice, 0, nanoseconds, 0, 0)
    return bool(_libc.syscall(number, 0, attributes, 0) == 0)


class Turns:
    """Keeps the length of this process's turns as its own load has it, until it is stopped.

    Whether it became busy is looked at when it has used up the processor's time that makes it so (setitimer(2)): one that has nothing to do is not
    woken to find out, for a thousand of them would be.
    """

    def __init__(self) -> None:
        """Begins at once, in the running loop of the main thread."""
        self._loop = asyncio.get_running_loop()
        self._short = take_turns_of(SHORT_NS)
        self._used, self._at = time.process_time(), self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        """While it is busy."""
        if self._short:
            signal.signal(signal.SIGPROF, lambda number, frame: self._loop.call_soon_threadsafe(self._spent))
            signal.setitimer(signal.ITIMER_PROF, LOOK_S * BUSY, LOOK_S * BUSY)

    def _spent(self) -> None:
        if self._timer is None:
            self._look()

    def _look(self) -> None:
        used, at = time.process_time(), self._loop.time()
        busy = used - self._used > BUSY * (at - self._at)
        self._used, self._at = used, at
        if busy == self._short and take_turns_of(USUAL_NS if busy else SHORT_NS):
            self._short = not busy
        self._timer = None if self._short else self._loop.call_later(LOOK_S, self._look)

    def stop(self) -> None:
        """The process's turns stay as they are."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        # One may be on its way, and would end the process. Not to ignore it: that is handed down to programs.
        signal.signal(signal.SIGPROF, lambda number, frame: None)
        if self._timer is not None:
            self._timer.cancel()
