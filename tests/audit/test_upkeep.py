"""Old files go and no others, one sandbox's flood takes nobody else's, a live writer is left alone, and several may tidy up at once."""

import fcntl
import gc
import os
import select
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import audit
from audit.apart import Upkeep
from audit.locks import lock_within
from audit.log import AuditLog
from audit.manifest import NAME
from audit.record import Cause
from audit.retention import Kept, expired
from audit.settings import AuditSettings
from audit.upkeep import Job, Report, keep_up
from tests.audit.directory import DAY_NS, SMALL, Directory, die, fill
from tests.audit.example import AT_NS, blocked


@pytest.fixture
def made(tmp_path: Path) -> Directory:
    return Directory.below(tmp_path)


# -- what has had its time: pure


@given(
    files=st.lists(
        st.builds(
            Kept,
            st.text("abc", min_size=1, max_size=9),
            st.sampled_from(["one", "two", None]),
            st.integers(0, 4096),
            st.integers(AT_NS - 9 * DAY_NS, AT_NS + DAY_NS),
        ),
        unique_by=lambda kept: kept.file,
    ),
    live=st.integers(0, 20_000),
)
def test_too_old_goes_and_of_the_rest_the_newest_stay_within_the_share(files: list[Kept], live: int) -> None:
    settings = AuditSettings(max_segment_bytes=4096, max_bytes=8192, keep_days=7)
    gone = expired(files, {"one": live}, AT_NS, settings)
    for one in gone:
        assert (one.cause is Cause.AGE) == (one.kept.ended_ns < AT_NS - 7 * DAY_NS)
    left = [kept for kept in files if kept not in [one.kept for one in gone]]
    for sandbox in ("one", "two", None):
        mine = [kept for kept in left if kept.sandbox == sandbox]
        besides = live if sandbox == "one" else 0
        assert not mine or sum(kept.size for kept in mine) + besides <= 8192
        for one in gone:
            if one.cause is Cause.SHARE and one.kept.sandbox == sandbox:
                assert all(kept.ended_ns >= one.kept.ended_ns or kept.size < one.kept.size for kept in mine)
    assert [one.kept.ended_ns for one in gone] == sorted(one.kept.ended_ns for one in gone)


# -- nine days


def test_nine_days_of_a_writer_that_lives_and_one_a_day_that_ends(made: Directory) -> None:
    """A reader in the middle is undisturbed; what is removed is on record and in the manifest; nothing else goes."""
    living = made.open("steady")
    ended: list[str] = []
    reader = None
    gone: dict[int, set[str]] = {}
    for day in range(9):
        fill(living, 4)
        ended.append(made.write(4, f"day-{day}").path.name)
        if day == 6:
            reader = audit.read(made.records)
            assert next(reader)["seq"] == 0
        before = {path.name for path in made.files()}
        report = made.upkeep(living)
        after = {path.name for path in made.files()}
        gone[day] = before - after
        assert sum(one.files for one in report.pruned) == len(gone[day])
        made.now_ns += DAY_NS
        living.tick()
    assert [len(gone[day]) for day in range(9)] == [0] * 8 + [1]
    assert gone[8] == {ended[0]}, "the other file of the first day was closed on the second"
    assert reader is not None
    assert sum(1 for _ in reader) > 4 * 2 * 7 - 9
    made.seal(living)
    verdict = made.verify()
    assert verdict.findings == [] and verdict.pruned == 1


def test_a_day_that_ends_is_a_file_that_ends(made: Directory) -> None:
    log = made.open()
    fill(log, 2)
    first = log.path
    made.now_ns += DAY_NS
    log.tick()
    fill(log, 1)
    assert log.path != first
    assert [path.read_bytes().count(b"\n") for path in made.segments(log)] == [2, 1]
    log.tick()
    assert len(made.segments(log)) == 2
    log.close()


def test_an_empty_file_does_not_turn_over(made: Directory) -> None:
    log = made.open()
    made.now_ns += DAY_NS
    log.tick()
    assert len(made.files()) == 1
    log.close()


def test_a_clock_that_jumps_there_and_back_loses_and_removes_nothing(made: Directory) -> None:
    log = made.open()
    numbers = []
    for jump in (0, 10 * 365 * DAY_NS, 0, -400 * DAY_NS, 0):
        made.now_ns = AT_NS + jump
        fill(log, 3)
        log.tick()
        numbers.append(log.seq)
    made.seal(log)
    records = [record for path in made.segments(log) for record in audit.read(path.parent)]
    assert sorted({record["seq"] for record in records}) == list(range(log.seq))
    assert made.found() == []


# -- shares


def test_a_flood_of_one_sandbox_takes_nobody_elses_records(made: Directory) -> None:
    small = AuditSettings(max_segment_bytes=4096, max_bytes=16_384)
    quiet = made.write(5, "quiet").path.name
    made.now_ns += 10**9
    flood = made.write(200, "flood", small)
    report = made.upkeep(settings=small)
    (one,) = report.pruned
    assert (one.sandbox, one.cause) == ("flood", "share")
    assert (made.records / quiet).exists()
    left = made.segments(flood)
    assert sum(path.stat().st_size for path in left) <= 16_384
    records = list(audit.read(made.records, sandbox="agent-1"))
    assert max(record["seq"] for record in records) == 199, "the newest stay"
    assert one.records + len([r for r in records if r["writer"] == flood.writer]) == 200
    assert made.found() == []


def test_nothing_of_a_live_writer_goes_however_old_or_large(made: Directory) -> None:
    tiny = AuditSettings(max_segment_bytes=4096, max_bytes=8192)
    log = made.open("busy", AuditSettings())
    fill(log, 100)
    os.utime(log.path, (0, 0))
    made.now_ns += 30 * DAY_NS
    assert made.upkeep(settings=tiny).pruned == []
    assert log.path.exists()
    log.close()


def test_files_that_no_manifest_knows_go_by_their_age_and_what_is_no_file_stays(made: Directory) -> None:
    made.write(1)
    old, new, fifo, link = (made.records / f"egress-20250101T00000{n}Z-aa-0.jsonl" for n in range(4))
    for path in (old, new):
        path.write_bytes(b"{}\n")
    os.mkfifo(fifo)
    link.symlink_to(new)
    os.utime(old, ns=(made.now_ns - 8 * DAY_NS,) * 2)
    os.utime(new, ns=(made.now_ns,) * 2)
    made.upkeep()
    assert (old.exists(), new.exists(), fifo.exists(), link.is_symlink()) == (False, True, True, True)


def test_what_is_called_so_and_is_not_ours_stays(made: Directory) -> None:
    made.write(1)
    mine = made.records / "egress-notes-of-mine.jsonl"
    mine.write_text("mine\n")
    os.utime(mine, (1, 1))
    assert made.upkeep().pruned == []
    assert mine.exists()


def test_a_worker_cannot_keep_its_records_or_make_them_vanish_by_what_it_says_of_the_time(
    made: Directory,
) -> None:
    for moment in ("9999-12-31T23:59:59.999999Z", "0001-01-01T00:00:00.000000Z"):
        log = made.open()
        log.write(blocked() | {"timestamp": moment})
        made.seal(log)
    assert made.upkeep().pruned == []
    made.now_ns += 8 * DAY_NS
    assert sum(one.files for one in made.upkeep().pruned) == 2


# -- several at once, and in a process of its own


def test_several_that_remove_and_adopt_at_once_do_it_once(
    made: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whoever holds the manifest may have to wait for the processor.
    monkeypatch.setattr("audit.upkeep.PATIENCE_S", 60.0)
    made.write(30)
    old = len(made.files())
    made.now_ns += 8 * DAY_NS
    dead = made.open()
    fill(dead, 5)
    die(dead)
    os.utime(dead.path, ns=(made.now_ns,) * 2)
    living = made.open()
    fill(living, 5)
    job = Job(made.records, made.keys, SMALL, made.now_ns)
    children = [Upkeep() for _ in range(6)]
    for child in children:
        child.start(job)
    reports = [child.finish() for child in children]
    assert [report.trouble for report in reports] == [None] * 6
    assert sum(one.files for report in reports for one in report.pruned) == old
    made.seal(living)
    assert [(what, file) for what, file, _ in made.found()] == [("adopted", dead.path.name)]
    entries = (made.records / NAME).read_text()
    assert entries.count('"adopted"') == 1 and entries.count('"pruned"') == 1


def test_what_is_closed_and_not_signed_yet_is_nobody_elses(made: Directory) -> None:
    log = made.open()
    fill(log, 25)
    assert len(log.sealable) == 2
    made.upkeep(prune=False)
    assert (made.records / NAME).read_text().count('"adopted"') == 0
    made.seal(log)
    assert made.found() == []


def test_the_process_that_signs_holds_nothing_of_ours(made: Directory) -> None:
    """Who waits for the end of a pipe or a socket of ours must not wait for that process."""
    read_end, write_end = os.pipe()
    child = Upkeep(early=True)
    os.close(write_end)
    os.set_blocking(read_end, True)
    assert os.read(read_end, 1) == b"", "at once, though the child still waits for its job"
    os.close(read_end)
    made.records.mkdir()
    child.start(Job(made.records, None, SMALL, made.now_ns))
    assert child.finish().trouble is None


def test_a_child_that_dies_is_said(made: Directory) -> None:
    child = Upkeep(early=True)
    os.kill(child.pid, 9)
    child.start(Job(made.records, None, SMALL, made.now_ns))
    assert "ended by an error" in str(child.finish().trouble)


def test_a_child_that_dies_while_it_reports_is_said(made: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than the pipe holds, so that part of it is there and the rest never comes."""
    monkeypatch.setattr("audit.apart.keep_up", lambda _: Report(sealed=["a"] * 100_000))
    child = Upkeep()
    child.start(Job(made.records, None, SMALL, made.now_ns))
    select.select([child], [], [])
    os.kill(child.pid, signal.SIGKILL)
    report = child.finish()
    assert report.sealed == []
    assert "ended by an error" in str(report.trouble)


def test_a_child_that_cannot_be_forked_leaves_nothing_open(
    made: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refused)
    gc.collect()  # what a test before left in a cycle is closed now, and not meanwhile
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        with pytest.raises(BlockingIOError):
            Upkeep()
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("stage", ["_adopt", "_prune"])
def test_what_was_sealed_is_said_whatever_comes_after(
    made: Directory, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    def fails(*_: object) -> None:
        raise KeyError("unforeseen")

    monkeypatch.setattr(f"audit.upkeep.{stage}", fails)
    log = made.open()
    fill(log, 1)
    log.finish()
    child = Upkeep()
    child.start(Job(made.records, made.keys, SMALL, made.now_ns, list(log.sealable)))
    report = child.finish()
    assert report.sealed == [log.path.name]
    assert report.trouble == f"{made.records}: KeyError: 'unforeseen'"
    log.close()


def test_one_that_holds_the_manifest_is_not_waited_for_at_every_step(
    made: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    def noted(descriptor: int, patience_s: float) -> None:
        waits.append(patience_s)
        lock_within(descriptor, patience_s)

    monkeypatch.setattr("audit.upkeep.PATIENCE_S", 0.1)
    log = made.open()
    fill(log, 1)
    log.finish()
    with (made.records / NAME).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        with monkeypatch.context() as patched:
            patched.setattr("audit.manifest.lock_within", noted)
            report = keep_up(Job(made.records, made.keys, SMALL, made.now_ns, list(log.sealable)))
    assert len(waits) == 1
    assert (report.sealed, report.trouble) == ([], f"{made.records}: another process holds its lock")
    made.upkeep(log)
    log.close()
    assert made.found() == []


def test_a_directory_whose_name_is_no_text(tmp_path: Path) -> None:
    made = Directory.below(Path(os.fsdecode(os.fsencode(tmp_path) + b"/n\xffd")))
    log = made.open()
    fill(log, 1)
    log.finish()
    made.keys.mkdir()
    child = Upkeep()
    child.start(Job(made.records, made.keys, SMALL, made.now_ns, list(log.sealable)))
    report = child.finish()
    assert (report.sealed, report.trouble) == ([log.path.name], None)
    log.close()
    assert made.found() == []
    (made.records / NAME).unlink()
    (made.records / NAME).mkdir()
    child = Upkeep()
    child.start(Job(made.records, made.keys, SMALL, made.now_ns))
    assert str(child.finish().trouble).endswith("n\ufffdd/records/MANIFEST: Is a directory")


# -- without a key


def _inside(made: Directory) -> None:
    made.keys = made.records / "keys"


def _open_to_others(made: Directory) -> None:
    made.write(1)
    (made.keys / "audit.pem").chmod(0o640)


def _no_key(made: Directory) -> None:
    made.keys.mkdir(parents=True)
    (made.keys / "audit.pem").write_text("nonsense")
    (made.keys / "audit.pem").chmod(0o600)


@pytest.mark.parametrize("spoil", [_inside, _open_to_others, _no_key])
def test_without_a_key_records_are_kept_and_it_is_said(
    made: Directory, spoil: Callable[[Directory], None]
) -> None:
    spoil(made)
    log: AuditLog = made.open()
    fill(log, 5)
    log.finish()
    report = keep_up(Job(made.records, made.keys, SMALL, made.now_ns, list(log.sealable)))
    assert str(report.trouble).startswith("records are not signed: ")
    log.close()
    assert log.path.read_bytes().count(b"\n") == 5
    assert "not_signed" in [what for what, _, _ in made.found()] or spoil is _no_key


def test_the_key_is_made_once_and_is_the_owners_alone(made: Directory) -> None:
    made.write(1)
    made.write(1)
    (key,) = made.keys.glob("*.pem")
    assert key.stat().st_mode & 0o777 == 0o600
    assert len(list(made.keys.glob("*.pub"))) == 1
    assert not any(path.name.startswith(".") for path in made.keys.iterdir())


# -- the manifest does not grow for ever


def test_a_manifest_full_of_what_was_removed_is_begun_anew(
    made: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("audit.upkeep.COMPACT_BYTES", 4096)
    for _ in range(20):
        made.write(1)
    made.now_ns += 8 * DAY_NS
    left = made.write(25)
    size = (made.records / NAME).stat().st_size
    made.upkeep()
    assert (made.records / NAME).stat().st_size < size / 2
    assert made.found() == []
    made.write(3)
    assert made.found() == []
    made.segments(left)[1].unlink()
    assert [what for what, _, _ in made.found()] == ["missing_segment"]


@pytest.mark.parametrize("left", [b'{"n":41,"prev":"ab', b"\0" * 50])
def test_a_line_that_a_crash_tore_does_not_keep_a_manifest_from_being_begun_anew(
    made: Directory, monkeypatch: pytest.MonkeyPatch, left: bytes
) -> None:
    monkeypatch.setattr("audit.upkeep.COMPACT_BYTES", 4096)
    for _ in range(20):
        made.write(1)
    with (made.records / NAME).open("ab") as file:
        file.write(left)
    (made.records / f".{NAME}.{os.getpid()}").write_bytes(b"of one that was killed")
    made.now_ns += 8 * DAY_NS
    made.write(1)
    made.upkeep()
    assert (made.records / NAME).stat().st_size < 4096
    assert made.found() == []


def test_a_manifest_that_was_tampered_with_is_kept_for_all_to_see(
    made: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("audit.upkeep.COMPACT_BYTES", 4096)
    for _ in range(20):
        made.write(1)
    path = made.records / NAME
    path.write_bytes(path.read_bytes().replace(b'"size":', b'"size":1', 1))
    made.now_ns += 8 * DAY_NS
    made.upkeep()
    assert path.read_bytes().count(b'"kind":"closed"') == 20
    assert {"chain", "signature"} <= {what for what, _, _ in made.found()}
