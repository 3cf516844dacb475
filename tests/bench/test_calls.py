"""What a connection costs the kernel: the worker's system calls, counted by strace(1)."""

import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from bench.adapter import cpu_s
from bench.adapters.egress import Egress
from bench.place import Lab
from bench.probe import Probe

COUNT = 1000
EACH = {
    **dict.fromkeys(("accept4", "ioctl", "socket", "connect", "shutdown"), 1),
    "setsockopt": 1,  # TCP_QUICKACK: the upstream's handshake ends with the first bytes
    **dict.fromkeys(("epoll_ctl", "close", "sendto"), 2),
    "getsockname": 2,  # where the sandbox dialled; and that of CPython, which looks at each descriptor that becomes a socket
    "recvfrom": 3,  # hello, answer, the client's end
    "write": 1.3,  # the decision, mostly with another connection's end
}
"""Of a connection, of one message and one answer, on a warm cache."""
SHARED = 0.3
"""All others, and accepts that find nothing: a turn's worth, divided among those that it served."""


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces")
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed: apt-get install strace")
def test_system_calls_of_a_short_connection(tmp_path: Path) -> None:
    counted = tmp_path / "calls"
    with Lab() as lab:
        adapter = Egress()
        with lab.place(adapter.redirect) as place, adapter.start(place) as running:
            probe = Probe(lab, running)
            probe.await_ready()
            before = {pid: cpu_s(pid) for pid in running.pids()}
            probe.short(COUNT, 50)
            worker = max(before, key=lambda pid: cpu_s(pid) - before[pid])
            argv = ["strace", "-qq", "-c", "-U", "calls,name", "-p", str(worker), "-o", str(counted)]
            with subprocess.Popen(argv) as strace:
                _await_traced(worker)
                probe.short(COUNT, 50)
                strace.send_signal(signal.SIGINT)
    calls: Counter[str] = Counter()
    for line in counted.read_text().splitlines():
        number, _, name = line.strip().partition(" ")
        if number.isdecimal() and name.strip() != "total":
            calls[name.strip()] = int(number)
    each = {name: number / COUNT for name, number in calls.items()}
    print(each)
    dearer = {name: each.get(name, 0.0) for name, most in EACH.items() if each.get(name, 0.0) > most + 0.05}
    assert not dearer, each
    assert sum(number for name, number in each.items() if name not in EACH) <= SHARED, each


def _await_traced(pid: int) -> None:
    give_up = time.monotonic() + 10
    while "TracerPid:\t0\n" in Path(f"/proc/{pid}/status").read_text():
        assert time.monotonic() < give_up, "strace does not trace"
        time.sleep(0.01)
