"""Connecting to numeric addresses. No name ever comes here, so none can be resolved behind the decision's back."""

import errno
import os
import socket
from typing import Any, Final

from gateway.flow import IPAddress
from gateway.net.clock import now
from gateway.net.events import END, OUT, RDHUP
from gateway.net.sockets import Sock, sent
from gateway.net.strand import current, deadline
from gateway.net.waits import EVENT, ready

_new_socket: Final = Sock
INET: Final[Any] = int(socket.AF_INET)
INET6: Final[Any] = int(socket.AF_INET6)
TCP: Final[Any] = int(socket.IPPROTO_TCP)
QUICKACK: Final[Any] = socket.TCP_QUICKACK
STREAM: Final[Any] = int(socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
"""Any: compiled, an int is made an object for each call that takes one."""
CONNECTED: Final = OUT | END
"""Or failed."""
IN_PROGRESS: Final = errno.EINPROGRESS
EACH_S: Final = 3.0
"""How long one address is waited for while there is another to try: two SYNs and their answers."""


async def connect(
    addresses: tuple[IPAddress, ...], port: int, first: bytes = b""
) -> tuple[Sock, IPAddress, int]:
    """The first of ``addresses`` that answers, tried in order: its connected socket, and how many bytes of ``first`` were sent. The last OSError
    if none does.

    ``first`` is what the caller will send at once. The handshake's last ACK waits for it: one segment less (tcp(7), TCP_QUICKACK). And who lives on
    this machine has answered by the time that ``connect_ex`` returns: it is told without a wait, in which others would have their turn.

    The caller sets the deadline over all of them; a cancelled wait closes what was under way.
    """
    strand = current()
    failure: OSError | None = None
    left = len(addresses)
    for ip in addresses:
        left -= 1
        text = ip.compressed
        sock = _new_socket(INET6 if ":" in text else INET, STREAM)
        try:
            if first:
                sock.setsockopt(TCP, QUICKACK, 0)
            status = sock.connect_ex((text, port))
            if status == IN_PROGRESS:
                told_already = sent(sock, first) if first else 0
                if told_already:
                    return sock, ip, told_already
                if left:
                    with deadline(now() + EACH_S):
                        told = await ready(sock, OUT)
                else:
                    ear = strand.wait_for(sock)  # as ``ready``, without a coroutine of its own
                    while not (told := ear.seen & CONNECTED):
                        await EVENT
                    ear.seen &= ~CONNECTED | RDHUP
                status = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if told & END else 0
            if not status:
                return sock, ip, 0
            failure = OSError(status, os.strerror(status))
        except OSError as error:  # a TimeoutError too
            failure = error
        except BaseException:
            sock.close()
            raise
        strand.forget(sock)
        sock.close()
    raise failure or OSError(errno.EADDRNOTAVAIL, "no address to connect to")
