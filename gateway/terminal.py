"""The terminal that ``egress run`` was started on, and whose turn it is.

The command has a process group of its own, so that nothing it sends to its group reaches the gateway, or who shares the gateway's: a script, sudo,
the rest of a pipeline. A terminal has one group in its foreground. Ours stays there, as the shell wants it, and what is typed is passed on, until the
command reads the terminal or sets it: the kernel then stops the command's group, which is how we hear of it (docs/decisions/0018).
"""

import os
import signal
from contextlib import suppress
from typing import Final

OURS_TO_USE: Final = (signal.SIGTTIN, signal.SIGTTOU)
"""What a group in the background is stopped by when it reads the terminal, sets it, or (``stty tostop``, which a command may say) writes to it."""


class Terminal:
    """Of this process's session; there may be none. Make it before there is a command, who could take it."""

    def __init__(self) -> None:
        self._tty: int | None = None
        with suppress(OSError):
            self._tty = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        self._given: int | None = None
        self.look()

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *exc: object) -> None:
        """Let go of it."""
        if self._tty is not None:
            os.close(self._tty)
            self._tty = None

    def __bool__(self) -> bool:
        """Whether there is one."""
        return self._tty is not None

    def foreground(self) -> int | None:
        """The group that reads it, and hears of its keys."""
        if self._tty is None:
            return None
        try:
            return os.tcgetpgrp(self._tty)
        except OSError:  # it hung up
            return None

    def in_foreground(self) -> bool:
        """Whether that is our group."""
        return self.foreground() == os.getpgrp()

    def look(self) -> None:
        """Whether the shell has it be ours: known when we start, and when we go on after a stop."""
        self._ours = self.in_foreground() or (self._given is not None and self.foreground() == self._given)

    def is_ours(self) -> bool:
        """Whether it is, or is the command's through us. A shell takes it from a job only when that stops, but gives it at any time."""
        self._ours = self._ours or self.in_foreground()
        return self._ours

    def give(self, group: int) -> None:
        """Have it read by ``group``, if there still is one."""
        if self._tty is not None:
            with suppress(OSError):
                os.tcsetpgrp(self._tty, group)
                self._given = group

    def take_back(self) -> int | None:
        """From the command, or whatever of it has it: that group, to be given it again. None where it is not ours, or nobody took it."""
        had = self.foreground()
        if not self.is_ours() or had is None or had == os.getpgrp():
            return None
        self.give(os.getpgrp())
        return had
