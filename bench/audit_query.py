"""Asking 10,000,000 records of seven days: ``python -m bench.audit_query [RECORDS]``. Makes them in a directory of its own (5 GB), asks, removes it.

Writes bench/results/audit_query.json: seconds and the largest resident size of ``egress audit query`` for each question.
"""

import os
import random
import shutil
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from audit.files import file_name
from bench.installed import insist
from bench.machine import keep

DAYS = 7
SEGMENT_BYTES = 64 << 20
NAMES = 2000
LINE = (
    '{{"schema":"egress/v1","timestamp":"{moment}","event":"{event}","sandbox":"agent-{sandbox}","src_ip":"192.0.0.2","src_port":{port},'
    '"domain":"{name}","domain_source":"tls_sni","dest_ip":"203.0.113.{host}","dest_port":443,"upstream_ip":null,"proto":"tcp","app":"tls",'
    '"layer":"proxy","rule":"deny_out[0] 0.0.0.0/0","reason":"no_allow_entry","flow":"5f2c-{seq:x}","generation":1,"writer":"b7e1-0","seq":{seq}}}\n'
)
QUESTIONS = {
    "one name, last hour": ["--domain", "name-7.example.com", "--since", "1h"],
    "one name, last day": ["--domain", "name-7.example.com", "--since", "1d"],
    "a pattern, last hour": ["--domain", "*-77.example.com", "--since", "1h"],
    "blocked, last minute": ["--event", "egress_blocked", "--since", "1m"],
}


def make(directory: Path, count: int) -> None:
    """Records as a busy host's, evenly over the days, in segments."""
    rng = random.Random(1)
    end = time.time_ns()
    step = DAYS * 86400 * 10**9 // count
    file, text = None, ""
    written, last = 0, -1
    for seq in range(count):
        ns = end - (count - seq) * step
        if file is None or written > SEGMENT_BYTES:
            if file is not None:
                _close(file, ns)
            start = datetime.fromtimestamp(ns / 1e9, UTC).strftime("%Y%m%dT%H%M%SZ")
            file = (directory / file_name(start, "b7e1-0", seq)).open("w", buffering=1 << 20)
            written = 0
        seconds, rest = divmod(ns, 10**9)
        if seconds != last:
            last = seconds
            text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        word = rng.randrange(NAMES)
        line = LINE.format(
            moment=f"{text}.{rest // 1000:06d}Z",
            event="egress_blocked" if word % 4 else "egress_allowed",
            sandbox=word % 50,
            port=1024 + seq % 60000,
            name=f"name-{word}.example.com",
            host=word % 250,
            seq=seq,
        )
        written += file.write(line)
    if file is not None:
        _close(file, end)


def _close(file: TextIO, ns: int) -> None:
    """As if it had been written then."""
    file.close()
    os.utime(file.name, ns=(ns, ns))


def ask(directory: Path, words: list[str]) -> dict[str, Any]:
    """One question, by the command."""
    argv = [
        sys.executable,
        "-m",
        "gateway",
        "audit",
        "query",
        "--audit-dir",
        str(directory),
        "-o",
        "jsonl",
        *words,
    ]
    started = time.monotonic()
    pid = os.posix_spawn(
        "/bin/sh",
        ["sh", "-c", 'out=$1; shift; exec "$@" > "$out"', "sh", str(directory / "answer"), *argv],
        os.environ,
    )
    _, status, usage = os.wait4(pid, 0)
    if status:
        raise SystemExit(f"{words}: the command failed")
    found = sum(1 for _ in (directory / "answer").open())
    return {
        "seconds": round(time.monotonic() - started, 3),
        "rss_mib": round(usage.ru_maxrss / 1024),
        "found": found,
    }


def main() -> None:
    """Make, ask, write down."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000
    directory = Path(tempfile.mkdtemp(prefix="egress-bench-", dir="/var/tmp"))
    try:
        started = time.monotonic()
        make(directory, count)
        size = sum(path.stat().st_size for path in directory.iterdir())
        print(
            f"{count:,} records, {size / 1e9:.1f} GB, made in {time.monotonic() - started:.0f} s", flush=True
        )
        answers = {}
        for title, words in QUESTIONS.items():
            answers[title] = ask(directory, words)
            print(title, answers[title], flush=True)
        print(keep("audit_query", {"records": count, "days": DAYS, "answers": answers}))
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    insist("bench.audit_query")
    main()
