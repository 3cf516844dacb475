"""The privileged process itself: reads typed requests from its one socket, answers each, and ends when the socket does."""

import contextlib
import faulthandler
import gc
import logging
import os
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from msgspec import MsgspecError

from gateway.errors import EgressError, InDoubt, PrivilegeError, SetupError
from gateway.netd.cells import MAX_DESCRIPTORS
from gateway.netd.changes import Changes
from gateway.netd.requests import (
    MAX_MESSAGE_BYTES,
    MAX_REQUEST_BYTES,
    Answer,
    CellClosed,
    CellOpened,
    CloseCell,
    Failed,
    OpenCell,
    PlansSwapped,
    Request,
    SwapPlans,
    decode_answer,
    decode_request,
    encode,
)
from gateway.signals import leave_to_the_asker
from gateway.userns import obstacle
from rules.backend import Backend
from rules.plan import Plan

if TYPE_CHECKING:
    from gateway.netd.held import Held

ANSWER_TIMEOUT_S = 60.0
"""Longer than a swap and taking it back may take (``cells.WORK_TIMEOUT_S``)."""
ENCLOSED: Final = b"enclosed"
"""Instead of a request that is too long: it is in the file that comes with the message."""
MAX_BROUGHT: Final = 2
SYSTEM_PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"
"""What root runs is looked for here: the caller's PATH may name a directory that a sandbox once could write."""

log = logging.getLogger("egress.netd")


class Netd:
    """The asking side: a forked netd process and the socket to it."""

    def __init__(self) -> None:
        """Fork it. It shares no descriptor with this process but the socket and the standard three."""
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            serve(theirs)
        theirs.close()
        self._socket.settimeout(ANSWER_TIMEOUT_S)
        self._in_doubt = False
        self._uplink = False
        """Whether one was asked for: only then may something be left on the host."""
        self._closed = False

    def open_cell(
        self, plan: Plan, plan6: Plan | None = None, firewall: Backend | None = None
    ) -> dict[str, int]:
        """Descriptors by name (``CellOpened.descriptors``), owned by the caller. PrivilegeError or SetupError, with the reason."""
        answer, descriptors = self._ask(OpenCell(plan, plan6, firewall))
        if isinstance(answer, CellOpened):
            return dict(zip(answer.descriptors, descriptors, strict=True))
        raise _error(answer)

    def swap_plans(
        self, sandbox: int, plan: Plan, plan6: Plan | None = None, firewall: Backend | None = None
    ) -> dict[str, int]:
        """Put other plans in force in the cell whose ``netns`` is ``sandbox``: ``PlansSwapped.descriptors`` by name, owned by the caller. SetupError,
        and then what was in force still is; InDoubt, and then nobody knows."""
        answer, descriptors = self._ask(SwapPlans(plan, plan6, firewall), [sandbox])
        if isinstance(answer, PlansSwapped):
            return dict(zip(answer.descriptors, descriptors, strict=True))
        raise _error(answer)

    def close_cell(self, sandbox: int) -> None:
        """Take down the cell whose ``netns`` is ``sandbox``; the caller's descriptors remain the caller's to close. SetupError."""
        answer, _ = self._ask(CloseCell(), [sandbox])
        if not isinstance(answer, CellClosed):
            raise _error(answer)

    def _ask(self, request: Request, brought: Sequence[int] = ()) -> tuple[Answer, list[int]]:
        if self._in_doubt:
            raise InDoubt("netd owes an answer")
        if isinstance(request, OpenCell | SwapPlans):
            self._uplink |= any(one is not None and one.uplink for one in (request.plan, request.plan6))
        try:
            _send(self._socket, encode(request), brought)
        except OSError as error:
            raise SetupError(f"netd is gone: {error}") from error
        try:
            message, descriptors, _, _ = socket.recv_fds(self._socket, MAX_MESSAGE_BYTES, MAX_DESCRIPTORS)
        except OSError as error:
            self._in_doubt = True  # if it comes after all, it is no other request's
            raise InDoubt(f"netd does not answer: {error}") from error
        if not message:
            raise InDoubt("netd died over it")
        return decode_answer(message), descriptors

    def close(self, say: Callable[[str], object] = log.warning) -> None:
        """End the process; what it made lives on in the descriptors that it gave. ``say`` gets a line where it did not end well. Safe twice."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(OSError):  # it is gone already
            self._socket.shutdown(socket.SHUT_WR)
        reason = self._last_word()
        self._socket.close()
        try:
            status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        except ChildProcessError:
            return  # somebody else has reaped it
        if status:
            how = f"by signal {-status}" if status < 0 else f"with status {status}"
            left = (
                "; devices, rules and settings of the uplink may be left on this host: "
                'the next start with an uplink takes them away, or see "Taking it away" in docs/operations.md'
            )
            say(f"netd ended {how}{reason and f' ({reason})'}{left if self._uplink else ''}")

    def _last_word(self) -> str:
        """Why it ends as it does, if it says so; an answer that comes too late is let go."""
        said = ""
        with contextlib.suppress(OSError, MsgspecError):
            while True:
                raw, descriptors, _, _ = socket.recv_fds(self._socket, MAX_MESSAGE_BYTES, MAX_DESCRIPTORS)
                for descriptor in descriptors:
                    os.close(descriptor)
                if not raw:
                    break
                answer = decode_answer(raw)
                said = answer.message if isinstance(answer, Failed) else ""
        return said


def _send(channel: socket.socket, raw: bytes, brought: Sequence[int] = ()) -> None:
    if len(raw) <= MAX_MESSAGE_BYTES:
        socket.send_fds(channel, [raw], brought)
        return
    with os.fdopen(os.memfd_create("request", os.MFD_CLOEXEC), "wb") as file:
        file.write(raw)
        file.flush()
        socket.send_fds(channel, [ENCLOSED], [file.fileno(), *brought])


def _receive(channel: socket.socket) -> tuple[bytes, list[int]]:
    """One request and the descriptor that it brought; empty when there will be no more."""
    raw, brought, _, _ = socket.recv_fds(channel, MAX_MESSAGE_BYTES, MAX_BROUGHT)
    if raw != ENCLOSED or not brought:
        return raw, brought
    file, *others = brought
    try:
        return os.pread(file, MAX_REQUEST_BYTES, 0) or raw, others
    except OSError:
        return raw, others  # no file, and no request
    finally:
        os.close(file)


def _let_go(keep: int) -> None:
    """Every descriptor of the asker's but the standard three and ``keep`` becomes the null device.

    Not closed: what the asker left behind still knows its numbers and closes them, garbage when it is collected, libuv in each child of a
    fork. By then they would be others' numbers.
    """
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in (keep, null):
            try:
                os.dup2(null, int(name), inheritable=False)
            except OSError:
                # Beyond the limit, which was lowered since it was opened: it cannot be had again either.
                os.close(int(name))


def _error(failed: Answer) -> EgressError:
    if not isinstance(failed, Failed):
        return SetupError(f"netd answered something else: {failed}")
    if failed.privilege:
        mend = "it needs CAP_SYS_ADMIN and CAP_NET_ADMIN, which this root does not have"
        if os.geteuid() != 0:
            mend = obstacle() or "run egress as root, or see egress doctor"
        return PrivilegeError(f"{failed.message}; {mend}")
    return InDoubt(failed.message) if failed.in_doubt else SetupError(failed.message)


def serve(channel: socket.socket) -> None:
    """Answer requests until the other side closes; never returns. Nonsense is answered with ``Failed`` and changes nothing."""
    status = 0
    try:
        gc.freeze()  # a collection would touch all that the asker has imported, and make it a copy of this process's own: 20 MB
        leave_to_the_asker()
        os.setpgid(0, 0)  # what a terminal or a shell sends to the group belongs to the command
        _let_go(channel.fileno())
        # Imported once, before any cell is asked for: a cell's process then forks with them loaded.
        faulthandler.enable()  # the libraries below are C, and have crashed before
        os.environ["PATH"] = SYSTEM_PATH  # finding libxtables may run ldconfig or a compiler
        import rules.iptables  # noqa: F401

        # Nor before the fork: pyroute2 takes longer than all that the asker imports, and stays in the memory of each of its workers.
        from gateway.netd.held import Held

        held = Held()
        try:
            _answer_all(channel, held)
        finally:
            held.close_all()
    except BaseException as error:
        status = 1
        _tell_why(channel, error)
    finally:
        os._exit(status)


def _answer_all(channel: socket.socket, held: "Held") -> None:
    """Until there will be no more requests; between two of them, what the host has is looked after."""
    while _answer_one(channel, held):
        if held.forwards():
            with contextlib.closing(Changes(channel)) as changes:
                while held.forwards():
                    if changes.due():
                        _say(held.look_after())
                        changes.looked(settled=held.settled)
                    elif not _answer_one(channel, held):
                        return


def _answer_one(channel: socket.socket, held: "Held") -> bool:
    """Whether there may be more."""
    raw, brought = _receive(channel)
    if not raw:
        return False
    answer, descriptors = _answer(raw, brought, held)
    for descriptor in brought:
        os.close(descriptor)
    try:
        socket.send_fds(channel, [encode(answer)], descriptors)
    except ConnectionError:  # whoever asked was killed meanwhile: what was made for it goes
        return False
    for descriptor in descriptors:
        os.close(descriptor)
    return True


def _tell_why(channel: socket.socket, error: BaseException) -> None:
    """The last word. What was asked for may have been done by then."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    reason = text.encode(errors="backslashreplace").decode()
    try:
        channel.send(encode(Failed(reason, in_doubt=True)))
    except OSError:  # whoever asked is gone: what is left on the host is to be known all the same
        _say(reason)


def _say(what: str) -> None:
    """To nobody in particular, if anything."""
    if what:
        with contextlib.suppress(OSError):
            os.write(2, f"egress: netd: {' '.join(what.split())}\n".encode(errors="backslashreplace"))


def _answer(raw: bytes, brought: list[int], held: "Held") -> tuple[Answer, list[int]]:
    """Whatever was sent. Any exception is an answer too: one bad request must not take the next one's cell away."""
    try:
        request = decode_request(raw)
    except Exception as error:  # msgspec's own, ValueError, RecursionError: arrays can be nested as deep as a message is long
        return Failed(f"not a request: {error}"), []
    try:
        if isinstance(request, OpenCell):
            return held.open(request)
        if not brought:
            return Failed("no descriptor came with it"), []
        if isinstance(request, SwapPlans):
            return held.swap(request, brought[0])
        return held.close(brought[0]), []
    except Exception as error:
        return Failed(f"it could not be done: {error}"), []
