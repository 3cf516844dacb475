"""Commands of an ``AsyncSandbox``: killed with their objects, whoever else holds the loop; and nothing stays open when the loop is gone."""

import asyncio
import gc
import os
import time
from collections.abc import Callable, Coroutine
from typing import Any, cast

import pytest
import uvloop

from gateway.async_sandbox import AsyncCommands, AsyncRunningCommand
from gateway.attended import Attended
from gateway.commands import CommandResult, CommandTimeout, SandboxClosed
from gateway.errands import Ended, Kill, encode
from gateway.errors import EgressError
from tests.gateway.asked import Asked, Given, open_descriptors

KILL = encode(Kill())
Runs = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Runs:
    """A loop from its beginning to its end."""
    factory = asyncio.new_event_loop if request.param == "asyncio" else uvloop.new_event_loop

    def in_loop(main: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main)

    in_loop(asyncio.sleep(0))  # what the first loop of a process opens for all
    return in_loop


async def begin(timeout: float | None = None) -> tuple[AsyncRunningCommand, Given]:
    """A command in the background, and its ends."""
    asked = Asked()
    commands = AsyncCommands(cast(Attended, asked), {})
    running = await commands.run("x", background=True, timeout=timeout)
    assert isinstance(running, AsyncRunningCommand)
    return running, asked.given[-1]


def test_its_result_and_its_time(run: Runs) -> None:
    async def main() -> None:
        running, given = await begin(5)
        assert given.asked.timeout_s == 5
        given.end(Ended(7), b"said")
        result = await running.wait()
        assert (result.exit_code, result.stdout) == (7, "said")
        assert await running.wait() is result

    before = open_descriptors()
    run(main())
    assert open_descriptors() == before


def test_what_ended_in_time_has_a_result_however_late_the_loop_looks(run: Runs) -> None:
    async def main() -> None:
        running, given = await begin(0.1)
        given.end(Ended(7), b"x" * 65536)
        time.sleep(0.2)  # a loop that has other things to do
        result = await running.wait()
        assert (result.exit_code, len(result.stdout)) == (7, 65536)

    run(main())


def test_what_did_not_end_in_time_says_so_each_time(run: Runs) -> None:
    async def main() -> None:
        running, given = await begin(0.1)
        os.write(given.out, b"so far")
        for _ in range(2):
            with pytest.raises(CommandTimeout) as caught:
                await running.wait()
            assert caught.value.stdout == "so far"
        assert given.told() == b""
        given.close()

    run(main())


def test_what_was_killed_meanwhile_says_so(run: Runs) -> None:
    async def main() -> None:
        running, given = await begin(60)
        given.end(Ended(137, timed_out=True))
        with pytest.raises(CommandTimeout, match="within 60 seconds"):
            await running.wait()

    run(main())


def test_so_does_one_whose_sandbox_is_gone(run: Runs) -> None:
    async def main() -> None:
        running, given = await begin()
        given.close()
        for _ in range(2):
            with pytest.raises(SandboxClosed, match="is gone"):
                await running.wait()

    run(main())


def test_cancelled_it_is_killed_and_says_so(run: Runs) -> None:
    async def main() -> None:
        running, given = await begin()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(running.wait(), 0.05)
        assert given.told() == b""
        with pytest.raises(EgressError, match="was cancelled, and it was killed"):
            await running.wait()
        given.close()

    run(main())


def test_it_is_killed_with_its_object(run: Runs) -> None:
    async def main() -> None:
        before = open_descriptors()
        running, given = await begin(60)
        del running
        gc.collect()
        assert given.told() == KILL
        await asyncio.sleep(0.01)
        assert given.told() == b""
        given.close()
        assert open_descriptors() == before
        other, given = await begin()  # the loop hears of the numbers' next owners
        given.end(Ended(3))
        assert (await other.wait()).exit_code == 3

    run(main())


def test_a_task_that_waits_for_it_holds_it(run: Runs) -> None:
    async def main() -> None:
        results: list[CommandResult] = []
        waits, ended = asyncio.Event(), asyncio.Event()

        async def wait(running: AsyncRunningCommand) -> None:
            waits.set()
            results.append(await running.wait())
            ended.set()

        running, given = await begin()
        asyncio.get_running_loop().create_task(wait(running))  # nobody else holds it: that is the case
        del running
        await waits.wait()
        gc.collect()
        given.end(Ended(5))
        await asyncio.wait_for(ended.wait(), 10)
        assert [result.exit_code for result in results] == [5]

    run(main())


@pytest.mark.parametrize("outlives", [True, False])
def test_a_loop_that_ends_before_them_keeps_nothing_open(run: Runs, outlives: bool) -> None:
    kept: list[AsyncRunningCommand] = []
    given: list[Given] = []

    async def main() -> None:
        for _ in range(5):
            running, one = await begin(60)
            given.append(one)
            if outlives:
                kept.append(running)

    before = open_descriptors()
    run(main())
    kept.clear()
    gc.collect()
    for one in given:
        assert one.told() in (KILL, b"")
        one.close()
    assert open_descriptors() == before


def test_a_fork_of_the_program_leaves_it_alone(run: Runs) -> None:
    async def main() -> None:
        running, given = await begin()
        child = os.fork()
        if child == 0:
            try:
                del running
                gc.collect()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        given.end(Ended(4))
        assert (await running.wait()).exit_code == 4

    run(main())


@pytest.mark.parametrize("wrong", [{"stdin": 123}, {"timeout": "x"}, {"cwd": b"/x"}])
def test_a_bad_argument_leaves_nothing_open(run: Runs, wrong: dict[str, Any]) -> None:
    asked = Asked()

    async def main() -> None:
        before = open_descriptors()
        for _ in range(10):
            with pytest.raises(TypeError):
                await AsyncCommands(cast(Attended, asked), {}).run("x", **wrong)
        assert open_descriptors() == before

    run(main())
    assert asked.given == []
