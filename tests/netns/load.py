"""Connections without end from inside a sandbox, and the processes that carry them: what each client saw, and how one of them is ended."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.lab.lab import Lab
from tests.lab.places import GOOD_IP, Port
from tests.lab.sandboxed import NOTICE, egress_argv, in_session
from tests.netns.puppet import PYTHON, children

LOAD = r"""
import itertools, os, socket, sys, threading, time
host, patience_s, workers = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
most = int(sys.argv[4]) if len(sys.argv) > 4 else 1 << 60
request = b"GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" % host.encode()
numbers = itertools.count()
def one():
    while next(numbers) < most:
        try:
            with socket.socket() as sock:
                sock.settimeout(patience_s)
                sock.connect(("198.18.0.80", 80))
                port = sock.getsockname()[1]
                sock.sendall(request)
                said = b""
                while chunk := sock.recv(65536):
                    said += chunk
        except OSError:
            os.write(1, b"failed 0\n")
            time.sleep(0.01)
            continue
        os.write(1, b"%s %d\n" % (b"carried" if b" 200 OK" in said else b"refused", port))
threads = [threading.Thread(target=one) for _ in range(workers)]
for thread in threads: thread.start()
for thread in threads: thread.join()
""".replace("198.18.0.80", GOOD_IP).replace(", 80)", f", {int(Port.HTTP)})")


class Load:
    """Connections without end from inside a sandbox, and what their client saw."""

    def __init__(
        self,
        lab: Lab,
        audit: Path,
        *options: str,
        host: str = "allowed.test",
        most: int | None = None,
        workers: int = 8,
        patience_s: float = 10.0,
    ) -> None:
        self.carried: list[int] = []
        """The clients' ports of those that had their answer."""
        self.refused: list[int] = []
        self.failed = 0
        self._changed = threading.Condition()
        self._ended = False
        command = [
            PYTHON,
            "-c",
            LOAD,
            host,
            str(patience_s),
            str(workers),
            *([] if most is None else [str(most)]),
        ]
        argv = egress_argv(audit, command, allow=["allowed.test"], options=options)
        self.process = lab.popen(argv)
        self._reader = threading.Thread(target=self._read, name="what the clients say")
        self._reader.start()
        self.said: list[str] = []
        self._listener = threading.Thread(target=self._listen, name="what egress says")
        self._listener.start()

    def __enter__(self) -> "Load":
        return self

    def __exit__(self, *exc: object) -> None:
        self.end(signal.SIGKILL)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            word, _, port = line.partition(" ")
            with self._changed:
                if word == "carried":
                    self.carried.append(int(port))
                elif word == "refused":
                    self.refused.append(int(port))
                else:
                    self.failed += 1
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _listen(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._changed:
                self.said.append(line)
                self._changed.notify_all()

    def wait_for(self, true: Callable[[], bool], timeout_s: float = 60.0) -> None:
        """Until it is so. TimeoutError shows what was said instead."""
        with self._changed:
            if not self._changed.wait_for(lambda: true() or self._ended, timeout_s) or not true():
                counts = (len(self.carried), len(self.refused), self.failed)
                raise TimeoutError(f"{counts}, ended {self._ended}: {''.join(self.said)}")

    def wait_for_more(self, count: int = 20) -> None:
        """So many more that had their answer."""
        wanted = len(self.carried) + count
        self.wait_for(lambda: len(self.carried) >= wanted)

    def notices(self) -> str:
        """What egress itself has said by now."""
        return "".join(line for line in self.said if line.startswith(NOTICE))

    def end(self, number: signal.Signals) -> int:
        """Send it a signal and wait for the end of all that it started; its status. Safe twice."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            self.process.wait(30)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
        self._reader.join(30)
        self._listener.join(30)
        assert not self._reader.is_alive(), "the command outlives its gateway"
        # Its worker too: it may go on for some seconds with what it carries.
        wait_until(lambda: not in_session(self.process.pid), "they end")
        assert self.process.stdout is not None and self.process.stderr is not None
        self.process.stdout.close()
        self.process.stderr.close()
        return self.process.returncode


def worker_of(supervisor: int) -> int:
    """The process that decides."""
    for pid in children(supervisor):
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if "\nUid:\t65534" in status and "\nState:\tZ" not in status:
            return pid
    raise LookupError("no worker")


def kill_worker(supervisor: int) -> None:
    """Once there is one: its successor takes a while."""

    def killed() -> bool:
        try:
            os.kill(worker_of(supervisor), signal.SIGKILL)
        except LookupError:
            return False
        return True

    wait_until(killed, "there is a worker to kill")


def wait_until(true: Callable[[], bool], what: str) -> None:
    """AssertionError with ``what`` was waited for, if it does not come to that."""
    give_up = time.monotonic() + 30
    while not true():
        assert time.monotonic() < give_up, what
        time.sleep(0.01)


def await_upkeep(load: Load) -> None:
    """Return when the process has ended that looks after the directory once at the start: it writes there, and adopts what a killed keeper left."""
    # The others are netd, the worker and bubblewrap.
    wait_until(lambda: len(children(load.process.pid)) <= 3, "it ends")
