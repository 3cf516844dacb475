"""Names to addresses, by messages of our own: workload bytes never reach the C resolver, which stops at a NUL and reads files of its own.

One resolver answers for one sandbox, so one sandbox cannot fill another's cache. Only answers to our own questions are kept. What the sandbox
is told and what a name is bound to come from the same answers.
"""

import asyncio
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import dns.rcode
import dns.rdata

from gateway.flow import Endpoint, IPAddress
from gateway.net.answers import MAX_ADDRESSES, Answer, Answers, Question
from gateway.net.asking import by_tcp, by_udp
from gateway.net.message import (
    AAAA,
    HEADER,
    IN,
    NXDOMAIN,
    OPT,
    QR,
    RECORD,
    TC,
    TYPE_CLASS,
    A,
    Malformed,
    Message,
    address_of,
    denied_for_s,
    follow,
    packed,
    read,
)
from gateway.net.pace import Pace
from gateway.tasks import spawn

ATTEMPT_S: Final = 1.5
"""How long one packet is waited for, and what TCP brings where it was cut, before it is sent again."""
ATTEMPTS: Final = 3
FAMILY_S: Final = 0.5
"""How long one family of addresses is waited for once there are some of the other (RFC 8305 section 3): who connects has a deadline."""
TTL_MIN_S: Final = 5
TTL_MAX_S: Final = 300
"""A TTL is clamped: zero would ask for each connection, a week would pin a name to an address long gone."""
CACHED_BYTES: Final = 4096
"""Of a longer answer only the addresses are remembered, and as much of the message as they need."""
UDP_PAYLOAD_BYTES: Final = 1232  # DNS flag day 2020
RD: Final = 0x0100
OPCODE: Final = 0x7800
NO_QUESTION: Final = frozenset((dns.rcode.FORMERR, dns.rcode.SERVFAIL, dns.rcode.NOTIMP, dns.rcode.REFUSED))
"""Errors that some servers give without saying to what."""
NO_EDNS: Final = frozenset((dns.rcode.FORMERR, dns.rcode.NOTIMP))
"""Of a server that does not know an OPT record (RFC 6891 section 7, RFC 2671 section 5.3): it is asked once more without."""

Heard = tuple[Answer, int | None]
"""An answer, and for how many seconds its server means it; None where it is not to be remembered (RFC 2308 section 5)."""
TRUNCATED: Final[Heard] = (Answer(b"", 0.0, 0, ()), None)
"""To be asked for again over TCP."""


class _Known(dict[Any, Any]):
    """Takes nothing more."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """dnspython would keep an entry for each class and type that it meets: 2**32 of them, and whoever sends a message chooses."""


def import_no_more_types() -> None:
    """For a process that is about to give up its files: from here on every other type is octets, where dnspython would look for a module.

    What ``dns.rdata.load_all_types`` ends with, without the sixty modules that it imports first; and no type is remembered any more.
    """
    dns.rdata._dynamic_load_allowed = False
    dns.rdata._rdata_classes = _Known(dns.rdata._rdata_classes)


class ResolveError(Exception):
    """There is no usable answer: NXDOMAIN, no A record, a server's error, a malformed message."""


class ResolveTimeout(ResolveError):
    """The resolver did not answer in time."""


class ResolveLimit(ResolveError):
    """The question was not asked: it is more than one sandbox may ask."""


class Resolver:
    """Asks one server, sharing questions in flight and remembering answers: those that the sandbox is told, and those that are dialled."""

    def __init__(
        self, server: Endpoint, clock: Callable[[], float] = time.monotonic, *, ipv6: bool = False
    ) -> None:
        """``ipv6``: ask for AAAA records too; their addresses come after those of A records."""
        self._kinds = (A, AAAA) if ipv6 else (A,)
        self.server = server
        self.answers = Answers(self._kinds, clock)
        self.admits: Callable[[int], bool] = _anything
        """Whether one more question may leave, with a name of so many octets: for names that are dialled as for those that the sandbox asks for."""
        self.pace = Pace()
        self._asking: dict[Question, list[asyncio.Future[Answer]]] = {}
        """Who waits for each question that is under way."""
        self.clock = clock

    async def resolve(self, name: str) -> tuple[IPAddress, ...]:
        """As ``addresses``, for a strand, by a task: for what ``answers`` has not."""
        asking = spawn(self.addresses(name), f"resolve {name}")
        try:
            return await asking
        finally:
            asking.cancel()

    async def addresses(self, name: str) -> tuple[IPAddress, ...]:
        """The addresses of ``name`` (canonical) in the order that the server gave. ResolveError or ResolveTimeout if there are none.

        A cancelled caller leaves the question under way for the others that wait for it.
        """
        answers = [self.answers.known(name, kind) for kind in self._kinds]
        failures: list[BaseException] = []
        if None in answers:
            outcomes = await self._outcomes(name)
            answers = [outcome if isinstance(outcome, Answer) else None for outcome in outcomes]
            failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        useful = [answer for answer in answers if answer is not None and answer.addresses]
        if not useful:
            said = {
                dns.rcode.to_text(dns.rcode.Rcode(answer.rcode)) for answer in answers if answer is not None
            }
            raise _worst(failures) or ResolveError(f"{name}: no address, {' and '.join(sorted(said))}")
        # What is not said of the other family (silence, an error) must not be waited for again with each connection. A late answer replaces it.
        until = min(answer.until for answer in useful)
        for kind, answer in zip(self._kinds, answers, strict=True):
            if (answer is None or not answer.addresses) and self.answers.known(name, kind) is None:
                self.answers.remember((name, kind), Answer(b"", until, dns.rcode.NOERROR, ()))
        return tuple(ip for answer in useful for ip in answer.addresses)

    async def _outcomes(self, name: str) -> list[Answer | BaseException]:
        """Of each kind. Of one that is late, where the other brought addresses, CancelledError: its question goes on."""
        asking = [spawn(self._for_dialling(name, kind), f"resolve {name}") for kind in self._kinds]
        try:
            answered, late = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
            if late:
                found = any(_brought_addresses(one) for one in answered)
                await asyncio.wait(late, timeout=FAMILY_S if found else None)
        finally:
            for one in asking:
                one.cancel()
        return await asyncio.gather(*asking, return_exceptions=True)

    async def _for_dialling(self, name: str, kind: int) -> Answer:
        """As ``ask``, where the addresses will do without the message."""
        return self.answers.known(name, kind) or await self.ask(name, kind)

    async def ask(self, name: str, kind: int) -> Answer:
        """The answer about ``name`` (canonical), whatever it says. ResolveError, or one of its kinds, where there is none to be read."""
        known = self.answers.known(name, kind)
        if known is not None and known.wire:
            return known
        if not (self.under_way(name, kind) or self.admits(len(name))):
            raise ResolveLimit(f"{name}: more questions than one sandbox may ask")
        return await self.asked(name, kind)

    def under_way(self, name: str, kind: int) -> bool:
        """Whether somebody waits for that answer already."""
        return (name, kind) in self._asking

    def asked(self, name: str, kind: int) -> "asyncio.Future[Answer]":
        """As ``ask``, of what is not known, and without asking ``admits``. Those who wait for one answer are woken a few a turn."""
        question = (name, kind)
        waiting = self._asking.get(question)
        if waiting is None:
            waiting = self._asking[question] = []
            asking = spawn(self._ask(name, kind), f"resolve {name}")
            asking.add_done_callback(partial(self._answered, question))
        waiter: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        waiting.append(waiter)
        return waiter

    def _answered(self, question: Question, asking: "asyncio.Task[Answer]") -> None:
        waiting = self._asking.pop(question)
        error = None if asking.cancelled() else asking.exception()
        for waiter in waiting:
            self.pace.put(partial(_hand, waiter, asking, error))

    async def _ask(self, name: str, kind: int) -> Answer:
        try:
            answer, ttl = await self._exchange(_query(name, kind))
            if answer.rcode in NO_EDNS:
                answer, ttl = await self._exchange(_query(name, kind, edns=False))
        except ResolveError:
            raise
        except Exception as error:  # whatever the bytes were, or the kernel says
            raise ResolveError(f"{name}: {type(error).__name__} {error}") from error
        answer = answer._replace(until=self.clock() + min(max(ttl or 0, TTL_MIN_S), TTL_MAX_S))
        if ttl is not None:
            if len(answer.wire) <= CACHED_BYTES:
                self.answers.remember((name, kind), answer)
            elif answer.addresses:  # what is told is what is dialled
                self.answers.remember((name, kind), answer._replace(wire=b""))
        return answer

    async def _exchange(self, query: bytes) -> Heard:
        """Ask until there is an answer. What is none (another id, another question, junk) is passed over, so nobody can answer by guessing badly."""
        for _ in range(ATTEMPTS):
            try:
                async with asyncio.timeout(ATTEMPT_S):
                    heard = await by_udp(query, self.server, self.pace, partial(_heard, query, udp=True))
                    if heard is not TRUNCATED:
                        return heard
                    message = await by_tcp(query, self.server, self.pace)
                    whole = await self.pace.run(partial(_heard, query, message, udp=False))
            except TimeoutError:
                continue
            if whole is None:
                raise ResolveError("that was no answer to the question")
            return whole
        raise ResolveTimeout(f"{self.server.ip} does not answer")


def _brought_addresses(asking: "asyncio.Task[Answer]") -> bool:
    return not asking.cancelled() and asking.exception() is None and bool(asking.result().addresses)


def _anything(size: int) -> bool:
    return True


def _hand(
    waiter: "asyncio.Future[Answer]", asking: "asyncio.Task[Answer]", error: BaseException | None
) -> None:
    if waiter.done():
        return  # whoever waited has given up
    if asking.cancelled():
        waiter.cancel()
    elif error is None:
        waiter.set_result(asking.result())
    else:
        waiter.set_exception(error)
        waiter.exception()  # nobody may have begun to wait: then nobody else looks at it


def _worst(failures: list[BaseException]) -> BaseException | None:
    """What is no error of resolving at all comes first, then what was not asked, then a timeout."""
    rank: dict[type[BaseException], int] = {ResolveError: 3, ResolveTimeout: 2, ResolveLimit: 1}
    return min(failures, key=lambda failure: rank.get(type(failure), 0), default=None)


def _query(name: str, kind: int, *, edns: bool = True) -> bytes:
    """One plain question, in our own words. Malformed where ``name`` is none."""
    ident = int.from_bytes(os.urandom(2), "big")
    question = packed(name) + TYPE_CLASS.pack(kind, IN)
    opt = b"\0" + RECORD.pack(OPT, UDP_PAYLOAD_BYTES, 0, 0) if edns else b""
    return HEADER.pack(ident, RD, 1, 0, 0, int(edns)) + question + opt


def _heard(query: bytes, wire: bytes, *, udp: bool) -> Heard | None:
    """What the message ``wire`` answers to ``query``; None where it is no answer to that. ResolveError where it is one that says nothing."""
    cut = udp and len(wire) > 2 and bool(wire[2] & TC >> 8)
    try:
        message = read(wire, sections=not cut)
    except Malformed:
        return None
    if not _answers(query, message):
        return None
    if cut:
        return TRUNCATED
    try:
        return _read(message)
    except Malformed as error:
        raise ResolveError(str(error)) from None


def _answers(query: bytes, message: Message) -> bool:
    """Id and question are what a forger has to guess (RFC 5452)."""
    if message.wire[:2] != query[:2] or not message.flags & QR or message.flags & OPCODE:
        return False
    if not message.name:
        return message.rcode in NO_QUESTION
    asked = read(query)
    return (message.name.lower(), message.kind, message.rdclass) == (asked.name, asked.kind, IN)


def _read(message: Message) -> Heard:
    """What it answers. Malformed where that cannot be."""
    answer = Answer(message.wire, 0.0, message.rcode, ())
    if message.rcode not in (dns.rcode.NOERROR, NXDOMAIN):
        return answer, None
    chain = follow(message)
    if not chain.found:
        return answer, denied_for_s(message, chain)
    if message.kind not in (A, AAAA):
        return answer, chain.ttl_s
    addresses: dict[IPAddress, None] = {}
    last = 0
    for record in chain.found:
        if len(addresses) == MAX_ADDRESSES:
            break
        last = record.at + record.size
        addresses[address_of(message.wire[record.at : last])] = None
    if len(message.wire) > CACHED_BYTES:
        ends = [cname.at + cname.size for cname in chain.cnames]
        answer = answer._replace(wire=_cut(message, max(last, *ends) if ends else last))
    return answer._replace(addresses=tuple(addresses)), chain.ttl_s


def _cut(message: Message, end: int) -> bytes:
    """As much of it as ends there, which is a message of its own: names point backwards only."""
    count = sum(record.at + record.size <= end for record in message.answer)
    ident, flags, questions, *_ = HEADER.unpack_from(message.wire)
    return HEADER.pack(ident, flags, questions, count, 0, 0) + message.wire[HEADER.size : end]
