"""The sandbox's DNS: each query that reaches the resolver's address inside the cell is judged, recorded, and answered: from here, from what was
answered a moment ago, or by the resolver, which is asked from the host's side in our own words.
"""

import asyncio
import errno
import math
import socket
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Final, NamedTuple

from gateway.dns.budget import ASKED, Budget
from gateway.dns.guard import BAD_QUERY, UNASKED, Guard, Rule, Ruling, failed
from gateway.dns.passing import pass_on
from gateway.dns.records import QueryRecords
from gateway.dns.reply import Query, say
from gateway.dns.tellings import Tellings
from gateway.dns.told import Told
from gateway.flow import Endpoint
from gateway.net.answers import Answer
from gateway.net.asking import begins, framed, read_message
from gateway.net.resolve import ResolveError, Resolver
from gateway.net.sockets import endpoint, send_all
from gateway.reasons import Reason
from gateway.tasks import spawn

MAX_UDP_BYTES: Final = 4096
TIMEOUT_S: Final = 5.0
MAX_IN_FLIGHT: Final = 256
"""Queries of one sandbox under way at once; those beyond are dropped, as a full queue would, and clients ask again."""
QUERIES_A_TURN: Final = 32
READING_S: Final = 0.0005
"""Of a turn in which queries are taken over UDP: no further one is taken then. What they lead to has its own part (gateway.net.pace)."""
DRAINED_TURNS: Final = 64
"""At a stop: more than the socket's queue holds."""
TCP_IDLE_S: Final = 10.0
PAUSE_S: Final = 0.1
"""How long accepting rests when it fails."""

LIMIT: Final = Rule(False, "limit", Reason.LIMIT)

Due = tuple[bytes, Callable[[], Awaitable[bytes]] | None]
"""The answer to a query, or what brings it; neither where it gets none."""


class _Asked(NamedTuple):
    """A query that has an answer, here or soon, and what the policy of that moment said."""

    wire: bytes
    guard: Guard
    ruling: Ruling
    client: Endpoint
    proto: str


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
        """``resolver``: the one that names are bound by, so that the sandbox is told what would be dialled. What it asks for either is
        budgeted here.
        """
        self._guard = guard
        self._udp = udp
        self._tcp = tcp
        self._resolver = resolver
        self._records = records
        self.told = Told()
        self._budget = Budget(*ASKED)
        resolver.admits = self._admits
        self._pace = resolver.pace
        self._tellings = Tellings(guard, resolver.clock)
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
        self._tellings = Tellings(guard, self._resolver.clock)

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

    def _admits(self, size: int) -> bool:
        """Whether one more question may leave for the resolver, with a name of so many octets."""
        return self._guard.open or self._budget.admits(size)

    def _due(self, wire: bytes, client: Endpoint, proto: str, *, room: bool) -> Due:
        """What becomes of the query ``wire``, which is on record then. ``room``: its answer can be waited for.

        One that would leave, and has no room, or cannot be recorded, becomes a failure.
        """
        ruling = self._guard.judge(wire)
        rule, question, query = ruling.rule, ruling.question, ruling.query
        asked = _Asked(wire, self._guard, ruling, client, proto)
        if query is None and not ruling.forward:
            self._records.note(rule, question, client, proto)
            return ruling.answer, None
        name, kind = question.name or "", question.kind
        known = None if query is None else self._resolver.answers.known(name, kind)
        if query is not None and known is not None and known.wire:
            self._records.note(rule, question, client, proto)
            return self._told(asked, query, known), None
        if not room:
            self._records.note(LIMIT, question, client, proto)
            return b"", None
        if query is None:
            self._records.note(rule, question, client, proto)
            return b"", partial(self._passed_on, asked)
        if self._resolver.under_way(name, kind):
            self._records.note(rule, question, client, proto)
        elif not (self._admits(len(name)) and self._records.offer(rule, question, client, proto)):
            self._records.note(LIMIT, question, client, proto)
            return failed(query), None
        answer = self._resolver.asked(name, kind)
        return b"", partial(self._awaited, asked, query, answer)

    async def _passed_on(self, asked: _Asked) -> bytes:
        """The resolver's own answer. OSError (TimeoutError too) or EOFError where there is none."""
        async with asyncio.timeout(TIMEOUT_S):
            answer = await pass_on(asked.wire, self._resolver.server, self._pace, tcp=asked.proto == "tcp")
        ruling = self._ruling_now(asked)
        if ruling.query is not None:  # its name may be asked for, in our own words: the client asks again
            return failed(ruling.query)
        return answer if ruling.forward else ruling.answer

    async def _awaited(self, asked: _Asked, query: Query, answer: "asyncio.Future[Answer]") -> bytes:
        try:
            found = await answer
        except ResolveError:
            return failed(query)
        return await self._pace.run(partial(self._told, asked, query, found))

    def _told(self, asked: _Asked, query: Query, answer: Answer) -> bytes:
        ruling = self._ruling_now(asked)
        if ruling.query is None and not ruling.forward:
            return ruling.answer
        ttl_s = max(1, math.ceil(answer.until - self._resolver.clock()))
        name = ruling.question.name or ""
        telling = self._tellings.of((name, query.kind), answer)
        if telling.emptied:
            forbidden = Rule(False, ruling.rule.entry, Reason.FORBIDDEN_ANSWER)
            self._records.note(forbidden, ruling.question, asked.client, asked.proto)
        else:
            self.told.note(name, telling.addresses)
        return say(query, telling, ttl_s, tcp=asked.proto == "tcp")

    def _ruling_now(self, asked: _Asked) -> Ruling:
        """The policy may have been replaced meanwhile: what the new one does not allow is answered, and on record, as that one says."""
        if asked.guard is self._guard:
            return asked.ruling
        ruling = self._guard.judge(asked.wire)
        if ruling.query is None and not ruling.forward:
            self._records.note(ruling.rule, ruling.question, asked.client, asked.proto)
        return ruling

    # -- UDP

    def _on_udp(self) -> bool:
        """Take what waits, a turn's worth at the most; False where nothing is left."""
        until = math.inf if self._stopped else self._pace.clock() + READING_S
        for _ in range(QUERIES_A_TURN):
            try:
                wire, address = self._udp.recvfrom(MAX_UDP_BYTES)
            except OSError:
                return False
            room = self._in_flight < MAX_IN_FLIGHT
            answer, bringing = self._due(wire, endpoint(address), "udp", room=room)
            if answer:
                self._reply(answer, address)
            elif bringing is not None:
                self._start(self._answer_udp(bringing, address), "dns udp")
            if self._pace.clock() >= until:
                break
        return True

    async def _answer_udp(self, bringing: Callable[[], Awaitable[bytes]], address: tuple[Any, ...]) -> None:
        try:
            answer = await bringing()
        except (OSError, EOFError):
            return  # the client asks again, as it would of any resolver that lost a packet
        if answer:
            self._reply(answer, address)

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
            self._records.note(LIMIT, UNASKED, endpoint(address), "tcp")
            client.close()
            return
        client.setblocking(False)
        self._start(self._serve_tcp(client, endpoint(address)), "dns tcp")

    def _resume(self) -> None:
        if not self._stopped:
            asyncio.get_running_loop().add_reader(self._tcp, self._on_tcp)

    async def _serve_tcp(self, sock: socket.socket, client: Endpoint) -> None:
        """One query after another. Where one does not arrive as a whole, or none at all, that is on record; who has asked may go, or be idle."""
        due = True
        try:
            with sock:
                while not self._stopped:
                    async with asyncio.timeout(TCP_IDLE_S):
                        if not await begins(sock, self._pace):
                            break
                        due = True
                        wire = await read_message(sock, self._pace)
                        due = False
                        answer, bringing = await self._pace.run(
                            partial(self._due, wire, client, "tcp", room=True)
                        )
                        if bringing is not None:
                            answer = await bringing()
                        if not answer:
                            return
                        await send_all(sock, framed(answer))
        except (OSError, EOFError):
            pass  # a connection that ends early is an answer that clients know
        if due:
            self._records.note(BAD_QUERY, UNASKED, client, "tcp")
