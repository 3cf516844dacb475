"""A manifest that cannot be told of a file keeps nobody waiting for long, and is told later."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from audit.log import TICK_S, AuditLog
from audit.manifest import NAME, opened
from tests.audit.directory import Directory, fill


@pytest.fixture
def made(tmp_path: Path) -> Directory:
    directory = Directory.below(tmp_path)
    directory.write(1)
    return directory


@contextmanager
def _held(made: Directory) -> Iterator[None]:
    with (made.records / NAME).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


def _trouble(log: AuditLog) -> OSError | None:
    """As it is now: not for a type checker to remember."""
    return log.unlisted


def _later(log: AuditLog) -> None:
    """As after the next second."""
    log._listed._tried -= TICK_S
    log.tick()


def test_a_manifest_that_somebody_holds_is_waited_for_once_and_told_later(
    made: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    def noted(*told: Any, durable: bool) -> None:
        waits.append(told[-1])
        opened(*told, durable=durable)

    monkeypatch.setattr("audit.listed.PATIENCE_S", 0.1)
    monkeypatch.setattr("audit.manifest.opened", noted)
    with _held(made):
        log = made.open()
        assert isinstance(_trouble(log), TimeoutError)
        fill(log, 25)
        assert log.trouble is None and len(made.segments(log)) == 3
        assert log.due_in() <= TICK_S
        log.tick()
        _later(log)
        assert waits[0] == 0.1
        assert len(waits) >= 4 and set(waits[1:]) == {0.0}, "no file is waited for after the first"
    assert _trouble(log) is not None
    _later(log)
    assert _trouble(log) is None
    assert log.due_in() > TICK_S or log._unsynced
    assert {finding.what for finding in made.verify().findings} == {"live"}
    made.seal(log)
    assert made.found() == []


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audit.listed.PATIENCE_S", 0.0)


@pytest.mark.usefixtures("impatient")
def test_what_is_signed_by_then_is_told_no_more(made: Directory) -> None:
    with _held(made):
        log = made.open()
    made.seal(log)
    before = (made.records / NAME).read_bytes()
    _later(log)
    assert _trouble(log) is None
    assert (made.records / NAME).read_bytes() == before
    assert made.found() == []


@pytest.mark.usefixtures("impatient")
def test_one_that_is_told_late_of_a_file_that_is_signed_by_then(made: Directory) -> None:
    """The writer tells it while the process that signs has not reported yet: nobody adopts the file once more."""
    with _held(made):
        log = made.open()
    fill(log, 1)
    log.finish()
    made.upkeep(log, prune=False)
    log._listed._untold = {log.path.name: 0}
    log._listed.trouble = OSError()
    _later(log)
    log.close()
    made.upkeep()
    assert (made.records / NAME).read_bytes().count(b'"adopted"') == 0
    assert made.found() == []


def test_what_is_no_file_any_more_is_trouble_at_once(made: Directory) -> None:
    (made.records / NAME).unlink()
    os.mkfifo(made.records / NAME)
    log = made.open()
    assert (_trouble(log) or OSError()).strerror == "is no regular file"
    (made.records / NAME).unlink()
    _later(log)
    assert _trouble(log) is None
    log.close()
