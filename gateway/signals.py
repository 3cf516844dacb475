"""Signals to a process that serves another: a service manager sends them to all of a group at once."""

import signal
from typing import Final

ENDING: Final = (
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


def leave_to_the_asker() -> None:
    """In a process that ends when its socket does: whoever it serves hears of them too, and ends it in order, with nothing left undone."""
    signal.set_wakeup_fd(-1)
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # who writes where the command has said `stty tostop`
