"""Network namespaces: those of a cell, made by a process that is then in it, and being in another for a while."""

import os
from collections.abc import Callable
from ctypes import CDLL, get_errno
from dataclasses import dataclass
from typing import Final, TypeVar

from gateway.userns import enter_mapping, keep_net_admin

CLONE_NEWNET: Final = 0x40000000  # linux/sched.h
CLONE_NEWUSER: Final = 0x10000000
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Spaces:
    """Descriptors. The calling process is in ``cell``."""

    host: int
    """Where it was before."""
    cell: int
    """Where the rules and the sockets are."""
    sandbox: int
    """Where commands run: on ``lo`` the cell itself."""
    user: int | None = None
    """The user namespace that they belong to, where an ordinary user made them."""


def enter_cell(*, apart: bool) -> Spaces:
    """New network namespaces; an ordinary user first makes the user namespace in which they may be set up. ``apart``: one for the sandbox, one for
    the cell. OSError."""
    host = _open("net")
    uid, gid = os.geteuid(), os.getegid()
    user = None
    if uid:
        _unshare(CLONE_NEWNET | CLONE_NEWUSER)
        enter_mapping(uid, gid)
        keep_net_admin()
        user = _open("user")
    else:
        _unshare(CLONE_NEWNET)
    sandbox = cell = _open("net")
    if apart:
        _unshare(CLONE_NEWNET)
        cell = _open("net")
    return Spaces(host, cell, sandbox, user)


def enter_made(cell: int, user: int | None) -> int:
    """Be in a cell that was made before, by its descriptors; the namespace that the process was in. OSError."""
    host = _open("net")
    if user is not None:
        _enter(user, CLONE_NEWUSER)
        keep_net_admin()
    _enter(cell)
    return host


def within(space: int, home: int, act: Callable[[], Result]) -> Result:
    """``act`` in the namespace ``space``, then back in ``home``."""
    _enter(space)
    try:
        return act()
    finally:
        _enter(home)


def _open(kind: str) -> int:
    return os.open(f"/proc/self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)


def _unshare(flags: int) -> None:
    if CDLL(None, use_errno=True).unshare(flags):
        errno = get_errno()
        raise OSError(errno, f"a new network namespace: {os.strerror(errno)}")


def _enter(space: int, kind: int = CLONE_NEWNET) -> None:
    if CDLL(None, use_errno=True).setns(space, kind):
        errno = get_errno()
        raise OSError(errno, f"a namespace cannot be entered: {os.strerror(errno)}")
