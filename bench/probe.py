"""One figure of one proxy: a load from its client's namespace, what it cost, and whether it may be believed."""

import contextlib
import json
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from bench.adapter import Running, cpu_s
from bench.place import BULK, FORBIDDEN, HOLD, ORIGIN_IP, ORIGIN_PORT, ROOT, SHORT, Lab
from tests.netns.hello import client_hello

READY_S: Final = 30.0
TRY_S: Final = "0.25"
REFUSAL_S: Final = "2"
SAID_S: Final = 120.0


class Trouble(Exception):
    """Why there is no figure; one line."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a load said, and what was used meanwhile: ``cpu_s`` of the proxy; shares of the wall's time."""

    said: dict[str, Any]
    cpu_s: float
    share: float
    load_share: float
    """Of load and origin together, where they share a core; of the busier one else."""


class Probe:
    """A proxy that runs, seen from its client."""

    def __init__(self, lab: Lab, running: Running, *, steady: bool = True) -> None:
        """``steady``: no figure where one of its processes came or went meanwhile, whose CPU is not known then."""
        self._steady = steady
        self._lab = lab
        self.running = running

    def await_ready(self, *, filters: bool = True) -> None:
        """Until an allowed connection is answered. Trouble where it never is, or where a forbidden one is too."""
        give_up = time.monotonic() + READY_S
        while self._ask(["one", TRY_S], SHORT)["errors"]:
            if ended := self.running.said():
                raise Trouble(ended)
            if time.monotonic() > give_up:
                raise Trouble(f"no answer within {READY_S:.0f} s of its start")
            time.sleep(0.05)
        if filters and not self._ask(["one", REFUSAL_S], FORBIDDEN)["errors"]:
            raise Trouble("it lets a forbidden name through")

    def short(self, count: int, at_once: int) -> Cost:
        """CPU a connection and connections a second."""
        return self._cost("short", SHORT, count, at_once)

    def paced(self, rate: float, count: int) -> Cost:
        """Latency at a rate."""
        return self._cost("paced", SHORT, rate, count)

    def bulk(self, size: int) -> Cost:
        """CPU a gigabyte."""
        return self._cost("bulk", BULK, size)

    def refused(self, count: int) -> int:
        """So many connections to a name that is not let through; how many were refused. Trouble where one was answered."""
        said = self._ask(["short", str(count), "50"], FORBIDDEN)
        if said["errors"] != count:
            raise Trouble("it lets a forbidden name through")
        return count

    @contextlib.contextmanager
    def hold(self, count: int) -> Iterator[dict[str, Any]]:
        """While so many connections are open; what the load said of their beginning. Trouble when one did not last."""
        process = self._load(["hold", str(count)], HOLD)
        try:
            yield self._said(process)
            assert process.stdin is not None
            process.stdin.close()
            if lost := self._said(process)["lost"]:
                raise Trouble(f"{lost} of {count} held connections were ended")
        finally:
            _end(process)

    def _cost(self, verb: str, name: str, *numbers: float) -> Cost:
        pids, before = self.running.pids(), self.running.settled_cpu_s()
        origin = cpu_s(self._lab.origin_pid)
        said = self._ask([verb, *map(str, numbers)], name)
        used, beyond = self.running.settled_cpu_s() - before, cpu_s(self._lab.origin_pid) - origin
        if self._steady and self.running.pids() != pids:
            raise Trouble(f"a process of it came or went: {self.running.said() or 'its CPU is not known'}")
        if said["errors"]:
            kinds = ", ".join(f"{count} {kind}" for kind, count in said["kinds"].items())
            raise Trouble(f"{verb}: {said['errors']} errors ({kinds})")
        shared = self._lab.cores.load == self._lab.cores.origin
        busy = said["cpu_s"] + beyond if shared else max(said["cpu_s"], beyond)
        return Cost(said, used, used / said["seconds"], busy / said["seconds"])

    def _ask(self, words: list[str], name: str) -> dict[str, Any]:
        process = self._load(words, name)
        try:
            return self._said(process)
        finally:
            _end(process)

    def _load(self, words: list[str], name: str) -> "subprocess.Popen[str]":
        verb, *numbers = words
        script = [sys.executable, "-IS", str(ROOT / "bench" / "load.py"), verb, ORIGIN_IP, str(ORIGIN_PORT)]
        argv = self.running.client.enter([*script, _hello(name), *numbers], self._lab.cores.load)
        return subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    def _said(self, process: "subprocess.Popen[str]") -> dict[str, Any]:
        assert process.stdout is not None
        if not select.select([process.stdout], [], [], SAID_S)[0]:
            raise Trouble(f"the load did not end within {SAID_S:.0f} s")
        line = process.stdout.readline()
        if not line:
            raise Trouble("the load died")
        said: dict[str, Any] = json.loads(line)
        return said


def _end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


@cache
def _hello(name: str) -> str:
    return client_hello(name).hex()
