"""The worker: the one process that reads what a workload sends. It accepts, runs a session for each connection, and drains when told to stop."""

import asyncio
import errno
import logging
import os
import resource
import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from audit.feed import Feed
from gateway.attempt import Attempt, opened
from gateway.bundle import HOLD, LAST, MORE, OBEYED, READY, WORD_BYTES, Bundle, Orders
from gateway.decide import (
    Decision,
    Verdict,
    compile_policy,
    decide_query,
    usable,
)
from gateway.dns.guard import Guard, Rule
from gateway.dns.records import QueryRecords
from gateway.dns.server import DnsForwarder
from gateway.flow import Endpoint, Flow, IPAddress
from gateway.flow_ids import LIFE_BYTES, FlowIds
from gateway.hindsight import decide_packet, explains, still_allowed
from gateway.journal import Counting, Journal
from gateway.kernel import Judge, KernelRecords, OwnOrLocal
from gateway.net.local import LocalAddresses
from gateway.net.poller import Poller
from gateway.net.progress import Progress
from gateway.net.resolve import Resolver
from gateway.net.sockets import Listener, Sock, destination, reset_on_close, set_for_accepted
from gateway.net.strand import Strand
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
_new_tuple: Final = tuple.__new__  # what Flow() calls, at half the price
_Flow: Final = Flow
OUT_OF_ROOM: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

log = logging.getLogger("egress.worker")


class Worker:
    """Serves one bundle until it is told to stop, or the process that forked it is gone."""

    def __init__(self, bundle: Bundle, control: socket.socket, local: LocalAddresses) -> None:
        """Must be made in the running loop."""
        self._bundle = bundle
        self._control = control
        self._loop = asyncio.get_running_loop()
        self._feed = Feed(bundle.feed)
        kept = None if bundle.kept is None else Progress(bundle.kept)
        self._poller = Poller()
        bundle.tally.defer(self._poller.at_end)
        self._journal = Journal(self._feed, bundle.ledger, kept, bundle.tally, self._poller.at_end)
        self._journal.generation = bundle.generation
        self._house = House(
            Gate(
                compile_policy(bundle.policy),
                Resolver(bundle.resolver, ipv6=len(bundle.listeners) > 1),
                local,
            )
        )
        self._told = bytearray()
        self._most = most_sessions(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        self._ledger = bundle.ledger
        self._sandbox = bundle.sandbox
        self._ids = FlowIds(os.urandom(LIFE_BYTES).hex())
        self._stopped = self._loop.create_future()
        self._report = self._ended  # one for all connections
        self._forwarder = self._dns()
        self._kernel = self._kernel_records()

    async def serve(self) -> None:
        """Accept until stopped, then drain: what waits in the queue is still judged, what stands is closed."""
        for sock in self._bundle.listeners:
            set_for_accepted(sock)
        listeners = [Listener(sock) for sock in self._bundle.listeners]
        for listener in listeners:
            self._loop.add_reader(listener.sock, self._accept, listener)
        self._loop.add_reader(self._control, self._on_control)
        if self._forwarder is not None:
            self._forwarder.start()
        if self._kernel is not None:
            self._kernel.start()
        try:
            self._control.send(READY)
        except OSError:
            return  # whoever forked it is gone: there is nobody to serve for
        turns = Turns()
        await self._stopped
        turns.stop()
        give_up = self._loop.time() + KEEP_S
        for listener in listeners:
            self._loop.remove_reader(listener.sock)
            for _ in range(DRAINED_TURNS):
                await self._kept(give_up)
                if not self._accept(listener):
                    break
        await self._poller.drained(SETTLE_S)
        if self._forwarder is not None:
            self._forwarder.stop()
        if self._kernel is not None:
            self._kernel.stop()
        self._poller.close()
        await self._kept(give_up + SETTLE_S)
        self._bundle.tally.flush()

    async def _kept(self, give_up: float) -> None:
        """Return when no record waits for room in the keeper's pipe, and nobody for room for one, or at ``give_up``."""
        self._journal.flush()
        while self._journal.waits and self._loop.time() < give_up:
            await asyncio.sleep(KEPT_PAUSE_S)
            self._journal.flush()

    def _dns(self) -> DnsForwarder | None:
        bundle = self._bundle
        if bundle.dns_udp is None or bundle.dns_tcp is None:
            return None
        records = QueryRecords(Counting(self._journal), bundle.sandbox, bundle.resolver)
        resolver = self._house.gate.resolver
        return DnsForwarder(
            bundle.dns_udp, bundle.dns_tcp, resolver, self._guard(bundle.policy, self._house.gate), records
        )

    def _guard(self, source: NetworkPolicy | None, gate: Gate) -> Guard:
        policy, local = gate.policy, gate.local
        ipv6 = len(self._bundle.listeners) > 1

        def rule(host: str) -> Rule:
            made = decide_query(policy, host)
            return Rule(made.verdict is Verdict.ALLOW, made.entry, made.reason)

        def keeps(ip: IPAddress) -> bool:
            return (ipv6 or ip.version == 4) and usable(policy, ip, local)

        mode = NetworkPolicy().dns if source is None else source.dns
        return Guard(mode, rule, keeps, forwards_all=policy.forwards_all, ipv6=ipv6)

    def _kernel_records(self) -> KernelRecords | None:
        bundle, house = self._bundle, self._house
        if bundle.refused is None or bundle.allowed is None:
            return None
        local = OwnOrLocal(house.gate.local)

        def judge(flow: Flow, left: bool) -> Decision:
            return decide_packet(house.gate.policy, flow, local, left=left)

        return KernelRecords(
            bundle.refused,
            bundle.allowed,
            judge,
            Counting(self._journal),
            self._flow_of,
            bundle.dropped,
            self._name_of,
        )

    def _name_of(self, ip: IPAddress) -> str | None:
        return None if self._forwarder is None else self._forwarder.told.name_of(ip)

    def _flow_of(self, packet: Packet) -> Flow:
        source, dest = (
            Endpoint(packet.source, packet.source_port),
            Endpoint(packet.dest, packet.dest_port),
        )
        return Flow(self._ids.next(), self._sandbox, source, dest, packet.proto)

    def _on_control(self) -> None:
        """A word, or the end of the process that would have said it."""
        try:
            word, brought, _, _ = socket.recv_fds(self._control, WORD_BYTES, 2)
        except BlockingIOError:
            return
        except OSError:
            word, brought = b"", []
        try:
            if word == HOLD:
                if self._kernel is not None:
                    self._kernel.hold()
                return
            if word[:1] in (MORE, LAST):
                self._told += word[1:]
                if word[:1] == LAST:
                    self._obey(Orders.read(bytes(self._told)), [socket.socket(fileno=one) for one in brought])
                    self._told.clear()
                return
        except Exception as error:  # this process ends, deciding nothing more: another takes its place
            if not self._stopped.done():
                self._stopped.set_exception(error)
        if not self._stopped.done():
            self._stopped.set_result(None)
        self._loop.remove_reader(self._control)

    def _obey(self, orders: Orders, dns: list[socket.socket]) -> None:
        """Decide by another policy from now on, and end what it does not allow."""
        old = self._house.gate
        new = Gate(compile_policy(orders.policy), old.resolver, old.local)
        if self._forwarder is not None:
            self._forwarder.obey(self._guard(orders.policy, new))
        self._house.gate = new
        self._revoke(new)
        self._bundle = replace(self._bundle, policy=orders.policy, generation=orders.generation)
        if dns:
            self._bundle = replace(self._bundle, dns_udp=dns[0], dns_tcp=dns[1])
            self._forwarder = self._dns()
            if self._forwarder is not None:
                self._forwarder.start()
        self._control.send(OBEYED)
        # What the kernel has told is read last: a flood leaves much of it, and nobody has to wait for records of what is decided.
        if self._kernel is not None:
            self._kernel.go_on(self._judge_between(old, new, orders.generation, self._kernel.flush))
        self._journal.generation = orders.generation

    def _judge_between(self, old: Gate, new: Gate, generation: int, flush: Callable[[], None]) -> Judge:
        """For packets of a time in which the kernel's rules changed: by whichever policy explains what it did. Each sum is of one policy."""
        local, journal, before = OwnOrLocal(old.local), self._journal, self._journal.generation

        def judge(flow: Flow, left: bool) -> Decision:
            by_old = explains(old.policy, flow, local, left=left)
            if journal.generation != (dated := before if by_old else generation):
                flush()
                journal.generation = dated
            return decide_packet((old if by_old else new).policy, flow, local, left=left)

        return judge

    def _revoke(self, gate: Gate) -> None:
        for strand in tuple(self._poller.live):
            attempt = strand.carries
            assert isinstance(attempt, Attempt), "what _begin gave it"  # noqa: S101
            made = attempt.made
            if made is None or made.verdict is not Verdict.ALLOW:
                continue
            if not still_allowed(
                gate.policy, attempt.flow, attempt.seen, made, attempt.upstream_ip, gate.local
            ):
                attempt.revoked = True
                strand.cancel()

    def _accept(self, listener: Listener) -> bool:
        """Take what waits, a turn's worth at the most; False where nothing was there to be taken, or no more can be taken now.

        None while records wait for room: the kernel's queue holds connections without loss, and this process holds records only so long.
        """
        self._poller.begin_turn()
        try:
            return self._accept_those(listener)
        finally:
            self._poller.end_turn()

    def _accept_those(self, listener: Listener) -> bool:
        """That wait."""
        if self._journal.waits:
            self._pause(listener)
            return False
        ledger = self._ledger
        waiting = min(listener.waiting(), ACCEPTS_A_TURN)
        for _ in range(waiting):
            ledger.accepting(True)
            try:
                client, source = listener.accept()
            except BlockingIOError:
                ledger.accepting(False)
                return False
            except OSError as error:
                ledger.accepting(False)
                if error.errno in OUT_OF_ROOM:
                    self._pause(listener)
                    return False
                continue  # ECONNABORTED and the like: that client is gone, the next may not be
            self._begin(client, source)
        return waiting > 0

    def _begin(self, client: Sock, source: Endpoint) -> None:
        journal, poller = self._journal, self._poller
        journal.tally.accepted()
        dest = destination(client.getsockname())
        flow = _new_tuple(_Flow, (self._ids.next(), self._sandbox, source, dest, "tcp"))
        attempt = opened(journal, flow) if len(poller.live) < self._most else None
        if attempt is None:
            journal.blocked(flow, Reason.LIMIT)
            self._ledger.accepting(False)
            reset_on_close(client)
            client.close()
            return
        poller.start(run_session(client, flow, self._house, attempt), self._report, attempt)

    def _ended(self, strand: Strand, error: BaseException | None) -> None:
        if error is not None and not isinstance(error, asyncio.CancelledError):
            log.error("a session ended by an error after its decision", exc_info=error)

    def _pause(self, listener: Listener) -> None:
        self._loop.remove_reader(listener.sock)
        self._loop.call_later(PAUSE_S, self._resume, listener)

    def _resume(self, listener: Listener) -> None:
        if not self._stopped.done():
            self._loop.add_reader(listener.sock, self._accept, listener)


def most_sessions(descriptors: int) -> int:
    """How many connections are carried at once with so many descriptors: so few that accepting never runs out of them."""
    return max(1, min(MAX_SESSIONS, (descriptors - OWN_DESCRIPTORS) // DESCRIPTORS_EACH))
