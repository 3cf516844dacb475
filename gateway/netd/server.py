"""The privileged process itself: reads typed requests from its one socket, answers each, and ends when the socket does."""

import faulthandler
import os
import socket
from typing import Final

from gateway.errors import EgressError, PrivilegeError, SetupError
from gateway.netd.cells import clear, open_cell
from gateway.netd.host import Lifeline, lower_uplinks
from gateway.netd.requests import (
    MAX_MESSAGE_BYTES,
    MAX_REQUEST_BYTES,
    Answer,
    CellOpened,
    Failed,
    OpenCell,
    decode_answer,
    decode_request,
    encode,
)
from gateway.userns import obstacle
from rules.backend import Backend
from rules.plan import Plan

ANSWER_TIMEOUT_S = 30.0
SYSTEM_PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"
"""What root runs is looked for here: the caller's PATH may name a directory that a sandbox once could write."""


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

    def open_cell(
        self, plan: Plan, plan6: Plan | None = None, firewall: Backend | None = None
    ) -> dict[str, int]:
        """Descriptors by name (``CellOpened.descriptors``), owned by the caller. PrivilegeError or SetupError, with the reason."""
        try:
            _send(self._socket, encode(OpenCell(plan, plan6, firewall)))
            message, descriptors, _, _ = socket.recv_fds(self._socket, MAX_MESSAGE_BYTES, 8)
        except OSError as error:
            raise SetupError(f"netd does not answer: {error}") from error
        answer = decode_answer(message) if message else Failed("netd died")
        if isinstance(answer, CellOpened):
            return dict(zip(answer.descriptors, descriptors, strict=True))
        raise _error(answer)

    def close(self) -> None:
        """End the process; what it made lives on in the descriptors that it gave."""
        self._socket.close()
        os.waitpid(self.pid, 0)


def _send(channel: socket.socket, raw: bytes) -> None:
    if len(raw) <= MAX_MESSAGE_BYTES:
        channel.send(raw)
        return
    with os.fdopen(os.memfd_create("request", os.MFD_CLOEXEC), "wb") as file:
        file.write(raw)
        file.flush()
        socket.send_fds(channel, [b"enclosed"], [file.fileno()])


def _receive(channel: socket.socket) -> bytes:
    """One request, as it came; empty when there will be no more."""
    raw, enclosed, _, _ = socket.recv_fds(channel, MAX_MESSAGE_BYTES, 1)
    for descriptor in enclosed:
        try:
            raw = os.pread(descriptor, MAX_REQUEST_BYTES, 0) or b"nothing"
        except OSError as error:
            raw = f"no file: {error}".encode()
        finally:
            os.close(descriptor)
    return raw


def _let_go(keep: int) -> None:
    """Every descriptor of the asker's but the standard three and ``keep`` becomes the null device.

    Not closed: what the asker left behind still knows its numbers and closes them, garbage when it is collected, libuv in each child of a
    fork. By then they would be others' numbers.
    """
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in (keep, null):
            os.dup2(null, int(name), inheritable=False)


def _error(failed: Failed) -> EgressError:
    if failed.privilege:
        mend = "it needs CAP_SYS_ADMIN and CAP_NET_ADMIN, which this root does not have"
        if os.geteuid() != 0:
            mend = obstacle() or "run egress as root, or see egress doctor"
        return PrivilegeError(f"{failed.message}; {mend}")
    return SetupError(failed.message)


def serve(channel: socket.socket) -> None:
    """Answer requests until the other side closes; never returns. Nonsense is answered with ``Failed`` and changes nothing."""
    status = 0
    try:
        os.setpgid(0, 0)  # what a terminal or a shell sends to the group belongs to the command
        _let_go(channel.fileno())
        # Imported once, before any cell is asked for: a cell's process then forks with them loaded.
        faulthandler.enable()  # the libraries below are C, and have crashed before
        os.environ["PATH"] = SYSTEM_PATH  # finding libxtables may run ldconfig or a compiler
        import gateway.netd.links  # noqa: F401
        import rules.iptables  # noqa: F401

        cells: list[int] = []
        uplinks = Uplinks()
        while raw := _receive(channel):
            answer, descriptors = _answer(raw, uplinks)
            if isinstance(answer, CellOpened):
                cells.append(os.dup(descriptors[answer.descriptors.index("netns")]))
            socket.send_fds(channel, [encode(answer)], descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
        clear(cells)
        uplinks.lower()
    except BaseException:
        status = 1
        raise
    finally:
        os._exit(status)


class Uplinks:
    """Those that this process has raised in the host."""

    def __init__(self) -> None:
        self._lifeline: Lifeline | None = None

    def owner(self) -> str:
        """Whose they are, as their aliases say it."""
        if self._lifeline is None:
            self._lifeline = Lifeline()
        return self._lifeline.name

    def lower(self) -> None:
        """Take them all away."""
        if self._lifeline is not None:
            lower_uplinks(self._lifeline.name)
            self._lifeline.close()
            self._lifeline = None


def _answer(raw: bytes, uplinks: Uplinks) -> tuple[Answer, list[int]]:
    """Whatever was sent. Any exception is an answer too: one bad request must not take the next one's cell away."""
    try:
        request = decode_request(raw)
    except Exception as error:  # msgspec's own, ValueError, RecursionError: arrays can be nested as deep as a message is long
        return Failed(f"not a request: {error}"), []
    try:
        forwards = any(plan is not None and plan.uplink for plan in (request.plan, request.plan6))
        owner = uplinks.owner() if forwards else ""
        return open_cell(request.plan, request.plan6, request.firewall, owner)
    except Exception as error:
        return Failed(f"the cell could not be built: {error}"), []
