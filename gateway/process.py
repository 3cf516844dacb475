"""The worker as a process: forked with everything it needs already open and imported, then without what it was forked with: root, and every
descriptor that is not its own."""

import gc
import logging
import os
import signal
import socket
from typing import Final, NoReturn

import uvloop

from gateway.bundle import Bundle
from gateway.confine import confine
from gateway.net.local import LocalAddresses
from gateway.net.resolve import import_no_more_types
from gateway.worker import Worker

COLLECT_AFTER: Final = (50_000, 20, 20)
"""Objects. What a connection leaves is no cycle, so collections find next to nothing: they are for what asyncio and dnspython leave."""

log = logging.getLogger("egress.worker")


def fork_worker(bundle: Bundle) -> tuple[int, socket.socket]:
    """Start a worker for ``bundle``: its process id, and the control socket on which it says READY and hears STOP."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        _run_in_child(bundle, theirs)
    theirs.close()
    return pid, ours


def _run_in_child(bundle: Bundle, control: socket.socket) -> NoReturn:
    status = 1
    try:
        gc.freeze()  # garbage of the process that forked it would close numbers that are another's by then
        gc.set_threshold(*COLLECT_AFTER)
        signal.set_wakeup_fd(-1)
        os.setpgid(0, 0)  # what a terminal or a shell sends to the group belongs to the command
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_DFL)
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
