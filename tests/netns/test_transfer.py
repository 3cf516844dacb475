"""What is carried arrives unchanged, at the pace of the slower side, and ends as it was ended."""

import hashlib
import json
import re
import time
from pathlib import Path

import pytest

from tests.lab import payload
from tests.lab.lab import Lab
from tests.lab.places import GOOD_IP, Port
from tests.lab.sandboxed import egress_run
from tests.netns.hello import get
from tests.netns.puppet import Puppet, sleeps

pytestmark = pytest.mark.root

SIZE = 100_000_000


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.timeout(60)
def test_100_mb_down(lab: Lab, scheme: str) -> None:
    command = ["sh", "-c", f"curl -sS {scheme}://allowed.test/bytes/{SIZE} | sha256sum"]
    outcome = egress_run(lab, command, allow=["allowed.test"])
    assert outcome.stdout.split()[:1] == [payload.sha256(SIZE)], outcome
    (closed,) = [record for record in outcome.records if record["event"] == "egress_closed"]
    assert closed["bytes_down"] >= SIZE
    assert scheme == "https" or closed["bytes_down"] < SIZE + 1000


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.timeout(60)
def test_100_mb_up(lab: Lab, scheme: str) -> None:
    file = lab.work / "up"
    with file.open("wb") as out:
        for chunk in payload.chunks(SIZE):
            out.write(chunk)
    outcome = egress_run(
        lab,
        ["curl", "-sS", "-T", file, "-X", "POST", f"{scheme}://allowed.test/upload"],
        allow=["allowed.test"],
    )
    file.unlink()
    assert json.loads(outcome.stdout) == {"sha256": payload.sha256(SIZE), "count": SIZE}, outcome
    (closed,) = [record for record in outcome.records if record["event"] == "egress_closed"]
    assert closed["bytes_up"] >= SIZE


LO = ["--link", "lo"]
"""Where the proxy carries what an IP entry allows, too."""


def test_a_client_that_half_closes_gets_the_answer(lab: Lab) -> None:
    with Puppet(lab, allow=[GOOD_IP], options=LO) as puppet:
        puppet.connect(GOOD_IP, Port.UPLOAD)
        puppet.send(b"hello")
        puppet.do("shut", id=1)
        assert puppet.receive_all() == f"{hashlib.sha256(b'hello').hexdigest()} 5\n".encode()
        puppet.do("close", id=1)
        closed = puppet.await_closed()
    assert (closed["bytes_up"], closed["ended_by"], closed["phase"]) == (5, "client", "relay")


def test_a_server_that_half_closes_still_gets_what_the_client_says(lab: Lab) -> None:
    with Puppet(lab, allow=[GOOD_IP], options=LO) as puppet:
        puppet.connect(GOOD_IP, Port.CLOSES_FIRST)
        puppet.send(b"hello")
        assert puppet.receive_all() == b"bye\n"
        puppet.send(b"after your end")
        puppet.do("shut", id=1)
        assert lab.far.wait("end", dport=Port.CLOSES_FIRST)["received"] == len(b"helloafter your end")
        closed = puppet.await_closed()
    assert (closed["bytes_up"], closed["bytes_down"], closed["ended_by"]) == (19, 4, "upstream")


def test_half_close_works_for_named_connections_too(lab: Lab) -> None:
    body = b"x" * 1000
    post = get("allowed.test", "/upload-to-end", lines="Content-Length: 1000\r\n").replace(b"GET", b"POST")
    with Puppet(lab, allow=["allowed.test"]) as puppet:
        puppet.connect(GOOD_IP, Port.HTTP)
        puppet.send(post + body)
        puppet.do("shut", id=1)
        assert b'"count": 1000, "rest": 0' in puppet.receive_all()


@pytest.mark.timeout(60)
@pytest.mark.slow
def test_a_slow_reader_does_not_grow_the_gateway(lab: Lab) -> None:
    """30 clients ask for 20 MB each and read nothing; the kernel's buffers press back, the worker keeps one chunk each."""
    clients = 30
    with Puppet(lab, allow=[GOOD_IP], options=LO) as puppet:
        puppet.connect(GOOD_IP, Port.ECHO, 0)
        before = _rss_bytes(puppet.worker)
        for number in range(1, clients + 1):
            puppet.connect(GOOD_IP, Port.BYTES, number)
            puppet.send(b"20000000\n", number)
        time.sleep(3)
        _await_full(lab, puppet.worker)
        grown = _rss_bytes(puppet.worker) - before
        assert grown < clients * 150_000, f"{grown / clients:.0f} bytes a connection"
        cpu = _cpu_ticks(puppet.worker)
        time.sleep(1)
        assert _cpu_ticks(puppet.worker) - cpu <= 2, "waiting costs nothing"
        digest, size = puppet.do("digest_all", id=1)
        assert (digest, size) == (payload.sha256(20_000_000), 20_000_000)


def _await_full(lab: Lab, worker: int) -> None:
    """Return when all queues are full: what the far side has sent, and nobody has taken, is no more than it was; neither its sender nor the worker
    has anything to do."""
    argv = ["ss", "-Htnp", f"sport = :{Port.BYTES:d}"]
    give_up, before = time.monotonic() + 30, ""
    while True:
        queued = lab.run(argv, namespace="net").stdout
        senders = {int(pid) for pid in re.findall(r"pid=(\d+)", queued)}
        if queued == before and senders and all(sleeps(pid) for pid in (worker, *senders)):
            return
        assert time.monotonic() < give_up, (before, queued)
        before = queued
        time.sleep(0.5)


def _rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def _cpu_ticks(pid: int) -> int:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(words[11]) + int(words[12])
