"""A command's streams: what is opened for one is given back whatever happens, and what it said is known whoever looks late."""

import gc
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.commands import CommandTimeout, SandboxClosed, Streams, errand, raised
from gateway.errands import Ended, Trouble, encode
from gateway.errors import PrivilegeError, SetupError
from tests.gateway.asked import few_descriptors, open_descriptors
from tests.lab.lab import ROOT


@pytest.fixture
def streams() -> Iterator[Streams]:
    """With a second to run."""
    made = Streams(None, None, None, 1.0)
    yield made
    made.close()


def end(streams: Streams, answer: Ended | bytes, said: bytes = b"") -> None:
    """What the process that started it does at its end."""
    channel, _, out, _ = streams.theirs
    with socket.socket(fileno=os.dup(channel)) as theirs:
        if said:
            os.write(out, said)
        theirs.send(answer if isinstance(answer, bytes) else encode(answer))
    streams.hand_over()


def test_no_end_has_a_standard_streams_number() -> None:
    script = (
        "import os; os.closerange(0, 3); from gateway.commands import Streams; s = Streams(b'', None, None)\n"
        "os._exit(0 if min(*s.theirs, *s.open) > 2 else 1)"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("stdin", [None, b"", b"x" * 100_000])
def test_what_is_opened_is_given_back(stdin: bytes | None) -> None:
    before = open_descriptors()
    for _ in range(10):
        streams = Streams(stdin, None, None)
        streams.hand_over()
        streams.close()
        streams.close()
    assert open_descriptors() == before


def test_who_forgets_to_give_it_back_does_all_the_same() -> None:
    before = open_descriptors()
    streams = Streams(None, None, None)
    streams.hand_over()
    del streams
    gc.collect()
    assert open_descriptors() == before


def test_where_the_input_is_none_nothing_stays_open() -> None:
    before = open_descriptors()
    wrong: Any = 123
    for _ in range(10):
        with pytest.raises(TypeError):
            Streams(wrong, None, None)
    assert open_descriptors() == before


@pytest.mark.parametrize("room", range(1, 8))
def test_where_no_descriptors_are_left_none_is_taken(room: int) -> None:
    before = open_descriptors()
    with few_descriptors(room):
        for _ in range(10):
            with pytest.raises(SetupError, match="no command can be asked for: Too many open files"):
                Streams(b"x", None, None)
    assert open_descriptors() == before


def test_what_has_come_is_taken_without_waiting(streams: Streams) -> None:
    assert not streams.take()
    end(streams, Ended(3), b"x" * 65536)
    assert streams.take()
    assert streams.result().exit_code == 3 and len(streams.result().stdout_raw) == 65536


def test_a_command_that_never_stops_talking_is_not_taken_for_ever() -> None:
    out: list[str] = []
    streams = Streams(None, out.append, None, 1.0)
    with open("/dev/zero", "rb") as endless:
        os.dup2(endless.fileno(), streams._out, inheritable=False)
    assert not streams.take()
    assert out
    streams.hand_over()
    streams.close()


def test_who_was_killed_as_its_time_was_up_is_said_to_have_been(streams: Streams) -> None:
    end(streams, Ended(137, timed_out=True), b"so far")
    assert streams.take()
    with pytest.raises(CommandTimeout, match="within 1 seconds") as caught:
        streams.result()
    assert caught.value.stdout == "so far"


@pytest.mark.parametrize("kills", [1, 2])
def test_who_is_killed_as_it_ends_has_ended(streams: Streams, kills: int) -> None:
    """What nobody has read is told to its sender as a reset, before the answer that lies behind it: unix(7)."""
    for _ in range(kills):
        streams.kill()
    end(streams, Ended(3))
    while not streams.take():
        pass
    assert streams.result().exit_code == 3


def test_who_is_killed_as_the_sandbox_goes_is_told_so(streams: Streams) -> None:
    streams.kill()
    streams.hand_over()
    while not streams.take():
        pass
    with pytest.raises(SandboxClosed):
        streams.result()


@pytest.mark.parametrize("said", [b"no JSON", b"{}", b'{"type": "Ended"}', b"\xff"])
def test_an_answer_that_is_none_is_the_end_of_the_sandbox(streams: Streams, said: bytes) -> None:
    end(streams, said)
    assert streams.take()
    with pytest.raises(SandboxClosed):
        streams.result()


def test_what_bubblewrap_said_is_in_the_error(streams: Streams) -> None:
    os.write(streams.theirs[3], b"bwrap: one\nbwrap: another\n")
    end(streams, encode(Trouble("SetupError", "it could not, and said why")))
    assert streams.take()
    with pytest.raises(SetupError, match=r"^it could not, and said why: bwrap: one; bwrap: another$"):
        streams.result()


def test_an_answer_is_raised_by_its_own_class() -> None:
    assert type(raised(Trouble("PrivilegeError", "x"))) is PrivilegeError
    assert type(raised(Trouble("OSError", "x"))) is SetupError
    assert type(raised(None)) is SandboxClosed


def test_a_command_of_bytes_is_refused() -> None:
    wrong: Any = [b"ls"]
    with pytest.raises(TypeError, match="a command: bytes is no text"):
        errand(wrong, None, {}, None)
