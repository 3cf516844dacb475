"""What the first bytes cost: hellos and heads as clients send them, dripped byte by byte, and the dearest that an attacker can send.

Run with ``pytest bench/micro/test_sniff.py --benchmark-enable --benchmark-only``; docs/performance.md holds the budget. Without
that every case runs once, as a check that it still does what it measures.
"""

from collections.abc import Callable

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from gateway.sniff import NeedMore, Refused, Sniffed, sniff
from tests.gateway.sniff.dearest import DEAREST, POST_QUANTUM
from tests.gateway.sniff.heads import GET, HOST, filled, head
from tests.gateway.sniff.hellos import records, usual

LIMIT = 65536

OFTEN = {
    "hello_517": records(usual(least=512)),
    "hello_post_quantum": records(POST_QUANTUM),
    "hello_post_quantum_three_records": records(POST_QUANTUM, 700),
    "head_of_curl": head(GET, b"Host: api.openai.com", b"User-Agent: curl/8.5.0", b"Accept: */*"),
    "head_500": filled(
        500, GET, b"Host: api.openai.com", b"User-Agent: python-requests/2.32", b"Accept: */*"
    ),
    "head_with_cookie": head(GET, HOST, b"Cookie: " + b"c" * 900, b"Accept: */*", b"Accept-Language: en"),
}

DRIPPED = {
    "hello_517": OFTEN["hello_517"],
    "hello_517_in_records_of_1": DEAREST["hello_517_in_records_of_1"],
    "head_of_curl": OFTEN["head_of_curl"],
    "head_16_kib": head(GET, HOST, *[b"X-Name: " + b"v" * 40] * 320)[: 16384 - 4] + b"\r\n\r\n",
    "head_8_kib_of_target_then_480_fields": head(b"GET /" + b"a" * 8192 + b" HTTP/1.1", *[b"a:"] * 480, HOST),
    "head_16_kib_of_target": b"GET /" + b"a" * 16379,
}


@pytest.mark.parametrize("case", OFTEN)
def test_whole(benchmark: BenchmarkFixture, case: str) -> None:
    assert isinstance(benchmark(sniff, OFTEN[case]), Sniffed)


@pytest.mark.parametrize("case", DEAREST)
def test_dearest(benchmark: BenchmarkFixture, case: str) -> None:
    """Budget: 1 ms each."""
    data = DEAREST[case]
    seen = benchmark(sniff, data)
    assert isinstance(seen, NeedMore | Refused | Sniffed)
    assert not isinstance(seen, NeedMore) or len(data) + seen.at_least <= LIMIT


@pytest.mark.parametrize("case", DRIPPED)
def test_dripped(benchmark: BenchmarkFixture, case: str) -> None:
    """A look at every byte: dearer than the session, which sleeps for ``at_least`` bytes."""
    benchmark.pedantic(_drip(DRIPPED[case]), rounds=5, warmup_rounds=1)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("case", [*OFTEN, "hello_in_2048_records_of_1", "hello_with_all_of_it"])
def test_dripped_to_a_reader_that_sleeps(benchmark: BenchmarkFixture, case: str) -> None:
    """Every look of the session's, where one byte comes at a time and it sleeps as long as it is told."""
    data = (OFTEN | DEAREST)[case]
    benchmark.pedantic(_sleep(data), rounds=20, warmup_rounds=1)  # type: ignore[no-untyped-call]


def _drip(data: bytes) -> Callable[[], None]:
    def dripped() -> None:
        buffer = bytearray()
        for scanned, byte in enumerate(data):
            buffer.append(byte)
            sniff(buffer, scanned=scanned)

    return dripped


def _sleep(data: bytes) -> Callable[[], None]:
    def slept() -> None:
        scanned = 0
        seen = sniff(data[:1])
        end = 1
        while isinstance(seen, NeedMore):
            scanned, end = end, end + seen.at_least
            seen = sniff(data[:end], scanned=scanned)
        assert isinstance(seen, Sniffed) and scanned < seen.consumed == len(data)

    return slept
