"""When the host's tables are to be looked at: at once where the kernel tells of a change, as often as ever where it would not."""

import contextlib
import select
import socket
import time
from typing import Final

from gateway.netd.generation import NETLINK_NETFILTER

NFNLGRP_NFTABLES: Final = 7  # linux/netfilter/nfnetlink.h
SOL_NETLINK: Final = 270  # linux/socket.h
NETLINK_ADD_MEMBERSHIP: Final = 1  # linux/netlink.h
PAUSE_MS: Final = 1000
"""After a look, before the next: many gateways on a host that changes all the while look no more often than that."""
SLOW_PAUSE_MS: Final = 30_000
"""Where all changes are told of: somebody may begin to use legacy tables, whose are not."""
RECEIVE_BYTES: Final = 4096
"""That there was a change is all that is wanted of one. What finds no room makes the socket fail with ENOBUFS, which says it too; and a change costs
whoever makes it next to nothing more for each socket that is full."""
MOST_READS: Final = 64
"""At a time: what is still there then counts as another change. More than ``RECEIVE_BYTES`` hold."""


class Changes:
    """Of nf_tables in the network namespace in which this is made: from then on, none is missed."""

    def __init__(self, channel: socket.socket) -> None:
        """``channel`` is waited for too, and goes first."""
        self._told = _subscribed()
        self._requests, self._all = select.poll(), select.poll()
        self._requests.register(channel, select.POLLIN)
        self._all.register(channel, select.POLLIN)
        if self._told is not None:
            self._all.register(self._told, select.POLLIN)
        self.looked(settled=False)

    def looked(self, *, settled: bool) -> None:
        """Just now. ``settled``: only a change that is told of can make another look find anything."""
        self._settled = settled and self._told is not None
        self._looked = time.monotonic()

    def due(self) -> bool:
        """Wait until a look is (True), or ``channel`` has something (False)."""
        if self._settled:
            self._all.poll(self._left_ms(SLOW_PAUSE_MS))
        if self._requests.poll(self._left_ms(PAUSE_MS)):
            return False
        self._drain()  # before the look: a change after this is another
        return True

    def close(self) -> None:
        """Hear of no more. Safe twice."""
        if self._told is not None:
            self._told.close()

    def _left_ms(self, pause_ms: int) -> float:
        return max(0.0, (self._looked - time.monotonic()) * 1000 + pause_ms)

    def _drain(self) -> None:
        if self._told is None:
            return
        for _ in range(MOST_READS):
            try:
                self._told.recv(1, socket.MSG_DONTWAIT)  # the rest of the message goes with it
            except BlockingIOError:
                return
            except OSError:  # ENOBUFS is told once, and before what was received
                continue


def _subscribed() -> socket.socket | None:
    """None where this kernel, or this process's rights, do not allow it."""
    with contextlib.suppress(OSError), contextlib.ExitStack() as undo:
        told = undo.enter_context(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER))
        told.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        told.bind((0, 0))  # one without a port is told of nothing: that of the kernel is 0 too
        told.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NFNLGRP_NFTABLES)
        undo.pop_all()
        return told
    return None
