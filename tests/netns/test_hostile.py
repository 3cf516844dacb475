"""Attacks on the gateway's own life: closed and broken standard streams, exhausted descriptors, floods, full disks, ends in the middle."""

import os
import subprocess
import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import pytest

from tests.lab.lab import Lab
from tests.lab.places import GOOD_IP, Port
from tests.lab.sandboxed import DECISIONS, Record, egress_argv, new_audit_dir, read_records
from tests.netns.hello import get

pytestmark = pytest.mark.root

PYTHON = "/usr/bin/python3"
FETCH = f"""
import socket
with socket.create_connection(("198.18.0.10", {int(Port.HTTP)}), 30) as sock:
    sock.sendall({get("allowed.test")!r})
    raise SystemExit(7 if sock.recv(12) == b"HTTP/1.1 200" else 1)
"""


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_a_caller_may_close_its_standard_streams(lab: Lab, starter: int | None, closed: str) -> None:
    """Otherwise the first sockets and pipes are taken for them."""
    audit = new_audit_dir(lab, starter)
    argv = egress_argv(audit, [PYTHON, "-c", FETCH], allow=["allowed.test"], uid=starter)
    done = lab.run(["sh", "-c", f'exec "$@" {closed}', "sh", *argv], uid=starter)
    assert (done.returncode, done.stdout) == (7, "")
    assert [record["event"] for record in read_records(audit)] == ["egress_allowed", "egress_closed"]


@pytest.mark.parametrize("reader", ["gone", "goes", "full"])
def test_a_broken_standard_error_changes_nothing(lab: Lab, reader: str) -> None:
    """What is said there is for a person; the command runs, and its status is the status."""
    command = ["sh", "-c", "touch begun; until [ -e gone ]; do sleep 0.05; done; exit 7"]
    begun, gone = lab.work / "begun", lab.work / "gone"
    for file in (begun, gone):
        file.unlink(missing_ok=True)
    read_end, write_end = os.pipe()
    if reader == "full":
        os.close(write_end)
        write_end = os.open("/dev/full", os.O_WRONLY)
    if reader == "gone":
        os.close(read_end)
    with lab.popen(
        egress_argv(new_audit_dir(lab), command, allow=["allowed.test"]), stderr=write_end
    ) as process:
        os.close(write_end)
        while reader == "goes" and not begun.exists():
            assert process.poll() is None
            time.sleep(0.01)
        if reader != "gone":
            os.close(read_end)
        gone.touch()
        assert process.wait(40) == 7


MANY = """
import os, select, socket, sys, time
many, port, then = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
held, made = [], 0
for _ in range(many):
    sock = socket.socket()
    sock.settimeout(30)
    try:
        step = "connect"
        sock.connect(("198.18.0.10", port))
        made += 1
        step = "send"
        sock.send(b"x")
        held.append(sock)
    except ConnectionResetError:
        made += step == "connect"  # refused so soon that connect() says it already
    except OSError:
        pass
    if then == "drop":
        held.clear()
print(made, flush=True)
if then == "again":
    if len(held) == many:  # one that was refused shows that there was no more room
        select.select(held, [], [], 30)
    for sock in held:
        sock.close()
    said, give_up = b"", time.monotonic() + 40
    while not said and time.monotonic() < give_up:  # until the gateway has seen their ends
        try:
            with socket.create_connection(("198.18.0.10", port), 30) as sock:
                sock.send(b"x")
                sock.shutdown(socket.SHUT_WR)
                said = sock.recv(100)
        except ConnectionError:
            time.sleep(0.05)
    print(said.decode(), flush=True)
else:
    sys.stdin.read()
os._exit(0)
"""


def with_descriptors(most: int, argv: Sequence[str | Path]) -> list[str | Path]:
    return ["sh", "-c", f'ulimit -n {most}; exec "$@"', "sh", *argv]


LO = ["--link", "lo"]
"""Where the proxy carries what an IP entry allows, too."""


@pytest.mark.parametrize("then", ["hold", "drop"])
def test_running_out_of_descriptors_loses_no_record(lab: Lab, starter: int | None, then: str) -> None:
    """The far side never ends, so the gateway holds on even to what the client has closed. Beyond what it can hold it refuses, on record."""
    audit = new_audit_dir(lab, starter)
    command = [PYTHON, "-c", MANY, "50", str(int(Port.SILENT)), then]
    argv = egress_argv(audit, command, allow=[f"{GOOD_IP}:{Port.SILENT:d}"], options=LO, uid=starter)
    with lab.popen(with_descriptors(64, argv), uid=starter, stdin=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == "50\n"
        give_up = time.monotonic() + 30
        while len(_decisions(audit)) < 50:  # an end that came before would have the rest decided in a hurry
            assert time.monotonic() < give_up, _decisions(audit)
            time.sleep(0.05)
        assert process.communicate("", timeout=40)[0] == ""
    records = _decisions(audit)
    assert len({record["flow"] for record in records}) == len(records) == 50
    assert {record["reason"] for record in records} == {"allowed_address", "limit"}


def _decisions(audit: Path) -> list[Record]:
    return [record for record in read_records(audit) if record["event"] in DECISIONS]


def test_there_is_room_again_once_connections_end(lab: Lab) -> None:
    command = [PYTHON, "-c", MANY, "50", str(int(Port.UPLOAD)), "again"]
    argv = egress_argv(new_audit_dir(lab), command, allow=[f"{GOOD_IP}:{Port.UPLOAD:d}"], options=LO)
    done = lab.run(with_descriptors(64, argv))
    assert done.stdout.startswith(f"50\n{sha256(b'x').hexdigest()} 1\n"), done
