"""How the command is started: which programs, which signals, which terminal."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from gateway import launch
from gateway.errors import SetupError
from gateway.view import Identity, View
from tests.gateway.asked import few_descriptors, open_descriptors
from tests.lab.lab import ROOT

NONE: Mapping[str, str] = MappingProxyType({})


def view(tmp: Path | None = None, **changes: tuple[Path, ...]) -> View:
    """A plain one, with some paths."""
    paths = {"writable": (), "pinned": (), "protected": (), "hidden": (), **changes}
    return View(
        Identity(1000, 1001),
        Path("/srv"),
        resolver="192.0.2.53",
        environment=NONE,
        notices=(),
        tmp=tmp,
        **paths,
    )


def bwrap(tmp: Path | None = None, **changes: tuple[Path, ...]) -> list[str]:
    """Its arguments."""
    return list(launch._bwrap(view(tmp, **changes), {"seccomp": 10, "resolv": 11}, 12))


def position(arguments: list[str], *words: str) -> int:
    """Where ``words`` stand one after the other."""
    return next(i for i in range(len(arguments)) if arguments[i : i + len(words)] == list(words))


def test_what_is_protected_is_mounted_over_what_is_writable() -> None:
    arguments = bwrap(
        writable=(Path("/srv"),),
        pinned=(Path("/srv/logs"),),
        protected=(Path("/srv/logs/audit"),),
        hidden=(Path("/usr"),),
    )
    order = [
        position(arguments, "--ro-bind", "/", "/"),
        position(arguments, "--tmpfs", "/run"),
        position(arguments, "--bind", "/srv", "/srv"),
        position(arguments, "--bind", "/srv/logs", "/srv/logs"),
        position(arguments, "--ro-bind", "/srv/logs/audit", "/srv/logs/audit"),
        position(arguments, "--tmpfs", "/usr"),
    ]
    assert order == sorted(order)


def test_the_way_to_what_lies_deep_in_a_place_of_its_own_is_open() -> None:
    """As root bubblewrap would make it with mode 0700."""
    arguments = bwrap(writable=(Path("/tmp/one/two"), Path("/srv/one/two")), protected=(Path("/run/a/b"),))
    for parent, bound in (("/tmp/one", "/tmp/one/two"), ("/run/a", "/run/a/b")):
        assert position(arguments, "--perms", "0755", "--dir", parent) < arguments.index(bound)
    assert not {"/srv/one", "/srv", "/tmp"} & {
        arguments[i + 1] for i, word in enumerate(arguments) if word == "--dir"
    }


def test_the_way_through_a_shared_tmp_is_a_mount_of_the_commands_own() -> None:
    arguments = bwrap(
        writable=(Path("/srv/a"), Path("/tmp/a"), Path("/tmp/one/two"), Path("/tmp/one/x/y")), tmp=Path("/t")
    )
    order = [
        position(arguments, "--bind", "/t", "/tmp"),
        position(arguments, "--tmpfs", "/tmp/one"),
        position(arguments, "--bind", "/tmp/one/two", "/tmp/one/two"),
        position(arguments, "--bind", "/tmp/one/x/y", "/tmp/one/x/y"),
        position(arguments, "--remount-ro", "/tmp/one"),
    ]
    assert order == sorted(order)
    assert arguments.count("--tmpfs") == len(launch.OWN) + 1


def test_settings_of_the_kernel_are_read_only() -> None:
    """Root becomes the user inside."""
    arguments = bwrap()
    assert position(arguments, "--proc", "/proc") < position(
        arguments, "--ro-bind-try", "/proc/sys", "/proc/sys"
    )


def test_a_file_is_hidden_by_an_empty_one() -> None:
    assert position(bwrap(hidden=(Path("/etc/passwd"),)), "--ro-bind", "/dev/null", "/etc/passwd") > 0


def test_every_namespace_and_the_filter_are_asked_for() -> None:
    arguments = bwrap()
    for word in ("--unshare-pid", "--unshare-ipc", "--unshare-uts", "--die-with-parent"):
        assert word in arguments
    assert position(arguments, "--seccomp", "10")
    assert position(arguments, "--cap-drop", "ALL") < arguments.index("--cap-add")
    added = {arguments[i + 1] for i, word in enumerate(arguments) if word == "--cap-add"}
    assert added == {"CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"}, "what setpriv needs, and drops"


def become(*command: str) -> list[str]:
    """What bubblewrap runs."""
    programs = {"setpriv": "/usr/bin/setpriv", "env": "/usr/bin/env"}
    return list(launch._become(view(), programs, launch.FORWARDED, command))


def test_root_is_given_up_before_the_command() -> None:
    arguments = become("true")
    assert arguments[:4] == ["/usr/bin/setpriv", "--reuid=1000", "--regid=1001", "--clear-groups"]
    for word in ("--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all", "--no-new-privs"):
        assert word in arguments
    assert arguments[-1] == "true"


def test_a_command_with_an_equals_sign_is_no_variable(tmp_path: Path) -> None:
    odd = tmp_path / "a=b"
    odd.write_text('#!/bin/sh\necho "ran $1"; exit 7\n')
    odd.chmod(0o755)
    arguments = become(str(odd), "x y")
    done = subprocess.run(
        arguments[arguments.index("/usr/bin/env") :], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("ran x y\n", 7)


def test_programs_are_not_looked_for_in_the_callers_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("bwrap", "setpriv", "env"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for path in launch._programs().values():
        assert path.startswith(("/usr/", "/bin/")), path


def test_a_missing_program_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(launch, "SYSTEM_PATH", str(tmp_path))
    with pytest.raises(SetupError, match="bwrap is not installed: apt-get install bubblewrap"):
        launch._programs()


def test_a_machine_without_a_filter_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(SetupError, match="no seccomp filter for riscv64"):
        launch._filter()


def test_what_the_caller_ignores_stays_ignored() -> None:
    script = "from gateway.launch import forwarded; print(*(number.name for number in forwarded()))"
    said = [
        subprocess.run([*prefix, sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=True)
        for prefix in (["env"], ["env", "--ignore-signal=HUP"])
    ]
    assert said[0].stdout.split() == b"SIGTERM SIGHUP SIGINT SIGQUIT SIGUSR1 SIGUSR2".split()
    assert said[1].stdout.split() == b"SIGTERM SIGINT SIGQUIT SIGUSR1 SIGUSR2".split()


class Dead:
    """Bubblewrap's report when it ended without starting anything."""

    def __init__(self, *argv: str) -> None:
        read_end, write_end = os.pipe()
        os.close(write_end)
        self.process = subprocess.Popen(argv)
        self.command = launch.Command(self.process, os.fdopen(read_end, "rb"))


def test_bubblewrap_that_fails_is_no_exit_status_of_the_command() -> None:
    with pytest.raises(SetupError, match="could not make the sandbox"):
        Dead("false").command.finish()


def test_bubblewrap_that_is_killed_is_told_as_a_shell_would() -> None:
    dead = Dead("sleep", "60")
    dead.process.send_signal(signal.SIGKILL)
    assert dead.command.finish() == 137


def test_a_signal_for_a_command_that_never_started_is_let_go() -> None:
    dead = Dead("true")
    dead.command.forward(signal.SIGTERM)
    with pytest.raises(SetupError):
        dead.command.finish()


def test_a_signal_for_a_command_that_was_reaped_goes_nowhere() -> None:
    """Both can be told in one turn; its numbers may be another's by then."""
    other = subprocess.Popen(["sleep", "20"])
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "wb") as status:
        status.write(b'{"child-pid": %d}\n{"exit-code": 130}\n' % os.getpid())
    command = launch.Command(subprocess.Popen(["true"]), os.fdopen(read_end, "rb"))
    try:
        assert command.finish() == 130
        assert command.stopped_by() is None
        command.forward(signal.SIGKILL)
        command.forward(signal.SIGKILL, group=True)
        command.signal_group(signal.SIGKILL)
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(0.05)
    finally:
        other.kill()
        other.wait()


def test_a_stop_is_told_once_and_an_end_is_none() -> None:
    read_end, write_end = os.pipe()
    os.close(write_end)
    process = subprocess.Popen(["sleep", "20"], process_group=0)
    command = launch.Command(process, os.fdopen(read_end, "rb"))
    assert command.stopped_by() is None
    command.signal_group(signal.SIGTSTP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    assert [command.stopped_by(), command.stopped_by()] == [signal.SIGTSTP, None]
    command.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert command.stopped_by() is None
    assert command.finish() == 137


@pytest.fixture
def with_programs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whether they are installed or not; none is started. The signals are as they were at the end."""
    monkeypatch.setattr(launch, "_programs", lambda: {name: f"/nowhere/{name}" for name in launch.PROGRAMS})
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield
    assert signal.pthread_sigmask(signal.SIG_SETMASK, before) == before


@pytest.mark.usefixtures("with_programs")
@pytest.mark.parametrize("environment", [{"a=b": "c"}, {"a": "\0"}, {}])
def test_what_cannot_be_started_leaves_nothing_open(environment: dict[str, str]) -> None:
    before = open_descriptors()
    for _ in range(10):
        with pytest.raises(SetupError, match="bwrap could not be started"):
            launch.launch(replace(view(), environment=environment), ["true"], {})
    assert open_descriptors() == before


@pytest.mark.usefixtures("with_programs")
@pytest.mark.parametrize("room", range(1, 6))
def test_nor_where_no_descriptors_are_left(room: int) -> None:
    before = open_descriptors()
    with few_descriptors(room):
        for _ in range(10):
            with pytest.raises(SetupError, match="bwrap could not be started"):
                launch.launch(view(), ["true"], {})
    assert open_descriptors() == before
