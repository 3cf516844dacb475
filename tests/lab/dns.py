"""The lab's DNS: a public resolver whose table tests replace while it runs, and that lies when told to.

A name's table entry is a list of steps: the n-th query of a name and type gets the n-th, the last one for
ever. A query that comes again as it was, because nobody answered it in time, gets what it got the first time,
and is logged with ``again``: how often that happens is the machine's affair, and no test's. A step is a dict:

* record types (``"A"``, ``"CNAME"``, ``"HTTPS"``...): lists of record data as text;
* ``ttl`` (30), ``rcode`` (``"NXDOMAIN"``...), ``delay_s``, ``drop`` (no answer), ``truncate`` (UDP: TC and
  nothing else);
* ``extra``: whole records as text that nobody asked for, put into the answer section;
* ``lies``: messages sent before the answer: ``id`` (wrong id), ``question`` (another question), ``source``
  (from another port), ``garbage`` (not DNS). A lie carries the attacker's address.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from tests.lab.farlog import FarLogWriter
from tests.lab.places import ATTACKER_IP, ZONE

Step = dict[str, Any]
MAX_CHAIN = 8
GARBAGE = b"\xff" * 40


@dataclass
class Reply:
    """What to send: ``lies`` first, then ``wire``; all after ``delay_s``."""

    wire: bytes | None = None
    lies: list[tuple[str, bytes]] = field(default_factory=list)
    delay_s: float = 0.0


class Zone:
    """The table, and the answer to one query."""

    def __init__(self, log: FarLogWriter) -> None:
        self._log = log
        self.reset()

    def reset(self) -> None:
        """Back to ``places.ZONE``."""
        self._steps: dict[str, list[Step]] = {name: [dict(records)] for name, records in ZONE.items()}
        self._asked: Counter[tuple[str, str]] = Counter()
        self._given: dict[tuple[str, int, str, str], tuple[dict[str, object], Reply]] = {}
        """What was answered, by what tells one query from another: transport, id, name and type."""

    def put(self, name: str, steps: list[Step]) -> None:
        """Replace ``name`` (``*.`` for everything below a suffix); no step at all: no such name."""
        self._steps[name] = steps
        self._asked.clear()
        self._given.clear()

    def knows(self, name: str) -> bool:
        """Whether the table has it, or a wildcard over it."""
        return bool(self._find(name))

    def reply(self, query: bytes, *, transport: str, where: dict[str, object]) -> Reply:
        """Answer ``query`` and log it. What is not a query gets no answer."""
        try:
            asked = dns.message.from_wire(query)
            question = asked.question[0]
        except (dns.exception.DNSException, IndexError) as error:
            self._log.write(
                "dns", transport=transport, again=False, error=repr(error), size=len(query), **where
            )
            return Reply()
        name = question.name.to_text(omit_final_dot=True).lower()
        rdtype = dns.rdatatype.to_text(question.rdtype)
        query_of = transport, asked.id, name, rdtype
        again = query_of in self._given
        if not again:
            self._given[query_of] = self._answer(asked, name, rdtype, udp=transport == "udp")
        said, reply = self._given[query_of]
        self._log.write(
            "dns",
            transport=transport,
            name=name,
            type=rdtype,
            again=again,
            **said,
            size=len(query),
            **where,
        )
        return reply

    def _answer(
        self, asked: dns.message.Message, name: str, rdtype: str, *, udp: bool
    ) -> tuple[dict[str, object], Reply]:
        """For the log, and for whoever asked."""
        step = self._step(name, rdtype)
        response = self._response(asked, name, rdtype, step)
        data = [rdata.to_text() for rrset in response.answer for rdata in rrset]
        said: dict[str, object] = {"answer": data, "rcode": dns.rcode.to_text(response.rcode())}
        return said, _packed(asked, response, step or {}, udp=udp)

    def _find(self, name: str) -> list[Step]:
        if name in self._steps:
            return self._steps[name]
        labels = name.split(".")
        for cut in range(1, len(labels)):
            if found := self._steps.get("*." + ".".join(labels[cut:])):
                return found
        return []

    def _step(self, name: str, rdtype: str) -> Step | None:
        steps = self._find(name)
        if not steps:
            return None
        count = self._asked[name, rdtype]
        self._asked[name, rdtype] += 1
        return steps[min(count, len(steps) - 1)]

    def _response(
        self, asked: dns.message.Message, name: str, rdtype: str, step: Step | None
    ) -> dns.message.Message:
        response = dns.message.make_response(asked, recursion_available=True)
        if step is None:
            response.set_rcode(dns.rcode.NXDOMAIN)
            return response
        response.set_rcode(dns.rcode.from_text(step.get("rcode", "NOERROR")))
        owner: dns.name.Name = asked.question[0].name
        for _ in range(MAX_CHAIN):
            kind = "CNAME" if "CNAME" in step else rdtype
            if step.get(kind):
                response.answer.append(
                    dns.rrset.from_text_list(owner, step.get("ttl", 30), "IN", kind, step[kind])
                )
            if kind == rdtype or "CNAME" not in step:
                break
            owner = dns.name.from_text(step["CNAME"][0])
            step = self._step(owner.to_text(omit_final_dot=True).lower(), rdtype) or {}
        for line in step.get("extra", []):
            extra_owner, extra_type, data = line.split(maxsplit=2)
            response.answer.append(dns.rrset.from_text(extra_owner, 30, "IN", extra_type, data))
        return response


def _packed(asked: dns.message.Message, response: dns.message.Message, step: Step, *, udp: bool) -> Reply:
    reply = Reply(delay_s=step.get("delay_s", 0.0))
    if not step.get("drop"):
        if udp and step.get("truncate"):
            response.answer.clear()
            response.flags |= dns.flags.TC
        limit = max(512, asked.payload) if udp else 65535
        reply.wire = response.to_wire(max_size=limit, prefer_truncation=True)
    reply.lies = [(kind, _lie(asked, kind)) for kind in step.get("lies", [])]
    return reply


def _lie(asked: dns.message.Message, kind: str) -> bytes:
    if kind == "garbage":
        return GARBAGE
    forged = dns.message.make_response(asked, recursion_available=True)
    owner = asked.question[0].name
    if kind == "id":
        forged.id ^= 1
    elif kind == "question":
        owner = dns.name.from_text("other.test.")
        forged.question = [dns.rrset.RRset(owner, dns.rdataclass.IN, dns.rdatatype.A)]
    forged.answer.append(dns.rrset.from_text(owner, 30, "IN", "A", ATTACKER_IP))
    return forged.to_wire()


async def serve_tcp(
    zone: Zone, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, where: dict[str, object]
) -> None:
    """DNS over one TCP connection (RFC 7766), until the client ends it."""
    while True:
        try:
            size = int.from_bytes(await reader.readexactly(2), "big")
            query = await reader.readexactly(size)
        except asyncio.IncompleteReadError:
            return
        reply = zone.reply(query, transport="tcp", where=where)
        await asyncio.sleep(reply.delay_s)
        for wire in [lie for _, lie in reply.lies] + ([reply.wire] if reply.wire else []):
            writer.write(len(wire).to_bytes(2, "big") + wire)
        await writer.drain()
