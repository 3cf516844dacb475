"""A command's output and end, gathered as they come; and how a command is asked for. No I/O but on the descriptors that it is given."""

import codecs
import contextlib
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gateway import errors
from gateway.errands import MAX_BYTES, Answer, Ended, Kill, Run, Trouble, decode_answer, encode
from gateway.errors import EgressError, SetupError

CHUNK_BYTES: Final = 65536
MAX_OUTPUT_BYTES: Final = 64 * 1024 * 1024
"""That are kept of each stream: a command that never stops talking must not fill its caller's memory."""
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

    def __init__(self, stdin: bytes | None, on_stdout: Heard | None, on_stderr: Heard | None) -> None:
        self.channel, channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        out, out_end = os.pipe2(os.O_CLOEXEC)
        err, err_end = os.pipe2(os.O_CLOEXEC)
        self.theirs = (channel.detach(), _input(stdin), out_end, err_end)
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
            with contextlib.suppress(ConnectionResetError):
                raw = self.channel.recv(MAX_BYTES)
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

    def kill(self) -> None:
        """Have it ended, with all that it started."""
        with contextlib.suppress(OSError):
            self.channel.send(encode(Kill()))

    def result(self) -> CommandResult:
        """Once nothing is ``open``. EgressError where it could not be started, or the sandbox is gone."""
        if isinstance(self._answer, Ended):
            return CommandResult(self._answer.exit_code, *self._raw(), self.truncated)
        raise raised(self._answer)

    def timed_out(self, timeout_s: float) -> CommandTimeout:
        """What is to be raised."""
        out, err = (raw.decode(errors="replace") for raw in self._raw())
        return CommandTimeout(timeout_s, out, err)

    def close(self) -> None:
        """Give everything back: a command that still runs is killed for it. Safe twice."""
        if self.channel.fileno() < 0:
            return
        self.channel.close()
        for descriptor in (self._out, self._err):
            os.close(descriptor)
        self.open.clear()

    def _raw(self) -> tuple[bytes, bytes]:
        return bytes(self._said[self._out]), bytes(self._said[self._err])


def errand(
    command: str | Sequence[str],
    cwd: str | os.PathLike[str] | None,
    envs: Mapping[str, str],
    user: str | None,
) -> Run:
    """What to ask for. ValueError, TypeError for what is no command."""
    words = tuple(map(os.fspath, [command] if isinstance(command, str) else command))
    if not words or not words[0]:
        raise ValueError("no command: write one, as in run('curl -sS https://api.github.com')")
    argv = ("/bin/sh", "-c", command) if isinstance(command, str) else words
    for text in (*argv, *envs, *envs.values()):
        if "\0" in text:
            raise ValueError("a command cannot hold a NUL character")
    return Run(argv, dict(envs), None if cwd is None else os.fspath(cwd), user)


def raised(answer: Answer | None) -> EgressError:
    """What an answer that is not the expected one is raised as."""
    if isinstance(answer, Trouble):
        kind = getattr(errors, answer.kind, None)
        if not (isinstance(kind, type) and issubclass(kind, EgressError)):
            kind = SetupError
        return kind(answer.message)
    return SandboxClosed("the process behind the sandbox is gone; create another sandbox")


def _input(data: bytes | None) -> int:
    """A descriptor to read ``data`` from; nothing at all without."""
    if data is None:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    descriptor = os.memfd_create("stdin", os.MFD_CLOEXEC)
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
