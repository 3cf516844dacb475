"""What becomes of a DNS query: passed on, answered here, or refused. Pure: bytes in, a value out, and no input raises.

Names that the policy could allow are passed on; any other is answered without a packet leaving, so that a query carries nothing out (a tunnel through
the resolver). In mode ``guarded`` that answer is the sinkhole's address: the client connects to it, says the name it wants, is refused in
its own protocol, and the attempt is on record under its name.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from matcher import canonical

SINKHOLE: Final = "192.0.0.8"
"""RFC 7600, the IPv4 dummy address: nobody has it."""
SINKHOLE_TTL_S: Final = 5
"""A policy may change; the next query should see it."""
PAYLOAD_BYTES: Final = 1232  # DNS flag day 2020
MIN_QUERY_BYTES: Final = 12  # RFC 1035 section 4.1.1
QR: Final = 0x80  # third octet
META: Final = frozenset(
    (dns.rdatatype.ANY, dns.rdatatype.AXFR, dns.rdatatype.IXFR, dns.rdatatype.MAILA, dns.rdatatype.MAILB)
)


class Ruling(NamedTuple):
    """What to do with one query; with neither a query nor an answer, nothing."""

    forward: bytes = b""
    """The query to pass on."""
    answer: bytes = b""
    """The answer to give back."""


DROP: Final = Ruling()


class Guard:
    """Judges the queries of one sandbox."""

    def __init__(self, mode: str, forwards: Callable[[str], bool], *, forwards_all: bool) -> None:
        """``mode``: of ``rules.policy.DNS_MODES``; ``forwards``: whether a canonical name may be asked for; ``forwards_all``: any may."""
        self._open = forwards_all or mode == "passthrough"
        self._strict = mode == "strict"
        self._forwards = forwards

    def judge(self, query: bytes) -> Ruling:
        """The ruling on one message from the sandbox."""
        if len(query) < MIN_QUERY_BYTES or query[2] & QR:
            return DROP
        if self._open:
            return Ruling(query)
        try:
            return self._judge(query)
        except Exception:  # of whatever kind: dnspython was not made to be total, and this must be
            return Ruling(answer=_bare(query, dns.rcode.FORMERR))

    def _judge(self, query: bytes) -> Ruling:
        message = dns.message.from_wire(query)
        if message.opcode() != dns.opcode.QUERY:
            return Ruling(answer=_bare(query, dns.rcode.NOTIMP))
        if len(message.question) != 1 or message.question[0].rdclass != dns.rdataclass.IN:
            return Ruling(answer=_bare(query, dns.rcode.REFUSED))
        if message.answer or message.authority:
            return Ruling(answer=_bare(query, dns.rcode.FORMERR))
        question = message.question[0]
        if question.rdtype in META:
            return Ruling(answer=_bare(query, dns.rcode.REFUSED))
        host = hostname(question.name)
        if host is not None and self._forwards(host):
            return Ruling(_asked_anew(message))
        return Ruling(answer=self._local(message, question))

    def _local(self, query: dns.message.Message, question: dns.rrset.RRset) -> bytes:
        answer = dns.message.make_response(query, recursion_available=True, our_payload=PAYLOAD_BYTES)
        if self._strict:
            answer.set_rcode(dns.rcode.NXDOMAIN)
            if query.edns >= 0:
                blocked = dns.edns.EDEOption(dns.edns.EDECode.BLOCKED, "not in this sandbox's egress policy")
                answer.use_edns(0, payload=PAYLOAD_BYTES, options=[blocked])
        elif question.rdtype == dns.rdatatype.A:
            answer.answer.append(
                dns.rrset.from_text(
                    question.name, SINKHOLE_TTL_S, dns.rdataclass.IN, dns.rdatatype.A, SINKHOLE
                )
            )
        return answer.to_wire()


def hostname(name: dns.name.Name) -> str | None:
    """Canonical text of a name, or None where it is no hostname. Label by label: ``a\\.b.com`` has a first label of three octets."""
    labels = name.labels[:-1]
    if any(b"." in label for label in labels):
        return None
    return canonical(b".".join(labels), single=True)


def question_end(message: bytes) -> int:
    """Where the first question of a message ends; 12, the end of the header, where none can be read there."""
    at = MIN_QUERY_BYTES
    while at < len(message) and 0 < message[at] < 64:
        at += 1 + message[at]
    end = at + 5  # the root label, type, class
    return end if end <= len(message) and message[at] == 0 else MIN_QUERY_BYTES


def _asked_anew(message: dns.message.Message) -> bytes:
    """The same question, spelt by us: what else a query can carry (case, flags, options, records) would be a channel of its own."""
    question = message.question[0]
    name = dns.name.Name([label.lower() for label in question.name.labels])
    query = dns.message.make_query(name, question.rdtype, id=message.id)
    if message.edns >= 0:
        query.use_edns(0, payload=min(max(message.payload, 512), PAYLOAD_BYTES))
    return query.to_wire()


def _bare(query: bytes, rcode: int) -> bytes:
    """A header alone: the query's id, opcode and RD, and ``rcode``."""
    return query[:2] + bytes((QR | query[2] & 0x79, 0x80 | rcode)) + bytes(8)
