"""What the fuzzer starts from, and how it changes it: the cases written by hand, recorded hellos and heads, and mutations that know the formats."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.gateway.sniff import head_mutants, mutants
from tests.gateway.sniff.hellos import records, unrecord
from tests.gateway.sniff.http_cases import HEADS
from tests.gateway.sniff.tls_cases import MESSAGES, WIRES

CORPUS = Path(__file__).parents[1] / "gateway" / "sniff" / "corpus"

USUAL_SIZE = 4096
"""Of most mutants: a plain reading of 64 KiB takes longer than 1,000 of these."""
LARGEST = 70000


def seeds(kind: str) -> list[bytes]:
    if kind == "http":
        return [*(case.data for case in HEADS if len(case.data) >= 2000), *head_mutants.SEEDS]
    recorded = [path.read_bytes() for path in sorted(CORPUS.glob("*.bin"))]
    return [
        *recorded,
        *(case.data for case in WIRES),
        *(records(case.handshake) for case in MESSAGES),
        *(records(case.handshake, (1, 7, 40, 1 << 14)) for case in MESSAGES),
    ]


def mutate(kind: str, data: bytes, chance: random.Random) -> bytes:
    """``data``, or something new, with a few things changed that matter in the format."""
    data = sized(data, chance)
    if kind == "http":
        made = head_mutants.built(chance) if chance.random() < 0.3 else data
        return head_mutants.overwritten(made, chance)
    parts = unrecord(data)
    if parts is None or len(parts[0]) < 50 or chance.random() < 0.3:
        return (
            mutants.overwritten(b"\x16" + data[1:], chance)
            if len(data) > 8
            else chance.randbytes(chance.randrange(40))
        )
    message, later = parts
    message = mutants.overwritten(message, chance) if chance.random() < 0.5 else rebuilt(message, chance)
    sizes = [chance.choice((1, 2, 5, 60, 512, 1 << 14)) for _ in range(6)]
    return records(message, [*sizes, 1 << 14]) + later


def rebuilt(message: bytes, chance: random.Random) -> bytes:
    try:
        return mutants.rebuilt(message, chance)
    except (IndexError, OverflowError):
        return message  # its lengths lie: no list of extensions can be taken out of it


def sized(data: bytes, chance: random.Random) -> bytes:
    """Mostly cut to the usual size, and now and then blown up beyond all limits."""
    if data and chance.random() < 0.0003:
        at = chance.randrange(len(data))
        piece = data[at : at + chance.choice((1, 2, 8, 100))]
        return data[:at] + piece * (chance.choice((32768, 65536, LARGEST)) // len(piece)) + data[at:]
    return data[:USUAL_SIZE] if chance.random() < 0.998 else data


def endless(kind: str, chance: random.Random) -> Iterator[bytes]:
    """Mutants without an engine that watches coverage: of the seeds, of made ones, and of the last few mutants."""
    pool = seeds(kind)
    own: Callable[[int, int], Iterator[bytes]] = mutants.mutants if kind == "tls" else head_mutants.mutants
    while True:
        yield from own(200, chance.getrandbits(32))
        last = chance.choice(pool)
        for _ in range(400):
            last = mutate(kind, chance.choice(pool) if chance.random() < 0.6 else last, chance)
            yield last
