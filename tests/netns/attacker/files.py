"""Writing where it would be obeyed or believed later: the records, the installation, the machine's own files."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.netns.attacker.trying import arguments, attempt, main

AUDIT = Path(arguments["audit"])
INSTALLATION = Path(arguments["installation"])
OPEN = Path(arguments["open"])
"""Anybody may write here, outside; it is not handed in."""
SYSTEM = (
    "/etc/passwd", "/etc/shadow", "/etc/ld.so.preload", "/etc/crontab", "/etc/cron.d/x", "/etc/profile.d/x.sh", "/etc/sudoers.d/x",
    "/var/spool/cron/crontabs/root", "/var/spool/cron/x", "/root/.bashrc", "/root/.ssh/authorized_keys", "/usr/bin/x",
    "/usr/local/bin/x", "/lib/systemd/system/x.service", "/etc/systemd/system/x.service", "/var/tmp/x", "/var/lock/x", "/var/crash/x",
    "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/net/ipv4/ip_forward", "/proc/sysrq-trigger",
    "/proc/sys/net/ipv4/ip_unprivileged_port_start", "/proc/sys/net/ipv6/conf/all/disable_ipv6", "/proc/1/oom_score_adj", "/proc/1/mem",
    "/sys/kernel/uevent_helper", "/sys/fs/cgroup/release_agent", "/sys/fs/cgroup/cgroup.procs", "/sys/kernel/mm/ksm/run",
    "/dev/sda", "/dev/vda", "/dev/mem", "/dev/kmsg",
)  # fmt: skip


def written(path: Path | str) -> str:
    """``path``, if it can be opened for writing, or made."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666))
    except OSError:
        return ""
    return str(path)


def moved(path: Path) -> str:
    """``path``, if it can be called otherwise or removed."""
    return _can(path, lambda: path.rename(f"{path}.x"), path.unlink, path.rmdir)


def _can(path: Path, *acts: Callable[[], object]) -> str:
    for act in acts:
        try:
            act()
        except OSError:
            continue
        return str(path)
    return ""


@attempt
def system_files() -> object:
    return [path for path in SYSTEM if written(path)]


@attempt
def a_directory_that_anybody_may_write() -> object:
    return [
        found
        for found in (written(OPEN / "x"), written(OPEN / "file"), moved(OPEN), moved(OPEN / "file"))
        if found
    ]


@attempt
def records() -> object:
    names = [AUDIT / "egress-x.jsonl", *AUDIT.glob("*")]
    changed = [
        _can(AUDIT, lambda: AUDIT.chmod(0o777)),
        *(_can(path, partial(path.chmod, 0o666)) for path in names),
    ]
    return [found for path in names for found in (written(path), moved(path)) if found] + [
        path for path in changed if path
    ]


@attempt
def the_audit_directory_and_what_it_lies_in() -> object:
    inner = [path for path in (AUDIT, *AUDIT.parents) if Path.cwd() in path.parents]
    return [found for path in inner for found in (moved(path),) if found]


@attempt
def the_installation() -> object:
    names = [INSTALLATION / "x", INSTALLATION / "gateway" / "x.py", INSTALLATION / "gateway" / "__init__.py"]
    return [found for path in names for found in (written(path), moved(path)) if found] or moved(INSTALLATION)


@attempt
def resolv_conf() -> object:
    return written("/etc/resolv.conf") or moved(Path("/etc/resolv.conf"))


@attempt
def hard_links_to_what_is_not_ours() -> object:
    found = []
    for path in ("/etc/passwd", str(OPEN / "file"), str(INSTALLATION / "gateway" / "__init__.py")):
        try:
            os.link(path, "linked")
        except OSError:
            continue
        found.append(path)
        os.unlink("linked")
    return found


@attempt
def anywhere_at_all() -> object:
    """Every directory that is not the sandbox's own or handed in; the first levels will do."""
    own = ("/proc", "/dev", "/tmp", "/run", str(Path.cwd()))
    found = []
    for top, directories, _ in os.walk("/"):
        directories[:] = [name for name in directories if f"{top.rstrip('/')}/{name}" not in own]
        if top.count("/") > 4:
            directories.clear()
        if path := written(f"{top}/egress-attack"):
            found.append(path)
    return found


if __name__ == "__main__":
    main()
