"""An attacker inside the sandbox, with the run of every trick that is known here: none gets through, and nothing arrives on the far side."""

import json
import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.lab import places
from tests.lab.lab import ROOT, Lab
from tests.lab.sandboxed import Outcome, egress_argv, egress_run, new_audit_dir
from tests.netns.test_run import comm, wait_for

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(150)]

PYTHON = "/usr/bin/python3"
HERE = Path(__file__).parent
HOST_PORT = 8765
FAR_SIDE = {
    "far": places.ATTACKER_IP, "far6": places.ATTACKER_IP6, "resolver": places.DNS_IP, "host": places.HOST_IP,
    "host_port": str(HOST_PORT), "resolver6": places.DNS_IP6, "host6": places.HOST_IP6,
}  # fmt: skip


@pytest.fixture
def attack(lab: Lab) -> Iterator[Path]:
    """A working directory with the attacker's programs in it."""
    directory = lab.work / "attack"
    package = directory / "tests" / "netns" / "attacker"
    shutil.copytree(HERE, package, ignore=shutil.ignore_patterns("test_*", "__pycache__"))
    for parent in (package.parent, package.parent.parent):
        (parent / "__init__.py").touch()
    for path in (directory, *directory.rglob("*")):
        os.chown(path, 65534, 65534)
    yield directory
    shutil.rmtree(directory)


def program(name: str, arguments: dict[str, str]) -> list[str | Path]:
    """The attacker's command line."""
    return [PYTHON, "-B", "-m", f"tests.netns.attacker.{name}", json.dumps(arguments)]


def got_through(name: str, outcome: Outcome) -> list[Any]:
    """What worked, after it was made sure that all was tried."""
    lines = [json.loads(line) for line in outcome.stdout.splitlines()]
    source = (HERE / f"{name}.py").read_text()
    assert len(lines) == source.count("@attempt\n") > 5, (outcome.status, outcome.stderr, outcome.notices)
    return [line for line in lines if line[1]]


def strays(lab: Lab) -> list[object]:
    """What arrived, or was on the wire at all, but for what the two ends of the wire say to each other."""
    assert lab.capture.lost() == 0
    return [*lab.far.entries(), *lab.capture.beyond()]


class Services:
    """Things of the machine that a sandbox must not reach."""

    def __init__(self, lab: Lab, stack: ExitStack) -> None:
        self.abstract = f"egress-test-{lab.name}"
        self._stack = stack
        self.accepted: list[socket.socket] = []
        for kind, name in ((1, "stream"), (5, "seqpacket")):
            del name
            self._listen(
                socket.socket(socket.AF_UNIX, kind), "\0" + self.abstract + ("" if kind == 1 else "-seq")
            )
        run = Path("/run") / self.abstract
        run.mkdir()
        stack.callback(shutil.rmtree, run)
        tmp = Path("/tmp") / self.abstract
        tmp.mkdir()
        stack.callback(shutil.rmtree, tmp)
        self.paths = [run / "docker.sock", tmp / "agent.sock"]
        for path in self.paths:
            path.parent.chmod(0o777)
            self._listen(socket.socket(socket.AF_UNIX), str(path))
            path.chmod(0o777)

    def _listen(self, sock: socket.socket, address: str) -> None:
        self._stack.enter_context(sock)
        sock.bind(address)
        sock.listen()
        sock.setblocking(False)
        self.accepted.append(sock)

    def visitors(self) -> int:
        """How many came."""
        count = 0
        for sock in self.accepted:
            try:
                sock.accept()[0].close()
            except BlockingIOError:
                continue
            count += 1
        return count


@pytest.fixture
def services(lab: Lab) -> Iterator[Services]:
    """Listening as long as the test runs."""
    with ExitStack() as stack:
        yield Services(lab, stack)


def doors(services: Services, suid: Path) -> dict[str, str]:
    """The arguments of ``doors``."""
    return {"abstract": services.abstract, "sockets": ":".join(map(str, services.paths)), "suid": str(suid)}


@pytest.fixture
def suid(attack: Path) -> Path:
    """A program of root's with the set-user-ID bit, where the sandbox may write."""
    path = attack / "id"
    shutil.copy("/usr/bin/id", path)
    path.chmod(0o4755)
    assert path.stat().st_mode & stat.S_ISUID and path.stat().st_uid == 0
    return path


def test_no_door_but_the_network_leads_out(
    lab: Lab, attack: Path, services: Services, suid: Path, starter: int | None
) -> None:
    outcome = egress_run(
        lab,
        program("doors", doors(services, suid)),
        allow=["allowed.test"],
        cwd=attack,
        uid=starter,
        timeout=100,
    )
    assert got_through("doors", outcome) == []
    assert services.visitors() == 0
    assert strays(lab) == []


def test_without_a_sandbox_the_same_attempts_do_get_through(
    lab: Lab, attack: Path, services: Services, suid: Path
) -> None:
    """That they are real: of an ordinary user of the machine, in its own namespaces, a good part works."""
    done = lab.run(program("doors", doors(services, suid)), cwd=attack, uid=65534, timeout=100)
    worked = {name for name, got, _ in map(json.loads, done.stdout.splitlines()) if got}
    assert {"unix_sockets_of_the_machine", "set_user_id_programs", "other_socket_families"} <= worked
    assert services.visitors() > 0


def test_a_proc_of_the_machine_mounted_elsewhere_is_hidden(
    lab: Lab, attack: Path, services: Services, suid: Path
) -> None:
    """As of a chroot: the caller's own user is whom the command runs as, so its processes would be an open door."""
    place = lab.directory / "chroot proc"
    place.mkdir()
    victim = subprocess.Popen(
        ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "sleep", "100"],
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: comm(victim.pid) == "sleep")
        argv = egress_argv(
            new_audit_dir(lab),
            program("doors", doors(services, suid)),
            allow=["allowed.test"],
            options=["--user", "1000:1000"],
        )
        mounted = ["unshare", "--mount", "sh", "-ec", 'mount -t proc proc "$0"; exec "$@"', place, *argv]
        done = lab.run(mounted, cwd=attack, timeout=100)
        results = {name: got for name, got, _ in map(json.loads, done.stdout.splitlines())}
        assert results.pop("another_proc_is_mounted_somewhere") is False, done.stdout
        assert not any(results.values()), done.stdout
    finally:
        victim.kill()
        victim.wait()
        place.rmdir()


def test_nothing_is_written_where_it_would_be_obeyed_or_believed(lab: Lab, attack: Path) -> None:
    opened = lab.directory / "open"
    opened.mkdir()
    opened.chmod(0o777)
    (opened / "file").touch()
    (opened / "file").chmod(0o666)
    audit = attack / "logs" / "deep" / "audit"
    audit.mkdir(parents=True)
    for path in (audit, audit.parent, audit.parent.parent):
        os.chown(path, 65534, 65534)
    arguments = {"audit": str(audit), "installation": str(ROOT), "open": str(opened)}
    argv = egress_argv(audit, program("files", arguments), allow=["allowed.test"])
    done = lab.run(argv, cwd=attack, timeout=100)
    outcome = Outcome(done.returncode, done.stdout, done.stderr, [], [])
    assert got_through("files", outcome) == []
    assert [path.name for path in opened.iterdir()] == ["file"]
    assert sorted(path.suffix or path.name for path in audit.iterdir()) == [".jsonl", "MANIFEST"]
    shutil.rmtree(opened)


SERVICE = f"""
import socket, sys, threading
def serve(kind, address):
    s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((address, {HOST_PORT}))
    if kind == socket.SOCK_STREAM:
        s.listen()
    sys.stdout.write("ready\\n")
    while True:
        if kind == socket.SOCK_STREAM:
            peer = s.accept()[0]
            peer.sendall(b"host"); peer.close()
        else:
            s.sendto(b"host", s.recvfrom(100)[1])
        sys.stdout.write("visited\\n")
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
    for address in ("127.0.0.1", "{places.HOST_IP}", "::1", "{places.HOST_IP6}"):
        threading.Thread(target=serve, args=(kind, address)).start()
"""


@pytest.fixture
def machine(lab: Lab) -> Iterator[list[str]]:
    """A service of the machine on every address of its own; afterwards, who came."""
    process = lab.popen([PYTHON, "-u", "-c", SERVICE])
    came: list[str] = []
    try:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(8)] == ["ready\n"] * 8
        lab.reset()
        yield came
    finally:
        process.kill()
        came += process.communicate()[0].splitlines()
    assert came == []


@pytest.mark.parametrize("name", ["packets", "packets6"])
def test_no_packet_leaves_that_the_policy_did_not_open(
    lab: Lab, attack: Path, machine: list[str], starter: int | None, name: str
) -> None:
    outcome = egress_run(
        lab, program(name, FAR_SIDE), allow=["allowed.test"], cwd=attack, uid=starter, timeout=120
    )
    assert got_through(name, outcome) == []
    assert strays(lab) == []
    assert all(record["event"] == "egress_blocked" for record in outcome.decisions)


@pytest.mark.parametrize("name", ["packets", "packets6"])
@pytest.mark.parametrize("link", ["lo", "veth"])
def test_under_full_egress_the_machine_itself_stays_out_of_reach(
    lab: Lab, attack: Path, machine: list[str], name: str, link: str
) -> None:
    told = {**FAR_SIDE, "patience_s": "20"}
    outcome = egress_run(lab, program(name, told), cwd=attack, options=["--link", link], timeout=120)
    lines = {found: (got, said) for found, got, said in map(json.loads, outcome.stdout.splitlines())}
    assert not lines["services_of_the_machine"][0], lines["services_of_the_machine"]
    assert lines["tcp_anywhere"][0], "it is full egress: the attempts are real"
    far = places.ATTACKER_IP if name == "packets" else places.ATTACKER_IP6
    protocols = {packet.proto for packet in lab.capture.packets(to=far)}
    assert protocols == {"tcp"} if link == "lo" else protocols > {"tcp", "udp"}
