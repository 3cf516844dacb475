"""Whose turn a terminal is, on a real one."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
START = """
import os, signal, subprocess
from gateway.terminal import Terminal
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
terminal = Terminal()
def group():
    return subprocess.Popen(["sleep", "20"], process_group=0)
"""


def on_terminal(script: str) -> list[str]:
    """What a program says that leads a session on a terminal of its own."""
    master, slave = pty.openpty()
    argv = ["setsid", "--ctty", "--wait", sys.executable, "-c", START + script]
    try:
        done = subprocess.run(argv, cwd=ROOT, stdin=slave, capture_output=True, text=True, check=False)
    finally:
        os.close(slave)
        os.close(master)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_without_one_there_is_nothing_to_give() -> None:
    script = "print(bool(terminal), terminal.in_foreground(), terminal.is_ours(), terminal.take_back()); terminal.give(1)"
    argv = ["setsid", "--wait", sys.executable, "-c", START + script]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False False False None\n"


def test_it_is_given_and_taken_back() -> None:
    said = on_terminal(
        """
child = group()
print(terminal.in_foreground(), terminal.take_back())
terminal.give(child.pid)
print(terminal.in_foreground(), terminal.is_ours(), terminal.foreground() == child.pid)
terminal.look()
print(terminal.is_ours(), terminal.take_back() == child.pid, terminal.in_foreground())
child.kill()
child.wait()
terminal.give(child.pid)
print(terminal.in_foreground())
"""
    )
    assert said == ["True", "None", "False", "True", "True", "True", "True", "True", "True"]


@pytest.mark.parametrize("given", [True, False])
def test_what_a_shell_took_from_us_is_not_ours_until_it_gives_it(given: bool) -> None:
    said = on_terminal(
        f"""
shell = group()
os.tcsetpgrp(terminal._tty, shell.pid)
terminal.look()
print(terminal.is_ours(), terminal.take_back())
if {given}:
    os.tcsetpgrp(terminal._tty, os.getpgrp())
print(terminal.is_ours())
shell.kill()
"""
    )
    assert said == ["False", "None", str(given)]


def test_what_a_command_took_by_itself_is_still_ours() -> None:
    said = on_terminal(
        """
inner = group()
os.tcsetpgrp(terminal._tty, inner.pid)
print(terminal.is_ours(), terminal.take_back() == inner.pid, terminal.in_foreground())
inner.kill()
"""
    )
    assert said == ["True"] * 3
