"""What a worker holds: printed from /proc, and tried from inside a process that was confined the same way."""

import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.confine import confine
from tests.lab.lab import Lab
from tests.lab.places import GOOD_IP, Port
from tests.lab.sandboxed import user_namespaces_for
from tests.netns.hello import client_hello
from tests.netns.puppet import Puppet

pytestmark = pytest.mark.root
USER = 65533


def test_a_worker_has_no_power(lab: Lab) -> None:
    with Puppet(lab, allow=["allowed.test"]) as puppet:
        words = dict(
            line.split(":\t", 1)
            for line in Path(f"/proc/{puppet.worker}/status").read_text().splitlines()
            if ":\t" in line
        )
    print(
        {
            name: words[name]
            for name in (
                "Uid",
                "Gid",
                "Groups",
                "CapEff",
                "CapPrm",
                "CapInh",
                "CapAmb",
                "NoNewPrivs",
                "Seccomp",
            )
        }
    )
    assert {words["Uid"], words["Gid"]} == {"65534\t65534\t65534\t65534"}
    assert words["Groups"].strip() == ""
    assert {int(words[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")} == {0}
    assert (words["NoNewPrivs"], words["Seccomp"]) == ("1", "2")


def test_a_worker_has_only_its_own_descriptors(lab: Lab) -> None:
    """Control socket, record pipe, a listener a family, two DNS sockets, two of NFLOG, netlink, the epoll of the connections; and the loop's own:
    epoll, eventfd, two pipes, a socket pair."""
    with Puppet(lab, allow=["allowed.test"]) as puppet:
        directory = Path(f"/proc/{puppet.worker}/fd")
        held = {int(path.name): os.readlink(path) for path in directory.iterdir()}
    print(held)
    own = {number: what for number, what in held.items() if number > 2}
    kinds = sorted(what.partition(":")[0] for what in own.values())
    assert not [what for what in own.values() if what.startswith("/")], "no file, no directory"
    assert kinds == ["anon_inode"] * 3 + ["pipe"] * 5 + ["socket"] * 10, held
    assert (held[0], held[1]) == ("/dev/null", "/dev/null")


def _most_processes(pid: int, number: str) -> None:
    """Of ``USER``, for one of its processes to make another. Its own to say: not even root may for others everywhere."""
    become = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
    subprocess.run([*become, "prlimit", f"--pid={pid}", f"--nproc={number}:"], check=True)


def _until(puppet: Puppet, words: str) -> str:
    """What the gateway says on its standard error, to the line that has ``words``."""
    assert puppet.process.stderr is not None
    said = ""
    for line in puppet.process.stderr:
        said += line
        if words in line:
            return said
    raise AssertionError(said)


@pytest.mark.skipif(not user_namespaces_for(USER), reason="no user namespace for an ordinary user here")
def test_a_worker_that_cannot_be_started_is_started_later(lab: Lab) -> None:
    """An ordinary user has no process left: connections wait, and are carried when there is one again."""
    with Puppet(lab, allow=["allowed.test"], uid=USER) as puppet:
        _most_processes(puppet.process.pid, "1")
        os.kill(puppet.worker, signal.SIGKILL)
        puppet.tell("connect", id=1, ip=GOOD_IP, port=int(Port.HTTP))
        puppet.hear()  # by the kernel: nobody has accepted it
        puppet.send(b"GET / HTTP/1.1\r\nHost: allowed.test\r\nConnection: close\r\n\r\n")
        said = _until(puppet, "no worker can be started")
        time.sleep(1.5)  # one more attempt
        with pytest.raises(LookupError):
            _ = puppet.worker
        _most_processes(puppet.process.pid, "100")
        assert puppet.receive_all().startswith(b"HTTP/1.1 200")
        (decision,) = puppet.await_decisions(1)
        assert decision["event"] == "egress_allowed"
        said += puppet.close()
    assert said.count("no worker can be started: Resource temporarily unavailable: new connections wait") == 1
    assert "a worker was started again" in said and "Traceback" not in said


def test_a_worker_serves_after_it_gave_everything_up(lab: Lab) -> None:
    """Nothing that it imports or opens late is missing: an odd name, a truncated answer over TCP, a chain, an error."""
    lab.zone.put("big.wild.test", {"A": [GOOD_IP], "truncate": True})
    with Puppet(lab, allow=["*.wild.test", "alias.test"]) as puppet:
        for number, (host, allowed) in enumerate(
            [
                ("big.wild.test", True),
                ("alias.test", True),
                ("b\\xff.test", False),
                ("missing.alias.test", False),
                ("none.wild.test", True),
            ]
        ):
            puppet.connect(GOOD_IP, Port.HTTP, number)
            puppet.send(
                f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode("latin-1"), number
            )
            said = puppet.receive_all(number)
            assert (b" 200 OK" in said) is allowed, (host, said)
        assert puppet.close().count("Traceback") == 0


def test_a_gateway_with_nothing_to_do_sleeps(lab: Lab) -> None:
    """A connection that idles wakes nobody either: with a thousand sandboxes, so many wake-ups are what the machine would do."""
    with Puppet(lab, allow=["allowed.test"]) as puppet:
        puppet.connect(GOOD_IP, Port.HTTPS)
        puppet.send(client_hello("allowed.test"))
        puppet.do("receive", id=1)
        woken: list[int] = []
        while len(woken) < 10 and (not woken or woken[-1] > 2):
            before = _wakings(puppet.worker)
            time.sleep(1)
            woken.append(_wakings(puppet.worker) - before)
        print(woken)
        assert woken[-1] <= 2, woken
        puppet.do("reset", id=1)


def _wakings(pid: int) -> int:
    words = Path(f"/proc/{pid}/status").read_text().split()
    return int(words[words.index("voluntary_ctxt_switches:") + 1])


def _blocked(act: Callable[[], object]) -> bool:
    try:
        act()
    except (OSError, subprocess.SubprocessError):
        return True
    return False


ACTS: dict[str, Callable[[], object]] = {
    "read a file": lambda: Path("/etc/passwd").read_bytes(),
    "list a directory": lambda: os.listdir("/"),
    "write a file": lambda: Path("/tmp/egress-worker").write_text("x"),
    "start a program": lambda: subprocess.run(["/bin/true"], check=True),
    "fork": os.fork,
    "signal its parent": lambda: os.kill(os.getppid(), 0),
    "bind a port": lambda: socket.create_server(("127.0.0.1", 0)).close(),
    "unix socket": lambda: socket.socket(socket.AF_UNIX).close(),
    "netlink socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close(),
    "packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close(),
    "raw socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close(),
    "become root": lambda: os.setuid(0),
    "new user namespace": lambda: _system("unshare", 0x10000000),
    "ptrace": lambda: _system("ptrace", 16, os.getppid(), 0, 0),
}


def _system(name: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)


def test_what_a_confined_process_cannot_do() -> None:
    assert all(
        not _blocked(ACTS[name]) for name in ("read a file", "list a directory", "unix socket", "bind a port")
    )
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            confine()
            done = [name for name, act in ACTS.items() if not _blocked(act)]
            os.write(write_end, "\n".join(done).encode() or b"nothing")
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as said:
        assert said.read() == "nothing"
    os.waitpid(pid, 0)
