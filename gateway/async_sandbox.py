"""``AsyncSandbox``: ``Sandbox`` for programs that run an event loop, asyncio's own or uvloop. The same names, awaited."""

import asyncio
import os
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType

from gateway.arguments import asked, check_network, ordered, variables
from gateway.attended import Attended
from gateway.commands import CommandResult, Heard, Streams
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
        data = stdin.encode() if isinstance(stdin, str) else stdin
        wanted = ordered(cmd, cwd, self._envs, envs, user)
        streams = Streams(data, on_stdout, on_stderr)
        try:
            self._attended.send(wanted, streams.theirs)
        except BaseException:
            streams.close()
            raise
        finally:
            streams.hand_over()
        running = AsyncRunningCommand(streams, timeout)
        return running if background else await running.wait()


class AsyncRunningCommand:
    """A command that was started in the background. It is killed when its object is gone, so hold it."""

    def __init__(self, streams: Streams, timeout: float | None) -> None:
        self._streams = streams
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._result: asyncio.Future[CommandResult] = self._loop.create_future()
        self._timer = None if timeout is None else self._loop.call_later(timeout, self._too_late)
        for descriptor in streams.open:
            self._loop.add_reader(descriptor, self._read, descriptor)

    def kill(self) -> None:
        """End it with everything that it started; ``wait`` then says 137."""
        self._streams.kill()

    async def wait(self) -> CommandResult:
        """As ``RunningCommand.wait``; cancelled, it kills the command."""
        try:
            return await self._result
        except asyncio.CancelledError:
            self._over()
            raise

    def _read(self, descriptor: int) -> None:
        streams = self._streams
        try:
            streams.read(descriptor)
            if descriptor in streams.open:
                return
            self._loop.remove_reader(descriptor)
            if streams.open:
                return
            result = streams.result()
        except Exception as error:
            self._over(error)
        else:
            self._over()
            if not self._result.done():
                self._result.set_result(result)

    def _too_late(self) -> None:
        self._over(self._streams.timed_out(self._timeout or 0))

    def _over(self, error: Exception | None = None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for descriptor in self._streams.open:
            self._loop.remove_reader(descriptor)
        self._streams.close()
        if error is not None and not self._result.done():
            self._result.set_exception(error)
