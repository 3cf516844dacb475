"""``gateway.Sandbox`` in real programs: what the product's examples do, in threads, under asyncio and uvloop, and when somebody dies."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gateway.scratch import PLACE, PREFIX
from tests.lab.lab import ROOT, Lab
from tests.lab.places import GOOD_IP
from tests.lab.sandboxed import DECISIONS, new_audit_dir, read_records
from tests.netns.puppet import children
from tests.netns.test_run import comm, wait_for

pytestmark = [pytest.mark.root, pytest.mark.timeout(90)]

PROLOGUE = """
import asyncio, json, os, sys, threading, time
from gateway import (ALL_TRAFFIC, AsyncSandbox, AuditConfig, CommandTimeout, EgressError, NetworkPolicy, PolicyError, Sandbox, SandboxClosed,
                     SecurityPolicy)
TRUST = {"CURL_CA_BUNDLE": os.environ["CURL_CA_BUNDLE"]}
AUDIT = os.environ["EGRESS_AUDIT_DIR"]
def only(*names):
    return SecurityPolicy(network=NetworkPolicy(allow_out=list(names), deny_out=[ALL_TRAFFIC]))
def tell(*what):
    os.write(1, json.dumps(what).encode() + b"\\n")  # at once: a fork may tell too
def lives(words):  # somewhere, but in this program
    for one in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{one}/cmdline", errors="replace") as line:
                if words in line.read() and int(one) != os.getpid():
                    return True
        except OSError:  # it ended meanwhile
            pass
    return False
"""


def program(text: str) -> str:
    """One that has the names of ``PROLOGUE``."""
    return PROLOGUE + textwrap.dedent(text)


def python_for(uid: int | None) -> tuple[Sequence[str], dict[str, str]]:
    """An interpreter that ``uid`` can run with this checkout, and its environment."""
    if uid is None:
        return [sys.executable], {}
    packages = os.pathsep.join((str(ROOT), *(path for path in sys.path if path.endswith("site-packages"))))
    return ["/usr/bin/python3", "-P"], {"PYTHONPATH": packages, "PYTHONDONTWRITEBYTECODE": "1"}


class Told:
    """What a program told, and what is on record."""

    def __init__(self, lab: Lab, text: str, uid: int | None = None, timeout_s: float = 60) -> None:
        self.audit = new_audit_dir(lab, uid)
        argv, environment = python_for(uid)
        environment["EGRESS_AUDIT_DIR"] = str(self.audit)
        cwd = ROOT if uid is None else lab.work
        done = lab.run([*argv, "-c", program(text)], env=environment, cwd=cwd, uid=uid, timeout=timeout_s)
        assert done.returncode == 0, done.stderr
        self.lines: list[list[Any]] = [json.loads(line) for line in done.stdout.splitlines()]
        self.stderr = done.stderr
        self.records = read_records(self.audit)

    @property
    def decided(self) -> list[tuple[str, str | None]]:
        """Event and name of each decision."""
        return [
            (record["event"], record["domain"]) for record in self.records if record["event"] in DECISIONS
        ]


def leftovers() -> list[str]:
    """Of any sandbox of this machine."""
    return [str(path) for path in PLACE.glob(f"{PREFIX}*")]


def test_a_policy_as_the_product_shows_it(lab: Lab, starter: int | None) -> None:
    told = Told(
        lab,
        """
        sbx = Sandbox.create(
            template="base",
            security=SecurityPolicy(network=NetworkPolicy(allow_out=["allowed.test"], deny_out=[ALL_TRAFFIC])),
            envs=TRUST,
            name="agent-1",
        )
        result = sbx.commands.run("curl -sS https://allowed.test/")
        tell(result.exit_code, json.loads(result.stdout)["sni"], result.stderr)
        result = sbx.commands.run("curl -sS https://blocked.test/")
        tell(result.exit_code, result.stdout, "curl" in result.stderr)
        tell(sbx.link, sbx.sandbox_id, sbx.audit_dir == AUDIT)
        sbx.kill()
        sbx.kill()
        """,
        starter,
    )
    assert told.lines[:2] == [[0, "allowed.test", ""], [35, "", True]]
    assert told.lines[2] == ["lo" if starter else "veth", "agent-1", True]
    assert told.decided == [("egress_allowed", "allowed.test"), ("egress_blocked", "blocked.test")]
    assert {record["sandbox"] for record in told.records} == {"agent-1"}
    assert leftovers() == []


def test_no_internet_at_all(lab: Lab, starter: int | None) -> None:
    told = Told(
        lab,
        """
        with Sandbox.create(allow_internet_access=False) as sbx:
            tell(sbx.commands.run("curl -sS -m 5 http://198.18.0.10/").exit_code)
        try:
            Sandbox.create(allow_internet_access=False, security=only("allowed.test"))
        except PolicyError as error:
            tell(str(error))
        """,
        starter,
    )
    assert told.lines[0][0] != 0
    assert "allow_out[0]" in told.lines[1][0]
    assert [event for event, _ in told.decided] == ["egress_blocked"]


def test_without_a_policy_everything_leaves_and_is_recorded(lab: Lab) -> None:
    told = Told(
        lab,
        """
        with Sandbox.create(envs=TRUST) as sbx:
            tell(sbx.commands.run("curl -sS https://evil.test/").exit_code, sbx.commands.run("curl -sS -m 5 http://169.254.169.254/").exit_code)
        """,
    )
    assert told.lines[0][1] != 0
    assert ("egress_allowed", "evil.test") in told.decided or ("egress_allowed", None) in told.decided
    assert any(record["rule"] == "floor" for record in told.records if record["event"] == "egress_blocked")


def test_commands_share_a_home_and_tmp_and_inherit_nothing(lab: Lab, starter: int | None) -> None:
    told = Told(
        lab,
        """
        os.environ["SECRET"] = "token"
        with Sandbox.create(allow_internet_access=False, envs={"A": "1", "B": "1"}) as sbx:
            sbx.commands.run("echo one > file; echo two > /tmp/file; mkdir sub")
            tell(sbx.commands.run("cat file /tmp/file; cd sub && pwd").stdout, sbx.home)
            tell(sbx.commands.run("echo $A $B $C $SECRET; echo $HOME", envs={"B": "2", "C": "3"}).stdout)
            tell(sbx.commands.run(["pwd"], cwd=sbx.home + "/sub").stdout)
            tell(sbx.commands.run("id -u; ls /proc | grep -c '^[0-9]'; touch /etc/x " + AUDIT + "/x").stdout)
            tell(os.path.exists(sbx.home))
        tell(os.path.exists(sbx.home))
        """,
        starter,
    )
    home = told.lines[0][1]
    assert told.lines[0][0] == f"one\ntwo\n{home}/sub\n"
    assert told.lines[1] == [f"1 2 3\n{home}\n"]
    assert told.lines[2] == [f"{home}/sub\n"]
    uid, processes = told.lines[3][0].split()
    assert uid == "65534" and int(processes) < 6
    assert [told.lines[4], told.lines[5]] == [[True], [False]]


def test_output_input_and_ends(lab: Lab) -> None:
    told = Told(
        lab,
        r"""
        with Sandbox.create(allow_internet_access=False) as sbx:
            run = sbx.commands.run
            both = run("head -c 3000000 /dev/zero | tr '\\0' o & head -c 3000000 /dev/zero | tr '\\0' e >&2; wait")
            tell(set(both.stdout) == {"o"}, set(both.stderr) == {"e"}, len(both.stdout), len(both.stderr))
            tell(list(run("printf '\\377\\376\\000'").stdout_raw), run("printf '\\377'").stdout)
            tell(run("cat", stdin="text").stdout, list(run("cat", stdin=b"\x00\xff").stdout_raw), run("cat").stdout)
            tell([run(cmd).exit_code for cmd in ("true", "exit 3", "kill -TERM $$", "no-such-program")], run(["no-such-program"]).exit_code)
            heard = []
            run("echo a; echo b >&2", on_stdout=lambda text: heard.append(["out", text]), on_stderr=lambda text: heard.append(["err", text]))
            tell(sorted(heard))
            for bad in ("", [], "a\0b"):
                try:
                    run(bad)
                except ValueError as error:
                    tell(type(error).__name__)
        """,
    )
    assert told.lines[0] == [True, True, 3000000, 3000000]
    assert told.lines[1] == [[255, 254, 0], "�"]
    assert told.lines[2] == ["text", [0, 255], ""]
    assert told.lines[3] == [[0, 3, 143, 127], 127]
    assert told.lines[4] == [[["err", "b\n"], ["out", "a\n"]]]
    assert told.lines[5:] == [["ValueError"]] * 3


def test_a_command_that_takes_too_long_is_killed_whole(lab: Lab, starter: int | None) -> None:
    told = Told(
        lab,
        """
        with Sandbox.create(allow_internet_access=False) as sbx:
            beats = "rm -f beat; (while true; do date +%N > beat; sleep 0.05; done) & while [ ! -s beat ]; do sleep 0.01; done; echo begun; sleep 60"
            for timeout in (0.5, 2, 10):  # until it had begun by then
                try:
                    sbx.commands.run(beats, timeout=timeout)
                except CommandTimeout as error:
                    said = isinstance(error, TimeoutError), isinstance(error, EgressError), error.stdout
                if said[2]:
                    break
            tell(*said)
            while lives("> beat; sleep"):
                time.sleep(0.05)
            behind = sbx.commands.run("sleep 60", background=True)
            behind.kill()
            tell(behind.wait().exit_code, behind.wait().exit_code)
            tell(sbx.commands.run("echo still here").stdout)
            running = sbx.commands.run("sleep 60", background=True)
            sbx.kill()
            tell(running.wait().exit_code)
            try:
                sbx.commands.run("true")
            except SandboxClosed as error:
                tell(str(error))
        """,
        starter,
    )
    assert told.lines == [
        [True, True, "begun\n"],
        [137, 137],
        ["still here\n"],
        [137],
        ["the sandbox has been killed; create another"],
    ]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_the_async_twin(lab: Lab, loop: str) -> None:
    told = Told(
        lab,
        f"""
        async def main():
            one, two = await asyncio.gather(
                AsyncSandbox.create(security=only("allowed.test"), envs=TRUST, name="one"),
                AsyncSandbox.create(security=only("api.good.test"), envs=TRUST, name="two"),
            )
            async with one, two:
                cmd = "curl -sS -o /dev/null https://allowed.test/; echo $?; curl -sS -o /dev/null https://api.good.test/; echo $?"
                results = await asyncio.gather(one.commands.run(cmd), two.commands.run(cmd))
                tell([result.stdout.split() for result in results])
                many = await asyncio.gather(*(one.commands.run(f"echo {{n}}; sleep 0.1") for n in range(10)))
                tell([int(result.stdout) for result in many])
                try:
                    await one.commands.run("sleep 60", timeout=0.3)
                except CommandTimeout as error:
                    tell("timeout")
                task = asyncio.create_task(one.commands.run("while true; do date +%N > beat; sleep 0.05; done"))
                while (await one.commands.run("test -s beat")).exit_code:
                    pass
                task.cancel()
                await asyncio.wait([task])
                while lives("> beat; sleep"):
                    await asyncio.sleep(0.05)
                tell(task.cancelled())
                behind = await two.commands.run("sleep 60", background=True)
                behind.kill()
                tell((await behind.wait()).exit_code)
            try:
                await one.commands.run("true")
            except SandboxClosed:
                tell("closed")
        import {loop}
        {loop}.run(main())
        """,
    )
    assert told.lines == [
        [[["0", "35"], ["35", "0"]]],
        [list(range(10))],
        ["timeout"],
        [True],
        [137],
        ["closed"],
    ]
    by_name = {
        (record["sandbox"], record["domain"])
        for record in told.records
        if record["event"] == "egress_allowed"
    }
    assert by_name == {("one", "allowed.test"), ("two", "api.good.test")}


def test_one_sandbox_sees_nothing_of_another_s_files(lab: Lab, starter: int | None) -> None:
    told = Told(
        lab,
        """
        with Sandbox.create(allow_internet_access=False) as one, Sandbox.create(allow_internet_access=False) as two:
            one.commands.run("echo secret > ~/s; echo secret > /tmp/t; chmod 777 ~ ~/s")
            tell(one.commands.run("cat ~/s /tmp/t").stdout)
            look = f"cat {one.home}/s; cat /tmp/egress-sandbox-*/*/s /var/tmp/egress-sandbox-*/*/s /tmp/t"
            tell(two.commands.run(look + "; find / -name s -path '*sandbox*' 2>/dev/null").stdout)
        """,
        starter,
    )
    assert told.lines == [["secret\nsecret\n"], [""]]


def test_a_command_cannot_lead_the_next_one_s_mounts_elsewhere(lab: Lab) -> None:
    told = Told(
        lab,
        """
        with Sandbox.create(allow_internet_access=False) as sbx:
            inner = "/tmp/" + sbx.home.split("/")[2]
            for cmd in (f"mv {inner} /tmp/away", f"rm -r {inner}", f"touch {inner}/x", f"mv {inner}/home {inner}/away"):
                tell(sbx.commands.run(cmd).exit_code)
            tell(sbx.commands.run("pwd").stdout == sbx.home + chr(10))
        """,
    )
    assert 0 not in [line[0] for line in told.lines[:-1]] and told.lines[-1] == [True]


def test_output_without_end_is_not_kept(lab: Lab) -> None:
    told = Told(
        lab,
        """
        heard = []
        with Sandbox.create(allow_internet_access=False) as sbx:
            result = sbx.commands.run("head -c 70000000 /dev/zero", on_stdout=lambda text: heard.append(len(text)))
            tell(len(result.stdout_raw), result.truncated, sum(heard))
            told = []
            result = sbx.commands.run("printf '\\\\303'; sleep 0.2; printf '\\\\251'", on_stdout=told.append)
            tell(told, result.stdout, result.truncated)
        """,
    )
    assert told.lines == [[64 << 20, True, 70000000], [["é"], "é", False]]


def test_many_threads(lab: Lab) -> None:
    told = Told(
        lab,
        """
        with Sandbox.create(allow_internet_access=False) as sbx:
            results = {}
            def work(number):
                for turn in range(5):
                    results[number, turn] = sbx.commands.run(f"echo {number}-{turn}; echo $$ >&2").stdout
            threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
            tell(len(results), all(text == f"{number}-{turn}\\n" for (number, turn), text in results.items()))
        """,
    )
    assert told.lines == [[40, True]]


def test_what_cannot_be_created(lab: Lab, starter: int | None) -> None:
    told = Told(
        lab,
        """
        def trouble(**given):
            try:
                Sandbox.create(**given).kill()
            except Exception as error:
                tell(type(error).__name__, str(error))
            else:
                tell("created")
        trouble(template="ubuntu")
        trouble(allow_internet_access="no")
        trouble(security=NetworkPolicy())
        trouble(binds=["/no/such/path"], audit_dir=AUDIT)
        trouble(binds=[AUDIT])
        trouble(user="0:0")
        trouble(envs={"A=B": "1"})
        trouble(audit_dir="/proc/none")
        trouble(link="veth")
        tell(os.listdir(AUDIT))
        """,
        starter,
    )
    kinds = [line[0] for line in told.lines]
    assert kinds[:7] == [
        *("ValueError", "TypeError", "TypeError", "ValueError", "ValueError", "ValueError", "ValueError")
    ]
    assert kinds[7:9] == ["SetupError", "PrivilegeError" if starter else "created"]
    if starter:
        assert "needs root" in told.lines[8][1] and told.lines[9] == [[]], "nothing was begun"
    assert leftovers() == []


def test_a_bind_that_is_gone_is_said_when_a_command_is_run(lab: Lab) -> None:
    told = Told(
        lab,
        """
        os.mkdir(AUDIT + "-bind")
        with Sandbox.create(allow_internet_access=False, binds=[AUDIT + "-bind"]) as sbx:
            os.rmdir(AUDIT + "-bind")
            for given in ({}, {"user": "0:0"}, {"envs": {"A=B": "1"}}):
                try:
                    sbx.commands.run("true", **given)
                except (EgressError, ValueError) as error:
                    tell(type(error).__name__, str(error))
        """,
    )
    assert told.lines[0] == ["SetupError", f"binds: {told.audit}-bind: there is no such path; make it first"]
    assert [line[0] for line in told.lines[1:]] == ["ValueError", "ValueError"]


def test_a_policy_s_warnings_are_the_program_s(lab: Lab) -> None:
    told = Told(
        lab,
        """
        with Sandbox.create(security=SecurityPolicy(NetworkPolicy(["*.github.io"], [ALL_TRAFFIC]))) as sbx:
            sbx.update_network(NetworkPolicy(["allowed.test"], [ALL_TRAFFIC], dns="passthrough"))
        """,
    )
    said = [line for line in told.stderr.splitlines() if "UserWarning" in line]
    assert [line.partition("UserWarning: ")[2].partition(":")[0] for line in said] == [
        "allow_out[0] '*.github.io'",
        "dns",
    ]
    assert all(line.startswith("<string>:") for line in said), "not a line of ours"


WAITS = """
sbx = Sandbox.create(security=only("198.18.0.10"), name="left")
behind = sbx.commands.run("sleep 600", background=True)
tell(sbx._attended.pid, sbx.home)
sys.stdin.read()
"""


@pytest.mark.parametrize("who", ["program", "attendant"])
def test_killed_it_leaves_nothing(lab: Lab, who: str) -> None:
    audit = new_audit_dir(lab)
    with lab.popen(
        [sys.executable, "-c", program(WAITS)],
        cwd=ROOT,
        env={"EGRESS_AUDIT_DIR": str(audit)},
        stdin=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        attendant, home = json.loads(process.stdout.readline())
        wait_for(lambda: "sleep" in {comm(pid) for pid in descendants(attendant)})
        everybody = [attendant, *descendants(attendant)]
        assert len(everybody) >= 4
        os.kill(process.pid if who == "program" else attendant, signal.SIGKILL)
        give_up = time.monotonic() + 30
        while any(alive(pid) for pid in everybody) and time.monotonic() < give_up:
            time.sleep(0.05)
        assert [pid for pid in everybody if alive(pid)] == []
        if who == "attendant":
            process.kill()
    if who == "program":
        assert not Path(home).exists()
    else:  # nobody was left to remove it: the next one does
        Told(lab, "Sandbox.create(allow_internet_access=False).kill()")
        assert leftovers() == []
    wait_for(lambda: "egress-" not in lab.run(["ip", "-br", "link"]).stdout)


def test_who_forgets_to_kill_it(lab: Lab) -> None:
    told = Told(
        lab,
        """
        sbx = Sandbox.create(allow_internet_access=False)
        tell(sbx._attended.pid)
        del sbx
        """,
    )
    give_up = time.monotonic() + 30
    while alive(told.lines[0][0]) and time.monotonic() < give_up:
        time.sleep(0.05)
    assert not alive(told.lines[0][0])
    assert leftovers() == []


def descendants(pid: int) -> list[int]:
    """All of them."""
    found: list[int] = []
    with contextlib.suppress(OSError):  # it ended meanwhile
        found = children(pid)
    return [*found, *(more for child in found for more in descendants(child))]


def alive(pid: int) -> bool:
    """Whether it runs: not what waits to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


DOCUMENT = ROOT / "docs" / "library.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text(), re.M | re.S)


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_the_document_s_examples_run(lab: Lab, example: str) -> None:
    lab.zone.put("api.github.com", {"A": [GOOD_IP]})
    trusted = example.replace(
        "Sandbox.create(",
        'Sandbox.create(envs={"CURL_CA_BUNDLE": __import__("os").environ["CURL_CA_BUNDLE"]}, ',
    )
    audit = new_audit_dir(lab)
    done = lab.run(
        [sys.executable, "-c", trusted], cwd=ROOT, env={"EGRESS_AUDIT_DIR": str(audit)}, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    if "api.github.com" in example:
        assert done.stdout.startswith("0 {")
    else:
        assert done.stdout == "['0\\n', '1\\n', '2\\n']\n"
