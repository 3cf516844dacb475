"""What becomes of a DNS query: asked for, passed on, answered here, or refused. Pure: bytes in, a value out, and no input raises.

Names that the policy could allow are asked for; any other is answered without a packet leaving, so that a query carries nothing out (a tunnel through
the resolver). In mode ``guarded`` that answer is the sinkhole's address: the client connects to it, says the name it wants, is refused in
its own protocol, and the attempt is on record under its name.
"""

import struct
from collections.abc import Callable
from typing import Final, NamedTuple

import dns.edns
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype

from gateway.dns import reply
from gateway.flow import IPAddress
from gateway.reasons import Reason
from matcher import canonical

MIN_QUERY_BYTES: Final = 12  # RFC 1035 section 4.1.1
QR: Final = 0x80  # third octet
COUNTS: Final = struct.Struct("!4H")  # RFC 1035 section 4.1.1, from the fifth octet on
MAX_QUERY_BYTES: Final = 4096
"""One question and one OPT record, generously padded (RFC 8467); what is longer is a client's error, and dear to read."""
META: Final = frozenset((dns.rdatatype.OPT, *range(128, 256)))
"""RFC 6895 section 3.1: QTYPEs and meta-types (ANY, AXFR, IXFR, TSIG, ...), which are no data of a name."""
ASKABLE: Final = frozenset(int(kind) for kind in dns.rdatatype.RdataType if kind) - META
"""Types that have a meaning. The others would carry sixteen bits of the client's choice with each query."""


class Rule(NamedTuple):
    """What the policy says to one name."""

    allowed: bool
    entry: str
    """``rule`` of the record."""
    reason: Reason


class Question(NamedTuple):
    """What was asked for, as far as it could be read."""

    name: str | None
    """Canonical; None where it is no hostname."""
    raw: bytes
    """Then as it was sent, its labels joined by dots."""
    kind: int
    """QTYPE; 0 where there was none to read."""


class Ruling(NamedTuple):
    """What to do with one query, and why. With neither a query, nor octets to pass on, nor an answer: nothing."""

    rule: Rule
    question: Question
    query: dns.message.Message | None = None
    """To be asked in our own words: what else a query can carry (case, flags, options, records) would be a channel of its own."""
    forward: bytes = b""
    """To be passed on as it is."""
    answer: bytes = b""
    """To be given back."""


UNASKED: Final = Question(None, b"", 0)
OPEN: Final = Rule(True, "default", Reason.DEFAULT_ALLOW)
BAD_QUERY: Final = Rule(False, "unreadable", Reason.BAD_QUERY)
BAD_NAME: Final = Rule(False, "unreadable", Reason.BAD_NAME)


class Guard:
    """Judges the queries of one sandbox."""

    def __init__(
        self,
        mode: str,
        rules: Callable[[str], Rule],
        keeps: Callable[[IPAddress], bool],
        *,
        forwards_all: bool,
        ipv6: bool,
    ) -> None:
        """``mode``: of ``rules.policy.DNS_MODES``; ``rules``: what the policy says to a canonical name; ``keeps``: whether a name may lead to
        an address; ``forwards_all``: any name may be asked for, and lead anywhere; ``ipv6``: the sandbox has it.
        """
        self._open = forwards_all or mode == "passthrough"
        self._strict = mode == "strict"
        self._rules = rules
        self._keeps = keeps
        self._ipv6 = ipv6

    def judge(self, wire: bytes) -> Ruling:
        """The ruling on one message from the sandbox."""
        if len(wire) < MIN_QUERY_BYTES or wire[2] & QR:
            return Ruling(BAD_QUERY, UNASKED)
        question = read_question(wire)
        if self._open:
            rule = OPEN if question.name is None else self._rules(question.name)
            return Ruling(rule if rule.allowed else OPEN, question, forward=wire)
        try:
            return self._judge(wire, question)
        except Exception:  # of whatever kind: dnspython was not made to be total, and this must be
            return Ruling(BAD_QUERY, question, answer=_bare(wire, dns.rcode.FORMERR))

    def _judge(self, wire: bytes, question: Question) -> Ruling:
        if wire[2] >> 3 & 0xF != dns.opcode.QUERY:
            return Ruling(BAD_QUERY, question, answer=_bare(wire, dns.rcode.NOTIMP))
        questions, answers, authorities, additionals = COUNTS.unpack_from(wire, 4)
        if questions != 1:
            return Ruling(BAD_QUERY, question, answer=_bare(wire, dns.rcode.REFUSED))
        if answers or authorities or additionals > 1 or len(wire) > MAX_QUERY_BYTES:
            return Ruling(BAD_QUERY, question, answer=_bare(wire, dns.rcode.FORMERR))
        query = dns.message.from_wire(wire)
        (asked,) = query.question
        question = _question(asked.name, asked.rdtype)
        if asked.rdclass != dns.rdataclass.IN or asked.rdtype in META:
            return Ruling(BAD_QUERY, question, answer=self._refused(query))
        rule = BAD_NAME if question.name is None else self._rules(question.name)
        if not rule.allowed:
            return Ruling(rule, question, answer=self._elsewhere(query))
        if asked.rdtype not in ASKABLE:
            return Ruling(BAD_QUERY, question, answer=self._refused(query))
        if asked.rdtype == dns.rdatatype.AAAA and not self._ipv6:
            return Ruling(rule, question, answer=reply.nothing(query))
        return Ruling(rule, question, query)

    def tells(self, address: IPAddress) -> bool:
        """Whether the sandbox is told of it where an answer has it."""
        return self._keeps(address)

    def hand_on(self, query: dns.message.Message, found: bytes, ttl_s: int, *, tcp: bool) -> reply.Reply:
        """What of the resolver's answer ``found`` the sandbox gets; SERVFAIL where that cannot be told. Raises nothing."""
        try:
            return reply.reply(query, found, ttl_s, self._keeps, tcp=tcp)
        except Exception:  # as in judge
            return reply.Reply(failed(query), False)

    def _elsewhere(self, query: dns.message.Message) -> bytes:
        """A name that is not allowed."""
        if self._strict:
            text = "not in this sandbox's egress policy"
            return reply.error(query, dns.rcode.NXDOMAIN, dns.edns.EDECode.BLOCKED, text)
        return reply.sinkhole(query)

    def _refused(self, query: dns.message.Message) -> bytes:
        """A question that is never asked, whatever the name."""
        if self._strict:
            text = "no such question may leave this sandbox"
            return reply.error(query, dns.rcode.REFUSED, dns.edns.EDECode.PROHIBITED, text)
        return reply.nothing(query, dns.rcode.REFUSED)


def failed(query: dns.message.Message) -> bytes:
    """No answer could be had."""
    return reply.nothing(query, dns.rcode.SERVFAIL)


def hostname(name: dns.name.Name) -> str | None:
    """Canonical text of a name, or None where it is no hostname. Label by label: ``a\\.b.com`` has a first label of three octets."""
    labels = name.labels[:-1]
    if any(b"." in label for label in labels):
        return None
    return canonical(b".".join(labels), single=True)


def _question(name: dns.name.Name, kind: int) -> Question:
    host = hostname(name)
    return Question(host, b"" if host is not None else b".".join(name.labels[:-1]) or b".", kind)


def read_question(wire: bytes) -> Question:
    """The first question of a message of at least ``MIN_QUERY_BYTES``, if there is one that no pointer is needed for."""
    end = question_end(wire)
    if end == MIN_QUERY_BYTES or wire[4:6] == b"\0\0":
        return UNASKED
    labels, at = [], MIN_QUERY_BYTES
    while size := wire[at]:
        labels.append(wire[at + 1 : at + 1 + size])
        at += 1 + size
    try:
        name = dns.name.Name([*labels, b""])
    except dns.name.NameTooLong:
        return UNASKED
    return _question(name, int.from_bytes(wire[end - 4 : end - 2], "big"))


def question_end(message: bytes) -> int:
    """Where the first question of a message ends; 12, the end of the header, where none can be read there."""
    at = MIN_QUERY_BYTES
    while at < len(message) and 0 < message[at] < 64:
        at += 1 + message[at]
    end = at + 5  # the root label, type, class
    return end if end <= len(message) and message[at] == 0 else MIN_QUERY_BYTES


def _bare(query: bytes, rcode: int) -> bytes:
    """A header alone: the query's id, opcode and RD, and ``rcode``."""
    return query[:2] + bytes((QR | query[2] & 0x79, 0x80 | rcode)) + bytes(8)
