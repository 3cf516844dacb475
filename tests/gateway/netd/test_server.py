"""The privileged process, alive: what it answers to good requests, bad ones and nonsense."""

import os
import random
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import uvloop

from gateway.errors import SetupError
from gateway.netd.held import Held
from gateway.netd.requests import Answer, CellOpened, Failed, OpenCell, decode_answer, encode
from gateway.netd.server import Netd, _send
from gateway.netd.variants import HostError
from rules import NetworkPolicy
from rules.backend import Backend
from rules.plan import Rule, build_plan
from rules.rule import Chain
from tests.gateway.netd.mutations import mutated
from tests.lab.lab import ROOT

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a network namespace"),
]

MUTATIONS = 400
GOOD = build_plan(NetworkPolicy(["api.openai.com"], ["0.0.0.0/0"]))


@pytest.fixture
def netd() -> Iterator[Netd]:
    """A process of its own."""
    started = Netd()
    yield started
    started.close()


def ask(netd: Netd, raw: bytes) -> Answer:
    """Send anything; the answer, whose descriptors are closed again."""
    _send(netd._socket, raw)
    message, descriptors, _, _ = socket.recv_fds(netd._socket, 1 << 18, 8)
    for descriptor in descriptors:
        os.close(descriptor)
    assert message, "netd died"
    answer = decode_answer(message)
    assert len(descriptors) == (len(answer.descriptors) if isinstance(answer, CellOpened) else 0)
    return answer


def machine() -> list[str]:
    """What a careless netd could have changed in the namespace that it came from."""
    said = [Path("/proc/net/ip_tables_names").read_text()]
    for words in ("addr", "rule", "route show table all"):
        done = subprocess.run(["ip", "-o", *words.split()], capture_output=True, text=True, check=True)
        # Of what a router or a DHCP server lends, each line says for how long still.
        lines = [re.sub(r"\d+sec\b", "", line) for line in done.stdout.splitlines()]
        said.append("\n".join(line for line in lines if "cache" not in line))
    return said


def children(pid: int) -> str:
    """Of a process, as the kernel lists them."""
    return Path(f"/proc/{pid}/task/{pid}/children").read_text()


def test_a_cell_comes_with_its_namespace_and_sockets(netd: Netd) -> None:
    cell = netd.open_cell(GOOD)
    assert list(cell) == ["netns", "nflog_refused", "nflog_allowed", "listener", "dns_udp", "dns_tcp"]
    assert os.readlink(f"/proc/self/fd/{cell['netns']}") != os.readlink("/proc/self/ns/net")
    listener = socket.socket(fileno=cell.pop("listener"))
    with listener:
        assert listener.getsockname() == ("127.86.0.1", 1)
        assert listener.getsockopt(socket.SOL_IP, 19) == 1, "IP_TRANSPARENT"
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16).strip(b"\0") == b"lo"
    for descriptor in cell.values():
        os.close(descriptor)


@pytest.mark.parametrize(("firewall", "keeper"), [(None, "legacy"), ("legacy", "legacy"), ("nft", "nft")])
def test_the_rules_are_where_they_were_wanted(netd: Netd, firewall: Backend | None, keeper: str) -> None:
    cell = netd.open_cell(GOOD, firewall=firewall)
    for backend in ("legacy", "nft"):
        argv = [
            *("nsenter", f"--net=/proc/{os.getpid()}/fd/{cell['netns']}"),
            f"iptables-{backend}",
            *("-t", "mangle", "-S"),
        ]
        said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        assert ("TPROXY" in said) is (backend == keeper)
    for descriptor in cell.values():
        os.close(descriptor)


def test_without_dns_there_are_no_dns_sockets(netd: Netd) -> None:
    cell = netd.open_cell(build_plan(NetworkPolicy([], ["0.0.0.0/0"])))
    assert list(cell) == ["netns", "nflog_refused", "nflog_allowed", "listener"]
    for descriptor in cell.values():
        os.close(descriptor)


def test_a_plan_with_a_hole_is_refused_and_nothing_is_made(netd: Netd) -> None:
    chain = GOOD.chains[1]
    holed = replace(chain, rules=(Rule("ACCEPT", "lo"), *chain.rules))
    with pytest.raises(SetupError, match="refused plan: filter INPUT"):
        netd.open_cell(replace(GOOD, chains=(GOOD.chains[0], holed, *GOOD.chains[2:])))
    assert children(netd.pid) == ""


@pytest.mark.parametrize(
    "raw",
    [
        b"x",
        b"[" * 100_000,
        b"\0" * 200_000,
        encode(OpenCell(GOOD)).replace(b'"plan":{', b'"plan":{"x":' + b"[" * 50_000 + b"]" * 50_000 + b","),
        encode(OpenCell(GOOD)).replace(b'"listen_ip":"127.86.0.1"', b'"listen_ip":"junk"'),
        encode(OpenCell(GOOD)) * 2,
    ],
    ids=["a letter", "nested", "zeros", "nested where it is skipped", "no address", "two requests"],
)
def test_nonsense_is_answered_and_the_next_request_served(netd: Netd, raw: bytes) -> None:
    assert isinstance(ask(netd, raw), Failed)
    assert isinstance(ask(netd, encode(OpenCell(GOOD))), CellOpened)


def test_a_refusal_that_quotes_a_request_of_any_length_is_sent(netd: Netd) -> None:
    many = replace(GOOD, chains=tuple(Chain("filter", f"chain-{number}", ()) for number in range(20_000)))
    assert isinstance(ask(netd, encode(OpenCell(many))), Failed)
    assert isinstance(ask(netd, encode(OpenCell(GOOD))), CellOpened)


def test_whatever_ends_it_what_it_made_is_taken_down(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def close_all(_: Held) -> None:
        (tmp_path / "closed").touch()

    monkeypatch.setattr(Held, "close_all", close_all)
    monkeypatch.setattr("gateway.netd.server.encode", lambda _: bytes(1 << 20))  # no socket takes that
    netd = Netd()
    netd._socket.send(b"x")
    netd.close(lambda _: None)
    assert (tmp_path / "closed").exists()


def test_descriptors_sent_along_are_not_kept(netd: Netd) -> None:
    ask(netd, b"x")  # its imports are done
    before = sorted(os.listdir(f"/proc/{netd.pid}/fd"))
    for _ in range(20):
        socket.send_fds(netd._socket, [b"x"], [0, 1, 2])
        netd._socket.recv(4096)
    assert sorted(os.listdir(f"/proc/{netd.pid}/fd")) == before


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_hundreds_of_mutated_requests_change_nothing(netd: Netd) -> None:
    before = machine()
    ask(netd, encode(OpenCell(GOOD)))
    ask(netd, b"x")  # by now it has closed what it gave away
    descriptors = len(os.listdir(f"/proc/{netd.pid}/fd"))
    rng = random.Random(5)
    refused = sum(isinstance(ask(netd, mutated(rng)), Failed) for _ in range(MUTATIONS))
    assert refused > 0.8 * MUTATIONS
    assert isinstance(ask(netd, encode(OpenCell(GOOD))), CellOpened)
    ask(netd, b"x")  # as above
    assert machine() == before
    descriptors += MUTATIONS - refused + 1  # it holds its cells
    assert children(netd.pid) == ""
    assert len(os.listdir(f"/proc/{netd.pid}/fd")) == descriptors


def test_it_ends_when_its_asker_is_gone() -> None:
    netd = Netd()
    pidfd = os.pidfd_open(netd.pid)
    netd._socket.close()
    assert os.waitid(os.P_PIDFD, pidfd, os.WEXITED) is not None
    os.close(pidfd)


def test_a_library_that_closes_its_own_descriptors_at_a_fork_closes_none_of_netds() -> None:
    """libuv does, in the child, by their old numbers: a caller that ever made a uvloop brings that along."""
    uvloop.new_event_loop().close()
    netd = Netd()
    try:
        for _ in range(25):  # it keeps a descriptor of each, and so comes to those numbers
            assert isinstance(ask(netd, encode(OpenCell(GOOD))), CellOpened)
    finally:
        netd.close()


WITHOUT = """
import sys
from gateway.errors import EgressError
from gateway.netd.server import Netd
from rules import NetworkPolicy
from rules.plan import build_plan
netd = Netd()
try:
    netd.open_cell(build_plan(NetworkPolicy(["203.0.113.0/24", "a.test"], ["0.0.0.0/0"]), sys.argv[1]), None, sys.argv[2])
except EgressError as error:
    print(type(error).__name__, error)
netd.close()
"""


@pytest.mark.parametrize("firewall", ["legacy", "nft"])
@pytest.mark.parametrize("link", ["lo", "veth"])
@pytest.mark.parametrize("capability", ["net_admin", "sys_admin"])
def test_a_root_without_a_capability_is_told_that_it_is_this(
    capability: str, link: str, firewall: str
) -> None:
    argv = ["unshare", "--net", "setpriv", f"--bounding-set=-{capability}", sys.executable, "-c", WITHOUT]
    done = subprocess.run([*argv, link, firewall], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.startswith("PrivilegeError "), done
    assert "CAP_SYS_ADMIN and CAP_NET_ADMIN" in done.stdout and len(done.stdout.splitlines()) == 1


def test_it_shares_no_descriptor_with_its_asker(tmp_path: Path) -> None:
    with (tmp_path / "secret").open("w"):
        netd = Netd()
        ask(netd, b"x")
        held = {os.readlink(f"/proc/{netd.pid}/fd/{name}") for name in os.listdir(f"/proc/{netd.pid}/fd")}
        netd.close()
    assert not any("secret" in path for path in held)


def test_one_that_ends_well_is_not_spoken_of_and_may_be_closed_twice(netd: Netd) -> None:
    said: list[str] = []
    ask(netd, encode(OpenCell(GOOD)))
    netd.close(said.append)
    netd.close(said.append)
    assert said == []


def test_one_that_was_killed_is(netd: Netd) -> None:
    """Where no uplink was asked for nothing is left, and nothing said of what may be."""
    said: list[str] = []
    for descriptor in netd.open_cell(GOOD).values():
        os.close(descriptor)
    os.kill(netd.pid, signal.SIGKILL)
    netd.close(said.append)
    assert said == ["netd ended by signal 9"]


def test_it_says_why_it_ended(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def close_all(_: Held) -> None:
        raise HostError("there is\n\udcff no room")

    monkeypatch.setattr(Held, "close_all", close_all)
    netd = Netd()
    netd.close()
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("egress.netd", "WARNING")
    assert record.getMessage() == "netd ended with status 1 (HostError: there is \\udcff no room)"


def test_it_says_so_itself_where_nobody_asks_any_more(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def close_all(_: Held) -> None:
        raise HostError("no room")

    monkeypatch.setattr(Held, "close_all", close_all)
    netd = Netd()
    netd._socket.close()
    assert os.waitstatus_to_exitcode(os.waitpid(netd.pid, 0)[1]) == 1
    assert capfd.readouterr().err == "egress: netd: HostError: no room\n"


def test_one_that_somebody_else_has_reaped_is_closed_all_the_same(netd: Netd) -> None:
    os.kill(netd.pid, signal.SIGKILL)
    os.waitpid(netd.pid, 0)
    netd.close()


def test_an_answer_that_comes_too_late_is_no_reason(netd: Netd) -> None:
    """It is what was asked for; and its descriptors are not kept."""
    said: list[str] = []
    ask(netd, b"x")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        netd._socket.send(encode(OpenCell(GOOD)))
    netd._socket.send(b"x")
    netd.close(said.append)
    assert said == []
    assert len(os.listdir("/proc/self/fd")) == before - 1
