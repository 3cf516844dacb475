"""How cost grows with the number of sandboxes on a machine."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Final

from bench.adapter import Running, family, popen
from bench.figures import median
from bench.installed import installed
from bench.place import ROOT, Lab, Namespace, Place
from bench.probe import Probe
from bench.reach import AT_ONCE, Reach, Say

ASKED_SANDBOXES: Final = 5
"""Of many, so many get the load; the others are there."""
IDLE_S: Final = 3.0
LEAST_FREE: Final = 0.3
"""Of the machine's memory: more sandboxes are not made where less is left, for others use it too."""


class Tenant(Running):
    """One of the house's sandboxes."""

    def __init__(self, process: "subprocess.Popen[bytes]", client: Namespace, pid: int, output: Path) -> None:
        super().__init__(process, client)
        self._pid, self._output = pid, output

    def last_words(self) -> str:
        """Of what the house said."""
        return self._output.read_text()[-200:].strip()

    def pids(self) -> list[int]:
        """Of its supervisor, worker and netd alone."""
        return family(self._pid)


@contextlib.contextmanager
def house(place: Place) -> Iterator[Callable[[int], tuple[list[Tenant], list[float]]]]:
    """Makes so many more sandboxes when called: all that there are, and how long each new one took, in milliseconds."""
    argv = place.host.enter([sys.executable, "-P", "-m", "bench.house", place.directory], place.cores.proxy)
    (place.directory / "keys").mkdir(mode=0o700)
    packages = f"{installed(ROOT)}:{ROOT}"  # the bench's own are no part of what is installed
    env = {**os.environ, "PYTHONPATH": packages, "EGRESS_KEY_DIR": str(place.directory / "keys")}
    tenants: list[Tenant] = []
    with contextlib.ExitStack() as stack, popen(argv, place, env=env) as process:
        with (place.directory / "output").open() as output:

            def more(count: int) -> tuple[list[Tenant], list[float]]:
                assert process.stdin is not None
                process.stdin.write(b"%d\n" % count)
                process.stdin.flush()
                took = []
                for pid, netns, took_ms in json.loads(_line(process, output, "[")):
                    inside = Namespace(os.open(f"/proc/{pid}/fd/{netns}", os.O_RDONLY | os.O_CLOEXEC))
                    stack.callback(inside.close)
                    tenants.append(Tenant(process, inside, pid, place.directory / "output"))
                    took.append(took_ms)
                return tenants, took

            _line(process, output, "ready")
            yield more


def _line(process: "subprocess.Popen[bytes]", output: IO[str], beginning: str) -> str:
    """The next of what it says that begins so. RuntimeError where it ended before."""
    said = line = ""
    while not (line.endswith("\n") and line.startswith(beginning)):
        line = "" if line.endswith("\n") else line
        if more := output.readline():
            line += more
            said = (said + more)[-500:]
        elif process.poll() is not None:
            raise RuntimeError(f"the house ended: {said}")
        else:
            time.sleep(0.01)
    return line


def sandboxes(lab: Lab, reach: Reach, say: Say) -> dict[str, Any]:
    """CPU a connection of sandboxes among many, beside one that is alone in its host's namespace, turn by turn; as far as memory and time carry."""
    points: list[dict[str, Any]] = []
    stopped, started = "", time.monotonic()
    with lab.place(None) as here, lab.place(None) as there, house(here) as few, house(there) as many:
        alone, _ = few(1)
        made: list[Tenant] = []
        for count in reach.sandboxes:
            took: list[float] = []
            while len(made) < count and not (stopped := _must_stop(started, reach)):
                wanted = min(10, count - len(made))
                made, more = many(wanted)
                took += more
                if len(more) < wanted:
                    stopped = f"the next could not be made: {made[0].last_words()}"
                    break
            points.append(_point(lab, reach, alone, made, took))
            shown = {key: value for key, value in points[-1].items() if key != "rounds"}
            say(f"{len(made):,} sandboxes: {shown}")
            if stopped:
                stopped = f"at {len(made):,}: {stopped}"
                say(f"sandboxes: stopped {stopped}")
                break
    return {"points": points, "stopped": stopped}


def _point(
    lab: Lab, reach: Reach, alone: Sequence[Tenant], made: Sequence[Tenant], took: Sequence[float]
) -> dict[str, Any]:
    asked = made[:: max(1, len(made) // ASKED_SANDBOXES)][:ASKED_SANDBOXES]
    for tenants in (alone, asked):
        _cpu_us(lab, tenants, reach)  # warm
    rounds = [
        {"one": _cpu_us(lab, [*alone] * len(asked), reach), "many": _cpu_us(lab, asked, reach)}
        for _ in range(reach.crowd_rounds)
    ]
    return {
        "sandboxes": len(made),
        "rounds": rounds,
        "ratio": round(median(one["many"] / one["one"] for one in rounds) or 0, 3),
        "attach_ms": median(took),
        "idle_cores": round(_idle_cores(made), 3),
        "mib_each": round(sum(tenant.pss_kib() for tenant in made) / 1024 / len(made), 1),
    }


def _must_stop(started: float, reach: Reach) -> str:
    lines = Path("/proc/meminfo").read_text().splitlines()
    memory = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    if memory["MemAvailable"] < LEAST_FREE * memory["MemTotal"]:
        return f"less than {LEAST_FREE:.0%} of the machine's memory was free"
    return f"{reach.growing_s:.0f} s had passed" if time.monotonic() - started > reach.growing_s else ""


def _idle_cores(tenants: Sequence[Tenant]) -> float:
    """How many of them they take together while nothing is asked of any."""
    before, started = sum(tenant.cpu_s() for tenant in tenants), time.monotonic()
    time.sleep(IDLE_S)
    return (sum(tenant.cpu_s() for tenant in tenants) - before) / (time.monotonic() - started)


def _cpu_us(lab: Lab, tenants: Sequence[Tenant], reach: Reach) -> float:
    each = max(100, reach.connections // len(tenants))
    spent = 0.0
    for tenant in tenants:
        probe = Probe(lab, tenant)
        probe.await_ready(filters=False)
        spent += probe.short(each, AT_ONCE).cpu_s
    return round(spent / each / len(tenants) * 1e6, 1)
