"""The sandbox's DNS: each query that reaches the resolver's address inside the cell is judged, recorded, and answered: from here, from what was
answered a moment ago, or by the resolver, which is asked from the host's side in our own words.
"""

import asyncio
import errno
import math
import socket
from collections.abc import Coroutine
from typing import Any, Final

from gateway.dns.budget import ASKED, Budget
from gateway.dns.guard import Guard, Question, Rule, Ruling, failed
from gateway.dns.passing import framed, pass_on, read_message
from gateway.dns.records import QueryRecords
from gateway.dns.told import Told
from gateway.flow import Endpoint
from gateway.net.answers import Answer
from gateway.net.resolve import ResolveError, Resolver
from gateway.net.sockets import endpoint, send_all
from gateway.reasons import Reason
from gateway.tasks import spawn

MAX_UDP_BYTES: Final = 4096
TIMEOUT_S: Final = 5.0
MAX_IN_FLIGHT: Final = 256
"""Queries of one sandbox under way at once; those beyond are dropped, as a full queue would, and clients ask again."""
QUERIES_A_TURN: Final = 32
DRAINED_TURNS: Final = 64
"""At a stop: more than the socket's queue holds."""
TCP_IDLE_S: Final = 10.0
PAUSE_S: Final = 0.1
"""How long accepting rests when it fails."""

LIMIT: Final = Rule(False, "limit", Reason.LIMIT)


class DnsForwarder:
    """Serves one sandbox on its two DNS sockets."""

    def __init__(
        self,
        udp: socket.socket,
        tcp: socket.socket,
        resolver: Resolver,
        guard: Guard,
        records: QueryRecords,
    ) -> None:
        """``resolver``: the one that names are bound by, so that the sandbox is told what would be dialled."""
        self._guard = guard
        self._udp = udp
        self._tcp = tcp
        self._resolver = resolver
        self._records = records
        self.told = Told()
        self._budget = Budget(*ASKED)
        self._in_flight = 0
        self._stopped = False

    def start(self) -> None:
        """Begin to serve in the running loop."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._udp, self._on_udp)
        loop.add_reader(self._tcp, self._on_tcp)

    def obey(self, guard: Guard) -> None:
        """Judge by another policy from now on; what was counted under the one before is written down."""
        self._records.flush()
        self._guard = guard

    def stop(self) -> None:
        """Judge what has arrived, take no more, and write down what was counted; what is under way ends by its deadline."""
        self._stopped = True
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._udp)
        loop.remove_reader(self._tcp)
        for _ in range(DRAINED_TURNS):
            if not self._on_udp():
                break
        self._records.flush()

    # -- what becomes of one query

    def _judge(self, wire: bytes, client: Endpoint, proto: str) -> Ruling:
        """The ruling, on record. One that would let a query leave which has no room, or cannot be recorded, becomes a failure."""
        ruling = self._guard.judge(wire)
        rule, question = ruling.rule, ruling.question
        if ruling.query is not None and self._known(question) is None:
            if self._budget.admits(len(question.name or "")) and self._records.offer(
                rule, question, client, proto
            ):
                return ruling
            ruling = Ruling(LIMIT, question, answer=failed(ruling.query))
        self._records.note(ruling.rule, question, client, proto)
        return ruling

    def _known(self, question: Question) -> Answer | None:
        answer = self._resolver.answers.known(question.name or "", question.kind)
        return answer if answer is not None and answer.wire else None

    def _immediate(self, ruling: Ruling, client: Endpoint, proto: str) -> bytes:
        """The answer, where nobody has to be waited for."""
        if ruling.query is None:
            return ruling.answer
        known = self._known(ruling.question)
        return b"" if known is None else self._told(ruling, known, client, proto)

    async def _awaited(self, wire: bytes, ruling: Ruling, client: Endpoint, proto: str) -> bytes:
        """The answer of the resolver. OSError (TimeoutError too) or EOFError where a query was passed on as it was and has none."""
        if ruling.query is None:
            async with asyncio.timeout(TIMEOUT_S):
                return await pass_on(wire, self._resolver.server, tcp=proto == "tcp")
        try:
            answer = await self._resolver.ask(ruling.question.name or "", ruling.question.kind)
        except ResolveError:
            return failed(ruling.query)
        return self._told(ruling, answer, client, proto)

    def _told(self, ruling: Ruling, answer: Answer, client: Endpoint, proto: str) -> bytes:
        assert ruling.query is not None  # noqa: S101 - what was asked for has a query
        ttl_s = max(1, math.ceil(answer.until - self._resolver.clock()))
        handed = self._guard.hand_on(ruling.query, answer.wire, ttl_s, tcp=proto == "tcp")
        if handed.emptied:
            forbidden = Rule(False, ruling.rule.entry, Reason.FORBIDDEN_ANSWER)
            self._records.note(forbidden, ruling.question, client, proto)
        else:
            self.told.note(ruling.question.name or "", filter(self._guard.tells, answer.addresses))
        return handed.wire

    # -- UDP

    def _on_udp(self) -> bool:
        """Take what waits, a turn's worth at the most; False where nothing is left."""
        for _ in range(QUERIES_A_TURN):
            try:
                wire, address = self._udp.recvfrom(MAX_UDP_BYTES)
            except OSError:
                return False
            client = endpoint(address)
            ruling = self._judge(wire, client, "udp")
            answer = self._immediate(ruling, client, "udp")
            if answer:
                self._reply(answer, address)
            elif ruling.query is None and not ruling.forward:
                continue
            elif self._in_flight < MAX_IN_FLIGHT:
                self._start(self._answer_udp(wire, ruling, address), "dns udp")
            else:
                self._records.note(LIMIT, ruling.question, client, "udp")
        return True

    async def _answer_udp(self, wire: bytes, ruling: Ruling, address: tuple[Any, ...]) -> None:
        try:
            self._reply(await self._awaited(wire, ruling, endpoint(address), "udp"), address)
        except (OSError, EOFError):
            pass  # the client asks again, as it would of any resolver that lost a packet

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Counted from here on, not from when the task first runs: a burst arrives in one turn."""
        self._in_flight += 1
        spawn(work, name).add_done_callback(self._ended)

    def _ended(self, _: "asyncio.Task[None]") -> None:
        self._in_flight -= 1

    def _reply(self, answer: bytes, address: tuple[Any, ...]) -> None:
        try:
            self._udp.sendto(answer, address)
        except OSError:
            return  # the client is gone, or its queue is full: it asks again

    # -- TCP

    def _on_tcp(self) -> None:
        try:
            client, address = self._tcp.accept()
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno == errno.ECONNABORTED:
                return
            # Out of descriptors, most likely: no busy loop, and others' closes make room.
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._tcp)
            loop.call_later(PAUSE_S, self._resume)
            return
        if self._in_flight >= MAX_IN_FLIGHT:
            client.close()
            return
        client.setblocking(False)
        self._start(self._serve_tcp(client, endpoint(address)), "dns tcp")

    def _resume(self) -> None:
        if not self._stopped:
            asyncio.get_running_loop().add_reader(self._tcp, self._on_tcp)

    async def _serve_tcp(self, sock: socket.socket, client: Endpoint) -> None:
        try:
            with sock:
                while not self._stopped:
                    async with asyncio.timeout(TCP_IDLE_S):
                        wire = await read_message(sock)
                        if not wire:
                            return
                        ruling = self._judge(wire, client, "tcp")
                        answer = self._immediate(ruling, client, "tcp")
                        if not answer and (ruling.query is not None or ruling.forward):
                            answer = await self._awaited(wire, ruling, client, "tcp")
                        if not answer:
                            return
                        await send_all(sock, framed(answer))
        except (OSError, EOFError):
            pass  # a connection that ends early is an answer that clients know
