"""In place of the process behind a sandbox: it keeps what each command was asked for with, and its ends."""

import contextlib
import gc
import os
import resource
import socket
from collections.abc import Iterable, Iterator

from gateway.errands import Answer, Run, encode


class Given:
    """One command's ends, as who starts it has them."""

    def __init__(self, asked: Run, brought: Iterable[int]) -> None:
        self.asked = asked
        channel, self.stdin, self.out, self.err = map(os.dup, brought)
        self.channel = socket.socket(fileno=channel)

    def end(self, answer: Answer, out: bytes = b"") -> None:
        """It said ``out``, and ended so."""
        if out:
            os.write(self.out, out)
        self.channel.send(encode(answer))
        self.close()

    def close(self) -> None:
        """As when whoever starts it dies."""
        self.channel.close()
        for descriptor in (self.stdin, self.out, self.err):
            os.close(descriptor)

    def told(self) -> bytes:
        """What its asker says next; nothing where it is gone."""
        self.channel.settimeout(5)
        return self.channel.recv(4096)


class Asked:
    """As ``Attended``."""

    def __init__(self) -> None:
        self.given: list[Given] = []

    def send(self, errand: Run, brought: Iterable[int]) -> None:
        """Keep it."""
        self.given.append(Given(errand, brought))


def open_descriptors() -> int:
    """Of this process, and in use: what a test before left in a cycle is closed by the collector, whenever it comes."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


@contextlib.contextmanager
def few_descriptors(room: int) -> Iterator[None]:
    """While entered, ``room`` more can be opened in this process at the most, and above those that are open."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    fillers = [os.open(os.devnull, os.O_RDONLY) for _ in range(highest + 1 - open_descriptors())]
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + room, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for filler in fillers:
            os.close(filler)
