"""What a worker's seccomp filter adds to a system call: ``python -m bench.seccomp [RUNS]``. Interleaved, a process a run, medians."""

import os
import socket
import statistics
import sys
import time

from bench.installed import insist
from bench.machine import keep
from gateway import confine

CALLS = 200_000


def main() -> None:
    """Measure, print, keep."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(runs):
        for filtered, taken in times.items():
            taken.append(_in_child(filtered))
    added = [after - before for before, after in zip(times[False], times[True], strict=True)]
    figures = {
        "runs": runs,
        "ns_a_call": round(statistics.median(times[False])),
        "ns_a_call_filtered": round(statistics.median(times[True])),
        "ns_added": round(statistics.median(added)),
    }
    print(figures)
    print(keep("seccomp", figures))


def _in_child(filtered: bool) -> float:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        if filtered:
            confine.filter_calls()
        os.write(writer, str(_ns_a_call()).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as said:
        took = float(said.read())
    os.waitpid(pid, 0)
    return took


def _ns_a_call() -> float:
    """One byte through a socket pair, again and again: two calls a byte."""
    near, far = socket.socketpair()
    started = time.perf_counter_ns()
    for _ in range(CALLS // 2):
        near.send(b"x")
        far.recv(1)
    return (time.perf_counter_ns() - started) / CALLS


if __name__ == "__main__":
    insist("bench.seccomp")
    main()
