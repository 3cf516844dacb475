"""What a command, or a program that forks, could do to a ``Sandbox`` so that something of it stays, or the rest of it goes."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.lab.lab import ROOT, Lab
from tests.lab.sandboxed import in_session, new_audit_dir
from tests.netns.test_run import wait_for
from tests.netns.test_sandbox import Told, program

pytestmark = [pytest.mark.root, pytest.mark.timeout(90)]

DEEP = "import os\nfor _ in range(3000):\n    os.mkdir('a')\n    os.chdir('a')"
FORKS = """
sbx = Sandbox.create(allow_internet_access=False)
behind = sbx.commands.run("exec sleep 600", background=True)
tell(sbx._attended.pid, os.fork())
sys.stdin.read()
"""


def test_what_commands_leave_goes_however_deep_or_closed_it_is(lab: Lab, starter: int | None) -> None:
    told = Told(
        lab,
        f"""
        with Sandbox.create(allow_internet_access=False) as sbx:
            home = sbx.home
            closed = sbx.commands.run("mkdir -p x/y && chmod 0 x").exit_code
            deep = sbx.commands.run(["/usr/bin/python3", "-c", {DEEP!r}]).exit_code
        tell(closed, deep, os.path.exists(os.path.dirname(home)))
        """,
        starter,
    )
    assert told.lines == [[0, 0, False]]


def test_a_command_that_cannot_be_started_is_no_other_s_trouble(lab: Lab) -> None:
    told = Told(
        lab,
        """
        with Sandbox.create(allow_internet_access=False) as sbx:
            for asked in ({"cmd": "true", "envs": {"A=B": "x"}}, {"cmd": ["true", "x" * 130_000]}):
                try:
                    tell(sbx.commands.run(**asked).exit_code)
                except (EgressError, ValueError) as error:
                    tell(isinstance(error, SandboxClosed))
            tell(sbx.commands.run("exit 3").exit_code)
        """,
    )
    assert told.lines[0] == [False]
    assert told.lines[-1] == [3]


def test_a_fork_of_the_program_keeps_nothing_alive(lab: Lab) -> None:
    with lab.popen(
        [sys.executable, "-c", program(FORKS)],
        cwd=ROOT,
        env={"EGRESS_AUDIT_DIR": str(new_audit_dir(lab))},
        stdin=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        attendant, child = max(
            (json.loads(process.stdout.readline()) for _ in range(2)), key=lambda line: line[1]
        )
        wait_for(lambda: any("(sleep)" in one for one in in_session(attendant)))
        process.kill()
        try:
            wait_for(lambda: not in_session(attendant), 30)
            assert Path(f"/proc/{child}").exists()
        finally:
            os.kill(child, signal.SIGKILL)
            process.wait()


def test_a_policy_may_be_longer_than_a_message(lab: Lab) -> None:
    told = Told(
        lab,
        """
        networks = [f"10.{n // 250}.{n % 250}.0/24" for n in range(10_000)]
        policy = SecurityPolicy(network=NetworkPolicy(allow_out=networks, deny_out=[ALL_TRAFFIC]))
        with Sandbox.create(security=policy) as sbx:
            tell(sbx.commands.run("exit 3").exit_code)
        """,
    )
    assert told.lines == [[3]]


def test_where_a_command_starts_is_found_inside_and_hands_in_nothing(lab: Lab, starter: int | None) -> None:
    """A command can put a link there, and so choose what the next one would be given of the machine."""
    outside = lab.directory / "outside"
    outside.mkdir()
    outside.chmod(0o777)
    told = Told(
        lab,
        f"""
        with Sandbox.create(allow_internet_access=False) as sbx:
            run = sbx.commands.run
            run("mkdir sub /tmp/work; ln -s {outside} link")
            for cwd in (sbx.home + "/link", "link", "{outside}"):
                tell(run("pwd -P", cwd=cwd).stdout, run("touch x", cwd=cwd).exit_code)
            for cwd in ("sub", "/tmp/work", "/tmp", "/proc/sys"):
                tell(run(["pwd"], cwd=cwd).stdout)
            for cwd in ("/srv/typo", "missing"):
                done = run("echo begun", cwd=cwd)
                tell(done.exit_code, done.stdout, cwd in done.stderr and "No such file" in done.stderr)
            tell(sbx.home)
        """,
        starter,
    )
    left = list(outside.iterdir())
    outside.rmdir()
    assert told.lines[:3] == [[f"{outside}\n", 1]] * 3 and left == []
    (home,) = told.lines[-1]
    assert told.lines[3:7] == [[f"{home}/sub\n"], ["/tmp/work\n"], ["/tmp\n"], ["/proc/sys\n"]]
    assert told.lines[7:9] == [[125, "", True]] * 2


def test_no_command_leads_the_next_ones_mounts_elsewhere(lab: Lab, starter: int | None) -> None:
    """``/tmp`` is the commands' own, and what is bound below it lies in it; a bind may be replaced by whoever else can write there."""
    with tempfile.TemporaryDirectory(dir="/tmp") as top:
        bound, other = (Path(top) / "deep" / name for name in ("bound", "other"))
        for path in (bound, other):
            path.mkdir(parents=True)
        for path in (bound, other, bound.parent, Path(top)):
            path.chmod(0o777)
        told = Told(
            lab,
            f"""
            with Sandbox.create(allow_internet_access=False, binds=["{bound}"]) as sbx:
                run = sbx.commands.run
                for path in ("{top}", "{bound.parent}", os.path.dirname(sbx.home)):
                    tell(run(["mv", path, "/tmp/was"]).exit_code, run(["touch", path + "/x"]).exit_code)
                tell(run("touch mine {bound}/mine").exit_code)
                os.rename("{bound}", "{bound}.was")
                os.symlink("{other}", "{bound}")
                try:
                    tell(run("touch {bound}/x {other}/x").exit_code)
                except EgressError as error:
                    tell(str(error))
            """,
            starter,
        )
        left = list(other.iterdir())
    assert told.lines[:3] == [[1, 1]] * 3
    assert told.lines[3] == [0]
    assert told.lines[4] == [
        f"binds: one leads to {other} now, which was not handed in; create another sandbox"
    ]
    assert left == []
