"""A command's output and end, gathered as they come; and how a command is asked for. No I/O but on the descriptors that it is given."""

import codecs
import contextlib
import fcntl
import os
import select
import socket
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from msgspec import MsgspecError

from gateway import errors
from gateway.errands import MAX_BYTES, Answer, Ended, Kill, Run, Trouble, decode_answer, encode
from gateway.errors import EgressError, SetupError

CHUNK_BYTES: Final = 65536
MAX_OUTPUT_BYTES: Final = 64 * 1024 * 1024
"""That are kept of each stream: a command that never stops talking must not fill its caller's memory."""
MAX_TAIL_BYTES: Final = 1000
"""Of what is quoted in an error."""
LATE_ROUNDS: Final = 20
"""Of ``CHUNK_BYTES``: more than the largest pipe (pipe(7), pipe-max-size) that a command without privileges can make of its own."""
ABOVE_STANDARD: Final = 3
Heard = Callable[[str], object]


class SandboxClosed(EgressError):
    """The sandbox is gone: it was killed, or the process behind it died."""


class CommandTimeout(EgressError, TimeoutError):
    """A command took longer than it was given, and was killed. ``stdout`` and ``stderr`` have what it said until then."""

    def __init__(self, timeout_s: float, stdout: str, stderr: str) -> None:
        super().__init__(f"the command did not end within {timeout_s:g} seconds and was killed")
        self.stdout = stdout
        self.stderr = stderr


@dataclass(frozen=True, slots=True)
class CommandResult:
    """How a command ended. Text is UTF-8, with what is none replaced; the ``raw`` forms are as it came."""

    exit_code: int
    """The command's own; 126 and 127 as a shell says them, 128+N for signal N."""
    stdout_raw: bytes
    stderr_raw: bytes
    truncated: bool = False
    """Whether a stream was longer than ``MAX_OUTPUT_BYTES``; the rest was read, told to ``on_stdout`` and ``on_stderr``, and not kept."""

    @property
    def stdout(self) -> str:
        """What it wrote on standard output."""
        return self.stdout_raw.decode(errors="replace")

    @property
    def stderr(self) -> str:
        """What it wrote on standard error."""
        return self.stderr_raw.decode(errors="replace")


class Streams:
    """Our ends of one command: its channel, its output. ``theirs`` are for the process that starts it."""

    def __init__(
        self,
        stdin: bytes | None,
        on_stdout: Heard | None,
        on_stderr: Heard | None,
        timeout_s: float | None = None,
    ) -> None:
        """The time begins now. SetupError where there are no descriptors left, and then none was taken."""
        try:
            with contextlib.ExitStack() as opened:
                channel, their_channel = above_standard(opened, channel_pair())
                out, out_end = above_standard(opened, os.pipe2(os.O_CLOEXEC))
                err, err_end = above_standard(opened, os.pipe2(os.O_CLOEXEC))
                (input_end,) = above_standard(opened, [_input(stdin)])
                self.channel = socket.socket(fileno=channel)
                opened.pop_all()
        except OSError as error:
            raise SetupError(f"no command can be asked for: {error.strerror}") from error
        self.theirs = (their_channel, input_end, out_end, err_end)
        self.timeout_s = timeout_s
        self._give_up = None if timeout_s is None else time.monotonic() + timeout_s
        self._end = weakref.finalize(self, _give_back, self.channel, (out, err))
        self._tellers = {out: on_stdout, err: on_stderr}
        self._said = {out: bytearray(), err: bytearray()}
        # A character may come in two reads.
        self._decoders = {one: codecs.getincrementaldecoder("utf-8")("replace") for one in (out, err)}
        self._out, self._err = out, err
        self.open = {self.channel.fileno(), out, err}
        """Descriptors from which something may still come."""
        self.truncated = False
        self._answer: Answer | None = None

    def hand_over(self) -> None:
        """The process that starts the command has its own now."""
        for descriptor in self.theirs:
            os.close(descriptor)

    def read(self, descriptor: int) -> None:
        """What has come on one of ``open``."""
        if descriptor == self.channel.fileno():
            self.open.discard(descriptor)
            with contextlib.suppress(ConnectionResetError, MsgspecError):
                raw = self._last_word()
                self._answer = decode_answer(raw) if raw else None
            return
        chunk = os.read(descriptor, CHUNK_BYTES)
        if not chunk:
            self.open.discard(descriptor)
        said, teller = self._said[descriptor], self._tellers[descriptor]
        room = MAX_OUTPUT_BYTES - len(said)
        self.truncated |= len(chunk) > room
        said += chunk[:room]
        if teller is not None and (text := self._decoders[descriptor].decode(chunk, final=not chunk)):
            teller(text)

    def _last_word(self) -> bytes:
        """Of the process that started it; empty where it said none."""
        try:
            return self.channel.recv(MAX_BYTES)
        except ConnectionResetError:
            # A ``kill`` that came too late to be read. The answer lies behind the error.
            return self.channel.recv(MAX_BYTES)

    def take(self) -> bool:
        """Read what has come, and wait for nothing: whether nothing more can come. It is the last word where time is up, whoever looked late."""
        for _ in range(LATE_ROUNDS):
            ready = select.poll()
            for descriptor in self.open:
                ready.register(descriptor, select.POLLIN)
            come = ready.poll(0) if self.open else []
            if not come:
                break
            for descriptor, _event in come:
                self.read(descriptor)
        return not self.open

    def left_s(self) -> float | None:
        """Until its time is up; None where it has all the time there is."""
        return None if self._give_up is None else max(0.0, self._give_up - time.monotonic())

    def kill(self) -> None:
        """Have it ended, with all that it started."""
        with contextlib.suppress(OSError):
            self.channel.send(encode(Kill()))

    def result(self) -> CommandResult:
        """Once nothing is ``open``. CommandTimeout; EgressError where it could not be started, or the sandbox is gone."""
        if isinstance(self._answer, Ended):
            if self._answer.timed_out:
                raise self.timed_out()
            return CommandResult(self._answer.exit_code, *self._raw(), self.truncated)
        error = raised(self._answer)
        # Of a command that was not started: bubblewrap's.
        said = "; ".join(self._raw()[1][-MAX_TAIL_BYTES:].decode(errors="replace").split("\n")).strip("; ")
        raise type(error)(f"{error}: {said}") if isinstance(self._answer, Trouble) and said else error

    def timed_out(self) -> CommandTimeout:
        """What is to be raised."""
        out, err = (raw.decode(errors="replace") for raw in self._raw())
        return CommandTimeout(self.timeout_s or 0, out, err)

    def close(self) -> None:
        """Give everything back: a command that still runs is killed for it. Safe twice; who forgets it does it all the same."""
        self._end()
        self.open.clear()

    def _raw(self) -> tuple[bytes, bytes]:
        return bytes(self._said[self._out]), bytes(self._said[self._err])


def errand(
    command: str | Sequence[str],
    cwd: str | None,
    envs: Mapping[str, str],
    user: str | None,
    timeout_s: float | None = None,
) -> Run:
    """What to ask for. ValueError, TypeError for what is no command."""
    words = tuple(map(os.fspath, [command] if isinstance(command, str) else command))
    for word in words:
        if not isinstance(word, str):
            raise TypeError(f"a command: {type(word).__name__} is no text; write a str, as ['ls', '-l']")
    if not words or not words[0]:
        raise ValueError("no command: write one, as in run('curl -sS https://api.github.com')")
    argv = ("/bin/sh", "-c", command) if isinstance(command, str) else words
    for text in (*argv, *envs, *envs.values()):
        if "\0" in text:
            raise ValueError("a command cannot hold a NUL character")
    return Run(argv, dict(envs), cwd, user, timeout_s)


def raised(answer: Answer | None) -> EgressError:
    """What an answer that is not the expected one is raised as."""
    if isinstance(answer, Trouble):
        kind = getattr(errors, answer.kind, None)
        if not (isinstance(kind, type) and issubclass(kind, EgressError)):
            kind = SetupError
        return kind(answer.message)
    return SandboxClosed("the process behind the sandbox is gone; create another sandbox")


def channel_pair() -> tuple[int, int]:
    """Both ends of one, each message whole."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return one.detach(), other.detach()


def above_standard(opened: contextlib.ExitStack, descriptors: Sequence[int]) -> list[int]:
    """The same under numbers that are no standard stream's, closed with ``opened``. A caller may have closed its own: what got their numbers would be
    written to by whoever prints, and handed on to whatever is started."""
    found: list[int] = []
    with contextlib.ExitStack() as low:
        for descriptor in descriptors:
            low.callback(os.close, descriptor)
        for descriptor in descriptors:
            found.append(fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, ABOVE_STANDARD))
            opened.callback(os.close, found[-1])
    return found


def _give_back(channel: socket.socket, descriptors: Iterable[int]) -> None:
    channel.close()
    for descriptor in descriptors:
        os.close(descriptor)


def _input(data: bytes | None) -> int:
    """A descriptor to read ``data`` from; nothing at all without."""
    if data is None:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    descriptor = os.memfd_create("stdin", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(data)
        os.lseek(descriptor, 0, os.SEEK_SET)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
