"""From the process that decides to the one that keeps: whole lines, in order, nothing lost unsaid, and nobody believed."""

import fcntl
import json
import os
import signal
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit import feed as feeding
from audit.brief import allowed_line, whose
from audit.feed import MAX_BACKLOG, PIECE_BYTES, PIPE_BYTES, POLITE_S, Feed, Intake, open_answer, open_pipe
from audit.log import AuditLog
from audit.record import MAX_LINE_BYTES, Record, lost, timestamp
from audit.settings import AuditSettings, Fsync
from tests.audit.example import AT_NS, blocked


class Pipe:
    """Both ends, and the log behind them."""

    def __init__(self, directory: Path, settings: AuditSettings | None = None) -> None:
        self.read_end, self.write_end = open_pipe()
        self.log = AuditLog(directory, settings=settings)
        self.counted: list[Record] = []
        self.intake = Intake(self.read_end, self.log, self.counted.append, sandbox="agent-1")

    def shrink(self) -> None:
        """The smallest pipe that Linux has."""
        fcntl.fcntl(self.write_end, fcntl.F_SETPIPE_SZ, 4096)

    def kept(self) -> list[dict[str, Any]]:
        """All that is on record by now."""
        self.intake.drain()
        self.log.flush()
        return [json.loads(line) for line in self.log.path.read_text().splitlines()]

    def close(self) -> None:
        os.close(self.write_end)
        self.intake.close()
        self.log.close()


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Pipe]:
    made = Pipe(tmp_path)
    yield made
    made.close()


def _flows(records: list[dict[str, Any]]) -> list[int]:
    return [int(record["flow"], 16) for record in records if "flow" in record]


# -- the sender


def test_what_is_sent_is_kept_in_order(pipe: Pipe) -> None:
    feed = Feed(pipe.write_end)
    for number in range(20):
        assert feed.send(blocked(flow=f"{number:x}"))
    assert not feed.waiting
    records = pipe.kept()
    assert _flows(records) == list(range(20))
    assert [record["seq"] for record in records] == list(range(20))
    assert _flows(pipe.counted) == list(range(20))


def test_each_record_is_one_write_and_so_whole_or_absent(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[bytes] = []
    real = os.write

    def seen(descriptor: int, data: bytes) -> int:
        writes.append(data)
        return real(descriptor, data)

    monkeypatch.setattr(feeding, "_write", seen)
    Feed(pipe.write_end).send(blocked())
    assert writes == [b"\n", orjson.dumps(blocked()) + b"\n"]


def test_what_is_dated_as_nothing_can_have_been_is_dated_as_it_is_taken_in(pipe: Pipe) -> None:
    allowed = blocked() | {"event": "egress_allowed"}
    for said in ("0000-00-00T00:00:00.000000Z", "2026-02-30T00:00:00.000000Z", timestamp(AT_NS)):
        moment = said.encode()
        before = timestamp(time.time_ns())
        os.write(pipe.write_end, b"%b\n" % orjson.dumps(blocked() | {"timestamp": said}))
        os.write(pipe.write_end, b"=1%b\n" % orjson.dumps(allowed | {"timestamp": said}))
        os.write(pipe.write_end, allowed_line(b"1", moment, whose("10.0.0.2", 1, "ab")))
        dates = [record["timestamp"] for record in pipe.kept()[-3:]]
        assert all(before <= date <= timestamp(time.time_ns()) for date in dates)
    assert pipe.log.lost == 0


def test_what_waited_while_nothing_could_be_kept_keeps_its_date(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    decided = timestamp(time.time_ns())
    os.write(pipe.write_end, orjson.dumps(blocked() | {"timestamp": decided}) + b"\n")
    pipe.intake.pause()
    hours_later = time.time_ns() + 5 * 3600 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: hours_later)
    assert [record["timestamp"] for record in pipe.kept()] == [decided]


def test_a_burst_fits_into_the_pipe(pipe: Pipe) -> None:
    assert fcntl.fcntl(pipe.write_end, fcntl.F_GETPIPE_SZ) == PIPE_BYTES
    feed = Feed(pipe.write_end)
    assert all(feed.offer(blocked(flow=f"{number:x}")) for number in range(500))
    assert _flows(pipe.kept()) == list(range(500))


def test_what_the_pipe_does_not_take_waits_and_comes_later_in_order(pipe: Pipe) -> None:
    pipe.shrink()
    feed = Feed(pipe.write_end)
    for number in range(100):
        assert feed.send(blocked(flow=f"{number:x}"))
    first = _flows(pipe.kept())
    assert 0 < len(first) < 20
    while feed.waiting:
        feed.flush()
        pipe.intake.drain()
    assert _flows(pipe.kept()) == list(range(100))
    assert feed.lost == 0


def test_sent_is_said_when_the_record_is_in_the_pipe_and_not_before(pipe: Pipe) -> None:
    pipe.shrink()
    feed = Feed(pipe.write_end)
    sent: list[int] = []
    for number in range(30):
        feed.send(blocked(flow=f"{number:x}"), lambda number=number: sent.append(number))  # type: ignore[misc]
    in_pipe = _flows(pipe.kept())
    assert sent == in_pipe != list(range(30))
    while feed.waiting:
        feed.flush()
        pipe.intake.drain()
    assert sent == list(range(30))


def test_an_offer_is_taken_now_or_not_at_all(pipe: Pipe) -> None:
    pipe.shrink()
    feed = Feed(pipe.write_end)
    taken = 0
    while feed.offer(blocked(flow=f"{taken:x}")):
        taken += 1
    assert feed.lost == 0
    assert _flows(pipe.kept()) == list(range(taken))
    feed.flush()
    assert pipe.kept()[taken:] == []
    assert feed.offer(blocked())


def test_an_offer_never_overtakes_what_waits(pipe: Pipe) -> None:
    pipe.shrink()
    feed = Feed(pipe.write_end)
    while not feed.waiting:
        feed.send(blocked())
    short = lost(AT_NS, 1)
    assert not feed.offer(short)
    feed.send(short, lambda: pytest.fail("sent before its turn"))
    assert os.write(pipe.write_end, orjson.dumps(short) + b"\n"), "there was room for a shorter line"


def test_what_is_beyond_the_backlog_is_counted_and_the_count_is_sent(pipe: Pipe) -> None:
    pipe.shrink()
    feed = Feed(pipe.write_end)
    refused = sum(not feed.send(blocked(flow=f"{number:x}")) for number in range(MAX_BACKLOG + 50))
    assert refused == feed.lost > 0
    while feed.waiting:
        feed.flush()
        pipe.intake.drain()
    records = pipe.kept()
    assert _flows(records) == list(range(MAX_BACKLOG + 50 - refused))
    assert records[-1]["event"] == "audit_lost"
    assert (records[-1]["count"], records[-1]["sandbox"]) == (refused, "agent-1")
    assert feed.lost == 0


@pytest.mark.parametrize("bad", [{"rule": "x" * MAX_LINE_BYTES}, {"rule": "\ud800"}, {"rule": object()}])
def test_a_record_that_is_no_line_is_counted(pipe: Pipe, bad: dict[str, object]) -> None:
    feed = Feed(pipe.write_end)
    assert not feed.offer(blocked() | bad)
    assert feed.lost == 0
    assert not feed.send(blocked() | bad)
    assert feed.send(blocked(flow="1"))
    assert [(record["event"], record.get("count")) for record in pipe.kept()] == [
        ("audit_lost", 1),
        ("egress_blocked", None),
    ]


def test_a_keeper_that_is_gone_raises_nothing(tmp_path: Path) -> None:
    read_end, write_end = open_pipe()
    os.close(read_end)
    feed = Feed(write_end)
    assert not feed.offer(blocked())
    for _ in range(MAX_BACKLOG + 10):
        feed.send(blocked())
    feed.flush()
    assert feed.lost > 0
    os.close(write_end)


def test_what_was_sent_outlives_a_sender_that_is_killed(pipe: Pipe) -> None:
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        feed = Feed(pipe.write_end)
        for number in range(500):
            feed.send(blocked(flow=f"{number:x}"))
        os.write(told, b"x")
        while True:
            feed.send(blocked(flow="ffff"))
    os.read(ready, 1)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(ready)
    os.close(told)
    records = pipe.kept()
    assert _flows(records)[:500] == list(range(500))
    assert {record["event"] for record in records} == {
        "egress_blocked"
    }  # none torn: that would be audit_lost


# -- what may be later


def _line(number: int) -> bytes:
    return orjson.dumps(blocked(flow=f"{number:x}")) + b"\n"


def _written(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    writes: list[bytes] = []
    real = os.write

    def write(descriptor: int, data: bytes) -> int:
        writes.append(data)
        return real(descriptor, data)

    monkeypatch.setattr(feeding, "_write", write)
    return writes


def test_what_may_be_later_goes_with_the_next_in_one_write_and_in_order(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = Feed(pipe.write_end)
    writes = _written(monkeypatch)
    for number in range(3):
        feed.later(_line(number))
    assert (writes, feed.unsent, feed.sent) == ([], 3, 0), "nobody else knows of them yet"
    assert feed.put(_line(3))
    assert writes == [b"".join(map(_line, range(4)))]
    assert (feed.unsent, feed.sent, feed.waiting) == (0, 4, False)
    assert _flows(pipe.kept()) == [0, 1, 2, 3]


@pytest.mark.parametrize("how", ["flush", "send", "offer", "put"])
def test_nothing_overtakes_what_may_be_later_and_each_write_is_whole_or_absent(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    feed = Feed(pipe.write_end)
    writes = _written(monkeypatch)
    for number in range(40):
        feed.later(_line(number))
    if how == "flush":
        feed.flush()
    elif how == "put":
        assert feed.put(_line(40))
    else:
        assert getattr(feed, how)(blocked(flow="28"))
    assert max(map(len, writes)) <= MAX_LINE_BYTES and len(writes) < 10
    assert _flows(pipe.kept()) == list(range(40 if how == "flush" else 41))
    assert feed.sent == (40 if how == "flush" else 41)


def test_what_may_be_later_waits_for_room_like_the_rest(pipe: Pipe) -> None:
    pipe.shrink()
    feed = Feed(pipe.write_end)
    for number in range(100):
        feed.later(_line(number))
    assert not feed.put(_line(100)), "an offer is taken now or not at all"
    first = _flows(pipe.kept())
    assert 0 < len(first) < 20
    assert feed.unsent == 100 - len(first)
    while feed.waiting:
        feed.flush()
        pipe.intake.drain()
    assert _flows(pipe.kept()) == list(range(100))
    assert (feed.unsent, feed.sent, feed.lost) == (0, 100, 0)


def test_of_what_may_be_later_the_backlog_takes_so_many(pipe: Pipe) -> None:
    pipe.shrink()
    feed = Feed(pipe.write_end)
    for number in range(MAX_BACKLOG + 100):
        feed.later(_line(number))
    feed.flush()
    assert feed.lost > 0
    assert feed.unsent + feed.sent == MAX_BACKLOG + 100


# -- the keeper


@pytest.mark.parametrize(
    "line",
    [
        b"not json",
        b"[]",
        b"{}",
        b"\xff\xff",
        b'{"a":' * 500 + b"1" + b"}" * 500,
        orjson.dumps(blocked())[:-20],
        orjson.dumps(blocked() | {"event": "audit_pruned"}),
        orjson.dumps(blocked() | {"extra": "x"}),
        b'{"x":"' + b"x" * MAX_LINE_BYTES + b'"}',
        b'{"x":"' + b"x" * 60_000 + b'"}',
    ],
)
def test_a_hostile_line_is_counted_and_harms_no_other(pipe: Pipe, line: bytes) -> None:
    os.write(
        pipe.write_end,
        orjson.dumps(blocked(flow="1")) + b"\n" + line + b"\n" + orjson.dumps(blocked(flow="2")) + b"\n",
    )
    records = pipe.kept()
    assert [record["event"] for record in records] == ["egress_blocked", "egress_blocked", "audit_lost"]
    assert _flows(records) == [1, 2]
    assert records[-1]["count"] == 1
    assert len(pipe.counted) == 2


def test_no_sender_writes_as_another_sandbox_or_numbers_its_records(pipe: Pipe) -> None:
    forged = {**blocked(), "sandbox": "someone-else", "writer": "0000-0", "seq": 10**9, "schema": "egress/v0"}
    os.write(pipe.write_end, orjson.dumps(forged) + b"\n")
    (record,) = pipe.kept()
    assert (record["sandbox"], record["writer"], record["seq"], record["schema"]) == (
        "agent-1",
        pipe.log.writer,
        0,
        "egress/v1",
    )
    assert pipe.counted[0]["sandbox"] == "agent-1"


def test_a_line_without_end_takes_no_memory(pipe: Pipe) -> None:
    for _ in range(20):
        os.write(pipe.write_end, b"x" * 60_000)
        pipe.intake.drain()
        assert len(pipe.intake._rest) <= MAX_LINE_BYTES
    os.write(pipe.write_end, b"\n" + orjson.dumps(blocked(flow="7")) + b"\n")
    records = pipe.kept()
    assert _flows(records) == [7]
    assert records[-1]["event"] == "audit_lost"


def test_what_a_killed_sender_left_half_said_spoils_nothing_of_the_next(pipe: Pipe) -> None:
    os.write(pipe.write_end, orjson.dumps(blocked(flow="1"))[:100])
    pipe.intake.drain()
    Feed(pipe.write_end).send(blocked(flow="2"))
    records = pipe.kept()
    assert _flows(records) == [2]
    assert [record["count"] for record in records if record["event"] == "audit_lost"] == [1]


def _never_empty(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read of it is written again."""
    real = os.read

    def refilled(descriptor: int, size: int) -> bytes:
        chunk = real(descriptor, size)
        os.write(pipe.write_end, chunk)
        return chunk

    monkeypatch.setattr(os, "read", refilled)


def test_a_sender_that_never_stops_does_not_hold_the_keeper(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = orjson.dumps(blocked()) + b"\n"
    os.write(pipe.write_end, line * 100)
    _never_empty(pipe, monkeypatch)
    assert 0 < pipe.intake.drain() <= PIPE_BYTES // len(line) + 1


def test_who_gives_way_takes_the_same_in_pieces(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeding, "POLITE_S", 60.0)  # however busy the machine is
    line = orjson.dumps(blocked()) + b"\n"
    count = 3 * PIECE_BYTES // len(line)
    os.write(pipe.write_end, line * count)
    turns: list[int] = []
    assert pipe.intake.drain(lambda: turns.append(pipe.intake.lines)) == count
    assert len(turns) >= 3
    at_once = [after - before for before, after in zip([0, *turns], turns, strict=False)]
    assert max(at_once) <= PIECE_BYTES // len(line) + 1


def test_a_dead_sender_is_drained_at_once(pipe: Pipe) -> None:
    feed = Feed(pipe.write_end)
    while not feed.waiting:
        feed.send(blocked())
    pipe.intake.drain()
    with pytest.raises(BlockingIOError):
        os.read(pipe.read_end, 1)


def test_giving_way_ends_and_the_rest_is_still_there(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    line = orjson.dumps(blocked()) + b"\n"
    count = 10 * PIECE_BYTES // len(line)
    os.write(pipe.write_end, line * count)
    turns: list[int] = []

    def give_way() -> None:
        turns.append(pipe.intake.waiting())

    with monkeypatch.context() as patched:
        patched.setattr(time, "monotonic", lambda: 1000.0 + 0.6 * POLITE_S * len(turns))
        taken = pipe.intake.drain(give_way)
    assert len(turns) == 2
    assert pipe.intake.waiting() == turns[-1] == len(line) * count - 2 * PIECE_BYTES
    assert taken + pipe.intake.drain() == count


@pytest.mark.parametrize("flags", [os.O_NONBLOCK, os.O_NONBLOCK | os.O_DIRECT])
def test_all_that_a_sender_left_is_taken_however_large_it_made_the_pipe(pipe: Pipe, flags: int) -> None:
    fcntl.fcntl(pipe.write_end, fcntl.F_SETPIPE_SZ, 4 * PIPE_BYTES)
    fcntl.fcntl(pipe.write_end, fcntl.F_SETFL, flags)
    feed = Feed(pipe.write_end)
    while feed.offer(blocked()):
        pass
    assert feed.sent > 200
    assert pipe.intake.finish() == feed.sent
    assert (pipe.intake.waiting(), pipe.intake.lines, pipe.log.lost) == (0, feed.sent, 0)


def test_half_a_line_that_a_sender_left_is_one_that_is_lost(pipe: Pipe) -> None:
    os.write(pipe.write_end, orjson.dumps(blocked(flow="1")) + b"\n" + orjson.dumps(blocked())[:100])
    assert pipe.intake.finish() == 1
    assert (pipe.intake.lines, pipe.intake._rest) == (2, b"")
    assert pipe.intake.finish() == 0
    assert [record.get("count") for record in pipe.kept()] == [None, 1]


def test_a_sender_that_is_gone_and_one_that_is_not_end(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no filter keeps a sender from forking, one may live on."""
    line = orjson.dumps(blocked()) + b"\n"
    os.write(pipe.write_end, line * 100)
    _never_empty(pipe, monkeypatch)
    assert pipe.intake.finish() == 100


def test_an_answer_is_read_like_an_eventfd_and_keeps_nobody_waiting() -> None:
    senders, keepers = open_answer()
    with pytest.raises(BlockingIOError):
        os.eventfd_read(senders)
    os.write(keepers, struct.pack("=Q", 3))
    os.write(keepers, struct.pack("=Q", 2))
    assert [os.eventfd_read(senders), os.eventfd_read(senders)] == [3, 2]
    fcntl.fcntl(senders, fcntl.F_SETFL, 0)
    assert not os.get_blocking(keepers)
    os.set_blocking(senders, False)
    os.close(keepers)
    with pytest.raises(BlockingIOError):
        os.eventfd_read(senders)  # and not an end, of which the loop would hear again and again
    os.close(senders)


def test_without_a_log_records_are_counted_all_the_same() -> None:
    read_end, write_end = open_pipe()
    counted: list[Record] = []
    intake = Intake(read_end, None, counted.append, sandbox="agent-1")
    os.write(write_end, b"junk\n" + orjson.dumps(blocked() | {"sandbox": "x"}) + b"\n")
    assert intake.drain() == 1
    assert [record["sandbox"] for record in counted] == ["agent-1"]
    os.close(write_end)
    assert intake.drain() == 0
    intake.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    pieces=st.lists(st.binary(max_size=200) | st.just(orjson.dumps(blocked()) + b"\n"), max_size=20),
    data=st.data(),
)
def test_no_bytes_raise_and_how_they_are_cut_makes_no_difference(
    tmp_path: Path, pieces: list[bytes], data: st.DataObject
) -> None:
    whole = b"".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    seen = []
    for ends in ([len(whole)], [*cuts, len(whole)]):
        pipe = Pipe(tmp_path, AuditSettings(fsync=Fsync.NONE))  # two hundred of them, on whatever disk
        begin = 0
        for end in ends:
            os.write(pipe.write_end, whole[begin:end])
            pipe.intake.drain()
            begin = end
        seen.append(([record | {"timestamp": ""} for record in pipe.counted], pipe.log.lost))
        pipe.close()
    assert seen[0] == seen[1]
