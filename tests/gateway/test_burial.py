"""What a worker leaves when it dies, at any moment: one decision for each attempt, and a count of the ends that will never be told."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from audit.brief import whose
from audit.ledger import SLOT_BYTES
from gateway.attempt import Attempt
from gateway.burial import Notes, bury
from gateway.dns.budget import Bucket
from gateway.flow import Endpoint
from gateway.journal import FLUSH_S
from gateway.reasons import Reason
from tests.gateway.deciding import flow_to
from tests.gateway.journal_desk import ALLOW, BLOCK, Desk, decide


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.close()


# -- the ends that are owed


def _killed(desk: Desk, act: Callable[[], None]) -> None:
    """``act``, and a death by SIGKILL at its end, in a process of its own."""
    pid = os.fork()
    if pid == 0:
        act()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    desk.bury()


def _lost(desk: Desk) -> list[int]:
    return [record["count"] for record in desk.records() if record["event"] == "audit_lost"]


def test_the_ends_of_what_a_killed_worker_carried_are_counted(desk: Desk) -> None:
    def act() -> None:
        for made in (ALLOW, BLOCK, ALLOW, ALLOW):
            assert decide(desk.open(), made, None)
        with desk.open() as attempt:
            decide(attempt, ALLOW, None)  # and it ended

    _killed(desk, act)
    assert (len(desk.decisions()), _lost(desk)) == (5, [3])
    desk.bury()
    assert _lost(desk) == [3], "once"


def test_what_waits_for_room_when_a_worker_dies_is_counted(desk: Desk) -> None:
    """Ends, and refusals that never became an attempt; those that the ledger holds are written instead."""

    def act() -> None:
        asyncio.run(wait_for_room())

    async def wait_for_room() -> None:
        attempts = [desk.open() for _ in range(4)]
        for attempt in attempts:
            decide(attempt, ALLOW, None)
        desk.shrink()
        desk.stuff()
        for attempt in attempts[:3]:
            attempt.__exit__(None, None, None)
        desk.journal.blocked(desk.flow(99), Reason.LIMIT)
        decide(desk.open(), BLOCK, None)

    _killed(desk, act)
    assert [record["reason"] for record in desk.decisions()] == ["allowed_address"] * 4 + ["worker_died"]
    assert _lost(desk) == [5]


@pytest.mark.parametrize("written", [False, True])
def test_what_a_killed_worker_had_counted_and_not_told_is_counted(desk: Desk, written: bool) -> None:
    """Refusals of a flood: before their sum is written, and while it waits for room."""

    async def flood() -> None:
        desk.journal._refusals = Bucket(0.0, 20.0, 0.0)
        for _ in range(320):
            with desk.open() as attempt:
                decide(attempt, BLOCK, None)
        if written:
            desk.stuff()
            desk.journal.flush()

    _killed(desk, lambda: asyncio.run(flood()))
    assert (len(desk.decisions()), _lost(desk)) == (20, [300])


async def test_what_waited_and_went_is_owed_no_more(desk: Desk) -> None:
    desk.shrink()
    desk.stuff()
    desk.journal.blocked(desk.flow(1), Reason.LIMIT)
    assert desk.ledger.missing() == 1
    desk.keep()
    await asyncio.sleep(FLUSH_S * 3)
    assert (desk.ledger.missing(), len(desk.records())) == (0, 1)


# -- the worker dies


def _opened(desk: Desk, attempt: Attempt) -> None:
    pass


def _sending(desk: Desk, attempt: Attempt) -> None:
    desk.ledger.sending(attempt._slot)


def _sent(desk: Desk, attempt: Attempt) -> None:
    """Between handing over and clearing the note."""
    desk.ledger.close = lambda slot: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
    decide(attempt, BLOCK, None)


def _allowed(desk: Desk, attempt: Attempt) -> None:
    assert decide(attempt, ALLOW, None)


@pytest.mark.parametrize(
    ("until", "reason"),
    [
        (_opened, "worker_died"),
        (_sending, "worker_died"),
        (_sent, "no_allow_entry"),
        (_allowed, "allowed_address"),
    ],
)
def test_a_worker_that_is_killed_at_each_stage_leaves_one_decision(
    desk: Desk, until: Callable[[Desk, Attempt], None], reason: str
) -> None:
    pid = os.fork()
    if pid == 0:
        with desk.open() as attempt:
            until(desk, attempt)
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    desk.bury()
    desk.bury()
    (record,) = desk.decisions()
    assert record["reason"] == reason
    assert (record["flow"], record["src_ip"], record["src_port"], record["dest_ip"], record["dest_port"]) == (
        "ab-1", "10.0.0.2", 41234, "203.0.113.9", 443,
    )  # fmt: skip
    assert desk.summary.blocked + desk.summary.allowed == 1
    assert desk.ledger.leftovers() == []


@pytest.mark.parametrize("taken", [False, True])
@pytest.mark.parametrize("pending", [0, 5])
def test_a_kill_while_an_allowed_decision_is_handed_over_has_its_end_counted(
    desk: Desk, taken: bool, pending: int
) -> None:
    """Only if the decision arrived. Ends that were to go with it may be counted too: what was sent at the last moment is not known to have been."""
    pid = os.fork()
    if pid == 0:
        before = [desk.open() for _ in range(pending)]
        for attempt in before:
            assert decide(attempt, ALLOW, None)
        desk.journal._soon = lambda act: None  # as within a turn
        for attempt in before:
            attempt.__exit__(None, None, None)
        put = desk.journal.feed.put

        def put_and_die(line: bytes) -> bool:
            if taken:
                assert put(line)
            os.kill(os.getpid(), signal.SIGKILL)
            return False

        desk.journal.feed.put = put_and_die  # type: ignore[method-assign]
        desk.open().offered(ALLOW, None)
    os.waitpid(pid, 0)
    desk.bury()
    records = desk.records()
    told = [record["event"] for record in records]
    assert told.count("egress_allowed") == pending + taken
    assert told.count("egress_blocked") == (not taken)
    assert told.count("egress_closed") == pending * taken
    lost = sum(record["count"] for record in records if record["event"] == "audit_lost")
    assert lost == pending + taken
    owed = told.count("egress_allowed") - told.count("egress_closed")
    assert owed <= lost <= owed + pending


def test_what_finds_no_room_owes_nothing(desk: Desk) -> None:
    desk.shrink()
    desk.stuff()
    attempt = desk.open()
    assert not attempt.offered(ALLOW, None)
    assert desk.ledger.missing() == 0
    assert [left.sending for left in desk.ledger.leftovers()] == [False]
    desk.keep()
    assert attempt.offered(ALLOW, None)
    assert desk.ledger.missing() == 1


@pytest.mark.parametrize(
    "ip", ["203.0.113.9", "2001:db8::9", "::ffff:203.0.113.9", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]
)
def test_a_note_holds_every_address_whole(desk: Desk, ip: str) -> None:
    flow = flow_to(ip, 65535)._replace(
        id="f" * 16 + "-" + "f" * 12, source=Endpoint(ip_address("ffff" + ":ffff" * 7), 65535)
    )
    who = whose(str(flow.source.ip), flow.source.port, flow.id)
    assert len(Notes().of(who, flow.dest)) < SLOT_BYTES - 2
    desk.open(flow)
    desk.bury()
    (record,) = desk.records()
    assert (record["flow"], record["dest_ip"], record["dest_port"]) == (flow.id, str(flow.dest.ip), 65535)


@pytest.mark.parametrize(
    "scribble",
    [
        b"",
        b"||||",
        b"ab-1|10.0.0.2|1|10.0.0.3",
        b"ab-1|10.0.0.2|1|10.0.0.3|2|3",
        b"ab-1|10.0.0.2|x|10.0.0.3|2",
        b"ab-1|10.0.0.2|\xc2\xb2|10.0.0.3|2",
        b"ab-1|10.0.0.2|70000|10.0.0.3|2",
        b"ab-1|10.0.0.2|" + b"9" * 100 + b"|10.0.0.3|2",
        b"ab-1|evil\x1b[2J|1|10.0.0.3|2",
        b'ab","event":"egress_allowed|10.0.0.2|1|10.0.0.3|2',
        b"\xff" * 200,
    ],
)
def test_a_scribbled_note_is_counted_and_raises_nothing(desk: Desk, scribble: bytes) -> None:
    slot = desk.ledger.open(scribble)
    assert slot is not None
    desk.ledger.sending(slot)
    desk.open(desk.flow(9))
    desk.bury()
    records = desk.records()
    assert [record["event"] for record in records] == ["egress_blocked", "audit_lost"]
    assert (records[0]["flow"], records[1]["count"]) == ("ab-9", 1)


def test_without_audit_what_a_dead_worker_left_is_still_counted(desk: Desk) -> None:
    desk.open()
    desk.ledger.open(b"scribble")
    bury(desk.ledger, None, "agent-1", desk.summary)
    assert (desk.summary.blocked, desk.records()) == (1, [])
    assert desk.ledger.leftovers() == []
