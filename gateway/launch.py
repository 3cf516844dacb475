"""Starting the command: bubblewrap makes the view, in the cell's network namespace, and the command is all that is left inside.

As root no user namespace is needed: bubblewrap keeps just the capabilities to become somebody else, and ``setpriv`` drops them with the uid.
"""

import ctypes
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Final

from gateway import seccomp
from gateway.errors import SetupError
from gateway.view import View

CLONE_NEWNET: Final = 0x40000000  # linux/sched.h
RESOLV_CONF: Final = Path("/etc/resolv.conf")
PROGRAMS: Final = {"bwrap": "bubblewrap", "setpriv": "util-linux", "env": "coreutils"}
FORWARDED: Final = (
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
"""Passed on to the command. The bwrap around it ignores them, for if it died the command would be killed with it."""


class Command:
    """A sandboxed command that has been started."""

    def __init__(self, process: "subprocess.Popen[bytes]", status: IO[bytes]) -> None:
        self._process = process
        self._status = status
        self._init_pid: int | None = None

    @property
    def pid(self) -> int:
        """Of the process to wait for."""
        return self._process.pid

    def forward(self, signum: int) -> None:
        """Send a signal to the command itself, if it runs."""
        for pid in self._own_processes():
            try:
                os.kill(pid, signum)
            except ProcessLookupError:
                continue

    def _own_processes(self) -> list[int]:
        """The one child of the sandbox's pid 1, which is bubblewrap's and passes nothing on."""
        if self._init_pid is None:
            line = self._status.readline()
            if not line:
                return []
            self._init_pid = int(json.loads(line)["child-pid"])
        pid = self._init_pid
        try:
            return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        except OSError:
            return []

    def finish(self) -> int:
        """Reap it; its exit status as a shell would say it. SetupError if bubblewrap ended before there was a command."""
        status = self._process.wait()
        said = [json.loads(line) for line in self._status]
        self._status.close()
        for document in said:
            if "exit-code" in document:
                return int(document["exit-code"])
        if status < 0:
            return 128 - status
        raise SetupError("bubblewrap could not make the sandbox; what it says is above")


def launch(view: View, command: Sequence[str], *, netns_fd: int) -> Command:
    """Start ``command`` in the network namespace ``netns_fd`` with the standard three descriptors of this process, and no other. SetupError."""
    for program, package in PROGRAMS.items():
        if shutil.which(program) is None:
            raise SetupError(f"{program} is not installed: apt-get install {package}")
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    files = {"seccomp": _file(_filter()), "resolv": _file(_resolv_conf(view))}
    argv = [*_bwrap(view, files, write_end), *_become(view, command)]
    try:
        process = subprocess.Popen(
            argv,
            env=dict(view.environment),
            cwd="/",
            pass_fds=(*files.values(), write_end),
            preexec_fn=lambda: _enter(netns_fd),
        )
    except (OSError, subprocess.SubprocessError) as error:
        os.close(read_end)
        raise SetupError(f"bwrap could not be started: {error}") from error
    finally:
        for descriptor in (*files.values(), write_end):
            os.close(descriptor)
    return Command(process, os.fdopen(read_end, "rb"))


def _enter(netns_fd: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(netns_fd, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
    for number in FORWARDED:
        signal.signal(number, signal.SIG_IGN)


def _bwrap(view: View, files: dict[str, int], status_fd: int) -> Iterator[str]:
    yield from ("bwrap", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev")
    for path in ("/run", "/tmp", "/dev/shm"):  # noqa: S108 - the sandbox's own
        yield from ("--perms", "1777" if path != "/run" else "0755", "--tmpfs", path)
    for inner in (*view.writable, *view.pinned):
        yield from ("--bind", str(inner), str(inner))
    for inner in view.protected:
        yield from ("--ro-bind", str(inner), str(inner))
    if RESOLV_CONF.exists() or RESOLV_CONF.is_symlink():
        yield from ("--perms", "0644", "--ro-bind-data", str(files["resolv"]), str(RESOLV_CONF.resolve()))
    yield from ("--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try")
    yield from ("--cap-drop", "ALL")
    for capability in ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"):
        yield from ("--cap-add", capability)
    yield from ("--seccomp", str(files["seccomp"]), "--json-status-fd", str(status_fd))
    yield from ("--die-with-parent", "--chdir", str(view.cwd), "--")


def _become(view: View, command: Sequence[str]) -> Iterator[str]:
    """Without capabilities, and with the signals that bwrap ignores as a program expects them."""
    identity = view.identity
    yield from ("setpriv", f"--reuid={identity.uid}", f"--regid={identity.gid}", "--clear-groups")
    yield from ("--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all", "--no-new-privs", "--")
    yield from ("env", "--default-signal=" + ",".join(number.name[3:] for number in FORWARDED), "--")
    yield from command


def _filter() -> bytes:
    try:
        return seccomp.program()
    except KeyError as error:
        raise SetupError(
            f"there is no seccomp filter for {error.args[0]} yet: x86_64 and aarch64 only"
        ) from error


def _resolv_conf(view: View) -> bytes:
    return (
        f"# by egress: the policy's resolver, answered by the gateway\nnameserver {view.resolver}\n".encode()
    )


def _file(content: bytes) -> int:
    """An anonymous file to be read from its start."""
    descriptor = os.memfd_create("egress", os.MFD_CLOEXEC)
    os.write(descriptor, content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
