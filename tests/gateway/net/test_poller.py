"""The driver: waits, ends, deadlines, cancellation, and descriptors that change hands."""

import asyncio
import os
import socket
from itertools import chain

import pytest

from gateway.net import poller as module
from gateway.net import strand as strands
from gateway.net.clock import now
from gateway.net.events import IN, OUT
from gateway.net.poller import Poller
from gateway.net.sockets import reset_on_close
from gateway.net.strand import Strand, current, deadline, lately
from gateway.net.waits import EVENT, arrival, ready, receive
from gateway.tasks import spawn
from tests.gateway.asked import open_descriptors
from tests.gateway.net.carrying import carried
from tests.gateway.net.leaps import Leaps
from tests.gateway.net.loop import WITHIN_S, until
from tests.gateway.net.loopback import tcp_pair, unix_pair


async def test_readiness_is_told_once_and_kept_until_it_is_asked_for() -> None:
    one, other = unix_pair()

    async def work() -> list[int]:
        told = [await ready(one, OUT)]
        other.send(b"x")
        told.append(await ready(one, IN))
        return told

    with one, other:
        out, heard = await carried(work())
    assert out & OUT and heard & IN


async def test_what_happens_while_a_strand_waits_for_a_future_is_not_lost() -> None:
    one, other = unix_pair()
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def work() -> str:
        await ready(one, OUT)
        got = await answer
        await ready(one, IN)
        return got

    with one, other:
        task = spawn(carried(work()), "work")
        await asyncio.sleep(0.02)
        other.send(b"x")
        await asyncio.sleep(0.02)
        answer.set_result("answer")
        assert await asyncio.wait_for(task, WITHIN_S) == "answer"


@pytest.mark.parametrize("failure", [KeyError("k"), OSError(5, "x")])
async def test_what_a_future_raises_is_raised(failure: Exception) -> None:
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(0.02, answer.set_exception, failure)

    async def work() -> None:
        await answer

    with pytest.raises(type(failure)):
        await carried(work())


async def test_nothing_waits_outside_of_a_strand() -> None:
    with pytest.raises(RuntimeError, match=r"Poller\.start"):
        current()


async def test_the_end_of_a_turn_comes_when_all_have_had_theirs() -> None:
    poller = Poller()
    pairs = [unix_pair() for _ in range(3)]
    done: list[str] = []

    async def work(number: int) -> None:
        await ready(pairs[number][0], IN)
        done.append("work")
        poller.at_end(lambda: done.append("end"))

    for number in range(3):
        poller.start(work(number), lambda strand, failure: None)
    for _, theirs in pairs:
        theirs.send(b"x")
    await until(lambda: len(done) == 6)
    assert done == ["work"] * 3 + ["end"] * 3
    poller.at_end(lambda: done.append("soon"))
    assert done[-1] == "end", "there is no turn now"
    await asyncio.sleep(0)
    assert done[-1] == "soon"
    poller.close()
    for sock in chain.from_iterable(pairs):
        sock.close()


async def test_an_end_that_fails_takes_no_other_with_it() -> None:
    poller = Poller()
    done: list[str] = []

    def fails() -> None:
        raise ZeroDivisionError

    poller.begin_turn()
    poller.at_end(lambda: done.append("end"))
    poller.at_end(fails)
    with pytest.raises(ZeroDivisionError):
        poller.end_turn()
    poller.begin_turn()
    poller.end_turn()
    assert done == ["end"]
    poller.close()


async def test_each_strand_is_resumed_for_its_own_sockets() -> None:
    poller = Poller()
    pairs = [unix_pair() for _ in range(50)]
    heard: list[int] = []

    async def work(number: int) -> None:
        await ready(pairs[number][0], IN)
        heard.append(number)

    for number in range(50):
        poller.start(work(number), lambda strand, failure: None)
    for number in reversed(range(50)):
        pairs[number][1].send(b"x")
        await until(lambda number=number: heard[-1:] == [number])  # type: ignore[misc]
    assert heard == list(reversed(range(50)))
    assert not poller.live
    poller.close()
    for pair in pairs:
        for sock in pair:
            sock.close()


async def test_a_number_that_changes_hands_tells_nothing_of_its_last_owner() -> None:
    """Two strands are told of their sockets in one turn; the first closes both, and makes another that has the second's number."""
    poller = Poller()
    first, other_first = unix_pair()
    second, other_second = unix_pair()
    told: list[str] = []
    made: list[socket.socket] = []

    async def one() -> None:
        await ready(first, IN)
        strand.cancel()
        number = second.fileno()
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as another:
            second.close()
            sock = socket.socket(fileno=os.dup2(another.fileno(), number, inheritable=False))
        made.append(sock)
        sock.bind(("127.0.0.1", 0))
        sock.listen()  # nobody comes: not ready, whatever was said of its number
        current().wait_for(sock)
        await ready(sock, IN)
        told.append("one")

    async def two() -> None:
        await ready(second, IN)
        told.append("two")

    waits = poller.start(one(), lambda strand, failure: None)
    strand = poller.start(two(), lambda strand, failure: None)
    other_first.send(b"x")
    other_second.send(b"x")
    await until(lambda: made)
    await asyncio.sleep(0.05)
    assert told == []
    assert poller.live == {waits}
    poller.close()
    for sock in (first, other_first, other_second, *made):
        sock.close()


async def test_several_waits_share_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = unix_pair()
    leaps = Leaps(monkeypatch)
    waits = 0

    async def work() -> None:
        nonlocal waits
        with pytest.raises(TimeoutError), deadline(leaps() + 3600.0):
            while True:
                await ready(one, IN)
                one.recv(1)
                waits += 1

    with one, other:
        task = spawn(carried(work()), "work")
        for number in range(10):
            leaps.on(300.0)
            await asyncio.sleep(0.02)
            other.send(b"x")
            await until(lambda number=number: waits == number + 1)  # type: ignore[misc]
        leaps.on(3600.0)
        await asyncio.wait_for(task, WITHIN_S)


@pytest.mark.parametrize("inner_first", [True, False])
async def test_of_two_deadlines_the_one_that_has_passed_is_told(inner_first: bool) -> None:
    one, other = unix_pair()
    near, far = 0.1, 30.0

    async def work() -> str:
        try:
            with deadline(now() + (far if inner_first else near)):
                try:
                    with deadline(now() + (near if inner_first else far)):
                        await ready(one, IN)
                except TimeoutError:
                    return "inner"
        except TimeoutError:
            return "outer"
        return "none"

    with one, other:
        assert await asyncio.wait_for(carried(work()), WITHIN_S) == ("inner" if inner_first else "outer")


async def test_what_ends_in_time_ends_and_leaves_no_deadline() -> None:
    one, other = unix_pair()

    async def work() -> None:
        with deadline(now() + 30):
            await ready(one, OUT)
        assert current().deadlines == ()
        with pytest.raises(TimeoutError), deadline(now() - 1):
            await ready(one, IN)

    with one, other:
        await asyncio.wait_for(carried(work()), WITHIN_S)


async def test_a_deadline_holds_for_a_future_too() -> None:
    never: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def work() -> None:
        with pytest.raises(TimeoutError), deadline(now() + 0.05):
            await never

    await asyncio.wait_for(carried(work()), WITHIN_S)
    never.set_result(None)
    await asyncio.sleep(0)


class Counting(Poller):
    """How often it looked at the time."""

    ticks = 0

    def _tick(self) -> None:
        self.ticks += 1
        super()._tick()


async def _rests(poller: Counting) -> int:
    """Its ticks, when there are no more."""
    await until(lambda: poller._rests)
    return poller.ticks


async def test_what_idles_wakes_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TICK_S", 0.005)
    poller, (one, other) = Counting(), unix_pair()
    heard: list[int] = []

    async def work() -> None:
        for _ in range(2):
            heard.append(await ready(one, IN))
            one.recv(1)

    poller.start(work(), lambda strand, failure: None)
    with one, other:
        for number in range(2):
            ticks = await _rests(poller)
            await asyncio.sleep(0.1)
            assert poller.ticks == ticks
            other.send(b"x")
            await until(lambda number=number: len(heard) > number)  # type: ignore[misc]
    await until(lambda: poller._timer is None)
    poller.close()


async def test_a_deadline_that_is_set_while_nothing_was_looked_at_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By a strand that is there, and by one that begins."""
    monkeypatch.setattr(module, "TICK_S", 0.005)
    poller, (one, other) = Counting(), unix_pair()
    passed: list[str] = []

    async def idle(name: str) -> None:
        if name == "there":
            await ready(one, IN)
        with pytest.raises(TimeoutError), deadline(now() + 0.02):
            await _forever()
        passed.append(name)

    with one, other:
        poller.start(idle("there"), lambda strand, failure: None)
        await _rests(poller)
        other.send(b"x")
        await until(lambda: passed == ["there"])
        poller.start(_forever(), lambda strand, failure: None)
        await _rests(poller)
        poller.start(idle("begins"), lambda strand, failure: None)
        await until(lambda: passed == ["there", "begins"])
        poller.close()


async def _forever() -> None:
    while True:
        await EVENT


async def test_nothing_is_looked_at_until_the_first_deadline_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TICK_S", 0.005)
    poller = Counting()
    passed: list[float] = []

    async def work(seconds: float) -> None:
        begun = now()
        with pytest.raises(TimeoutError), deadline(begun + seconds):
            await _forever()
        passed.append(now() - begun)

    for seconds in (60.0, 0.3, 30.0):
        poller.start(work(seconds), lambda strand, failure: None)
    await until(lambda: passed)
    assert passed[0] >= 0.3
    assert poller.ticks < 10, "and not one each 5 ms"
    poller.close()


async def test_cancelled_it_closes_what_it_holds() -> None:
    one, other = unix_pair()

    async def work() -> None:
        with one:
            await ready(one, IN)

    task = spawn(carried(work()), "work")
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert one.fileno() == -1
    other.close()


async def test_the_end_is_told_once_with_what_ended_it() -> None:
    poller = Poller()
    ends: list[BaseException | None] = []

    async def fails() -> None:
        raise KeyError("k")

    async def waits() -> None:
        await EVENT

    def ended(strand: Strand, failure: BaseException | None) -> None:
        ends.append(failure)

    poller.start(fails(), ended)
    strand = poller.start(waits(), ended)
    strand.cancel()
    strand.cancel()
    strand.wake()
    assert [type(failure) for failure in ends] == [KeyError, asyncio.CancelledError]
    assert not poller.live
    poller.close()


async def test_closing_cancels_what_is_under_way() -> None:
    poller = Poller()
    ends: list[BaseException | None] = []

    async def waits() -> None:
        await EVENT

    for _ in range(3):
        poller.start(waits(), lambda strand, failure: ends.append(failure))
    before = open_descriptors()
    poller.close()
    assert [type(failure) for failure in ends] == [asyncio.CancelledError] * 3
    assert open_descriptors() == before - 1


async def _woken_by(sock: socket.socket, into: bytearray, at_least: int) -> int:
    await arrival(sock, at_least)
    return await receive(sock, into, 100)


async def test_who_waits_for_so_many_bytes_is_not_woken_by_fewer() -> None:
    one, other = tcp_pair()
    other.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    into = bytearray()
    with one, other:
        task = spawn(carried(_woken_by(one, into, 5)), "receive")
        await asyncio.sleep(0.02)
        for byte in (b"a", b"b", b"c", b"d"):
            other.send(byte)
            await asyncio.sleep(0.02)
            assert not task.done()
        other.send(b"e")
        assert await asyncio.wait_for(task, WITHIN_S) == 5
        assert one.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1, "who comes next wants any byte"
        other.send(b"f")
        assert await carried(receive(one, into, 100)) == 1, "what is there is taken"
        assert into == b"abcdef"


@pytest.mark.parametrize("end", ["close", "reset"])
async def test_who_waits_for_more_than_comes_hears_the_end(end: str) -> None:
    one, other = tcp_pair()
    with one:
        task = spawn(carried(_woken_by(one, bytearray(), 50)), "receive")
        await asyncio.sleep(0.02)
        if end == "close":
            other.send(b"last")
            other.close()
            assert await asyncio.wait_for(task, WITHIN_S) == 4
        else:
            reset_on_close(other)
            other.close()
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(task, WITHIN_S)


async def test_draining_ends_with_the_last_strand_or_with_patience() -> None:
    poller = Poller()
    one, other = unix_pair()

    async def waits() -> None:
        await ready(one, IN)

    poller.start(waits(), lambda strand, failure: None)
    await poller.drained(0.05)
    assert len(poller.live) == 1
    asyncio.get_running_loop().call_later(0.05, other.send, b"x")
    await asyncio.wait_for(poller.drained(30), WITHIN_S)
    assert not poller.live
    await asyncio.wait_for(poller.drained(30), WITHIN_S)
    poller.close()
    one.close()
    other.close()


async def test_a_turn_that_is_asked_for_twice_comes_once() -> None:
    """Else each event that resumes a strand before its turn adds a turn for good, and the others wait for all of them."""
    one, other = unix_pair()
    resumed = 0

    async def work() -> None:
        nonlocal resumed
        strand = current()
        strand.wait_for(one)
        for _ in range(50):
            strand.again()
            await EVENT
            resumed += 1

    with one, other:
        task = spawn(carried(work()), "work")
        rounds = 0
        while not task.done():
            other.send(b"x")
            before = resumed
            await asyncio.sleep(0)
            rounds += 1
            assert resumed - before <= 3  # its turn, and an event or two
            assert rounds < 1000
        await task
    assert resumed == 50


async def test_what_was_forgotten_may_be_waited_for_again() -> None:
    one, other = unix_pair()

    async def work() -> int:
        strand = current()
        ear = strand.wait_for(one)
        assert strand.wait_for(one) is ear
        strand.forget(one)
        assert not strand.hears(one)
        other.send(b"x")
        again = one.dup()  # registered anew, as another socket that got its number would be
        with again:
            again.setblocking(False)
            assert not strand.hears(again)
            return await ready(again, IN)

    with one, other:
        assert await carried(work()) & IN


async def test_the_time_is_asked_for_once_each_time_that_a_strand_is_resumed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[float] = []

    def clock() -> float:
        asked.append(now())
        return asked[-1]

    async def work() -> tuple[float, ...]:
        first, same = lately(), lately()
        current().again()
        await EVENT
        return first, same, lately()

    with monkeypatch.context() as patched:
        patched.setattr(strands, "now", clock)
        first, same, later = await carried(work())
        assert first == same < later
        assert {first, later} <= set(asked)
        assert lately() < lately()  # outside of a strand: now
