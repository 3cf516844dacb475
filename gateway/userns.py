"""User namespaces: what an ordinary user needs for a sandbox, and why this machine may not give them."""

from pathlib import Path
from typing import Final

SYSCTL_ROOT: Final = Path("/proc/sys")
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
    if _in_chroot():
        return "user namespaces cannot be made inside a chroot; run egress as root, or outside it"
    return None


def _in_chroot() -> bool:
    """The root directory of this process is not the root of its mount namespace: then the kernel refuses (user_namespaces(7))."""
    for line in (OWN / "mountinfo").read_text(errors="replace").splitlines():
        if line.split(" ")[4] == "/":
            return False
    return True
