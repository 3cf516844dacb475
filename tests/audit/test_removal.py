"""Files that are removed in order are no finding, however their writers ended and whatever is removed while it is looked at."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import audit.verify
from audit.book import Book, Level
from audit.log import AuditLog
from audit.upkeep import Job, keep_up
from tests.audit.directory import DAY_NS, SMALL, Directory, die, fill

PER_SEGMENT = 10
TIGHT = replace(SMALL, max_bytes=2 * 4096)
"""Room for two segments."""


@pytest.fixture(params=[4 * 1024 * 1024, 100], ids=["as it is", "begun anew"])
def made(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Directory:
    """Where the manifest is begun anew as soon as can be, and where it is not."""
    monkeypatch.setattr("audit.upkeep.COMPACT_BYTES", request.param)
    return Directory.below(tmp_path)


def _broken(made: Directory) -> list[str]:
    return [
        f"{one.what} {one.file}: {one.text}" for one in made.verify().findings if one.level is Level.BROKEN
    ]


def _remove(made: Directory) -> None:
    """By one that had looked for what dead writers left just before this one died."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("audit.upkeep._adopt", lambda *_: None)
        assert made.upkeep(settings=TIGHT).pruned


def _dead(made: Directory, signed: int, more: int) -> AuditLog:
    """A writer that died with so many segments signed, and so many more that are not."""
    log = made.open(settings=TIGHT)
    fill(log, signed * PER_SEGMENT)
    made.upkeep(log, prune=False)
    fill(log, more * PER_SEGMENT)
    die(log)
    return log


@pytest.mark.parametrize("signed", [0, 2])
def test_what_is_removed_before_it_was_signed(made: Directory, signed: int) -> None:
    log = _dead(made, signed, 4)
    _remove(made)
    left = made.segments(log)
    assert left and len(left) <= 2
    assert _broken(made) == []
    made.upkeep(settings=TIGHT)
    assert _broken(made) == []
    assert made.segments(log) == left
    left[0].unlink()
    assert "missing_segment" in " ".join(_broken(made)), "by somebody else"


def test_what_a_living_writer_had_let_go_of_and_signed_the_next(made: Directory) -> None:
    log = made.open(settings=TIGHT)
    fill(log, 4 * PER_SEGMENT)
    log._let_go([log.sealable[0].file])
    first = made.segments(log)[0]
    _remove(made)
    assert not first.exists()
    assert _broken(made) == []
    made.seal(log)
    made.upkeep(settings=TIGHT)
    assert _broken(made) == []


def test_what_was_signed_and_removed_by_one_that_did_not_live_to_say_so(made: Directory) -> None:
    """Its writer has it signed once more."""
    log = made.open(settings=TIGHT)
    fill(log, 5 * PER_SEGMENT)
    unheard = keep_up(Job(made.records, made.keys, TIGHT, made.now_ns, list(log.sealable)))
    assert unheard.sealed and unheard.pruned
    assert made.upkeep(log, settings=TIGHT).sealed == unheard.sealed
    assert log.sealable == []
    assert _broken(made) == []


def test_what_somebody_else_removed_before_it_was_signed_is_missed(made: Directory) -> None:
    made.write(1, "agent-2")
    log = made.open()
    fill(log, PER_SEGMENT)
    log.finish()
    log.path.unlink()
    made.upkeep(log)
    log.close()
    assert "missing_segment" in " ".join(_broken(made))


def test_lines_that_are_taken_from_what_is_left_are_missed(made: Directory) -> None:
    log = _dead(made, 0, 5)
    _remove(made)
    left = made.segments(log)[0]
    lines = left.read_bytes().splitlines(keepends=True)
    left.write_bytes(b"".join(lines[:3] + lines[4:]))
    assert [what.partition(" ")[0] for what in _broken(made)][:1] == ["missing_line"]


def test_a_writers_files_go_in_their_order(made: Directory) -> None:
    """The first was signed late: by the clock alone, those behind it would be older, and a gap would be left."""
    log = made.open()
    fill(log, 3 * PER_SEGMENT + 5)
    written_ns = made.now_ns
    made.now_ns += DAY_NS
    report = made.upkeep(log, prune=False)
    assert len(report.sealed) >= 3
    fill(log, 3 * PER_SEGMENT)
    die(log)
    files = made.segments(log)
    for path in files[len(report.sealed) :]:
        os.utime(path, ns=(written_ns - DAY_NS,) * 2)
    os.utime(files[-1], ns=(made.now_ns,) * 2)
    made.now_ns = written_ns + 6 * DAY_NS + DAY_NS // 2
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("audit.upkeep._adopt", lambda *_: None)
        made.upkeep()
    assert made.segments(log) == files
    made.now_ns += 9 * DAY_NS
    os.utime(files[-1], ns=(made.now_ns,) * 2)
    made.upkeep()
    assert _broken(made) == []


def test_an_adopted_file_does_not_go_because_it_is_made_to_look_old(made: Directory) -> None:
    log = _dead(made, 0, 2)
    made.upkeep(prune=False)
    for path in made.segments(log):
        os.utime(path, (0, 0))
    assert made.upkeep().pruned == []
    made.now_ns += 8 * DAY_NS
    assert made.upkeep().pruned


# -- while it is looked at


def _meanwhile(monkeypatch: pytest.MonkeyPatch, *steps: Callable[[], object]) -> None:
    """Each as the manifest was read once more."""
    real, left = Book.read, iter(steps)

    def read(book: Book, text: bytes) -> None:
        real(book, text)
        next(left, lambda: None)()

    monkeypatch.setattr("audit.verify.Book.read", read)


def _once_looked_at(patched: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Once the files were looked at, and before the manifest is read again."""
    real, once = audit.verify._explained, iter([act])

    def explained(*args: object) -> object:
        for step in once:
            step()
        return real(*args)  # type: ignore[arg-type]  # as they came

    patched.setattr("audit.verify._explained", explained)


def test_what_is_adopted_and_then_removed(made: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    _dead(made, 0, 4)

    def adopt() -> None:
        made.upkeep(prune=False)

    def remove() -> None:
        made.now_ns += 8 * DAY_NS
        made.upkeep()

    with monkeypatch.context() as patched:
        _once_looked_at(patched, adopt)
        _meanwhile(patched, lambda: None, remove)
        assert _broken(made) == []
    assert made.files() == []


def test_what_is_signed_and_removed_and_what_comes_behind_it(
    made: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where an open file must begin is told by the one before, which is not there any more."""
    made.write(1, "agent-2")  # for there to be a key
    log = made.open(settings=TIGHT)
    fill(log, 5 * PER_SEGMENT)
    with monkeypatch.context() as patched:
        _meanwhile(patched, lambda: made.upkeep(log, settings=TIGHT))
        assert _broken(made) == []
    assert len(made.segments(log)) < 4
    assert _broken(made) == []
    fill(log, 1)
    made.seal(log)
    assert _broken(made) == []


def test_what_somebody_else_removes_meanwhile_is_found(
    made: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = _dead(made, 0, 3)
    first = made.segments(log)[0]
    _meanwhile(monkeypatch, first.unlink)
    assert f"missing_segment {first.name}" in " ".join(_broken(made))
