"""Connecting to numeric addresses. No name ever comes here, so none can be resolved behind the decision's back."""

import errno
import os
import socket
from collections.abc import Sequence
from typing import Final

from gateway.flow import IPAddress
from gateway.net.poller import END, OUT, current, deadline, now, ready
from gateway.net.sockets import Sock

INET: Final = {4: int(socket.AF_INET), 6: int(socket.AF_INET6)}
STREAM: Final = int(socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
EACH_S: Final = 3.0
"""How long one address is waited for while there is another to try: two SYNs and their answers."""


async def connect(
    addresses: Sequence[IPAddress], port: int, *, speaks_first: bool = False
) -> tuple[Sock, IPAddress]:
    """The first of ``addresses`` that answers, tried in order, and its connected socket. The last OSError if none does.

    ``speaks_first``: the caller has bytes to send at once, and the handshake's last ACK waits for them: one segment less (tcp(7), TCP_QUICKACK).

    The caller sets the deadline over all of them; a cancelled wait closes what was under way.
    """
    failure: OSError = OSError(errno.EADDRNOTAVAIL, "no address to connect to")
    left = len(addresses)
    for ip in addresses:
        left -= 1
        sock = Sock(INET[ip.version], STREAM)
        if speaks_first:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
        try:
            if left:
                with deadline(now() + EACH_S):
                    await _finish_connect(sock, (str(ip), port))
            else:
                await _finish_connect(sock, (str(ip), port))
        except OSError as error:  # a TimeoutError too
            current().forget(sock)
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock, ip
    raise failure


async def _finish_connect(sock: Sock, address: tuple[str, int]) -> None:
    status = sock.connect_ex(address)
    if status == errno.EINPROGRESS:
        if not await ready(sock, OUT) & END:
            return
        status = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if status:
        raise OSError(status, os.strerror(status))
