"""``AsyncSandbox``: ``Sandbox`` for programs that run an event loop, asyncio's own or uvloop. The same names, awaited."""

import asyncio
import os
import weakref
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType

from gateway.arguments import asked, check_network, fed, ordered, variables
from gateway.attended import Attended
from gateway.commands import CommandResult, Heard, Streams
from gateway.errors import EgressError
from rules.link import LinkKind
from rules.policy import NetworkPolicy, SecurityPolicy


class AsyncSandbox:
    """One sandbox; ``create`` makes it. As ``Sandbox`` in everything else."""

    def __init__(
        self,
        attended: Attended,
        sandbox_id: str,
        link: LinkKind,
        audit_dir: str,
        home: str,
        envs: Mapping[str, str],
    ) -> None:
        """Use ``create``."""
        self._attended = attended
        self.sandbox_id = sandbox_id
        self.link = link
        self.audit_dir = audit_dir
        self.home = home
        self.commands = AsyncCommands(attended, envs)

    @classmethod
    async def create(
        cls,
        template: str = "base",
        *,
        security: SecurityPolicy | None = None,
        allow_internet_access: bool = True,
        name: str | None = None,
        audit_dir: str | os.PathLike[str] | None = None,
        link: LinkKind | None = None,
        binds: Iterable[str | os.PathLike[str]] = (),
        envs: Mapping[str, str] | None = None,
        user: str | None = None,
        metrics: str | os.PathLike[str] | None = None,
    ) -> "AsyncSandbox":
        """As ``Sandbox.create``."""
        own = variables(envs)
        wanted = asked(template, security, allow_internet_access, name, audit_dir, link, binds, user, metrics)
        attended = Attended()
        try:
            made = await asyncio.to_thread(attended.create, wanted)
        except asyncio.CancelledError:
            # The thread cannot be: it ends when the attendant does.
            await asyncio.shield(asyncio.to_thread(attended.kill))
            raise
        return cls(attended, wanted.name, made.link, made.audit_dir, made.home, own)

    async def update_network(self, network: NetworkPolicy | None) -> int:
        """As ``Sandbox.update_network``."""
        check_network(network)
        return await asyncio.to_thread(self._attended.update, network)

    async def kill(self) -> None:
        """As ``Sandbox.kill``."""
        await asyncio.to_thread(self._attended.kill)

    async def __aenter__(self) -> "AsyncSandbox":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.kill()


class AsyncCommands:
    """What runs in one sandbox."""

    def __init__(self, attended: Attended, envs: Mapping[str, str]) -> None:
        self._attended = attended
        self._envs = envs

    async def run(
        self,
        cmd: str | Sequence[str],
        *,
        background: bool = False,
        cwd: str | os.PathLike[str] | None = None,
        envs: Mapping[str, str] | None = None,
        user: str | None = None,
        stdin: bytes | str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the same names as in Sandbox
        on_stdout: Heard | None = None,
        on_stderr: Heard | None = None,
    ) -> "CommandResult | AsyncRunningCommand":
        """As ``Commands.run``; cancelled, it kills the command."""
        wanted = ordered(cmd, cwd, self._envs, envs, user, timeout)
        streams = Streams(fed(stdin), on_stdout, on_stderr, wanted.timeout_s)
        try:
            self._attended.send(wanted, streams.theirs)
        except BaseException:
            streams.close()
            raise
        finally:
            streams.hand_over()
        running = AsyncRunningCommand(streams)
        return running if background else await running.wait()


class AsyncRunningCommand:
    """A command that was started in the background. It is killed when its object is gone, so hold it."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._loop = asyncio.get_running_loop()
        self._result: asyncio.Future[CommandResult] = self._loop.create_future()
        self._waited_for: list[AsyncRunningCommand] = []
        """Itself, while a task waits that perhaps nobody holds but the loop."""
        self._watch = _Watch(self._loop, streams)
        weakref.finalize(self, self._watch.abandon)
        self._watch.begin(self, self._waited_for)

    def kill(self) -> None:
        """End it with everything that it started; ``wait`` then says 137."""
        self._streams.kill()

    async def wait(self) -> CommandResult:
        """As ``RunningCommand.wait``; cancelled, it kills the command."""
        self._waited_for.append(self)
        try:
            return await asyncio.shield(self._result)
        except asyncio.CancelledError:
            self._over(EgressError("who waited for the command was cancelled, and it was killed"))
            raise
        finally:
            self._waited_for.remove(self)

    def _read(self, descriptor: int) -> None:
        streams = self._streams
        if descriptor not in streams.open:
            return
        try:
            streams.read(descriptor)
            if descriptor not in streams.open:
                self._watch.unwatch(descriptor)
            if not streams.open:
                self._over(streams.result())
        except Exception as error:
            self._over(error)

    def _too_late(self) -> None:
        streams = self._streams
        try:
            self._over(streams.result() if streams.take() else streams.timed_out())
        except Exception as error:
            self._over(error)

    def _over(self, outcome: CommandResult | Exception) -> None:
        self._watch.end()
        if self._result.done():
            return
        if isinstance(outcome, CommandResult):
            self._result.set_result(outcome)
        else:
            self._result.set_exception(outcome)
            self._result.exception()  # where nobody waits for it nobody is to be told


class _Watch:
    """What a loop hears of a command. It knows the command's object only as long as that lives: by its end the command is killed."""

    def __init__(self, loop: asyncio.AbstractEventLoop, streams: Streams) -> None:
        self._loop = loop
        self._streams = streams
        self._watched = set(streams.open)
        self._timer: asyncio.TimerHandle | None = None
        self._pid = os.getpid()

    def begin(self, running: AsyncRunningCommand, held: list[AsyncRunningCommand]) -> None:
        """Have ``running`` told. The loop holds what is ``held``."""
        it = weakref.ref(running)
        for descriptor in self._watched:
            self._loop.add_reader(descriptor, _tell_of, it, descriptor, held)
        left_s = self._streams.left_s()
        if left_s is not None:
            self._timer = self._loop.call_later(left_s, _tell_late, it)

    def unwatch(self, descriptor: int) -> None:
        """There is nothing more to hear of it."""
        self._watched.discard(descriptor)
        self._loop.remove_reader(descriptor)

    def end(self) -> None:
        """In the loop: hear no more, and give everything back. Safe twice."""
        if self._timer is not None:
            self._timer.cancel()
        while self._watched:
            self._loop.remove_reader(self._watched.pop())
        self._streams.close()

    def abandon(self) -> None:
        """Anywhere: the object is gone. A fork of the program has a copy, and lets it be: the loop's descriptors are not its own."""
        if os.getpid() != self._pid:
            return
        self._streams.kill()
        try:
            self._loop.call_soon_threadsafe(self.end)
        except RuntimeError:  # the loop is closed
            self._streams.close()


def _tell_of(
    it: "weakref.ref[AsyncRunningCommand]", descriptor: int, _held: list[AsyncRunningCommand]
) -> None:
    running = it()
    if running is not None:
        running._read(descriptor)


def _tell_late(it: "weakref.ref[AsyncRunningCommand]") -> None:
    running = it()
    if running is not None:
        running._too_late()
