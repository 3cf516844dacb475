"""The system calls that a sandboxed command does without, as a classic BPF program for ``bwrap --seccomp``. Pure.

Not a list of everything that is needed, which would break programs that nobody here has met, but of the doors that lead around the other walls:
socket families that ignore network namespaces, keystrokes pushed into the terminal, new user namespaces and the attack surface that comes with them.
"""

import platform
import struct
from collections.abc import Iterator
from errno import EAFNOSUPPORT, ENOSYS, EPERM
from typing import Final

# linux/bpf_common.h, linux/seccomp.h
LD_W_ABS: Final = 0x20
JMP_JEQ: Final = 0x15
JMP_JGE: Final = 0x35
JMP_JSET: Final = 0x45
RET: Final = 0x06
ALLOW: Final = 0x7FFF0000
ERRNO: Final = 0x00050000
# struct seccomp_data: nr, arch, instruction_pointer, args[6]
NR: Final = 0
ARCH: Final = 4
X32_BIT: Final = 0x40000000  # asm/unistd.h, __X32_SYSCALL_BIT

FAMILIES: Final = (1, 2, 10, 16)
"""AF_UNIX, AF_INET, AF_INET6, AF_NETLINK. A vsock, for one, leaves every network namespace."""
INTERNET: Final = (2, 10)
CLONE_THREAD: Final = 0x00010000
TERMINAL: Final = (0x5412, 0x541C)
"""TIOCSTI and TIOCLINUX (asm-generic/ioctls.h): input for whoever reads the terminal next."""
CLONE_NEWUSER: Final = 0x10000000
OWNERS: Final = (8, 10, 15)
"""F_SETOWN, F_SETSIG, F_SETOWN_EX (asm-generic/fcntl.h): who is signalled when a descriptor is ready, and by which signal, SIGKILL too."""
OWNERS_BY_IOCTL: Final = (0x8901, 0x8902)
"""FIOSETOWN, SIOCSPGRP (asm-generic/sockios.h): the same for sockets."""
PR_SCHED_CORE: Final = 62  # linux/prctl.h: takes a process id

_X86_64: Final = {
    "socket": 41, "socketpair": 53, "ioctl": 16, "clone": 56, "unshare": 272, "clone3": 435, "setns": 308,
    "mount": 165, "umount2": 166, "pivot_root": 155, "add_key": 248, "request_key": 249, "keyctl": 250,
    "perf_event_open": 298, "bpf": 321, "userfaultfd": 323,
}  # fmt: skip
_AARCH64: Final = {
    "socket": 198, "socketpair": 199, "ioctl": 29, "clone": 220, "unshare": 97, "clone3": 435, "setns": 268,
    "mount": 40, "umount2": 39, "pivot_root": 41, "add_key": 217, "request_key": 218, "keyctl": 219,
    "perf_event_open": 241, "bpf": 280, "userfaultfd": 282,
}  # fmt: skip
_EVERYWHERE: Final = {
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428, "move_mount": 429,
    "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "mount_setattr": 442,
}  # fmt: skip
"""From 424 on, every architecture has the same numbers."""
_PROCESSES_X86_64: Final = {
    "execve": 59, "execveat": 322, "fork": 57, "vfork": 58, "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311,
    "kill": 62, "tkill": 200, "tgkill": 234, "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297, "fcntl": 72, "prctl": 157,
    "setrlimit": 160, "prlimit64": 302, "setpriority": 141, "ioprio_set": 251, "sched_setparam": 142, "sched_setscheduler": 144,
    "sched_setaffinity": 203, "sched_setattr": 314, "migrate_pages": 256, "move_pages": 279,
    "shmget": 29, "shmat": 30, "shmctl": 31, "semget": 64, "semop": 65, "semctl": 66, "semtimedop": 220,
    "msgget": 68, "msgsnd": 69, "msgrcv": 70, "msgctl": 71, "mq_open": 240, "mq_unlink": 241,
}  # fmt: skip
_PROCESSES_AARCH64: Final = {
    "execve": 221, "execveat": 281, "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271,
    "kill": 129, "tkill": 130, "tgkill": 131, "rt_sigqueueinfo": 138, "rt_tgsigqueueinfo": 240, "fcntl": 25, "prctl": 167,
    "setrlimit": 164, "prlimit64": 261, "setpriority": 140, "ioprio_set": 30, "sched_setparam": 118, "sched_setscheduler": 119,
    "sched_setaffinity": 122, "sched_setattr": 274, "migrate_pages": 238, "move_pages": 239,
    "shmget": 194, "shmat": 196, "shmctl": 195, "semget": 190, "semop": 193, "semctl": 191, "semtimedop": 192,
    "msgget": 186, "msgsnd": 189, "msgrcv": 188, "msgctl": 187, "mq_open": 180, "mq_unlink": 181,
}  # fmt: skip
"""What acts on other processes of the same user, or on what they share. It asks for no privilege: the keeper is such a process, and so is every other
sandbox's worker."""
_PROCESSES_EVERYWHERE: Final = {
    "pidfd_send_signal": 424, "pidfd_open": 434, "pidfd_getfd": 438, "process_madvise": 440, "process_mrelease": 448,
}  # fmt: skip
_ARCHES: Final = {
    "x86_64": (0xC000003E, _X86_64, _PROCESSES_X86_64),
    "aarch64": (0xC00000B7, _AARCH64, _PROCESSES_AARCH64),
}
"""The number of linux/audit.h, and those of the system calls."""

_ARGUMENT_TESTED: Final = frozenset(
    (
        *("socket", "socketpair", "ioctl", "clone", "unshare", "clone3"),
        *("fcntl", "kill", "tgkill", "sched_setattr", "prlimit64", "prctl"),
    )
)


def program(machine: str | None = None) -> bytes:
    """Instructions as the kernel takes them (struct sock_filter), for ``machine`` (default: this one). KeyError where there is no table."""
    code, numbers, _ = _begin(machine)
    for name in ("socket", "socketpair"):
        code += _when(numbers[name], [_argument(0), *_unless_one_of(FAMILIES, _fail(EAFNOSUPPORT))])
    code += _when(numbers["ioctl"], [_argument(1), *_if_one_of(TERMINAL, _fail(EPERM))])
    for name in ("clone", "unshare"):
        code += _when(numbers[name], [_argument(0), _op(JMP_JSET, CLONE_NEWUSER, 0, 1), _fail(EPERM)])
    # Its flags lie in memory, where no filter can see them; libc falls back to clone.
    code += _when(numbers["clone3"], [_fail(ENOSYS)])
    for name, number in numbers.items():
        if name not in _ARGUMENT_TESTED:
            code += _when(number, [_fail(EPERM)])
    return b"".join([*code, _op(RET, ALLOW)])


def worker_program(pid: int, machine: str | None = None) -> bytes:
    """For the process ``pid``, which reads what workloads send: it starts no program, reaches into no process nor acts on any but itself, and opens
    TCP, UDP and nothing else."""
    code, numbers, processes = _begin(machine)
    code += _when(numbers["socket"], [_argument(0), *_unless_one_of(INTERNET, _fail(EAFNOSUPPORT))])
    code += _when(numbers["ioctl"], [_argument(1), *_if_one_of(TERMINAL + OWNERS_BY_IOCTL, _fail(EPERM))])
    code += _when(processes["fcntl"], [_argument(1), *_if_one_of(OWNERS, _fail(EPERM))])
    code += _when(numbers["clone"], [_argument(0), _op(JMP_JSET, CLONE_THREAD, 1, 0), _fail(EPERM)])
    code += _when(numbers["clone3"], [_fail(ENOSYS)])
    # abort(3) and raise(3) signal their own process by its number.
    for name in ("kill", "tgkill"):
        code += _when(processes[name], [_argument(0), *_unless_one_of((pid,), _fail(EPERM))])
    code += _when(processes["sched_setattr"], [_argument(0), *_unless_one_of((0,), _fail(EPERM))])
    # Its own limits, and only to read them, which is how libc does getrlimit(2): no new ones, of which it gives an address.
    code += _when(processes["prlimit64"], list(_unless_zero(_argument(0), _argument(2), _high_half(2))))
    code += _when(processes["prctl"], [_argument(0), *_if_one_of((PR_SCHED_CORE,), _fail(EPERM))])
    for name, number in (numbers | processes).items():
        if name == "unshare" or name not in _ARGUMENT_TESTED:
            code += _when(number, [_fail(EPERM)])
    return b"".join([*code, _op(RET, ALLOW)])


def _begin(machine: str | None) -> tuple[list[bytes], dict[str, int], dict[str, int]]:
    """Refuse every entry but the machine's own, load the number of the call; and the numbers by name, those of ``_PROCESSES`` apart."""
    arch, own, processes = _ARCHES[machine or platform.machine()]
    code = [_op(LD_W_ABS, ARCH), _op(JMP_JEQ, arch, 1, 0), _fail(ENOSYS), _op(LD_W_ABS, NR)]
    if own is _X86_64:
        code += [_op(JMP_JGE, X32_BIT, 0, 1), _fail(ENOSYS)]
    return code, own | _EVERYWHERE, processes | _PROCESSES_EVERYWHERE


def _op(code: int, k: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, k)


def _fail(errno: int) -> bytes:
    return _op(RET, ERRNO | errno)


def _argument(index: int) -> bytes:
    """Load the low half: each argument tested here is an ``int``, of which the kernel looks at no more (little endian), or an address
    (``_high_half``)."""
    return _op(LD_W_ABS, 16 + 8 * index)


def _high_half(index: int) -> bytes:
    """Load what ``_argument`` leaves."""
    return _op(LD_W_ABS, 16 + 8 * index + 4)


def _when(number: int, body: list[bytes]) -> Iterator[bytes]:
    """Run ``body`` for one system call; a body that falls through allows it."""
    yield _op(JMP_JEQ, number, 0, len(body) + 1)
    yield from body
    yield _op(RET, ALLOW)


def _unless_one_of(values: tuple[int, ...], verdict: bytes) -> Iterator[bytes]:
    for left, value in zip(range(len(values), 0, -1), values, strict=True):
        yield _op(JMP_JEQ, value, left, 0)
    yield verdict


def _if_one_of(values: tuple[int, ...], verdict: bytes) -> Iterator[bytes]:
    for left, value in zip(range(len(values) - 1, -1, -1), values, strict=True):
        yield _op(JMP_JEQ, value, left, 0 if left else 1)
    yield verdict


def _unless_zero(*loads: bytes) -> Iterator[bytes]:
    """Refuse unless each word that is loaded is zero."""
    for load in loads:
        yield from (load, _op(JMP_JEQ, 0, 1, 0), _fail(EPERM))
