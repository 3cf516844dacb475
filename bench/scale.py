"""How cost grows: with entries of the policy, connections that are held, and sandboxes; how long one takes to begin; records."""

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from audit.settings import Fsync
from bench.adapter import Adapter
from bench.adapters.egress import Egress
from bench.adapters.haproxy import HAProxy
from bench.adapters.naive import Naive
from bench.audit import sustained
from bench.crowd import sandboxes
from bench.figures import median
from bench.place import Lab
from bench.probe import Probe, Trouble
from bench.reach import AT_ONCE, Reach, Say
from bench.workers import second_worker


def scale(lab: Lab, adapter: Egress, reach: Reach, say: Say) -> dict[str, Any]:
    """All of it, by name."""
    return {
        "attach": attach(lab, adapter, reach, say),
        "entries": entries(lab, adapter, reach, say),
        "held": held(lab, adapter, reach, say),
        "sandboxes": sandboxes(lab, reach, say),
        "workers": second_worker(lab, reach, say),
        "records": records(reach, say),
    }


def attach(lab: Lab, adapter: Egress, reach: Reach, say: Say) -> dict[str, Any]:
    """``egress run`` until the command has said its first word, imports and all."""
    took = []
    for _ in range(reach.starts):
        with lab.place(adapter.redirect) as place:
            started = time.monotonic()
            with adapter.start(place):
                took.append(round((time.monotonic() - started) * 1e3, 1))
    say(f"egress run to the command's first byte: {median(took):.0f} ms")
    return {"rounds_ms": took, "median_ms": median(took)}


def entry(number: int) -> str:
    """Of an allowlist; a third are wildcards."""
    return f"host{number}.svc{number % 997}.example.com" if number % 3 else f"*.w{number}.example.org"


def entries(lab: Lab, adapter: Egress, reach: Reach, say: Say) -> list[dict[str, Any]]:
    """CPU a connection beside so many other entries; HAProxy gets those that its matcher for whole names can hold, as exact names."""
    points = []
    for count in reach.entries:
        names = [entry(number) for number in range(count)]
        large = HAProxy()
        large.entries = tuple(name.removeprefix("*.") for name in names)
        subjects: list[Adapter] = [Egress(adapter.checkout, names)]
        subjects += [large] if large.missing() is None else []
        point: dict[str, Any] = {"entries": count}
        for number in range(reach.rounds):
            for subject in subjects if number % 2 == 0 else reversed(subjects):
                found = point.setdefault(
                    subject.name, {"cpu_us": [], "start_s": [], "idle_mib": [], "troubles": []}
                )
                _one(lab, subject, reach.connections, found)
        points.append(point)
        say(f"{count:,} entries: " + "; ".join(f"{one.name} {_medians(point[one.name])}" for one in subjects))
    return points


def _one(lab: Lab, subject: Adapter, connections: int, found: dict[str, list[Any]]) -> None:
    with lab.place(subject.redirect) as place:
        started = time.monotonic()
        try:
            with subject.start(place) as running:
                probe = Probe(lab, running)
                probe.await_ready()
                took = time.monotonic() - started
                probe.short(300, AT_ONCE)
                cost = probe.short(connections, AT_ONCE)
                found["cpu_us"].append(round(cost.cpu_s / connections * 1e6, 1))
                found["start_s"].append(round(took, 2))
                found["idle_mib"].append(round(running.pss_kib() / 1024, 1))
        except (Trouble, RuntimeError) as trouble:
            found["troubles"].append(str(trouble))


def held(lab: Lab, adapter: Egress, reach: Reach, say: Say) -> dict[str, Any]:
    """Memory, and CPU of a short connection beside so many that stay, until the proxy takes no more."""
    result: dict[str, Any] = {}
    for subject in (adapter, Naive()):
        points: list[dict[str, Any]] = []
        stopped = ""
        for count in reach.held:
            try:
                points.append(_held(lab, subject, count, reach.connections))
            except (Trouble, RuntimeError) as trouble:
                stopped = f"at {count:,}: {trouble}"
                break
        result[subject.name] = {"points": points, "stopped": stopped}
        last = points[-1] if points else {}
        say(f"held, {subject.name}: {last} {'stopped ' + stopped if stopped else ''}")
    return result


def _held(lab: Lab, subject: Adapter, count: int, connections: int) -> dict[str, Any]:
    with lab.place(subject.redirect) as place, subject.start(place) as running:
        probe = Probe(lab, running)
        probe.await_ready()
        without = probe.short(connections, AT_ONCE).cpu_s
        before = running.rss_kib()
        with probe.hold(count) as said:
            if said["errors"]:
                raise Trouble(f"{said['errors']} of {count} were refused")
            kib = (running.rss_kib() - before) / count
            beside = probe.short(connections, AT_ONCE).cpu_s
        without = (without + probe.short(connections, AT_ONCE).cpu_s) / 2
    return {
        "held": count,
        "kib": round(kib, 2),
        "cpu_us": round(beside / connections * 1e6, 1),
        "cpu_us_without": round(without / connections * 1e6, 1),
    }


def records(reach: Reach, say: Say) -> dict[str, Any]:
    """How many a second a keeper takes, numbers, digests and writes: ``bench.audit`` in short."""
    place = Path(tempfile.mkdtemp(prefix="egress-bench-", dir="/var/tmp"))
    try:
        found = sustained(place, reach.records_s, Fsync.INTERVAL)
    finally:
        shutil.rmtree(place)
    say(f"records: {found['records_a_second']:,} a second")
    return {key: found[key] for key in ("records_a_second", "keeper_us_a_record", "mb_a_second")}


def _medians(found: dict[str, Any]) -> str:
    return (
        f"{median(found['cpu_us'])} us, start {median(found['start_s'])} s, {median(found['idle_mib'])} MiB"
        + (f" ({found['troubles'][-1]})" if found["troubles"] else "")
    )
