"""Hellos of real clients with something wrong: seeded, so that a failure comes back."""

import random
from collections.abc import Iterator
from pathlib import Path

from tests.gateway.sniff.cursor_tls import Malformed, read_extensions
from tests.gateway.sniff.hellos import (
    ESNI,
    Extension,
    alpn,
    ech,
    entry,
    hello,
    records,
    server_name,
    unrecord,
    usual,
    vector,
)

INTERESTING = (0, 1, 2, 3, 4, 5, 16, 22, 31, 32, 33, 45, 46, 48, 63, 64, 127, 128, 253, 254, 255)


def seeds() -> list[bytes]:
    """Handshake messages."""
    files = sorted((Path(__file__).parent / "corpus").glob("*.bin"))
    parts = [unrecord(path.read_bytes()) for path in files]
    return [part[0] for part in parts if part] + [
        usual(),
        usual(ech()),
        hello(server_name(b"x.test")),
        hello(block=b""),
    ]


def mutants(count: int, seed: int) -> Iterator[bytes]:
    """``count`` inputs of the sniffer: half with bytes overwritten, half built anew from another list of extensions."""
    chance = random.Random(seed)
    messages = seeds()
    for number in range(count):
        message = chance.choice(messages)
        message = overwritten(message, chance) if number % 2 else rebuilt(message, chance)
        data = records(
            message,
            [chance.choice((1, 2, 5, 64, 65, 512, 16384)) for _ in range(6)]
            + [chance.choice((1, 16384, 16384, 16384))],
        )
        if chance.random() < 0.2:
            data = overwritten(data, chance)
        yield b"\x16" + data[1 : chance.randrange(1, len(data)) if chance.random() < 0.1 else None]


def overwritten(message: bytes, chance: random.Random) -> bytes:
    """A few bytes changed, put in or left out; the length of the message mended, mostly."""
    changed = bytearray(message)
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        # What names a destination stands in the first few hundred bytes, in some clients at the very end.
        at = chance.randrange(min(len(changed), chance.choice((50, 120, 300, 1 << 14))))
        value = chance.choice((chance.choice(INTERESTING), chance.randrange(256)))
        match chance.randrange(4):
            case 0:
                changed.insert(at, value)
            case 1 if len(changed) > 8:
                del changed[at]
            case _:
                changed[at] = value
    if changed[0] == 1 and chance.random() < 0.9:
        changed[1:4] = (len(changed) - 4).to_bytes(3, "big")
    return bytes(changed)


def rebuilt(message: bytes, chance: random.Random) -> bytes:
    """The same hello with its extensions shuffled, doubled, left out, or others put in."""
    try:
        extensions = [Extension(kind, body) for kind, body in read_extensions(message)]
    except Malformed:
        return message
    for _ in range(chance.randrange(4)):
        made = an_extension(chance)
        extensions.insert(chance.randrange(len(extensions) + 1), made)
    if extensions and chance.random() < 0.3:
        extensions.append(chance.choice(extensions))
    if chance.random() < 0.3:
        chance.shuffle(extensions)
    if chance.random() < 0.7:
        extensions = list({extension.kind: extension for extension in extensions}.values())
    block = vector(2, b"".join(extension.encode() for extension in extensions))
    before = message[4:39] + message[39 : 39 + message[38]]
    suites = message[39 + message[38] :]
    upto = 2 + int.from_bytes(suites[:2], "big")
    upto += 1 + suites[upto]
    inside = before + suites[:upto] + block
    return b"\1" + vector(3, inside)


def a_name(chance: random.Random) -> bytes:
    return chance.choice(
        (
            *(
                b"a.test",
                b"B.TEST",
                b"c.test.",
                b"localhost",
                b"",
                b"1.2.3.4",
                b"d.test\0e.test",
                b"a..b",
                b"-a.test",
            ),
            bytes(chance.choice(b"ab.-_0\0A") for _ in range(chance.randrange(1, 12))),
            b"a" * chance.randrange(60, 66) + b".test",
            b"ab." * chance.randrange(80, 90) + b"test",
        )
    )


def an_extension(chance: random.Random) -> Extension:
    """Mostly server names, of every shape."""
    name = a_name(chance)
    lie = chance.choice((None, None, None, len(name) - 1 if name else 0, len(name) + 1, len(name) + 3))
    return chance.choice(
        (
            server_name(name),
            server_name(name),
            server_name(name, a_name(chance)),
            Extension(0, vector(2, entry(name, claim=lie))),
            Extension(0, vector(2, entry(name), claim=None if lie is None else lie + 3)),
            Extension(0, vector(2, entry(name)), claim=None if lie is None else lie + 5),
            Extension(0, vector(2, entry(name, kind=chance.choice((0, 1, 255))) + entry(b"z.test"))),
            Extension(0, vector(2, entry(name)) + b"\0" * chance.randrange(3)),
            alpn(b"h2", b"x" * chance.randrange(3)),
            ech(chance.randrange(64)),
            Extension(
                ESNI if chance.random() < 0.2 else chance.choice((21, 0x1A1A, 0xABCD)),
                bytes(chance.randrange(9)),
            ),
        )
    )
