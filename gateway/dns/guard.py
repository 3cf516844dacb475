"""What becomes of a DNS query: asked for, passed on, answered here, or refused. Pure: bytes in, a value out, and no input raises.

Names that the policy could allow are asked for; any other is answered without a packet leaving, so that a query carries nothing out (a tunnel through
the resolver). In mode ``guarded`` that answer is the sinkhole's address: the client connects to it, says the name it wants, is refused in
its own protocol, and the attempt is on record under its name.
"""

import struct
from collections.abc import Callable
from typing import Final, NamedTuple

import dns.edns
import dns.opcode
import dns.rcode
import dns.rdatatype

from gateway.dns import reply
from gateway.flow import IPAddress
from gateway.net.message import IN, MAX_NAME_BYTES, OPT, RECORD, TYPE_CLASS, Malformed, labels, name_at
from gateway.reasons import Reason
from matcher import canonical

MIN_QUERY_BYTES: Final = 12  # RFC 1035 section 4.1.1
QR: Final = 0x80  # third octet
COUNTS: Final = struct.Struct("!4H")  # RFC 1035 section 4.1.1, from the fifth octet on
MAX_QUERY_BYTES: Final = 1232
"""One question and one OPT record, generously padded (RFC 8467), within a datagram of DNS flag day 2020; what is longer is a client's error."""
OPTION: Final = struct.Struct("!HH")  # RFC 6891 section 6.1.2
TSIG: Final = 250
META: Final = frozenset((OPT, *range(128, 256)))
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
    query: reply.Query | None = None
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
        except Malformed:
            return Ruling(BAD_QUERY, question, answer=_bare(wire, dns.rcode.FORMERR))

    def _judge(self, wire: bytes, question: Question) -> Ruling:
        if wire[2] >> 3 & 0xF != dns.opcode.QUERY:
            return Ruling(BAD_QUERY, question, answer=_bare(wire, dns.rcode.NOTIMP))
        questions, answers, authorities, additionals = COUNTS.unpack_from(wire, 4)
        if questions != 1:
            return Ruling(BAD_QUERY, question, answer=_bare(wire, dns.rcode.REFUSED))
        if answers or authorities or additionals > 1 or len(wire) > MAX_QUERY_BYTES:
            return Ruling(BAD_QUERY, question, answer=_bare(wire, dns.rcode.FORMERR))
        query = read_query(wire)
        question = _question(query.name, query.kind)
        if query.rdclass != IN or query.kind in META:
            return Ruling(BAD_QUERY, question, answer=self._refused(query))
        rule = BAD_NAME if question.name is None else self._rules(question.name)
        if not rule.allowed:
            return Ruling(rule, question, answer=self._elsewhere(query))
        if query.kind not in ASKABLE:
            return Ruling(BAD_QUERY, question, answer=self._refused(query))
        if query.kind == dns.rdatatype.AAAA and not self._ipv6:
            return Ruling(rule, question, answer=reply.nothing(query))
        return Ruling(rule, question, query)

    @property
    def open(self) -> bool:
        """Any name may be asked for: none is a secret from the resolver."""
        return self._open

    def telling(self, found: bytes) -> reply.Telling:
        """What of the resolver's answer ``found`` the sandbox is told; a failure where it cannot be read. Raises nothing."""
        try:
            return reply.tell(found, self._keeps)
        except Exception:  # of whatever kind: dnspython was not made to be total, and this must be
            return reply.FAILURE

    def _elsewhere(self, query: reply.Query) -> bytes:
        """A name that is not allowed."""
        if self._strict:
            text = "not in this sandbox's egress policy"
            return reply.error(query, dns.rcode.NXDOMAIN, dns.edns.EDECode.BLOCKED, text)
        return reply.sinkhole(query)

    def _refused(self, query: reply.Query) -> bytes:
        """A question that is never asked, whatever the name."""
        if self._strict:
            text = "no such question may leave this sandbox"
            return reply.error(query, dns.rcode.REFUSED, dns.edns.EDECode.PROHIBITED, text)
        return reply.nothing(query, dns.rcode.REFUSED)


def failed(query: reply.Query) -> bytes:
    """No answer could be had."""
    return reply.nothing(query, dns.rcode.SERVFAIL)


def read_query(wire: bytes) -> reply.Query:
    """A query of one question and at most one record, which may be an OPT record and then says how much its sender takes. Malformed."""
    try:
        name, at = name_at(wire, MIN_QUERY_BYTES)
        kind, rdclass = TYPE_CLASS.unpack_from(wire, at)
        at += TYPE_CLASS.size
        payload = -1
        if wire[10:12] != b"\0\0":
            payload, at = _additional(wire, at)
    except (struct.error, IndexError):
        raise Malformed("it ends early") from None
    if at != len(wire):
        raise Malformed("octets behind its end")
    return reply.Query(wire[:4], name, kind, rdclass, payload)


def _additional(wire: bytes, at: int) -> tuple[int, int]:
    """What its sender takes where an OPT record is there, else -1; and where the record ends."""
    owner, at = name_at(wire, at)
    kind, payload, _, size = RECORD.unpack_from(wire, at)
    at += RECORD.size
    end = at + size
    if end > len(wire) or kind == TSIG:
        raise Malformed("a record that nobody can make use of")
    if kind != OPT:
        return -1, end
    if owner != b"\0":
        raise Malformed("an OPT record of a name")
    while at < end:
        _, size = OPTION.unpack_from(wire, at)
        at += OPTION.size + size
    if at != end:
        raise Malformed("an option's length")
    return payload, end


def hostname(parts: list[bytes]) -> str | None:
    """Canonical text of a name's labels, or None where it is no hostname. Label by label: ``a\\.b.com`` has a first label of three octets."""
    if any(b"." in part for part in parts):
        return None
    return canonical(b".".join(parts), single=True)


def _question(name: bytes, kind: int) -> Question:
    parts = labels(name)
    host = hostname(parts)
    return Question(host, b"" if host is not None else b".".join(parts) or b".", kind)


def read_question(wire: bytes) -> Question:
    """The first question of a message of at least ``MIN_QUERY_BYTES``, if there is one that no pointer is needed for."""
    end = question_end(wire)
    if end == MIN_QUERY_BYTES or wire[4:6] == b"\0\0":
        return UNASKED
    return _question(wire[MIN_QUERY_BYTES : end - 4], int.from_bytes(wire[end - 4 : end - 2], "big"))


def question_end(message: bytes) -> int:
    """Where the first question of a message ends; 12, the end of the header, where none can be read there."""
    at = MIN_QUERY_BYTES
    too_far = min(len(message) - 4, MIN_QUERY_BYTES + MAX_NAME_BYTES)  # type and class follow
    while at < too_far:
        if message[at] == 0:
            return at + 1 + TYPE_CLASS.size
        if message[at] >= 64:  # no label
            break
        at += 1 + message[at]
    return MIN_QUERY_BYTES


def _bare(query: bytes, rcode: int) -> bytes:
    """A header alone: the query's id, opcode and RD, and ``rcode``."""
    return query[:2] + bytes((QR | query[2] & 0x79, 0x80 | rcode)) + bytes(8)
