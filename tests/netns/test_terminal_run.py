"""``egress run`` on a terminal: keys, stops, the jobs of a shell, and whose turn it is to read."""

import contextlib
import os
import pty
import select
import shlex
import signal
import termios
import time
from pathlib import Path

import pytest

from tests.lab.lab import Lab
from tests.lab.places import GOOD_IP
from tests.lab.sandboxed import egress_argv, new_audit_dir, read_records
from tests.netns.puppet import children
from tests.netns.test_run import ALLOW, PYTHON, TRAP, comm, wait_for

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]

UNPRIVILEGED = 65534


class Terminal:
    """A program in a session of its own, on a terminal of its own; ``egress run`` with a command if nothing else is said."""

    def __init__(self, lab: Lab, *command: str, egress: bool = True, uid: int | None = None) -> None:
        argv = (
            egress_argv(new_audit_dir(lab, uid), command, allow=ALLOW, uid=uid) if egress else list(command)
        )
        self.master, slave = pty.openpty()
        # A key that sends a signal would have the kernel throw away what is on its way, after it has sent it: the program's answer too (termios(3)).
        modes = termios.tcgetattr(slave)
        modes[3] |= termios.NOFLSH
        termios.tcsetattr(slave, termios.TCSANOW, modes)
        # Not the leader of a group yet, or setsid would fork.
        self.process = lab.popen(
            ["setsid", "--ctty", *argv],
            uid=uid,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=False,
        )
        os.close(slave)
        self.pid = self.process.pid
        self.seen = ""

    def type(self, keys: str) -> None:
        """As somebody at the keyboard would."""
        os.write(self.master, keys.encode())

    def wait_for(self, text: str, timeout_s: float = 15.0) -> None:
        """Until it is on the screen."""
        give_up = time.monotonic() + timeout_s
        while text not in self.seen:
            ready, _, _ = select.select([self.master], [], [], max(0, give_up - time.monotonic()))
            assert ready, self.seen
            try:
                self.seen += os.read(self.master, 4096).decode()
            except OSError:
                break
        assert text in self.seen, self.seen

    def await_shell(self) -> None:
        """Until a shell reads a line: it takes keys as they come then (readline). What is typed before, while it changes that, may lose a key."""
        wait_for(lambda: not termios.tcgetattr(self.master)[3] & termios.ICANON)

    def end(self) -> int:
        """The exit status."""
        with contextlib.suppress(OSError):
            while chunk := os.read(self.master, 4096):
                self.seen += chunk.decode()
        status = self.process.wait(30)
        os.close(self.master)
        return status


def test_ctrl_c_reaches_the_command_once_and_egress_survives(lab: Lab, starter: int | None) -> None:
    terminal = Terminal(lab, PYTHON, "-c", TRAP, uid=starter)
    terminal.wait_for("ready")
    terminal.type("\x03")
    terminal.wait_for("SIGINT")
    terminal.type("\x1c")
    terminal.wait_for("SIGQUIT")
    os.kill(terminal.pid, signal.SIGTERM)
    assert terminal.end() == 9
    assert terminal.seen.count("SIGINT") == terminal.seen.count("SIGQUIT") == 1
    assert "records in" in terminal.seen, "egress lived to say so"
    assert "Traceback" not in terminal.seen


def test_ctrl_c_ends_a_command_without_handlers(lab: Lab, starter: int | None) -> None:
    terminal = Terminal(lab, "sh", "-c", "echo up; exec sleep 50", uid=starter)
    terminal.wait_for("up")
    terminal.type("\x03")
    assert terminal.end() == 130
    assert "records in" in terminal.seen


def test_ctrl_c_before_the_command_leaves_no_traceback(lab: Lab) -> None:
    for delay in (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35):
        terminal = Terminal(lab, "sleep", "50")
        await_main(terminal.pid)
        time.sleep(delay)
        terminal.type("\x03")
        ended = terminal.end()
        assert ended in (130, -2), terminal.seen
        assert "Traceback" not in terminal.seen, terminal.seen


def await_main(pid: int) -> None:
    """Until it is in ``gateway.cli.main``, which gives up SIGINT, that Python takes when it begins; or further, and has children. While Python itself
    begins nothing of ours can say anything better."""
    wait_for(lambda: takes_sigint(pid) or children(pid), pause_s=0.001)
    wait_for(lambda: not takes_sigint(pid) or children(pid), pause_s=0.001)


def takes_sigint(pid: int) -> bool:
    """Whether it has a handler for it: proc(5), status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (caught,) = (int(line.split()[1], 16) for line in lines if line.startswith("SigCgt:"))
    return bool(caught >> (signal.SIGINT - 1) & 1)


def test_a_shell_has_the_terminal(lab: Lab, starter: int | None) -> None:
    terminal = Terminal(lab, "bash", "--norc", "-i", uid=starter)
    terminal.await_shell()
    terminal.type("PS1=; [ -t 0 ] && echo is-a-$((1+1))-tty; stty size; tty\n")
    terminal.wait_for("is-a-2-tty")
    assert "no job control" not in terminal.seen
    terminal.await_shell()
    terminal.type("sh -c 'echo goes-$((1+1)); exec sleep 50'\n")
    terminal.wait_for("goes-2")
    terminal.type("\x03")
    terminal.await_shell()
    terminal.type("echo still-$((1+1))\n")
    terminal.wait_for("still-2")
    terminal.await_shell()
    terminal.type("sh -c 'echo goes-$((1+2)); exec sleep 40'\n")
    terminal.wait_for("goes-3")
    terminal.type("\x1a")
    terminal.wait_for("Stopped")
    terminal.await_shell()
    terminal.type("kill %1; exit 6; exit 6\n")
    assert terminal.end() == 6


def test_ctrl_z_stops_all_and_it_goes_on_afterwards(lab: Lab) -> None:
    go = lab.work / "go"
    go.unlink(missing_ok=True)
    script = "echo u''p; while [ ! -e go ]; do sleep 0.02; done; echo d''one; exit 4"
    line = egress_argv(new_audit_dir(lab), ["sh", "-c", script], allow=ALLOW)
    terminal = Terminal(lab, "bash", "--norc", "-i", egress=False)
    terminal.await_shell()
    terminal.type(f"PS1=; {shlex.join(map(str, line))}\n")
    terminal.wait_for("up\r\n")
    terminal.type("\x1a")
    terminal.wait_for("Stopped")
    go.touch()
    time.sleep(0.8)
    terminal.await_shell()
    terminal.type("echo shell-$((1+1))\n")
    terminal.wait_for("shell-2")
    assert "done\r\n" not in terminal.seen
    terminal.await_shell()
    terminal.type("fg; echo status-$?\n")
    terminal.wait_for("done\r\n")
    terminal.wait_for("status-4")
    terminal.await_shell()
    terminal.type("exit\n")
    terminal.end()
    go.unlink()


def test_kill_0_on_a_terminal_reaches_nobody_outside(lab: Lab, starter: int | None) -> None:
    """Neither the script around it, nor the rest of its pipeline, nor whoever keeps its records."""
    argv = egress_argv(new_audit_dir(lab, starter), ["sh", "-c", "kill -KILL 0"], allow=ALLOW, uid=starter)
    user = (
        f"setpriv --reuid={UNPRIVILEGED} --regid={UNPRIVILEGED} --clear-groups" if starter is None else "env"
    )
    script = '$0 sleep 30 & "$@" | cat; echo "script goes on"; kill $! && echo "and its child"'
    terminal = Terminal(lab, "bash", "-c", script, user, *map(str, argv), egress=False, uid=starter)
    terminal.end()
    for said in ("records in", "script goes on", "and its child"):
        assert said in terminal.seen, terminal.seen


FREEZE = f"""
import os, select, signal, socket, sys, time
tty = os.open("/dev/tty", os.O_RDWR)
parent = os.getpid()
went_on, goes_on = os.pipe()
signal.signal(signal.SIGUSR2, lambda *_: os.kill(0, signal.SIGKILL))
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
if os.fork() == 0:  # leaves the group, and sees whether it is stopped
    os.setpgid(0, 0)
    if sys.argv[1] == "read":
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        os.tcsetpgrp(tty, os.getpid())
    os.kill(parent, signal.SIGUSR1)
    # It is stopped; or it was, and has been continued, or given the terminal that it waits for.
    while open(f"/proc/{{parent}}/stat").read().rpartition(")")[2].split()[0] != "T" and not select.select([went_on], [], [], 0.001)[0]:
        if sys.argv[1] == "read" and os.tcgetpgrp(tty) == os.getpgid(parent):
            break
    for _ in range(3):
        with socket.create_connection(("{GOOD_IP}", 80), 20) as sock:
            sock.sendall(b"GET / HTTP/1.1\\r\\nHost: blocked.test\\r\\n\\r\\n")
            sock.recv(4096)
    os.kill(parent, signal.SIGCONT)
    os.kill(parent, signal.SIGUSR2)
    time.sleep(20)
signal.sigwait([signal.SIGUSR1])
if sys.argv[1] == "read":
    os.read(tty, 1)  # in the background by now
else:
    os.kill(0, getattr(signal, sys.argv[1]))
os.write(goes_on, b"x")
time.sleep(50)
"""


@pytest.mark.parametrize("how", ["SIGSTOP", "SIGTSTP", "read"])
def test_a_command_cannot_freeze_who_keeps_its_records(lab: Lab, starter: int | None, how: str) -> None:
    audit = new_audit_dir(lab, starter)
    argv = egress_argv(audit, [PYTHON, "-c", FREEZE, how], allow=ALLOW, uid=starter)
    # The kernel stops a group for reading only where somebody could continue it.
    around = ["bash", "-mc", '"$@"', "sh"] if how == "read" else []
    terminal = Terminal(lab, *around, *map(str, argv), egress=False, uid=starter)
    assert terminal.end() == 137, terminal.seen
    assert "records in" in terminal.seen
    assert [record["event"] for record in read_records(audit)] == ["egress_blocked"] * 3


def test_a_command_that_asks_for_the_terminal_gets_it(lab: Lab, starter: int | None) -> None:
    """By reading it, or by setting it; Ctrl-C goes with it, and at the end it is again whose it was."""
    argv = egress_argv(new_audit_dir(lab, starter), [PYTHON, "-c", ASKS], allow=ALLOW, uid=starter)
    terminal = Terminal(
        lab, "sh", "-c", '"$@"; read line; echo then-$line', "sh", *map(str, argv), egress=False, uid=starter
    )
    terminal.wait_for("ready")
    terminal.type("one\n")
    terminal.wait_for("set")
    assert "got one" in terminal.seen
    terminal.type("two")
    terminal.wait_for("got tw, raw")
    terminal.wait_for("and o")
    terminal.type("\x03")
    terminal.wait_for("SIGINT")
    terminal.wait_for("records in")
    terminal.type("three\n")
    terminal.wait_for("then-three")
    assert terminal.end() == 0
    assert terminal.seen.count("SIGINT") == 1


ASKS = """
import os, signal, sys, termios, time, tty
signal.signal(signal.SIGINT, lambda *_: (os.write(1, b"SIGINT\\n"), os._exit(3)))
print("ready", flush=True)
print("got", sys.stdin.readline(), flush=True)
before = termios.tcgetattr(0)
tty.setcbreak(0)  # and forgets what was typed before
print("set", flush=True)
print("got", os.read(0, 2).decode() + ", raw", flush=True)
print("and", os.read(0, 1).decode(), flush=True)
termios.tcsetattr(0, termios.TCSADRAIN, before)
while True:
    time.sleep(20)
"""


def state(pid: int) -> str:
    """As proc(5) has it: T is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]


def test_jobs_of_a_shell(lab: Lab, starter: int | None) -> None:
    """Stopped with the terminal and without, in the background, continued in either place, and in pipelines."""
    script = lab.work / "job"
    script.write_text('#!/bin/sh\n"$@"\n')
    script.chmod(0o755)

    def line(command: str) -> str:
        argv = egress_argv(new_audit_dir(lab, starter), ["sh", "-c", command], allow=ALLOW, uid=starter)
        return shlex.join(map(str, argv))

    terminal = Terminal(lab, "bash", "--norc", "-i", egress=False, uid=starter)
    terminal.await_shell()
    terminal.type("PS1=; stty -echo; echo shell-$((0+1))\n")
    terminal.wait_for("shell-1\r\n")
    # It has read, and is stopped while it waits for more: the shell has the terminal, and gives it again.
    terminal.await_shell()
    terminal.type(line("echo a-1; read x; echo a-$x; read x; echo a-$x; exit 4") + "\n")
    terminal.wait_for("a-1\r\n")
    terminal.type("2\n")
    terminal.wait_for("a-2\r\n")
    terminal.type("\x1a")
    terminal.wait_for("Stopped")
    others = [pid for pid in children(children(terminal.pid)[0]) if comm(pid) != "bwrap"]
    # The worker: nothing is carried while nobody keeps records. It was told to stop, and does when it next has the processor.
    wait_for(lambda: [state(pid) for pid in others].count("T") == 1)
    terminal.await_shell()
    terminal.type("echo shell-$((1+1)); fg; echo a-status-$?\n")
    terminal.wait_for("shell-2\r\n")
    terminal.type("3\n")
    terminal.wait_for("a-3\r\n")
    terminal.wait_for("a-status-4\r\n")
    # In the background it runs until it reads, and is then stopped until the shell gives it the terminal.
    terminal.await_shell()
    terminal.type(line("echo b-1; read x; echo b-$x; exit 5") + " &\n")
    terminal.wait_for("b-1\r\n")
    terminal.seen = ""
    while "Stopped" not in terminal.seen:
        terminal.await_shell()
        terminal.type("jobs; echo shell-$((1+2))\n")
        terminal.wait_for("shell-3\r\n")
        terminal.seen = terminal.seen.replace("shell-3", "")
    terminal.await_shell()
    terminal.type("echo shell-$((2+3)); fg; echo b-status-$?\n")
    terminal.wait_for("shell-5\r\n")
    terminal.type("2\n")
    terminal.wait_for("b-2\r\n")
    terminal.wait_for("b-status-5\r\n")
    # In a pipeline the rest of it has the terminal, and Ctrl-C and Ctrl-Z are everybody's.
    reader = """sh -c 'trap "" INT; read x </dev/tty; echo "c-$x"; cat'"""
    loop = "trap 'echo c-4; exit 6' INT; echo c-3; while :; do echo tick; sleep 0.05; done"
    terminal.await_shell()
    terminal.type(f"echo shell-$((3+3)); {line(loop)} | {reader}\n")
    terminal.wait_for("shell-6\r\n")
    terminal.type("2\n")
    terminal.wait_for("c-2\r\n")
    terminal.wait_for("c-3\r\n")
    terminal.seen = ""
    terminal.type("\x1a")
    terminal.wait_for("Stopped")
    terminal.seen = ""
    terminal.await_shell()
    terminal.type("fg\n")
    terminal.wait_for("tick\r\n")
    terminal.type("\x03")
    terminal.wait_for("c-4\r\n")
    terminal.await_shell()
    terminal.type("echo shell-$((2+2))\n")
    terminal.wait_for("shell-4\r\n")
    terminal.await_shell()
    terminal.type("exit; exit\n")
    terminal.end()
