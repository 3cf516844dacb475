"""A worker that runs out of descriptors, or that the kernel kills for its memory: nothing forbidden leaves, every attempt is on record or counted,
and service comes back by itself."""

import contextlib
import os
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.lab import Lab
from tests.lab.places import ATTACKER_IP, BLOCKED_IP, GOOD_IP
from tests.lab.sandboxed import DECISIONS
from tests.netns.puppet import descriptors
from tests.netns.wall.standing import Standing

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

MEMORY = Path("/sys/fs/cgroup/memory")
HALF_HELLOS = """
import socket, sys
ip, count = sys.argv[1], int(sys.argv[2])
half = b"\\x16\\x03\\x01\\x3f\\x00\\x01\\x00\\x7f\\xf0\\x03\\x03" + bytes(15000)
held = []
for _ in range(count):
    try:
        sock = socket.create_connection((ip, 443), 20)
        held.append(sock)
        sock.sendall(half)
    except OSError:
        pass
print(len(held), flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def connected(sandbox: Standing, count: int) -> Iterator[int]:
    """How many of ``count`` connections with half a hello were made; they are held until this is left."""
    path = sandbox.lab.work / "half_hellos.py"
    path.write_text(HALF_HELLOS)
    argv = ["nsenter", f"--net={sandbox.space}", "/usr/bin/python3", str(path), BLOCKED_IP, str(count)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holding:
        assert holding.stdin is not None and holding.stdout is not None
        yield int(holding.stdout.readline())
        holding.stdin.close()
        assert holding.wait(30) == 0


def refused_for_want_of_room(sandbox: Standing) -> int:
    """Attempts on record that were one too many."""
    return [one.get("reason") for one in sandbox.records()].count("limit")


def reaches(sandbox: Standing, name: str, ip: str) -> bool:
    """Whether a new connection to ``name`` is carried."""
    curl = f"curl -sS -m 30 -o /dev/null --cacert {sandbox.lab.ca_file} --resolve {name}:443:{ip} https://{name}/"
    return "ok" in sandbox.in_sandbox(f"{curl} && echo ok || true")


def attempts(sandbox: Standing) -> tuple[list[dict[str, Any]], int]:
    """Decisions of the proxy on record, and how many more were counted as lost."""
    records = sandbox.records()
    decided = [one for one in records if one["event"] in DECISIONS and one["layer"] != "kernel"]
    return decided, sum(one["count"] for one in records if one["event"] == "audit_lost")


def test_out_of_descriptors(lab: Lab) -> None:
    lab.capture.clear()
    few = ["prlimit", "--nofile=72:72"]  # ten connections' worth
    with Standing(lab, allow=["allowed.test"], deny=["0.0.0.0/0"], prefix=few) as sandbox:
        worker = sandbox.pid_of("worker")
        held = descriptors(worker)
        # Until it has taken and refused them: one that is gone before it is looked at takes nobody's room.
        with connected(sandbox, 200):
            give_up = time.monotonic() + 30
            while refused_for_want_of_room(sandbox) <= 150 and time.monotonic() < give_up:
                time.sleep(0.05)
        give_up = time.monotonic() + 30
        while descriptors(worker) > held and time.monotonic() < give_up:  # it has not seen all of their ends
            time.sleep(0.02)
        assert not reaches(sandbox, "evil.test", ATTACKER_IP)
        assert reaches(sandbox, "allowed.test", GOOD_IP)
        assert sandbox.pid_of("worker") == worker  # it never fell
        sandbox.end()
        decided, lost = attempts(sandbox)
    assert [one["event"] for one in decided].count("egress_allowed") == 1
    assert [one["reason"] for one in decided].count("limit") > 150
    assert (len(decided), lost) == (202, 0)
    assert lab.capture.packets(to=ATTACKER_IP) == []


@contextlib.contextmanager
def memory_group(limit_bytes: int) -> Iterator[Path]:
    """A control group that may hold so much; taken away at the end, its members back where they were."""
    if not (MEMORY / "memory.limit_in_bytes").exists():
        pytest.skip("no memory controller of cgroup v1 is mounted here")
    group = MEMORY / f"egress-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error.strerror}")
    try:
        (group / "memory.limit_in_bytes").write_text(str(limit_bytes))
        yield group
    finally:
        for pid in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):
                (MEMORY / "cgroup.procs").write_text(pid)
        group.rmdir()


def test_out_of_memory(lab: Lab) -> None:
    lab.capture.clear()
    with (
        memory_group(4 << 20) as group,
        Standing(lab, allow=["allowed.test"], deny=["0.0.0.0/0"]) as sandbox,
    ):
        worker = sandbox.pid_of("worker")
        (group / "cgroup.procs").write_text(str(worker))
        pidfd = os.pidfd_open(worker)
        with connected(sandbox, 1500) as made:
            ended, _, _ = select.select([pidfd], [], [], 30)
        os.close(pidfd)
        assert ended, "the worker stayed within its memory: nothing was tried"
        assert not reaches(sandbox, "evil.test", ATTACKER_IP)
        assert reaches(sandbox, "allowed.test", GOOD_IP)
        sandbox.end()
        decided, lost = attempts(sandbox)
    assert [one["event"] for one in decided].count("egress_allowed") == 1
    reasons = {one["reason"] for one in decided}
    assert "worker_died" in reasons
    told = sum(one.get("count", 1) for one in decided)
    assert made + 2 <= told + lost <= made + 3, "what was in the act of being accepted may be counted twice"
    assert lab.capture.packets(to=ATTACKER_IP) == []
