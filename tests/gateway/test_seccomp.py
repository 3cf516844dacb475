"""The filter, run by a small interpreter of classic BPF: what the kernel would answer to every call that matters."""

import re
import struct
from errno import EAFNOSUPPORT, ENOSYS, EPERM
from pathlib import Path

import pytest

from gateway import seccomp

X86_64 = 0xC000003E  # linux/audit.h
I386 = 0x40000003
AARCH64 = 0xC00000B7
ARM = 0x40000028
ALLOWED = 0
HIGH = 0xDEADBEEF << 32
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


def verdict(machine: str, number: int, *arguments: int, arch: int | None = None) -> int:
    """The errno that the call ends with, 0 if it is let through. A call into nowhere is an error of the program."""
    data = struct.pack(
        "<IIQ6Q",
        number & 0xFFFFFFFF,
        {"x86_64": X86_64, "aarch64": AARCH64}[machine] if arch is None else arch,
        0,
        *(*(argument & 0xFFFFFFFFFFFFFFFF for argument in arguments), *([0] * (6 - len(arguments)))),
    )
    program = list(struct.iter_unpack("=HBBI", seccomp.program(machine)))
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


def test_the_program_ends_in_a_verdict_whatever_is_asked(machine: str) -> None:
    program = list(struct.iter_unpack("=HBBI", seccomp.program(machine)))
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
    ours = numbers(machine)
    assert {name: int(found[name]) for name in ours} == ours
