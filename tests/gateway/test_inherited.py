"""What the process behind a sandbox inherits: signals to all of a service, closed descriptors."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.lab import ROOT

ENDS = """
import os, select, signal
from gateway.inherited import Endings
endings = Endings()
os.write(1, b"ready\\n")
while True:
    select.select([endings], [], [])
    if endings.come():
        break
print("ended in order")
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT])
@pytest.mark.parametrize("blocked", [False, True], ids=["", "blocked"])
def test_what_would_end_it_is_heard(number: signal.Signals, blocked: bool) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [number] if blocked else [])
    try:
        # Whoever started the tests may ignore some, as nohup(1) does.
        argv = ["env", f"--default-signal={number.name[3:]}", sys.executable, "-c", ENDS]
        process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    with process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        for harmless in (signal.SIGUSR1, signal.SIGUSR2):
            process.send_signal(harmless)
        process.send_signal(number)
        assert process.stdout.read() == "ended in order\n"
    assert process.returncode == 0


def test_what_is_ignored_stays_so() -> None:
    argv = ["env", "--ignore-signal=HUP", sys.executable, "-c", ENDS]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        # What is ignored is dropped as it is sent (signal(7)): nothing comes that could be waited for.
        status = Path(f"/proc/{process.pid}/status").read_text()
        (ignored,) = re.findall(r"^SigIgn:\t([0-9a-f]+)$", status, re.M)
        assert int(ignored, 16) >> (signal.SIGHUP - 1) & 1
        process.send_signal(signal.SIGHUP)
        process.terminate()
        assert process.stdout.read() == "ended in order\n"


@pytest.mark.parametrize("closed", [(), (0,), (2,), (0, 2), (0, 1, 2)], ids=str)
def test_closed_standard_descriptors_are_held(closed: tuple[int, ...]) -> None:
    script = (
        "import os, sys\n"
        "from gateway.inherited import hold_standard_descriptors\n"
        f"for descriptor in {closed}: os.close(descriptor)\n"
        "before = set(os.listdir('/proc/self/fd'))\n"
        "hold_standard_descriptors()\n"
        f"held = {{n: os.readlink(f'/proc/self/fd/{{n}}') for n in {closed}}}\n"
        "os._exit(0 if set(held.values()) <= {'/dev/null'} and os.dup(0) == 3 else 1)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, os.strerror(done.returncode)
