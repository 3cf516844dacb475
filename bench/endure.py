"""``python -m bench.endure``: mixed load for 10 minutes (--minutes), and whether the gateway grows: memory, descriptors, pipes.

First as many connections at once as a sandbox may have: what they take is kept for the next time, and no standstill of the machine that piles up
connections later may look like growth. Then turn after turn: short connections as fast as they go, a bulk transfer, 1,000 held connections with
paced ones beside them, names that are refused. What is looked at is the worker and the keeper of the records, between turns. Exit status 1 where
one of them grew after the warm-up (a tenth of the time).
"""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any, Final

from bench.adapter import cpu_s, memory_kib
from bench.adapters.egress import Egress
from bench.machine import RESULTS, keep
from bench.place import Lab
from bench.probe import Probe

SHORT: Final = 6000
BULK_BYTES: Final = 500_000_000
PEAK: Final = 4000
HELD: Final = 1000
PACED: Final = (1000.0, 1000)
"""A second, and in all."""
REFUSED: Final = 300
GROWTH_KIB: Final = 2048
FEW_LEFT: Final = "echo 8192 > /proc/sys/net/ipv4/tcp_max_tw_buckets\n"
"""In TIME_WAIT: a minute's load has more connections than there are ports, and a client that looks for a free one stands still for seconds."""

Look = dict[str, dict[str, int]]
"""Of each process: rss_kib, descriptors, pipes."""


def main() -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.endure", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, metavar="N")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="where endure.json goes")
    args = parser.parse_args()
    if os.geteuid() != 0:
        print("bench.endure: it makes network namespaces: run it as root", file=sys.stderr)
        return 77
    found = endure(args.minutes * 60)
    print(keep("endure", found, args.out))
    wrong = grown(found["looks"])
    print("; ".join(wrong) or "nothing grew")
    return 1 if wrong else 0


def endure(seconds: float) -> dict[str, Any]:
    """Turn after turn; what was done, and a look after each."""
    adapter = Egress()
    looks: list[tuple[float, Look]] = []
    done = {"connections": 0, "refused": 0, "bytes": 0}
    with Lab() as lab, lab.place(adapter.redirect) as place, adapter.start(place) as running:
        probe = Probe(lab, running, steady=False)  # records are signed by a process that comes and goes
        probe.await_ready()
        for namespace in (running.client, place.host, lab.origin):
            namespace.run(FEW_LEFT)
        pids = busiest(probe)
        with probe.hold(PEAK):
            pass
        started = time.monotonic()
        while time.monotonic() - started < seconds:
            turn(probe, done)
            running.settled_cpu_s()
            looks.append(
                (round(time.monotonic() - started, 1), {name: look(pid) for name, pid in pids.items()})
            )
            shown = ", ".join(
                f"{name} {' '.join(f'{value:,}' for value in size.values())}"
                for name, size in looks[-1][1].items()
            )
            print(
                f"{looks[-1][0]:6.0f} s: {done['connections']:,} connections; KiB, descriptors, pipes: {shown}",
                flush=True,
            )
    return {"seconds": looks[-1][0], "done": done, "looks": looks}


def turn(probe: Probe, done: dict[str, int]) -> None:
    """A bit of everything. Trouble where a connection was answered wrongly."""
    probe.short(SHORT, 50)
    probe.bulk(BULK_BYTES)
    with probe.hold(HELD):
        probe.paced(*PACED)
    refused = probe.refused(REFUSED)
    done["connections"] += SHORT + 1 + HELD + PACED[1] + refused
    done["refused"] += refused
    done["bytes"] += BULK_BYTES


def busiest(probe: Probe) -> dict[str, int]:
    """The worker, and who keeps its records: the two that short connections cost something."""
    before = {pid: cpu_s(pid) for pid in probe.running.pids()}
    probe.short(2000, 50)
    worker, keeper, *_ = sorted(before, key=lambda pid: before[pid] - cpu_s(pid))
    return {"worker": worker, "keeper": keeper}


def look(pid: int) -> dict[str, int]:
    """At one process."""
    directory = Path(f"/proc/{pid}/fd")
    held = [os.readlink(directory / name) for name in os.listdir(directory)]
    pipes = sum(what.startswith("pipe:") for what in held)
    return {"rss_kib": memory_kib(pid, "status", "VmRSS:"), "descriptors": len(held), "pipes": pipes}


def grown(looks: list[tuple[float, Look]]) -> list[str]:
    """What was never so much in the first half, after the warm-up, as it is in the second. A pipe that was lent goes or stays: both are usual."""
    first, second = looks[len(looks) // 10 : len(looks) // 2 + 1], looks[len(looks) // 2 + 1 :]
    wrong = []
    for process, size in looks[0][1].items():
        for what in size:
            before, after = (max(one[process][what] for _, one in half) for half in (first, second))
            if after > before + (GROWTH_KIB if what == "rss_kib" else 0):
                wrong.append(f"{process}: {what} grew from {before:,} to {after:,}")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
