"""A share of a processor for a group of processes: what the kernel's CPU bandwidth control (cgroups, either version) gives it and no more.

It stands in for a processor of their own on a machine that has too few: processes held to a quarter each do not take one another's time.
"""

import contextlib
import itertools
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

PERIOD_US: Final = 10_000
"""In which the share is given out. Long enough for some thirty connections, short enough that none waits for long."""
EMPTY_S: Final = 5.0
MOUNTED: Final = Path("/sys/fs/cgroup")
PREFIX: Final = "egress-bench-"
_numbers: Final = itertools.count()


class NoShares(Exception):
    """Why there are none here; one line."""


def controller(mounted: Path = MOUNTED) -> Path:
    """The directory in which groups with a share can be made. NoShares where there is none."""
    if (mounted / "cgroup.controllers").exists():
        if "cpu" not in (mounted / "cgroup.subtree_control").read_text().split():
            raise NoShares(f"the cpu controller is not on: echo +cpu > {mounted}/cgroup.subtree_control")
        return mounted
    if (mounted / "cpu" / "cpu.cfs_quota_us").exists():
        return mounted / "cpu"
    raise NoShares("the kernel offers no CPU bandwidth control (CONFIG_CFS_BANDWIDTH, cgroups)")


def limits(within: Path, of_a_core: float) -> dict[str, str]:
    """A group's files, by the version that ``within`` is of."""
    quota = int(PERIOD_US * of_a_core)
    if (within / "cgroup.controllers").exists():
        return {"cpu.max": f"{quota} {PERIOD_US}"}
    return {"cpu.cfs_period_us": str(PERIOD_US), "cpu.cfs_quota_us": str(quota)}


@contextlib.contextmanager
def share(of_a_core: float, core: int, pids: Iterable[int], mounted: Path = MOUNTED) -> Iterator[None]:
    """While entered these processes, and what they fork, run on that core and take so much of it at the most. NoShares where it cannot be had."""
    within = controller(mounted)
    _sweep(within)
    group = within / f"{PREFIX}{os.getpid()}-{next(_numbers)}"
    try:
        group.mkdir()
        for name, text in limits(within, of_a_core).items():
            (group / name).write_text(text)
    except OSError as error:
        raise NoShares(f"{group}: {error.strerror}") from error
    try:
        for pid in pids:
            (group / "cgroup.procs").write_text(str(pid))
            for task in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setaffinity(int(task.name), {core})
        yield
    finally:
        _remove(group, within)


def _sweep(within: Path) -> None:
    """Remove the groups of benches that were killed."""
    for group in within.glob(f"{PREFIX}*-*"):
        pid = group.name.removeprefix(PREFIX).partition("-")[0]
        if pid.isdecimal() and not Path(f"/proc/{pid}").exists():
            with contextlib.suppress(OSError):
                group.rmdir()


def _remove(group: Path, within: Path) -> None:
    give_up = time.monotonic() + EMPTY_S
    while True:
        for pid in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):  # it has ended
                (within / "cgroup.procs").write_text(pid)
        try:
            group.rmdir()
        except OSError:  # somebody is in it still: one that was forked just now, or is ending
            if time.monotonic() > give_up:
                raise
            time.sleep(0.02)
        else:
            return
