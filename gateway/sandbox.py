"""``Sandbox``: commands that reach only what a policy allows, from any program.

with Sandbox.create(security=SecurityPolicy(network=NetworkPolicy(allow_out=["api.github.com"], deny_out=[ALL_TRAFFIC]))) as sbx:
    print(sbx.commands.run("curl -sS https://api.github.com/zen").stdout)
"""

import os
import selectors
import threading
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Final, Literal, overload

from gateway.arguments import asked, check_network, fed, ordered, variables
from gateway.attended import Attended
from gateway.commands import CommandResult, Heard, Streams
from gateway.errors import EgressError
from rules.link import LinkKind
from rules.policy import NetworkPolicy, SecurityPolicy

MAX_WAIT_S: Final = 86400.0
"""At once: poll(2) takes milliseconds in an int."""


class Sandbox:
    """One sandbox; ``create`` makes it. Its commands share a network, a home directory and ``/tmp``, all gone with it; each has its own processes.

    Any thread may use it. It lives until ``kill``, the end of a ``with`` block, or the end of the program, however that comes.
    """

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
        """Its name in the records."""
        self.link = link
        self.audit_dir = audit_dir
        """Where the records of its attempts are."""
        self.home = home
        """The directory that commands start in; the host sees it under the same name."""
        self.commands = Commands(attended, envs)

    @classmethod
    def create(
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
    ) -> "Sandbox":
        """Make a sandbox. Without ``security`` everything may leave, and is recorded; ``allow_internet_access=False`` denies everything.

        ``template``: ``base``, the machine's file system, read-only. ``binds``: paths that are writable inside. ``envs``: variables of every command,
        which inherits none of the program's. ``user``: as root, ``"UID:GID"`` of the commands (SUDO_UID, else 65534). ``link``: ``veth`` (root),
        ``lo``; the best of them if None. ``audit_dir``, ``metrics``: as ``egress run --audit-dir``, ``--metrics``.

        PolicyError, ValueError, TypeError before anything is started; EgressError where the machine cannot (PrivilegeError, SetupError).
        """
        own = variables(envs)
        wanted = asked(template, security, allow_internet_access, name, audit_dir, link, binds, user, metrics)
        attended = Attended()
        made = attended.create(wanted)
        return cls(attended, wanted.name, made.link, made.audit_dir, made.home, own)

    def update_network(self, network: NetworkPolicy | None) -> int:
        """Replace the policy in force, for what runs already too: what it no longer allows ends at once. Its number, ``generation`` in records.

        None is full egress. TypeError, and SetupError where it cannot be (another ``resolver``): then nothing has changed. InDoubt
        (a SetupError) where nobody knows what is in force: then the sandbox has been ended. SandboxClosed.
        """
        check_network(network)
        return self._attended.update(network)

    def kill(self) -> None:
        """End every command, write the last records, take everything down. Safe twice."""
        self._attended.kill()

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


class Commands:
    """What runs in one sandbox."""

    def __init__(self, attended: Attended, envs: Mapping[str, str]) -> None:
        self._attended = attended
        self._envs = envs

    @overload
    def run(self, cmd: str | Sequence[str], *, background: Literal[False] = False, cwd: str | os.PathLike[str] | None = None,
            envs: Mapping[str, str] | None = None, user: str | None = None, stdin: bytes | str | None = None, timeout: float | None = None,
            on_stdout: Heard | None = None, on_stderr: Heard | None = None) -> CommandResult: ...  # fmt: skip

    @overload
    def run(self, cmd: str | Sequence[str], *, background: Literal[True], cwd: str | os.PathLike[str] | None = None,
            envs: Mapping[str, str] | None = None, user: str | None = None, stdin: bytes | str | None = None, timeout: float | None = None,
            on_stdout: Heard | None = None, on_stderr: Heard | None = None) -> "RunningCommand": ...  # fmt: skip

    def run(
        self,
        cmd: str | Sequence[str],
        *,
        background: bool = False,
        cwd: str | os.PathLike[str] | None = None,
        envs: Mapping[str, str] | None = None,
        user: str | None = None,
        stdin: bytes | str | None = None,
        timeout: float | None = None,
        on_stdout: Heard | None = None,
        on_stderr: Heard | None = None,
    ) -> "CommandResult | RunningCommand":
        """Run ``cmd``, by a shell if it is text, and wait for its end, which is the result whatever the exit code.

        ``timeout`` in seconds, after which it is killed, waited for or not: CommandTimeout. ``on_stdout``, ``on_stderr`` are called with text as it
        comes. With ``background=True`` it is not waited for: the result is a RunningCommand. SandboxClosed where the sandbox is gone.
        """
        wanted = ordered(cmd, cwd, self._envs, envs, user, timeout)
        streams = Streams(fed(stdin), on_stdout, on_stderr, wanted.timeout_s)
        try:
            self._attended.send(wanted, streams.theirs)
        except BaseException:
            streams.close()
            raise
        finally:
            streams.hand_over()
        running = RunningCommand(streams)
        return running if background else running.wait()


class RunningCommand:
    """A command that was started in the background. It is killed when its object is gone, so hold it."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._lock = threading.Lock()
        self._outcome: CommandResult | Exception | None = None

    def kill(self) -> None:
        """End it with everything that it started; ``wait`` then says 137."""
        self._streams.kill()

    def wait(self) -> CommandResult:
        """Its result, once it has ended. CommandTimeout, SandboxClosed, and EgressError where it could not be started. Always the same."""
        with self._lock:
            if self._outcome is None:
                # Unless there is another: Ctrl-C, perhaps, which is no outcome of its own.
                self._outcome = EgressError("who waited for the command was interrupted, and it was killed")
                try:
                    self._gather()
                    self._outcome = self._streams.result()
                except Exception as error:
                    self._outcome = error
                finally:
                    self._streams.close()
            if isinstance(self._outcome, Exception):
                raise self._outcome
            return self._outcome

    def _gather(self) -> None:
        streams = self._streams
        with selectors.PollSelector() as selector:  # which needs no descriptor
            for descriptor in streams.open:
                selector.register(descriptor, selectors.EVENT_READ)
            while streams.open:
                left = streams.left_s()
                if left == 0:
                    if not streams.take():
                        raise streams.timed_out()
                    return
                for key, _ in selector.select(None if left is None else min(left, MAX_WAIT_S)):
                    streams.read(key.fd)
                    if key.fd not in streams.open:
                        selector.unregister(key.fd)
