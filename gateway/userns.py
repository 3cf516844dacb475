"""User namespaces: what an ordinary user needs for a sandbox, and why this machine may not give them."""

import ctypes
import os
from pathlib import Path
from typing import Final

SYSCTL_ROOT: Final = Path("/proc/sys")
CLONE_NEWUSER: Final = 0x10000000  # linux/sched.h
CAPABILITY_VERSION_3: Final = 0x20080522  # linux/capability.h
CAP_NET_ADMIN: Final = 12
PR_CAP_AMBIENT: Final = 47  # linux/prctl.h
PR_CAP_AMBIENT_RAISE: Final = 2
OWN: Final = Path("/proc/self")


def enter_mapping(uid: int, gid: int) -> None:
    """Give this process, which has just made its user namespace, the ids that it had before. OSError where the kernel refuses."""
    (OWN / "setgroups").write_text("deny")
    (OWN / "uid_map").write_text(f"{uid} {uid} 1")
    (OWN / "gid_map").write_text(f"{gid} {gid} 1")


class _Capabilities(ctypes.Structure):
    """struct __user_cap_data_struct, of which there are two: capabilities 0-31, and the rest."""

    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def keep_net_admin() -> None:
    """Let the programs that this process starts configure its network: where it is not uid 0, capabilities else end at an exec.

    OSError where the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    held = (_Capabilities * 2)()
    _check(libc.capget(header, held))
    held[0].inheritable |= held[0].permitted & 1 << CAP_NET_ADMIN
    _check(libc.capset(header, held))
    _check(libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_ADMIN, 0, 0))


def _check(result: int) -> None:
    if result:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))


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
