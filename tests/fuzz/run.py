"""One parser, one engine, a number of mutants: ``python -m tests.fuzz.run tls atheris 500000 SEED DIRECTORY``.

Prints a line every few seconds; the last one is a JSON object with the counts. A finding ends the run with an exception.
"""

import json
import random
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from types import FunctionType

from gateway.sniff import http, tls
from matcher import hostname
from tests.fuzz.compare import KINDS, check
from tests.fuzz.inputs import LARGEST, USUAL_SIZE, endless, mutate, seeds, sized
from tests.gateway.sniff import cursor_http

PROGRESS_S = 5.0


class Run:
    """Counts what is checked."""

    def __init__(self, kind: str, runs: int) -> None:
        self.kind = kind
        self.runs = runs
        self.seen: Counter[str] = Counter()
        self.done = 0
        self.slowest_ns = 0
        self._began = self._said = monotonic()
        self._shape, self._read = KINDS[kind]

    def one(self, data: bytes) -> None:
        if self.done == self.runs:
            return  # libFuzzer reads all its seeds, whatever the number of runs
        answer, took = check(self._shape(data), self._read)
        if took > self.slowest_ns:  # measured anew: the first time something else may have run meanwhile
            took = min(took, *(check(self._shape(data), self._read)[1] for _ in range(3)))
            self.slowest_ns = max(took, self.slowest_ns)
        self.seen[type(answer).__name__] += 1
        self.done += 1
        if self.done == self.runs:
            print(json.dumps(self.counts()), flush=True)
        elif monotonic() - self._said > PROGRESS_S:
            self._said = monotonic()
            rate = self.done / (self._said - self._began)
            print(f"fuzz: {self.kind} {self.done:,} of {self.runs:,}, {rate:,.0f}/s", flush=True)

    def counts(self) -> dict[str, object]:
        return {
            "kind": self.kind,
            "mutants": self.done,
            "names": self.seen["Sniffed"],
            "refused": self.seen["Refused"],
            "undecided": self.seen["NeedMore"],
            "slowest_us": round(self.slowest_ns / 1000),
            "seconds": round(monotonic() - self._began),
        }


def loop(run: Run, seed: int, _: Path) -> None:
    """Mutants by chance alone."""
    mutants = endless(run.kind, random.Random(seed))
    while run.done < run.runs:
        run.one(next(mutants))


def atheris(run: Run, seed: int, directory: Path) -> None:
    """libFuzzer keeps what reaches new branches and changes that further; half of the changes know the format.

    The plain reading of HTTP is watched too, for its branches are patterns in the fast one.
    """
    import atheris as engine

    for module in (http, tls, hostname, cursor_http):
        for function in vars(module).values():
            if isinstance(function, FunctionType) and function.__module__ == module.__name__:
                engine.instrument_func(function)

    def mutated(data: bytes, most: int, number: int) -> bytes:
        chance = random.Random(number)
        if chance.random() < 0.5:
            return bytes(engine.Mutate(sized(data, chance)[:most], most))
        return mutate(run.kind, data, chance)[:most]

    usual = [data for data in seeds(run.kind) if len(data) <= USUAL_SIZE]
    for number, data in enumerate(usual):
        (directory / f"seed-{number}").write_bytes(data)
    options = [
        f"-runs={run.runs}",
        f"-seed={seed}",
        f"-max_len={LARGEST}",
        f"-artifact_prefix={directory}/",
        "-mutate_depth=2",  # more of them remain messages of which only a little is wrong
    ]
    engine.Setup(["fuzz", *options, str(directory)], run.one, custom_mutator=mutated)
    engine.Fuzz()


ENGINES: dict[str, Callable[[Run, int, Path], None]] = {"loop": loop, "atheris": atheris}


def main(kind: str, engine: str, runs: str, seed: str, directory: str) -> None:
    ENGINES[engine](Run(kind, int(runs)), int(seed), Path(directory))


if __name__ == "__main__":
    main(*sys.argv[1:])
