"""Mutated packets at the guard for as long as one likes: no exception, no growth, and nothing leaves that should not.

``make fuzz`` calls ``flood(60)``; a second of it runs with the tests.
"""

import gc
import itertools
import random
import time
from collections.abc import Callable
from typing import Final

import dns.flags
import dns.message
import dns.rdata
import dns.rrset

from gateway.dns.guard import MIN_QUERY_BYTES, Guard
from gateway.dns.reply import say
from gateway.net.resolve import import_no_more_types
from tests.gateway.dns.queries import AAAA, ALLOWED, ECH, HTTPS, OTHER, TXT, guard, name, option, query

SEEDS: Final = (
    query(),
    query(OTHER),
    query(OTHER, 255),
    query(ALLOWED, TXT, edns=option(12, bytes(40))),
    query("a.anthropic.com", HTTPS, edns=b""),
    query(b"\3api\xc0\x00"),
    query(b"\xc0\x0c"),
    query(b"\3api\xc0\x0c"),
    query(counts=(2, 0, 0, 0), rest=name(OTHER) + b"\0\1\0\1"),
    query(counts=(1, 1, 0, 1), rest=b"\xc0\x0c\0\1\0\1\0\0\0\5\0\4abcd"),
    query(counts=(1, 0, 0, 1), rest=b"\0\0\xfa\0\xff\0\0\0\0\0\x10" + bytes(16)),
    query(".".join(["a" * 49] * 5), AAAA),
    query(b"\x3f" + b"x" * 63 + b"\0"),
)
GROWTH: Final = 2000
"""Objects more at the end than at the beginning: interned types and the like, not one a packet."""


def _answers() -> list[bytes]:
    made = []
    for lines in (
        [("A", "203.0.113.9"), ("A", "10.0.0.1")],
        [("HTTPS", f"1 . alpn=h2 ipv4hint=10.0.0.1 {ECH}")],
        [("CNAME", "a.example.")],
        [("TXT", "x" * 200)],
    ):
        message = dns.message.make_response(dns.message.from_wire(query()))
        for kind, data in lines:
            message.answer.append(dns.rrset.from_text(f"{ALLOWED}.", 60, "IN", kind, data))
        made.append(message.to_wire())
    return made


def mutated(chosen: random.Random, seeds: tuple[bytes, ...] | list[bytes]) -> bytes:
    """One of ``seeds``, with octets changed, cut out, doubled, or another's end."""
    wire = bytearray(chosen.choice(seeds))
    for _ in range(chosen.randrange(5)):
        at = chosen.randrange(len(wire) + 1)
        match chosen.randrange(5):
            case 0:
                del wire[at:]
            case 1:
                del wire[at : at + chosen.randrange(1, 9)]
            case 2:
                wire[at:at] = chosen.randbytes(chosen.randrange(1, 9))
            case 3:
                wire += chosen.choice(seeds)[at:]
            case _:
                wire[at : at + 1] = bytes(
                    (chosen.choice((0, 1, 12, 0x3F, 0x40, 0xC0, 0xFF, chosen.randrange(256))),)
                )
    return bytes(wire)


def steady(batches: int = 40) -> Callable[[], float]:
    """A clock by which so many of them take a second, however slow the machine is."""
    looks = itertools.count()
    return lambda: next(looks) / batches


def flood(seconds: float, seed: int = 0, clock: Callable[[], float] = time.monotonic) -> int:
    """Judge mutated packets for ``seconds``; how many. AssertionError, or whatever was raised, where something is wrong."""
    chosen = random.Random(seed)
    answers = _answers()
    kept = dns.rdata._rdata_classes, dns.rdata._dynamic_load_allowed
    import_no_more_types()  # as a worker does
    try:
        return _flood(seconds, chosen, answers, clock)
    finally:
        dns.rdata._rdata_classes, dns.rdata._dynamic_load_allowed = kept


def _flood(seconds: float, chosen: random.Random, answers: list[bytes], clock: Callable[[], float]) -> int:
    for flags in range(1 << 16):
        dns.flags.Flag(flags)  # an enum keeps each combination that it has met
    guards = [guard(), guard("strict"), guard(ipv6=False)]
    _batch(guards, chosen, answers, 2000)
    gc.collect()
    before, done = len(gc.get_objects()), 0
    end = clock() + seconds
    while clock() < end:
        done += _batch(guards, chosen, answers, 200)
    gc.collect()
    grown = len(gc.get_objects()) - before
    assert grown < GROWTH, f"{grown} objects more after {done} packets"
    return done


def _batch(guards: list[Guard], chosen: random.Random, answers: list[bytes], size: int) -> int:
    for _ in range(size):
        wire, by = mutated(chosen, SEEDS), chosen.choice(guards)
        ruling = by.judge(wire)
        assert not ruling.forward
        if ruling.query is not None:
            assert ruling.rule.allowed and ruling.question.name, wire.hex()
            assert not ruling.answer
            told = by.telling(mutated(chosen, answers))
            handed = say(ruling.query, told, 5, tcp=chosen.random() < 0.5)
            assert handed[:2] == wire[:2], wire.hex()
        elif ruling.answer:
            assert len(ruling.answer) >= MIN_QUERY_BYTES and ruling.answer[2] & 0x80, wire.hex()
            assert ruling.answer[:2] == wire[:2], wire.hex()
            assert len(ruling.answer) <= len(wire) + 100, wire.hex()
        else:
            assert len(wire) < MIN_QUERY_BYTES or wire[2] & 0x80, wire.hex()
    return size
