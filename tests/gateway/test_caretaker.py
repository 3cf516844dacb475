"""When records are removed: not by a clock that was set just now."""

import os
import selectors
import time
from pathlib import Path

import pytest

from audit.log import AuditLog
from audit.settings import AuditSettings
from gateway.caretaker import CLOCK_STEP_S, Caretaker
from tests.audit.example import blocked

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
