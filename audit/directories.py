"""The directories that records and keys are in: nobody else can put another in their place, and a power cut does not take what they list."""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path


def make(path: Path) -> None:
    """0700, if there is none, and each parent that is missing 0755, or less where the umask says so. OSError.

    ``Path.mkdir(parents=True)`` leaves the parents' mode to the umask alone, and who can write to a parent can put another directory in the place of
    this one.
    """
    _make(path, 0o700)


def _make(path: Path, mode: int) -> None:
    try:
        path.mkdir(mode)
    except FileNotFoundError:
        if path.parent == path:
            raise
        _make(path.parent, 0o755)
        path.mkdir(mode, exist_ok=True)
    except OSError:  # not EEXIST for sure: the kernel may say first that it is read-only
        if not path.is_dir():
            raise
        return
    sync(path.parent)


def sync(path: Path) -> None:
    """What it lists is on the disk itself. OSError; none where that cannot be asked for, as of one that is not ours to read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that knows no such thing
            raise
    finally:
        os.close(descriptor)


def strangers(path: Path, what: str) -> Iterator[str]:
    """Who but root and us can change it, ``what`` being its name; nothing where nobody can. OSError."""
    status = path.stat()
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        yield f"others can write to {what} {path}: chmod go-w {path}"
    if status.st_uid not in (0, os.geteuid()):
        yield f"{what} {path} belongs to uid {status.st_uid}, who can change what is in it"
