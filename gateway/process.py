"""The worker as a process: forked with everything it needs already open and imported, then without what it was forked with: root, and every
descriptor that is not its own."""

import contextlib
import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Sequence
from typing import Final, NoReturn

import uvloop

from gateway.bundle import READY, STOP, Bundle
from gateway.confine import confine
from gateway.net.local import LocalAddresses
from gateway.net.resolve import import_no_more_types
from gateway.signals import leave_to_the_asker
from gateway.worker import Worker

COLLECT_AFTER: Final = (50_000, 20, 20)
"""Objects. What a connection leaves is no cycle, so collections find next to nothing: they are for what asyncio and dnspython leave."""

READY_TIMEOUT_S: Final = 15.0
TELL_TIMEOUT_S: Final = 5.0

log = logging.getLogger("egress.worker")


class WorkerProcess:
    """A worker for ``bundle``, seen from the process that forked it. OSError where there can be no other process, or no descriptors for one."""

    def __init__(self, bundle: Bundle) -> None:
        self.started = time.monotonic()
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        """Says READY, and OBEYED; hears STOP, and orders."""
        with theirs:
            try:
                self.pid = os.fork()
            except OSError:
                self.control.close()
                raise
            if self.pid == 0:
                _run_in_child(bundle, theirs)
        try:
            self.pidfd = os.pidfd_open(self.pid)
        except OSError:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.control.close()
            raise

    def is_ready(self) -> bool:
        """Wait until it says so; False where it does not in time, or ends."""
        self.control.settimeout(READY_TIMEOUT_S)
        try:
            return self.control.recv(16) == READY
        except OSError:
            return False

    def tell(self, words: Sequence[bytes], brought: Sequence[socket.socket] = ()) -> None:
        """The last of ``words`` brings the sockets. One that is gone hears nothing, which its pidfd says next."""
        self.control.settimeout(TELL_TIMEOUT_S)
        with contextlib.suppress(OSError):
            for word in words[:-1]:
                self.control.send(word)
            socket.send_fds(self.control, [words[-1]], [sock.fileno() for sock in brought])

    def stop(self) -> None:
        """Ask it to drain, and to end."""
        with contextlib.suppress(OSError):  # as above
            self.control.send(STOP)

    def kill(self) -> None:
        """End it now; it is there until it is reaped."""
        signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def reap(self) -> None:
        """Wait for its end, and let go of it."""
        os.waitpid(self.pid, 0)
        os.close(self.pidfd)
        self.control.close()


def _run_in_child(bundle: Bundle, control: socket.socket) -> NoReturn:
    status = 1
    try:
        gc.freeze()  # garbage of the process that forked it would close numbers that are another's by then
        gc.set_threshold(*COLLECT_AFTER)
        leave_to_the_asker()
        os.setpgid(0, 0)  # what a terminal or a shell sends to the group belongs to the command
        _close_all_but(bundle, control)
        local = LocalAddresses()
        import_no_more_types()
        # Before there is a loop: libuv would make itself an io_uring, through which system calls pass that no filter sees.
        confine()
        uvloop.run(_serve(bundle, control, local))
        status = 0
    except BaseException:
        log.exception("the worker ended by an error")
    finally:
        os._exit(status)


async def _serve(bundle: Bundle, control: socket.socket, local: LocalAddresses) -> None:
    await Worker(bundle, control, local).serve()


def _close_all_but(bundle: Bundle, control: socket.socket) -> None:
    """Standard input and output are the command's; a worker has nothing to say but on standard error."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    keep = {0, 1, 2, control.fileno()} | bundle.descriptors
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        if descriptor not in keep:
            try:
                os.close(descriptor)
            except OSError:
                continue  # the listing's own descriptor, closed already
