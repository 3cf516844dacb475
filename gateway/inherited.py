"""What the process behind a sandbox inherits of whoever asks for one, and would otherwise suffer from: descriptors, signals."""

import os
import signal
import socket
from typing import Final

from gateway.signals import ENDING

HARMLESS: Final = (signal.SIGUSR1, signal.SIGUSR2)
"""Of ``ENDING``: whoever serves a program that hears them does not end by them."""


def hold_standard_descriptors() -> None:
    """Open what is closed of them on /dev/null: what gets their number would be handed on as a standard stream."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


class Endings:
    """Signals that would end this process at once: a service manager sends them to all that a service has started. They are the end of its asker."""

    def __init__(self) -> None:
        """From now on. What is ignored, as by nohup(1), stays so."""
        self._woken, self._wake = socket.socketpair()
        for end in (self._woken, self._wake):
            end.setblocking(False)
        for number in ENDING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)

    def fileno(self) -> int:
        """Readable where one has come: then ``come``."""
        return self._woken.fileno()

    def come(self) -> bool:
        """Whether one has that ends."""
        return any(number in ENDING and number not in HARMLESS for number in self._woken.recv(64))
