"""When records are signed, and how often that is tried; when they are removed: not by a clock that was set just now."""

import os
import selectors
import time
from pathlib import Path

import pytest

from audit.log import AuditLog
from audit.settings import AuditSettings
from gateway.caretaker import CLOCK_STEP_S, RETRY_S, Caretaker
from tests.audit.example import blocked
from tests.gateway.asked import open_descriptors

DAY_S = 86_400


def test_a_clock_that_was_set_removes_nothing_until_it_has_stayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead writer's file, which a clock 30 days ahead makes older than a week."""
    with AuditLog(tmp_path, settings=AuditSettings(), sandbox="before") as before:
        before.write(blocked())
        left = before.path
    real, ahead = time.time_ns, 0.0
    monkeypatch.setattr("gateway.caretaker.time.time", lambda: real() / 1e9 + ahead)
    monkeypatch.setattr("gateway.caretaker.time.time_ns", lambda: real() + int(ahead * 1e9))
    said: list[str] = []
    with (
        AuditLog(tmp_path, settings=AuditSettings(), sandbox="agent-1") as log,
        selectors.DefaultSelector() as selector,
    ):
        caretaker = Caretaker(log, selector, said.append)

        def upkeep() -> None:
            caretaker.start()
            ((key, _),) = selector.select(10)
            key.data()

        upkeep()
        assert left.exists()
        ahead = 30.0 * DAY_S + CLOCK_STEP_S
        upkeep()
        assert left.exists(), "it was set just now"
        upkeep()
        assert not left.exists(), "it has stayed"
        log.flush()
        assert b'"audit_pruned"' in log.path.read_bytes()
    assert not said


def test_a_child_that_died_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    with (
        AuditLog(tmp_path, settings=AuditSettings(), sandbox="agent-1") as log,
        selectors.DefaultSelector() as selector,
    ):
        caretaker = Caretaker(log, selector, said.append)
        caretaker.prepare_to_close()
        assert caretaker._last is not None
        os.kill(caretaker._last.pid, 9)
        caretaker.sign_the_last()
    assert said == ["the process that signs and removes records ended by an error"]


class _Forks:
    """Counts them; with ``refuse`` there is none."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, refuse: bool = False) -> None:
        self.count = 0
        self.refuse = refuse
        self._real = os.fork
        monkeypatch.setattr(os, "fork", self)

    def __call__(self) -> int:
        self.count += 1
        if self.refuse:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return self._real()


@pytest.mark.parametrize("wrong", ["fork", "manifest"])
def test_what_fails_is_not_tried_again_at_every_record_and_is_after_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    said: list[str] = []
    settings = AuditSettings(max_segment_bytes=4096)
    forks = _Forks(monkeypatch, refuse=wrong == "fork")
    with (
        AuditLog(tmp_path, settings=settings, sandbox="agent-1") as log,
        selectors.DefaultSelector() as selector,
    ):
        (log.directory / "MANIFEST").rename(tmp_path / "kept")
        if wrong == "manifest":
            (log.directory / "MANIFEST").mkdir()
        caretaker = Caretaker(log, selector, said.append)

        def go_on() -> None:
            for _ in range(50):
                log.write(blocked())
                log.flush()
                caretaker.look()
                for key, _ in selector.select(0):
                    key.data()

        begun = time.monotonic()
        go_on()
        while not said:
            for key, _ in selector.select(10):
                key.data()
        go_on()
        assert (forks.count, len(said)) == (1, 1)
        descriptors = open_descriptors() - len(log._locks)
        due_in = caretaker.due_in()
        assert log.sealable and RETRY_S - (time.monotonic() - begun) <= due_in <= RETRY_S
        caretaker.tick()
        assert forks.count == 1

        forks.refuse = False
        if wrong == "manifest":
            (log.directory / "MANIFEST").rmdir()
        caretaker._due = caretaker._not_before = 0.0  # a minute has gone by
        caretaker.tick()
        ((key, _),) = selector.select(10)
        key.data()
        assert forks.count == 2 and log.sealable == []
        assert open_descriptors() == descriptors
        assert caretaker.due_in() > RETRY_S
        go_on()
        assert len(said) == 1
