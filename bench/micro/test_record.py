"""What a record costs: on the worker's loop (made, put into the pipe, its slot noted and cleared), and in the keeper (taken, checked, written).

Run with ``pytest bench/micro/test_record.py --benchmark-only``. Every round does ``EACH``; ``per_call_us`` in the extra information is the
median for one.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from audit.feed import Feed, Intake, open_pipe
from audit.ledger import Ledger
from audit.log import AuditLog
from audit.record import Record
from audit.settings import AuditSettings, Fsync
from gateway.attempt import opened
from gateway.decide import Decision, Target, Verdict, refuse
from gateway.dns.budget import Bucket
from gateway.flow import Flow
from gateway.journal import Journal
from gateway.net.clock import now
from gateway.reasons import Reason
from gateway.sniff.result import Sniffed
from gateway.wording import decision_record
from tests.gateway.deciding import flow_to

EACH = 500
"""At two records each they fit into the pipe, which is emptied between rounds."""
NO_END = 1e9
NAME = "api.openai.com"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Its two ends."""
    ends = open_pipe()
    yield ends
    for end in ends:
        os.close(end)


def _flows() -> list[Flow]:
    template = flow_to("203.0.113.9")
    return [
        Flow(f"5f2c1a-{number:x}", template.sandbox, template.source, template.dest) for number in range(EACH)
    ]


def _allowed(flow: Flow) -> Decision:
    rule = "allow_out[0] api.openai.com"
    return Decision(Verdict.ALLOW, 3, rule, Reason.ALLOWED_NAME, Target.BOUND, NAME, (flow.dest.ip,))


def _measure(
    benchmark: BenchmarkFixture, act: Callable[[], None], pipe: tuple[int, int], records: int
) -> None:
    def emptied() -> None:
        try:
            while os.read(pipe[0], 1 << 20):
                pass
        except BlockingIOError:
            return

    benchmark.pedantic(act, setup=emptied, rounds=30, warmup_rounds=2)  # type: ignore[no-untyped-call]  # has no types
    if benchmark.stats is not None:
        benchmark.extra_info["per_call_us"] = round(benchmark.stats.stats.median / records * 1e6, 3)


def test_an_allowed_connection_from_note_to_end(benchmark: BenchmarkFixture, pipe: tuple[int, int]) -> None:
    """Two records, all that the journal does for them; the figure is for one. The decision is one object, as ``gateway.rulings`` has it."""
    journal, flows = Journal(Feed(pipe[1]), Ledger()), _flows()
    made = _allowed(flows[0])
    _measure(benchmark, lambda: _carry(journal, flows, made), pipe, 2 * EACH)


def _carry(journal: Journal, flows: list[Flow], made: Decision) -> None:
    seen = Sniffed("tls", NAME)
    for flow in flows:
        attempt = opened(journal, flow)
        assert attempt is not None
        with attempt:
            attempt.offered(made, seen)
            attempt.up, attempt.down = 517, 1024
    assert not journal.feed.waiting


def test_a_blocked_connection(benchmark: BenchmarkFixture, pipe: tuple[int, int]) -> None:
    """A line each, which a flood of them would not be."""
    journal = Journal(Feed(pipe[1]), Ledger())
    journal._refusals = Bucket(NO_END, NO_END, now())
    flows, seen = _flows(), Sniffed("tls", "evil.example")
    refused = refuse(Reason.NO_ALLOW_ENTRY)._replace(host="evil.example")

    def act() -> None:
        for flow in flows:
            attempt = opened(journal, flow)
            assert attempt is not None
            with attempt:
                attempt.refused(refused, seen)

    _measure(benchmark, act, pipe, EACH)


def test_the_record_as_a_mapping(benchmark: BenchmarkFixture, pipe: tuple[int, int]) -> None:
    """Of which the rest is the line, the pipe and the ledger."""
    flows, seen = _flows(), Sniffed("tls", NAME)
    decisions = [_allowed(flow) for flow in flows]

    def act() -> None:
        for flow, made in zip(flows, decisions, strict=True):
            decision_record(flow, made, seen)

    _measure(benchmark, act, pipe, EACH)


def test_a_record_into_the_pipe(benchmark: BenchmarkFixture, pipe: tuple[int, int]) -> None:
    feed = Feed(pipe[1])
    record = _record()

    def act() -> None:
        for _ in range(EACH):
            feed.offer(record)

    _measure(benchmark, act, pipe, EACH)


@pytest.mark.parametrize("fsync", ["none", "always"])
def test_the_keeper_takes_and_writes(
    benchmark: BenchmarkFixture, pipe: tuple[int, int], tmp_path: Path, fsync: str
) -> None:
    """A pipe's worth at once, as under load; ``always`` syncs once for all of it."""
    journal, flows = Journal(Feed(pipe[1]), Ledger()), _flows()
    made = _allowed(flows[0])
    with AuditLog(tmp_path, settings=AuditSettings(fsync=Fsync(fsync))) as log:
        intake = Intake(pipe[0], log, sandbox="agent-1")

        def sent() -> None:
            _carry(journal, flows[: EACH // 2], made)

        def act() -> None:
            assert intake.drain() == EACH
            log.flush()

        benchmark.pedantic(act, setup=sent, rounds=30, warmup_rounds=2)  # type: ignore[no-untyped-call]  # has no types
    if benchmark.stats is not None:
        benchmark.extra_info["per_call_us"] = round(benchmark.stats.stats.median / EACH * 1e6, 3)


def _record() -> Record:
    flow = flow_to("203.0.113.9")
    return decision_record(flow, _allowed(flow), Sniffed("tls", NAME))
