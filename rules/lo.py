"""The plan of the ``lo`` link: the sandbox's own loopback, on which every address is local. Pure.

A packet of the sandbox meets ``mangle PREROUTING`` first. There it is either redirected (TPROXY, which marks it) or left alone; what was left
alone lands in ``filter INPUT``, whose last rules refuse it at once, from the address that was dialled. So "refuse" needs no rule of its own: it is
what happens to everything that nothing else took. Dropped before is what would not land there, or whose refusal would come to nobody. Addresses are
decided by the proxy, whatever the policy: there is no other way out.
"""

from collections.abc import Iterator

from rules.floor import MULTICAST
from rules.link import Family, Link
from rules.rule import Chain, Rule, recorded
from rules.words import PROXY_MARK, Words, spell


def chains(link: Link, resolver: str | None, family: Family) -> tuple[Chain, ...]:
    """Everything that iptables holds for it in one family."""
    words = spell(link, family)
    return (
        Chain("mangle", "PREROUTING", tuple(_redirect(link, family, resolver))),
        Chain("filter", "INPUT", tuple(_admit(link, words, resolver)), "DROP"),
        Chain("filter", "FORWARD", (), "DROP"),
        Chain("filter", "OUTPUT", (Rule("ACCEPT", out_interface=link.device),), "DROP"),
    )


def _redirect(link: Link, family: Family, resolver: str | None) -> Iterator[Rule]:
    lo, words = link.device, spell(link, family)
    # A direct dial of the listener would arrive with the listener's own address as the "original" destination.
    dialled = Rule("DROP", lo, destination=words.listen_ip, protocol="tcp", dport=link.listen_port)
    yield recorded(dialled)
    yield dialled
    if family == 6:  # as on ``veth``
        routed = Rule("DROP", lo, routing_header=True)
        yield recorded(routed)
        yield routed
    group = Rule("DROP", lo, destination=MULTICAST[family])
    yield recorded(group)
    yield group
    yield Rule("RETURN", lo, destination=words.loopback)
    yield Rule("RETURN", lo, destination=words.address)
    # Every address is local here, so any can be bound. What the gateway answers, in whoever's name, is to the sandbox's own and has gone by.
    forged = Rule("DROP", lo, not_source=words.address)
    yield recorded(forged)
    yield forged
    if resolver is not None:
        yield Rule("RETURN", lo, destination=resolver, protocol="tcp", dport=53)
    yield Rule(
        "TPROXY",
        lo,
        protocol="tcp",
        on_ip=words.listen_ip,
        on_port=link.listen_port,
        tproxy_mark=PROXY_MARK,
    )


def _admit(link: Link, words: Words, resolver: str | None) -> Iterator[Rule]:
    lo = link.device
    yield Rule("ACCEPT", lo, destination=words.loopback)
    yield Rule("ACCEPT", lo, destination=words.address)
    yield Rule("ACCEPT", lo, protocol="tcp", mark=PROXY_MARK)
    if resolver is not None:
        yield Rule("ACCEPT", lo, destination=resolver, protocol="udp", dport=53)
        yield Rule("ACCEPT", lo, destination=resolver, protocol="tcp", dport=53)
    yield recorded(Rule("REJECT", lo))
    yield Rule("REJECT", lo, protocol="tcp", reject_with="tcp-reset")
    yield Rule("REJECT", lo, reject_with=words.reject_with)
