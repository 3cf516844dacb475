"""Policies that take each other's place under traffic: every decision is one of the policy that its record names, and of the one in force.

SWAPS says how many (12, one every 0.4 s; 250, one every 1.2 s, in full: SWAPS=250 SWAP_EVERY_S=1.2).
"""

import json
import os
import textwrap
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.net.resolve import ATTEMPT_S, ATTEMPTS
from gateway.session import DECIDE_S
from tests.lab.lab import Lab
from tests.lab.places import ATTACKER_IP, METADATA_IP, OTHER_IP, WILD_IP
from tests.netns.test_sandbox import Told

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]

SWAPS = int(os.environ.get("SWAPS", "12"))
EVERY_S = float(os.environ.get("SWAP_EVERY_S", "0.4"))
SLACK_S = 0.02
"""Between a clock that is read and what it is read for."""
SLOW_S = min(DECIDE_S, ATTEMPTS * ATTEMPT_S) - 0.5
"""Who is so slow, or whose DNS is, may be refused for that, whatever the policy says."""
BOTH = frozenset((0, 1))
ALLOWED_BY = {
    "tls allowed.test": {0},
    "tls blocked.test": {1},
    "tls wild.test": BOTH,
    "tls evil.test": frozenset[int](),
    f"udp {WILD_IP}": {0},
    f"udp {OTHER_IP}": {1},
    f"udp {ATTACKER_IP}": frozenset[int](),
    f"udp {METADATA_IP}": frozenset[int](),
    f"flow {WILD_IP}": {0},
    f"flow {OTHER_IP}": {1},
}
"""Which of the two policies allow each thing that is tried."""
TRAFFIC = """
import json, os, socket, ssl, sys, threading, time
context = ssl.create_default_context(cafile=sys.argv[1])
def tls(name):
    started = time.monotonic()
    try:
        with socket.create_connection((name, 443), 60) as raw, context.wrap_socket(raw, server_hostname=name) as sock:
            said = True
    except (ConnectionError, ssl.SSLError):
        said = False
    except OSError as error:
        said = type(error).__name__ + str(error)
    return started, said
def udp(ip, sock=None):
    fresh = sock is None
    sock = sock or socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(1)
    started = time.monotonic()
    try:
        sock.connect((ip, 9))
        sock.send(b"x")
        said = sock.recv(1)
    except ConnectionRefusedError:
        said = True  # by the far side, which has nothing on that port
    except TimeoutError:
        said = None
    except OSError:
        said = False
    if fresh:
        sock.close()
    return started, said
def keep(what, attempt, pause):
    while True:
        started, said = attempt()
        os.write(1, json.dumps([what, started, time.monotonic(), said]).encode() + b"\\n")
        time.sleep(pause)
for what in sys.argv[2:]:
    kind, target = what.split()
    if kind == "tls":
        attempt = lambda target=target: tls(target)
    elif kind == "udp":
        attempt = lambda target=target: udp(target)
    else:
        flow = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        flow.bind(("0.0.0.0", 0))
        attempt = lambda target=target, flow=flow: udp(target, flow)
    threading.Thread(target=keep, args=(what, attempt, 0.03), daemon=True).start()
time.sleep(1e6)
"""
PROGRAM = f"""
    policies = [
        NetworkPolicy(allow_out=["allowed.test", "wild.test", "{WILD_IP}"], deny_out=[ALL_TRAFFIC]),
        NetworkPolicy(allow_out=["blocked.test", "wild.test", "{OTHER_IP}"], deny_out=[ALL_TRAFFIC]),
    ]
    heard = []
    times = []
    def tried_of_each():
        return min("".join(heard).count(f'["{{what}}"') for what in TRIED)
    with Sandbox.create(security=SecurityPolicy(network=policies[0])) as sbx:
        running = sbx.commands.run(["/usr/bin/python3", "-c", TRAFFIC, TRUST["CURL_CA_BUNDLE"], *TRIED], background=True, on_stdout=heard.append)
        waiting = threading.Thread(target=running.wait)
        waiting.start()
        give_up = time.monotonic() + 60
        while not tried_of_each() and time.monotonic() < give_up:
            time.sleep(0.05)
        for number in range(1, SWAPS + 1):
            began = time.monotonic()
            generation = sbx.update_network(policies[number % 2])
            times.append([began, time.monotonic(), generation])
            time.sleep(max(0, began + EVERY_S - time.monotonic()))
        # However slow the machine is, so many of each have been tried.
        give_up = time.monotonic() + 2 + 60
        time.sleep(1)
        while tried_of_each() <= SWAPS and time.monotonic() < give_up:
            time.sleep(0.1)
        running.kill()
        waiting.join()
    tell(times)
    for line in "".join(heard).splitlines():
        print(line)
"""


def test_under_traffic_no_decision_is_of_neither_policy(lab: Lab) -> None:
    tried = [what for what in ALLOWED_BY if what.split()[1] not in ("evil.test", "wild.test")]
    constants = f"TRAFFIC, TRIED, SWAPS, EVERY_S = {TRAFFIC!r}, {tried!r}, {SWAPS}, {EVERY_S}\n"
    lab.capture.clear()
    told = Told(lab, constants + textwrap.dedent(PROGRAM), timeout_s=SWAPS * EVERY_S + 240)
    ((times,), *attempts) = told.lines
    assert [generation for _, _, generation in times] == list(range(2, SWAPS + 2))
    assert lab.capture.packets(to=ATTACKER_IP) + lab.capture.packets(to=METADATA_IP) == []
    wrong = [attempt for attempt in attempts if not fits(attempt, times)]
    assert wrong == []
    counts = Counter(what for what, *_ in attempts)
    assert set(counts) == set(tried) and min(counts.values()) > SWAPS, counts
    records = [record for record in told.records if "reason" in record and record["layer"] != "dns"]
    false = [record for record in records if not _true(record)]
    cut = [record for record in false if _is_cut(record)]
    assert len(cut) <= sum(what.startswith("tls ") for what in tried), "each is ended once"
    false = [record for record in false if record not in cut]
    assert not false, json.dumps(false[:3])
    spent = sorted(1000 * (ended - began) for began, ended, _ in times)
    print(
        f"{SWAPS} swaps in {spent[len(spent) // 2]:.0f} ms (median), {spent[-1]:.0f} ms (longest); {sum(counts.values()):,} attempts, "
        f"{len(records):,} records, {sum(1 for record in told.records if record.get('ended_by') == 'policy')} connections revoked"
    )


def fits(attempt: list[Any], times: list[list[Any]]) -> bool:
    """Whether it is what one of the policies says that were in force between its begin and its end."""
    what, began, ended, said = attempt
    if said is False and what.startswith("tls ") and ended - began >= SLOW_S:
        return True
    return said is None or any(
        (policy in ALLOWED_BY[what]) is said for policy in in_force(began, ended, times)
    )


def in_force(began: float, ended: float, times: list[list[Any]]) -> Iterator[int]:
    """0 or 1, for each that was at some time in between."""
    since = float("-inf")
    policy = 0
    for swapping, swapped, generation in times:
        if since - SLACK_S < ended and began < swapped + SLACK_S:
            yield policy
        policy, since = (generation - 1) % 2, swapping
    if since - SLACK_S < ended:
        yield policy


def _is_cut(record: dict[str, Any]) -> bool:
    """Whether it is of a connection whose program was ended, at the end of it all, before it said a name."""
    last = record.get("generation") == SWAPS + 1
    return last and record["event"] == "egress_blocked" and record["proto"] == "tcp" and not record["domain"]


def _true(record: dict[str, Any]) -> bool:
    """Whether the policy of its generation says what it says."""
    if record["reason"] == "no_hello":  # any does, of who is silent for so long
        return True
    policy = (record.get("generation", 1) - 1) % 2
    what = f"tls {record['domain']}" if record["domain"] else f"udp {record['dest_ip']}"
    if record["proto"] == "tcp" and not record["domain"]:
        return False
    # A name that is not allowed is not asked for.
    named = record["event"] == "egress_allowed" or record["reason"] == "resolve_timeout"
    return (policy in ALLOWED_BY[what]) is named
