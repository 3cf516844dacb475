"""What the first bytes cost: hellos and heads as clients send them, dripped byte by byte, and the dearest that an attacker can send.

Run with ``pytest bench/micro/test_sniff.py --benchmark-enable --benchmark-only``; docs/performance.md holds the budget. Without
that every case runs once, as a check that it still does what it measures.
"""

import random
from collections.abc import Callable

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from gateway.sniff import NeedMore, Refused, Sniffed, sniff
from tests.gateway.sniff.heads import GET, HOST, filled, head
from tests.gateway.sniff.hellos import (
    KEY_SHARE,
    Extension,
    alpn,
    hello,
    padding,
    records,
    server_name,
    usual,
    vector,
)

HYBRID_SHARE = vector(2, b"\x11\xec" + vector(2, bytes(1216)) + b"\0\x1d" + vector(2, bytes(32)))
NAME = server_name(b"api.openai.com")
POST_QUANTUM = hello(NAME, alpn(b"h2", b"http/1.1"), Extension(KEY_SHARE, HYBRID_SHARE), padding(420))
LIMIT = 65536
SHORT = [random.Random(7).choice((1, 2, 3)) for _ in range(20000)]

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

DEAREST = {
    "hello_517_in_records_of_1": records(usual(least=512), 1),
    "hello_post_quantum_in_records_of_1": records(POST_QUANTUM, 1),
    "hello_64_kib_in_records_of_1": records(usual(least=LIMIT // 6), 1),
    "hello_64_kib_in_records_of_2": records(usual(least=LIMIT // 7 * 2), 2),
    "hello_64_kib_in_records_of_1_to_3": records(usual(least=18000), SHORT),
    "hello_64_kib_in_records_of_1_unfinished": records(usual(least=32768), 1)[:LIMIT],
    "hello_one_large_record_and_then_records_of_1": records(usual(least=20000), [11000, *[1] * 9000]),
    "hello_32_kib": records(usual(least=32768)),
    "hello_8000_extensions": records(hello(NAME, *(Extension(0x4000 + kind) for kind in range(8000)))),
    "hello_512_extensions": records(hello(NAME, *(Extension(0x4000 + kind) for kind in range(511)))),
    "hello_16_kib_of_alpn": records(hello(NAME, alpn(*[b"a"] * 8000))),
    "hello_1_kib_of_alpn": records(hello(NAME, alpn(*[b"a"] * 512))),
    "hello_name_of_16_kib": records(hello(server_name(b"a." * 8000))),
    "head_8000_fields": head(GET, HOST, *[b"a:"] * 8000),
    "head_8000_fields_unfinished": head(GET, HOST, *[b"a:"] * 8000)[:-2],
    "head_8000_fields_of_h": head(GET, HOST, *[b"H:"] * 8000),
    "head_fields_nearly_host": head(GET, HOST, *[b"Hos:a"] * 4500),
    "head_fields_nearly_transfer_encoding": head(GET, HOST, *[b"Transfer-Encodin:a"] * 1600),
    "head_one_field_of_32_kib": head(GET, HOST, b"X: " + b"x" * 32700),
    "head_target_of_32_kib": head(b"GET /" + b"a" * 32700 + b" HTTP/1.1", HOST),
    "head_spaces_before_a_bad_byte": head(GET, b"Host:" + b" " * 32000 + b"\1"),
    "head_spaces_before_host": head(GET, b"Host:" + b" " * 32000 + b"a.test"),
    "head_host_of_32_kib": head(GET, b"Host: " + b"a." * 16000),
    "head_no_end": b"GET /" + b"a" * 70000,
    "head_method_of_64_kib": b"G" * 65536,
    "nothing_known": b"\xff" * 65536,
}

DRIPPED = {
    "hello_517": OFTEN["hello_517"],
    "hello_517_in_records_of_1": DEAREST["hello_517_in_records_of_1"],
    "head_of_curl": OFTEN["head_of_curl"],
    "head_16_kib": head(GET, HOST, *[b"X-Name: " + b"v" * 40] * 320)[: 16384 - 4] + b"\r\n\r\n",
    "head_8_kib_of_target_then_fields": head(b"GET /" + b"a" * 8192 + b" HTTP/1.1", *[b"a:"] * 2000, HOST),
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


@pytest.mark.parametrize("case", [*OFTEN, "hello_64_kib_in_records_of_1"])
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
