"""The fast parsers against the plain ones, for as many mutants as are asked for: ``make fuzz``, or ``scripts/fuzz 50000``.

The contract of the sniffers, as checked here of every input: no exception; the answer of the plain parser; a refusal stands whatever
follows; a name is never there one byte earlier; a look that goes on where an earlier one stopped says the same as one that does not.

Two engines. atheris (libFuzzer) is led by what the fast parsers' code does, and mutates hellos below their records, so that lengths
stay right mostly. Where atheris is not installed, ``mutants`` and ``head_mutants`` make the inputs, from the same seeds.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from inspect import isfunction
from pathlib import Path
from typing import NoReturn

from gateway.sniff import NeedMore, Refused, Sniffed, sniff
from gateway.sniff import http as fast_http
from gateway.sniff import tls as fast_tls
from tests.gateway.sniff import head_mutants, mutants
from tests.gateway.sniff.cursor_http import NEITHER, read_http
from tests.gateway.sniff.cursor_tls import read_tls
from tests.gateway.sniff.hellos import records, unrecord

PARSERS = ("tls", "http")
MUTANTS = 1_000_000
MOST_BYTES = 4096
LINE_EVERY = 50_000
WORDS = [
    *(
        b"Host: ",
        b"\r\n\r\n",
        b"HTTP/1.1",
        b"http://",
        b"\r\nTransfer-Encoding: chunked",
        b"\r\nContent-Length: 1",
    ),
    *(b"\r\nUpgrade: websocket", b"OPTIONS *", b"CONNECT ", b"\r\n ", b"a.test", b"\xfe\x0d", b"\xff\xce"),
]
"""What libFuzzer may put in."""


class Different(AssertionError):
    """The contract is broken; the message holds the input in hex."""


def plain(data: bytes) -> Sniffed | NeedMore | Refused:
    if not data:
        return NeedMore(1)
    if data[0] == 22:
        return read_tls(data)
    return NEITHER if data[0] > 0x7F else read_http(data)


def check(data: bytes) -> Sniffed | NeedMore | Refused:
    """The answer to ``data``, or ``Different``."""
    seen, expected = sniff(data), plain(data)
    if isinstance(seen, NeedMore):
        _demand(isinstance(expected, NeedMore) and seen.at_least >= 1, data, seen, expected)
    else:
        _demand(seen == expected, data, seen, expected)
    cut = zlib.crc32(data) % (len(data) + 1)
    before = sniff(data[:cut])
    if isinstance(before, NeedMore):
        _demand(sniff(data, scanned=cut) == seen, data, seen, cut)
        _demand(not isinstance(seen, Sniffed) or cut + before.at_least <= seen.consumed, data, before, cut)
    else:
        _demand(before == seen, data, before, cut)
    if isinstance(seen, Sniffed):
        _demand(sniff(data[: seen.consumed - 1]) == NeedMore(1), data, seen, "one byte less")
    return seen


def _demand(holds: bool, data: bytes, *said: object) -> None:
    if not holds:
        raise Different(f"{said!r} for {data.hex()}")


class Tally:
    """Counts answers, says from time to time how far it is, and ends the process after the last input."""

    def __init__(self, parser: str, engine: str, wanted: int) -> None:
        self.parser, self.engine, self.wanted = parser, engine, wanted
        self.begun = time.monotonic()
        self.tried = 0
        self.kinds = {Sniffed: 0, NeedMore: 0, Refused: 0}

    def take(self, data: bytes) -> None:
        if self.tried == self.wanted:
            return
        self.kinds[type(check(data))] += 1
        self.tried += 1
        if self.tried % LINE_EVERY == 0 or self.tried == self.wanted:
            kinds = ", ".join(f"{count} {kind.__name__}" for kind, count in self.kinds.items())
            took = time.monotonic() - self.begun
            print(
                f"{self.parser} ({self.engine}): {self.tried} mutants, 0 differences; {kinds}; {took:.0f} s",
                flush=True,
            )


def seeds(parser: str) -> list[bytes]:
    if parser == "http":
        return head_mutants.SEEDS
    return [records(message, size) for message in mutants.seeds() for size in (16384, 100, 7)]


def run_own(parser: str, count: int, seed: int, _directory: Path) -> None:
    tally = Tally(parser, "own mutants", count)
    for data in (head_mutants if parser == "http" else mutants).mutants(count, seed):
        tally.take(data)


def run_atheris(parser: str, count: int, seed: int, directory: Path) -> NoReturn:
    """``directory`` is for libFuzzer's files; it ends the process, so whoever started us takes it away."""
    import atheris

    for module in (fast_tls, fast_http):
        for function in vars(module).values():
            if isfunction(function) and function.__module__ == module.__name__:
                atheris.instrument_func(function)
    corpus, words = directory / "corpus", directory / "words"
    corpus.mkdir()
    for number, data in enumerate(seeds(parser)):
        (corpus / f"{number:04}").write_bytes(data)
    words.write_text("".join(map(_quoted, WORDS)))
    limits = [f"-runs={count}", f"-seed={seed}", f"-max_len={MOST_BYTES}", f"-dict={words}"]
    arguments = [sys.argv[0], *limits, f"-artifact_prefix={directory}/", "-verbosity=0", str(corpus)]
    made = (head_mutants if parser == "http" else mutants).mutants(sys.maxsize, seed)
    led = (_head if parser == "http" else _hello)(lambda data, most: atheris.Mutate(data, most))

    def mutated(data: bytes, most: int, number: int) -> bytes:
        """Every third is one of ours: libFuzzer alone seldom leaves a name behind."""
        return led(bytes(data), most, random.Random(number)) if number % 3 else next(made)[:most]

    atheris.Setup(arguments, Tally(parser, "atheris", count).take, custom_mutator=mutated)
    atheris.Fuzz()
    raise AssertionError("libFuzzer ends the process")


def _quoted(word: bytes) -> str:
    return '"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n'


Mutate = Callable[[bytes, int], bytes]
"""``data`` changed by libFuzzer, to so many bytes at the most."""
Led = Callable[[bytes, int, random.Random], bytes]


def _head(mutate: Mutate) -> Led:
    """Every second time a line or a delimiter is changed, else any bytes."""

    def mutated(data: bytes, most: int, chance: random.Random) -> bytes:
        return (
            bytes(mutate(data, most))
            if chance.random() < 0.5
            else head_mutants.overwritten(data, chance)[:most]
        )

    return mutated


def _hello(mutate: Mutate) -> Led:
    """Mostly the message is mutated and put into records anew, else the bytes as they are."""

    def mutated(data: bytes, most: int, chance: random.Random) -> bytes:
        parts = unrecord(data)
        if parts is None or len(parts[0]) < 8 or chance.random() < 0.2:
            return b"\x16" + bytes(mutate(data, most))[1:]
        message = bytearray(mutate(parts[0], most - 200))
        if len(message) > 4 and chance.random() < 0.9:
            message[:4] = b"\1" + (len(message) - 4).to_bytes(3, "big")
        made = records(bytes(message), [chance.choice((1, 5, 60, 16384)) for _ in range(3)] + [16384])
        return (made + parts[1])[:most]

    return mutated


def main() -> int:
    parser = argparse.ArgumentParser(description="fast parsers against plain ones")
    parser.add_argument("mutants", nargs="?", type=int, default=MUTANTS, help="over both parsers")
    parser.add_argument("--seed", type=int, default=random.randrange(1, 1 << 31))
    parser.add_argument("--engine", choices=("atheris", "own"), default="atheris")
    parser.add_argument("--parser", choices=PARSERS, help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.parser is not None:
        run = run_atheris if asked.engine == "atheris" else run_own
        run(asked.parser, asked.mutants, asked.seed, asked.directory)
        return 0
    return each_in_a_process(asked.mutants, asked.engine, asked.seed)


def each_in_a_process(count: int, engine: str, seed: int) -> int:
    print(f"fuzz: engine {engine}, seed {seed}", flush=True)
    begun = time.monotonic()
    half = count // 2
    for parser, share in (("tls", count - half), ("http", half)):
        with tempfile.TemporaryDirectory() as directory:
            how = [
                "--parser",
                parser,
                "--engine",
                engine,
                "--seed",
                str(seed),
                "--directory",
                directory,
                str(share),
            ]
            done = subprocess.run([sys.executable, "-m", "tests.gateway.sniff.fuzz", *how], check=False)
        if done.returncode:
            print(f"fuzz: {parser} differs, or failed; seed {seed}", flush=True)
            return 1
    took = time.monotonic() - begun
    print(
        f"fuzz: engine {engine}: {count} mutants over both parsers, 0 differences, 0 exceptions, {took:.0f} s"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
