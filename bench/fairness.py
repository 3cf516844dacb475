"""Whether one sandbox that is at all of its limits at once slows another. ``python -m bench.fairness [ROUNDS]``, as root, on two cores or more.

Two sandboxes, each with its own gateway (``egress run``). The first counts how long it takes from ``connect`` to the refusal of a hello, again
and again, and its gateway from accept to decision; the second, in other rounds, drips hellos, leaves them half, holds what it may hold (and
10,000 asked for), floods the records, and moves bytes in bulk. Its programs and the far side have the second core, for no gateway gives back what a
sandbox burns by itself; its gateway has either that core too, as where a sandbox and what serves it are given a share of the machine, or all of its
work is done on the first sandbox's one core.
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
from pathlib import Path
from typing import Any, NamedTuple

from bench.installed import insist
from bench.machine import keep
from tests.lab.lab import Lab
from tests.lab.places import BLOCKED_IP, GOOD_IP, Port
from tests.lab.sandboxed import egress_argv, new_audit_dir
from tests.netns.hello import client_hello
from tests.netns.puppet import children

PYTHON = "/usr/bin/python3"
TRIES = 2000
LINK = ["--link", "lo"]  # so that what goes to an allowed address is the proxy's too
SETTLE_S = 3.0
"""Until the caps are reached."""

FIRST = r"""
import json, socket, struct, sys, time
hello, reset = bytes.fromhex(sys.argv[1]), struct.pack("ii", 1, 0)
print("ready", flush=True)
for line in sys.stdin:
    took = []
    for _ in range(int(line)):
        started = time.perf_counter_ns()
        with socket.create_connection((sys.argv[2], 443), 30) as sock:
            sock.sendall(hello)
            assert sock.recv(64), "no alert"
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)  # no TIME_WAIT: free ports must not run short
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
acts = {"flood": flood, "drip": drip, "half": half, "move": move, "hold": hold}
for name in sys.argv[6].split(","):
    if os.fork() == 0:
        forever(acts[name])
print("ready", flush=True)
sys.stdin.read()
os.killpg(0, 9)
"""
ACTS = "flood,drip,half,move,hold"
CASES: dict[str, str | None] = {
    "quiet": None,
    "another_at_its_limits": "1",
    "and_its_gateway_on_the_same_core": "0",
}
"""And the core of the second sandbox's gateway."""


GATEWAY = r"""
import json, sys, time
sys.argv = sys.argv[1:]
from gateway import journal, process
took = []
decided, serve = journal.Attempt.decided, process._serve
def counting(self, made, seen):
    now = time.monotonic_ns()
    took.append((now, now - self._started_ns))
    return decided(self, made, seen)
async def telling(*args):
    await serve(*args)
    print("took " + json.dumps(took), file=sys.stderr, flush=True)
journal.Attempt.decided, process._serve = counting, telling
from gateway.cli import main
sys.exit(main())
"""
"""``egress`` with a clock from accept to decision, which tells at the end."""


def main() -> None:
    """Measure, print, keep."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    os.sched_setaffinity(0, {1})
    rounds_of: dict[str, list[Round]] = {name: [] for name in CASES}
    with Lab() as lab, first(lab) as process:
        ask(process)  # caches are warm
        for number in range(rounds):
            for name, core in CASES.items():
                with contextlib.nullcontext() if core is None else second(lab, core):
                    rounds_of[name].append(ask(process))
            print(
                f"round {number + 1}: " + ", ".join(_shown(found[-1].seen) for found in rounds_of.values()),
                flush=True,
            )
        assert process.stdin is not None
        process.stdin.close()
        assert process.stderr is not None
        said = process.stderr.read()
    took = json.loads(next(line for line in said.splitlines() if line.startswith("took "))[5:])
    decided = {
        name: [[took for at, took in took if one.began <= at <= one.ended] for one in found]
        for name, found in rounds_of.items()
    }
    seen = {name: [one.seen for one in found] for name, found in rounds_of.items()}
    figures = {
        "rounds": rounds,
        "tries_a_round": TRIES,
        "what": "one sandbox: in its gateway, from accept to decision; and as it sees it, from connect to refusal. us, medians over the rounds",
        **{
            name: {"accept_to_decision": _summary(decided[name]), "connect_to_refusal": _summary(seen[name])}
            for name in seen
        },
        "p99_ratio": {
            name: {
                "accept_to_decision": round(_ratio(decided[name], decided["quiet"]), 3),
                "connect_to_refusal": round(_ratio(seen[name], seen["quiet"]), 3),
            }
            for name, core in CASES.items()
            if core is not None
        },
    }
    print(json.dumps(figures, indent=1))
    print(keep("fairness", figures))


class Round(NamedTuple):
    """Monotonic nanoseconds of beginning and end, and what each try took."""

    began: int
    ended: int
    seen: list[int]


@contextlib.contextmanager
def first(lab: Lab) -> Iterator[subprocess.Popen[str]]:
    """The sandbox that counts."""
    command = [PYTHON, "-c", FIRST, client_hello("blocked.test").hex(), BLOCKED_IP]
    _, *argv = egress_argv(new_audit_dir(lab), command, allow=["allowed.test"], options=LINK)
    with lab.popen(
        ["taskset", "-c", "0", sys.executable, "-c", GATEWAY, "egress", *argv], stdin=subprocess.PIPE
    ) as process:
        _ready(process)
        _never_waits(process.pid)
        yield process


@contextlib.contextmanager
def second(lab: Lab, core: str) -> Iterator[None]:
    """The sandbox that is at its limits."""
    command: list[Any] = [*("taskset", "-c", "1", PYTHON, "-c", SECOND), client_hello("blocked.test").hex()]
    command += [BLOCKED_IP, GOOD_IP, str(int(Port.SILENT)), str(int(Port.BYTES)), ACTS]
    argv = egress_argv(new_audit_dir(lab), command, allow=["allowed.test", GOOD_IP], options=LINK)
    with lab.popen(["taskset", "-c", core, *argv], stdin=subprocess.PIPE) as process:
        _ready(process)
        time.sleep(SETTLE_S)
        yield
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def ask(process: subprocess.Popen[str]) -> Round:
    """One round of tries."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(f"{TRIES}\n")
    process.stdin.flush()
    began = time.monotonic_ns()
    seen: list[int] = json.loads(process.stdout.readline())
    return Round(began, time.monotonic_ns(), seen)


def _never_waits(pid: int) -> None:
    """The clock that looks from outside must not wait for the processor itself: the program in the sandbox gets it whenever it wants."""
    for child in children(pid):
        for inner in (child, *(grand for one in children(child) for grand in (one, *children(one)))):
            if Path(f"/proc/{inner}/cmdline").read_text().startswith(PYTHON):
                os.sched_setscheduler(inner, os.SCHED_FIFO, os.sched_param(1))


def _ready(process: subprocess.Popen[str]) -> None:
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
    insist("bench.fairness")
    main()
