"""The standard streams, which a caller may have closed or broken: what is said there is for people, and changes nothing else."""

import os
import sys
from io import TextIOWrapper
from typing import Any, TextIO

from gateway.errors import EgressError


class OutputError(EgressError):
    """Standard output takes nothing more."""


class Output:
    """Standard output while a verb runs. What it does not take is an OutputError, but a BrokenPipeError where whoever read it has gone."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            raise _trouble(error) from error

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            raise _trouble(error) from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _trouble(error: OSError) -> Exception:
    if isinstance(error, BrokenPipeError):
        return error
    return OutputError(f"standard output: {error.strerror}; make room, or send it elsewhere")


def hold_standard_descriptors() -> None:
    """Open what the caller closed on /dev/null: the next socket would otherwise get its number, and be taken for a standard stream."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    # What Python found closed at its start is None, which libraries do not expect. These are for as long as the process lives.
    sys.stdin = sys.stdin or open(os.devnull)
    sys.stdout = sys.stdout or open(os.devnull, "w")
    sys.stderr = sys.stderr or open(os.devnull, "w")


def take_every_letter() -> None:
    """On standard output, too: what its encoding has no letter for is written as its number, as on standard error."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def shown(text: object) -> str:
    """Nothing that a terminal would obey: names, and records, are read from files that somebody else may have written."""
    return "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in str(text))


def say(line: str) -> None:
    """One line on standard error, if anybody can be told."""
    try:
        print(f"egress: {shown(line)}", file=sys.stderr, flush=True)
    except OSError:
        sys.stderr = open(os.devnull, "w")  # the descriptor stays as it is: it is the command's too


def drop_output() -> None:
    """What could not be written goes nowhere: it is not to be tried once more when the interpreter ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
