"""Signals that are sent to the process around a command, passed on to the command; and its stops, which are ours too, as a shell that controls jobs
expects (docs/decisions/0018).

The command has a process group of its own. What a terminal's keys send to ours goes to all of that group, and what anybody else sends to the command.
"""

import os
import signal
import socket
from collections.abc import Callable
from typing import Final

from gateway.launch import Command, forwarded
from gateway.terminal import OURS_TO_USE, Terminal

KEYS: Final = (signal.SIGINT, signal.SIGQUIT)
GROUPS: Final = (signal.SIGTSTP, signal.SIGWINCH)
"""To the whole group in a terminal's foreground, and of no use to a command that is about to start."""
JOBS: Final = (*GROUPS, signal.SIGCONT, signal.SIGCHLD)
"""Heard of only where there is a terminal: elsewhere nobody controls jobs."""


class Forwarding:
    """From now on those of ``forwarded`` are for the command, which were blocked until now. One at a time, in the main thread."""

    def __init__(self, command: Command, terminal: Terminal, tell_worker: Callable[[int], object]) -> None:
        """``tell_worker`` sends it a signal: while nobody keeps records it must carry nothing."""
        self._command = command
        self._terminal = terminal
        self._tell_worker = tell_worker
        self._woken, self._wake = socket.socketpair()
        for end in (self._woken, self._wake):
            end.setblocking(False)
        # Whatever the command makes of the terminal, this process is not stopped by writing to it or giving it, nor by who reads it next to it.
        signal.pthread_sigmask(signal.SIG_BLOCK, OURS_TO_USE)
        self._before = {number: signal.signal(number, _wake_up) for number in _heard(terminal)}
        self._wakeup_before = signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._before)
        if terminal:
            self._see_stop()  # before anybody listened

    def fileno(self) -> int:
        """Readable where one has come: then ``forward``."""
        return self._woken.fileno()

    def forward(self) -> None:
        """What has come."""
        for number in self._woken.recv(64):
            if number == signal.SIGCHLD:
                self._see_stop()
            elif number == signal.SIGCONT:
                self._go_on()
            elif number in GROUPS:
                self._command.signal_group(number)
            else:
                self._command.forward(number, group=number in KEYS and self._terminal.in_foreground())

    def _see_stop(self) -> None:
        number = self._command.stopped_by()
        if number is None:
            return
        if number in OURS_TO_USE and self._terminal.is_ours():
            self._terminal.give(self._command.pid)
            self._command.signal_group(signal.SIGCONT)
        else:
            self._stop()

    def _stop(self) -> None:
        """With all of our group: it is one job. The kernel leaves a group alone that nobody is there to continue; then the command goes on, unless it
        waits for a terminal that it cannot have."""
        ours = self._terminal.is_ours()
        had = self._terminal.take_back()
        self._tell_worker(signal.SIGSTOP)
        continued = _stop_our_group()
        self._tell_worker(signal.SIGCONT)
        if ours or continued:
            self._go_on(had)

    def _go_on(self, had: int | None = None) -> None:
        """After a stop. The terminal is for ``had`` again, if the shell has given it to us."""
        self._terminal.look()
        if had is not None and self._terminal.is_ours():
            self._terminal.give(had)
        self._command.signal_group(signal.SIGCONT)

    def end(self) -> None:
        """There is nobody to pass them on to any more; and none shall end this process while it writes its last records."""
        self._terminal.take_back()
        if not signal.sigpending().isdisjoint(OURS_TO_USE):
            os.kill(0, signal.SIGCONT)  # who shares our group was stopped, for the command had the terminal
        signal.set_wakeup_fd(self._wakeup_before)
        self._woken.close()
        self._wake.close()

    def restore(self) -> None:
        """They are this process's own again."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, OURS_TO_USE)


def _heard(terminal: Terminal) -> tuple[signal.Signals, ...]:
    jobs = (number for number in JOBS if signal.getsignal(number) is not signal.SIG_IGN)
    return (*forwarded(), *(jobs if terminal else ()))


def _stop_our_group() -> bool:
    """As Ctrl-Z does, until somebody continues it; whether somebody did. False at once where the kernel finds nobody who could."""
    handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCONT])
    os.kill(0, signal.SIGTSTP)
    continued = signal.sigtimedwait([signal.SIGCONT], 0) is not None
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCONT])
    signal.signal(signal.SIGTSTP, handler)
    return continued


def _wake_up(number: int, frame: object) -> None:
    """A signal with a handler is told through the descriptor."""
