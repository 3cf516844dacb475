"""``make soak``: SOAK_CONNECTIONS (2,000,000) mixed hostile connections of one sandbox, and what the gateway looks like meanwhile.

Needs root. Fails where a connection has no decision on record, where one that must be refused was not, or where the worker or the keeper of the
records grew after the warm-up: in memory by more than ``GROWTH_KIB``, or by a descriptor.
"""

import json
import os
import shlex
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Final, NamedTuple

from tests.lab.lab import Lab
from tests.lab.places import ATTACKER_IP, BLOCKED_IP, GOOD_IP
from tests.lab.sandboxed import DECISIONS, egress_argv, new_audit_dir
from tests.netns.hello import client_hello, get
from tests.netns.puppet import children

CLIENTS: Final = 4
SAMPLES: Final = 40
WARM_UP: Final = 0.1
"""Of all connections: buffers, caches and counters have their size by then."""
GROWTH_KIB: Final = 4096
"""Between the warm-up and the end: less than two bytes a connection."""

PROGRAM: Final = r"""
import collections, json, os, random, socket, struct, sys
asked = json.loads(sys.argv[1])
rng = random.Random(asked["seed"])
allowed, blocked, http_blocked, http_allowed = (bytes.fromhex(asked[key]) for key in ("allowed", "blocked", "http_blocked", "http_allowed"))
RESET = struct.pack("ii", 1, 0)
held = collections.deque()
done = collections.Counter()
def say(what):
    # Whole: others write into the same pipe, and print() may do so in two pieces.
    os.write(1, json.dumps(what).encode() + b"\n")
def dial(ip, port):
    sock = socket.socket()
    sock.settimeout(20)
    sock.connect((ip, port))
    return sock
def hang_up(sock, reset=False):
    if reset:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()
def drain(sock):
    got = b""
    try:
        while chunk := sock.recv(65536):
            got += chunk
    except OSError:
        got += b"!"
    return got
def says(data, ip=asked["evil"], port=443, reset=False, wait=True):
    sock = dial(ip, port)
    try:
        sock.sendall(data)
    except OSError:
        pass
    got = drain(sock) if wait else b""
    hang_up(sock, reset)
    return got
def hold(data):
    # As long as 100 others: past the deadline where the gateway is slow, cut off by us where it is fast.
    sock = dial(asked["evil"], 443)
    sock.sendall(data)
    held.append(sock)
    if len(held) > 100:
        hang_up(held.popleft(), reset=rng.random() < 0.5)
def drip():
    sock = dial(asked["evil"], 443)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        for byte in blocked[:20]:
            sock.send(bytes((byte,)))
    except OSError:
        pass
    hang_up(sock, reset=True)
def several():
    got = says(http_allowed * 3 + http_blocked, asked["good"], 80)
    if asked["secret"].encode() in got:
        done["LEAK"] += 1
KINDS = (
    ("closes at once", 20, lambda: hang_up(dial(asked["evil"], 443))),
    ("resets at once", 20, lambda: hang_up(dial(asked["evil"], 443), reset=True)),
    ("blocked hello", 20, lambda: says(blocked, asked["blocked_ip"])),
    ("blocked hello, reset", 10, lambda: says(blocked, asked["blocked_ip"], reset=True, wait=False)),
    ("blocked request", 8, lambda: says(http_blocked, asked["blocked_ip"], 80)),
    ("noise", 6, lambda: says(rng.randbytes(rng.randrange(1, 2000)))),
    ("half a hello", 6, lambda: says(blocked[: rng.randrange(1, 400)], wait=False)),
    ("mutated hello", 4, lambda: says(mutated(), wait=False, reset=True)),
    ("metadata", 2, lambda: says(http_blocked, "169.254.169.254", 80)),
    ("drips", 1.5, drip),
    ("silent", 1, lambda: hold(b"")),
    ("silent within a hello", 1, lambda: hold(blocked[:100])),
    ("endless head", 0.2, lambda: says(b"GET /" + b"a" * 100_000, port=80, reset=True)),
    ("allowed name, attacker's address", 0.2, lambda: says(allowed, wait=False, reset=True)),
    ("later request to another host", 0.1, several),
)
def mutated():
    data = bytearray(allowed)
    for _ in range(3):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)
names, weights, acts = zip(*KINDS)
for number in range(asked["count"]):
    (index,) = rng.choices(range(len(KINDS)), weights)
    try:
        acts[index]()
    except (ConnectionResetError, ConnectionRefusedError):
        done["refused while it dialled"] += 1
    except OSError as error:
        done["failed: " + type(error).__name__] += 1
    done[names[index]] += 1
    if number % 1000 == 999:
        say({"n": 1000})
for sock in held:
    hang_up(sock, reset=True)
say({"n": asked["count"] % 1000, "done": done})
"""


class Size(NamedTuple):
    """Of one process."""

    rss_kib: int
    descriptors: int


def main() -> int:
    count = int(os.environ.get("SOAK_CONNECTIONS", "2000000"))
    with Lab() as lab:
        return soak(lab, count)


def soak(lab: Lab, count: int) -> int:
    """Run it; 0 if all is as it must be."""
    audit = new_audit_dir(lab)
    said = {
        "allowed": client_hello("allowed.test").hex(),
        "blocked": client_hello("blocked.test").hex(),
        "http_blocked": get("blocked.test").hex(),
        "http_allowed": b"GET / HTTP/1.1\r\nHost: allowed.test\r\n\r\n".hex(),
        "good": GOOD_IP,
        "evil": ATTACKER_IP,
        "blocked_ip": BLOCKED_IP,
        "secret": "blocked.test",
    }
    each = [count // CLIENTS + (number < count % CLIENTS) for number in range(CLIENTS)]
    clients = [
        ["/usr/bin/python3", "-c", PROGRAM, json.dumps({**said, "count": share, "seed": seed})]
        for seed, share in enumerate(each)
    ]
    script = 'for one in "$@"; do sh -c "$one" & done; wait'
    words = [shlex.join(client) for client in clients]
    argv = egress_argv(audit, ["/bin/sh", "-c", script, "sh", *words], allow=["allowed.test"])
    started = time.monotonic()
    done: Counter[str] = Counter()
    samples: list[tuple[int, dict[str, Size]]] = []
    with lab.popen(argv) as process:
        assert process.stdout is not None
        passed, next_sample = 0, 0.0
        for line in process.stdout:
            told = json.loads(line)
            passed += told["n"]
            done.update(told.get("done", {}))
            if passed >= next_sample:
                next_sample += count / SAMPLES
                samples.append((passed, sizes(process.pid)))
                _show(count, *samples[-1], time.monotonic() - started)
        assert process.stderr is not None
        notices = process.stderr.read()
    decided = decisions(audit)
    return judge(count, done, decided, samples, notices, time.monotonic() - started)


def judge(
    count: int,
    done: Counter[str],
    decided: Counter[str],
    samples: list[tuple[int, dict[str, Size]]],
    notices: str,
    seconds: float,
) -> int:
    """Print what was seen, and what is wrong with it."""
    print(json.dumps(done, indent=1))
    print(json.dumps(decided, indent=1))
    print(notices.strip())
    wrong = [f"{done[key]:,} x {key}" for key in done if key == "LEAK" or key.startswith("failed")]
    if decided.total() != count:
        wrong.append(f"{decided.total():,} decisions on record")
    warm = next(found for passed, found in samples if passed >= count * WARM_UP)
    last = samples[-1][1]
    for process, size in warm.items():
        grown = last[process].rss_kib - size.rss_kib
        print(
            f"soak: {process}: {size.rss_kib:,} KiB after the warm-up, {last[process].rss_kib:,} at the end;"
            f" descriptors {size.descriptors}, {last[process].descriptors}"
        )
        if grown > GROWTH_KIB:
            wrong.append(f"{process} grew by {grown:,} KiB")
    print(f"soak: {count:,} connections in {seconds:,.0f} s: " + ("; ".join(wrong) or "as it must be"))
    return 1 if wrong else 0


def sizes(supervisor: int) -> dict[str, Size]:
    """Of the keeper of the records and of its worker."""
    found = {"keeper": _size(supervisor)}
    for pid in children(supervisor):
        status = Path(f"/proc/{pid}/status").read_text()
        if "\nUid:\t65534" in status and not status.startswith("Name:\tbwrap"):
            found["worker"] = _size(pid)
    return found


def _size(pid: int) -> Size:
    status = Path(f"/proc/{pid}/status").read_text()
    rss = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
    return Size(int(rss), len(os.listdir(f"/proc/{pid}/fd")))


def decisions(audit: Path) -> Counter[str]:
    """How many were decided for which reason; a line may stand for several."""
    found: Counter[str] = Counter()
    for path in sorted(audit.glob("*.jsonl")):
        with path.open("rb") as lines:
            for line in lines:
                record = json.loads(line)
                if record["event"] in DECISIONS:
                    found[record["reason"]] += record.get("count", 1)
    return found


def _show(count: int, passed: int, found: dict[str, Size], seconds: float) -> None:
    shown = ", ".join(f"{name} {size.rss_kib:,} KiB {size.descriptors} fds" for name, size in found.items())
    print(f"soak: {passed:,} of {count:,} in {seconds:,.0f} s: {shown}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
