"""A sandbox's own directory: nobody else's sweep takes it away, and whoever makes it can enter it."""

import fcntl
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway import scratch
from gateway.scratch import PREFIX, Scratch
from tests.gateway.asked import open_descriptors
from tests.lab.lab import ROOT

MAKES = """
import sys, time
from pathlib import Path
from gateway import scratch
scratch.PLACE = Path(sys.argv[1])
scratch._remove = lambda path: __import__("shutil").rmtree(path, ignore_errors=True)  # many more a second
print("ready", flush=True)
sys.stdin.read()
end = time.monotonic() + 1.5
while time.monotonic() < end:
    made = scratch.Scratch(65534, 65534)
    assert made.home.is_dir() and made.tmp.is_dir()
    made.remove()
"""


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Instead of /tmp."""
    monkeypatch.setattr(scratch, "PLACE", tmp_path)
    return tmp_path


@pytest.fixture(params=[0o022, 0o077, 0o177, 0o777], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    """The caller's."""
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_it_can_be_entered_whatever_the_umask(place: Path) -> None:
    made = Scratch(os.geteuid(), os.getegid())
    modes = {
        str(path.relative_to(made.path)): stat.S_IMODE(path.stat().st_mode)
        for path in (made.path, *made.path.rglob("*"))
    }
    inner = f"tmp/{made.path.name}"
    assert modes == {".": 0o711, "home": 0o700, "tmp": 0o1777, inner: 0o711, f"{inner}/home": 0o755}
    made.remove()
    assert list(place.iterdir()) == []


def test_what_a_killed_process_left_is_swept_and_what_is_in_use_is_not(place: Path) -> None:
    before = open_descriptors()
    used = Scratch(os.geteuid(), os.getegid())
    (place / f"{PREFIX}left" / "home").mkdir(parents=True)
    scratch.sweep()
    assert list(place.iterdir()) == [used.path]
    used.remove()
    assert open_descriptors() == before


def test_one_that_was_swept_before_it_was_locked_is_made_again(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fcntl.flock
    taken: list[Path] = []

    def flock(descriptor: int, operation: int) -> None:
        if operation == fcntl.LOCK_EX and not taken:
            taken.extend(place.iterdir())
            taken[0].rmdir()  # another process had it locked
        real(descriptor, operation)

    before = open_descriptors()
    monkeypatch.setattr(fcntl, "flock", flock)
    made = Scratch(os.geteuid(), os.getegid())
    assert made.home.is_dir() and made.path not in taken
    made.remove()
    assert open_descriptors() == before


def test_processes_that_make_them_at_once_do_not_hinder_each_other(place: Path) -> None:
    argv = [sys.executable, "-c", MAKES, str(place)]
    begin, hold = os.pipe()
    makers = [
        subprocess.Popen(argv, cwd=ROOT, stdin=begin, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    os.close(begin)
    for maker in makers:
        assert maker.stdout is not None and maker.stdout.readline() == b"ready\n"
    os.close(hold)  # whichever was started last, they begin together
    assert [maker.communicate()[1] for maker in makers] == [b""] * 4
