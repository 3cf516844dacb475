"""How long the kernel lets a gateway run at once, seen in proc(5): by a process of its own, for the tests' own turns must stay as they are."""

import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.turns import LONG_NS, SCHED_SETATTR, SHORT_NS, USUAL_NS

PROGRAM = f"""
import asyncio, os, re, sys, time, uvloop
from gateway import turns
turns.LOOK_S, turns.BUSY = 0.05, 0.1
def slice():
    return int(re.search(r"^se.slice +: +([0-9]+)", open("/proc/self/sched").read(), re.M)[1])
async def become(wanted, busy):
    give_up = time.monotonic() + 10
    while slice() != wanted and time.monotonic() < give_up:
        if busy:
            sum(range(2_000_000))
        await asyncio.sleep(0 if busy else 0.05)
    return slice()
async def main():
    print(slice(), end=" ")
    mine = turns.Turns()
    print(slice(), await become({USUAL_NS}, True), await become({SHORT_NS}, False))
    mine.stop()
uvloop.run(main())
"""


def has_slices() -> bool:
    try:
        return "\nse.slice " in Path("/proc/self/sched").read_text() and platform.machine() in SCHED_SETATTR
    except OSError:
        return False


@pytest.mark.skipif(
    not has_slices(), reason="this kernel has no turns that a process may choose, or does not show them"
)
def test_turns_are_short_until_it_is_busy_and_when_it_is_no_longer() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=15, check=True
    )
    before, *seen = map(int, done.stdout.split())
    assert before != SHORT_NS
    assert seen == [SHORT_NS, USUAL_NS, SHORT_NS]


def test_who_has_nothing_to_do_is_not_woken() -> None:
    program = """
import asyncio, resource, signal, subprocess, uvloop
from gateway import turns
turns.LOOK_S = 0.01
def woken():
    return resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
async def main():
    mine = turns.Turns()
    await asyncio.sleep(0)
    before = woken()
    await asyncio.sleep(1)
    print(woken() - before)
    mine.stop()
    print(signal.getitimer(signal.ITIMER_PROF))
    signal.raise_signal(signal.SIGPROF)
    print(subprocess.run(["grep", "SigIgn", "/proc/self/status"], capture_output=True, text=True).stdout)
uvloop.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=15, check=True
    )
    woken, left, ignored = done.stdout.split("\n", 2)
    assert int(woken) < 10, "and not a hundred times"
    assert left == "(0.0, 0.0)"
    assert not int(ignored.split()[1], 16) >> (signal.SIGPROF - 1) & 1


@pytest.mark.skipif(
    not has_slices(), reason="this kernel has no turns that a process may choose, or does not show them"
)
def test_long_turns_are_not_handed_down() -> None:
    program = f"""
import os, re
from gateway.turns import LONG_NS, SHORT_NS, take_turns_of
def slice():
    return int(re.search(r"^se.slice +: +([0-9]+)", open("/proc/self/sched").read(), re.M)[1])
before = slice()
assert take_turns_of(LONG_NS, alone=True) and slice() == {LONG_NS}
if not os.fork():
    assert slice() == before and take_turns_of(SHORT_NS) and slice() == {SHORT_NS}
    os._exit(0)
assert os.wait()[1] == 0 and take_turns_of({USUAL_NS}, alone=True) and slice() == {USUAL_NS}
"""
    subprocess.run([sys.executable, "-c", program], timeout=15, check=True)


@pytest.mark.skipif(
    not has_slices(), reason="this kernel has no turns that a process may choose, or does not show them"
)
def test_a_confined_process_still_chooses_its_own() -> None:
    program = f"""
import re
from gateway.confine import filter_calls
from gateway.turns import take_turns_of
scheduled = open("/proc/self/sched")
filter_calls()
assert take_turns_of({SHORT_NS})
assert int(re.search(r"^se.slice +: +([0-9]+)", scheduled.read(), re.M)[1]) == {SHORT_NS}
"""
    subprocess.run([sys.executable, "-c", program], timeout=15, check=True)


def test_who_has_another_policy_keeps_it() -> None:
    """A batch job is the operator's own wish."""
    script = (
        "import os; from gateway.turns import *; print(take_turns_of(SHORT_NS), os.sched_getscheduler(0))"
    )
    argv = [
        sys.executable,
        "-c",
        f"import os; os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0)); {script}",
    ]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=15, check=True)
    assert done.stdout.split() == ["False", str(os.SCHED_BATCH)]
