"""What a sandboxed command sees, looked at from inside."""

import json
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.lab.lab import ROOT, Lab
from tests.lab.sandboxed import egress_argv, egress_run, new_audit_dir
from tests.netns.test_run import processes, wait_for

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]

PYTHON = "/usr/bin/python3"
NOBODY = 65534
OF_LIBC = 3 << 31
"""Signals 32 and 33: libc keeps them for itself, and whoever started the tests may have left them blocked."""
LOOK = """
import json, os, sys
def can_write(path):
    probe = os.path.join(path, f".egress-probe-{os.getpid()}") if os.path.isdir(path) else path
    made = not os.path.exists(probe)
    try:
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT, 0o600))
    except OSError as error:
        return error.errno
    if made:
        os.unlink(probe)
    return 0
def can_move(path):
    try:
        os.rename(path, path + ".moved")
    except OSError as error:
        return error.errno
    return 0
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines())
print(json.dumps({
    "cwd": os.getcwd(),
    "ids": [os.getresuid(), os.getresgid(), os.getgroups()],
    "status": status,
    "write": {path: can_write(path) for path in sys.argv[1].split(":") if path},
    "move": {path: can_move(path) for path in sys.argv[2].split(":") if path},
    "list": {path: sorted(os.listdir(path)) for path in ("/run", "/tmp", "/dev/shm", "/dev", "/", *sys.argv[3:])},
    "pids": [int(name) for name in os.listdir("/proc") if name.isdigit()],
    "namespaces": {name: os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")},
    "fds": {name: os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")},
    "environment": dict(os.environ),
    "hostname": os.uname().nodename,
}))
"""


@pytest.fixture
def work(lab: Lab) -> Iterator[Path]:
    """A directory that the command's user owns."""
    directory = lab.work / "view"
    directory.mkdir()
    os.chown(directory, NOBODY, NOBODY)
    yield directory
    shutil.rmtree(directory)


def look(lab: Lab, starter: int | None, *, write: str = "", move: str = "", **more: Any) -> dict[str, Any]:
    """What ``LOOK`` sees."""
    argv = [PYTHON, "-c", LOOK, write, move]
    outcome = egress_run(lab, argv, allow=["allowed.test"], uid=starter, **more)
    assert outcome.status == 0, (outcome.stderr, outcome.notices)
    said: dict[str, Any] = json.loads(outcome.stdout)
    return said


def test_only_the_current_directory_and_its_own_places_are_writable(
    lab: Lab, starter: int | None, work: Path
) -> None:
    opened = lab.directory / "for-anybody"
    opened.mkdir()
    opened.chmod(0o777)
    own = ["/tmp", "/dev/shm", str(work)]
    others = [
        "/",
        "/etc",
        "/usr/bin",
        "/var/tmp",
        "/run",
        "/home",
        str(lab.work),
        str(opened),
        str(ROOT),
        "/sys",
        "/etc/resolv.conf",
    ]
    seen = look(lab, starter, write=":".join(own + others), cwd=work)
    opened.rmdir()
    assert seen["cwd"] == str(work)
    assert {path: seen["write"][path] for path in own} == dict.fromkeys(own, 0)
    assert {path for path in others if not seen["write"][path]} <= {"/run"}, "which is its own too"
    assert seen["write"][str(opened)] == 30, "EROFS: not by the mode of the file"
    assert list(work.iterdir()) == []


def test_run_tmp_shm_and_dev_are_its_own(lab: Lab, starter: int | None, work: Path) -> None:
    theirs = [Path(place) / f"egress-view-{os.getpid()}" for place in ("/run", "/tmp", "/dev/shm")]
    try:
        for path in theirs:
            path.touch()
        seen = look(lab, starter, cwd=work)
    finally:
        for path in theirs:
            path.unlink()
    assert seen["list"]["/run"] == []
    assert seen["list"]["/dev/shm"] == []
    assert [name for name in seen["list"]["/tmp"] if not name.startswith("x")] == []
    assert set(seen["list"]["/dev"]) <= {
        *(
            "console",
            "core",
            "fd",
            "full",
            "null",
            "ptmx",
            "pts",
            "random",
            "shm",
            "stderr",
            "stdin",
            "stdout",
            "tty",
            "urandom",
            "zero",
        ),
    }


def test_sys_does_not_show_the_machines_interfaces(lab: Lab, starter: int | None, work: Path) -> None:
    class_net = Path("/sys/class/net")
    places = {str(class_net), *(str(device.resolve().parent) for device in class_net.iterdir())}
    outcome = egress_run(
        lab, [PYTHON, "-c", LOOK, "", "", *places], allow=["allowed.test"], uid=starter, cwd=work
    )
    listed = json.loads(outcome.stdout)["list"]
    assert {place: listed[place] for place in places} == {place: [] for place in places}


def test_the_process_holds_nothing(lab: Lab, starter: int | None, work: Path) -> None:
    status = look(lab, starter, cwd=work)["status"]
    capabilities = {name: status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
    assert capabilities == dict.fromkeys(capabilities, "0" * 16)
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"


def test_signals_are_as_a_program_expects_them(lab: Lab, starter: int | None, work: Path) -> None:
    argv = ["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"]
    outcome = egress_run(lab, argv, allow=["allowed.test"], uid=starter, cwd=work)
    _, blocked, _, ignored = outcome.stdout.split()
    assert int(blocked, 16) & ~OF_LIBC == 0
    assert int(ignored, 16) & ~OF_LIBC == 0


def test_it_runs_as_nobody_without_groups(lab: Lab, starter: int | None, work: Path) -> None:
    uids, gids, groups = look(lab, starter, cwd=work)["ids"]
    assert (uids, gids) == ([NOBODY] * 3, [NOBODY] * 3)
    assert set(groups) <= {NOBODY}


def test_as_root_it_runs_as_whom_one_says(lab: Lab) -> None:
    for options, environment, expected in (
        (["--user", "1234:1235"], {}, [1234, 1235]),
        ([], {"SUDO_UID": "1236", "SUDO_GID": "1237"}, [1236, 1237]),
        (["--user", "1234:1235"], {"SUDO_UID": "1236", "SUDO_GID": "1237"}, [1234, 1235]),
    ):
        uids, gids, groups = look(lab, None, options=options, env=environment)["ids"]
        assert ([uids, gids], groups) == ([[expected[0]] * 3, [expected[1]] * 3], [])


def test_every_namespace_is_its_own(lab: Lab, starter: int | None, work: Path) -> None:
    seen = look(lab, starter, cwd=work)
    ours = {name: os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")}
    for name in ("pid", "ipc", "uts", "net", "mnt"):
        assert seen["namespaces"][name] != ours[name], name
    assert os.stat(lab.host).st_ino != int(seen["namespaces"]["net"][5:-1]), "nor the gateway's"
    assert len(seen["pids"]) <= 3 and max(seen["pids"]) < 50


def test_no_descriptor_of_the_caller_gets_inside(lab: Lab, work: Path) -> None:
    with (ROOT / "README.md").open() as inherited, socket.socket() as sock:
        kept = (inherited.fileno(), sock.fileno())
        seen = look(lab, None, cwd=work if work.exists() else lab.work, pass_fds=kept)
    assert set(seen["fds"]) <= {"0", "1", "2"}


def test_dns_is_the_policys_resolver(lab: Lab, starter: int | None, work: Path) -> None:
    outcome = egress_run(
        lab,
        ["cat", "/etc/resolv.conf"],
        allow=["allowed.test"],
        options=["--resolver", "9.9.9.9"],
        uid=starter,
        cwd=work,
    )
    assert [line for line in outcome.stdout.splitlines() if not line.startswith("#")] == [
        "nameserver 9.9.9.9"
    ]


@pytest.mark.parametrize("user_owns", [True, False])
def test_the_audit_directory_stays_whatever_is_bound_around_it(
    lab: Lab, starter: int | None, work: Path, user_owns: bool
) -> None:
    """As does the place of those who name none."""
    outer = work / "outer"
    audit, usual = outer / "deep" / "audit", outer / "usual" / "audit"
    for path in (audit, usual):
        path.mkdir(parents=True)
    if user_owns or starter is not None:
        for path in (outer, audit.parent, audit, usual.parent, usual):
            os.chown(path, NOBODY, NOBODY)
    audit.chmod(0o700 if starter else 0o777)
    paths = ":".join(map(str, (audit, audit.parent, usual, usual.parent)))
    argv = [PYTHON, "-c", LOOK, f"{audit}:{usual}:{outer}", paths]
    command = egress_argv(audit, argv, allow=["allowed.test"], options=["--bind", outer], uid=starter)
    done = lab.run(command, uid=starter, cwd=work, env={"EGRESS_AUDIT_DIR": str(usual)})
    seen = json.loads(done.stdout)
    assert (seen["write"][str(audit)], seen["write"][str(usual)]) == (30, 30)
    assert (seen["write"][str(outer)] == 0) is (user_owns or starter is not None)
    assert all(seen["move"].values())
    assert len(list(audit.glob("*.jsonl"))) == 1


def test_the_installation_stays_where_the_current_directory_holds_it(lab: Lab, work: Path) -> None:
    """A copy of the code in the working directory, all of it the user's own."""
    site = work / "site"
    for package in ("gateway", "matcher", "rules", "audit"):
        shutil.copytree(ROOT / package, site / package, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (site, *site.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    inner = site / "gateway"
    argv = [PYTHON, "-c", LOOK, f"{site}:{inner}:{inner / '__init__.py'}:{work}", f"{site}:{inner}"]
    command = egress_argv(new_audit_dir(lab), argv, allow=["allowed.test"])
    done = lab.run(command, cwd=work, env={"PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"})
    seen = json.loads(done.stdout)
    assert seen["write"] == {str(site): 30, str(inner): 30, str(inner / "__init__.py"): 30, str(work): 0}
    assert all(seen["move"].values())


def test_where_python_imports_from_stays_and_what_lies_in_there_may_be_bound(lab: Lab, work: Path) -> None:
    """By ``python -m`` the current directory: what a command left there would be the gateway the next time."""
    out = work / "out"
    out.mkdir()
    os.chown(out, NOBODY, NOBODY)
    _, *rest = egress_argv(
        new_audit_dir(lab),
        [PYTHON, "-c", LOOK, f"{work}:{out}", ""],
        allow=["allowed.test"],
        options=["--bind", out],
    )
    for options, expected in (["-m"], 30), (["-P", "-m"], 0):
        done = lab.run([sys.executable, *options, "gateway", *rest], cwd=work)
        assert json.loads(done.stdout)["write"] == {str(work): expected, str(out): 0}
        assert ("run egress, or python -P -m gateway" in done.stderr) is (expected != 0)


def test_a_bind_is_writable_and_a_file_can_be_bound(lab: Lab, starter: int | None, work: Path) -> None:
    place, file = lab.directory / "bound", lab.directory / "bound-file"
    place.mkdir()
    file.touch()
    for path in (place, file):
        os.chown(path, NOBODY, NOBODY)
    seen = look(
        lab,
        starter,
        write=f"{place}:{file}:{lab.directory}",
        options=["--bind", place, "--bind", file],
        cwd=work,
    )
    place.rmdir()
    file.unlink()
    assert (seen["write"][str(place)], seen["write"][str(file)]) == (0, 0)
    assert seen["write"][str(lab.directory)] != 0


@pytest.mark.parametrize("place", ["/tmp", "/run"])
def test_what_is_bound_deep_inside_a_place_of_its_own_can_be_got_to(
    lab: Lab, starter: int | None, work: Path, place: str
) -> None:
    """By --bind, and below /tmp as the current directory: there the sandbox's own is empty."""
    with tempfile.TemporaryDirectory(dir=place) as top:
        here, there = (Path(top) / "one" / name for name in ("here", "there"))
        for path in (here, there):
            path.mkdir(parents=True)
            os.chown(path, NOBODY, NOBODY)
        for path in (here.parent, Path(top)):
            path.chmod(0o755)
        cwd = here if place == "/tmp" else work
        seen = look(lab, starter, write=f"{cwd}:{there}", cwd=cwd, options=["--bind", there])
    assert (seen["cwd"], seen["write"]) == (str(cwd), {str(cwd): 0, str(there): 0})


def test_a_private_current_directory_of_the_user_works(lab: Lab, starter: int | None, work: Path) -> None:
    inner = work / "private"
    inner.mkdir(mode=0o700)
    os.chown(inner, NOBODY, NOBODY)
    seen = look(lab, starter, write=str(inner), cwd=inner)
    assert (seen["cwd"], seen["write"][str(inner)]) == (str(inner), 0)


@pytest.mark.parametrize("cwd", ["/", "/proc", "/sys", "/run", "/run/lock"])
def test_from_odd_places_it_starts_somewhere_harmless(lab: Lab, starter: int | None, cwd: str) -> None:
    if not Path(cwd).is_dir():
        pytest.skip(f"this machine has no {cwd}")
    seen = look(lab, starter, write=cwd, cwd=cwd)
    assert seen["cwd"] in ("/", "/run")
    assert seen["write"][cwd] != 0 or cwd.startswith("/run"), "its own"
    assert not list(Path(cwd).glob(".egress-probe*"))


def test_the_environment_is_the_callers_with_the_users_names(lab: Lab, work: Path) -> None:
    seen = look(lab, None, cwd=work, env={"GREETING": "hello", "HOME": "/root"})
    environment = seen["environment"]
    assert (environment["GREETING"], environment["USER"], environment["HOME"]) == ("hello", "nobody", "/tmp")
    assert environment["PWD"] == str(work)


def test_what_the_machine_mounts_later_does_not_appear_inside(
    lab: Lab, starter: int | None, work: Path
) -> None:
    """Where mounts are shared, as systemd has them, a disk that is mounted while the command runs would be writable for it."""
    disk = lab.directory / "disk"
    disk.mkdir()
    script = """
mount --bind "$1" "$1"; mount --make-shared "$1"; place=$1; shift
"$@" & pid=$!
while [ ! -e started ]; do sleep 0.05; done
mount -t tmpfs -o mode=1777 none "$place/later"
touch mounted; wait $pid
"""
    (disk / "later").mkdir()
    inside = f"touch started; while [ ! -e mounted ]; do sleep 0.05; done; grep -c {disk}/later /proc/self/mounts; touch {disk}/later/x"
    command = egress_argv(
        new_audit_dir(lab, starter), ["sh", "-c", inside], allow=["allowed.test"], uid=starter
    )
    become = (
        []
        if starter is None
        else ["setpriv", f"--reuid={starter}", f"--regid={starter}", "--clear-groups", "env"]
    )
    done = lab.run(["unshare", "--mount", "sh", "-ec", script, "sh", disk, *become, *command], cwd=work)
    shutil.rmtree(disk)
    assert done.stdout == "0\n"
    assert "Read-only file system" in done.stderr


def test_the_machines_sockets_in_run_and_tmp_cannot_be_reached(
    lab: Lab, work: Path, starter: int | None
) -> None:
    with ExitStack() as stack:
        paths = []
        for place in ("/run", "/tmp"):
            path = Path(place) / f"egress-view-{os.getpid()}.sock"
            server = stack.enter_context(socket.socket(socket.AF_UNIX))
            server.bind(str(path))
            stack.callback(path.unlink)
            path.chmod(0o777)
            server.listen()
            paths.append(str(path))
        script = (
            "import socket, sys\nfor p in sys.argv[1:]:\n print(socket.socket(socket.AF_UNIX).connect_ex(p))"
        )
        outcome = egress_run(
            lab, [PYTHON, "-c", script, *paths], allow=["allowed.test"], uid=starter, cwd=work
        )
    assert outcome.stdout.split() == ["2", "2"], "ENOENT"


def test_a_planted_setpriv_is_not_run(lab: Lab, work: Path) -> None:
    """An earlier command may have put it into a directory of the caller's PATH; what it is asked to do, it would do as root."""
    planted = work / "bin"
    planted.mkdir()
    for name in ("setpriv", "bwrap"):
        (planted / name).write_text(f'#!/bin/sh\ntouch {work}/planted-{name}\nexec /usr/bin/{name} "$@"\n')
        (planted / name).chmod(0o755)
    path = f"{planted}:{os.environ['PATH']}"
    seen = look(lab, None, cwd=work, env={"PATH": path})
    assert seen["environment"]["PATH"].startswith(f"{planted}:")
    assert list(work.glob("planted-*")) == []


def test_pid_1_and_the_machine_see_no_leftover_when_it_is_over(
    lab: Lab, work: Path, starter: int | None
) -> None:
    """What the command leaves running ends with it."""
    script = "setsid sleep 98765 & setsid nohup sleep 98765 >/dev/null 2>&1 & exit 3"
    outcome = egress_run(lab, ["sh", "-c", script], allow=["allowed.test"], uid=starter, cwd=work)
    assert outcome.status == 3
    wait_for(lambda: not processes("sleep 98765"))
