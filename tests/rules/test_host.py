"""The host's half in the kernel, by either kind of iptables: a cell's end, a host with rules of others, and a far end that sees what comes."""

import contextlib
import itertools
import os
import select
import socket
import subprocess
from collections.abc import Iterator
from ipaddress import ip_network

import pytest

from gateway.netd.conntrack import forget
from rules import host
from rules.link import Family
from tests.lab.network import await_up
from tests.rules.cell import ETH_P_ALL, inside

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(60),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a network namespace"),
]

PROGRAMS: dict[Family, str] = {4: "iptables", 6: "ip6tables"}
KINDS: dict[Family, socket.AddressFamily] = {4: socket.AF_INET, 6: socket.AF_INET6}
FAR: dict[Family, str] = {4: "198.18.0.2", 6: "2001:db8::2"}
HOST: dict[Family, str] = {4: "198.18.0.1", 6: "2001:db8::1"}
SERVICE: dict[Family, str] = {4: "203.0.113.77", 6: "2001:db8:77::77"}
"""Nobody's, but for the host's DNAT."""
CELL: dict[Family, str] = {family: str(ip_network(pool)[1]) for family, pool in host.POOLS.items()}
FAMILIES: tuple[Family, ...] = (4, 6)
_numbers = itertools.count(1)
BOTH = pytest.mark.parametrize("family", [4, 6])
VARIANTS = pytest.mark.parametrize("variant", ["legacy", "nft"])


class Host:
    """Three namespaces, and both families' addresses and routes. A context manager."""

    def __init__(self) -> None:
        name = f"eghost{os.getpid()}-{next(_numbers)}"
        self.cell, self.host, self.far = (f"{name}-{end}" for end in ("cell", "host", "far"))
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Host":
        with contextlib.ExitStack() as stack:
            for name in (self.cell, self.host, self.far):
                _run(f"ip netns add {name}")
                stack.callback(_run, f"ip netns del {name}")
            self._join()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _join(self) -> None:
        self.run("ip link add egress-1 type veth peer name up0 netns " + self.cell)
        self.run("ip link add wan type veth peer name isp netns " + self.far)
        self.run("echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding")
        for where, device in (
            (self.cell, "up0"),
            (self.host, "egress-1"),
            (self.host, "wan"),
            (self.far, "isp"),
        ):
            filters = f"/proc/sys/net/ipv4/conf/all/rp_filter /proc/sys/net/ipv4/conf/{device}/rp_filter"
            self.run(f"for file in {filters}; do echo 0 > $file; done; ip link set {device} up", where)
        for where, device in ((self.cell, "up0"), (self.host, "wan")):
            await_up(where, device)
        macs = {
            where: self.run(f"cat /sys/class/net/{device}/address", where).strip()
            for where, device in ((self.cell, "up0"), (self.host, "egress-1"))
        }
        for family in FAMILIES:
            gateway = "169.254.64.0" if family == 4 else "fe80::99"
            prefix = 30 if family == 4 else "64 nodad"
            self.run(f"ip addr add {CELL[family]} dev up0{' nodad' * (family == 6)}", self.cell)
            self.run(f"ip neigh add {gateway} lladdr {macs[self.host]} dev up0", self.cell)
            self.run(f"ip -{family} route add default via {gateway} dev up0 onlink", self.cell)
            self.run(f"ip -{family} route add {CELL[family]} dev egress-1")
            self.run(f"ip neigh add {CELL[family]} lladdr {macs[self.cell]} dev egress-1")
            self.run(f"ip addr add {HOST[family]}/{prefix} dev wan")
            self.run(f"ip addr add {FAR[family]}/{prefix} dev isp", self.far)

    def run(self, script: str, where: str | None = None) -> str:
        """A shell's, in one of the namespaces."""
        return _run("sh", "-ec", script, where=where or self.host)

    def saved(self, family: Family, variant: str) -> str:
        """The host's rules, without counters and what is said of them."""
        said = self.run(f"{PROGRAMS[family]}-{variant}-save")
        return "\n".join(line.partition(" [")[0] for line in said.splitlines() if line[:1] in "*:-")

    def apply(self, family: Family, variant: str, text: str) -> None:
        """As netd does."""
        _run(f"{PROGRAMS[family]}-{variant}-restore", "--noflush", where=self.host, given=text)

    def install(self, family: Family, variant: str) -> None:
        """Everything of ours."""
        held = host.saved_rules(self.saved(family, variant))
        self.apply(family, variant, host.restore_text(host.host_chains(family, closed=False), held))

    def remove(self, family: Family, variant: str) -> None:
        """All of it."""
        held = host.saved_rules(self.saved(family, variant))
        self.apply(family, variant, host.removal_text(host.host_chains(family, closed=False), held))


def _run(*argv: str, where: str | None = None, given: str = "") -> str:
    words = argv if len(argv) > 1 else argv[0].split()
    entered = ("ip", "netns", "exec", where, *words) if where else words
    done = subprocess.run(entered, input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr or done.stdout}"
    return done.stdout


@pytest.fixture
def made() -> Iterator[Host]:
    """Without a rule."""
    with Host() as one:
        yield one


def bound(where: str, family: Family, address: str, port: int, how: int, *, listens: bool) -> socket.socket:
    """A socket of a namespace's."""
    with inside(where):
        sock = socket.socket(KINDS[family], how)
    sock.setblocking(False)
    sock.bind((address, port))
    if listens and how == socket.SOCK_STREAM:
        sock.listen()
    return sock


@VARIANTS
@BOTH
def test_twice_is_once_and_it_goes_as_it_came(made: Host, family: Family, variant: str) -> None:
    """Others' rules stay as they are, and behind ours."""
    program = f"{PROGRAMS[family]}-{variant}"
    for rule in (
        "-A INPUT -i egress-1 -j ACCEPT",
        "-A FORWARD -j ACCEPT",
        "-t nat -A POSTROUTING -j ACCEPT",
        "-t raw -A PREROUTING -j ACCEPT",
    ):
        made.run(f"{program} {rule}")
    before = made.saved(family, variant)
    made.install(family, variant)
    once = made.saved(family, variant)
    made.install(family, variant)
    assert made.saved(family, variant) == once
    held = host.saved_rules(once)
    for chain in host.host_chains(family, closed=False):
        jumps = [rule for rule in held[chain.table] if rule.startswith(f"-A {chain.parent} ")]
        assert jumps[0] == chain.jump and len(jumps) == 2
        rules = [
            rule.removeprefix(f"-A {chain.name} ")
            for rule in held[chain.table]
            if rule.startswith(f"-A {chain.name} ")
        ]
        assert rules == list(chain.rules)
    made.remove(family, variant)
    assert made.saved(family, variant) == before


@VARIANTS
@BOTH
@pytest.mark.parametrize("how", [socket.SOCK_DGRAM, socket.SOCK_STREAM], ids=["udp", "tcp"])
def test_cells_get_no_port_that_the_hosts_programs_may_be_given(
    made: Host, family: Family, variant: str, how: int
) -> None:
    """Or one of them, with a flow from each of its ports, would leave the host and the others none to the same destination. Nor, for datagrams, one
    that a service has: its peers answer nobody's question, and would be heard by a cell that had taken the port first."""
    made.install(family, variant)
    low, high = map(int, host.PORTS["udp" if how == socket.SOCK_DGRAM else "tcp"].split("-"))
    first, last = map(int, made.run("cat /proc/sys/net/ipv4/ip_local_port_range").split())
    assert high < first or last < low
    found = set()
    with contextlib.ExitStack() as stack:
        far = stack.enter_context(bound(made.far, family, FAR[family], 9, how, listens=True))
        for port in (*range(1, 65536, 997), 4500, first, last, 65535):
            ours = stack.enter_context(bound(made.cell, family, CELL[family], port, how, listens=False))
            ours.setblocking(True)
            ours.settimeout(20)
            ours.connect((FAR[family], 9))
            ours.send(b"x")
            assert select.select([far], [], [], 20)[0]
            if how == socket.SOCK_DGRAM:
                _, peer = far.recvfrom(9)
                far.sendto(b"y", peer)
            else:
                came, peer = far.accept()
                stack.enter_context(came).send(b"y")
            assert ours.recv(9) == b"y"
            assert peer[0] == HOST[family]
            found.add(peer[1])
    assert low <= min(found) and max(found) <= high


@VARIANTS
@BOTH
@pytest.mark.parametrize("untracked", [False, True], ids=["invalid", "untracked"])
def test_what_the_hosts_conntrack_does_not_follow_does_not_leave(
    made: Host, family: Family, variant: str, untracked: bool
) -> None:
    """It could be given no address of the host's, and would leave with the cell's own."""
    made.install(family, variant)
    made.run("echo 0 > /proc/sys/net/netfilter/nf_conntrack_tcp_loose")
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(
            bound(made.far, family, FAR[family], 9, socket.SOCK_STREAM, listens=True)
        )
        last = stack.enter_context(bound(made.far, family, FAR[family], 9, socket.SOCK_DGRAM, listens=False))
        with inside(made.far):
            wire = stack.enter_context(
                socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            )
        wire.setblocking(False)
        ours = stack.enter_context(
            bound(made.cell, family, CELL[family], 0, socket.SOCK_STREAM, listens=False)
        )
        ours.setblocking(True)
        ours.settimeout(20)
        ours.connect((FAR[family], 9))
        assert select.select([listener], [], [], 20)[0], "its first packet is followed"
        if untracked:  # by a rule of somebody else's
            made.run(f"{PROGRAMS[family]}-{variant} -t raw -A PREROUTING -i egress-1 -p tcp -j NOTRACK")
        else:
            with inside(made.host):
                forget(family, lambda *_: False)
        ours.send(b"x")
        after = stack.enter_context(
            bound(made.cell, family, CELL[family], 0, socket.SOCK_DGRAM, listens=False)
        )
        after.connect((FAR[family], 9))
        after.send(b"x")
        assert select.select([last], [], [], 20)[0]
        own = socket.inet_pton(KINDS[family], CELL[family])
        came = []
        with contextlib.suppress(BlockingIOError):
            while True:
                came.append(wire.recv(200))
        assert came
        assert [one for one in came if own in one[14:54]] == []


@VARIANTS
@BOTH
@pytest.mark.parametrize("how", [socket.SOCK_DGRAM, socket.SOCK_STREAM], ids=["udp", "tcp"])
def test_the_host_is_not_reached_by_its_own_dnat(made: Host, family: Family, variant: str, how: int) -> None:
    """As kube-proxy makes of a service's address the host's own: the guard has seen the one, INPUT sees the other. To others it may lead."""
    program, protocol = f"{PROGRAMS[family]}-{variant}", "udp" if how == socket.SOCK_DGRAM else "tcp"
    for port, to in ((80, HOST[family]), (81, FAR[family])):
        place = f"[{to}]:9911" if family == 6 else f"{to}:9911"
        made.run(
            f"{program} -t nat -A PREROUTING -d {SERVICE[family]} -p {protocol} --dport {port} -j DNAT --to-destination {place}"
        )
    made.install(family, variant)
    with contextlib.ExitStack() as stack:
        own = stack.enter_context(bound(made.host, family, HOST[family], 9911, how, listens=True))
        far = stack.enter_context(bound(made.far, family, FAR[family], 9911, how, listens=True))
        for port in (80, 81):
            ours = stack.enter_context(bound(made.cell, family, CELL[family], 0, how, listens=False))
            with contextlib.suppress(BlockingIOError, BrokenPipeError):  # a SYN is enough
                ours.connect((SERVICE[family], port))
                ours.send(b"x")
        assert select.select([far], [], [], 20)[0]
        # The first to come to the host is whoever comes last, by its own address.
        other = stack.enter_context(bound(made.far, family, FAR[family], 0, how, listens=False))
        with contextlib.suppress(BlockingIOError):
            other.connect((HOST[family], 9911))
        if how == socket.SOCK_DGRAM:
            other.send(b"x")
        assert select.select([own], [], [], 20)[0]
        if how == socket.SOCK_DGRAM:
            _, peer = own.recvfrom(9)
        else:
            came, peer = own.accept()
            came.close()
        assert peer[:2] == other.getsockname()[:2]
