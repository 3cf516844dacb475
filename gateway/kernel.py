"""What the kernel decided, on record: every first packet that it let out, every packet that it refused.

A flood must neither fill the disk nor take the loop from those who are carried. So refusals beyond a budget are counted, and written as a sum; and
what is more than that is left to the kernel's buffer to lose, which its numbering makes exact.
"""

import asyncio
import socket
import struct
import time
from collections.abc import Callable, Container
from ipaddress import ip_address
from typing import Final, NamedTuple

from audit.record import Event, Record, decision, lost
from gateway.decide import Decision, Verdict, refuse
from gateway.dns.budget import Bucket
from gateway.flow import Endpoint, Flow, IPAddress
from gateway.packets import Packet, messages
from gateway.reasons import Reason
from gateway.sums import REFUSALS, Sink, Sums
from rules.link import LO, VETH

MESSAGES: Final = (2000.0, 8000.0)
"""That are read: so many a second, and so many at once."""
READ_BYTES: Final = 16384
READS_A_TURN: Final = 32
LEAST_BYTES: Final = 512
"""That a message takes of the kernel's buffer (SKB_TRUESIZE of the smallest)."""
PAUSE_S: Final = 0.05

SO_MEMINFO: Final = 55  # asm-generic/socket.h
# linux/sock_diag.h: SK_MEMINFO_RMEM_ALLOC, SK_MEMINFO_DROPS
HELD_AT: Final = 0
DROPS_AT: Final = 8 * 4
_U32 = struct.Struct("=I")

SANDBOX: Final = frozenset(map(ip_address, (LO.address, LO.address6, str(VETH.link_local6))))
"""From where it may send, whatever its link."""
CELL: Final = frozenset(map(ip_address, (str(VETH.gateway), str(VETH.gateway6), LO.listen_ip6)))

Judge = Callable[[Flow, bool], Decision]
"""Which words of the policy a packet met; whether it left the cell."""


class OwnOrLocal:
    """A container of what no policy can allow because it is the gateway's: the link's own addresses, and those of the host."""

    def __init__(self, local: Container[IPAddress]) -> None:
        self._local = local

    def __contains__(self, ip: object) -> bool:
        return ip in SANDBOX or ip in CELL or ip in self._local


class _Alike(NamedTuple):
    reason: str
    rule: str = "limit"
    proto: str = "ip"
    dest: Endpoint | None = None


class KernelRecords:
    """Reads the two groups of one sandbox, and writes down what they tell."""

    def __init__(
        self,
        refused: socket.socket,
        allowed: socket.socket,
        judge: Judge,
        sink: Sink,
        flow_of: Callable[[Packet], Flow],
        dropped: tuple[int, int],
        name_of: Callable[[IPAddress], str | None],
    ) -> None:
        """Does nothing before ``start``. ``dropped``: what each socket had dropped before it was this process's to count. ``name_of``: what DNS told
        the sandbox that an address is called."""
        self._groups = (_Group(refused, dropped[0], left=False), _Group(allowed, dropped[1], left=True))
        self._judge = judge
        self._sink = sink
        self._flow_of = flow_of
        self._name_of = name_of
        now = time.monotonic()
        self._messages = Bucket(*MESSAGES, now)
        self._budget = Bucket(*REFUSALS, now)
        self._sums = Sums(sink)
        self._held = False

    def start(self) -> None:
        """Read from now on."""
        loop = asyncio.get_running_loop()
        for group in self._groups:
            loop.add_reader(group.socket, self._read, group)

    def stop(self) -> None:
        """Take in what is there, and write the sums down."""
        self.hold()
        self._sums.stop()
        self._drain()

    def hold(self) -> None:
        """Leave what comes to the kernel's buffer: by which policy it is to be judged is not known yet."""
        self._held = True
        loop = asyncio.get_running_loop()
        for group in self._groups:
            loop.remove_reader(group.socket)

    def go_on(self, judge: Judge) -> None:
        """Take in what has come, judged by ``judge``; from then on as before."""
        before, self._judge = self._judge, judge
        self._drain()
        self._judge = before
        self._held = False
        self.start()

    def _drain(self) -> None:
        """What has come by now, and not what goes on coming: a flood keeps nobody."""
        self.flush()
        for group in self._groups:
            for _ in range(1 + _meminfo(group.socket, HELD_AT) // LEAST_BYTES):
                if not self._take(group):
                    break
        self.flush()

    def flush(self) -> None:
        """Write the sums down, with what nothing that came later has told the number of."""
        for group in self._groups:
            if missing := group.lost():
                self._missed(group, missing)
        self._sums.flush()

    def _read(self, group: "_Group") -> None:
        """A turn's worth; where there is more than may be read, the kernel keeps it, and loses what it cannot keep."""
        for _ in range(READS_A_TURN):
            if not self._messages.holds(1, time.monotonic()):
                self._pause(group)
                return
            if not self._take(group):
                return

    def _take(self, group: "_Group") -> bool:
        """One read; False where nothing waits."""
        try:
            data = group.socket.recv(READ_BYTES)
        except OSError:
            return False
        for told in messages(data):
            self._messages.take(1)
            if missing := group.missing(told.seq):
                self._missed(group, missing)
            if told.packet is not None:
                self._note(told.packet, left=group.left, limited=told.limited)
        return True

    def _pause(self, group: "_Group") -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(group.socket)
        loop.call_later(PAUSE_S, self._resume, group)

    def _resume(self, group: "_Group") -> None:
        if not self._held:
            asyncio.get_running_loop().add_reader(group.socket, self._read, group)

    def _missed(self, group: "_Group", count: int) -> None:
        if group.left:
            self._sink.send(lost(time.time_ns(), count))
        else:
            alike = _Alike(str(Reason.FLOOD))
            self._sums.add(alike, _sum_record(alike, None), count)

    def _note(self, packet: Packet, *, left: bool, limited: bool) -> None:
        flow = self._flow_of(packet)
        if limited:
            made = refuse(Reason.LIMIT)
        elif packet.source in SANDBOX:
            made = self._judge(flow, left)
        else:
            made = refuse(Reason.FORGED_SOURCE)
        if made.verdict is Verdict.ALLOW:
            self._sink.send(_record(flow, made, self._name_of(flow.dest.ip)))
            return
        now = time.monotonic()
        if self._budget.holds(1, now):
            self._budget.take(1)
            self._sink.send(_record(flow, made, self._name_of(flow.dest.ip)))
            return
        alike = _Alike(str(made.reason), made.entry, flow.proto, flow.dest)
        if not self._sums.apart(alike):
            alike = _Alike(str(made.reason), made.entry, flow.proto)
        self._sums.add(alike, _sum_record(alike, flow))


class _Group:
    """One socket, and how many messages it lost: by the gaps in their numbers, exact at once, and by the kernel's count, for those at the end."""

    __slots__ = ("_counted", "_drops", "_gaps", "_next", "left", "socket")

    def __init__(self, sock: socket.socket, dropped: int, *, left: bool) -> None:
        self.socket = sock
        self.left = left
        """Whether it tells of packets that left the cell."""
        self._next: int | None = None
        self._gaps = self._counted = 0
        self._drops = dropped

    def missing(self, seq: int | None) -> int:
        """How many more were lost before ``seq``. The first that a process reads may come after others that another read."""
        if seq is None:
            return 0
        if self._next is not None:
            self._gaps += (seq - self._next) & 0xFFFFFFFF
        self._next = seq + 1 & 0xFFFFFFFF
        return self._more(self._gaps)

    def lost(self) -> int:
        """How many more were lost by now."""
        return self._more(dropped_by(self.socket) - self._drops & 0xFFFFFFFF)

    def _more(self, known: int) -> int:
        more = max(0, known - self._counted)
        self._counted += more
        return more


def dropped_by(sock: socket.socket) -> int:
    """How many messages the kernel had no room for on ``sock``, ever, modulo 2**32."""
    return _meminfo(sock, DROPS_AT)


def _meminfo(sock: socket.socket, at: int) -> int:
    (value,) = _U32.unpack_from(sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36), at)
    return int(value)


def _record(flow: Flow, made: Decision, name: str | None) -> Record:
    allowed = made.verdict is Verdict.ALLOW
    return decision(
        time.time_ns(),
        Event.ALLOWED if allowed else Event.BLOCKED,
        sandbox=flow.sandbox,
        flow=flow.id,
        source=(str(flow.source.ip), flow.source.port),
        dest=(str(flow.dest.ip), flow.dest.port),
        upstream_ip=str(flow.dest.ip) if allowed else None,
        domain=name,
        domain_source=None if name is None else "dns",
        proto=flow.proto,
        layer="kernel",
        rule=made.entry,
        reason=str(made.reason),
    )


def _sum_record(alike: _Alike, flow: Flow | None) -> Record:
    """Without the count."""
    record = decision(
        0,
        Event.BLOCKED,
        sandbox="",
        flow="0",
        source=("0.0.0.0", 0) if flow is None else (str(flow.source.ip), 0),
        dest=(None, 0) if alike.dest is None else (str(alike.dest.ip), alike.dest.port),
        proto=alike.proto,
        layer="kernel",
        rule=alike.rule,
        reason=alike.reason,
    )
    if flow is not None:
        record["flow"] = flow.id
    return record
