"""The processes that netd has do its work."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from gateway.netd import cells
from gateway.netd.requests import Failed, PlansSwapped


def test_one_that_does_not_end_is_ended_with_what_it_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whoever asked is told that nothing was done: nothing may be done afterwards."""
    monkeypatch.setattr(cells, "WORK_TIMEOUT_S", 0.5)
    number = tmp_path / "pid"

    def hang() -> dict[str, int]:
        with subprocess.Popen(["sleep", "60"]) as running:
            number.write_text(str(running.pid))
            time.sleep(60)
        return {}

    answer, descriptors = cells.in_child(hang, PlansSwapped)
    assert isinstance(answer, Failed) and f"by signal {int(signal.SIGKILL)}" in answer.message
    assert descriptors == []
    running = Path(f"/proc/{number.read_text()}/stat")
    give_up = time.monotonic() + 5
    while _runs(running) and time.monotonic() < give_up:
        time.sleep(0.01)
    assert not _runs(running)


def test_what_was_made_comes_back_by_name() -> None:
    answer, descriptors = cells.in_child(lambda: {"null": os.open(os.devnull, os.O_RDONLY)}, PlansSwapped)
    assert answer == PlansSwapped(("null",))
    assert os.read(descriptors[0], 1) == b""
    os.close(descriptors[0])


def _runs(stat: Path) -> bool:
    try:
        return stat.read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False
