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
    "pidfd_getfd": 438,
}  # fmt: skip
_PROCESSES_AARCH64: Final = {
    "execve": 221, "execveat": 281, "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "pidfd_getfd": 438,
}  # fmt: skip
_ARCHES: Final = {
    "x86_64": (0xC000003E, _X86_64, _PROCESSES_X86_64),
    "aarch64": (0xC00000B7, _AARCH64, _PROCESSES_AARCH64),
}
"""The number of linux/audit.h, and those of the system calls."""

_ARGUMENT_TESTED: Final = frozenset(("socket", "socketpair", "ioctl", "clone", "unshare", "clone3"))


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


def worker_program(machine: str | None = None) -> bytes:
    """For the process that reads what workloads send: it starts no program, reaches into no process, and opens TCP, UDP and nothing else."""
    code, numbers, processes = _begin(machine)
    code += _when(numbers["socket"], [_argument(0), *_unless_one_of(INTERNET, _fail(EAFNOSUPPORT))])
    code += _when(numbers["clone"], [_argument(0), _op(JMP_JSET, CLONE_THREAD, 1, 0), _fail(EPERM)])
    code += _when(numbers["clone3"], [_fail(ENOSYS)])
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
    return code, own | _EVERYWHERE, processes


def _op(code: int, k: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, k)


def _fail(errno: int) -> bytes:
    return _op(RET, ERRNO | errno)


def _argument(index: int) -> bytes:
    """Load the low half: each argument tested here is an ``int``, of which the kernel looks at no more (little endian)."""
    return _op(LD_W_ABS, 16 + 8 * index)


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
