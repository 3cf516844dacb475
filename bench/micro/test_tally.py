"""What metrics cost: on the worker's loop a connection, and in the supervisor a scrape.

Run with ``pytest bench/micro/test_tally.py --benchmark-only``.
"""

import time

from pytest_benchmark.fixture import BenchmarkFixture

from audit.record import EndedBy, Phase
from gateway.keeper import Audited
from gateway.metrics import Figures, text
from gateway.reasons import Reason
from gateway.tally import ACCEPTED, CARRIED, Tally

EACH = 1000


def test_an_allowed_connection(benchmark: BenchmarkFixture) -> None:
    """Everything that is counted for one, from accept to end, the clock's readings included; the figure is for one."""
    tally = Tally()

    def act() -> None:
        for _ in range(EACH):
            accepted_ns = time.monotonic_ns()
            tally.words[ACCEPTED] += 1
            tally.decided(Reason.ALLOWED_NAME, time.monotonic_ns() - accepted_ns)
            tally.words[CARRIED] = 1
            begun_ns = time.monotonic_ns()
            tally.connected(time.monotonic_ns() - begun_ns)
            tally.closed(EndedBy.UPSTREAM, Phase.RELAY, 700, 1400)
            tally.words[CARRIED] = 0

    benchmark.pedantic(act, rounds=30, warmup_rounds=2)  # type: ignore[no-untyped-call]  # has no types
    if benchmark.stats is not None:
        benchmark.extra_info["per_call_us"] = round(benchmark.stats.stats.median / EACH * 1e6, 3)


def test_a_scrape(benchmark: BenchmarkFixture) -> None:
    """Of a gateway that has decided for every reason there is."""
    tally = Tally()
    for reason in Reason:
        tally.refused(reason)
    for ended_by in EndedBy:
        for phase in Phase:
            tally.closed(ended_by, phase, 1, 1)
    benchmark(lambda: text(Figures("agent-1", tally.read(), 0, Audited(1, 0, 0, 0, True), 0, 1)))
