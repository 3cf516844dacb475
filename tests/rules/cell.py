"""A cell made by hand, with the routing of docs/wall.md, so that a plan's rules alone are tried: a sandbox's end and a far end, on which every frame
is seen.

The sandbox's end has no address, and so no mind of its own: it sends what a test puts on the wire, and answers nothing.
"""

import contextlib
import ctypes
import itertools
import json
import os
import select
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from gateway.netd.nflog import open_logs
from gateway.netd.sockets import open_sockets
from gateway.packets import messages
from rules import NetworkPolicy
from rules.backend import Backend
from rules.plan import VETH, build_plan
from rules.words import ALLOWED_GROUP, REFUSED_GROUP
from tests.lab.lab import ROOT
from tests.lab.network import await_up
from tests.rules.frames import ACK, SYN, Flow, Seen, dport, frame, numbers, read, segment

IPAddress = IPv4Address | IPv6Address
Sources = Mapping[int, IPAddress]

OWN: Sources = {4: ip_address(VETH.address), 6: ip_address(VETH.address6)}
CLONE_NEWNET = 0x40000000
ETH_P_ALL = 3
SO_RCVBUFFORCE = 33
SOL_PACKET = 263  # linux/socket.h
PACKET_STATISTICS = 6
OF_CELL, OF_SANDBOX, OF_UPLINK, OF_FAR = (bytes.fromhex(f"02000000000{n}") for n in (1, 2, 3, 4))
UPLINK, UPLINK6 = ip_address("10.88.0.2"), ip_address("fd88::2")
MLD_ROUTERS = ip_address("ff02::16")  # RFC 3810 section 5.2.14
ARP_SANDBOX = "0001080006040001" + OF_SANDBOX.hex() + "c0000002" + "00" * 6 + "c0000001"
ARP_FAR = "0001080006040001" + OF_FAR.hex() + "0a580001" + "00" * 6 + "0a580002"
_numbers = itertools.count(1)
_libc = ctypes.CDLL(None, use_errno=True)

SYSCTLS = """
net/ipv4/conf/{all,default,sbx0,up0}/rp_filter=0
net/ipv4/conf/all/arp_ignore=1
net/ipv4/icmp_ratelimit=0
net/ipv4/icmp_msgs_per_sec=100000
net/ipv4/icmp_msgs_burst=100000
net/ipv6/icmp/ratelimit=0
net/ipv4/conf/up0/accept_local=1
net/ipv4/conf/{sbx0,up0}/forwarding=1
net/ipv6/conf/all/forwarding=1
"""


class Cell:
    """Three namespaces. Use as a context manager: leaving it removes them."""

    def __init__(self) -> None:
        name = f"egcell{os.getpid()}-{next(_numbers)}"
        self.sandbox, self.cell, self.far = (f"{name}-{end}" for end in ("sandbox", "cell", "far"))
        self._stack = contextlib.ExitStack()
        self._logs: dict[int, socket.socket] = {}
        self._told: dict[int, Counter[Flow]] = {}
        self.listeners: dict[int, socket.socket] = {}

    def __enter__(self) -> "Cell":
        with contextlib.ExitStack() as stack:
            for name in (self.sandbox, self.cell, self.far):
                _run("ip", "netns", "add", name)
                stack.callback(_run, "ip", "netns", "del", name)
            # One processor: what was put on a wire first is through first.
            before = os.sched_getaffinity(0)
            stack.callback(os.sched_setaffinity, 0, before)
            os.sched_setaffinity(0, {min(before)})
            self._join()
            self._wires = {
                name: stack.enter_context(self._wire(name, device))
                for name, device in ((self.sandbox, "eth0"), (self.far, "isp"))
            }
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def install(self, policy: NetworkPolicy | None, backend: Backend) -> None:
        """Both families' plans, and the gateway's sockets, which nobody reads: the kernel answers for the listening ones."""
        self.set_rules(policy, backend)
        with inside(self.cell):
            logs = open_logs()
            for plan in (build_plan(policy, "veth", 4), build_plan(policy, "veth", 6)):
                sockets = [self._stack.enter_context(sock) for sock in open_sockets(plan).values()]
                self.listeners[plan.family] = sockets[0]
        for group, sock in zip((REFUSED_GROUP, ALLOWED_GROUP), logs.values(), strict=True):
            self._logs[group] = self._stack.enter_context(sock)
            self._told[group] = Counter()

    def set_rules(self, policy: NetworkPolicy | None, backend: Backend) -> None:
        """Both families' plans alone."""
        script = (
            "import json, sys\nfrom gateway.netd.cells import install\nfrom rules import NetworkPolicy, build_plan\n"
            "from rules.choose import choose\npolicy = json.load(sys.stdin)\n"
            "policy = policy and NetworkPolicy.from_dict(policy)\n"
            f"plans = [build_plan(policy, 'veth', family) for family in (4, 6)]\ninstall(choose(plans, {backend!r}), plans)"
        )
        argv = ["ip", "netns", "exec", self.cell, sys.executable, "-c", script]
        _run(*argv, given=json.dumps(policy and policy.to_dict()))

    def told(self, group: int = REFUSED_GROUP) -> Counter[Flow]:
        """What the kernel has told a group of since it was last asked, packet by packet."""
        self._listen()
        found, self._told[group] = self._told[group], Counter()
        return found

    def expire_after(self, *, udp_s: int) -> None:
        """How long conntrack remembers what nobody answers."""
        script = f"echo {udp_s} > /proc/sys/net/netfilter/nf_conntrack_udp_timeout"
        _run("ip", "netns", "exec", self.cell, "sh", "-ec", script)

    def flush(self, *tables: str) -> None:
        """As if somebody had: no rule of theirs is left, and their policies accept."""
        for program, table in itertools.product(
            (f"{p}-{b}" for p in ("iptables", "ip6tables") for b in ("legacy", "nft")), tables
        ):
            words = f"{program} -t {table} -F"
            if table == "filter":
                words += "".join(
                    f" && {program} -P {chain} ACCEPT" for chain in ("INPUT", "FORWARD", "OUTPUT")
                )
            _run("ip", "netns", "exec", self.cell, "sh", "-c", words)

    def send(self, flows: Iterable[Flow], sources: Sources = OWN) -> tuple[set[Seen], set[Seen]]:
        """Put the first packet of each on the sandbox's wire; what then came back to the sandbox, and what arrived at the far end."""
        wire = self._wires[self.sandbox]
        back: set[Seen] = set()
        for one in self._wires.values():
            list(_taken(one))  # what the links said when they came up
        for flow in flows:
            put(wire, frame(flow, sources[flow.destination.version], to=OF_CELL, by=OF_SANDBOX))
            back |= set(_taken(wire))
            self._listen()
        back |= self._settle(self.sandbox, ARP_SANDBOX)
        return back, set(_taken(self._wires[self.far]))

    def send_from(self, flow: Flow, sports: Iterable[int]) -> int:
        """The same from each port; how many arrived at the far end."""
        for sport in sports:
            one = frame(flow, OWN[flow.destination.version], sport, to=OF_CELL, by=OF_SANDBOX)
            put(self._wires[self.sandbox], one)
            self._listen()
        self._settle(self.sandbox, ARP_SANDBOX)
        return sum(seen.flow == flow for seen in _taken(self._wires[self.far]))

    def connect(self, flow: Flow, sport: int) -> tuple[int, int]:
        """By TCP, by hand; the numbers of what comes next."""
        syn = segment(flow, OWN[flow.destination.version], sport, (7, 0), SYN, to=OF_CELL, by=OF_SANDBOX)
        theirs = next(
            numbers(raw) for raw in self.exchange(syn) if read(raw) == Seen("syn-ack", flow.destination, flow)
        )
        return 8, theirs[0] + 1

    def say(
        self, flow: Flow, sport: int, ours: tuple[int, int], data: bytes, flags: int = ACK
    ) -> list[tuple[str, int]]:
        """Go on; what each answer is, and what it acknowledges. A SYN-ACK is none: it is sent again until it is acknowledged, as time goes by."""
        raw = segment(
            flow, OWN[flow.destination.version], sport, ours, flags, data, to=OF_CELL, by=OF_SANDBOX
        )
        heard = [(read(one), numbers(one)) for one in self.exchange(raw) if dport(one) in (sport, None)]
        return [
            (seen.what, acked) for seen, (_, acked) in heard if seen is not None and seen.what != "syn-ack"
        ]

    def exchange(self, raw: bytes) -> list[bytes]:
        """Put a frame on the sandbox's wire; the frames that came back."""
        wire = self._wires[self.sandbox]
        list(_frames(wire))
        wire.send(raw)
        back = list(_frames(wire))
        self._settle(self.sandbox, ARP_SANDBOX, back)
        return back

    def answer(self, flows: Iterable[tuple[Flow, IPAddress, int]]) -> set[Seen]:
        """Put packets on the far end's wire: to where, from where, from which port. What arrived at the sandbox."""
        wire = self._wires[self.far]
        for flow, source, sport in flows:
            put(wire, frame(flow, source, sport, to=OF_UPLINK, by=OF_FAR))
        self._settle(self.far, ARP_FAR)
        return set(_taken(self._wires[self.sandbox]))

    def _listen(self) -> None:
        """Before a log is full."""
        for group, sock in self._logs.items():
            with contextlib.suppress(BlockingIOError):
                while True:
                    for one in messages(sock.recv(1 << 16)):
                        assert one.packet is not None
                        protocol = one.packet.proto.replace("icmpv6", "icmp")
                        self._told[group].update([Flow(one.packet.dest, protocol, one.packet.dest_port)])

    def _settle(self, end: str, request: str, frames: list[bytes] | None = None) -> set[Seen]:
        """Wait until what was sent is through: the cell answers ARP for its own addresses, and one after the other. What came meanwhile."""
        wire = self._wires[end]
        wire.send(b"\xff" * 6 + bytes.fromhex(request[16:28] + "0806" + request))
        wire.settimeout(10)
        seen: set[Seen] = set()
        while (raw := wire.recv(2048))[12:14] != b"\x08\x06":
            seen |= {one for one in [read(raw)] if one}
            if frames is not None:
                frames.append(raw)
        wire.settimeout(0)
        for one in self._wires.values():
            _, lost = memoryview(one.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)).cast("I")
            assert lost == 0
        return seen

    def _join(self) -> None:
        """Links, addresses and routes: docs/wall.md."""
        _run("ip", "-n", self.cell, "-batch", "-", given=f"""
link set lo up
link add sbx0 address {OF_CELL.hex(':')} type veth peer name eth0 address {OF_SANDBOX.hex(':')} netns {self.sandbox}
link add up0 address {OF_UPLINK.hex(':')} type veth peer name isp address {OF_FAR.hex(':')} netns {self.far}
link set sbx0 addrgenmode none
link set up0 addrgenmode none
""")  # fmt: skip
        for name, device in ((self.sandbox, "eth0"), (self.far, "isp")):
            script = f"link set {device} addrgenmode none\nlink set {device} up"
            _run("ip", "-n", name, "-batch", "-", given=script)
        for flag, own, gateway, prefix, up, router in (
            ("-4", VETH.address, VETH.gateway, "29", f"{UPLINK}/30", "10.88.0.1"),
            ("-6", VETH.address6, VETH.gateway6, "64 nodad", f"{UPLINK6}/64 nodad", "fd88::1"),
        ):
            script = f"""
link set sbx0 up
link set up0 up
addr add {gateway}/{prefix} dev sbx0
addr add {up} dev up0 noprefixroute
neigh add {own} lladdr {OF_SANDBOX.hex(":")} dev sbx0
neigh add {router} lladdr {OF_FAR.hex(":")} dev up0
rule add pref 10 fwmark 0x1/0xf lookup 100
rule add pref 15 iif up0 lookup main
rule add pref 20 iif lo lookup main
rule add pref 30 lookup local
route add {router} dev up0 table 100
route add default via {router} dev up0 table 100
route add local default dev lo table local
rule del pref 0
rule del pref 32766
"""
            if flag == "-4":
                script += "rule del pref 32767\n"
            _run("ip", flag, "-n", self.cell, "-batch", "-", given=script)
        for name, device in ((self.sandbox, "eth0"), (self.far, "isp")):
            await_up(name, device)
        script = (
            f"for word in {' '.join(SYSCTLS.split())}; do echo ${{word#*=}} > /proc/sys/${{word%%=*}}; done"
        )
        _run("ip", "netns", "exec", self.cell, "bash", "-ec", script)

    def _wire(self, name: str, device: str) -> socket.socket:
        with inside(name):
            wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            wire.bind((device, ETH_P_ALL))
        wire.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        wire.settimeout(0)
        return wire


def put(wire: socket.socket, raw: bytes) -> None:
    """Send a frame by a socket that does not block, once there is room for it: what was sent before may still be on its way."""
    while True:
        try:
            wire.send(raw)
        except BlockingIOError:
            assert select.select([], [wire], [], 10)[1]
        else:
            return


def _taken(wire: socket.socket) -> Iterator[Seen]:
    """Everything that has come in but the links' own multicast reports."""
    for raw in _frames(wire):
        seen = read(raw)
        if seen is not None and seen.flow.destination != MLD_ROUTERS:
            yield seen


def _frames(wire: socket.socket) -> Iterator[bytes]:
    """What has come in; of what went out on the same wire, nothing."""
    while True:
        try:
            raw, (_, _, direction, *_) = wire.recvfrom(2048)
        except BlockingIOError:
            return
        if direction != socket.PACKET_OUTGOING:
            yield raw


def inside(name: str) -> contextlib.AbstractContextManager[None]:
    """Be in the network namespace ``name``: sockets are of the one that they were made in."""
    return entered(Path("/run/netns") / name)


@contextlib.contextmanager
def entered(space: Path) -> Iterator[None]:
    """Be in the network namespace that ``space`` is a file of."""
    with open("/proc/self/ns/net") as ours, space.open() as theirs:
        assert _libc.setns(theirs.fileno(), CLONE_NEWNET) == 0
        try:
            yield
        finally:
            assert _libc.setns(ours.fileno(), CLONE_NEWNET) == 0


def _run(*argv: str, given: str = "") -> None:
    done = subprocess.run(argv, input=given, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr or done.stdout}"
