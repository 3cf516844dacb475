"""What a decision costs: classify, CIDR lookup from 10 to 10,000 entries, settle, decide and bind.

Run with ``pytest bench/micro/test_decide.py --benchmark-only``. Every round asks ``ASKED`` times;
``per_call_us`` in the extra information is the median for one. Without ``--benchmark-only`` every case runs
once, as a check that it still does what it measures.
"""

import random
from collections.abc import Callable
from functools import cache
from ipaddress import IPv4Address, IPv6Address

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from gateway import ALL_TRAFFIC, NetworkPolicy
from gateway.addresses import classify
from gateway.decide import CompiledPolicy, bind, compile_policy, decide, settle
from gateway.flow import Endpoint, Flow, IPAddress
from gateway.sniff.result import Sniffed

ASKED = 500
SIZES = [10, 100, 1_000, 10_000]
SOURCE = Endpoint(IPv4Address("10.0.0.2"), 41234)
SEEN = Sniffed("tls", "api.openai.com")


def _network(number: int, version: int) -> str:
    """Networks of 24 different lengths, with ports every third."""
    chance, length = random.Random(number), 9 + number % 24
    if version == 4:
        first = chance.randrange(20, 90) << 24 | chance.getrandbits(24)
        text = f"{IPv4Address(first >> (32 - length) << (32 - length))}/{length}"
        return f"{text}:443" if number % 3 == 0 else text
    first = 0x2A00 << 112 | chance.getrandbits(112)
    text = f"{IPv6Address(first >> (112 - length) << (112 - length))}/{16 + length}"
    return f"[{text}]:443" if number % 3 == 0 else text


@cache
def _policy(size: int, version: int) -> CompiledPolicy:
    entries = [_network(number, version) for number in range(size)]
    return compile_policy(NetworkPolicy([*entries, "api.openai.com"], [ALL_TRAFFIC]))


@cache
def _flows(version: int, kind: str) -> list[Flow]:
    chance = random.Random(7)
    flows = []
    for _ in range(ASKED):
        if version == 4:
            head = chance.randrange(20, 90) if kind == "within" else chance.randrange(200, 220)
            ip: IPAddress = IPv4Address(head << 24 | chance.getrandbits(24))
        else:
            head = 0x2A00 if kind == "within" else 0x2606
            ip = IPv6Address(head << 112 | chance.getrandbits(112))
        flows.append(Flow("5f2c-18f3", "agent-1", SOURCE, Endpoint(ip, 443)))
    return flows


def _measure(benchmark: BenchmarkFixture, ask: Callable[[Flow], object], flows: list[Flow]) -> None:
    def asked() -> None:
        for flow in flows:
            ask(flow)

    benchmark(asked)
    if benchmark.stats is not None:
        benchmark.extra_info["per_call_us"] = round(benchmark.stats.stats.median / len(flows) * 1e6, 3)


@pytest.mark.parametrize("version", [4, 6])
def test_classify(benchmark: BenchmarkFixture, version: int) -> None:
    _measure(benchmark, lambda flow: classify(flow.dest.ip), _flows(version, "outside"))


@pytest.mark.parametrize("kind", ["within", "outside"])
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("size", SIZES)
def test_settle(benchmark: BenchmarkFixture, size: int, version: int, kind: str) -> None:
    policy = _policy(size, version)
    _measure(benchmark, lambda flow: settle(policy, flow), _flows(version, kind))


@pytest.mark.parametrize("host", ["api.openai.com", "evil.example"])
def test_decide(benchmark: BenchmarkFixture, host: str) -> None:
    policy = compile_policy(NetworkPolicy(["api.openai.com", "*.anthropic.com"], [ALL_TRAFFIC]))
    seen = Sniffed("tls", host)
    _measure(benchmark, lambda flow: decide(policy, flow, seen), _flows(4, "outside"))


@pytest.mark.parametrize("count", [1, 4])
def test_bind(benchmark: BenchmarkFixture, count: int) -> None:
    policy = compile_policy(NetworkPolicy(["api.openai.com"], [ALL_TRAFFIC]))
    flows = _flows(4, "outside")
    decided = decide(policy, flows[0], SEEN)
    answers = [flow.dest.ip for flow in flows[:count]]
    assert bind(policy, decided, flows[0], answers).addresses
    _measure(benchmark, lambda flow: bind(policy, decided, flow, answers), flows)


@pytest.mark.parametrize("size", SIZES)
def test_compile(benchmark: BenchmarkFixture, size: int) -> None:
    policy = NetworkPolicy([_network(number, 4) for number in range(size)], [ALL_TRAFFIC])
    benchmark(compile_policy, policy)
