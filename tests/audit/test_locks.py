"""A lock that is waited for, and not for ever."""

import fcntl
import time
from pathlib import Path

import pytest

from audit.locks import lock_within


def test_a_lock_that_nobody_has_is_ours_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (tmp_path / "file").open() as one, (tmp_path / "file").open() as other:
        lock_within(one.fileno(), 0.0)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)


@pytest.mark.parametrize("patience_s", [0.0, 0.2])
def test_one_that_somebody_keeps_is_given_up(tmp_path: Path, patience_s: float) -> None:
    (tmp_path / "file").touch()
    with (tmp_path / "file").open() as one, (tmp_path / "file").open() as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        begun = time.monotonic()
        with pytest.raises(TimeoutError) as raised:
            lock_within(one.fileno(), patience_s)
        assert raised.value.strerror == "another process holds its lock"
        assert patience_s <= time.monotonic() - begun < patience_s + 10.0
        fcntl.flock(other, fcntl.LOCK_UN)
        lock_within(one.fileno(), patience_s)
