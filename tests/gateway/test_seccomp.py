"""The filter, run by a small interpreter of classic BPF: what the kernel would answer to every call that matters."""

import ctypes
import fcntl
import os
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from errno import EAFNOSUPPORT, ENOSYS, EPERM
from pathlib import Path

import pytest

from gateway import confine, seccomp
from gateway.turns import SCHED_SETATTR

X86_64 = 0xC000003E  # linux/audit.h
I386 = 0x40000003
AARCH64 = 0xC00000B7
ARM = 0x40000028
ALLOWED = 0
HIGH = 0xDEADBEEF << 32
PID = 4321
"""Of the worker whose filter it is."""
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


def verdict(
    machine: str, number: int, *arguments: int, arch: int | None = None, by: bytes | None = None
) -> int:
    """The errno that the call ends with, 0 if it is let through. A call into nowhere is an error of the program.
    ``by``: commands' if None."""
    data = struct.pack(
        "<IIQ6Q",
        number & 0xFFFFFFFF,
        {"x86_64": X86_64, "aarch64": AARCH64}[machine] if arch is None else arch,
        0,
        *(*(argument & 0xFFFFFFFFFFFFFFFF for argument in arguments), *([0] * (6 - len(arguments)))),
    )
    program = list(struct.iter_unpack("=HBBI", seccomp.program(machine) if by is None else by))
    accumulator = at = 0
    while True:
        code, if_true, if_false, k = program[at]
        at += 1
        if code == 0x20:  # BPF_LD | BPF_W | BPF_ABS
            assert k % 4 == 0, "the kernel refuses a load that is not aligned"
            (accumulator,) = struct.unpack_from("<I", data, k)
        elif code == 0x06:  # BPF_RET | BPF_K
            if k == 0x7FFF0000:
                return ALLOWED
            assert k & 0xFFFF0000 == 0x00050000, "SECCOMP_RET_ERRNO"
            return int(k & 0xFFFF)
        else:
            holds = {
                0x15: accumulator == k,  # BPF_JMP | BPF_JEQ | BPF_K
                0x35: accumulator >= k,  # BPF_JGE
                0x45: bool(accumulator & k),  # BPF_JSET
            }[code]
            at += if_true if holds else if_false


@pytest.fixture(params=["x86_64", "aarch64"])
def machine(request: pytest.FixtureRequest) -> str:
    """Both that have a table."""
    name: str = request.param
    return name


def numbers(machine: str) -> dict[str, int]:
    """The calls that the filter knows."""
    return seccomp._ARCHES[machine][1] | seccomp._EVERYWHERE


def of_processes(machine: str) -> dict[str, int]:
    """Those that the worker's knows besides."""
    return seccomp._ARCHES[machine][2] | seccomp._PROCESSES_EVERYWHERE


def of_worker(machine: str, name: str, *arguments: int) -> int:
    """As ``verdict``, of the worker ``PID``."""
    number = (numbers(machine) | of_processes(machine))[name]
    return verdict(machine, number, *arguments, by=seccomp.worker_program(PID, machine))


@pytest.mark.parametrize("call", ["socket", "socketpair"])
@pytest.mark.parametrize("high", [0, HIGH])
def test_only_four_socket_families_exist(machine: str, call: str, high: int) -> None:
    number = numbers(machine)[call]
    admitted = {family for family in range(65) if verdict(machine, number, family | high, 1, 0) == ALLOWED}
    assert admitted == {1, 2, 10, 16}, "AF_UNIX, AF_INET, AF_INET6, AF_NETLINK"
    refused = {verdict(machine, number, family | high) for family in set(range(65)) - admitted}
    assert refused == {EAFNOSUPPORT}
    assert verdict(machine, number, 0xFFFFFFFF) == EAFNOSUPPORT
    assert verdict(machine, number, 40) == EAFNOSUPPORT, "AF_VSOCK"


@pytest.mark.parametrize("high", [0, HIGH])
def test_keystrokes_cannot_be_pushed_into_the_terminal(machine: str, high: int) -> None:
    number = numbers(machine)["ioctl"]
    for request in (0x5412, 0x541C):  # TIOCSTI, TIOCLINUX
        assert verdict(machine, number, 0, request | high) == EPERM
    for request in (0x5401, 0x5411, 0x5413, 0x541B, 0x541D, 0x540F, 0x5410, 0):  # TCGETS ... TIOCSPGRP
        assert verdict(machine, number, 0x5412, request | high) == ALLOWED


@pytest.mark.parametrize("call", ["clone", "unshare"])
@pytest.mark.parametrize("high", [0, HIGH])
def test_no_user_namespace_can_be_made(machine: str, call: str, high: int) -> None:
    number = numbers(machine)[call]
    for others in (0, 0x20000, 0x40000000, 0x00010F00, 17):
        assert verdict(machine, number, high | 0x10000000 | others) == EPERM
        assert verdict(machine, number, high | others, 0x10000000) == ALLOWED, "threads, and what needs root"


def test_clone3_does_not_exist_so_that_libc_uses_clone(machine: str) -> None:
    assert verdict(machine, 435, 0, 88) == ENOSYS


def test_calls_that_lead_around_the_walls_are_refused(machine: str) -> None:
    tested = {"socket", "socketpair", "ioctl", "clone", "unshare", "clone3"}
    for name, number in numbers(machine).items():
        if name not in tested:
            assert verdict(machine, number, 1, 2, 3) == EPERM, name


def test_every_other_call_is_let_through(machine: str) -> None:
    known = set(numbers(machine).values())
    for number in range(600):
        if number not in known:
            assert verdict(machine, number, 40, 0x5412, 0x10000000) == ALLOWED, number


def test_entry_points_of_other_architectures_do_not_exist() -> None:
    for number in range(500):
        assert verdict("x86_64", number, 1, arch=I386) == ENOSYS
        assert verdict("aarch64", number, 1, arch=ARM) == ENOSYS
        assert verdict("x86_64", number | 0x40000000, 1) == ENOSYS, "x32"
    assert verdict("x86_64", 1, arch=AARCH64) == ENOSYS
    assert verdict("aarch64", 1, arch=X86_64) == ENOSYS
    assert verdict("x86_64", -1) == ENOSYS


@pytest.mark.parametrize("whose", ["command", "worker"])
def test_the_program_ends_in_a_verdict_whatever_is_asked(machine: str, whose: str) -> None:
    code = seccomp.program(machine) if whose == "command" else seccomp.worker_program(PID, machine)
    program = list(struct.iter_unpack("=HBBI", code))
    assert len(program) < 4096  # linux/bpf_common.h, BPF_MAXINSNS
    for at, (code, if_true, if_false, _) in enumerate(program):
        if code not in (0x20, 0x06):
            assert at + 1 + max(if_true, if_false) < len(program)
    assert program[-1][0] == 0x06


def test_a_machine_without_a_table_has_no_filter() -> None:
    with pytest.raises(KeyError):
        seccomp.program("riscv64")


def test_the_numbers_are_the_kernels(machine: str) -> None:
    header = HEADERS[machine]
    if not header.exists():
        pytest.skip(f"no {header}: apt-get install linux-libc-dev")
    found = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)\b", header.read_text()))
    ours = numbers(machine) | of_processes(machine)
    assert {name: int(found[name]) for name in ours} == ours


# -- the worker


TESTED = {
    "socket",
    "socketpair",
    "ioctl",
    "clone",
    "fcntl",
    "kill",
    "tgkill",
    "sched_setattr",
    "prlimit64",
    "prctl",
}
"""By their arguments."""


def test_a_worker_does_without_more_and_every_other_call_is_let_through(machine: str) -> None:
    code = seccomp.worker_program(PID, machine)
    known = numbers(machine) | of_processes(machine)
    for name, number in known.items():
        if name not in TESTED:
            refused = verdict(machine, number, PID, 0, 0, by=code)
            assert refused == (ENOSYS if name == "clone3" else EPERM), name
    for number in set(range(600)) - set(known.values()):
        assert verdict(machine, number, 1, 8, 0x8901, by=code) == ALLOWED, number


@pytest.mark.parametrize(
    "call",
    """sched_setscheduler sched_setparam sched_setaffinity setpriority ioprio_set tkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_send_signal
    pidfd_open pidfd_getfd process_madvise process_mrelease process_vm_writev migrate_pages move_pages ptrace shmat semctl msgctl""".split(),
)
def test_a_worker_acts_on_no_other_process(machine: str, call: str) -> None:
    for pid in (0, 1, PID - 1, PID):
        assert of_worker(machine, call, pid, pid, 9) == EPERM


@pytest.mark.parametrize("call", ["kill", "tgkill"])
@pytest.mark.parametrize("high", [0, HIGH])
def test_a_worker_signals_itself_alone(machine: str, call: str, high: int) -> None:
    """The kernel looks at the low half only: so must the filter, or the other half would hide the number."""
    assert of_worker(machine, call, high | PID, 6) == ALLOWED, "abort(3)"
    for pid in (0, 1, PID - 1, PID + 1, -1, -PID, 0xFFFFFFFF):
        assert of_worker(machine, call, high ^ pid, 9) == EPERM


@pytest.mark.parametrize("high", [0, HIGH])
def test_a_worker_reads_its_own_limits_and_sets_nobodys(machine: str, high: int) -> None:
    assert of_worker(machine, "prlimit64", high, 7, 0, 0x7FFF00000000) == ALLOWED, "getrlimit(2)"
    for pid in (1, PID, PID - 1, -1):
        assert of_worker(machine, "prlimit64", high ^ pid, 7, 0, 0x7FFF00000000) == EPERM
    for address in (1, 0x7FFF12345678, 0x7FFF << 32, 1 << 63):
        assert of_worker(machine, "prlimit64", 0, 1, address, 0) == EPERM


@pytest.mark.parametrize("high", [0, HIGH])
def test_a_worker_takes_turns_of_its_own_and_gives_none(machine: str, high: int) -> None:
    assert of_worker(machine, "sched_setattr", high, 0x7FFF00000000, 0) == ALLOWED
    for pid in (1, PID, PID - 1, -1):
        assert of_worker(machine, "sched_setattr", high ^ pid, 0x7FFF00000000, 0) == EPERM
    assert of_worker(machine, "prctl", high | 62, 2, 1) == EPERM, "PR_SCHED_CORE"
    for option in (15, 22, 0x53564D41):  # PR_SET_NAME, PR_SET_SECCOMP, PR_SET_VMA
        assert of_worker(machine, "prctl", high | option, 62) == ALLOWED


@pytest.mark.parametrize("high", [0, HIGH])
def test_a_worker_has_nobody_signalled_by_a_descriptor(machine: str, high: int) -> None:
    for command in (8, 10, 15):  # F_SETOWN, F_SETSIG, F_SETOWN_EX
        assert of_worker(machine, "fcntl", 0, high | command, 1) == EPERM
    for command in (
        0,
        1,
        2,
        3,
        4,
        9,
        1030,
        1031,
        1032,
    ):  # F_DUPFD ... F_SETFL, F_GETOWN, F_DUPFD_CLOEXEC, F_SETPIPE_SZ, F_GETPIPE_SZ
        assert of_worker(machine, "fcntl", 8, high | command, 8) == ALLOWED
    for request in (0x8901, 0x8902, 0x5412, 0x541C):  # FIOSETOWN, SIOCSPGRP, TIOCSTI, TIOCLINUX
        assert of_worker(machine, "ioctl", 0, high | request, 1) == EPERM
    for request in (0x5421, 0x541B, 0x5401, 0x8903):  # FIONBIO, FIONREAD, TCGETS, FIOGETOWN
        assert of_worker(machine, "ioctl", 0x8901, high | request, 0x8901) == ALLOWED


@pytest.fixture
def victim() -> Iterator[int]:
    """Another process of the same user."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process.pid
        process.kill()


def _called(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)


def _owned(by_ioctl: bool, pid: int) -> None:
    near, far = socket.socketpair()
    with near, far:
        if by_ioctl:
            fcntl.ioctl(near, 0x8901, struct.pack("=i", pid))
        else:
            fcntl.fcntl(near, fcntl.F_SETOWN, pid)


HARMS: dict[str, Callable[[int], object]] = {
    "limit what it writes": lambda pid: resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, 0)),
    "read its limits": lambda pid: resource.prlimit(pid, resource.RLIMIT_NOFILE),
    "make it idle": lambda pid: os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0)),
    "its parameters": lambda pid: os.sched_setparam(pid, os.sched_param(0)),
    "its turns": lambda pid: _called(
        "syscall",
        SCHED_SETATTR[os.uname().machine],
        pid,
        struct.pack("=IIQiIQQQ", 48, 0, 0, 0, 0, 0, 0, 0),
        0,
    ),
    "make it nice": lambda pid: os.setpriority(os.PRIO_PROCESS, pid, 19),
    "move it": lambda pid: os.sched_setaffinity(pid, os.sched_getaffinity(0)),
    "signal it": lambda pid: os.kill(pid, 0),
    "signal all": lambda _: os.kill(0, 0),
    "signal a thread": lambda pid: _called("tgkill", pid, pid, 0),
    "open it": os.pidfd_open,
    "have it signalled": lambda pid: _owned(False, pid),
    "have it signalled by another door": lambda pid: _owned(True, pid),
}


@pytest.mark.skipif(os.uname().machine not in seccomp._ARCHES, reason="no table for this machine")
def test_the_kernel_refuses_what_would_harm_another_process_and_the_worker_lives(victim: int) -> None:
    """By the filter alone, even to root."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(10)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            confine.filter_calls()
            for name, act in HARMS.items():
                try:
                    act(victim)
                    os.write(write_end, f"{name}\n".encode())
                except OSError as error:
                    if error.errno != EPERM:
                        os.write(write_end, f"{name}: {error}\n".encode())
            resource.getrlimit(resource.RLIMIT_NOFILE)
            os.kill(os.getpid(), 0)
            os.write(write_end, b"well")
            signal.raise_signal(signal.SIGTERM)
        finally:
            os._exit(1)
    os.close(write_end)
    with os.fdopen(read_end) as said:
        assert said.read() == "well"
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGTERM
