"""A disk whose power is cut: run by itself, in a mount namespace that ends with it. Prints what is found broken after each cut, as JSON.

    unshare --mount python -m tests.audit.cut <directory> <fsync>

The disk is an image behind a loop device; a copy of the image is what it had been given at that moment.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from audit.book import Level
from audit.log import AuditLog
from audit.settings import AuditSettings, Fsync
from tests.audit.directory import DAY_NS, Directory, die, fill

NO_LOOP: Final = 77
"""The exit status where there is no such device to be had."""
DISK_BYTES: Final = 16 * 1024 * 1024


class Disk:
    """An ext4 in ``image``, mounted at ``at``."""

    def __init__(self, place: Path) -> None:
        self.image, self.at = place / "image", place / "disk"
        self.at.mkdir()
        with self.image.open("wb") as file:
            file.truncate(DISK_BYTES)
        subprocess.run(["mkfs.ext4", "-q", "-b", "1024", self.image], check=True)

    def mount(self) -> bool:
        """False where that cannot be."""
        mounting = subprocess.run(["mount", "-o", "loop", self.image, self.at], stderr=subprocess.DEVNULL)
        return mounting.returncode == 0

    def unmount(self) -> None:
        """And all that was still to be written is."""
        subprocess.run(["umount", self.at], check=True)

    def cut(self, number: int) -> Path:
        """What is on it now."""
        return Path(shutil.copy(self.image, self.image.with_name(f"cut-{number}")))


def _syncs(log: AuditLog) -> None:
    """As each second does."""
    log._sync()


def run(place: Path, fsync: Fsync) -> list[list[str]]:
    """The disk is cut whenever something was synced, signed, adopted or removed."""
    settings = AuditSettings(max_segment_bytes=4096, max_bytes=16 * 4096, fsync=fsync)
    disk = Disk(place)
    if not disk.mount():
        sys.exit(NO_LOOP)
    made = Directory.below(disk.at)
    log = made.open(settings=settings)
    cuts = [disk.cut(0)]
    made.upkeep(settings=settings)  # which makes the key
    cuts.append(disk.cut(1))
    dead = made.open("agent-2", settings)
    fill(dead, 15)
    die(dead)  # of this one nothing is synced that a reader has not seen
    for step in range(6):
        fill(log, 12)
        _syncs(log)
        cuts.append(disk.cut(len(cuts)))
        made.now_ns += (step == 4) * 8 * DAY_NS
        made.upkeep(log, settings=settings)
        cuts.append(disk.cut(len(cuts)))
    log.close()
    disk.unmount()
    found = []
    for cut in cuts:
        cut.replace(disk.image)
        assert disk.mount(), "nothing is broken on a disk that is not there"
        verdict = made.verify()
        found.append(
            [f"{one.what} {one.file}: {one.text}" for one in verdict.findings if one.level is Level.BROKEN]
        )
        disk.unmount()
    return found


if __name__ == "__main__":
    print(json.dumps(run(Path(sys.argv[1]), Fsync(sys.argv[2]))))
