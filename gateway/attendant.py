"""The process behind one ``Sandbox``: it holds the gateway, starts commands, and takes everything down when it is told to or its asker is gone.

A process of its own because a gateway forks, keeps time and hears of deaths, which a library must not do inside anybody's program.
"""

import contextlib
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from audit.files import default_directory
from gateway.errands import (
    ENCLOSED,
    MAX_BYTES,
    MAX_DESCRIPTORS,
    Answer,
    Create,
    Created,
    Ended,
    Kill,
    Killed,
    Run,
    Trouble,
    Update,
    Updated,
    decode_errand,
    encode,
)
from gateway.errors import EgressError, InDoubt, SetupError
from gateway.inherited import Endings, hold_standard_descriptors
from gateway.netd.server import Netd
from gateway.privilege import check_link, usual_link
from rules.policy import NetworkPolicy, SecurityPolicy

if TYPE_CHECKING:
    from gateway.launch import Command
    from gateway.scratch import Scratch
    from gateway.supervisor import Supervisor
    from gateway.view import Identity

PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MAX_WAIT_S: Final = 86400.0
"""At once: epoll_wait(2) takes milliseconds in an int."""


def main(descriptor: int) -> NoReturn:
    """Attend to the sandbox that is asked for on the socket ``descriptor``."""
    hold_standard_descriptors()
    # Who asks may ignore it, and then no child can be waited for.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    endings = Endings()
    netd = Netd()  # it imports while this process does
    channel = socket.socket(fileno=descriptor)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # nobody is there to be told
        try:
            _attend(channel, netd, endings)
        except EgressError as error:
            channel.send(encode(trouble(error)))
        except Exception as error:
            channel.send(encode(Trouble("SetupError", f"{type(error).__name__}: {error}")))
    os._exit(0)


def _attend(channel: socket.socket, netd: Netd, endings: Endings) -> None:
    from gateway.scratch import Scratch
    from gateway.supervisor import Supervisor
    from gateway.view import identify, real

    raw, _ = receive(channel)
    asked = decode_errand(raw)
    if not isinstance(asked, Create):
        raise EgressError("the first thing to be said is what to create")
    link = asked.link or usual_link()
    check_link(link)
    policy = SecurityPolicy.from_dict(asked.policy)
    audit_dir = Path(asked.audit_dir).absolute() if asked.audit_dir else default_directory().absolute()
    identity = identify(asked.user, os.environ)
    metrics = Path(asked.metrics).absolute() if asked.metrics else None
    with Supervisor(policy, asked.name, audit_dir, netd, link=link, metrics=metrics, say=say) as supervisor:
        scratch = Scratch(identity.uid, identity.gid)
        try:
            supervisor.open()
            attendant = Attendant(
                channel,
                supervisor,
                Place(scratch, audit_dir, tuple(map(real, (*map(Path, asked.binds), scratch.home))), metrics),
                identity,
                policy,
                endings,
            )
            channel.send(encode(Created(link, str(audit_dir), str(scratch.home))))
            told = attendant.serve()
        finally:
            scratch.remove()
    if told:
        channel.send(encode(Killed(supervisor.summary.allowed, supervisor.summary.blocked)))


@dataclass(frozen=True, slots=True)
class Place:
    """What the sandbox's commands find on the disk."""

    scratch: "Scratch"
    audit_dir: Path
    given: tuple[Path, ...]
    """All that is writable, as it was when the sandbox was made: what leads there may lie where a command can write."""
    metrics: Path | None


class Attendant:
    """One sandbox's commands."""

    def __init__(
        self,
        channel: socket.socket,
        supervisor: "Supervisor",
        place: Place,
        identity: "Identity",
        policy: SecurityPolicy,
        endings: Endings,
    ) -> None:
        self._endings = endings
        self._channel = channel
        self._supervisor = supervisor
        self._place = place
        self._user = f"{identity.uid}:{identity.gid}" if os.geteuid() == 0 else None
        self._resolver = str(policy.resolver_ip)
        self._running: set[Running] = set()
        self._over = False
        self._told = False

    def serve(self) -> bool:
        """Until the asker says so, which is True, or is gone; then nobody is left running."""
        self._supervisor.watch(self._channel.fileno(), self._hear)
        asker = os.pidfd_open(peer(self._channel))  # a fork of it can hold the channel open when it is gone
        self._supervisor.watch(asker, self._end)
        self._supervisor.watch(self._endings.fileno(), self._heed)
        while not self._over:
            self._supervisor.turn(self._due_in())
            self._kill_the_late()
        self._supervisor.unwatch(self._endings.fileno())
        self._supervisor.unwatch(self._channel.fileno())
        self._supervisor.unwatch(asker)
        os.close(asker)
        for one in list(self._running):
            one.kill()
        while self._running:
            self._supervisor.turn(None)
        return self._told

    def _end(self) -> None:
        self._over = True

    def _heed(self) -> None:
        self._over |= self._endings.come()

    def _due_in(self) -> float | None:
        """Seconds until the first command's time is up."""
        ends = [one.give_up for one in self._running if one.give_up is not None and not one.timed_out]
        return min(MAX_WAIT_S, max(0.0, min(ends) - time.monotonic())) if ends else None

    def _kill_the_late(self) -> None:
        now = time.monotonic()
        for one in self._running:
            if one.give_up is not None and one.give_up <= now and not one.timed_out:
                one.timed_out = True
                one.kill()

    def _hear(self) -> None:
        try:
            raw, brought = receive(self._channel)
        except ConnectionResetError:
            raw, brought = b"", []
        if not raw:
            self._over = True
            return
        errand = decode_errand(raw)
        if isinstance(errand, Kill):
            self._over = self._told = True
        elif isinstance(errand, Update):
            self._update(errand)
        elif isinstance(errand, Run) and brought:
            channel, streams = socket.socket(fileno=brought[0]), brought[1:]
            if len(brought) == MAX_DESCRIPTORS:
                self._run(errand, channel, streams)
            else:  # the kernel leaves out what finds no number: unix(7), MSG_CTRUNC
                _refuse(channel, SetupError("no descriptors are left for a command; raise RLIMIT_NOFILE"))
                for descriptor in streams:
                    os.close(descriptor)

    def _update(self, asked: Update) -> None:
        """One at a time: meanwhile commands end and records are kept, but nothing more is asked."""
        self._supervisor.unwatch(self._channel.fileno())
        try:
            network = None if asked.network is None else NetworkPolicy.from_dict(asked.network)
            answer(self._channel, Updated(self._supervisor.swap(network), asked.number))
        except EgressError as error:
            answer(self._channel, trouble(error, asked.number))
            self._over = isinstance(error, InDoubt)
        self._supervisor.watch(self._channel.fileno(), self._hear)

    def _run(self, asked: Run, channel: socket.socket, streams: list[int]) -> None:
        from gateway.launch import forwarded, launch
        from gateway.view import plan_view, reachable

        place, home, begun = self._place, self._place.scratch.home, time.monotonic()
        try:
            view = plan_view(
                cwd=None,
                binds=place.given,
                protected=[place.audit_dir],
                unseen=[place.metrics] if place.metrics and place.metrics.is_socket() else [],
                user=asked.user or self._user,
                resolver=self._resolver,
                # Not the program's own: it may hold what the sandbox must not know.
                environment={"PATH": PATH, "LANG": "C.UTF-8"},
                tmp=place.scratch.tmp,
            )
            for path in view.writable:
                if path not in place.given:
                    raise SetupError(
                        f"binds: one leads to {path} now, which was not handed in; create another sandbox"
                    )
            environment = {**view.environment, "HOME": str(home), **asked.environment}
            start = home if asked.cwd or reachable(home, view.identity) else Path("/")
            view = replace(view, cwd=start / (asked.cwd or ""), environment=environment)
            command = launch(view, asked.argv, self._supervisor.namespaces, streams)
        except (
            EgressError,
            OSError,
            ValueError,
        ) as error:  # a directory that is gone, an argument too long: this command's trouble alone
            _refuse(channel, error)
            return
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, forwarded())
            for descriptor in streams:
                os.close(descriptor)
        give_up = None if asked.timeout_s is None else begun + asked.timeout_s
        try:
            self._running.add(Running(command, channel, self._supervisor, self._running.discard, give_up))
        except OSError as error:  # no descriptor is left
            command.kill()
            with contextlib.suppress(EgressError):
                command.finish()
            _refuse(channel, error)


class Running:
    """A command and the channel on which its asker waits."""

    def __init__(
        self,
        command: "Command",
        channel: socket.socket,
        supervisor: "Supervisor",
        forget: Callable[["Running"], None],
        give_up: float | None,
    ) -> None:
        """``give_up``: when its time is up, on the monotonic clock. OSError where it cannot be watched."""
        self.give_up = give_up
        self.timed_out = False
        self._command = command
        self._channel = channel
        self._supervisor = supervisor
        self._forget = forget
        self._pidfd = os.pidfd_open(command.pid)
        supervisor.watch(self._pidfd, self._ended)
        supervisor.watch(channel.fileno(), self._hear)

    def kill(self) -> None:
        """With everything that it has started."""
        self._command.kill()

    def _hear(self) -> None:
        """Whatever comes, a word or the end of who would say one, is meant to end it."""
        self._supervisor.unwatch(self._channel.fileno())
        with contextlib.suppress(OSError):
            self._channel.recv(MAX_BYTES)  # else the answer would be lost with what nobody read
        self.kill()

    def _ended(self) -> None:
        self._supervisor.unwatch(self._pidfd)
        self._supervisor.unwatch(self._channel.fileno())
        os.close(self._pidfd)
        try:
            answer(self._channel, Ended(self._command.finish(), self.timed_out))
        except EgressError as error:
            answer(self._channel, trouble(error))
        self._channel.close()
        self._forget(self)


def _refuse(channel: socket.socket, error: Exception) -> None:
    """Say that a command cannot be, and no more on its channel."""
    answer(channel, trouble(error))
    channel.close()


def trouble(error: Exception, number: int = 0) -> Trouble:
    """What is answered instead, in the words of who asks from Python."""
    from gateway.view import ViewError

    if isinstance(error, ViewError):
        return Trouble("SetupError", error.in_python, number)
    return Trouble(type(error).__name__, str(error), number)


def say(line: str) -> None:
    """One line on standard error, if anybody can be told."""
    with contextlib.suppress(OSError):
        os.write(2, f"egress: {line}\n".encode())


def peer(channel: socket.socket) -> int:
    """Whose socket pair it was: unix(7), SO_PEERCRED."""
    pid, _, _ = struct.unpack("3i", channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(pid)


def receive(channel: socket.socket) -> tuple[bytes, list[int]]:
    """One message, and what it brought; empty at the end."""
    raw, brought, _, _ = socket.recv_fds(channel, MAX_BYTES, MAX_DESCRIPTORS + 1)
    if raw != ENCLOSED or not brought:
        return raw, brought
    file, *others = brought
    try:
        return os.pread(file, os.fstat(file).st_size, 0), others
    finally:
        os.close(file)


def answer(channel: socket.socket, message: Answer) -> None:
    """To somebody who may have gone meanwhile."""
    with contextlib.suppress(OSError):
        channel.send(encode(message))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
