"""Signals that are sent to the process around a command, passed on to the command.

What a terminal sends reaches the command by itself, which then shares our process group.
"""

import signal
import socket
from typing import Final

from gateway.launch import Command, forwarded, in_foreground

TYPED: Final = (signal.SIGINT, signal.SIGQUIT)
"""By keys of a terminal."""


class Forwarding:
    """From now on those of ``forwarded`` are for the command, which were blocked until now. One at a time, in the main thread."""

    def __init__(self, command: Command) -> None:
        self._command = command
        self._woken, self._wake = socket.socketpair()
        for end in (self._woken, self._wake):
            end.setblocking(False)
        self._early = signal.sigpending()
        """Came while they were blocked: perhaps before there was a command."""
        self._before = {number: signal.signal(number, lambda *_: None) for number in forwarded()}
        self._wakeup_before = signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._before)

    def fileno(self) -> int:
        """Readable where one has come: then ``forward``."""
        return self._woken.fileno()

    def forward(self) -> None:
        """What has come."""
        for number in self._woken.recv(64):
            by_terminal = number in TYPED and in_foreground()
            if by_terminal and number not in self._early and self._command.begun():
                continue
            self._early.discard(number)
            self._command.forward(number)

    def end(self) -> None:
        """There is nobody to pass them on to any more; and none shall end this process while it writes its last records."""
        signal.set_wakeup_fd(self._wakeup_before)
        self._woken.close()
        self._wake.close()

    def restore(self) -> None:
        """They are this process's own again."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
