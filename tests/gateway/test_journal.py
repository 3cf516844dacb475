"""Exactly one decision for each accepted connection, whatever becomes of it, of the pipe, and of the process."""

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from audit.claim import rebuilt
from audit.feed import MAX_BACKLOG, Feed, open_pipe
from audit.ledger import Ledger
from audit.record import EndedBy, Phase
from gateway import wording
from gateway.attempt import Attempt, opened
from gateway.decide import Decision, Target, Verdict, refuse
from gateway.dns.budget import Bucket, Budget
from gateway.dns.guard import Question
from gateway.dns.records import QueryRecords
from gateway.flow import Endpoint
from gateway.journal import FLUSH_S, Counting, Journal
from gateway.reasons import Reason
from gateway.sniff.result import Refused, Sniffed
from gateway.sums import APART, Sums
from tests.audit.example import blocked
from tests.gateway.deciding import NAME, flow_to, tls
from tests.gateway.dns.queries import NO
from tests.gateway.journal_desk import ALLOW, BLOCK, Desk, decide
from tests.gateway.net.carrying import carried
from tests.gateway.net.loop import WITHIN_S


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.close()


def _events(desk: Desk) -> list[str]:
    return [record["event"] for record in desk.records()]


# -- one decision


def test_an_allowed_connection_has_a_decision_and_an_end(desk: Desk) -> None:
    with desk.open() as attempt:
        assert decide(attempt, ALLOW, None)
        assert _events(desk) == ["egress_allowed"], "before anything is carried"
        attempt.phase = Phase.RELAY
        attempt.up, attempt.down = 517, 4096
        attempt.ended_by = EndedBy.CLIENT
        attempt.upstream_ip = flow_to("203.0.113.9").dest.ip
    decided, end = desk.records()
    assert (decided["event"], end["event"]) == ("egress_allowed", "egress_closed")
    assert decided["flow"] == end["flow"]
    assert (end["bytes_up"], end["bytes_down"], end["ended_by"], end["phase"]) == (
        517,
        4096,
        "client",
        "relay",
    )
    assert end["upstream_ip"] == "203.0.113.9"
    assert end["duration_ms"] >= 0
    assert desk.ledger.leftovers() == []


def test_a_blocked_connection_has_a_decision_and_no_end(desk: Desk) -> None:
    with desk.open() as attempt:
        assert decide(attempt, BLOCK, tls("evil.example"))
    assert _events(desk) == ["egress_blocked"]
    assert desk.ledger.leftovers() == []


def test_who_leaves_without_a_decision_is_blocked(desk: Desk) -> None:
    with desk.open():
        pass
    (record,) = desk.records()
    assert (record["event"], record["rule"], record["reason"]) == (
        "egress_blocked",
        "limit",
        "internal_error",
    )


@pytest.mark.parametrize(
    ("error", "reason", "ended_by"),
    [
        (ValueError, "internal_error", "error"),
        (asyncio.CancelledError, "shutdown", "shutdown"),
        (KeyboardInterrupt, "internal_error", "error"),
    ],
)
@pytest.mark.parametrize("stage", ["before", "allowed", "blocked"])
def test_an_exception_at_each_stage(
    desk: Desk, error: type[BaseException], reason: str, ended_by: str, stage: str
) -> None:
    with pytest.raises(error), desk.open() as attempt:
        if stage != "before":
            decide(attempt, ALLOW if stage == "allowed" else BLOCK, None)
        raise error
    records = desk.records()
    if stage == "allowed":
        assert [record["event"] for record in records] == ["egress_allowed", "egress_closed"]
        assert records[1]["ended_by"] == ended_by
    else:
        (record,) = records
        assert record["event"] == "egress_blocked"
        assert record["reason"] == (reason if stage == "before" else "no_allow_entry")
    assert desk.ledger.leftovers() == []


@pytest.mark.parametrize("waits", range(4))
async def test_a_task_that_is_cancelled_at_each_wait(desk: Desk, waits: int) -> None:
    async def session() -> None:
        with desk.open() as attempt:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            decide(attempt, ALLOW, None)
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    task = asyncio.get_running_loop().create_task(session())
    for _ in range(waits + 1):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(desk.decisions()) == 1
    assert _events(desk) == (["egress_blocked"] if waits < 2 else ["egress_allowed", "egress_closed"])


def test_a_decision_that_cannot_be_put_into_words_is_a_refusal(desk: Desk) -> None:
    broken = ALLOW._replace(addresses=None)  # type: ignore[arg-type]  # what no decision should be
    broken_seen = object()
    with pytest.raises(AttributeError), desk.open() as attempt:
        decide(attempt, broken, broken_seen)  # type: ignore[arg-type]
    (record,) = desk.records()
    assert (record["event"], record["reason"]) == ("egress_blocked", "internal_error")


def test_how_connections_ended_is_told_together_at_the_end_of_the_turn(desk: Desk) -> None:
    soon: list[Callable[[], object]] = []
    desk.journal = Journal(desk.journal.feed, desk.ledger, soon=soon.append)
    with desk.open() as one, desk.open() as two:
        assert decide(one, ALLOW, None) and decide(two, ALLOW, None)
    assert _events(desk) == ["egress_allowed"] * 2
    assert desk.ledger.missing() == 2, "who survives this process knows what is still to come"
    assert len(soon) == 1
    soon.pop()()
    assert _events(desk) == ["egress_allowed", "egress_allowed", "egress_closed", "egress_closed"]
    assert desk.ledger.missing() == 0
    with desk.open() as attempt:
        decide(attempt, ALLOW, None)
    assert len(soon) == 1, "the next turn has an end too"


def test_decisions_that_are_one_object_have_records_of_their_own(desk: Desk) -> None:
    """What is alike is written out once; who, where to, as what, and under which policy is not alike."""
    bound = ALLOW._replace(host=NAME)
    cases: list[tuple[str, Sniffed | Refused | None, int]] = [
        ("203.0.113.9", tls(NAME), 1),
        ("203.0.113.9", tls(NAME), 1),
        ("203.0.113.8", tls(NAME), 1),
        ("203.0.113.8", tls(NAME, ech=True), 1),
        ("203.0.113.8", Sniffed("http", NAME), 1),
        ("203.0.113.8", None, 1),
        ("203.0.113.8", Refused(Reason.BAD_NAME, "tls", b"a b"), 1),
        ("203.0.113.8", Refused(Reason.BAD_NAME, "tls", b"a c"), 1),
        ("203.0.113.8", tls(NAME), 2),
    ]
    for number, (ip, seen, generation) in enumerate(cases):
        desk.journal.generation = generation
        flow = desk.flow(number)._replace(dest=flow_to(ip).dest)
        with desk.open(flow) as attempt:
            assert decide(attempt, bound, seen)
    made, ends = desk.records()[::2], desk.records()[1::2]
    assert [
        (one["flow"], one["dest_ip"], one["app"], "ech" in one, one.get("domain_raw"), one["generation"])
        for one in made
    ] == [
        (
            f"ab-{number:x}",
            ip,
            seen and seen.app,
            isinstance(seen, Sniffed) and seen.ech,
            seen.raw.decode() if isinstance(seen, Refused) else None,
            generation,
        )
        for number, (ip, seen, generation) in enumerate(cases)
    ]
    assert [(one["flow"], one["dest_ip"], one["generation"]) for one in ends] == [
        (f"ab-{number:x}", ip, generation) for number, (ip, _, generation) in enumerate(cases)
    ]


# -- what the record says


@pytest.mark.parametrize(
    ("made", "seen", "expected"),
    [
        (
            BLOCK,
            tls("evil.example"),
            {"domain": "evil.example", "domain_source": "tls_sni", "app": "tls", "upstream_ip": None},
        ),
        (BLOCK, Sniffed("http", "evil.example"), {"domain_source": "http_host", "app": "http"}),
        (ALLOW, None, {"domain": None, "domain_source": None, "app": None, "upstream_ip": "203.0.113.9"}),
        (
            refuse(Reason.BAD_NAME, "unreadable"),
            Refused(Reason.BAD_NAME, "tls", b"a\x00b"),
            {
                "domain": None,
                "domain_source": None,
                "domain_raw": "a\\x00b",
                "app": "tls",
                "rule": "unreadable",
            },
        ),
        (
            Decision(
                Verdict.ALLOW,
                3,
                "r",
                Reason.ALLOWED_NAME,
                Target.BOUND,
                NAME,
                (flow_to("9.9.9.9").dest.ip,),
                True,
            ),
            tls(NAME, ech=True),
            {
                "upstream_ip": "9.9.9.9",
                "dest_ip": "203.0.113.9",
                "dest_mismatch": True,
                "ech": True,
                "domain": NAME,
            },
        ),
    ],
)
def test_what_was_seen_and_decided_is_on_record(
    desk: Desk, made: Decision, seen: Sniffed | Refused | None, expected: dict[str, Any]
) -> None:
    with desk.open() as attempt:
        decide(attempt, made, seen)
    record = desk.records()[0]
    assert expected.items() <= record.items()
    assert (record["src_ip"], record["src_port"], record["dest_port"], record["sandbox"]) == (
        "10.0.0.2",
        41234,
        443,
        "agent-1",
    )


# -- in brief


def _marks(desk: Desk) -> list[bytes]:
    """The marks of the lines that are in the pipe, whole records among them."""
    return [line[:3] for line in os.read(desk.read_end, 1 << 20).splitlines() if line]


def test_only_the_first_to_a_place_is_told_in_full(desk: Desk) -> None:
    for _ in range(3):
        with desk.open() as attempt:
            decide(attempt, ALLOW, None)
    assert _marks(desk) == [b"=0{", b"c0|", b"a0|", b"c0|", b"a0|", b"c0|"]


def test_a_form_that_found_no_room_is_told_with_the_next(desk: Desk) -> None:
    desk.shrink()
    desk.stuff()
    with desk.open() as attempt:
        assert not attempt.offered(ALLOW, None)
        desk.keep()
        assert attempt.offered(ALLOW, None)
    assert [record["event"] for record in desk.records()] == ["egress_allowed", "egress_closed"]


def test_an_end_whose_form_is_forgotten_is_told_in_full(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection may last longer than the keeper's memory."""
    monkeypatch.setattr(wording, "MOST", 4)
    with desk.open() as lasting:
        decide(lasting, ALLOW, None)
        for number in range(4):
            with desk.open() as attempt:
                decide(attempt, ALLOW._replace(entry=f"allow_out[{number}]"), None)
        assert _marks(desk)[-2:] == [b"=4{", b"c4|"]
    assert _events(desk) == ["egress_closed"]


def test_a_long_record_is_told_in_full_each_time(desk: Desk) -> None:
    long = ALLOW._replace(entry="x" * 700)
    for _ in range(2):
        with desk.open() as attempt:
            decide(attempt, long, None)
    assert _marks(desk) == [b'{"s'] * 4


def test_forms_of_two_policies_are_told_apart(desk: Desk) -> None:
    with desk.open() as first:
        decide(first, ALLOW, None)
        desk.journal.generation = 2
        with desk.open() as second:
            decide(second, ALLOW, None)
    assert [(record["event"], record["flow"], record["generation"]) for record in desk.records()] == [
        ("egress_allowed", "ab-1", 1),
        ("egress_allowed", "ab-2", 2),
        ("egress_closed", "ab-2", 2),
        ("egress_closed", "ab-1", 1),
    ]


# -- the pipe takes nothing


async def test_what_is_not_in_the_pipe_is_not_carried(desk: Desk) -> None:
    desk.shrink()
    desk.stuff()
    with desk.open() as attempt:
        assert not attempt.offered(ALLOW._replace(host=NAME), tls(NAME))
        assert attempt.refused(refuse(Reason.LIMIT)._replace(host=NAME), tls(NAME))
    assert len(desk.ledger.leftovers()) == 1, "noted until the refusal is in the pipe"
    desk.keep()
    await asyncio.sleep(FLUSH_S * 3)
    (record,) = desk.records()
    assert (record["event"], record["reason"], record["domain"], record["upstream_ip"]) == (
        "egress_blocked",
        "limit",
        NAME,
        None,
    )
    assert desk.ledger.leftovers() == []


async def _offer(attempt: Attempt) -> None:
    with attempt:
        while not attempt.offered(ALLOW, None):
            await attempt.room()


async def test_what_finds_no_room_may_be_offered_again(desk: Desk) -> None:
    desk.shrink()
    desk.stuff()
    offering = asyncio.get_running_loop().create_task(_offer(desk.open()))
    await asyncio.sleep(0)  # it waits now, and nothing has been looked for yet
    waits = [desk.journal.waits]
    assert [left.sending for left in desk.ledger.leftovers()] == [False], "nobody may take it for decided"
    await asyncio.sleep(FLUSH_S * 3)
    assert not offering.done()
    desk.keep()
    await asyncio.wait_for(offering, WITHIN_S)
    assert [*waits, desk.journal.waits] == [True, False], "nothing more is accepted meanwhile"
    assert _events(desk) == ["egress_allowed", "egress_closed"]
    assert desk.ledger.leftovers() == []


async def test_who_waits_as_a_task_and_is_cancelled_stops_nobody(desk: Desk) -> None:
    desk.shrink()
    desk.stuff()
    first, second = (asyncio.get_running_loop().create_task(_offer(desk.open())) for _ in range(2))
    await asyncio.sleep(0)  # as above
    first.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    desk.keep()
    await asyncio.sleep(FLUSH_S * 3)
    with desk.open() as attempt:
        assert attempt.offered(ALLOW, None)


async def test_room_is_told_to_all_who_wait(desk: Desk) -> None:
    """However often some of them find it taken again; who is cancelled meanwhile takes nobody with him."""
    desk.shrink()
    desk.stuff()
    attempts = [desk.open() for _ in range(20)]
    tasks = [asyncio.get_running_loop().create_task(carried(_offer(attempt))) for attempt in attempts]
    await asyncio.sleep(0)
    tasks[0].cancel()
    await asyncio.gather(tasks[0], return_exceptions=True)
    for _ in range(40):
        desk.keep()
        await asyncio.sleep(FLUSH_S / 2)
    await asyncio.gather(*tasks[1:])
    assert sorted(record["event"] for record in desk.decisions()) == ["egress_allowed"] * 19 + [
        "egress_blocked"
    ]
    assert not desk.journal.waits
    assert desk.ledger.leftovers() == []


async def test_refusals_wait_in_the_ledger_and_come_without_another_record(desk: Desk) -> None:
    desk.shrink()
    desk.stuff()
    for _ in range(20):
        with desk.open() as attempt:
            assert decide(attempt, BLOCK, None)
    assert len(desk.ledger.leftovers()) == 20
    for _ in range(10):
        desk.keep()
        await asyncio.sleep(FLUSH_S)
    assert [record["flow"] for record in desk.records()] == [f"ab-{number:x}" for number in range(1, 21)]
    assert desk.ledger.leftovers() == []


async def test_a_worker_that_dies_over_a_full_pipe_loses_no_decision(desk: Desk) -> None:
    desk.shrink()
    desk.stuff()
    for made in (ALLOW, BLOCK, ALLOW):
        with desk.open() as attempt:
            decide(attempt, made, None)
    desk.bury()  # and its backlog is gone with it
    records = desk.records()
    assert [
        (record["flow"], record["event"], record["reason"])
        for record in sorted(records, key=lambda one: str(one["flow"]))
    ] == [(f"ab-{number}", "egress_blocked", "worker_died") for number in (1, 2, 3)]


async def test_beyond_the_backlog_it_is_counted_and_the_slot_is_free(tmp_path: Path) -> None:
    desk = Desk(tmp_path, slots=MAX_BACKLOG + 10)
    desk.shrink()
    desk.stuff()
    desk.journal._refusals = Bucket(1e6, 1e6, 0.0)
    taken = []
    for _ in range(MAX_BACKLOG + 5):
        with desk.open() as attempt:
            taken.append(decide(attempt, BLOCK, None))
    assert taken == [True] * MAX_BACKLOG + [False] * 5
    assert len(desk.ledger.leftovers()) == MAX_BACKLOG
    assert desk.journal.feed.lost == 5
    desk.close()


def test_a_keeper_that_is_gone_lets_nothing_through(tmp_path: Path) -> None:
    async def run() -> bool:
        read_end, write_end = open_pipe()
        os.close(read_end)
        journal = Journal(Feed(write_end), Ledger(4))
        attempt = opened(journal, flow_to("203.0.113.9"))
        assert attempt is not None
        with attempt:
            taken = decide(attempt, ALLOW, None)
        os.close(write_end)
        return taken

    assert asyncio.run(run()) is False


def test_no_room_to_note_an_attempt_is_a_refusal_on_record(tmp_path: Path) -> None:
    desk = Desk(tmp_path, slots=1)
    held = desk.open()
    assert opened(desk.journal, desk.flow(2)) is None
    desk.journal.blocked(desk.flow(2), Reason.LIMIT)
    with held:
        pass
    assert [(record["flow"], record["reason"]) for record in desk.records()] == [
        ("ab-2", "limit"),
        ("ab-1", "internal_error"),
    ]
    desk.close()


# -- a flood of refusals


LINES = 50


def _flood(desk: Desk, count: int) -> None:
    desk.journal._refusals = Bucket(0.0, LINES, 0.0)
    for number in range(count):
        with desk.open() as attempt:
            decide(
                attempt,
                BLOCK._replace(host=f"n{number}.example" if number % 2 else "evil.example"),
                tls(NAME),
            )


async def test_a_flood_of_refusals_is_some_lines_and_sums_that_count_each(desk: Desk) -> None:
    _flood(desk, LINES + 500)
    assert (len(desk.ledger.leftovers()), len(desk.records())) == (0, LINES)
    assert desk.ledger.missing() == 500
    desk.journal.flush()
    sums = desk.records()[LINES:]
    assert len(sums) == APART + 1
    assert sum(record.get("count", 1) for record in sums) == 500
    assert {record["src_port"] for record in sums} == {0}
    assert all(rebuilt(record, "agent-1") for record in sums)
    (evil,) = (record for record in sums if record["domain"] == "evil.example")
    assert (evil["count"], evil["dest_ip"], evil["reason"]) == (250, "203.0.113.9", "no_allow_entry")
    (rest,) = (record for record in sums if record["domain"] is None)
    assert (rest["dest_ip"], rest["dest_port"], rest["app"], rest["domain_source"]) == (None, 0, None, None)
    assert (desk.summary.blocked, desk.ledger.missing()) == (LINES + 500, 0)


async def test_what_others_hold_in_sums_is_owed_too(desk: Desk) -> None:
    """The kernel's packets and the queries are counted elsewhere, and die with the same process."""
    _flood(desk, LINES + 3)
    kernel = Sums(Counting(desk.journal))
    for _ in range(5):
        kernel.add("alike", blocked(layer="kernel"), 2)
    somewhere = Endpoint(flow_to("192.0.2.1").dest.ip, 53)
    queries = QueryRecords(Counting(desk.journal), "agent-1", somewhere)
    queries._budget = Budget((0.0, 0.0), (0.0, 0.0))
    queries.note(NO, Question("evil.example", b"", 1), somewhere, "udp")
    assert desk.ledger.missing() == 3 + 10 + 1
    kernel.flush()
    assert desk.ledger.missing() == 3 + 1
    desk.bury()
    assert [record["count"] for record in desk.records() if record["event"] == "audit_lost"] == [4]


async def test_what_is_allowed_is_never_a_part_of_a_sum(desk: Desk) -> None:
    _flood(desk, LINES + 10)
    with desk.open() as attempt:
        assert decide(attempt, ALLOW, None)
    assert _events(desk)[-2:] == ["egress_allowed", "egress_closed"]


async def test_each_sum_is_of_one_policy(desk: Desk) -> None:
    _flood(desk, LINES + 10)
    desk.journal.generation = 2
    records = desk.records()
    assert sum(record.get("count", 1) for record in records) == LINES + 10
    assert {record["generation"] for record in records} == {1}


async def test_a_sum_is_written_by_itself(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.sums.AGGREGATE_S", 0.02)
    _flood(desk, LINES + 2)
    await asyncio.sleep(0.1)
    assert [record.get("count", 1) for record in desk.records()[LINES:]] == [1, 1]
