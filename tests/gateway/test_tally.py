"""The words that a worker counts in, as another process reads them."""

import os
import signal

import pytest

from audit.record import EndedBy, Event, Phase, decision, lost, query
from gateway.reasons import ALLOWING, Reason
from gateway.tally import ACCEPTED, BOUNDS_US, CARRIED, MOST, WAITING, Decided, Tally

AT_NS = 1_795_415_702_123_456_789


def told(tally: Tally) -> list[Decided]:
    """What was decided at all."""
    return [one for one in tally.read().decided if one.times]


def kernel(reason: Reason, count: int = 1) -> dict[str, object]:
    record = decision(
        AT_NS,
        Event.ALLOWED if reason in ALLOWING else Event.BLOCKED,
        sandbox="agent-1",
        flow="1-1",
        source=("10.0.0.2", 1),
        dest=("203.0.113.9", 53),
        rule="r",
        reason=str(reason),
        layer="kernel",
    )
    return record | ({"count": count} if count > 1 else {})


def test_it_begins_with_nothing() -> None:
    count = Tally().read()
    assert (count.accepted, count.carried, count.waiting, count.bytes_up, count.bytes_down) == (0,) * 5
    assert not any(one.times for one in count.decided) and not any(count.closed.values())
    assert (count.decision.total, count.connect.total, count.connect.sum_s) == (0, 0, 0)


def test_every_word_is_another() -> None:
    """Each thing that can be counted changes what it is called by, and nothing else."""
    for layer in ("proxy", "kernel", "dns"):
        for reason in Reason:
            tally = Tally()
            if layer == "proxy":
                tally.refused(reason)
            else:
                tally.record(kernel(reason) | {"layer": layer})
            assert told(tally) == [(layer, reason in ALLOWING, reason, 1)]
            count = tally.read()
            assert not any(count.closed.values()) and count.decision.total == count.bytes_down == 0
    for ended_by in EndedBy:
        for phase in Phase:
            tally = Tally()
            tally.closed(ended_by, phase, 7, 11)
            count = tally.read()
            assert {end for end, times in count.closed.items() if times} == {(ended_by, phase)}
            assert (count.bytes_up, count.bytes_down) == (7, 11)
            assert not told(tally) and count.decision.total == count.connect.total == 0


@pytest.mark.parametrize("which", ["decision", "connect"])
def test_a_bucket_holds_its_own_bound(which: str) -> None:
    """le, as Prometheus has it: the sum of all that took so long, or less."""
    tally = Tally()
    for bound in (*BOUNDS_US, 10 * BOUNDS_US[-1]):
        for took_ns in (bound * 1000, bound * 1000 + 1):
            if which == "decision":
                tally.decided(Reason.ALLOWED_NAME, took_ns)
            else:
                tally.connected(took_ns)
    count = tally.read()
    said = getattr(count, which)
    assert said.at_most == tuple(range(1, 2 * len(BOUNDS_US), 2))
    assert said.total == 2 * len(BOUNDS_US) + 2
    assert said.sum_s == pytest.approx(2 * (sum(BOUNDS_US) + 10 * BOUNDS_US[-1]) / 1e6)
    other = count.connect if which == "decision" else count.decision
    assert other.total == 0


def test_records_stand_for_as_many_as_they_say() -> None:
    tally = Tally()
    tally.record(kernel(Reason.FLOOD, 41))
    tally.record(kernel(Reason.FLOOD))
    tally.record(lost(AT_NS, 1000))
    tally.record(
        query(
            AT_NS,
            Event.DNS_BLOCKED,
            sandbox="agent-1",
            source=("10.0.0.2", 1),
            dest=("8.8.8.8", 53),
            proto="udp",
            domain="evil.example",
            domain_raw=b"",
            qtype="A",
            rule="r",
            reason=str(Reason.NO_ALLOW_ENTRY),
        )
        | {"count": 3}
    )
    assert told(tally) == [
        ("kernel", False, Reason.FLOOD, 42),
        ("dns", False, Reason.NO_ALLOW_ENTRY, 3),
    ]


def test_it_outlives_who_counted() -> None:
    """Counters go on; gauges are of the living."""
    tally = Tally()
    for _ in range(2):
        pid = os.fork()
        if pid == 0:
            try:
                tally.words[ACCEPTED] += 1
                tally.words[CARRIED] = tally.words[WAITING] = 5
                tally.decided(Reason.DEFAULT_ALLOW, 2000)
                os.kill(os.getpid(), signal.SIGKILL)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        assert (tally.read().carried, tally.read().waiting) == (5, 5)
        tally.bury()
        assert (tally.read().carried, tally.read().waiting) == (0, 0)
    assert tally.read().accepted == 2
    assert told(tally) == [("proxy", True, Reason.DEFAULT_ALLOW, 2)]
    assert tally.read().decision.total == 2


def test_what_a_dead_worker_scribbled_stops_nobody_from_counting() -> None:
    tally = Tally()
    for word in range(len(tally.words)):
        tally.words[word] = 2**64 - 1
    tally.bury()
    tally.refused(Reason.WORKER_DIED)
    tally.decided(Reason.ALLOWED_NAME, 10**9)
    tally.connected(10**9)
    tally.closed(EndedBy.CLIENT, Phase.RELAY, 1 << 40, 1 << 40)
    assert tally.read().decided[0].times == MOST
    assert (tally.read().carried, tally.read().waiting) == (0, 0)


def test_who_only_reads_writes_nothing() -> None:
    """A worker may be adding to the same words at that moment."""
    tally = Tally()
    tally.connected(5_000)
    tally.words = tally.words.toreadonly()
    assert tally.read().connect.total == 1
