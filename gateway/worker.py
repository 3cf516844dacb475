"""The worker: the one process that reads what a workload sends. It accepts, runs a session for each connection, and drains when told to stop.

It is forked with everything it needs already open and imported, and then gives up what it was forked with: root, and
every descriptor that is not its own.
"""

import asyncio
import errno
import gc
import logging
import os
import resource
import signal
import socket
from dataclasses import dataclass
from typing import Final, NoReturn

import orjson
import uvloop

from audit.feed import Feed
from audit.ledger import Ledger
from gateway.confine import confine
from gateway.decide import (
    Decision,
    Verdict,
    compile_policy,
    decide_packet,
    decide_query,
    still_allowed,
    usable,
)
from gateway.dns.guard import Guard, Rule
from gateway.dns.records import QueryRecords
from gateway.dns.server import DnsForwarder
from gateway.flow import Endpoint, Flow, IPAddress
from gateway.journal import Attempt, Journal
from gateway.kernel import KernelRecords, OwnOrLocal
from gateway.net.local import LocalAddresses
from gateway.net.poller import Poller, Strand
from gateway.net.progress import Progress
from gateway.net.resolve import Resolver, import_no_more_types
from gateway.net.sockets import endpoint, reset_on_close, set_for_accepted
from gateway.packets import Packet
from gateway.reasons import Reason
from gateway.session import Gate, House, run_session
from gateway.turns import Turns
from rules.policy import NetworkPolicy

MAX_SESSIONS: Final = 4096
"""Connections of one sandbox at once, refused ones that still hear their refusal among them. What comes beyond is refused, on record."""
OWN_DESCRIPTORS: Final = 32
"""Held or wanted for a moment by the worker itself."""
DESCRIPTORS_EACH: Final = 4
"""For a session: two sides, or one and two questions to the resolver. The fourth is for the sandbox's own queries."""
ACCEPTS_A_TURN: Final = 32
"""So that a flood of connections leaves the loop to those that stand."""
DRAINED_TURNS: Final = 256
"""At a stop: more than the listener's queue holds."""
PAUSE_S: Final = 0.1
"""How long accepting rests when descriptors or memory have run out: no busy loop, and others' closes make room."""
SETTLE_S: Final = 1.0
"""At a stop: how long sessions that are under way may still end by themselves."""
KEEP_S: Final = 3.0
"""At a stop: how long records are waited for that the keeper has not taken yet, in all."""
KEPT_PAUSE_S: Final = 0.01
OUT_OF_ROOM: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

READY: Final = b"ready"
STOP: Final = b"stop"
MORE: Final = b"+"
"""Begins a piece of a policy that is to be obeyed, ``LAST`` the last piece."""
LAST: Final = b"="
OBEYED: Final = b"obeyed"
WORD_BYTES: Final = 65536

log = logging.getLogger("egress.worker")


@dataclass(frozen=True, slots=True)
class Bundle:
    """One sandbox, as it is handed to a worker: everything is open already, and outlives the worker in the process that forked it."""

    sandbox: str
    policy: NetworkPolicy | None
    resolver: Endpoint
    listeners: tuple[socket.socket, ...]
    """One a family."""
    dns_udp: socket.socket | None
    dns_tcp: socket.socket | None
    ledger: Ledger
    feed: int
    """Write end of the pipe to whoever keeps the records."""
    kept: int | None = None
    """An eventfd that counts those that are on the disk, where allowed connections wait for it."""
    refused: socket.socket | None = None
    """Where the kernel tells of what it refused, and of what it let out."""
    allowed: socket.socket | None = None

    generation: int = 1
    """Of the policy."""

    @property
    def descriptors(self) -> set[int]:
        """All that it holds."""
        sockets = (*self.listeners, self.dns_udp, self.dns_tcp, self.refused, self.allowed)
        kept = () if self.kept is None else (self.kept,)
        return {self.feed, *kept, *(sock.fileno() for sock in sockets if sock is not None)}


class Worker:
    """Serves one bundle until it is told to stop, or the process that forked it is gone."""

    def __init__(self, bundle: Bundle, control: socket.socket, local: LocalAddresses) -> None:
        """Must be made in the running loop."""
        self._bundle = bundle
        self._control = control
        self._loop = asyncio.get_running_loop()
        self._feed = Feed(bundle.feed)
        kept = None if bundle.kept is None else Progress(bundle.kept)
        self._journal = Journal(self._feed, bundle.ledger, kept)
        self._journal.generation = bundle.generation
        self._house = House(
            Gate(
                compile_policy(bundle.policy),
                Resolver(bundle.resolver, ipv6=len(bundle.listeners) > 1),
                local,
            )
        )
        self._carried: dict[Strand, tuple[Flow, Attempt]] = {}
        self._told = bytearray()
        self._poller = Poller()
        self._most = most_sessions(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        self._life = os.urandom(3).hex()
        self._accepted = 0
        self._stopped = self._loop.create_future()

    async def serve(self) -> None:
        """Accept until stopped, then drain: what waits in the queue is still judged, what stands is closed."""
        for listener in self._bundle.listeners:
            set_for_accepted(listener)
            self._loop.add_reader(listener, self._accept, listener)
        self._loop.add_reader(self._control, self._on_control)
        forwarder = self._forwarder = self._dns()
        if forwarder is not None:
            forwarder.start()
        kernel = self._kernel()
        if kernel is not None:
            kernel.start()
        try:
            self._control.send(READY)
        except OSError:
            return  # whoever forked it is gone: there is nobody to serve for
        turns = Turns()
        await self._stopped
        turns.stop()
        give_up = self._loop.time() + KEEP_S
        for listener in self._bundle.listeners:
            self._loop.remove_reader(listener)
            for _ in range(DRAINED_TURNS):
                await self._kept(give_up)
                if not self._accept(listener):
                    break
        await self._poller.drained(SETTLE_S)
        if forwarder is not None:
            forwarder.stop()
        if kernel is not None:
            kernel.stop()
        self._poller.close()
        await self._kept(give_up + SETTLE_S)

    async def _kept(self, give_up: float) -> None:
        """Return when every record is in the keeper's pipe, or at ``give_up``."""
        self._feed.flush()
        while self._feed.waiting and self._loop.time() < give_up:
            await asyncio.sleep(KEPT_PAUSE_S)
            self._feed.flush()

    def _dns(self) -> DnsForwarder | None:
        bundle = self._bundle
        if bundle.dns_udp is None or bundle.dns_tcp is None:
            return None
        records = QueryRecords(self._journal, bundle.sandbox, bundle.resolver)
        resolver = self._house.gate.resolver
        return DnsForwarder(bundle.dns_udp, bundle.dns_tcp, resolver, self._guard(bundle.policy), records)

    def _guard(self, source: NetworkPolicy | None) -> Guard:
        policy, local = self._house.gate.policy, self._house.gate.local
        ipv6 = len(self._bundle.listeners) > 1

        def rule(host: str) -> Rule:
            made = decide_query(policy, host)
            return Rule(made.verdict is Verdict.ALLOW, made.entry, made.reason)

        def keeps(ip: IPAddress) -> bool:
            return (ipv6 or ip.version == 4) and usable(policy, ip, local)

        mode = NetworkPolicy().dns if source is None else source.dns
        return Guard(mode, rule, keeps, forwards_all=policy.forwards_all, ipv6=ipv6)

    def _kernel(self) -> KernelRecords | None:
        bundle, house = self._bundle, self._house
        if bundle.refused is None or bundle.allowed is None:
            return None
        local = OwnOrLocal(house.gate.local)

        def judge(flow: Flow, left: bool) -> Decision:
            return decide_packet(house.gate.policy, flow, local, left=left)

        return KernelRecords(bundle.refused, bundle.allowed, judge, self._journal, self._flow_of)

    def _flow_of(self, packet: Packet) -> Flow:
        self._accepted += 1
        source, dest = (
            Endpoint(packet.source, packet.source_port),
            Endpoint(packet.dest, packet.dest_port),
        )
        return Flow(f"{self._life}-{self._accepted:x}", self._bundle.sandbox, source, dest, packet.proto)

    def _on_control(self) -> None:
        """A word, or the end of the process that would have said it."""
        try:
            word = self._control.recv(WORD_BYTES)
        except BlockingIOError:
            return
        except OSError:
            word = b""
        if word[:1] in (MORE, LAST):
            self._told += word[1:]
            if word[:1] == LAST:
                self._obey(bytes(self._told))
                self._told.clear()
            return
        if not self._stopped.done():
            self._stopped.set_result(None)
        self._loop.remove_reader(self._control)

    def _obey(self, told: bytes) -> None:
        """Decide by another policy from now on, and end what it does not allow."""
        said = orjson.loads(told)
        policy = None if said["policy"] is None else NetworkPolicy.from_dict(said["policy"])
        gate = self._house.gate
        self._house.gate = Gate(compile_policy(policy), gate.resolver, gate.local)
        self._journal.generation = said["generation"]
        if self._forwarder is not None:
            self._forwarder.obey(self._guard(policy))
        for strand, (flow, attempt) in list(self._carried.items()):
            made = attempt.made
            if made is None or made.verdict is not Verdict.ALLOW:
                continue
            new = self._house.gate
            if not still_allowed(new.policy, flow, attempt.seen, made, attempt.upstream_ip, new.local):
                attempt.revoked = True
                strand.cancel()
        self._control.send(OBEYED)

    def _accept(self, listener: socket.socket) -> bool:
        """Take what waits, a turn's worth at the most; False where no more can be taken now.

        None while records wait for room: the kernel's queue holds connections without loss, and this process holds records only so long.
        """
        if self._feed.waiting:
            self._pause(listener)
            return False
        ledger = self._bundle.ledger
        for _ in range(ACCEPTS_A_TURN):
            ledger.accepting(True)
            try:
                client, peer = listener.accept()
            except BlockingIOError:
                ledger.accepting(False)
                return False
            except OSError as error:
                ledger.accepting(False)
                if error.errno in OUT_OF_ROOM:
                    self._pause(listener)
                    return False
                continue  # ECONNABORTED and the like: that client is gone, the next may not be
            self._begin(client, endpoint(peer))
        return True

    def _begin(self, client: socket.socket, source: Endpoint) -> None:
        client.setblocking(False)
        self._accepted += 1
        flow = Flow(
            f"{self._life}-{self._accepted:x}", self._bundle.sandbox, source, endpoint(client.getsockname())
        )
        attempt = self._journal.open(flow) if len(self._poller.live) < self._most else None
        if attempt is None:
            self._journal.blocked(flow, Reason.LIMIT)
            self._bundle.ledger.accepting(False)
            reset_on_close(client)
            client.close()
            return
        strand = self._poller.start(run_session(client, flow, self._house, attempt), self._ended)
        if strand in self._poller.live:
            self._carried[strand] = (flow, attempt)

    def _ended(self, strand: Strand, error: BaseException | None) -> None:
        self._carried.pop(strand, None)
        if error is not None and not isinstance(error, asyncio.CancelledError):
            log.error("a session ended by an error after its decision", exc_info=error)

    def _pause(self, listener: socket.socket) -> None:
        self._loop.remove_reader(listener)
        self._loop.call_later(PAUSE_S, self._resume, listener)

    def _resume(self, listener: socket.socket) -> None:
        if not self._stopped.done():
            self._loop.add_reader(listener, self._accept, listener)


def most_sessions(descriptors: int) -> int:
    """How many connections are carried at once with so many descriptors: so few that accepting never runs out of them."""
    return max(1, min(MAX_SESSIONS, (descriptors - OWN_DESCRIPTORS) // DESCRIPTORS_EACH))


def fork_worker(bundle: Bundle) -> tuple[int, socket.socket]:
    """Start a worker for ``bundle``: its process id, and the control socket on which it says READY and hears STOP."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        _run_in_child(bundle, theirs)
    theirs.close()
    return pid, ours


def _run_in_child(bundle: Bundle, control: socket.socket) -> NoReturn:
    status = 1
    try:
        gc.freeze()  # garbage of the process that forked it would close numbers that are another's by then
        signal.set_wakeup_fd(-1)
        os.setpgid(0, 0)  # what a terminal or a shell sends to the group belongs to the command
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_DFL)
        _close_all_but(bundle, control)
        local = LocalAddresses()
        import_no_more_types()
        # Before there is a loop: libuv would make itself an io_uring, through which system calls pass that no filter sees.
        confine()
        uvloop.run(_serve(bundle, control, local))
        status = 0
    except BaseException:
        log.exception("the worker ended by an error")
    finally:
        os._exit(status)


async def _serve(bundle: Bundle, control: socket.socket, local: LocalAddresses) -> None:
    await Worker(bundle, control, local).serve()


def _close_all_but(bundle: Bundle, control: socket.socket) -> None:
    """Standard input and output are the command's; a worker has nothing to say but on standard error."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    keep = {0, 1, 2, control.fileno()} | bundle.descriptors
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        if descriptor not in keep:
            try:
                os.close(descriptor)
            except OSError:
                continue  # the listing's own descriptor, closed already
