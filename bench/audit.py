"""How many records a second a keeper takes in and writes, and whether it grows: ``python -m bench.audit [SECONDS]`` -> ``bench/results/audit.json``.

A sender in a process of its own keeps the pipe full; the keeper's files turn over and are signed as in a run. Its memory is read from /proc at
each tenth. Beside it: how long ``verify`` takes over what was written.
"""

import os
import selectors
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import orjson

from audit.brief import allowed_line, closed_line, whose
from audit.feed import Feed
from audit.keys import public_keys
from audit.log import AuditLog
from audit.manifest import noted_head
from audit.record import EndedBy, Phase
from audit.settings import AuditSettings, Fsync
from audit.verify import verify
from bench.installed import insist
from bench.machine import keep
from gateway.keeper import Keeper
from gateway.summary import Summary

SAMPLES = 10


def main() -> None:
    """Measure each way to sync, print, keep."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 20.0
    place = Path(tempfile.mkdtemp(prefix="egress-bench-", dir="/var/tmp"))  # a disk, where /tmp may be memory
    try:
        figures: dict[str, Any] = {
            "seconds": seconds,
            "fsync": {how: sustained(place / how, seconds, Fsync(how)) for how in Fsync},
        }
        figures["verify"] = verified(place / "interval")
    finally:
        shutil.rmtree(place)
    print(keep("audit", figures))


def sustained(place: Path, seconds: float, fsync: Fsync) -> dict[str, Any]:
    """One keeper, one sender, so many seconds."""
    keys = place / "keys"
    keys.mkdir(parents=True)
    log = AuditLog(place / "records", settings=AuditSettings(fsync=fsync), sandbox="bench", keys=keys)
    with selectors.DefaultSelector() as selector:
        keeper = Keeper(log, "bench", Summary(), selector, print)
        sender = os.fork()
        if sender == 0:
            send(keeper.feed)
        cpu, started = time.process_time(), time.monotonic()
        rss_kib: list[int] = []
        while (passed := time.monotonic() - started) < seconds:
            if passed >= len(rss_kib) * seconds / SAMPLES:
                rss_kib.append(resident_kib())
            due, before = keeper.due_in(), time.monotonic()
            for key, _ in selector.select(due):
                key.data()
            if due is not None and time.monotonic() >= before + due:
                keeper.tick()
        took, written = time.process_time() - cpu, log.seq
        os.kill(sender, 9)
        os.waitpid(sender, 0)
        keeper.prepare_to_close()
        keeper.close()
    # The oldest files are gone by now: what a record takes is seen in one of those that are there.
    lines = next((place / "records").glob("*.jsonl")).read_bytes()
    figures = {
        "records_a_second": round(written / seconds),
        "mb_a_second": round(len(lines) / lines.count(b"\n") * written / 1e6 / seconds, 1),
        "keeper_us_a_record": round(took / written * 1e6, 2),
        "files": len(list((place / "records").glob("*.jsonl"))),
        "rss_kib": rss_kib,
    }
    print(fsync, figures)
    return figures


def send(feed_end: int) -> None:
    """Those of allowed connections, as a worker sends them, for ever."""
    from tests.audit.example import blocked, ended

    feed = Feed(feed_end)
    os.set_blocking(feed_end, True)
    record, end = blocked() | {"event": "egress_allowed", "sandbox": "bench"}, ended()
    moment, who = record["timestamp"].encode(), whose(record["src_ip"], record["src_port"], record["flow"])
    own = f'"{end["upstream_ip"]}"'.encode(), end["bytes_up"], end["bytes_down"], b"1234.568"
    feed.put(b"=0" + orjson.dumps(record) + b"\n")
    lines = (
        allowed_line(b"0", moment, who),
        closed_line(b"0", moment, who, *own, EndedBy.CLIENT, Phase.RELAY),
    )
    while True:
        for line in lines:
            feed.put(line)


def resident_kib() -> int:
    """Of this process."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))


def verified(place: Path) -> dict[str, Any]:
    """Over everything that was written."""
    records = place / "records"
    started = time.monotonic()
    verdict = verify(records, public_keys(place / "keys"), noted_head(place / "keys", records))
    assert not verdict.findings, orjson.dumps(verdict.findings)
    size = sum(path.stat().st_size for path in records.glob("*.jsonl"))
    took = time.monotonic() - started
    print(f"verify: {size / 1e6:.0f} MB in {took:.2f} s")
    return {"mb": round(size / 1e6), "seconds": round(took, 2), "mb_a_second": round(size / 1e6 / took)}


if __name__ == "__main__":
    insist("bench.audit")
    main()
