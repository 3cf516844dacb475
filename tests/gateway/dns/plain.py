"""What the sandbox is told, the slow and plain way: by dnspython, from message to message. ``gateway.dns.reply`` must say the same."""

from ipaddress import ip_address

import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from gateway.addresses import unmapped
from gateway.dns.data import Keeps
from gateway.dns.reply import MAX_TCP_BYTES, MIN_PAYLOAD_BYTES, PAYLOAD_BYTES


def plain_reply(wire: bytes, found: bytes, ttl_s: int, keeps: Keeps, *, tcp: bool) -> dns.message.Message:
    """The answer to the query ``wire`` where the resolver said ``found``; of services' records none may be in it."""
    query, message = dns.message.from_wire(wire), dns.message.from_wire(found)
    answer = dns.message.make_response(query, recursion_available=True, our_payload=PAYLOAD_BYTES, pad=0)
    rcode = message.rcode()
    answer.set_rcode(rcode if rcode in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN) else dns.rcode.SERVFAIL)
    if isinstance(message, dns.message.QueryMessage) and answer.rcode() != dns.rcode.SERVFAIL:
        chain = message.resolve_chaining()
        for rrset in chain.cnames:
            answer.answer.append(dns.rrset.from_rdata_list(rrset.name, ttl_s, [rrset[0]]))
        if chain.answer is not None:
            addresses = chain.answer.rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA)
            kept = [
                record
                for record in chain.answer
                if not addresses or keeps(unmapped(ip_address(record.to_text())))
            ]
            if kept:
                answer.answer.append(dns.rrset.from_rdata_list(chain.answer.name, ttl_s, kept))
        else:
            answer.authority = [
                dns.rrset.from_rdata_list(rrset.name, ttl_s, [rrset[0]])
                for rrset in message.authority
                if rrset.rdtype == dns.rdatatype.SOA
            ]
    room = MAX_TCP_BYTES
    if not tcp:
        asked = query.payload if query.edns >= 0 else MIN_PAYLOAD_BYTES
        room = min(max(asked, MIN_PAYLOAD_BYTES), PAYLOAD_BYTES)
    return dns.message.from_wire(answer.to_wire(max_size=room, prefer_truncation=True))
