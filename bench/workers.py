"""What a second worker brings: connections a second of two sandboxes at once, beside those of one.

Each sandbox has a worker of its own, so two have what a gateway with two workers would. Load and origin need processor time as well, which on a small
machine no worker may be given: so each sandbox, its worker, keeper and supervisor, is held to a share of a core of its own, and what is left of both
cores is free. What they wait for each other then is what they share: locks, the kernel, caches. On cores of their own the shares would be whole.
"""

import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from bench.crowd import house
from bench.figures import median
from bench.place import Lab
from bench.probe import Probe
from bench.reach import AT_ONCE, Reach, Say
from bench.share import NoShares, share

SHARE: Final = 0.25
"""Of a core: two of them, with what load and origin need for both, leave both cores time to spare."""


def second_worker(lab: Lab, reach: Reach, say: Say) -> dict[str, Any]:
    """Rounds of one alone, both at once, the other alone; ``ratio`` is what both do by what one does, the median of the rounds'."""
    cores = (lab.cores.proxy, lab.cores.load)
    rounds: list[dict[str, float]] = []
    with lab.place(None) as place, contextlib.ExitStack() as shares, house(place) as more:
        tenants, _ = more(2)
        try:
            for tenant, core in zip(tenants, cores, strict=True):
                shares.enter_context(share(SHARE, core, tenant.pids()))
        except NoShares as why:
            say(f"a second worker: left out: {why}")
            return {"left_out": str(why)}
        probes = [Probe(lab, tenant) for tenant in tenants]
        for probe in probes:
            probe.await_ready(filters=False)
            probe.short(reach.connections, AT_ONCE)  # warm
        for _ in range(reach.rounds):
            one, both, other = (_a_second(some, reach) for some in (probes[:1], probes, probes[1:]))
            rounds.append({"one": one, "both": both, "other": other})
    ratio = median(found["both"] * 2 / (found["one"] + found["other"]) for found in rounds)
    say(f"a second worker: x {ratio:.2f} connections a second")
    return {"share": SHARE, "cores": cores, "rounds": rounds, "ratio": round(ratio or 0, 3), "left_out": ""}


def _a_second(probes: Sequence[Probe], reach: Reach) -> float:
    """Connections a second of them all, each with a load of its own at the same time. Trouble where one of them failed."""
    with ThreadPoolExecutor(len(probes)) as pool:
        costs = [pool.submit(probe.short, reach.connections, AT_ONCE) for probe in probes]
        seconds: list[float] = [cost.result().said["seconds"] for cost in costs]
    return round(sum(reach.connections / each for each in seconds), 1)
