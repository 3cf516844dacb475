"""What the sandbox is told: messages of our own making, as the queries are that leave for it. Pure.

Of the resolver's answer the sandbox gets the chain from its question to the records it asked for, and nothing beside it: without addresses that
the gateway would not dial for that name, and without keys of Encrypted Client Hello, which would hide the name it is let out by.
"""

from collections.abc import Callable, Iterable
from ipaddress import ip_address
from typing import Final, NamedTuple

import dns.edns
import dns.message
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
from dns.rdtypes.svcbbase import ParamKey, SVCBBase

from gateway.addresses import SINKHOLE, unmapped
from gateway.flow import IPAddress

SINKHOLE_TTL_S: Final = 5
"""A policy may change; the next query should see it."""
PAYLOAD_BYTES: Final = 1232  # DNS flag day 2020
MIN_PAYLOAD_BYTES: Final = 512  # RFC 6891 section 6.2.3
MAX_TCP_BYTES: Final = 0xFFFF
HINTS: Final = (ParamKey.IPV4HINT, ParamKey.IPV6HINT)  # RFC 9460 section 7.3

# Before a worker gives up the right to read its own installation: see gateway.net.resolve.
for _kind in (dns.rdatatype.SVCB, dns.rdatatype.HTTPS):
    dns.rdata.get_rdata_class(dns.rdataclass.IN, _kind)  # type: ignore[no-untyped-call]

Keeps = Callable[[IPAddress], bool]


class Reply(NamedTuple):
    """An answer for the sandbox."""

    wire: bytes
    emptied: bool
    """There were records, and none could be handed on."""


def reply(query: dns.message.Message, found: bytes, ttl_s: int, keeps: Keeps, *, tcp: bool) -> Reply:
    """The resolver's answer ``found`` to the question of ``query``, for those addresses that ``keeps`` admits, good for ``ttl_s`` seconds.

    Truncated where it does not fit what the client can take. Raises whatever dnspython does where ``found`` cannot be read.
    """
    message = dns.message.from_wire(found)
    answer = _response(query)
    rcode = message.rcode()
    answer.set_rcode(rcode if rcode in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN) else dns.rcode.SERVFAIL)
    emptied = False
    if isinstance(message, dns.message.QueryMessage) and answer.rcode() != dns.rcode.SERVFAIL:
        chain = message.resolve_chaining()
        for rrset in chain.cnames:
            answer.answer.append(dns.rrset.from_rdata_list(rrset.name, ttl_s, [rrset[0]]))
        if chain.answer is not None:
            kept = list(_admitted(chain.answer, keeps))
            emptied = not kept
            if kept:
                answer.answer.append(dns.rrset.from_rdata_list(chain.answer.name, ttl_s, kept))
        else:
            answer.authority = [
                dns.rrset.from_rdata_list(rrset.name, ttl_s, [rrset[0]])
                for rrset in message.authority
                if rrset.rdtype == dns.rdatatype.SOA
            ]
    return Reply(answer.to_wire(max_size=_room(query, tcp=tcp), prefer_truncation=True), emptied)


def nothing(query: dns.message.Message, rcode: dns.rcode.Rcode = dns.rcode.NOERROR) -> bytes:
    """An answer without records."""
    answer = _response(query)
    answer.set_rcode(rcode)
    return answer.to_wire()


def sinkhole(query: dns.message.Message) -> bytes:
    """For a name that is not allowed: an address to connect to and be refused at, under that name."""
    answer = _response(query)
    (question,) = answer.question
    if question.rdtype == dns.rdatatype.A:
        answer.answer.append(
            dns.rrset.from_text(
                question.name, SINKHOLE_TTL_S, dns.rdataclass.IN, dns.rdatatype.A, str(SINKHOLE)
            )
        )
    return answer.to_wire()


def error(query: dns.message.Message, rcode: dns.rcode.Rcode, code: dns.edns.EDECode, text: str) -> bytes:
    """An error with an Extended DNS Error (RFC 8914), for those who can read one."""
    answer = _response(query)
    answer.set_rcode(rcode)
    if query.edns >= 0:
        answer.use_edns(0, payload=PAYLOAD_BYTES, options=[dns.edns.EDEOption(code, text)])
    return answer.to_wire()


def _response(query: dns.message.Message) -> dns.message.Message:
    return dns.message.make_response(query, recursion_available=True, our_payload=PAYLOAD_BYTES, pad=0)


def _room(query: dns.message.Message, *, tcp: bool) -> int:
    if tcp:
        return MAX_TCP_BYTES
    return min(max(query.payload, MIN_PAYLOAD_BYTES), PAYLOAD_BYTES) if query.edns >= 0 else MIN_PAYLOAD_BYTES


def _admitted(records: Iterable[dns.rdata.Rdata], keeps: Keeps) -> Iterable[dns.rdata.Rdata]:
    for record in records:
        if isinstance(record, SVCBBase):
            usable = _without_secrets(record, keeps)
            if usable is not None:
                yield usable
        elif record.rdtype not in (dns.rdatatype.A, dns.rdatatype.AAAA) or _kept(record.to_text(), keeps):
            yield record


def _without_secrets(record: SVCBBase, keeps: Keeps) -> dns.rdata.Rdata | None:
    """The record without keys, and without addresses that are not kept; None where it says that nobody can use what is left."""
    params = {key: value for key, value in record.params.items() if key != ParamKey.ECH}
    for key in HINTS:
        if key in params:
            hints = [ip for ip in params[key].addresses if _kept(ip, keeps)]
            if hints:
                params[key] = type(params[key])(hints)
            else:
                del params[key]
    mandatory = params.get(ParamKey.MANDATORY)
    if mandatory is not None and any(key not in params for key in mandatory.keys):
        return None
    return record.replace(params=params)


def _kept(address: str, keeps: Keeps) -> bool:
    return keeps(unmapped(ip_address(address)))
