"""Commands of a ``Sandbox``, as the program sees them: an outcome is always the same, and what was opened for one is given back."""

import gc
import os
import selectors
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, cast

import pytest

from gateway.attended import Attended
from gateway.commands import CommandTimeout, SandboxClosed
from gateway.errands import Ended
from gateway.errors import EgressError
from gateway.sandbox import Commands, RunningCommand
from tests.gateway.asked import Asked, Given, open_descriptors


@pytest.fixture
def asked() -> Asked:
    """Nothing yet."""
    return Asked()


@pytest.fixture
def commands(asked: Asked) -> Commands:
    """Of a sandbox that ``asked`` stands behind."""
    return Commands(cast(Attended, asked), {})


def begin(commands: Commands, asked: Asked, timeout: float | None = None) -> tuple[RunningCommand, Given]:
    """A command in the background, and its ends."""
    return commands.run("x", background=True, timeout=timeout), asked.given[-1]


def test_the_process_behind_it_is_told_the_time(commands: Commands, asked: Asked) -> None:
    for timeout, told in (
        (1.5, 1.5),
        (3, 3.0),
        (-1, 0.0),
        (float("inf"), None),
        (10**400, None),
        (None, None),
    ):
        _, given = begin(commands, asked, timeout)
        assert given.asked.timeout_s == told
        given.close()


def test_what_ended_in_time_has_a_result_however_late_it_is_asked_for(
    commands: Commands, asked: Asked
) -> None:
    running, given = begin(commands, asked, 0.1)
    given.end(Ended(7), b"x" * 65536)
    time.sleep(0.2)
    result = running.wait()
    assert (result.exit_code, len(result.stdout)) == (7, 65536)
    assert running.wait() is result


def test_what_did_not_end_in_time_says_so_each_time(commands: Commands, asked: Asked) -> None:
    running, given = begin(commands, asked, 0.1)
    os.write(given.out, b"so far")
    for _ in range(2):
        with pytest.raises(CommandTimeout) as caught:
            running.wait()
        assert caught.value.stdout == "so far"
    assert given.told() == b"", "let go of, by which it is killed"
    given.close()


def test_what_was_killed_meanwhile_says_so_each_time(commands: Commands, asked: Asked) -> None:
    running, given = begin(commands, asked, 60)
    given.end(Ended(137, timed_out=True))
    for _ in range(2):
        with pytest.raises(CommandTimeout, match="within 60 seconds"):
            running.wait()


def test_so_does_one_whose_sandbox_is_gone(commands: Commands, asked: Asked) -> None:
    running, given = begin(commands, asked)
    given.close()
    for _ in range(2):
        with pytest.raises(SandboxClosed, match="is gone"):
            running.wait()


def test_interrupted_it_is_killed_and_says_so(commands: Commands, asked: Asked) -> None:
    running, given = begin(commands, asked)
    waiting = threading.get_ident()

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    def once_it_waits() -> None:
        while sys._current_frames()[waiting].f_code is not selectors.PollSelector.select.__code__:
            time.sleep(0.005)
        signal.pthread_kill(waiting, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    interrupter = threading.Thread(target=once_it_waits)
    try:
        with pytest.raises(KeyboardInterrupt):
            interrupter.start()
            running.wait()
    finally:
        interrupter.join()
        signal.signal(signal.SIGUSR1, before)
    assert given.told() == b""
    with pytest.raises(EgressError, match="was interrupted, and it was killed"):
        running.wait()
    given.close()


def test_a_time_that_is_longer_than_the_kernel_counts_is_waited_for(commands: Commands, asked: Asked) -> None:
    running, given = begin(commands, asked, 1e8)
    ending = threading.Timer(0.05, given.end, [Ended(0)])
    ending.start()
    assert running.wait().exit_code == 0
    ending.join()  # it has descriptors to close yet


def test_it_is_let_go_of_with_its_object(commands: Commands, asked: Asked) -> None:
    running, given = begin(commands, asked)
    del running
    gc.collect()
    assert given.told() == b""
    given.close()


WRONG: list[tuple[Callable[[Commands], object], type[Exception], str]] = [
    (lambda commands: commands.run("x", stdin=cast(Any, 123)), TypeError, "stdin: int is neither"),
    (lambda commands: commands.run("x", timeout=cast(Any, "x")), TypeError, "timeout: str is no number"),
    (lambda commands: commands.run("x", timeout=True), TypeError, "timeout: bool is no number"),
    (lambda commands: commands.run("x", timeout=float("nan")), ValueError, "timeout: nan"),
    (lambda commands: commands.run("x", cwd=cast(Any, b"/x")), TypeError, "cwd: bytes is no text"),
    (lambda commands: commands.run("x", cwd=""), ValueError, "cwd: an empty path"),
    (lambda commands: commands.run("x", envs={"a=b": "c"}), ValueError, "envs: 'a=b'"),
]


@pytest.mark.parametrize(("call", "kind", "said"), WRONG, ids=[said for _, _, said in WRONG])
def test_a_bad_argument_starts_nothing_and_leaves_nothing_open(
    commands: Commands, asked: Asked, call: Callable[[Commands], object], kind: type[Exception], said: str
) -> None:
    before = open_descriptors()
    for _ in range(10):
        with pytest.raises(kind, match=f"^{said}"):
            call(commands)
    assert open_descriptors() == before
    assert asked.given == []
