"""Starting the command: bubblewrap makes the view, in the cell's network namespace, and the command is all that is left inside.

As root no user namespace is needed: bubblewrap keeps just the capabilities to become somebody else, and ``setpriv`` drops them with the uid. For an
ordinary user the cell lies in a user namespace of the user's own; bubblewrap makes another inside it, in which no further one can be made.
"""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

from gateway import seccomp
from gateway.errors import SetupError
from gateway.signals import ENDING
from gateway.view import View

CLONE_NEWNET: Final = 0x40000000  # linux/sched.h
CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUSER: Final = 0x10000000
MS_REC_PRIVATE: Final = 0x4000 | 1 << 18  # sys/mount.h
OWN: Final = ("/run", "/tmp", "/dev/shm")  # noqa: S108
"""Empty at first, and the sandbox's own."""
SETTINGS: Final = ("/proc/sys", "/proc/sysrq-trigger", "/proc/mtrr")
"""Of the machine, whatever mounts there are, and root's to change without any capability."""
RESOLV_CONF: Final = Path("/etc/resolv.conf")
PROGRAMS: Final = {"bwrap": "bubblewrap", "setpriv": "util-linux", "env": "coreutils"}
SYSTEM_PATH: Final = "/usr/bin:/bin:/usr/sbin:/sbin:/usr/local/bin"
"""Where those are looked for: the caller's PATH may name a directory that an earlier command could write, and they run before root is given up."""
FORWARDED: Final = ENDING
"""Passed on to the command. The bwrap around it blocks them, for if it died the command would be killed with it; ``env`` lets in what came
meanwhile, last thing before the command."""
COMMAND_TIMEOUT_S: Final = 2.0
"""How long a signal waits for bubblewrap to start the command."""


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

    def kill(self) -> None:
        """With everything that it has started: its pid namespace goes with the process that made it.

        The group, not bubblewrap alone: half made, the other half would wait for it for ever.
        """
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def forward(self, signum: int, *, group: bool = False) -> None:
        """Send a signal to the command itself, or to all of its group, as a terminal does. It may be about to start; nothing if it has ended."""
        if self._process.returncode is not None:
            return  # and was reaped in the same turn: Ctrl-C ends the command and wakes its keeper at once
        give_up = time.monotonic() + COMMAND_TIMEOUT_S
        while not (pids := self._own_processes()) and time.monotonic() < give_up:
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return
            time.sleep(0.005)
        if group:
            self.signal_group(signum)
            return
        for pid in pids:
            try:
                os.kill(pid, signum)
            except ProcessLookupError:
                continue

    def signal_group(self, signum: int) -> None:
        """Send a signal to all that have not left the command's group, bubblewrap among them; nothing if it has ended."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signum)

    def stopped_by(self) -> int | None:
        """The signal that has stopped its group since the last time; None if none has."""
        if self._process.returncode is not None:
            return None
        try:
            found = os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOHANG)
        except ChildProcessError:  # it has ended, and is to be reaped
            return None
        return None if found is None else found.si_status

    def _own_processes(self) -> list[int]:
        """The first child of the sandbox's pid 1, which is bubblewrap's and passes nothing on; what it adopted comes after. Nobody once it is reaped,
        for then the number may be another's."""
        if self._process.returncode is not None:
            return []
        if self._init_pid is None:
            line = self._status.readline()
            if not line:
                return []
            self._init_pid = int(json.loads(line)["child-pid"])
        pid = self._init_pid
        try:
            return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[:1]]
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
        raise SetupError("bubblewrap could not make the sandbox, and said why")


def launch(
    view: View, command: Sequence[str], namespaces: Mapping[str, int], streams: Sequence[int] = (0, 1, 2)
) -> Command:
    """Start ``command`` in the cell (descriptors ``netns`` and, unless root made it, ``userns``) with ``streams`` for the standard three descriptors,
    and no other. Leaves the signals of ``forwarded`` blocked. SetupError."""
    programs, signals = _programs(), forwarded()
    _hand_over_pipes(view, streams)
    try:
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as undo:
            read_end, write_end = os.pipe2(os.O_CLOEXEC)
            undo.callback(os.close, read_end)
            theirs.callback(os.close, write_end)
            files = {
                name: _file(content, theirs)
                for name, content in (("seccomp", _filter()), ("resolv", _resolv_conf(view)))
            }
            # Until there is somebody to forward them: Supervisor.wait.
            signal.pthread_sigmask(signal.SIG_BLOCK, signals)
            undo.callback(signal.pthread_sigmask, signal.SIG_UNBLOCK, signals)
            process = subprocess.Popen(
                [
                    programs["bwrap"],
                    *_bwrap(view, files, write_end),
                    *_become(view, programs, signals, command),
                ],
                stdin=streams[0],
                stdout=streams[1],
                stderr=streams[2],
                env=dict(view.environment),
                cwd="/",
                pass_fds=(*files.values(), write_end),
                preexec_fn=lambda: _enter(namespaces, signals),
                # ``kill(0)`` inside reaches nobody outside, nor does what stops a group: process namespaces are no border for either.
                process_group=0,
            )
            undo.pop_all()
    except (OSError, ValueError, subprocess.SubprocessError) as error:  # ValueError: a variable's name
        raise SetupError(f"bwrap could not be started: {error}") from error
    return Command(process, os.fdopen(read_end, "rb"))


def _hand_over_pipes(view: View, streams: Sequence[int]) -> None:
    """To the command's user, so that ``/dev/stderr`` and its like can be opened. Nothing else: a terminal outlives the command."""
    if os.geteuid() != 0:
        return
    for descriptor in streams:
        try:
            if os.readlink(f"/proc/self/fd/{descriptor}").startswith("pipe:"):
                os.fchown(descriptor, view.identity.uid, view.identity.gid)
        except OSError:
            continue


def forwarded() -> tuple[signal.Signals, ...]:
    """``FORWARDED`` without those that the caller had ignored, as nohup(1) does: they stay ignored."""
    return tuple(number for number in FORWARDED if signal.getsignal(number) is not signal.SIG_IGN)


def _programs() -> dict[str, str]:
    found = {program: shutil.which(program, path=SYSTEM_PATH) for program in PROGRAMS}
    for program, path in found.items():
        if path is None:
            raise SetupError(f"{program} is not installed: apt-get install {PROGRAMS[program]}")
    return {program: path for program, path in found.items() if path is not None}


def _enter(namespaces: Mapping[str, int], signals: Sequence[signal.Signals]) -> None:
    """The cell's network, and mounts of our own: what the machine mounts later would otherwise appear inside, writable."""
    libc = ctypes.CDLL(None, use_errno=True)
    for name, kind in (("userns", CLONE_NEWUSER), ("netns", CLONE_NEWNET)):
        if name in namespaces and libc.setns(namespaces[name], kind):
            raise OSError(ctypes.get_errno(), "setns")
    if libc.unshare(CLONE_NEWNS) or libc.mount(None, b"/", None, MS_REC_PRIVATE, None):
        raise OSError(ctypes.get_errno(), "mounts of its own")
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)


def _bwrap(view: View, files: dict[str, int], status_fd: int) -> Iterator[str]:
    yield from ("--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev")
    for path in SETTINGS:
        yield from ("--ro-bind-try", path, path)
    for path in OWN:
        yield from ("--perms", "1777" if path != "/run" else "0755", "--tmpfs", path)
    if view.tmp is not None:
        yield from ("--bind", str(view.tmp), "/tmp")  # noqa: S108 - the sandbox's own
    tops = _tops(view)
    for top in tops:
        yield from ("--perms", "0755", "--tmpfs", top)
    for inner in (*view.writable, *view.pinned):
        yield from _way_to(inner)
        yield from ("--bind", str(inner), str(inner))
    for top in tops:
        yield from ("--remount-ro", top)
    for inner in view.protected:
        yield from _way_to(inner)
        yield from ("--ro-bind", str(inner), str(inner))
    for place in view.hidden:
        yield from ("--tmpfs", str(place)) if place.is_dir() else ("--ro-bind", "/dev/null", str(place))
    if RESOLV_CONF.exists() or RESOLV_CONF.is_symlink():
        yield from ("--perms", "0644", "--ro-bind-data", str(files["resolv"]), str(RESOLV_CONF.resolve()))
    yield from ("--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try")
    yield from ("--cap-drop", "ALL")
    if os.geteuid() == 0:
        for capability in ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"):
            yield from ("--cap-add", capability)
    else:
        yield from ("--unshare-user", "--disable-userns")
    yield from ("--seccomp", str(files["seccomp"]), "--json-status-fd", str(status_fd))
    yield from ("--die-with-parent", "--chdir", "/", "--")


def _tops(view: View) -> list[str]:
    """Where the ways begin to what is bound below a shared ``/tmp``. Each is to be a mount of this command's own: a directory in there could be
    replaced, by a command that runs already, by a link that bubblewrap would follow."""
    if view.tmp is None:
        return []
    ways = {path.parts[2] for path in view.writable if path.parts[1] == "tmp" and len(path.parts) > 3}
    return [f"/tmp/{name}" for name in sorted(ways)]  # noqa: S108 - the sandbox's own


def _way_to(inner: Path) -> Iterator[str]:
    """The directories above what is bound into a place of the sandbox's own, where nothing is yet. As root bubblewrap would make them root's alone,
    and nobody could get to what lies below."""
    for parent in reversed(inner.parents):
        if any(str(parent).startswith(f"{place}/") for place in OWN):
            yield from ("--perms", "0755", "--dir", str(parent))


def _become(
    view: View, programs: dict[str, str], signals: Sequence[signal.Signals], command: Sequence[str]
) -> Iterator[str]:
    """Without capabilities, and with signals as a program expects them."""
    if os.geteuid() == 0:
        identity = view.identity
        yield from (
            programs["setpriv"],
            f"--reuid={identity.uid}",
            f"--regid={identity.gid}",
            "--clear-groups",
        )
        yield from ("--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all", "--no-new-privs", "--")
    yield programs["env"]
    if signals:
        yield "--default-signal=" + ",".join(number.name[3:] for number in signals)
    # Not bubblewrap's to enter: as root it has given up the capability to enter what belongs to others.
    yield from (f"--chdir={view.cwd}", "--", f"PWD={view.cwd}")
    if "=" in command[0]:  # which env would take for a variable
        yield from ("/bin/sh", "-c", 'exec "$@"', "sh")
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


def _file(content: bytes, opened: contextlib.ExitStack) -> int:
    """An anonymous file to be read from its start, closed with ``opened``."""
    descriptor = os.memfd_create("egress", os.MFD_CLOEXEC)
    opened.callback(os.close, descriptor)
    os.write(descriptor, content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
