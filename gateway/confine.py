"""What a worker gives up before it reads its first byte from a workload, so that taking it over wins nothing worth having.

Root and its capabilities; new privileges; core dumps and ptrace; the file system (Landlock); other processes; every system call that starts a
program or opens a door (seccomp). What stays: the descriptors that it was forked with, and TCP and UDP sockets in the host's network, which are
its work.
"""

import ctypes
import os
import resource
from typing import Final

from gateway import seccomp

UNPRIVILEGED: Final = 65534
# linux/prctl.h, linux/seccomp.h
PR_SET_DUMPABLE: Final = 4
PR_SET_SECCOMP: Final = 22
PR_SET_NO_NEW_PRIVS: Final = 38
SECCOMP_MODE_FILTER: Final = 2
# linux/landlock.h; these numbers are the same on every architecture
LANDLOCK_CREATE_RULESET: Final = 444
LANDLOCK_RESTRICT_SELF: Final = 446
CREATE_RULESET_VERSION: Final = 1
ACCESS_FS_BITS: Final = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""How many kinds of file access each version of the interface knows; later ones as the last."""
BIND_TCP: Final = 1
SCOPE_UNIX_AND_SIGNALS: Final = 3

_libc = ctypes.CDLL(None, use_errno=True)


class _Ruleset(ctypes.Structure):
    """struct landlock_ruleset_attr; an older kernel is told a shorter size."""

    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def confine() -> None:
    """Give it all up, for good. OSError where the kernel refuses what every kernel has; Landlock and seccomp are taken where they are to be had."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(UNPRIVILEGED, UNPRIVILEGED, UNPRIVILEGED)
        os.setresuid(UNPRIVILEGED, UNPRIVILEGED, UNPRIVILEGED)
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    _prctl(PR_SET_DUMPABLE, 0)
    landlock()
    filter_calls()


def landlock_version() -> int:
    """Of the kernel's interface; below 1 where there is none."""
    return int(_libc.syscall(LANDLOCK_CREATE_RULESET, None, 0, CREATE_RULESET_VERSION))


def landlock() -> bool:
    """No file may be opened, no TCP port bound, nobody signalled, no abstract socket reached. False where the kernel has no Landlock."""
    version = landlock_version()
    if version < 1:
        return False
    wanted = _Ruleset(fs=(1 << ACCESS_FS_BITS[min(version, 5)]) - 1)
    size = 8
    if version >= 4:
        wanted.net, size = BIND_TCP, 16
    if version >= 6:
        wanted.scoped, size = SCOPE_UNIX_AND_SIGNALS, 24
    ruleset = _libc.syscall(LANDLOCK_CREATE_RULESET, ctypes.byref(wanted), size, 0)
    if ruleset < 0:
        return False
    try:
        return bool(_libc.syscall(LANDLOCK_RESTRICT_SELF, ruleset, 0) == 0)
    finally:
        os.close(ruleset)


def filter_calls() -> None:
    """Load ``seccomp.worker_program`` for this process, which needs ``no_new_privs``."""
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    try:
        code = seccomp.worker_program(os.getpid())
    except KeyError:
        return  # a machine without a table: the walls around this one stand
    _prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(_Program(len(code) // 8, code)))


def _prctl(option: int, value: int, pointer: object = 0) -> None:
    if _libc.prctl(option, value, pointer, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, f"prctl {option}: {os.strerror(number)}")
