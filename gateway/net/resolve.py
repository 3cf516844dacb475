"""Names to addresses, by dnspython: workload bytes never reach the C resolver, which stops at a NUL and reads files of its own.

One resolver answers for one sandbox, so one sandbox cannot fill another's cache. Only answers to our own questions are kept. What the sandbox
is told and what a name is bound to come from the same answers.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

import dns.asyncbackend
import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype

from gateway.flow import Endpoint, IPAddress, met
from gateway.net.answers import Answer, Answers, Question
from gateway.tasks import spawn

ATTEMPT_S: Final = 1.5
"""How long one packet is waited for before it is sent again."""
ATTEMPTS: Final = 3
TTL_MIN_S: Final = 5
TTL_MAX_S: Final = 300
"""A TTL is clamped: zero would ask for each connection, a week would pin a name to an address long gone."""
CACHED_BYTES: Final = 4096
"""Of a longer answer only the addresses are remembered."""
UDP_PAYLOAD_BYTES: Final = 1232  # DNS flag day 2020

# What dnspython imports on demand, it imports here: a worker that has given up its privileges may not be able to read its own installation.
BACKEND: Final = dns.asyncbackend.get_backend("asyncio")
# These are the types whose data may hold compressed names (RFC 3597 section 4), or are looked into; others are octets to it.
for _kind in (
    *("A", "AAAA", "CNAME", "DNAME", "SOA", "NS", "RRSIG", "OPT", "SVCB", "HTTPS", "PTR", "MX", "SRV", "TXT"),
    *("HINFO", "RP", "AFSDB", "RT", "PX", "NAPTR", "KX"),
):
    dns.rdata.get_rdata_class(dns.rdataclass.IN, dns.rdatatype.from_text(_kind))  # type: ignore[no-untyped-call]


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


class Resolver:
    """Asks one server, sharing questions in flight and remembering answers: those that the sandbox is told, and those that are dialled."""

    def __init__(
        self, server: Endpoint, clock: Callable[[], float] = time.monotonic, *, ipv6: bool = False
    ) -> None:
        """``ipv6``: ask for AAAA records too; their addresses come after those of A records."""
        self._kinds = (dns.rdatatype.A, dns.rdatatype.AAAA) if ipv6 else (dns.rdatatype.A,)
        self.server = server
        self.answers = Answers(self._kinds, clock)
        self._asking: dict[Question, asyncio.Task[Answer]] = {}
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
            outcomes = await asyncio.gather(
                *(self._for_dialling(name, kind) for kind in self._kinds), return_exceptions=True
            )
            answers = [outcome if isinstance(outcome, Answer) else None for outcome in outcomes]
            failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        useful = [answer for answer in answers if answer is not None and answer.addresses]
        if not useful:
            said = {
                dns.rcode.to_text(dns.rcode.Rcode(answer.rcode)) for answer in answers if answer is not None
            }
            raise _worst(failures) or ResolveError(f"{name}: no address, {' and '.join(sorted(said))}")
        # What is not said of the other family (silence, an error) must not be waited for again with each connection.
        until = min(answer.until for answer in useful)
        for kind, answer in zip(self._kinds, answers, strict=True):
            if (answer is None or not answer.addresses) and self.answers.known(name, kind) is None:
                self.answers.remember((name, kind), Answer(b"", until, dns.rcode.NOERROR, ()))
        return tuple(ip for answer in useful for ip in answer.addresses)

    async def _for_dialling(self, name: str, kind: int) -> Answer:
        """As ``ask``, where the addresses will do without the message."""
        return self.answers.known(name, kind) or await self.ask(name, kind)

    async def ask(self, name: str, kind: int) -> Answer:
        """The answer about ``name`` (canonical), whatever it says. ResolveError or ResolveTimeout where there is none that can be read."""
        known = self.answers.known(name, kind)
        if known is not None and known.wire:
            return known
        question = (name, kind)
        task = self._asking.get(question)
        if task is None:
            task = self._asking[question] = spawn(self._ask(name, kind), f"resolve {name}")
            task.add_done_callback(lambda done: self._asked(question, done))
        return await asyncio.shield(task)

    def _asked(self, question: Question, task: "asyncio.Task[Answer]") -> None:
        self._asking.pop(question, None)
        if not task.cancelled():
            task.exception()  # every waiter may have gone: then nobody else looks at it

    async def _ask(self, name: str, kind: int) -> Answer:
        try:
            query = dns.message.make_query(
                dns.name.from_text(name), dns.rdatatype.RdataType(kind), use_edns=0, payload=UDP_PAYLOAD_BYTES
            )
            answer, ttl = _read(await self._exchange(query))
        except ResolveError:
            raise
        except Exception as error:  # whatever the bytes were: dnspython was not made to be total
            raise ResolveError(f"{name}: {type(error).__name__} {error}") from error
        answer = answer._replace(until=self.clock() + min(max(ttl or 0, TTL_MIN_S), TTL_MAX_S))
        if ttl is not None:
            if len(answer.wire) <= CACHED_BYTES:
                self.answers.remember((name, kind), answer)
            elif answer.addresses:  # what is told is what is dialled, however much it is
                self.answers.remember((name, kind), answer._replace(wire=b""))
        return answer

    async def _exchange(self, query: dns.message.QueryMessage) -> dns.message.Message:
        """Ask until there is an answer. What is none (another id, another question, junk) is passed over, so nobody can answer by guessing badly."""
        where, port = str(self.server.ip), self.server.port
        for _ in range(ATTEMPTS):
            try:
                answer, _used_tcp = await dns.asyncquery.udp_with_fallback(
                    query,
                    where,
                    timeout=ATTEMPT_S,
                    port=port,
                    backend=BACKEND,
                    ignore_unexpected=True,
                    ignore_errors=True,
                )
            except dns.exception.Timeout:
                continue
            return answer
        raise ResolveTimeout(f"{where} does not answer")


def _worst(failures: list[BaseException]) -> BaseException | None:
    """What is no error of resolving at all comes first, then a timeout."""
    rank: dict[type[BaseException], int] = {ResolveError: 2, ResolveTimeout: 1}
    return min(failures, key=lambda failure: rank.get(type(failure), 0), default=None)


def _read(message: dns.message.Message) -> tuple[Answer, int | None]:
    """The answer, and for how many seconds its server means it; None where it is not to be remembered (RFC 2308 section 5)."""
    if not isinstance(message, dns.message.QueryMessage):
        raise ResolveError("that is no answer to a query")
    rcode = message.rcode()
    answer = Answer(message.wire or message.to_wire(), 0.0, rcode, ())
    if rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        return answer, None
    chain = message.resolve_chaining()
    if chain.answer is None:
        lasts = any(rrset.rdtype == dns.rdatatype.SOA for rrset in message.authority)
        return answer, chain.minimum_ttl if lasts else None
    if rcode == dns.rcode.NOERROR and chain.answer.rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA):
        answer = answer._replace(addresses=tuple(met(record.address) for record in chain.answer))
    return answer, chain.minimum_ttl
