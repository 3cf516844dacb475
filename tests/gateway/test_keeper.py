"""From the pipe to the file and back: what is acknowledged, what is not taken, what is said."""

import errno
import fcntl
import os
import selectors
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest

from audit import feed
from audit.feed import PIPE_BYTES, POLITE_S, Feed
from audit.log import AuditLog
from audit.segment import NoReservation, Segment
from audit.settings import AuditSettings, Fsync, OnFull
from gateway.keeper import ENOUGH_BYTES, Keeper
from gateway.summary import Summary
from tests.audit.day import today
from tests.audit.example import blocked
from tests.gateway.asked import open_descriptors


class Bench:
    """A keeper, a sender, and a disk that can be made to fail."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, settings: AuditSettings) -> None:
        self.fails: OSError | None = None
        append = Segment.append

        def appended(segment: Segment, lines: bytes, count: int) -> int:
            if self.fails is not None:
                raise self.fails
            return append(segment, lines, count)

        monkeypatch.setattr(Segment, "append", appended)
        self.log = AuditLog(directory, settings=settings, sandbox="agent-1", clock=today())
        self.said: list[str] = []
        self.selector = selectors.DefaultSelector()
        self.keeper = Keeper(self.log, "agent-1", Summary(), self.selector, self.said.append)
        self.feed = Feed(self.keeper.feed)

    def send(self, count: int) -> None:
        for _ in range(count):
            assert self.feed.send(blocked(flow=f"{self.feed.sent:x}"))

    def turn(self) -> int:
        """What the supervisor's loop does once; how many descriptors were ready."""
        ready = self.selector.select(0)
        for key, _ in ready:
            key.data()
        return len(ready)

    def kept(self) -> int:
        return self.log.path.read_bytes().count(b"\n")

    def waiting(self) -> int:
        return self.keeper._waiting()

    def acknowledged(self) -> int:
        assert self.keeper.kept is not None
        count = 0
        try:
            while True:
                count += os.eventfd_read(self.keeper.kept)
        except BlockingIOError:
            return count

    def as_worker(self, act: Callable[[], object]) -> None:
        """Do it in a worker, which dies of it."""
        pid = os.fork()
        if pid == 0:
            try:
                os.close(self.keeper._read_end)
                if self.keeper._told is not None:
                    os.close(self.keeper._told)
                act()
            finally:
                os._exit(0)
        os.waitpid(pid, 0)


Make = Callable[[AuditSettings], Bench]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    made: list[Bench] = []

    def one(settings: AuditSettings) -> Bench:
        made.append(Bench(tmp_path, monkeypatch, settings))
        return made[-1]

    yield one
    for bench in made:
        bench.fails = None
        bench.keeper.close()
        bench.selector.close()


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("fsync", Fsync)
def test_acknowledged_is_what_is_written_and_synced_and_only_where_it_is_waited_for(
    make: Make, monkeypatch: pytest.MonkeyPatch, fsync: Fsync
) -> None:
    bench = make(AuditSettings(fsync=fsync))
    if fsync is not Fsync.ALWAYS:
        assert bench.keeper.kept is None
        return
    order: list[str] = []
    real = os.write
    monkeypatch.setattr(os, "fdatasync", lambda _: order.append("synced"))

    def told(descriptor: int, data: bytes) -> int:
        if descriptor == bench.keeper._told:
            order.append("told")
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", told)
    bench.send(3)
    bench.turn()
    assert order == ["synced", "told"]
    assert (bench.acknowledged(), bench.kept()) == (3, 3)
    bench.send(2)
    bench.turn()
    assert (bench.acknowledged(), bench.kept()) == (2, 5)


def test_where_no_room_can_be_set_aside_every_record_is_acknowledged(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(self: Segment, room: int) -> None:
        raise NoReservation

    monkeypatch.setattr(Segment, "hold", refuses)
    bench = make(AuditSettings())
    bench.send(3)
    bench.turn()
    assert bench.acknowledged() == 3
    bench.fails = FULL
    bench.send(2)
    bench.turn()
    assert bench.acknowledged() == 0
    bench.fails = None
    bench.keeper.tick()
    assert (bench.acknowledged(), bench.kept()) == (2, 5)


def test_while_the_disk_is_full_nothing_is_taken_from_the_pipe_and_nothing_is_lost(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However long a step takes, the next try is not due.
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    bench = make(AuditSettings())
    bench.fails = FULL
    bench.send(2)
    assert bench.turn() == 1
    bench.send(3)
    assert bench.turn() == 0, "no loop that spins over a pipe that it does not read"
    assert 0 < (bench.keeper.due_in() or 0) <= 1
    bench.fails = None
    bench.keeper.tick()
    bench.turn()
    assert bench.kept() == 5
    (full, well) = bench.said
    assert "cannot be written" in full and "No space left on device: new connections wait" in full
    assert well == f"records are written to {bench.log.directory} again"


def test_whoever_drops_takes_all_and_says_what_is_lost(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audit.log.MAX_BUFFERED_BYTES", 2000)
    bench = make(AuditSettings(on_full=OnFull.DROP))
    bench.fails = FULL
    for _ in range(4):
        bench.send(5)
        assert bench.turn() == 1
    bench.fails = None
    bench.keeper.tick()
    records = [orjson.loads(line) for line in bench.log.path.read_bytes().splitlines()]
    lost = sum(record["count"] for record in records if record["event"] == "audit_lost")
    assert lost > 10
    assert lost + sum(record["event"] == "egress_blocked" for record in records) == 20
    assert "connections go on" in bench.said[0]


def test_what_is_in_the_pipe_at_a_death_or_an_end_is_taken_whatever_the_disk_says(make: Make) -> None:
    bench = make(AuditSettings())
    bench.fails = FULL
    bench.send(1)
    bench.turn()
    bench.send(4)
    bench.keeper.bury()
    bench.keeper.renew()
    bench.fails = None
    bench.send(2)
    bench.keeper.close()
    assert bench.kept() == 7
    assert bench.log.lost == 0


def test_a_dead_workers_acknowledgements_are_not_its_successors(make: Make) -> None:
    bench = make(AuditSettings(fsync=Fsync.ALWAYS))
    bench.send(3)
    bench.turn()
    bench.send(2)
    bench.keeper.bury()
    bench.keeper.renew()
    assert bench.acknowledged() == 0
    successor = Feed(bench.keeper.feed)
    successor.send(blocked(flow="ff"))
    bench.turn()
    assert (bench.acknowledged(), successor.sent) == (1, 1)


# -- a worker that was taken over


def fill(kept: int) -> None:
    """Leave no room for another number, in an eventfd or a pipe."""
    number = 2**64 - 2
    while True:
        try:
            os.write(kept, struct.pack("=Q", number))
        except BlockingIOError:
            return
        number = 1


def test_a_worker_that_scribbles_on_what_tells_it_ends_no_keeper_and_hears_later(make: Make) -> None:
    bench = make(AuditSettings(fsync=Fsync.ALWAYS))
    kept = bench.keeper.kept
    assert kept is not None

    def scribble() -> None:
        bench.send(1)
        fill(kept)

    bench.as_worker(scribble)
    assert bench.turn() == 1
    assert bench.kept() == 1
    bench.acknowledged()
    bench.keeper.tick()
    assert bench.acknowledged() == 1


def test_no_flag_of_a_workers_has_the_keeper_wait(make: Make) -> None:
    """Descriptors that a fork shares have one set of flags: what the keeper reads and writes itself is shared with no worker."""
    bench = make(AuditSettings(fsync=Fsync.ALWAYS))
    keeper = bench.keeper
    kept = keeper.kept
    assert kept is not None

    def block() -> None:
        bench.send(1)
        fill(kept)
        for descriptor in (kept, keeper.feed):
            fcntl.fcntl(descriptor, fcntl.F_SETFL, 0)

    bench.as_worker(block)
    assert keeper._told is not None
    assert not os.get_blocking(keeper._read_end) and not os.get_blocking(keeper._told)
    assert bench.turn() == 1
    keeper.bury()
    keeper.renew()
    assert not os.get_blocking(kept) and not os.get_blocking(keeper.feed)
    successor = Feed(keeper.feed)
    successor.send(blocked(flow="ff"))
    bench.turn()
    assert (bench.acknowledged(), bench.kept()) == (1, 2)


def test_what_a_dead_worker_made_of_its_pipe_ends_with_it(make: Make) -> None:
    """It was larger than any burst; then whole writes were packets, and half a line was left."""
    bench = make(AuditSettings(fsync=Fsync.ALWAYS))
    keeper = bench.keeper
    numbers = keeper.feed, keeper.kept
    line = orjson.dumps(blocked()) + b"\n"
    many = 4 * PIPE_BYTES // len(line) - 100

    def enlarge() -> None:
        fcntl.fcntl(keeper.feed, fcntl.F_SETPIPE_SZ, 4 * PIPE_BYTES)
        os.write(keeper.feed, line * many + line[:100])
        fcntl.fcntl(keeper.feed, fcntl.F_SETFL, os.O_DIRECT)

    bench.as_worker(enlarge)
    keeper.bury()
    keeper.renew()
    assert (bench.kept(), bench.log.seq, bench.log.lost) == (many + 1, many + 1, 1), "half a line is counted"
    assert (keeper.feed, keeper.kept) == numbers, "they are what the next is forked with"
    assert fcntl.fcntl(keeper.feed, fcntl.F_GETPIPE_SZ) == PIPE_BYTES
    assert not fcntl.fcntl(keeper.feed, fcntl.F_GETFL) & os.O_DIRECT
    assert not os.get_inheritable(keeper.feed)
    successor = Feed(keeper.feed)
    while successor.offer(blocked()):
        pass
    assert successor.sent > 500
    bench.turn()
    bench.turn()
    assert (bench.acknowledged(), bench.log.seq) == (successor.sent, many + 1 + successor.sent)


def test_where_there_are_no_pipes_to_be_had_the_next_worker_waits(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what was there stays as it was."""
    bench = make(AuditSettings(fsync=Fsync.ALWAYS))
    bench.keeper.bury()
    before = os.fstat(bench.keeper.feed).st_ino
    opened = open_descriptors()

    def none(size: int | None = None) -> tuple[int, int]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr("gateway.keeper.open_pipe", none)
        for _ in range(3):
            with pytest.raises(OSError, match="Too many"):
                bench.keeper.renew()
    assert (os.fstat(bench.keeper.feed).st_ino, open_descriptors()) == (before, opened)
    bench.keeper.renew()
    assert os.fstat(bench.keeper.feed).st_ino != before
    successor = Feed(bench.keeper.feed)
    assert successor.send(blocked())
    bench.turn()
    assert (bench.kept(), bench.acknowledged()) == (1, 1)


def test_the_last_of_a_pipe_that_was_made_larger_is_taken_at_the_end(make: Make) -> None:
    bench = make(AuditSettings())
    fcntl.fcntl(bench.keeper.feed, fcntl.F_SETPIPE_SZ, 4 * PIPE_BYTES)
    line = orjson.dumps(blocked()) + b"\n"
    many = 4 * PIPE_BYTES // len(line) - 100
    assert os.write(bench.keeper.feed, line * many) == many * len(line)
    bench.keeper.close()
    assert (bench.kept(), bench.log.lost) == (many, 0)


def test_audit_that_is_off_hears_of_the_next_workers_records_too(tmp_path: Path) -> None:
    with selectors.DefaultSelector() as selector:
        summary = Summary()
        keeper = Keeper(None, "agent-1", summary, selector, lambda _: pytest.fail("nothing is wrong"))
        for number in (1, 2):
            Feed(keeper.feed).send(blocked())
            ((key, _),) = selector.select(1)
            key.data()
            assert summary.blocked == number
            keeper.bury()
            keeper.renew()
        keeper.close()
        keeper.close()


def test_what_is_wrong_is_said_once(make: Make) -> None:
    bench = make(AuditSettings())
    bench.fails = FULL
    bench.send(1)
    bench.turn()
    for _ in range(5):
        bench.keeper.tick()
    assert len(bench.said) == 1


@pytest.mark.parametrize("pipe_bytes", [8192, 1024 * 1024])
def test_a_flood_is_not_waited_for_however_small_the_pipe(
    make: Make, monkeypatch: pytest.MonkeyPatch, pipe_bytes: int
) -> None:
    """A user with many sandboxes gets small pipes: the worker must not fill one while the keeper sleeps."""
    monkeypatch.setattr(feed, "PIPE_BYTES", pipe_bytes)
    bench = make(AuditSettings())
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    bench.send(1)
    bench.turn()
    assert len(slept) == 1
    while bench.waiting() < min(ENOUGH_BYTES, pipe_bytes // 4):
        bench.send(1)
    bench.turn()
    assert len(slept) == 1
    assert not bench.feed.waiting


def test_a_few_records_give_way_to_whoever_waits_for_the_processor_and_a_flood_does_not(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make(AuditSettings())
    given: list[int] = []
    monkeypatch.setattr(os, "sched_yield", lambda: given.append(bench.waiting()))
    monkeypatch.setattr(feed, "POLITE_S", 60.0)  # however busy the machine is
    bench.send(50)
    bench.turn()
    assert bench.waiting() == 0
    assert len(given) >= 2
    given.clear()

    def flood(_: float) -> None:
        while bench.waiting() < 2 * ENOUGH_BYTES:
            bench.send(1)

    monkeypatch.setattr(time, "sleep", flood)
    bench.send(1)
    bench.turn()
    assert bench.waiting() == 0
    assert max(given) < ENOUGH_BYTES
    given.clear()
    bench.send(1)
    flood(0)
    bench.turn()
    assert not given


def test_who_gives_way_beside_processes_that_never_wait_writes_and_looks_up_in_between(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There one yield may take as long as all of a time slice of theirs."""
    bench = make(AuditSettings())
    sleep = time.sleep
    given: list[int] = []

    def elsewhere() -> None:
        given.append(bench.waiting())
        sleep(0.6 * POLITE_S)

    monkeypatch.setattr(os, "sched_yield", elsewhere)
    while bench.waiting() < ENOUGH_BYTES - 4096:
        bench.send(1)
    turns = kept = 0
    while bench.turn():
        assert 1 <= len(given) <= 3
        given.clear()
        assert bench.kept() > kept
        kept = bench.kept()
        turns += 1
    assert turns > 3
    assert kept == bench.feed.sent
