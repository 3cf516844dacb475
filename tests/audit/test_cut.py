"""A power cut: what is on the disk by then is sound, whenever it comes."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from audit.keys import prepare, private_key
from audit.settings import Fsync
from tests.audit.cut import NO_LOOP
from tests.audit.directory import DAY_NS, SMALL, Directory, fill

ROOT = Path(__file__).parents[2]
SYNCED = replace(SMALL, fsync=Fsync.INTERVAL)


@pytest.mark.root
@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("mkfs.ext4") is None, reason="needs root and mkfs.ext4: a disk to cut"
)
@pytest.mark.timeout(120)
@pytest.mark.parametrize("fsync", [Fsync.INTERVAL, Fsync.ALWAYS])
def test_a_power_cut_leaves_nothing_that_is_broken(tmp_path: Path, fsync: Fsync) -> None:
    """Least of all a manifest that is behind what is noted of it, or behind the files that it should know."""
    script = ["unshare", "--mount", sys.executable, "-m", "tests.audit.cut", str(tmp_path), fsync]
    done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True)
    if done.returncode == NO_LOOP:
        pytest.skip("no loop device to be had here")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 14
    assert [broken for broken in found if broken] == []


# -- what a journal hides, and another file system may not


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every sync, and every change of a directory after it, as it is done."""
    made: list[str] = []

    def watch(owner: object, name: str) -> None:
        real = getattr(owner, name)

        def watched(what: int | Path, *args: object, **more: object) -> object:
            path = Path(os.readlink(f"/proc/self/fd/{what}")) if isinstance(what, int) else what
            made.append(f"{name} {path.name.partition('-')[0]}")
            return real(what, *args, **more)

        monkeypatch.setattr(owner, name, watched)

    for owner, name in ((os, "fsync"), (os, "fdatasync"), (Path, "replace"), (Path, "unlink")):
        watch(owner, name)
    return made


def test_each_step_is_on_the_disk_before_the_next(tmp_path: Path, steps: list[str]) -> None:
    made = Directory.below(tmp_path)
    _make_key(made)
    steps.clear()
    log = made.open(settings=SYNCED)
    noted = ["fsync records", "fdatasync MANIFEST", "replace .head"]
    assert steps == [f"fsync {tmp_path.name.partition('-')[0]}", *noted], "made, and then told"
    fill(log, 1)
    steps.clear()
    made.seal(log, SYNCED)
    assert steps == ["fdatasync egress", *noted]
    made.now_ns += 8 * DAY_NS
    steps.clear()
    made.upkeep(settings=SYNCED)
    assert steps == [*noted, "unlink egress"]


def test_who_asks_for_no_sync_has_none(tmp_path: Path, steps: list[str]) -> None:
    made = Directory.below(tmp_path)
    _make_key(made)
    made.records.mkdir()
    steps.clear()
    log = made.open(settings=SMALL)
    fill(log, 25)
    log.finish()
    made.upkeep(log, settings=SMALL)
    log.close()
    assert {step.partition(" ")[0] for step in steps} == {"replace"}


def _make_key(made: Directory) -> None:
    """There is one already."""
    prepare(made.keys, made.records)
    private_key(made.keys)
