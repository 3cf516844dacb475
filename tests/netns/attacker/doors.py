"""Ways out that are not the network: namespaces, other processes, mounts, socket families, other entry points of the kernel, set-user-ID."""

import ctypes
import errno
import fcntl
import mmap
import os
import platform
import pty
import socket
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.netns.attacker.trying import arguments, attempt, main

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
X86 = platform.machine() == "x86_64"
NAMESPACES = {
    "mnt": 0x20000, "cgroup": 0x2000000, "uts": 0x4000000, "ipc": 0x8000000, "user": 0x10000000, "pid": 0x20000000,
    "net": 0x40000000, "time": 0x80,
}  # fmt: skip
FAMILIES = range(64)
ADMITTED = {1, 2, 10, 16}


def call(number: int, *words: int | bytes | None) -> int:
    """A system call by its number. OSError as the kernel says."""
    result: int = libc.syscall(
        *(
            ctypes.c_long(word) if isinstance(word, int) else ctypes.c_char_p(word)
            for word in (number, *words)
        )
    )
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def works(*argv: str) -> str:
    """What a program printed, if it ended well."""
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, timeout=20, stdin=subprocess.DEVNULL
    )
    return f"{argv}: {done.stdout or 'exit 0'}" if done.returncode == 0 else ""


def did(act: Callable[..., object], *words: object) -> str:
    """That it was done."""
    act(*words)
    return f"{act} {words}"


def any_of(*tries: Callable[[], object]) -> list[str]:
    """Evidence of each that works."""
    found = []
    for one in tries:
        try:
            evidence = one()
        except OSError:
            continue
        if evidence:
            found.append(str(evidence))
    return found


# -- namespaces


@attempt
def unshare() -> object:
    return any_of(*(lambda n=name, f=flag: libc.unshare(f) == 0 and n for name, flag in NAMESPACES.items()))


@attempt
def unshare_program() -> object:
    return any_of(
        *(
            lambda o=option: works("unshare", *o)
            for option in (["-U", "true"], ["-Urn", "true"], ["-m", "true"], ["-n", "true"])
        )
    )


@attempt
def clone_into_namespaces() -> object:
    number = 56 if X86 else 220

    def clone(flag: int) -> object:
        pid = call(number, flag | 17, 0, 0, 0, 0)
        if pid == 0:
            os._exit(0)
        return f"clone {flag:#x}"

    return any_of(*(lambda f=flag: clone(f) for name, flag in NAMESPACES.items() if name != "time"))


@attempt
def clone3_into_namespaces() -> object:
    arguments_ = (ctypes.c_uint64 * 11)(NAMESPACES["user"], 0, 0, 0, 17, *([0] * 6))
    pid: int = libc.syscall(ctypes.c_long(435), ctypes.byref(arguments_), ctypes.c_long(88))
    if pid == 0:
        os._exit(0)
    return pid > 0


@attempt
def setns_to_whatever_can_be_opened() -> object:
    def enter(path: Path) -> object:
        descriptor = os.open(path, os.O_RDONLY)
        own = os.readlink(path) == os.readlink(f"/proc/self/ns/{path.name}")
        return not own and libc.setns(descriptor, 0) == 0 and str(path)

    return any_of(*(lambda p=path: enter(p) for path in Path("/proc").glob("[0-9]*/ns/*")))


@attempt
def namespaces_of_others_can_be_read() -> object:
    mine = os.readlink("/proc/self/ns/net")
    return any_of(
        *(lambda p=path: os.readlink(p) != mine and str(p) for path in Path("/proc").glob("[0-9]*/ns/net"))
    )


@attempt
def nsenter() -> object:
    return any_of(
        *(
            lambda o=option: works("nsenter", "-t", "1", o, "true")
            for option in ("-n", "-m", "-p", "-U", "-a")
        )
    )


@attempt
def named_namespaces() -> object:
    return any_of(
        *(lambda p=path: os.open(p, os.O_RDONLY) for place in ("/run/netns", "/var/run/netns", "/run/docker/netns")
          for path in Path(place).glob("*"))
    )  # fmt: skip


# -- other processes


def stronger(pid: int) -> bool:
    """Whether that process has anything that this one lacks. What an equal holds is no gain."""
    ours, theirs = (Path(f"/proc/{one}/status").read_text().splitlines() for one in ("self", pid))
    names = ("Uid", "Gid", "Groups", "Cap", "NoNewPrivs", "Seccomp")
    return any(mine != other for mine, other in zip(ours, theirs, strict=False) if mine.startswith(names))


@attempt
def pid_1_is_ours_and_lacks_the_filter() -> object:
    """Who may trace it is rid of every wall that it does not have: bubblewrap's is of an ordinary user's own uid."""
    return os.stat("/proc/1").st_uid == os.getuid() and stronger(1)


@attempt
def ptrace_pid_1() -> object:
    if not stronger(1):
        return ""
    return any_of(*(lambda r=request: libc.ptrace(r, 1, 0, 0) == 0 and r for request in (16, 0x4206)))


@attempt
def memory_of_pid_1() -> object:
    names = ("mem", "maps", "environ", "auxv", "stack", "syscall", "io")
    return stronger(1) and any_of(*(lambda n=name: Path(f"/proc/1/{n}").read_bytes()[:20] for name in names))


@attempt
def files_of_pid_1() -> object:
    def descriptors() -> object:
        held, ours = (
            {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()} for pid in (1, "self")
        )
        return held - ours - {"/dev/null"}

    def other_root() -> object:
        return os.stat("/proc/1/root/").st_ino != os.stat("/").st_ino or os.listdir(
            "/proc/1/root/run"
        ) != os.listdir("/run")

    return any_of(
        descriptors, other_root, lambda: os.readlink("/proc/1/ns/net") != os.readlink("/proc/self/ns/net")
    )


@attempt
def pidfd_of_pid_1() -> object:
    pidfd = os.pidfd_open(1)
    return stronger(1) and [
        descriptor for descriptor in range(20) if _no_error(partial(call, 438, pidfd, descriptor, 0))
    ]


def _no_error(function: Callable[[], object]) -> bool:
    return bool(any_of(lambda: function() is not None))


@attempt
def signals_to_pid_1() -> object:
    """As the namespace's first process it ignores what it has no handler for, of whomever."""
    return any_of(*(lambda s=number: did(os.kill, 1, s) for number in (9, 15, 19))) if stronger(1) else ""


@attempt
def processes_of_the_machine_are_listed() -> object:
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [pid for pid in pids if pid != 1 and _is_anothers(pid)] or len(pids) > 10


def _is_anothers(pid: int) -> bool:
    try:
        return os.stat(f"/proc/{pid}").st_uid != os.getuid()
    except FileNotFoundError:  # it ended meanwhile, which ends no look at the others
        return False


@attempt
def another_proc_is_mounted_somewhere() -> object:
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        place, kind = line.split(" ")[4], line.partition(" - ")[2].split(" ")[0]
        place = place.encode().decode("unicode_escape")  # proc(5): a space is \\040
        if kind == "proc" and not place.startswith("/proc"):
            found += [
                str(path)
                for path in Path(place).glob("[0-9]*/root")
                if _no_error(partial(os.listdir, f"{path}/"))
            ]
    return found


# -- mounts


@attempt
def mount() -> object:
    place = b"/tmp"
    tries = [
        (b"none", place, b"tmpfs", 0), (b"none", place, b"proc", 0), (b"none", place, b"sysfs", 0),
        (b"none", place, b"cgroup2", 0), (None, b"/", None, 0x20 | 0x1000), (b"/", place, None, 0x1000 | 0x4000),
        (None, b"/", None, 0x4000 | 1 << 20),
    ]  # fmt: skip
    number = 165 if X86 else 40
    return any_of(*(lambda t=one: call(number, *t, None) == 0 and t for one in tries))


@attempt
def mount_by_the_newer_calls() -> object:
    return any_of(
        lambda: call(430, b"tmpfs", 0) and "fsopen",
        lambda: call(428, -100, b"/", 1) and "open_tree",
        lambda: call(429, -100, b"/tmp", -100, b"/run", 0) == 0 and "move_mount",
        lambda: call(433, -100, b"/", 0) and "fspick",
    )


@attempt
def unmount() -> object:
    number = 166 if X86 else 39
    return any_of(
        *(
            lambda p=path: call(number, p, 2) == 0 and p
            for path in (b"/run", b"/tmp", b"/proc", b"/etc/resolv.conf")
        )
    )


@attempt
def mount_programs() -> object:
    return any_of(
        lambda: works("mount", "-t", "tmpfs", "none", "/tmp"),
        lambda: works("mount", "-o", "remount,rw", "/"),
        lambda: works("umount", "-l", "/run"),
        lambda: works("fusermount", "-u", "/run"),
    )


@attempt
def chroot_and_pivot_root() -> object:
    return any_of(
        lambda: did(os.chroot, "/tmp"),
        lambda: call(155 if X86 else 41, b"/tmp", b"/tmp") == 0,
    )


# -- sockets that leave a network namespace


@attempt
def other_socket_families() -> object:
    kinds = (1, 2, 3, 5)
    found = []
    for family in set(FAMILIES) - ADMITTED:
        for kind in kinds:
            try:
                socket.socket(family, kind, 0)
            except OSError:
                continue
            found.append((family, kind))
    return found


@attempt
def other_families_are_refused_by_the_filter() -> object:
    """EAFNOSUPPORT would also come of a kernel without them: it must come for those that every kernel has."""
    for family in (17, 38):  # AF_PACKET, AF_ALG
        try:
            socket.socket(family, 3 if family == 17 else 5, 0)
        except OSError as error:
            if error.errno != errno.EAFNOSUPPORT:
                return f"family {family}: {error}"
    return ""


@attempt
def vsock() -> object:
    return any_of(
        lambda: did(socket.socket(40, socket.SOCK_STREAM).connect, (2, 1024)),
        lambda: os.open("/dev/vsock", os.O_RDWR),
        lambda: socket.socketpair(40, socket.SOCK_STREAM),
    )


@attempt
def abstract_sockets_of_the_machine() -> object:
    def connect(name: str) -> object:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect("\0" + name)
        return name

    names = [arguments["abstract"], "/tmp/.X11-unix/X0", "/tmp/dbus-test", "/run/systemd/private"]
    return any_of(*(lambda n=name: connect(n) for name in names))


@attempt
def unix_sockets_of_the_machine() -> object:
    def connect(path: str) -> object:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(1)
            sock.connect(path)
        return path

    paths = [
        *arguments["sockets"].split(":"),
        "/run/docker.sock",
        "/var/run/docker.sock",
        "/run/containerd/containerd.sock",
    ]
    for top in ("/run", "/var", "/etc", "/srv", "/opt", "/home", "/root", "/tmp", "/dev"):
        for directory, _, names in os.walk(top):
            paths += filter(_is_socket, (f"{directory}/{name}" for name in names))
    return any_of(*(lambda p=path: connect(p) for path in paths))


def _is_socket(path: str) -> bool:
    try:
        return Path(path).is_socket()
    except OSError:
        return False


# -- calls around the filter


@attempt
def io_uring() -> object:
    return call(425, 8, b"\0" * 256)


@attempt
def other_powerful_calls() -> object:
    numbers = (
        {"bpf": 321, "perf_event_open": 298, "userfaultfd": 323, "add_key": 248, "keyctl": 250}
        if X86
        else {"bpf": 280}
    )
    return any_of(
        *(lambda n=number, m=name: call(n, 0, 0, 0, 0, 0) >= 0 and m for name, number in numbers.items())
    )


@attempt
def x32_entry() -> object:
    """The same numbers with a bit set: a filter that looks at numbers alone lets every call through."""
    if not X86:
        return ""
    return any_of(
        lambda: call(0x40000000 | 39) and "getpid",
        lambda: call(0x40000000 | 41, 40, 1, 0) and "socket",
        lambda: call(0x40000000 | 41, 17, 3, 0) and "socket",
    )


@attempt
def i386_entry() -> object:
    """``int 0x80``: numbers of another architecture, from a 64-bit program."""
    if not X86:
        return ""
    # push rbx; mov eax, edi; mov ebx, esi; xchg ecx, edx; int 0x80; pop rbx; ret
    code = bytes.fromhex("53 89f8 89f3 87d1 cd80 5b c3")
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    entry = ctypes.CFUNCTYPE(ctypes.c_int, *([ctypes.c_int] * 4))(
        ctypes.addressof(ctypes.c_char.from_buffer(page))
    )
    found = [entry(20, 0, 0, 0), entry(359, 40, 1, 0), entry(359, 17, 3, 0), entry(310, 0x10000000, 0, 0)]
    return [result for result in found if result >= 0]


@attempt
def keystrokes() -> object:
    """Into the terminal that was passed on, if there is one, and into one of its own, which must be refused by the filter too."""
    pid, master = pty.fork()
    if pid == 0:
        status = 0
        for request in (0x5412, 0x541C):
            try:
                fcntl.ioctl(0, request, b"x")
            except OSError as error:
                status |= error.errno != errno.EPERM
            else:
                status |= 2
        os._exit(status)
    while True:
        try:
            if not os.read(master, 100):
                break
        except OSError:
            break
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# -- rights


@attempt
def set_user_id_programs() -> object:
    found = any_of(
        lambda: works(arguments["suid"]),
        lambda: works("su", "-c", "id", "root"),
        lambda: works("sudo", "-n", "id"),
        lambda: works("ping", "-c", "1", "-W", "1", "127.0.0.1") and "",
    )
    return [words for words in found if "uid=0" in words or "euid=0" in words]


@attempt
def becoming_root() -> object:
    return any_of(
        lambda: did(os.setuid, 0), lambda: did(os.setgid, 0),
        lambda: did(os.setresuid, -1, 0, -1), lambda: did(os.setgroups, [0]),
        lambda: 0 in (*os.getresuid(), *os.getresgid(), *os.getgroups()) and "already",
    )  # fmt: skip


@attempt
def capabilities() -> object:
    status = Path("/proc/self/status").read_text().splitlines()
    return [line for line in status if line.startswith("Cap") and int(line.split()[1], 16)]


@attempt
def capabilities_of_any_process() -> object:
    """Pid 1 is root's: it must hold nothing that could be got hold of."""
    effective = [
        line
        for path in Path("/proc").glob("[0-9]*/status")
        for line in _lines(path)
        if line.startswith("CapEff")
    ]
    return [line for line in effective if int(line.split()[1], 16) & ~0x1C0]  # SETGID, SETUID, SETPCAP


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):  # as above
        return []


@attempt
def device_nodes() -> object:
    return any_of(
        lambda: did(os.mknod, "node", 0o600 | 0o020000, os.makedev(1, 1)),
        *(
            lambda p=path: os.open(p, os.O_RDONLY)
            for path in ("/dev/mem", "/dev/kmsg", "/dev/kvm", "/dev/net/tun", "/dev/fuse", "/dev/vda")
        ),
    )


if __name__ == "__main__":
    main()
