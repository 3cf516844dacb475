"""A sandbox's own directory: a home and a ``/tmp`` that its commands share, on the disk as long as the sandbox is."""

import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

PLACE: Final = Path("/var/tmp")  # noqa: S108 - not /tmp: a sandbox has its own of that
PREFIX: Final = "egress-sandbox-"


class Scratch:
    """Made, and locked as long as this process lives, so that what a killed one left can be told apart."""

    def __init__(self, uid: int, gid: int) -> None:
        """OSError where nothing can be made."""
        sweep()
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=PLACE))
        self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.home, self.tmp = self.path / "home", self.path / "tmp"
        for place in (self.home, self.tmp):
            place.mkdir(mode=0o700)
            if os.geteuid() == 0:
                os.chown(place, uid, gid)
        self.tmp.chmod(0o1777)
        self.path.chmod(0o711)

    def remove(self) -> None:
        """With all that commands left in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def sweep() -> None:
    """Remove what killed processes of this user left."""
    for path in PLACE.glob(f"{PREFIX}*"):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            if os.fstat(descriptor).st_uid == os.geteuid():
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)
