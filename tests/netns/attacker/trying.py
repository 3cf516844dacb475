"""Attempts, run inside a sandbox, each in a process of its own. Needs nothing but Python.

An attempt raises OSError or returns something false where the wall held; anything else that it returns is the evidence that it got through.
One that does not end in time proves nothing and counts as through.
"""

import json
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable

TIMEOUT_S = 60.0
Attempt = Callable[[], object]
ATTEMPTS: list[Attempt] = []
arguments: dict[str, str] = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
"""What the test told: addresses, paths."""


def attempt(function: Attempt) -> Attempt:
    """Register one."""
    ATTEMPTS.append(function)
    return function


def main(at_once: int = 6) -> None:
    """A JSON line for each: its name, whether it got through, and what there is to say. ``at_once`` of them run beside each other."""
    waiting = list(ATTEMPTS)
    running: list[tuple[Attempt, int, int]] = []
    while waiting or running:
        while waiting and len(running) < at_once:
            function = waiting.pop(0)
            running.append((function, *_start(function)))
        function, pid, read_end = running.pop(0)
        print(json.dumps([function.__name__, *_finish(pid, read_end)]), flush=True)


def _start(function: Attempt) -> tuple[int, int]:
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write_end)
        return pid, read_end
    os.close(read_end)
    try:
        found = function()
        said = [bool(found), repr(found)[:500]]
    except OSError as error:
        said = [False, repr(error)]
    except BaseException:
        said = [True, "the attempt itself is broken: " + traceback.format_exc()[-400:]]
    os.write(write_end, json.dumps(said).encode())
    os._exit(0)


def _finish(pid: int, read_end: int) -> tuple[bool, str]:
    ready, _, _ = select.select([read_end], [], [], TIMEOUT_S)
    raw = os.read(read_end, 1 << 16) if ready else b""
    os.close(read_end)
    if not ready:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if raw:
        worked, words = json.loads(raw)
        return worked, words
    return not ready, f"nothing came of it in time, wait status {status}"
