"""Names to addresses, by dnspython: workload bytes never reach the C resolver, which stops at a NUL and reads files of its own.

One resolver answers for one sandbox, so one sandbox cannot fill another's cache. Only answers to our own questions are kept.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import ip_address
from typing import Final

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

from gateway.flow import Endpoint, IPAddress
from gateway.tasks import spawn

ATTEMPT_S: Final = 1.5
"""How long one packet is waited for before it is sent again."""
ATTEMPTS: Final = 3
TTL_MIN_S: Final = 5
TTL_MAX_S: Final = 300
"""A TTL is clamped: zero would ask for each connection, a week would pin a name to an address long gone."""
CACHED_NAMES: Final = 4096
UDP_PAYLOAD_BYTES: Final = 1232  # DNS flag day 2020

# What dnspython imports on demand, it imports here: a worker that has given up its privileges may not be able to read its own installation.
BACKEND: Final = dns.asyncbackend.get_backend("asyncio")
for _kind in ("A", "AAAA", "CNAME", "DNAME", "SOA", "NS", "RRSIG", "OPT"):
    dns.rdata.get_rdata_class(dns.rdataclass.IN, dns.rdatatype.from_text(_kind))  # type: ignore[no-untyped-call]


class ResolveError(Exception):
    """There is no usable answer: NXDOMAIN, no A record, a server's error, a malformed message."""


class ResolveTimeout(ResolveError):
    """The resolver did not answer in time."""


_Found = tuple[list[IPAddress], int]


class Resolver:
    """Asks one server for addresses, sharing questions in flight and remembering answers."""

    def __init__(
        self, server: Endpoint, clock: Callable[[], float] = time.monotonic, *, ipv6: bool = False
    ) -> None:
        """``ipv6``: ask for AAAA records too; their addresses come after those of A records."""
        self._kinds = (dns.rdatatype.A, dns.rdatatype.AAAA) if ipv6 else (dns.rdatatype.A,)
        self._server = server
        self._clock = clock
        self._answers: OrderedDict[str, tuple[float, tuple[IPAddress, ...]]] = OrderedDict()
        self._asking: dict[str, asyncio.Task[tuple[IPAddress, ...]]] = {}

    async def addresses(self, name: str) -> tuple[IPAddress, ...]:
        """The addresses of ``name`` (canonical) in the order that the server gave. ResolveError or ResolveTimeout if there are none.

        A cancelled caller leaves the question under way for the others that wait for it.
        """
        known = self._answers.get(name)
        if known is not None and known[0] > self._clock():
            return known[1]
        task = self._asking.get(name)
        if task is None:
            task = self._asking[name] = spawn(self._ask(name), f"resolve {name}")
            task.add_done_callback(lambda done: self._asked(name, done))
        return await asyncio.shield(task)

    def _asked(self, name: str, task: "asyncio.Task[tuple[IPAddress, ...]]") -> None:
        self._asking.pop(name, None)
        if not task.cancelled():
            task.exception()  # every waiter may have gone: then nobody else looks at it

    async def _ask(self, name: str) -> tuple[IPAddress, ...]:
        outcomes = await asyncio.gather(*(self._ask_for(kind, name) for kind in self._kinds))
        found: list[IPAddress] = []
        ttl, failure = TTL_MAX_S, ResolveError(f"{name}: no address")
        for outcome in outcomes:
            if isinstance(outcome, ResolveError):
                failure = outcome if not isinstance(failure, ResolveTimeout) else failure
            else:
                found += outcome[0]
                ttl = min(ttl, outcome[1])
        if not found:
            raise failure
        self._answers.pop(name, None)
        self._answers[name] = (self._clock() + max(ttl, TTL_MIN_S), tuple(found))
        if len(self._answers) > CACHED_NAMES:
            self._answers.popitem(last=False)
        return tuple(found)

    async def _ask_for(self, kind: dns.rdatatype.RdataType, name: str) -> _Found | ResolveError:
        """The addresses of one kind, and for how many seconds they are good; or why there are none."""
        try:
            query = dns.message.make_query(
                dns.name.from_text(name), kind, use_edns=0, payload=UDP_PAYLOAD_BYTES
            )
            return _addresses(await self._exchange(query))
        except ResolveError as error:
            return error
        except Exception as error:  # whatever the bytes were: dnspython was not made to be total
            return ResolveError(f"{name}: {type(error).__name__} {error}")

    async def _exchange(self, query: dns.message.QueryMessage) -> dns.message.Message:
        """Ask until there is an answer. What is none (another id, another question, junk) is passed over, so nobody can answer by guessing badly."""
        where, port = str(self._server.ip), self._server.port
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


def _addresses(answer: dns.message.Message) -> _Found:
    """Addresses at the end of the chain of CNAMEs that begins with the question, and the smallest TTL on the way."""
    if not isinstance(answer, dns.message.QueryMessage):
        raise ResolveError("that is no answer to a query")
    if answer.rcode() != dns.rcode.NOERROR:
        raise ResolveError(dns.rcode.to_text(answer.rcode()))
    chain = answer.resolve_chaining()
    if chain.answer is None:
        raise ResolveError("no address")
    return [ip_address(record.address) for record in chain.answer], chain.minimum_ttl
