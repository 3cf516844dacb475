"""What becomes of a DNS query: passed on, answered here, or refused. Pure: bytes in, a value out, and no input raises.

Names that the policy could allow are passed on; any other is answered without a packet leaving, so that a query carries nothing out (a tunnel through
the resolver). In mode ``guarded`` that answer is the sinkhole's address: the client connects to it, says the name it wants, is refused in
its own protocol, and the attempt is on record under its name.
"""

import struct
from collections.abc import Callable
from typing import Final, NamedTuple

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
from dns.rdtypes.svcbbase import ParamKey, SVCBBase

from gateway.addresses import SINKHOLE
from matcher import canonical

SINKHOLE_TTL_S: Final = 5
"""A policy may change; the next query should see it."""
PAYLOAD_BYTES: Final = 1232  # DNS flag day 2020
MIN_PAYLOAD_BYTES: Final = 512  # RFC 6891 section 6.2.3
MIN_QUERY_BYTES: Final = 12  # RFC 1035 section 4.1.1
QR: Final = 0x80  # third octet
COUNTS: Final = struct.Struct("!4H")  # RFC 1035 section 4.1.1, from the fifth octet on
MAX_QUERY_BYTES: Final = 4096
"""One question and one OPT record, generously padded (RFC 8467); what is longer is a client's error, and dear to read."""
META: Final = frozenset((dns.rdatatype.OPT, *range(128, 256)))
"""RFC 6895 section 3.1: QTYPEs and meta-types (ANY, AXFR, IXFR, TSIG, ...), which are no data of a name."""
ASKABLE: Final = frozenset(int(kind) for kind in dns.rdatatype.RdataType if kind) - META
"""Types that have a meaning. The others would carry sixteen bits of the client's choice with each query."""

# Before a worker gives up the right to read its own installation: see gateway.net.resolve.
for _kind in (dns.rdatatype.SVCB, dns.rdatatype.HTTPS):
    dns.rdata.get_rdata_class(dns.rdataclass.IN, _kind)  # type: ignore[no-untyped-call]


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
        if query[2] >> 3 & 0xF != dns.opcode.QUERY:
            return Ruling(answer=_bare(query, dns.rcode.NOTIMP))
        questions, answers, authorities, additionals = COUNTS.unpack_from(query, 4)
        if questions != 1:
            return Ruling(answer=_bare(query, dns.rcode.REFUSED))
        if answers or authorities or additionals > 1 or len(query) > MAX_QUERY_BYTES:
            return Ruling(answer=_bare(query, dns.rcode.FORMERR))
        message = dns.message.from_wire(query)
        question = message.question[0]
        if question.rdclass != dns.rdataclass.IN or question.rdtype in META:
            return Ruling(answer=_bare(query, dns.rcode.REFUSED))
        host = hostname(question.name)
        if host is None or not self._forwards(host):
            return Ruling(answer=self._local(message, question))
        if question.rdtype not in ASKABLE:
            return Ruling(answer=_bare(query, dns.rcode.REFUSED))
        return Ruling(_asked_anew(message))

    def hand_on(self, answer: bytes) -> bytes:
        """What of the resolver's answer the sandbox gets: all but Encrypted Client Hello keys (RFC 9848), which would hide the name it is
        let out by. SERVFAIL where that cannot be told.
        """
        if self._open or not question_type(answer) & ~1 == dns.rdatatype.SVCB:  # SVCB is 64, HTTPS 65
            return answer
        try:
            return _without_ech(answer)
        except Exception:  # as in judge
            return answer[:3] + bytes((answer[3] & 0xF0 | dns.rcode.SERVFAIL,)) + bytes(8)

    def _local(self, query: dns.message.Message, question: dns.rrset.RRset) -> bytes:
        answer = dns.message.make_response(query, recursion_available=True, our_payload=PAYLOAD_BYTES, pad=0)
        if self._strict:
            answer.set_rcode(dns.rcode.NXDOMAIN)
            if query.edns >= 0:
                blocked = dns.edns.EDEOption(dns.edns.EDECode.BLOCKED, "not in this sandbox's egress policy")
                answer.use_edns(0, payload=PAYLOAD_BYTES, options=[blocked])
        elif question.rdtype == dns.rdatatype.A:
            answer.answer.append(
                dns.rrset.from_text(
                    question.name, SINKHOLE_TTL_S, dns.rdataclass.IN, dns.rdatatype.A, str(SINKHOLE)
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


def question_type(message: bytes) -> int:
    """QTYPE of the first question; 0 where none can be read."""
    end = question_end(message)
    return int.from_bytes(message[end - 4 : end - 2], "big") if end > MIN_QUERY_BYTES else 0


def _asked_anew(message: dns.message.Message) -> bytes:
    """The same question, spelt by us: what else a query can carry (case, flags, options, records) would be a channel of its own."""
    question = message.question[0]
    name = dns.name.Name([label.lower() for label in question.name.labels])
    query = dns.message.make_query(name, question.rdtype, id=message.id)
    if message.edns >= 0:
        query.use_edns(0, payload=PAYLOAD_BYTES if message.payload >= PAYLOAD_BYTES else MIN_PAYLOAD_BYTES)
    return query.to_wire()


def _without_ech(wire: bytes) -> bytes:
    answer = dns.message.from_wire(wire)
    changed = False
    for rrset in (*answer.answer, *answer.additional):
        for record in tuple(rrset):
            if not isinstance(record, SVCBBase) or ParamKey.ECH not in record.params:
                continue
            changed = True
            rrset.discard(record)  # type: ignore[no-untyped-call]
            params = {key: value for key, value in record.params.items() if key != ParamKey.ECH}
            mandatory = params.get(ParamKey.MANDATORY)
            if mandatory is None or ParamKey.ECH not in mandatory.keys:  # else nobody could use what is left
                rrset.add(record.replace(params=params), rrset.ttl)
    if not changed:
        return wire
    answer.answer = [rrset for rrset in answer.answer if rrset]
    answer.additional = [rrset for rrset in answer.additional if rrset]
    return answer.to_wire(max_size=0xFFFF)


def _bare(query: bytes, rcode: int) -> bytes:
    """A header alone: the query's id, opcode and RD, and ``rcode``."""
    return query[:2] + bytes((QR | query[2] & 0x79, 0x80 | rcode)) + bytes(8)
