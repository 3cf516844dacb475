"""A sandbox of a program that was not started from a terminal: closed descriptors, ignored signals, a service manager that ends all at once."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.lab.lab import ROOT

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces")
PROLOGUE = """
import json, os, signal, sys, time
TOLD = os.fdopen(os.dup2(int(os.environ["TOLD"]), 60, inheritable=False), "w")
os.close(int(os.environ.pop("TOLD")))
def tell(*what):
    print(json.dumps(what), file=TOLD, flush=True)
def link(pid, descriptor):
    return os.readlink(f"/proc/{pid}/fd/{descriptor}")
def children(pid):
    return open(f"/proc/{pid}/task/{pid}/children").read().split()
def until(met):
    give_up = time.monotonic() + 40
    while not met():
        assert time.monotonic() < give_up
        time.sleep(0.01)
def create():
    from gateway import Sandbox
    return Sandbox.create(allow_internet_access=False, link="lo")
def settled(sbx, commands=0):
    # Nobody is left but netd, the worker and the commands; and what comes behind an answer is done, for it answers once more, to what it refuses.
    from gateway import NetworkPolicy, SetupError
    until(lambda: len(children(sbx._attended.pid)) == 2 + commands)
    try:
        sbx.update_network(NetworkPolicy(resolver="1.1.1.1"))
    except SetupError:
        return sbx._attended.pid
"""


class Program:
    """It has the names of ``PROLOGUE``, and this checkout's sources."""

    def __init__(self, place: Path, text: str) -> None:
        read_end, write_end = os.pipe()
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "EGRESS_AUDIT_DIR": str(place / "records"),
            "EGRESS_KEY_DIR": str(place / "keys"),
            "TOLD": str(write_end),
        }
        # What whoever started the tests ignores, as nohup(1) does, would stay ignored.
        argv = ["env", "--default-signal=HUP,INT,QUIT", sys.executable, "-P", "-c", PROLOGUE + text]
        self._stderr = (place / "stderr").open("w+b")
        self._process = subprocess.Popen(argv, env=environment, pass_fds=[write_end], stderr=self._stderr)
        os.close(write_end)
        self._told = os.fdopen(read_end)

    def lines(self) -> list[list[Any]]:
        """What it told, once it has ended, as it should."""
        try:
            told = [json.loads(line) for line in self._told]
            status = self._process.wait()
        finally:
            self._told.close()
            self._process.kill()
            self._process.wait()
        self._stderr.seek(0)
        with self._stderr:
            assert status == 0, self._stderr.read().decode()
        return told


SUBSETS = [subset for size in (1, 2, 3) for subset in itertools.combinations(range(3), size)]
CLOSES = """
for descriptor in {closed}:
    os.close(descriptor)
sbx = create()
attendant = settled(sbx)
tell([link(pid, n) for pid in (attendant, *children(attendant)) for n in range(3)])
tell(sbx.commands.run("cat; echo out; echo err >&2; exit 7", stdin="in ").stdout)
tell(sbx.update_network(None))
sbx.kill()
tell(os.path.exists(sbx.home))
"""


@needs_root
@pytest.mark.root
@pytest.mark.timeout(60)
def test_whichever_standard_descriptors_the_program_has_closed(tmp_path: Path) -> None:
    programs = {}
    for number, closed in enumerate(SUBSETS):
        place = tmp_path / str(number)
        place.mkdir()
        programs[closed] = Program(place, CLOSES.format(closed=closed))
    for program in programs.values():
        seen, *told = program.lines()
        assert len(seen[0]) >= 9, "the attendant, netd and the worker"
        assert not [one for one in seen[0] if one.startswith("socket:")]
        assert told == [["in out\n"], [2], [False]]


@needs_root
@pytest.mark.root
def test_a_program_that_ignores_the_death_of_its_children(tmp_path: Path) -> None:
    program = Program(
        tmp_path,
        """
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
sbx = create()
tell(sbx.commands.run("exit 7").exit_code)
sbx.kill()
tell(os.path.exists(sbx.home))
""",
    )
    assert program.lines() == [[7], [False]]


@needs_root
@pytest.mark.root
@pytest.mark.timeout(60)
@pytest.mark.parametrize("number", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_service_manager_that_ends_all_at_once(tmp_path: Path, number: str) -> None:
    program = Program(
        tmp_path,
        f"""
from gateway import SandboxClosed
sbx = create()
running = sbx.commands.run("trap : TERM HUP INT; touch trapped; while :; do sleep 1; done", background=True)
until(lambda: os.path.exists(os.path.join(sbx.home, "trapped")))
attendant = settled(sbx, commands=1)
for pid in (*children(attendant), attendant):
    os.kill(int(pid), signal.SIGUSR1)
    os.kill(int(pid), signal.{number})
tell(running.wait().exit_code)
tell(sbx._attended._process.wait(40), os.path.exists(sbx.home))
try:
    sbx.commands.run("true")
except SandboxClosed as error:
    tell(str(error))
sbx.kill()
""",
    )
    code, ended, said = program.lines()
    assert (code, ended) == ([137], [0, False])
    assert "is gone" in said[0]
    verify = [
        sys.executable,
        "-P",
        "-m",
        "gateway",
        "audit",
        "verify",
        "--audit-dir",
        str(tmp_path / "records"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "EGRESS_KEY_DIR": str(tmp_path / "keys")}
    done = subprocess.run(verify, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, "1 signed" in done.stdout) == (0, True), done.stdout


@needs_root
@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(60)
def test_a_command_s_time_is_up_whether_somebody_waits_or_not(tmp_path: Path) -> None:
    program = Program(
        tmp_path,
        """
from gateway import CommandTimeout
sbx = create()
late = sbx.commands.run("echo begun; touch begun; sleep 60; touch ended", background=True, timeout=8)
quick = sbx.commands.run("echo hi", background=True, timeout=8)
until(lambda: os.path.exists(os.path.join(sbx.home, "begun")))
settled(sbx)  # both commands have ended
time.sleep(0.5)
tell(quick.wait().stdout, sorted(os.listdir(sbx.home)))
for _ in range(2):
    try:
        late.wait()
    except CommandTimeout as error:
        tell(error.stdout)
def count():
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in ("self", sbx._attended.pid))
settled(sbx)
before = count()
for _ in range(10):
    try:
        sbx.commands.run("sleep 5", timeout=0.01)
    except CommandTimeout:
        pass
until(lambda: count() <= before)
sbx.kill()
""",
    )
    assert program.lines() == [["hi\n", ["begun"]], ["begun\n"], ["begun\n"]]


@needs_root
@pytest.mark.root
@pytest.mark.timeout(60)
def test_a_process_without_descriptors_refuses_a_command_and_goes_on(tmp_path: Path) -> None:
    program = Program(
        tmp_path,
        """
import resource
from gateway import EgressError
sbx = create()
pid = settled(sbx)
def count():
    return len(os.listdir(f"/proc/{pid}/fd"))
before = count()
limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
highest = max(map(int, os.listdir(f"/proc/{pid}/fd")))
for room in range(1, 14):
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (highest + room, limits[1]))
    for _ in range(3):
        try:
            sbx.commands.run("true", timeout=60)
        except EgressError as error:
            tell(type(error).__name__)
resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
tell(sbx.commands.run("exit 3").exit_code)
until(lambda: count() <= before)
sbx.kill()
""",
    )
    *refused, code = program.lines()
    assert {kind for (kind,) in refused} <= {"SetupError", "SandboxClosed"} and len(refused) > 9
    assert code == [3]
