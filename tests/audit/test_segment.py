"""The file under a log: it turns over, holds room, is put back when it is taken away, and is as safe as the settings say."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import orjson
import pytest

from audit.log import AuditLog
from audit.segment import NoReservation, Segment
from audit.settings import AuditSettings, Fsync, OnFull
from tests.audit.directory import SMALL, Directory, fill
from tests.audit.example import AT_NS, blocked

MIB = 1024 * 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def _fill_disk(place: Path) -> Path:
    ballast = place / "ballast"
    with pytest.raises(OSError, match="No space"), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 65536)
    return ballast


def _is_ready(log: AuditLog) -> bool:
    """As it is now: not for a type checker to remember."""
    return log.ready


def _seqs(log: AuditLog) -> list[int]:
    paths = sorted(log.directory.glob(f"*-{log.writer}*"))
    return [orjson.loads(line)["seq"] for path in paths for line in path.read_bytes().splitlines()]


# -- turning over


@pytest.mark.parametrize("at_once", [True, False])
def test_files_are_as_large_as_they_may_be_and_every_line_is_whole(tmp_path: Path, at_once: bool) -> None:
    with AuditLog(tmp_path, settings=SMALL) as log:
        for _ in range(100):
            log.write(blocked())
            if not at_once:
                log.flush()
        log.flush()
        assert _seqs(log) == list(range(100))
        sizes = [path.stat().st_size for path in sorted(tmp_path.glob("*.jsonl"))]
        assert len(sizes) > 9
        assert max(sizes) <= SMALL.max_segment_bytes + len(orjson.dumps(blocked())) + 50
        assert min(sizes[:-1]) > SMALL.max_segment_bytes - 600


def test_a_file_that_cannot_be_begun_leaves_the_old_one_in_use(tmp_path: Path) -> None:
    with AuditLog(tmp_path, settings=SMALL) as log:
        (tmp_path / "x").write_text("")
        for number in range(1, 3):
            for again in range(100):
                suffix = f"r{again}" if again else ""
                (tmp_path / f"egress-{log.path.name[7:23]}-{log.writer}_{number:05}{suffix}.jsonl").mkdir()
        log._clock = lambda: _ns(log.path.name[7:23])
        fill(log, 30)
        assert log.trouble is None
        assert log.path.read_bytes().count(b"\n") == 30


def _ns(stamp: str) -> int:
    import calendar

    return calendar.timegm(time.strptime(stamp, "%Y%m%dT%H%M%SZ")) * 10**9


# -- room


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mount")
def test_what_was_promised_finds_room_on_a_full_disk(small_disk: Path) -> None:
    with AuditLog(small_disk) as log:
        assert log.promise(MIB)
        assert log.flush() and log.ready
        ballast = _fill_disk(small_disk)
        line = blocked()
        written = 0
        while _is_ready(log):
            log.write(line)
            log.flush()
            written += 1
        held = MIB // (len(orjson.dumps(line)) + 45)
        assert str(log.trouble) == "[Errno 28] No space left on device"
        for _ in range(held):
            log.write(line)
        log.flush()
        assert log._buffer == b"", "what had been handed over found room"
        ballast.unlink()
        log.tick()
        assert _is_ready(log) and log.lost == 0
        log.finish()
        assert _seqs(log) == list(range(written + held))


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mount")
def test_a_closed_file_holds_no_room(small_disk: Path) -> None:
    with AuditLog(small_disk) as log:
        log.promise(2 * MIB)
        log.write(blocked())
        log.flush()
        assert log.path.stat().st_blocks * 512 > 2 * MIB
    assert log.path.stat().st_blocks * 512 <= 4096


def test_a_file_system_that_cannot_set_room_aside_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(self: Segment, room: int) -> None:
        raise NoReservation

    monkeypatch.setattr(Segment, "hold", refuses)
    with AuditLog(tmp_path) as log:
        assert not log.promise(MIB)
        fill(log, 3)
        assert log.ready


def test_whoever_would_rather_lose_is_always_ready(tmp_path: Path) -> None:
    with AuditLog(tmp_path, settings=AuditSettings(on_full=OnFull.DROP)) as log:
        log.trouble = OSError(28, "No space left on device")
        assert log.ready
        assert log.flush() and log.trouble is None


# -- the file is taken away


def _directory_gone(path: Path) -> None:
    shutil.rmtree(path.parent)


def _directory_moved(path: Path) -> None:
    path.parent.rename(path.parent.with_name("moved"))


def _directory_replaced(path: Path) -> None:
    path.parent.rename(path.parent.with_name("moved"))
    path.parent.mkdir()


def _file_gone(path: Path) -> None:
    path.unlink()


def _another_in_its_place(path: Path) -> None:
    path.unlink()
    path.write_text("not ours\n")


@pytest.mark.parametrize(
    "take", [_directory_gone, _directory_moved, _directory_replaced, _file_gone, _another_in_its_place]
)
def test_a_file_that_is_taken_away_is_put_back_whole(tmp_path: Path, take: object) -> None:
    with AuditLog(tmp_path / "a" / "records") as log:
        fill(log, 50)
        take(log.path)  # type: ignore[operator]  # one of those above
        log.write(blocked())
        log._looked = -1e9  # a second has gone by
        assert log.flush()
        fill(log, 5)
        assert log.rescued == 1
        assert [orjson.loads(line)["seq"] for line in log.path.read_bytes().splitlines()] == list(range(56))
        assert log.path.stat().st_mode & 0o777 == 0o600
        if take is _another_in_its_place:
            assert log.path.with_name(log.path.name.replace("_00000r1", "")).read_text() == "not ours\n"
        assert log.lost == 0


def test_what_cannot_be_put_back_is_trouble_and_at_the_end_a_loss(tmp_path: Path) -> None:
    place = tmp_path / "a"
    log = AuditLog(place)
    fill(log, 5)
    shutil.rmtree(place)
    place.write_text("a file where the directory was")
    log._looked = -1e9
    log.write(blocked())
    assert not log.flush() and not _is_ready(log)
    place.unlink()
    log.tick()
    assert _is_ready(log) and log.path.read_bytes().count(b"\n") == 6
    shutil.rmtree(place)
    place.write_text("again")
    log.close()
    assert log.lost == 6


def test_a_file_that_is_cut_short_goes_on_and_its_signature_will_not_match(tmp_path: Path) -> None:
    with AuditLog(tmp_path) as log:
        fill(log, 5)
        os.truncate(log.path, 0)
        fill(log, 1)
        log.finish()
        (closed,) = log.sealable
        assert (closed.first_seq, closed.next_seq) == (0, 6)
        assert closed.size > log.path.stat().st_size


@pytest.mark.parametrize("left", [0, 1, 411, 1000, 2000])
def test_what_was_cut_off_before_the_file_was_taken_away_is_counted(tmp_path: Path, left: int) -> None:
    """As ``shred -u`` does it: the rest is copied, and records are kept from then on."""
    with AuditLog(tmp_path) as log:
        fill(log, 5)
        os.truncate(log.path, left)
        whole = log.path.read_bytes().count(b"\n")
        for again in (1, 2):
            log.path.unlink()
            log._looked = -1e9
            fill(log, 2)
            assert log.trouble is None and _is_ready(log)
            assert log.rescued == again
            assert log.lost == 5 - whole, "once"
        lines = [orjson.loads(line) for line in log.path.read_bytes().splitlines()]
    assert [line["seq"] for line in lines] == [*range(whole), *range(5, 10)]
    (said,) = [line["count"] for line in lines if line["event"] == "audit_lost"]
    assert said == 5 - whole


def test_what_was_cut_off_before_the_file_was_taken_away_is_broken(tmp_path: Path) -> None:
    made = Directory.below(tmp_path)
    log = made.open()
    fill(log, 5)
    os.truncate(log.path, 0)
    log.path.unlink()
    log._looked = -1e9
    fill(log, 2)
    made.seal(log)
    assert [(what, seq) for what, _, seq in made.found()] == [("missing_line", 0)]


def test_what_cannot_be_read_any_more_is_lost_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    with AuditLog(tmp_path) as log:
        fill(log, 5)
        log.path.unlink()
        log._looked = -1e9
        with monkeypatch.context() as patched:
            patched.setattr(os, "pread", fails)
            patched.setattr("audit.listed.Listed.begun", lambda *_: None)
            fill(log, 1)
        assert log.trouble is None and log.lost == 5


def test_a_copy_that_finds_no_name_is_trouble(tmp_path: Path) -> None:
    with AuditLog(tmp_path) as log:
        fill(log, 1)
        log.path.unlink()
        for again in range(100):
            suffix = f"_00000r{again}" if again else ""
            log.path.with_name(f"{log.path.stem}{suffix}.jsonl").mkdir()
        log._looked = -1e9
        log.write(blocked())
        assert not log.flush() and log.rescued == 0
        log.path.rmdir()
        assert log.flush() and log.rescued == 1


def test_room_is_held_behind_what_is_in_a_file_that_was_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []

    def fallocate(descriptor: int, mode: int, at: int, size: int) -> int:
        held.append(at)
        return 0

    monkeypatch.setattr("audit.segment._libc", SimpleNamespace(fallocate=fallocate))
    with AuditLog(tmp_path) as log:
        fill(log, 5)
        os.truncate(log.path, 0)
        log.promise(MIB)
        assert held == [0]


# -- the disk itself


@pytest.mark.parametrize(
    ("fsync", "at_flush", "at_tick"), [("none", 0, 0), ("interval", 0, 1), ("always", 1, 1)]
)
def test_when_records_are_on_the_disk_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fsync: str, at_flush: int, at_tick: int
) -> None:
    synced: list[int] = []
    # However long a step takes, the second is not over.
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    with AuditLog(tmp_path, settings=AuditSettings(fsync=Fsync(fsync)), clock=lambda: AT_NS) as log:
        monkeypatch.setattr(os, "fdatasync", synced.append)
        log.tick()
        log.flush()
        assert synced == [], "nothing to sync"
        fill(log, 1)
        assert len(synced) == at_flush
        if fsync == "interval":
            assert 0 < log.due_in() <= 1
        log.tick()
        assert len(synced) == at_tick
        log.tick()
        assert len(synced) == at_tick
        assert log.due_in() > 1 or fsync == "interval"


def test_a_sync_that_fails_is_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with AuditLog(tmp_path, settings=AuditSettings(fsync=Fsync.ALWAYS)) as log:
        with monkeypatch.context() as patched:
            patched.setattr(os, "fdatasync", fails)
            log.write(blocked())
            assert not log.flush() and not _is_ready(log)
        assert log.flush() and _is_ready(log)


@pytest.mark.parametrize(
    "wrong", [{"max_segment_bytes": 100}, {"keep_days": 0}, {"max_bytes": 100}, {"max_segment_bytes": 10**9}]
)
def test_settings_that_make_no_sense(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="segment"):
        AuditSettings(**wrong)  # type: ignore[arg-type]  # numbers all
