"""``egress run -- true``, start to end, and where the time goes. ``python -m bench.startup [RUNS]``, as root or not.

The whole is measured from outside, interleaved with the same command without the gateway and with an interpreter that does nothing; the parts from
inside, in a process of their own a run. Medians.
"""

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.machine import keep

EGRESS = Path(sys.executable).parent / "egress"
PARTS = """
import json, os, sys, time
started = time.perf_counter()
marks = []
def mark(what):
    marks.append((what, time.perf_counter() - started))
from pathlib import Path
import gateway.cli.run
from gateway.netd.server import Netd
netd = Netd()
mark("command line, policy")
from gateway.launch import launch
from gateway.supervisor import Supervisor
from gateway.terminal import Terminal
from gateway.view import plan_view
from rules import SecurityPolicy
mark("imports of the worker, while netd imports its own")
with Supervisor(SecurityPolicy(), "bench", Path(sys.argv[1]), netd) as supervisor:
    view = plan_view(cwd=Path("/"), binds=[], protected=[], user=None, resolver="8.8.8.8", environment=os.environ)
    mark("view")
    start = supervisor._start_worker
    supervisor._start_worker = lambda: (mark("cell: what netd had left to import, namespace, rules, sockets"), start())
    supervisor.open()
    mark("worker")
    with Terminal() as terminal:
        supervisor.wait(launch(view, ["true"], supervisor.namespaces), terminal)
    mark("bubblewrap and the command")
mark("taking down")
print(json.dumps(marks))
"""


def main() -> None:
    """Measure, print, keep."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    with tempfile.TemporaryDirectory() as directory:
        environment = {
            **os.environ,
            "EGRESS_AUDIT_DIR": f"{directory}/records",
            "EGRESS_KEY_DIR": f"{directory}/keys",
        }
        environment.pop(
            "PYTHONDONTWRITEBYTECODE", None
        )  # an installed command does not compile itself each time
        whole: dict[str, Callable[[], float]] = {
            "egress run -- true": lambda: _timed([str(EGRESS), "run", "--", "true"], environment),
            "python -c pass": lambda: _timed([sys.executable, "-c", "pass"], environment),
            "bwrap --ro-bind / / true": lambda: _timed(["bwrap", "--ro-bind", "/", "/", "true"], environment),
        }
        times: dict[str, list[float]] = {what: [] for what in whole}
        parts: dict[str, list[float]] = {}
        for _ in range(runs):
            for what, measure in whole.items():
                times[what].append(measure())
            for what, took in parts_of_one(f"{directory}/records"):
                parts.setdefault(what, []).append(took)
    figures = {
        "runs": runs,
        "uid": os.geteuid(),
        "whole_ms": {what: round(statistics.median(taken) * 1e3, 1) for what, taken in times.items()},
        "parts_ms": {what: round(statistics.median(taken) * 1e3, 1) for what, taken in parts.items()},
    }
    for group in ("whole_ms", "parts_ms"):
        for what, took in figures[group].items():  # type: ignore[attr-defined]
            print(f"{took:8.1f} ms  {what}")
    print(keep("startup" if os.geteuid() == 0 else "startup-rootless", figures))


def _timed(argv: list[str], environment: dict[str, str]) -> float:
    started = time.perf_counter()
    subprocess.run(argv, env=environment, check=True, capture_output=True, cwd="/")
    return time.perf_counter() - started


def parts_of_one(directory: str) -> list[tuple[str, float]]:
    """What one start spends its time on: seconds each, in order."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", PARTS, directory], check=True, capture_output=True, text=True
    )
    marks = [("", 0.0), *json.loads(done.stdout)]
    return [(what, at - before) for (_, before), (what, at) in itertools.pairwise(marks)]


if __name__ == "__main__":
    main()
