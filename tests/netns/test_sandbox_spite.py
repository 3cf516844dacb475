"""What a command, or a program that forks, could do to a ``Sandbox`` so that something of it stays, or the rest of it goes."""

import json
import os
import signal
import subprocess
import sys
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
        process.kill()
        try:
            wait_for(lambda: not in_session(attendant), 15)
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
