"""Attacks on the gateway's own life: closed and broken standard streams, exhausted descriptors, floods, full disks, ends in the middle."""

import os

import pytest

from tests.lab.lab import Lab
from tests.lab.places import Port
from tests.lab.sandboxed import egress_argv, new_audit_dir, read_records
from tests.netns.hello import get

pytestmark = pytest.mark.root

PYTHON = "/usr/bin/python3"
FETCH = f"""
import socket
with socket.create_connection(("198.18.0.10", {int(Port.HTTP)}), 4) as sock:
    sock.sendall({get("allowed.test")!r})
    raise SystemExit(7 if sock.recv(12) == b"HTTP/1.1 200" else 1)
"""


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_a_caller_may_close_its_standard_streams(lab: Lab, starter: int | None, closed: str) -> None:
    """Otherwise the first sockets and pipes are taken for them."""
    audit = new_audit_dir(lab, starter)
    argv = egress_argv(audit, [PYTHON, "-c", FETCH], allow=["allowed.test"], uid=starter)
    done = lab.run(["sh", "-c", f'exec "$@" {closed}', "sh", *argv], uid=starter, timeout=10)
    assert (done.returncode, done.stdout) == (7, "")
    assert [record["event"] for record in read_records(audit)] == ["egress_allowed", "egress_closed"]


@pytest.mark.parametrize("reader", ["gone", "goes", "full"])
def test_a_broken_standard_error_changes_nothing(lab: Lab, reader: str) -> None:
    """What is said there is for a person; the command runs, and its status is the status."""
    command = ["sh", "-c", "touch begun; sleep 0.5; exit 7"]
    begun = lab.work / "begun"
    begun.unlink(missing_ok=True)
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
        if reader != "gone":
            os.close(read_end)
        assert process.wait(10) == 7
