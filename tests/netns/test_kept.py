"""Nothing is carried that is not on record: under load, whoever is killed, and when the disk is full."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from audit.book import Verdict
from audit.keys import public_keys
from audit.manifest import noted_head
from audit.verify import verify
from gateway.supervisor import STOP_TIMEOUT_S
from tests.lab.lab import Lab
from tests.lab.places import GOOD_IP, Port
from tests.lab.sandboxed import Record, new_audit_dir, read_records
from tests.netns.hello import get
from tests.netns.load import Load, await_upkeep, kill_worker, wait_until
from tests.netns.puppet import Puppet, children

pytestmark = pytest.mark.root

KILLS = int(os.environ.get("EGRESS_KILLS", "8"))
"""200 for the whole proof."""
KILLS_A_RUN = 4
"""The last is the keeper's own, and ends the run."""


def _look(lab: Lab, audit: Path) -> Verdict:
    return verify(audit, public_keys(lab.keys()), noted_head(lab.keys(), audit))


def _whole_records(audit: Path) -> list[Record]:
    """Without the lines that a crash tore."""
    return [
        json.loads(line)
        for path in sorted(audit.glob("egress-*.jsonl"))
        for line in path.read_bytes().splitlines(keepends=True)
        if line.endswith(b"\n")
    ]


@pytest.mark.slow
@pytest.mark.timeout(60 + 8 * KILLS)
def test_nothing_that_was_carried_is_missing_whoever_is_killed(lab: Lab) -> None:
    """Worker and keeper, at any moment, each record synced before its connection is carried. What a crash tears is told from tampering."""
    audit = new_audit_dir(lab)
    kills, recorded = 0, 0
    while kills < KILLS:
        with Load(lab, audit, "--audit-fsync", "always") as load:
            load.wait_for_more()
            await_upkeep(load)
            for _ in range(KILLS_A_RUN - 1):
                load.wait_for_more()
                kill_worker(load.process.pid)
                kills += 1
            load.wait_for_more()
            load.end(signal.SIGKILL)
            kills += 1
        (newest,) = sorted(audit.glob("egress-*.jsonl"), key=lambda path: path.stat().st_mtime_ns)[-1:]
        records = [record for record in _whole_records(audit) if record["writer"] in newest.name]
        allowed = {record["src_port"] for record in records if record["event"] == "egress_allowed"}
        assert set(load.carried) <= allowed
        assert [record["seq"] for record in records] == list(range(len(records)))
        flows = [
            record["flow"] for record in records if record["event"] in ("egress_allowed", "egress_blocked")
        ]
        assert len(flows) == len(set(flows)), "one decision each"
        recorded += len(load.carried)
        verdict = _look(lab, audit)
        whole = newest.read_bytes().endswith(b"\n")
        mine = {finding.what for finding in verdict.findings if finding.file == newest.name}
        assert mine == ({"unsigned"} if whole else {"unsigned", "torn"})
        assert {finding.what for finding in verdict.findings} <= {"unsigned", "torn", "adopted"}
        assert not verdict.broken
    assert recorded >= kills * 20
    with Load(lab, audit, most=50) as load:
        load.wait_for(lambda: len(load.carried) == 50)
        assert load.end(signal.SIGTERM) in (0, 128 + signal.SIGTERM)
    verdict = _look(lab, audit)
    assert {finding.what for finding in verdict.findings} == {"adopted"}
    assert len(verdict.findings) == verdict.files - 1 == kills // KILLS_A_RUN


# -- a full disk


@contextmanager
def _small_disk(lab: Lab, free_mib: int) -> Iterator[tuple[Path, Path]]:
    """An audit directory on a file system of 10 MiB with so much left, and the file that takes the rest."""
    audit = new_audit_dir(lab)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=10m,mode=700", "tmpfs", audit], check=True)
    try:
        ballast = audit / "ballast"
        ballast.write_bytes(b"x" * ((10 - free_mib) << 20))
        yield audit, ballast
    finally:
        subprocess.run(["umount", "--lazy", audit], check=True)


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("recovers", [True, False])
def test_a_full_disk_carries_nothing_that_is_not_on_record(lab: Lab, recovers: bool) -> None:
    """Under load until nothing is carried any more; then there is room again, or the run ends with the disk still full."""
    with _small_disk(lab, 2) as (audit, ballast), Load(lab, audit, patience_s=3.0) as load:
        load.wait_for(lambda: "cannot be written" in load.notices())
        assert "No space left on device: new connections wait" in load.notices()
        load.wait_for(lambda: load.failed + len(load.refused) > 0)
        if recovers:
            ballast.unlink()
            load.wait_for(lambda: "are written to" in load.notices())
            load.wait_for_more(100)
        load.end(signal.SIGTERM)
        records = read_records(audit)
        allowed = [record for record in records if record["event"] == "egress_allowed"]
        assert set(load.carried) <= {record["src_port"] for record in allowed}
        # Who waited to be accepted to the end is counted.
        assert ("could not be written" in load.notices()) == (not recovers)
        far = [entry for entry in lab.far.entries("request") if entry["host"] == "allowed.test"]
        assert len(load.carried) <= len(far) <= len(allowed)
        assert load.notices().count("cannot be written") == load.notices().count("are written to") + (
            not recovers
        )
        seqs = [record["seq"] for record in records]
        assert seqs == list(range(len(seqs)))
        verdict = _look(lab, audit)
        assert not [finding for finding in verdict.findings if finding.file != "MANIFEST"], verdict


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_full_disk_that_drops_counts_what_it_drops(lab: Lab) -> None:
    with _small_disk(lab, 1) as (audit, ballast):
        with Load(lab, audit, "--audit-on-full", "drop", patience_s=60.0) as load:
            load.wait_for(lambda: "connections go on" in load.notices())
            count = len(load.carried)
            load.wait_for(lambda: len(load.carried) > count + 8_000, 200.0)
            ballast.unlink()
            load.wait_for(lambda: "are written to" in load.notices())
            load.wait_for_more()
            load.end(signal.SIGTERM)
            records = read_records(audit)
            assert load.failed == 0
            lost = sum(record["count"] for record in records if record["event"] == "audit_lost")
            told = [record for record in records if record["event"] in ("egress_allowed", "egress_closed")]
            assert lost > 100
            # Two of each. At its end the command had up to eight connections under way, of which the client could say no more.
            assert 2 * len(load.carried) <= lost + len(told) <= 2 * (len(load.carried) + 8)


# -- the directory


@pytest.mark.parametrize("what", ["removed", "moved"])
def test_an_audit_directory_that_is_taken_away_is_said_and_made_again(lab: Lab, what: str) -> None:
    audit = new_audit_dir(lab)
    with Load(lab, audit, workers=2) as load:
        load.wait_for_more()
        if what == "removed":
            # Once a second the keeper looks whether its file is in its place: not just between its end and the directory's.
            await_upkeep(load)
            load.process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, load.process.pid, os.WSTOPPED)
            shutil.rmtree(audit)
            load.process.send_signal(signal.SIGCONT)
        else:
            audit.rename(audit.with_name(f"{audit.name}-moved"))
        load.wait_for(lambda: "was gone from its place" in load.notices())
        load.wait_for_more()
        load.end(signal.SIGTERM)
        records = read_records(audit)
        assert [record["seq"] for record in records] == list(range(len(records)))
        assert set(load.carried) <= {
            record["src_port"] for record in records if record["event"] == "egress_allowed"
        }


# -- the end


def _command_of(supervisor: int) -> bool:
    """Whether bubblewrap, and so the command, is still there."""
    names = []
    for pid in children(supervisor):
        try:
            names.append(Path(f"/proc/{pid}/comm").read_text())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return "bwrap\n" in names


def test_a_second_interrupt_ends_no_last_record(lab: Lab) -> None:
    """After the command's end, while what the worker still had to say is waited for."""
    with Puppet(lab, allow=["allowed.test"]) as puppet:
        puppet.connect(GOOD_IP, Port.HTTP)
        puppet.send(get("allowed.test"))
        puppet.await_decisions(1)
        worker = puppet.worker
        os.kill(worker, signal.SIGSTOP)
        assert puppet.process.stdin is not None
        began = time.monotonic()
        puppet.process.stdin.close()
        wait_until(lambda: not _command_of(puppet.process.pid), "it ends")
        for _ in itertools.repeat(None, 3):
            puppet.process.send_signal(signal.SIGINT)
            puppet.process.send_signal(signal.SIGTERM)
        with suppress(ProcessLookupError):  # see below
            os.kill(worker, signal.SIGCONT)
        said = puppet.close()
        took = time.monotonic() - began
    assert puppet.process.returncode == 0
    assert "1 allowed" in said
    allowed, last = (record["event"] for record in puppet.records())
    # One that is waited for as long as it may be is ended, and what it did not say is counted.
    assert allowed == "egress_allowed"
    assert last == "egress_closed" or (last == "audit_lost" and took > STOP_TIMEOUT_S)
    assert _look(lab, puppet.audit).findings == []


def test_the_ends_of_what_a_dead_worker_carried_are_counted(lab: Lab) -> None:
    # On lo the proxy carries what an IP entry allows.
    with Puppet(lab, allow=[f"{GOOD_IP}:{int(Port.SILENT)}"], options=["--link", "lo"]) as puppet:
        for number in range(3):
            puppet.connect(GOOD_IP, Port.SILENT, number)
            puppet.send(b"x", number)
        puppet.await_decisions(3)
        puppet.kill_worker()
    assert [record["count"] for record in puppet.records() if record["event"] == "audit_lost"] == [3]
