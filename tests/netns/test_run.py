"""``egress run`` as a program: exit status, streams, signals, and what is left when it ends in any way."""

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.lab import Lab
from tests.lab.places import GOOD_IP
from tests.lab.sandboxed import (
    DECISIONS,
    NOTICE,
    Outcome,
    egress_argv,
    egress_run,
    in_session,
    new_audit_dir,
    read_records,
)
from tests.netns.puppet import children

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]

ALLOW = ("allowed.test",)
PYTHON = "/usr/bin/python3"


def run(lab: Lab, *command: str, starter: int | None = None, options: tuple[str | Path, ...] = ()) -> Outcome:
    """One command."""
    return egress_run(lab, command, allow=ALLOW, uid=starter, options=options)


def start(lab: Lab, *command: str, uid: int | None = None) -> "subprocess.Popen[str]":
    """One that goes on."""
    return lab.popen(egress_argv(new_audit_dir(lab, uid), command, allow=ALLOW, uid=uid), uid=uid)


def wait_for(what: Callable[[], object], timeout_s: float = 15.0, pause_s: float = 0.02) -> None:
    """Until it is true."""
    give_up = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < give_up, "it did not come to pass"
        time.sleep(pause_s)


def processes(mark: str) -> dict[int, str]:
    """Of the machine, those whose command line holds ``mark``."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (
                line := (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            ):
                found[int(path.name)] = line
    return found


# -- exit status


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 7"], 7),
        (["sh", "-c", "exit 255"], 255),
        (["sh", "-c", "kill -TERM $$"], 143),
        (["sh", "-c", "kill -KILL $$"], 137),
        (["sh", "-c", "kill -INT $$"], 130),
        (["sh", "-c", "ulimit -c 0; kill -SEGV $$"], 139),
        (["/etc/passwd"], 126),
        (["/etc"], 126),
        (["no-such-program"], 127),
        (["/no/such/program"], 127),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_it_ends_with_the_commands_status(
    lab: Lab, starter: int | None, command: list[str], status: int
) -> None:
    outcome = egress_run(lab, command, allow=ALLOW, uid=starter, env={"PATH": "/usr/bin:/bin"})
    assert outcome.status == status


def test_a_missing_program_is_missing_though_root_has_places_of_its_own_in_path(lab: Lab) -> None:
    place = lab.directory / "private-bin"
    place.mkdir(mode=0o700)
    outcome = egress_run(lab, ["no-such-program"], allow=ALLOW, env={"PATH": f"{place}:/usr/bin:/bin"})
    place.rmdir()
    assert outcome.status == 127


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["run"], 2, "no command"),
        (["run", "--"], 2, "no command"),
        (["run", "--nonsense", "--", "true"], 2, ""),
        (["run", "--bind", "/no/such", "--", "true"], 2, "there is no such path"),
        (["run", "--bind", "/proc", "--", "true"], 2, "cannot be handed in"),
        (["run", "--user", "0:0", "--", "true"], 2, "root inside the sandbox is refused"),
        (["run", "--user", "alice", "--", "true"], 2, "write it in numbers"),
        (["run", "--policy", "/x", "--allow-out", "a.test", "--", "true"], 2, "both say what the policy is"),
        (["run", "--allow-out", "not a name", "--", "true"], 78, ""),
        (["run", "--resolver", "127.0.0.1", "--", "true"], 78, "floor"),
        (["run", "--audit-dir", "/dev/null", "--", "true"], 125, "no records can be kept in /dev/null"),
        (["run", "--audit-dir", "/proc/x", "--", "true"], 125, "no records can be kept in /proc/x"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_start_says_why_in_one_line(
    lab: Lab, arguments: list[str], status: int, said: str
) -> None:
    from tests.lab.sandboxed import EGRESS

    audit = new_audit_dir(lab)
    done = lab.run([EGRESS, *arguments], env={"EGRESS_AUDIT_DIR": str(audit)})
    assert done.returncode == status, done.stderr
    assert list(audit.iterdir()) == [], "nothing was begun"
    assert done.stdout == ""
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert all(line.startswith(NOTICE) for line in done.stderr.splitlines())
    assert status == 78 or len(done.stderr.splitlines()) == 1


def test_a_link_that_needs_root_is_a_missing_privilege(lab: Lab, starter: int | None) -> None:
    if starter is None:
        pytest.skip("it is root")
    audit = new_audit_dir(lab, starter)
    argv = egress_argv(audit, ["true"], allow=ALLOW, uid=starter, options=["--link", "veth"])
    done = lab.run(argv, uid=starter)
    assert (done.returncode, done.stdout, list(audit.iterdir())) == (77, "", [])
    assert "the veth link needs root" in done.stderr and "Traceback" not in done.stderr


def test_a_current_directory_that_is_gone_is_one_line(lab: Lab) -> None:
    script = 'mkdir "$1-gone" && cd "$1-gone" && rmdir "$1-gone" && shift && exec "$@"'
    audit = new_audit_dir(lab)
    done = lab.run(["sh", "-c", script, "sh", audit, *egress_argv(audit, ["true"], allow=ALLOW)])
    assert (done.returncode, done.stdout, list(audit.iterdir())) == (125, "", [])
    assert "the current directory: No such file or directory; change to" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bad_sudo_uid_is_an_error_of_usage(lab: Lab) -> None:
    argv = egress_argv(new_audit_dir(lab), ["true"], allow=ALLOW)
    done = lab.run(argv, env={"SUDO_UID": "alice"})
    assert (done.returncode, "SUDO_UID='alice' is no uid" in done.stderr) == (2, True)


# -- streams


TEE = "import os, sys\nwhile data := os.read(0, 65536):\n for f in (sys.stdout.buffer, sys.stderr.buffer):\n  f.write(data)\n  f.flush()"


def test_streams_are_passed_on_byte_by_byte(lab: Lab, starter: int | None) -> None:
    data = os.urandom(3_000_000)
    argv = egress_argv(new_audit_dir(lab, starter), [PYTHON, "-c", TEE], allow=ALLOW, uid=starter)
    with lab.popen(argv, uid=starter, stdin=subprocess.PIPE, text=False) as process:
        communicate: Any = process.communicate
        out, err = communicate(data, timeout=30)
    digest = hashlib.sha256(data).digest()
    assert hashlib.sha256(out).digest() == digest
    start_of_data = err.index(data[:64])
    assert hashlib.sha256(err[start_of_data : start_of_data + len(data)]).digest() == digest
    own = err[:start_of_data] + err[start_of_data + len(data) :]
    assert all(line.startswith(NOTICE.encode()) for line in own.splitlines())


@pytest.mark.parametrize("number", ["TERM", "KILL", "SEGV", "INT"])
def test_nothing_is_added_to_what_a_killed_command_said(lab: Lab, starter: int | None, number: str) -> None:
    outcome = run(lab, "sh", "-c", f"ulimit -c 0; echo last >&2; kill -{number} $$", starter=starter)
    assert (outcome.status > 128, outcome.stdout, outcome.stderr) == (True, "", "last\n")


def test_the_streams_can_be_opened_by_name(lab: Lab) -> None:
    """Pipes of root's, to a command that is not root."""
    outcome = run(lab, "sh", "-c", "echo out > /dev/stdout; echo err > /dev/stderr")
    assert (outcome.status, outcome.stdout, outcome.stderr) == (0, "out\n", "err\n")


def test_an_end_of_file_reaches_the_command(lab: Lab) -> None:
    assert egress_run(lab, ["cat"], allow=ALLOW, input="hello").stdout == "hello"
    assert run(lab, "cat").stdout == ""


def test_its_own_words_are_on_stderr_and_marked(lab: Lab) -> None:
    argv = egress_argv(new_audit_dir(lab), ["curl", "-s", "http://blocked.test/"], allow=ALLOW)
    done = lab.run(argv)
    assert NOTICE not in done.stdout
    lines = done.stderr.splitlines()
    assert all(line.startswith(NOTICE) for line in lines)
    assert any(re.fullmatch(r"egress: 0 allowed, 1 blocked; records in /.*\.jsonl", line) for line in lines)
    assert any("blocked.test" in line for line in lines)


# -- options


def test_the_sandbox_has_the_name_that_was_given(lab: Lab) -> None:
    outcome = run(lab, "curl", "-s", "http://blocked.test/", options=("--name", "agent-7 \u00fc"))
    assert {record["sandbox"] for record in outcome.decisions} == {"agent-7 \u00fc"}
    made_up = run(lab, "curl", "-s", "http://blocked.test/").decisions[0]["sandbox"]
    assert re.fullmatch(r"run-[0-9a-f]{6}", made_up)


@pytest.mark.parametrize("name", [os.fsdecode(b"x\xff"), "", "a\nb", "x" * 129, "\u00fc" * 65])
def test_a_name_that_fits_no_record_is_refused(lab: Lab, name: str) -> None:
    argv = egress_argv(new_audit_dir(lab), ["curl", "-s", "http://blocked.test/"], allow=ALLOW)
    argv[argv.index("--") : argv.index("--")] = ["--name", name]
    done = lab.run(argv)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)


def test_an_audit_directory_that_others_can_write_is_said(lab: Lab) -> None:
    audit = new_audit_dir(lab)
    audit.chmod(0o777)
    done = lab.run(egress_argv(audit, ["true"], allow=ALLOW))
    assert done.returncode == 0
    assert f"others can write to the audit directory {audit}" in done.stderr


def test_an_audit_directory_that_cannot_be_written_starts_nothing(lab: Lab, starter: int | None) -> None:
    if starter is None:
        pytest.skip("root can write everywhere")
    done = lab.run(
        egress_argv(new_audit_dir(lab), ["echo", "started"], allow=ALLOW, uid=starter), uid=starter
    )
    assert (done.returncode, done.stdout) == (125, "")
    assert "no records can be kept" in done.stderr


def test_records_go_on_when_the_directory_is_deleted_meanwhile(lab: Lab) -> None:
    audit = new_audit_dir(lab)
    script = "echo up; read word; curl -s -o /dev/null -w '%{http_code}' http://blocked.test/; exit 5"
    argv = egress_argv(audit, ["sh", "-c", script], allow=ALLOW)
    with lab.popen(argv, stdin=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        wait_for(lambda: is_removed(audit))
        out, err = process.communicate("go\n", timeout=40)
    assert (out, process.returncode) == ("403", 5)
    assert "Traceback" not in err
    assert "0 allowed, 1 blocked" in err


def is_removed(directory: Path) -> bool:
    """Whether that could be done. Who looks after the records there at first may be putting something in meanwhile."""
    with contextlib.suppress(OSError):
        for path in directory.iterdir():
            path.unlink()
        directory.rmdir()
    return not directory.exists()


# -- signals


TRAP = """
import os, signal, sys, time
def on(number, frame):  # perhaps in the middle of a print
    os.write(1, signal.Signals(number).name.encode() + b"\\n")
    if number == signal.SIGTERM:
        sys.exit(9)
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, on)
print("ready", flush=True)
while True:
    time.sleep(60)
"""


def egress_pid(process: "subprocess.Popen[str]") -> int:
    """``nsenter`` and ``setpriv`` become what they start."""
    return process.pid


def test_signals_reach_the_commands_handlers_once(lab: Lab, starter: int | None) -> None:
    with start(lab, PYTHON, "-c", TRAP, uid=starter) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for name in ("SIGHUP", "SIGINT", "SIGQUIT", "SIGUSR1", "SIGUSR2"):
            os.kill(egress_pid(process), signal.Signals[name])
            assert process.stdout.readline() == f"{name}\n"
        os.kill(egress_pid(process), signal.SIGTERM)
        assert process.stdout.read() == "SIGTERM\n", "each once"
        assert process.wait(30) == 9


def test_a_signal_to_the_whole_group_reaches_the_command_once(lab: Lab) -> None:
    with start(lab, PYTHON, "-c", TRAP) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.killpg(process.pid, signal.SIGUSR1)
        assert process.stdout.readline() == "SIGUSR1\n"
        os.kill(process.pid, signal.SIGTERM)
        assert process.stdout.read() == "SIGTERM\n"
        assert process.wait(30) == 9


def test_a_command_without_handlers_ends_by_the_signal(lab: Lab, starter: int | None) -> None:
    with start(lab, "sh", "-c", "echo up; exec sleep 50", uid=starter) as process:
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(30) == 143


def test_no_signal_is_lost_while_the_command_starts(lab: Lab) -> None:
    """Bubblewrap must not die of it, nor swallow it: sent as soon as there are the two of it, the one outside and pid 1."""
    with start(lab, "sleep", "50") as process:

        def begun() -> bool:
            names = [comm(pid) for pid in descendants(process.pid)]
            return names.count("bwrap") >= 2 or "sleep" in names

        wait_for(begun, pause_s=0.0)
        os.kill(process.pid, signal.SIGTERM)
        try:
            assert process.wait(30) == 143
        finally:
            process.kill()


def comm(pid: int) -> str:
    """The name of the program that a process runs; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def descendants(pid: int) -> Iterator[int]:
    """Children and theirs."""
    with contextlib.suppress(OSError):
        for child in children(pid):
            yield child
            yield from descendants(child)


def test_what_the_caller_ignores_the_command_ignores(lab: Lab) -> None:
    argv = [
        "env",
        "--ignore-signal=HUP",
        *egress_argv(new_audit_dir(lab), [PYTHON, "-c", TRAP.replace("signal.SIGHUP, ", "")], allow=ALLOW),
    ]
    with lab.popen(argv) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, signal.SIGHUP)
        os.kill(process.pid, signal.SIGUSR1)
        assert process.stdout.readline() == "SIGUSR1\n"
        os.kill(process.pid, signal.SIGTERM)
        assert process.stdout.read() == "SIGTERM\n"


def test_kill_0_inside_reaches_nobody_outside(lab: Lab) -> None:
    """A process group reaches across process namespaces: it must not be shared with a neighbour of the same user."""
    argv = egress_argv(new_audit_dir(lab), ["sh", "-c", "kill -KILL 0"], allow=ALLOW)
    script = 'setpriv --reuid=65534 --regid=65534 --clear-groups sleep 30 & "$@"; echo "$?"; kill -0 $! && echo alive; kill $!'
    done = lab.run(["sh", "-c", script, "sh", *argv])
    assert done.stdout == "137\nalive\n"


# -- what is left


def living() -> set[str]:
    """The network namespaces that processes of the machine are in."""
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            found.add(os.readlink(path / "ns" / "net"))
    return found


def mounts() -> set[str]:
    """Of this process's namespace, but for labs."""
    return {line for line in Path("/proc/self/mounts").read_text().splitlines() if "/run/netns" not in line}


@pytest.fixture
def cells(lab: Lab) -> Iterator[set[str]]:
    """To be filled with the network namespaces of runs: afterwards they are gone, and processes and mounts are as before."""
    before = mounts()
    seen: set[str] = set()
    yield seen
    assert seen and os.readlink("/proc/self/ns/net") not in seen
    wait_for(lambda: not processes(str(lab.directory / "audit-")))
    wait_for(lambda: not processes("sleep 4321"))
    wait_for(lambda: not living() & seen)
    assert mounts() == before


SAY_CELL = "readlink /proc/self/ns/net; "


def test_a_run_leaves_nothing(lab: Lab, starter: int | None, cells: set[str]) -> None:
    outcome = run(lab, "sh", "-c", SAY_CELL + "sleep 4321 & true", starter=starter)
    assert outcome.status == 0
    cells.add(outcome.stdout.strip())


def test_egress_killed_leaves_nothing(lab: Lab, starter: int | None, cells: set[str]) -> None:
    script = "setsid sleep 4321 & " + SAY_CELL + "exec sleep 4321"
    with start(lab, "sh", "-c", script, uid=starter) as process:
        assert process.stdout is not None
        cells.add(process.stdout.readline().strip())
        assert cells <= living()
        wait_for(lambda: [*processes("sleep 4321").values()].count("sleep 4321 ") == 2)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(30)


def test_bubblewrap_killed_is_told_and_leaves_nothing(lab: Lab, cells: set[str]) -> None:
    with start(lab, "sh", "-c", "setsid sleep 4321 & " + SAY_CELL + "exec sleep 4321") as process:
        assert process.stdout is not None
        cells.add(process.stdout.readline().strip())
        outer = [pid for pid in children(process.pid) if "bwrap" in processes("bwrap").get(pid, "")]
        assert len(outer) == 1
        os.kill(outer[0], signal.SIGKILL)
        assert process.wait(30) == 137


CLIENT = """
import http.client, sys
for line in sys.stdin:
    connection = http.client.HTTPConnection("allowed.test", timeout=30)
    try:
        connection.request("GET", "/")
        print(connection.getresponse().status, flush=True)
    except OSError as error:
        print(type(error).__name__, flush=True)
    connection.close()
"""


def test_a_worker_that_dies_is_replaced(lab: Lab) -> None:
    audit = new_audit_dir(lab)
    with lab.popen(egress_argv(audit, [PYTHON, "-c", CLIENT], allow=ALLOW), stdin=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None

        def ask() -> str:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write("x\n")
            process.stdin.flush()
            return process.stdout.readline()

        assert ask() == "200\n"
        worker = worker_of(process.pid)
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: worker_of(process.pid) not in (0, worker))
        assert ask() == "200\n"
        process.stdin.close()
        assert process.wait(30) == 0
    assert [record["event"] for record in read_records(audit)].count("egress_allowed") == 2


def worker_of(pid: int) -> int:
    """The child that runs as nobody and is no bubblewrap."""
    for child in children(pid):
        with contextlib.suppress(OSError):
            uid = os.stat(f"/proc/{child}").st_uid
            status = Path(f"/proc/{child}/status").read_text()
            if "Uid:\t65534" in status or (uid == 65534 and "bwrap" not in status):
                return child
    return 0


def test_two_runs_at_a_time_do_not_meet(lab: Lab) -> None:
    audits = [new_audit_dir(lab), new_audit_dir(lab)]
    policies = [("allowed.test",), ("two.test",)]
    script = "for n in allowed two; do curl -s -o /dev/null -w '%{http_code} ' http://$n.test/; done"
    running = [
        lab.popen(egress_argv(audit, ["sh", "-c", script], allow=allow))
        for audit, allow in zip(audits, policies, strict=True)
    ]
    outs = [process.communicate(timeout=30)[0] for process in running]
    assert outs == ["200 403 ", "403 200 "]
    for audit in audits:
        events = sorted(record["event"] for record in read_records(audit) if record["event"] in DECISIONS)
        assert events == ["egress_allowed", "egress_blocked"]


def test_what_is_bound_can_be_used(lab: Lab) -> None:
    place = lab.directory / "out"
    place.mkdir()
    os.chown(place, 65534, 65534)
    outcome = run(lab, "curl", "-s", "-o", f"{place}/page", "http://allowed.test/", options=("--bind", place))
    assert outcome.status == 0
    assert json.loads((place / "page").read_text())["address"] == GOOD_IP
    (place / "page").unlink()
    place.rmdir()


@pytest.mark.timeout(120)
def test_a_gateway_killed_while_the_sandbox_is_made_leaves_nobody(lab: Lab) -> None:
    """Bubblewrap is two processes by then, and one waits for a word of the other."""
    for _ in range(8):
        with start(lab, "sleep", "50") as process:
            wait_for(
                lambda: [inner for pid in children_of(process.pid, "bwrap") for inner in children_of(pid)],
                pause_s=0,
            )
            os.kill(process.pid, signal.SIGKILL)
        wait_for(lambda: not in_session(process.pid))


def children_of(pid: int, name: str | None = None) -> list[int]:
    """Children of a process, those alone that are called ``name``."""
    try:
        found = children(pid)
        return [child for child in found if name in (None, Path(f"/proc/{child}/comm").read_text().strip())]
    except OSError:
        return []
