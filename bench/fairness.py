"""Whether one sandbox that is at all of its limits at once slows another. ``python -m bench.fairness [ROUNDS]``, as root, on two cores or more.

Two sandboxes, each with its own gateway (``egress run``). The first counts how long it takes from ``connect`` to the refusal of a hello, again
and again; the second, in every other round, drips hellos, leaves them half, holds what it may hold (and 10,000 asked for), floods the records,
and moves bytes in bulk. Both gateways and the first sandbox share one core; the second sandbox's own programs and the far side have the other,
for no gateway gives back the cores that a sandbox burns by itself. A second sandbox that only burns its core shows how much is the machine's.
"""

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from bench.machine import keep
from tests.lab.lab import Lab, Process
from tests.lab.places import BLOCKED_IP, GOOD_IP, Port
from tests.lab.sandboxed import egress_argv, new_audit_dir
from tests.netns.hello import client_hello

PYTHON = "/usr/bin/python3"
TRIES = 2000
SETTLE_S = 3.0
"""Until the caps are reached."""

FIRST = r"""
import json, socket, sys, time
hello = bytes.fromhex(sys.argv[1])
print("ready", flush=True)
for line in sys.stdin:
    took = []
    for _ in range(int(line)):
        started = time.perf_counter_ns()
        with socket.create_connection((sys.argv[2], 443), 30) as sock:
            sock.sendall(hello)
            assert sock.recv(64), "no alert"
        took.append(time.perf_counter_ns() - started)
        time.sleep(0.0005)
    print(json.dumps(took), flush=True)
"""

SECOND = r"""
import os, socket, sys, threading, time
hello, blocked, good, silent, bulk = bytes.fromhex(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
def dial(ip, port):
    sock = socket.socket()
    sock.settimeout(20)
    try:
        sock.connect((ip, port))
        return sock
    except OSError:
        sock.close()
def forever(act):
    while True:
        try:
            act()
        except OSError:
            pass
def flood():
    if sock := dial(blocked, 443):
        with sock:
            sock.sendall(hello)
            sock.recv(64)
def drip():
    socks = [sock for _ in range(100) if (sock := dial(blocked, 443))]
    for byte in hello[:400]:
        for sock in socks:
            try:
                sock.send(bytes((byte,)))
            except OSError:
                pass
        time.sleep(0.002)
    for sock in socks:
        sock.close()
def half():
    socks = [sock for _ in range(500) if (sock := dial(blocked, 443))]
    for sock in socks:
        try:
            sock.sendall(hello[:200])
        except OSError:
            pass
    time.sleep(4)
    for sock in socks:
        sock.close()
def move():
    with dial(good, bulk) as sock:
        sock.sendall(b"1000000000\n")
        while sock.recv(1 << 20):
            pass
held = []
def hold():
    for _ in range(10000):
        sock = dial(good, silent)
        if sock:
            held.append(sock)
    time.sleep(3600)
def burn():
    while True:
        pass
acts = {"flood": flood, "drip": drip, "half": half, "move": move, "hold": hold, "burn": burn}
for name in sys.argv[6].split(","):
    if os.fork() == 0:
        forever(acts[name])
print("ready", flush=True)
sys.stdin.read()
os.killpg(0, 9)
"""
LIMITS = "flood,drip,half,move,hold"


def main() -> None:
    """Measure, print, keep."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    os.sched_setaffinity(0, {1})
    with Lab() as lab, first(lab) as process:
        ask(process)  # caches are warm
        quiet: list[list[int]] = []
        loaded: list[list[int]] = []
        burnt: list[list[int]] = []
        for number in range(rounds):
            quiet.append(ask(process))
            with second(lab, LIMITS):
                loaded.append(ask(process))
            with second(lab, "burn,burn"):
                burnt.append(ask(process))
            print(
                f"round {number + 1}: " + ", ".join(map(_shown, (quiet[-1], loaded[-1], burnt[-1]))),
                flush=True,
            )
    figures = {
        "rounds": rounds,
        "tries_a_round": TRIES,
        "what": "connect to refusal of one sandbox, us; p50 and p99, medians over the rounds",
        "quiet": _summary(quiet),
        "another_at_its_limits": _summary(loaded),
        "another_burns_its_core": _summary(burnt),
        "p99_ratio": round(_ratio(loaded, quiet), 3),
    }
    print(json.dumps(figures, indent=1))
    print(keep("fairness", figures))


@contextlib.contextmanager
def first(lab: Lab) -> Iterator[Process]:
    """The sandbox that counts."""
    command = [PYTHON, "-c", FIRST, client_hello("blocked.test").hex(), BLOCKED_IP]
    argv = egress_argv(new_audit_dir(lab), command, allow=["allowed.test"])
    with lab.popen(["taskset", "-c", "0", *argv], stdin=subprocess.PIPE) as process:
        _ready(process)
        yield process
        assert process.stdin is not None
        process.stdin.close()


@contextlib.contextmanager
def second(lab: Lab, acts: str) -> Iterator[None]:
    """The sandbox that is at its limits."""
    command: list[Any] = [*("taskset", "-c", "1", PYTHON, "-c", SECOND), client_hello("blocked.test").hex()]
    command += [BLOCKED_IP, GOOD_IP, str(int(Port.SILENT)), str(int(Port.BYTES)), acts]
    argv = egress_argv(new_audit_dir(lab), command, allow=["allowed.test", GOOD_IP])
    with lab.popen(["taskset", "-c", "0", *argv], stdin=subprocess.PIPE) as process:
        _ready(process)
        time.sleep(SETTLE_S)
        yield
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def ask(process: Process) -> list[int]:
    """Nanoseconds, one a try."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(f"{TRIES}\n")
    process.stdin.flush()
    took: list[int] = json.loads(process.stdout.readline())
    return took


def _ready(process: Process) -> None:
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        raise RuntimeError("the sandbox did not start")


def _quantile(took: list[int], share: float) -> float:
    return sorted(took)[int(len(took) * share)] / 1000


def _shown(took: list[int]) -> str:
    return f"p50 {_quantile(took, 0.5):,.0f} p99 {_quantile(took, 0.99):,.0f} us"


def _summary(rounds: list[list[int]]) -> dict[str, float]:
    return {
        f"p{share * 100:.0f}_us": round(statistics.median(_quantile(took, share) for took in rounds), 1)
        for share in (0.5, 0.99)
    }


def _ratio(one: list[list[int]], other: list[list[int]]) -> float:
    return statistics.median(_quantile(a, 0.99) / _quantile(b, 0.99) for a, b in zip(one, other, strict=True))


if __name__ == "__main__":
    main()
