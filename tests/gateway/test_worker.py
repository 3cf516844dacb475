"""A worker in this process, with a keeper of records that takes its time."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.bundle import STOP, Bundle
from gateway.flow import Endpoint
from gateway.net.sockets import endpoint
from gateway.reasons import Reason
from gateway.supervisor import STOP_TIMEOUT_S
from gateway.tasks import spawn
from gateway.worker import KEEP_S, MAX_SESSIONS, SETTLE_S, Worker, most_sessions
from rules import NetworkPolicy
from tests.gateway.journal_desk import Desk
from tests.gateway.net.loop import WITHIN_S, until


class Served:
    """A worker that listens on loopback, where every connection is refused unread, for the floor holds it."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.listener.setblocking(False)
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._theirs = theirs
        nobody: Endpoint = endpoint(("127.0.0.1", 9))
        bundle = Bundle(
            "agent-1", NetworkPolicy(), nobody, (self.listener,), None, None, desk.ledger, desk.write_end
        )
        self.worker = Worker(bundle, theirs, frozenset())  # type: ignore[arg-type]  # any container of addresses
        self.serving = spawn(self.worker.serve(), "worker")

    def dial(self) -> None:
        socket.create_connection(self.listener.getsockname()[:2]).close()

    async def drain(self) -> None:
        """Stop it while its records are kept, as the supervisor does."""
        self.control.send(STOP)
        deadline = time.monotonic() + WITHIN_S
        while not self.serving.done() and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
            self.desk.keep()
        await self.serving

    async def stop(self) -> None:
        if not self.serving.done():
            self.control.send(STOP)
        await self.serving
        for sock in (self.listener, self.control, self._theirs):
            sock.close()


@pytest.fixture
async def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Served]:
    """At a stop it gives the keeper all the time there is: both may have to wait for the processor."""
    monkeypatch.setattr("gateway.worker.KEEP_S", 3600.0)
    desk = Desk(tmp_path)
    desk.shrink()
    served = Served(desk)
    await asyncio.sleep(0.05)
    yield served
    await served.stop()
    desk.close()


async def test_a_flow_is_called_after_a_life_that_no_other_will_have(served: Served) -> None:
    """Of 64 random bits: with 24, some five thousand workers share one."""
    served.dial()
    await until(served.desk.decisions)
    (record,) = served.desk.decisions()
    life, _, number = record["flow"].partition("-")
    assert (len(bytes.fromhex(life)), number) == (8, "1")


async def test_what_could_not_be_recorded_is_not_even_accepted(served: Served) -> None:
    """The kernel's queue keeps it, however long."""
    served.desk.stuff()
    for _ in range(10):
        served.dial()
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.3)
    waiting = len(served.desk.ledger.leftovers())
    assert waiting <= 1, "the first, for whose record there was no room"
    await until(lambda: len(served.desk.decisions()) >= 10)
    await asyncio.sleep(0.3)  # and no more come
    assert len(served.desk.decisions()) == 10


async def test_a_stop_waits_for_the_keeper_of_the_records(served: Served) -> None:
    served.desk.stuff()
    for _ in range(30):
        served.dial()
    served.control.send(STOP)
    deadline = time.monotonic() + WITHIN_S
    while not served.serving.done() and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
        served.desk.keep()
    assert len(served.desk.decisions()) == 30
    assert not served.desk.ledger.leftovers()


async def test_a_stop_does_not_wait_for_ever(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    assert KEEP_S + SETTLE_S < STOP_TIMEOUT_S, "the supervisor would have killed it"
    monkeypatch.setattr("gateway.worker.KEEP_S", 0.2)
    served.desk.stuff()
    served.dial()
    await served.stop()
    assert len(served.desk.ledger.leftovers()) == 1, "for the supervisor to write down"


@pytest.mark.parametrize(
    ("descriptors", "sessions"),
    [(1, 1), (32, 1), (64, 8), (1024, 248), (20000, MAX_SESSIONS), (1 << 20, MAX_SESSIONS)],
)
def test_sessions_are_so_few_that_descriptors_suffice(descriptors: int, sessions: int) -> None:
    assert most_sessions(descriptors) == sessions


async def test_a_stop_waits_for_whoever_waits_for_room(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An allowed connection that finds no room waits without a record; what has come meanwhile is accepted after it."""

    async def none(*_: object, **__: object) -> None:
        return None

    monkeypatch.setattr("gateway.worker.destination", lambda _: endpoint(("198.51.100.1", 9)))
    monkeypatch.setattr("gateway.session._connect", none)
    served.desk.stuff()
    served.dial()
    await until(lambda: served.worker._journal.waits)
    for _ in range(9):
        served.dial()
    await asyncio.sleep(0.1)
    served.desk.keep()
    await served.drain()
    served.desk.bury()
    assert len(served.desk.decisions()) == 10
    assert served.desk.log.lost == 0


async def test_a_stop_leaves_nothing_owed_that_was_sent(served: Served) -> None:
    served.desk.stuff()
    for number in range(3):
        served.worker._journal.blocked(served.desk.flow(number), Reason.LIMIT)
    assert served.desk.ledger.missing() == 3
    await served.drain()
    assert served.desk.ledger.missing() == 0
    served.desk.bury()
    assert len(served.desk.decisions()) == 3
    assert served.desk.log.lost == 0
