"""The asking side of a sandbox's attendant: the process and the socket to it. Blocking; ``Sandbox`` and ``AsyncSandbox`` are made of it."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterable
from typing import Final

from msgspec import MsgspecError

from gateway.commands import SandboxClosed, above_standard, channel_pair, raised
from gateway.errands import (
    ENCLOSED,
    MAX_BYTES,
    Answer,
    Create,
    Created,
    Errand,
    Kill,
    Killed,
    Trouble,
    Update,
    Updated,
    decode_answer,
    encode,
)
from gateway.errors import SetupError
from rules.policy import NetworkPolicy

START_TIMEOUT_S: Final = 60.0
UPDATE_TIMEOUT_S: Final = 90.0
KILL_TIMEOUT_S: Final = 30.0
BOOT: Final = "import sys, json; sys.path[:] = json.loads(sys.argv[2]); from gateway.attendant import main; main(int(sys.argv[1]))"
"""Isolated (-I): neither the current directory nor PYTHONPATH say what is imported, but this program's own path does."""

STANDARD_ERROR: Final = 2


class Attended:
    """One attendant, from its start to its end."""

    def __init__(self) -> None:
        """Start the process; it imports meanwhile. SetupError."""
        path = json.dumps([os.path.abspath(entry) for entry in sys.path if entry])
        try:
            with contextlib.ExitStack() as opened:
                ours, theirs = above_standard(opened, channel_pair())
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-c", BOOT, str(theirs), path],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=None if is_open(STANDARD_ERROR) else subprocess.DEVNULL,
                    pass_fds=[theirs],
                    start_new_session=True,
                )
                opened.pop_all()
        except OSError as error:
            raise SetupError(f"{sys.executable} could not be started: {error.strerror}") from error
        self._channel = socket.socket(fileno=ours)
        os.close(theirs)
        self._talk = threading.Lock()
        """Held while an answer is waited for: any thread may ask."""
        self._updates = 0
        # Whoever forgets to kill a sandbox still ends it, at the latest with the program.
        self._end = weakref.finalize(self, self._channel.close)

    @property
    def pid(self) -> int:
        """Of the attendant."""
        return self._process.pid

    @property
    def closed(self) -> bool:
        """Whether it has been killed."""
        return not self._end.alive

    def create(self, asked: Create) -> Created:
        """EgressError, by its own class, where the sandbox cannot be."""
        answer = self._ask(asked, START_TIMEOUT_S)
        if isinstance(answer, Created):
            return answer
        self._finish()
        raise raised(answer)

    def update(self, network: NetworkPolicy | None) -> int:
        """Put ``network`` in force: its generation. SetupError where it cannot be: nothing has changed. SandboxClosed."""
        with self._talk:
            if self.closed:
                raise SandboxClosed("the sandbox has been killed; create another")
            self._updates += 1
            told = None if network is None else network.to_dict()
            answer = self._ask(Update(told, self._updates), UPDATE_TIMEOUT_S)
        if isinstance(answer, Updated):
            return answer.generation
        raise raised(answer)

    def _ask(self, errand: Errand, timeout_s: float) -> Answer | None:
        """None where nobody answers. What answers an update that somebody no longer waited for is passed over."""
        mine = errand.number if isinstance(errand, Update) else 0
        give_up = time.monotonic() + timeout_s
        try:
            self._channel.settimeout(timeout_s)
            self._send_whole(encode(errand))
            while raw := self._channel.recv(MAX_BYTES):
                answer = decode_answer(raw)
                if not isinstance(answer, Updated | Trouble) or answer.number in (0, mine):
                    return answer
                self._channel.settimeout(max(0.001, give_up - time.monotonic()))
        except (OSError, MsgspecError):
            pass
        return None

    def _send_whole(self, raw: bytes) -> None:
        if len(raw) <= MAX_BYTES:
            self._channel.send(raw)
            return
        with os.fdopen(os.memfd_create("errand", os.MFD_CLOEXEC), "wb") as file:
            file.write(raw)
            file.flush()
            socket.send_fds(self._channel, [ENCLOSED], [file.fileno()])

    def send(self, errand: Errand, brought: Iterable[int]) -> None:
        """SandboxClosed where nobody is there any more. ValueError for what is too long."""
        if self.closed:
            raise SandboxClosed("the sandbox has been killed; create another")
        raw = encode(errand)
        if len(raw) > MAX_BYTES:
            raise ValueError(f"a command and its environment may be {MAX_BYTES // 1024} KiB long together")
        try:
            socket.send_fds(self._channel, [raw], list(brought))
        except OSError as error:
            raise SandboxClosed("the process behind the sandbox is gone; create another sandbox") from error

    def kill(self) -> Killed | None:
        """End it, and everything in it; what it has counted, None if it was gone already."""
        with self._talk:
            if self.closed:
                return None
            answer = self._ask(Kill(), KILL_TIMEOUT_S)
            self._finish()
        return answer if isinstance(answer, Killed) else None

    def _finish(self) -> None:
        self._end()
        try:
            self._process.wait(KILL_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def is_open(descriptor: int) -> bool:
    """In this process."""
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
