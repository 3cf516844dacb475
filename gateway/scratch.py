"""A sandbox's own directory: a home and a ``/tmp`` that its commands share, on the disk as long as the sandbox is."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

PLACE: Final = Path("/tmp")  # noqa: S108 - where no sandbox sees it: each has a /tmp of its own
PREFIX: Final = "egress-sandbox-"
SYSTEM_PATH: Final = "/usr/bin:/bin"


class Scratch:
    """Made, and locked as long as this process lives, so that what a killed one left can be told apart."""

    def __init__(self, uid: int, gid: int) -> None:
        """OSError where nothing can be made."""
        sweep()
        self.path, self._lock = _locked()
        self.home, self.tmp = self.path / "home", self.path / "tmp"
        _make(self.home, 0o700)
        if os.geteuid() == 0:
            os.chown(self.home, uid, gid)
        # Root's own, and sticky: what root made in it a command cannot move, and so lead the next one's mounts elsewhere.
        _make(self.tmp, 0o1777)
        # Where the home is to appear: the sandbox's own /tmp lies over the one that holds it.
        inner = self.tmp / self.path.name
        _make(inner, 0o711)
        _make(inner / self.home.name, 0o755)
        self.path.chmod(0o711)

    def remove(self) -> None:
        """With all that commands left in it."""
        _remove(self.path)
        os.close(self._lock)


def _locked() -> tuple[Path, int]:
    """A new directory, and the descriptor that locks it. Until it is locked another process may take it for one that was left, and remove it."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=PLACE))
        descriptor: int | None = None
        try:
            path.chmod(0o700)
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.path.samestat(path.lstat(), os.fstat(descriptor)):
                return path, descriptor
        except FileNotFoundError:
            pass
        except BaseException:
            if descriptor is not None:
                os.close(descriptor)
            raise
        if descriptor is not None:
            os.close(descriptor)


def _make(path: Path, mode: int) -> None:
    """With that mode, whatever the caller's umask."""
    path.mkdir()
    path.chmod(mode)


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
                _remove(path)
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)


def _remove(path: Path) -> None:
    """By the system's tools: commands may leave directories nested deeper than Python recurses, or closed to their owner."""
    for program, *options in (("chmod", "-R", "u+rwX"), ("rm", "-rf", "--one-file-system")):
        found = shutil.which(program, path=SYSTEM_PATH)
        if found is not None:
            argv = [found, *options, "--", str(path)]
            subprocess.run(argv, check=False, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
