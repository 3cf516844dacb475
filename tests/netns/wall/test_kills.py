"""Anybody of the gateway is killed, at any moment, under load: no forbidden packet, service back where a part was killed, and nothing left behind.

CRASHES says how often (5; 200 in full).
"""

import os
import random
import time
from pathlib import Path

import pytest

from tests.lab.lab import Lab
from tests.lab.places import ATTACKER_IP, GOOD_IP, METADATA_IP
from tests.netns.wall.standing import Standing, host_state

pytestmark = pytest.mark.root

CRASHES = int(os.environ.get("CRASHES", "5"))
ROLES = ("worker", "worker", "netd", "gateway", "command")
LOAD = """
import select, socket, ssl, sys, threading, time
good, evil, metadata = sys.argv[1:4]
context = ssl.create_default_context(cafile=sys.argv[4])
done = [0]
def tls(name, ip):
    while True:
        try:
            with socket.create_connection((ip, 443), 2) as raw, context.wrap_socket(raw, server_hostname=name) as sock:
                sock.sendall(b"GET / HTTP/1.1\\r\\nHost: " + name.encode() + b"\\r\\nConnection: close\\r\\n\\r\\n")
                while sock.recv(65536):
                    pass
            if name == "allowed.test":
                done[0] += 1
        except OSError:
            time.sleep(0.01)
def udp():
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    while True:
        for ip in (evil, metadata, good):
            try:
                sock.sendto(b"x", (ip, 9))
            except OSError:
                pass
        time.sleep(0.002)
def tcp():
    while True:
        for ip in (evil, metadata):
            try:
                socket.create_connection((ip, 80), 0.2).sendall(b"GET / HTTP/1.1\\r\\nHost: allowed.test\\r\\n\\r\\n")
            except OSError:
                pass
        time.sleep(0.02)
for work in (lambda: tls("allowed.test", good), lambda: tls("blocked.test", evil), udp, tcp):
    threading.Thread(target=work, daemon=True).start()
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0.05)[0]:
    print(time.monotonic(), done[0], flush=True)
"""


@pytest.mark.timeout(900)
def test_whoever_is_killed_when_nothing_forbidden_leaves(lab: Lab) -> None:
    before = host_state(lab)
    seed = int(os.environ.get("CRASH_SEED", str(random.randrange(10**6))))
    rng = random.Random(seed)
    killed: dict[str, int] = {}
    lab.capture.clear()
    for number in range(CRASHES):
        role = ROLES[number % len(ROLES)]
        command = ["/usr/bin/python3", "-u", "-c", LOAD, GOOD_IP, ATTACKER_IP, METADATA_IP, str(lab.ca_file)]
        with Standing(
            lab, allow=["allowed.test", f"{GOOD_IP}:9"], deny=["0.0.0.0/0"], command=command
        ) as sandbox:
            time.sleep(rng.uniform(0.0, 0.5))
            everybody = [sandbox.pid_of("netd"), sandbox.command, sandbox.gateway]
            sandbox.kill(role)
            if role == "worker":
                assert progresses(sandbox), f"seed {seed}, {number}: no service after the worker was killed"
            if role in ("gateway", "command"):
                assert all_end(everybody), f"seed {seed}, {number}: somebody outlived the {role}"
        killed[role] = killed.get(role, 0) + 1
    forbidden = lab.capture.packets(to=ATTACKER_IP) + lab.capture.packets(to=METADATA_IP)
    assert forbidden == [], f"seed {seed}"
    assert lab.capture.lost() == 0
    with Standing(lab, allow=[f"{GOOD_IP}:9"], deny=["0.0.0.0/0"]):
        pass
    give_up = time.monotonic() + 60
    while (after := host_state(lab)) != before and time.monotonic() < give_up:
        time.sleep(0.1)
    assert {key: value for key, value in after.items() if value != before[key]} == {}, f"seed {seed}"
    print(f"killed {killed}, seed {seed}")


def progresses(sandbox: Standing) -> bool:
    """Whether more allowed connections succeed than had by now, and than one that may have been served before."""
    assert sandbox.process.stdout is not None
    since, first = time.monotonic(), None
    give_up = since + 60
    while time.monotonic() < give_up:
        at, count = sandbox.process.stdout.readline().split()
        if float(at) < since:  # told before, and not read yet
            continue
        if first is None:
            first = int(count)
        if int(count) > first + 3:
            return True
    return False


def all_end(pids: list[int], timeout_s: float = 60) -> bool:
    """Whether they do."""
    give_up = time.monotonic() + timeout_s
    while time.monotonic() < give_up:
        if not any(_runs(pid) for pid in pids):
            return True
        time.sleep(0.02)
    return False


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False
