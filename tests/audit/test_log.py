"""The file of records: who may read it, how it is numbered, and what happens when the disk takes nothing."""

import json
import os
import resource
import signal
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from audit.files import is_ours
from audit.log import MAX_BUFFERED_BYTES, AuditLog
from tests.audit.example import PUBLISHED, blocked

NOBODY = 65534


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def _no_file_beyond(size: int) -> Iterator[None]:
    """As a disk that is full: write(2) takes what fits, then fails."""
    assert signal.getsignal(signal.SIGXFSZ) is signal.SIG_IGN
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# -- the file and its directory


@pytest.mark.parametrize("mask", [0, 0o022])
def test_directory_and_file_are_the_owners_alone(tmp_path: Path, mask: int) -> None:
    with _umask(mask), AuditLog(tmp_path / "a" / "b") as log:
        assert _mode(log.directory) == 0o700
        assert _mode(log.path) == 0o600
        assert log.warnings == []
        assert log.path.parent == tmp_path / "a" / "b"


@pytest.mark.parametrize(("mode", "warned"), [(0o755, False), (0o775, True), (0o757, True), (0o1777, True)])
def test_a_directory_that_exists_is_used_as_it_is(tmp_path: Path, mode: int, warned: bool) -> None:
    directory = tmp_path / "kept"
    directory.mkdir()
    directory.chmod(mode)
    with AuditLog(directory) as log:
        assert _mode(directory) == mode
        assert log.warnings == (
            [f"others can write to the audit directory {directory}: chmod go-w {directory}"] if warned else []
        )


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: chown")
def test_a_directory_of_another_user_is_warned_of(tmp_path: Path) -> None:
    directory = tmp_path / "kept"
    directory.mkdir(mode=0o755)
    os.chown(directory, NOBODY, NOBODY)
    with AuditLog(directory) as log:
        (warning,) = log.warnings
    assert f"belongs to uid {NOBODY}" in warning


def test_a_directory_that_cannot_be_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        AuditLog(tmp_path / "file")
    with pytest.raises(OSError, match="Not a directory"):
        AuditLog(tmp_path / "file" / "below")


def test_each_writer_has_a_file_of_its_own(tmp_path: Path) -> None:
    with AuditLog(tmp_path) as one, AuditLog(tmp_path) as other:
        assert one.path != other.path
        assert one.writer != other.writer
        assert one.path.name.endswith(f"-{one.writer}.jsonl")
        assert is_ours(one.path.name)
        assert len(bytes.fromhex(one.writer.removesuffix("-0"))) == 8, "so that they are never alike"


def test_a_file_or_a_symlink_that_is_there_already_is_never_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    monkeypatch.setattr("audit.log.file_name", lambda _, writer, *more: f"egress-{more[1]}.jsonl")
    (tmp_path / "egress-0.jsonl").symlink_to(target)
    (tmp_path / "egress-1.jsonl").write_text("older")
    with AuditLog(tmp_path) as log:
        log.write({"event": "e"})
    assert log.path.name == "egress-2.jsonl"
    assert target.read_text() == "precious"
    assert (tmp_path / "egress-1.jsonl").read_text() == "older"


def test_the_file_is_not_handed_to_programs_that_are_started(tmp_path: Path) -> None:
    with AuditLog(tmp_path) as log:
        assert not os.get_inheritable(log._segment.descriptor)


# -- what is written


def test_the_published_example_is_what_is_written(tmp_path: Path) -> None:
    with AuditLog(tmp_path) as log:
        log.writer, log.seq = "b7e1-0", 1042
        log.write(blocked())
    assert log.path.read_text() == PUBLISHED + "\n"


def test_writer_and_seq_number_every_line_without_gaps(tmp_path: Path) -> None:
    with AuditLog(tmp_path) as log:
        for number in range(50):
            log.write({"event": "e", "number": number, "seq": 7, "writer": "forged", "schema": "egress/v9"})
            if number % 7 == 0:
                log.flush()
    lines = _lines(log.path)
    assert [line["seq"] for line in lines] == [line["number"] for line in lines] == list(range(50))
    assert {(line["writer"], line["schema"]) for line in lines} == {(log.writer, "egress/v1")}
    assert list(lines[0]) == ["schema", "timestamp", "event", "number", "writer", "seq"]


def test_nothing_is_in_the_file_before_a_flush_and_all_of_it_after(tmp_path: Path) -> None:
    with AuditLog(tmp_path) as log:
        log.write({"event": "e"})
        assert log.path.read_bytes() == b""
        log.flush()
        assert len(_lines(log.path)) == 1


def test_closing_writes_the_rest_and_may_be_done_twice(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    log.write({"event": "e"})
    log.close()
    log.close()
    assert len(_lines(log.path)) == 1


@pytest.mark.parametrize("value", ["\ud800", object(), 2**70])
def test_what_is_no_json_is_counted_and_leaves_no_gap(tmp_path: Path, value: object) -> None:
    with AuditLog(tmp_path) as log:
        log.write({"event": "first"})
        log.write({"event": "bad", "value": value})
        log.write({"event": "last"})
    lines = _lines(log.path)
    assert [(line["event"], line["seq"]) for line in lines] == [("first", 0), ("last", 1), ("audit_lost", 2)]
    assert lines[-1]["count"] == log.lost == 1


def test_lost_records_are_said_once(tmp_path: Path) -> None:
    with AuditLog(tmp_path) as log:
        log.count_lost(2)
        log.count_lost(3)
        log.flush()
        log.flush()
    (said,) = _lines(log.path)
    assert (said["event"], said["count"], said["sandbox"]) == ("audit_lost", 5, None)


# -- a disk that takes nothing


def test_a_disk_that_is_full_for_a_while_loses_nothing(tmp_path: Path) -> None:
    with AuditLog(tmp_path) as log:
        with _no_file_beyond(1000):
            for number in range(100):
                log.write({"event": "e", "number": number})
                log.flush()
            assert 800 < log.path.stat().st_size <= 1000
            assert log.path.read_bytes().endswith(b"\n"), "no line is torn meanwhile"
        log.flush()
        assert log.lost == 0
    lines = _lines(log.path)
    assert [line["number"] for line in lines] == [line["seq"] for line in lines] == list(range(100))


def test_a_full_disk_makes_a_file_that_somebody_cut_no_longer(tmp_path: Path) -> None:
    with AuditLog(tmp_path) as log:
        for _ in range(20):
            log.write(blocked())
        log.flush()
        os.truncate(log.path, 0)
        with _no_file_beyond(600):
            log.write(blocked())
            log.write(blocked())
            log.flush()
            assert [line["seq"] for line in _lines(log.path)] == [20]


def test_what_no_longer_fits_is_counted_and_said_when_there_is_room(tmp_path: Path) -> None:
    with AuditLog(tmp_path) as log:
        with _no_file_beyond(0):
            filler = "x" * 60_000
            for _ in range(100):
                log.write({"event": "e", "filler": filler})
                log.flush()
            assert len(log._buffer) <= MAX_BUFFERED_BYTES + 61_000
            lost = log.lost
            assert 0 < lost < 100
    lines = _lines(log.path)
    assert [line["seq"] for line in lines] == list(range(len(lines)))
    assert len(lines) == 100 - lost + 1
    assert (lines[-1]["event"], lines[-1]["count"]) == ("audit_lost", lost)


def test_what_is_left_at_the_close_of_a_full_disk_is_counted(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    with _no_file_beyond(300):
        for _ in range(10):
            log.write({"event": "e"})
        log.close()
    whole = log.path.read_bytes().count(b"\n")
    assert 0 < whole < 10
    assert log.lost == 10 - whole


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mount")
def test_a_real_file_system_that_is_full(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k,mode=700", "tmpfs", tmp_path], check=True)
    try:
        with AuditLog(tmp_path) as log:
            ballast = tmp_path / "ballast"
            with pytest.raises(OSError, match="No space"):
                ballast.write_bytes(b"x" * 20_000)
            log.write({"event": "first"})
            log.flush()
            assert log.path.stat().st_size == 0
            ballast.unlink()
            log.write({"event": "second"})
            log.flush()
            assert [line["event"] for line in _lines(log.path)] == ["first", "second"]
            assert log.lost == 0
    finally:
        subprocess.run(["umount", tmp_path], check=True)


# -- after a crash


def test_decided_flows_are_found_in_the_file_and_in_what_waits(tmp_path: Path) -> None:
    with AuditLog(tmp_path) as log:
        log.write(blocked(flow="a-1"))
        log.flush()
        with _no_file_beyond(log.path.stat().st_size + 350):
            log.write(blocked(flow="a-2"))  # torn within its flow, or near it
            log.flush()
            log.write(blocked(flow="a-3"))
            assert log.decided({"a-1", "a-2", "a-3", "a-4"}) == {"a-1", "a-2", "a-3"}


@pytest.mark.parametrize("room", range(0, 460, 5))
def test_a_torn_line_hides_no_flow(tmp_path: Path, room: int) -> None:
    with AuditLog(tmp_path) as log:
        with _no_file_beyond(room):
            log.write(blocked(flow="a-2"))
            log.flush()
            assert log.decided({"a-2"}) == {"a-2"}


def test_an_end_is_no_decision(tmp_path: Path) -> None:
    with AuditLog(tmp_path) as log:
        log.write({"event": "egress_closed", "flow": "a-1"})
        assert log.decided({"a-1"}) == set()


def test_decided_flows_are_found_though_the_file_was_removed(tmp_path: Path) -> None:
    with AuditLog(tmp_path) as log:
        log.write(blocked(flow="a-1"))
        log.flush()
        log.path.unlink()
        assert log.decided({"a-1"}) == {"a-1"}
        log.write({"event": "e"})
        log.flush()
