"""Shares of a processor: real ones of whichever cgroups this machine has; version 2's files by hand where it has version 1."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.adapter import cpu_s
from bench.share import PREFIX, NoShares, controller, limits, share

CORE = min(os.sched_getaffinity(0))
SPIN = "import time; end = time.monotonic() + 60\nwhile time.monotonic() < end: pass"


@pytest.fixture
def spinning() -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-ISc", SPIN]) as process:
        yield process.pid
        process.kill()


@pytest.mark.root
@pytest.mark.timeout(60)
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: cgroups")
def test_no_more_than_its_share(spinning: int) -> None:
    try:
        within = controller()
    except NoShares as why:
        pytest.skip(str(why))
    with share(0.2, CORE, [spinning]):
        assert os.sched_getaffinity(spinning) == {CORE}
        started, before = time.monotonic(), cpu_s(spinning)
        while (used := cpu_s(spinning) - before) < 0.2:  # whoever else has the processor meanwhile
            time.sleep(0.01)
        assert used / (time.monotonic() - started) < 0.3
    assert not list(within.glob(f"{PREFIX}{os.getpid()}-*"))
    os.kill(spinning, 0)  # it goes on


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: cgroups")
def test_groups_of_who_was_killed_go(spinning: int) -> None:
    try:
        within = controller()
    except NoShares as why:
        pytest.skip(str(why))
    nobody = Path("/proc/sys/kernel/pid_max").read_text().strip()  # which is one more than any can be
    left = within / f"{PREFIX}{nobody}-0"
    left.mkdir()
    with share(0.5, CORE, [spinning]):
        assert not left.exists()


def test_either_version(tmp_path: Path) -> None:
    assert limits(tmp_path, 0.25) == {"cpu.cfs_period_us": "10000", "cpu.cfs_quota_us": "2500"}
    (tmp_path / "cgroup.controllers").write_text("cpu\n")
    assert limits(tmp_path, 0.25) == {"cpu.max": "2500 10000"}


def test_who_has_none_is_told_why(tmp_path: Path) -> None:
    with pytest.raises(NoShares, match="CONFIG_CFS_BANDWIDTH"):
        controller(tmp_path)
    (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
    (tmp_path / "cgroup.subtree_control").write_text("memory\n")
    with pytest.raises(NoShares, match=r"echo \+cpu"):
        controller(tmp_path)
    (tmp_path / "cgroup.subtree_control").write_text("cpu memory\n")
    assert controller(tmp_path) == tmp_path
