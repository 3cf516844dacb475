"""A writer that is killed, wherever it was, and one that writes while it is looked at: notes, and nothing that is broken. What is tampered with
beside a crash is named all the same."""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from audit.book import Level, What
from audit.log import AuditLog
from audit.manifest import NAME
from audit.upkeep import Job, keep_up
from tests.audit.directory import DAY_NS, SMALL, Directory, die, fill
from tests.audit.example import blocked

PER_SEGMENT = 10
KILLS = 40


@pytest.fixture
def made(tmp_path: Path) -> Directory:
    return Directory.below(tmp_path)


def _fork(act: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            act()
        finally:
            os._exit(0)
    return pid


def _broken(made: Directory) -> list[tuple[str, str]]:
    return [(one.what, one.text) for one in made.verify().findings if one.level is Level.BROKEN]


def _write_for_ever(made: Directory) -> None:
    log = AuditLog(made.records, keys=made.keys, sandbox="agent-1", settings=SMALL)
    while True:
        for _ in range(random.randrange(1, 12)):
            log.write(blocked())
        log.flush()
        if log.sealable and random.random() < 0.5:
            closed = list(log.sealable)
            log.sealed(keep_up(Job(made.records, made.keys, SMALL, time.time_ns(), closed)).sealed)


def _adopt(made: Directory) -> None:
    """All that there is: 16 files at a time."""
    made.now_ns = time.time_ns()
    while made.verify().unsigned:
        made.upkeep(prune=False)


# -- at any moment


def test_a_writer_that_is_killed_at_random_leaves_notes(tmp_path: Path) -> None:
    made = Directory.below(tmp_path)
    made.keys.mkdir(mode=0o700)
    for number in range(KILLS):
        made.records = tmp_path / str(number)
        pid = _fork(lambda: _write_for_ever(made))
        while not made.records.exists():  # before that it leaves nothing, however long it takes to come to it
            assert os.waitpid(pid, os.WNOHANG) == (0, 0)
            time.sleep(0.001)
        time.sleep(random.uniform(0, 0.05))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert _broken(made) == []
        _adopt(made)
        assert _broken(made) == []


@pytest.mark.parametrize(
    "at", ["audit.listed.manifest.opened", "audit.log.Segment.finish", "audit.log.Segment.append"]
)
@pytest.mark.parametrize("call", [1, 2, 3])
def test_a_writer_that_is_killed_between_two_steps_leaves_notes(
    made: Directory, monkeypatch: pytest.MonkeyPatch, at: str, call: int
) -> None:
    """At the first, second or third time that it comes there: of the first file, and where it goes on to another."""
    calls = iter(range(1, 100))

    def write() -> None:
        owner, _, name = at.rpartition(".")
        real = _named(at)

        def killed(*args: object, **more: object) -> object:
            if next(calls) == call:
                os._exit(9)
            return real(*args, **more)

        monkeypatch.setattr(f"{owner}.{name}", killed)
        fill(made.open(), 4 * PER_SEGMENT)

    assert os.waitpid(_fork(write), 0)[1] == 9 << 8
    made.keys.mkdir(mode=0o700, exist_ok=True)
    assert _broken(made) == []
    made.upkeep()
    assert _broken(made) == []
    made.write(1)
    assert _broken(made) == []


def _named(path: str) -> Callable[..., object]:
    import audit.listed
    import audit.log

    found: object = audit
    for name in path.split(".")[1:]:
        found = getattr(found, name)
    assert callable(found)
    return found


def test_an_empty_file_that_nobody_knows_is_named_and_no_tampering(made: Directory) -> None:
    made.write(1)
    left = made.records / "egress-20261123T071502Z-0badf00d-0.jsonl"
    left.write_bytes(b"")
    assert made.found() == [("empty", left.name, None)]
    left.write_bytes(b"{}\n")
    assert made.found() == [("unlisted", left.name, None)]


@pytest.mark.parametrize("content", [None, b""])
def test_the_first_writer_of_all_that_dies_at_once(made: Directory, content: bytes | None) -> None:
    made.records.mkdir()
    made.keys.mkdir()
    (made.records / "egress-20261123T071502Z-0badf00d-0.jsonl").write_bytes(b"")
    if content is not None:
        (made.records / NAME).write_bytes(content)
    assert [what for what, _, _ in made.found()] == ["empty"]


@pytest.mark.parametrize("signed", [True, False])
def test_a_day_that_ended_before_a_writer_died(made: Directory, signed: bool) -> None:
    """Its last file has no line that would say where it begins."""
    log = made.open()
    fill(log, 3)
    made.now_ns += DAY_NS
    log.tick()
    assert log.path.stat().st_size == 0
    if signed:
        made.upkeep(log)
    die(log)
    assert _broken(made) == []
    made.upkeep()
    assert _broken(made) == [] and not made.verify().unsigned


def test_segments_that_are_closed_and_not_signed_yet(made: Directory) -> None:
    log = made.open()
    fill(log, 4 * PER_SEGMENT)
    verdict = made.verify()
    assert {finding.what for finding in verdict.findings} == {What.LIVE}
    die(log)
    verdict = made.verify()
    assert [finding.what for finding in verdict.findings] == [What.UNSIGNED] * len(made.files())
    made.upkeep()
    assert {finding.what for finding in made.verify().findings} == {What.ADOPTED}


def test_one_whose_predecessor_cannot_be_adopted_yet_waits(made: Directory) -> None:
    log = made.open()
    fill(log, 3)
    made.now_ns += DAY_NS
    log.tick()
    die(log)
    first, last = made.segments(log)
    with _locked(first):
        made.upkeep()
        assert (made.records / NAME).read_bytes().count(b'"adopted"') == 0
    made.upkeep()
    assert made.found() == [("adopted", first.name, None), ("adopted", last.name, None)]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    import fcntl

    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


def test_many_live_writers_keep_no_dead_ones_file_from_being_adopted(made: Directory) -> None:
    living = [made.open() for _ in range(20)]
    dead = made.open()
    fill(dead, 1)
    die(dead)
    made.upkeep()
    assert ("adopted", dead.path.name, None) in made.found()
    for log in living:
        log.close()


@pytest.mark.parametrize("edited", [False, True])
def test_one_that_is_not_signed_is_vouched_for_by_the_next(
    made: Directory, monkeypatch: pytest.MonkeyPatch, edited: bool
) -> None:
    """Its writer let go of it, for too many waited to be signed."""
    log = made.open()
    fill(log, 3 * PER_SEGMENT)
    log._let_go([log.sealable[0].file])
    with monkeypatch.context() as patched:
        patched.setattr("audit.upkeep._adopt", lambda *_: None)
        made.seal(log)
    first, second = made.segments(log)[:2]
    if edited:
        first.write_bytes(first.read_bytes().replace(b"evil", b"good", 1))
    expected = [("unsigned", first.name, None)] + [("chain", second.name, PER_SEGMENT)] * edited
    assert [(what, file, seq) for what, file, seq in made.found()] == expected
    made.upkeep()
    assert [what for what, _, _ in made.found()] == ["adopted"] + ["chain"] * edited


# -- while it is looked at


def test_a_live_writer_is_never_found_broken(made: Directory) -> None:
    made.keys.mkdir(mode=0o700)
    pid = _fork(lambda: _write_for_ever(made))
    looks, until = 0, time.monotonic() + 2.0
    try:
        while looks < 2 or time.monotonic() < until:
            if (made.records / NAME).exists() and list(made.keys.glob("*.pub")):
                assert _broken(made) == []
                looks += 1
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert looks > 1


# -- and tampering beside it


def test_lines_that_are_cut_off_a_dead_writers_files_show_by_the_next(made: Directory) -> None:
    log = made.open()
    fill(log, 3 * PER_SEGMENT)
    die(log)
    _, middle, last = made.segments(log)[:3]
    lines = middle.read_bytes().splitlines(keepends=True)
    middle.write_bytes(b"".join(lines[:-2]))
    assert ("missing_line", last.name) in [(what, file) for what, file, _ in made.found()]
    made.upkeep()
    assert ("missing_segment", last.name) in [(what, file) for what, file, _ in made.found()]


def test_a_dead_writers_file_that_is_taken_out_is_missed(made: Directory) -> None:
    log = made.open()
    fill(log, 3 * PER_SEGMENT)
    die(log)
    middle = made.segments(log)[1]
    middle.unlink()
    assert ("missing_segment", middle.name) in [(what, file) for what, file, _ in made.found()]
    made.upkeep()
    assert ("missing_segment", middle.name) in [(what, file) for what, file, _ in made.found()]


def test_a_manifest_that_was_emptied_is_missed_without_a_head_too(made: Directory) -> None:
    from audit.keys import public_keys
    from audit.verify import verify

    made.write(3)
    (made.records / NAME).write_bytes(b"")
    assert [one.what for one in verify(made.records, public_keys(made.keys)).findings][:1] == ["no_manifest"]
