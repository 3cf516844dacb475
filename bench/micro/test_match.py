"""What a name costs: canonical, tables of 10 to 1,000,000 entries, 200 regexes with and without the cache.

Run with ``pytest bench/micro/test_match.py --benchmark-only``; docs/performance.md holds the budget. Without
``--benchmark-only`` every case runs once, as a check that it still does what it measures.
"""

import random
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from matcher import HostTable, canonical, compile_table

T = TypeVar("T")

SIZES = [10, 1_000, 100_000, 1_000_000]
ASKED = 500
"""Names asked a round, so that a large table is touched in many places and not in one warm line."""

LONGEST = ("a" * 61 + ".") * 3 + "a" * 55 + ".example.com"
NEARLY = LONGEST[:-1] + "n"
MANY_LABELS = "a." * 126 + "b"


def _entry(number: int, size: int) -> str:
    if number % 3:
        return f"host{number}.svc{number * 7919 % size}.example.com"
    return f"*.w{number}.example.org:443" if number % 2 else f"*.w{number}.example.org"


@cache
def _table(size: int) -> HostTable:
    """A third of it wildcards, a sixth with ports."""
    return compile_table(_entry(number, size) for number in range(size))


@cache
def _regex_table() -> HostTable:
    return compile_table(rf"~(?:[a-z0-9-]+\.)*svc{number}\.example\.(?:com|net)" for number in range(200))


def _hosts(size: int, kind: str) -> list[str]:
    numbers = random.Random(7).sample(range(size), min(size, 4 * ASKED))
    if kind == "exact":
        found = [_entry(number, size) for number in numbers if number % 3]
    elif kind == "wildcard":
        found = [f"api.w{number}.example.org" for number in numbers if number % 3 == 0]
    else:
        found = [f"api.openai{number}.com" for number in numbers]
    return (found * ASKED)[:ASKED]


def _each(ask: Callable[[str], object], names: list[str]) -> Callable[[], None]:
    def asked() -> None:
        for name in names:
            ask(name)

    return asked


def _run(benchmark: BenchmarkFixture, target: Callable[..., T], **how: Any) -> T:
    result: T = benchmark.pedantic(target, **how)  # type: ignore[no-untyped-call]
    return result


def _measure(benchmark: BenchmarkFixture, ask: Callable[[str], object], names: list[str]) -> None:
    """One round asks every name once; ``us_per_name`` in the extra info is the median over rounds."""
    _run(benchmark, _each(ask, names), rounds=60, warmup_rounds=3)
    if benchmark.stats is not None:
        benchmark.extra_info["us_per_name"] = round(benchmark.stats.stats.median * 1e6 / len(names), 3)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["exact", "wildcard", "none"])
@pytest.mark.parametrize("size", SIZES)
def test_lookup(benchmark: BenchmarkFixture, size: int, kind: str) -> None:
    table = _table(size)
    names = _hosts(size, kind)
    _measure(benchmark, lambda name: table.match(name, 443), names)
    assert all((table.match(name, 443) is None) == (kind == "none") for name in names)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("depth", [3, 100])
def test_lookup_of_127_labels(benchmark: BenchmarkFixture, depth: int) -> None:
    """The dearest name an attacker can send; ``depth`` is that of the operator's deepest wildcard."""
    table = compile_table(["*." + ".".join("b" * depth), *(_entry(number, 1000) for number in range(1000))])
    _measure(benchmark, lambda name: table.match(name, 443), [MANY_LABELS] * ASKED)
    assert table.match(MANY_LABELS) is None


def test_200_regexes_cached(benchmark: BenchmarkFixture) -> None:
    table = _regex_table()
    names = [f"api.svc{number % 400}.example.com" for number in range(ASKED)]
    _measure(benchmark, lambda name: table.match(name, 443), names)
    assert sum(table.match(name, 443) is not None for name in names) == 300


def test_200_regexes_uncached(benchmark: BenchmarkFixture) -> None:
    """Every name is new to the verdict cache; the automaton of the set has seen its letters."""
    table = _regex_table()
    numbers = iter(range(10**9))
    _measure(benchmark, lambda _: table.match(f"h{next(numbers)}.svc7.example.com", 443), [""] * ASKED)
    assert table.match("h.svc7.example.com", 443) is not None


@pytest.mark.parametrize("host", [LONGEST, NEARLY, MANY_LABELS], ids=["longest", "nearly", "many_labels"])
def test_regex_that_backtracks_elsewhere(benchmark: BenchmarkFixture, host: str) -> None:
    """Budget: 1 ms. Every round is a table that has never seen a name: no verdict, no automaton."""

    def fresh() -> tuple[tuple[HostTable, str], dict[str, object]]:
        return (compile_table([r"~(?:[a-z0-9-]+\.?)+\.example\.com"]), host), {}

    matched = _run(benchmark, HostTable.match, setup=fresh, rounds=200)
    assert (matched is not None) == host.endswith(".example.com")


@pytest.mark.parametrize(
    "raw", [b"api.openai.com", "API.OpenAI.com.", LONGEST, MANY_LABELS, b"\xff" * 65536], ids=range(5)
)
def test_canonical(benchmark: BenchmarkFixture, raw: bytes | str) -> None:
    benchmark(canonical, raw)


@pytest.mark.timeout(120)
def test_compile_100_000_entries(benchmark: BenchmarkFixture) -> None:
    entries = [_entry(number, 100_000) for number in range(100_000)]
    assert len(_run(benchmark, compile_table, args=(entries,), rounds=3)) == 100_000
