"""User namespaces: what an ordinary user needs for a sandbox, and why this machine may not give them."""

import ctypes
import os
from pathlib import Path
from typing import Final

SYSCTL_ROOT: Final = Path("/proc/sys")
CLONE_NEWUSER: Final = 0x10000000  # linux/sched.h
OWN: Final = Path("/proc/self")


def enter_mapping(uid: int, gid: int) -> None:
    """Give this process, which has just made its user namespace, the ids that it had before. OSError where the kernel refuses."""
    (OWN / "setgroups").write_text("deny")
    (OWN / "uid_map").write_text(f"{uid} {uid} 1")
    (OWN / "gid_map").write_text(f"{gid} {gid} 1")


def obstacle(sysctl_root: Path = SYSCTL_ROOT) -> str | None:
    """Why an ordinary user cannot make a user namespace here, and the mend; None where nothing speaks against it."""
    if not (OWN / "ns" / "user").exists():
        return "this kernel has no user namespaces; run egress as root"
    for name, off, mend in (
        ("kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
        ("user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=15000"),
        (
            "kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile with `userns,`",
        ),
    ):
        try:
            value = (sysctl_root / name).read_text().strip()
        except OSError:
            continue
        if value == off:
            return f"user namespaces are closed to ordinary users ({name.replace('/', '.')}={off}): as root, {mend}; or run egress as root"
    refused = _tried()
    if refused:
        why = f"{os.strerror(refused)}; a chroot, or a container's own filter, does that"
        return f"user namespaces are refused here ({why}): run egress as root"
    return None


def _tried() -> int:
    """Have a process make one; the error number, 0 where it could."""
    pid = os.fork()
    if pid == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        os._exit(min(ctypes.get_errno(), 255) if libc.unshare(CLONE_NEWUSER) else 0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
